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


def run(guests: Sequence[str], wheel: Optional[Path], arguments: Sequence[str]) -> int:
    """Boots guests ("7.3@trixie"), one after the other; prints what the benchmark prints there.

    All is built here: a guest has no compiler.
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
        job = Script(
            _TESTS / "bench" / "in_guest.py", ("--built", "/extra/built", *arguments), icount=True
        )
        failed = 0
        for prepared in lab.prepare(guests):
            result = lab.boot(prepared, job)
            print(f"{prepared.spec}, whose clock counts instructions: a µs is a thousand of them\n")
            print(result.output, flush=True)
            for failure in result.failures:
                print(failure, file=sys.stderr)
            failed += len(result.failures)
    return 1 if failed else 0
