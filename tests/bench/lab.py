# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs the benchmark in a guest of the lab, where the clock counts instructions."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tests.vm.lab import Lab, Script

from .c_programs import EXECUTABLES, OBJECTS, Programs
from .errors import BenchError
from .table import Report

_TESTS = Path(__file__).parents[1]
_SECONDS = 3600.0


def run(guest: str, wheel: Optional[Path], arguments: Sequence[str]) -> Report:
    """Boots a guest ("7.3@trixie"), and returns what was measured there.

    The C programs are built on the host, because the guest has no compiler.

    Raises:
        BenchError: the guest or the benchmark failed. The guest's output is printed.
    """
    if wheel is None:
        raise BenchError("--lab needs the --wheel to install in the guest")
    with tempfile.TemporaryDirectory() as name:
        tests, built = Path(name, "tests"), Path(name, "built")
        built.mkdir()
        shutil.copytree(_TESTS, tests, ignore=shutil.ignore_patterns("__pycache__"))
        programs = Programs(built)
        for each in EXECUTABLES:
            programs.executable(each)
        for each in OBJECTS:
            programs.bpf_object(each)
        lab = Lab(wheel=wheel, extra=[tests, built], timeout=_SECONDS, results=Path("build", "lab"))
        (prepared,) = lab.prepare([guest])
        job = Script(
            _TESTS / "bench" / "in_guest.py", ("--built", "/extra/built", *arguments), icount=True
        )
        result = lab.boot(prepared, job)
    lines = result.output.splitlines()
    try:
        report: Report = json.loads(lines[-1])
    except (ValueError, IndexError):
        report = {"label": "", "machine": "", "notes": [], "results": []}
    if result.failures or not report["results"]:
        print(*lines[:-1] if report["results"] else lines, *result.failures, sep="\n")
        raise BenchError(f"{guest} failed")
    return report
