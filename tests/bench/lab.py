# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The benchmark in a guest of the lab, whose clock counts instructions."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tests.vm.lab import Lab, Script

from .c_programs import EXECUTABLES, OBJECTS, Programs
from .errors import BenchError

_TESTS = Path(__file__).parents[1]
_SECONDS = 3600.0


def run(guest: str, wheel: Optional[Path], arguments: Sequence[str]) -> int:
    """Boots a guest ("7.3@trixie") and prints what the benchmark prints there.

    All is built here: the guest has no compiler.
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
    print(result.output, end="")
    for failure in result.failures:
        print(failure, file=sys.stderr)
    return 1 if result.failures else 0
