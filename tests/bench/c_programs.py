# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The C programs: compiled, started, and asked to read (bench.h says how)."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Optional, Union

from .errors import BenchError

_HERE = Path(__file__).parent
_BPF_SRC = _HERE.parents[1] / "bpf_src"  # memcg_stats.h


def build(name: str, directory: Path) -> Path:
    """Compiles one of the programs beside this file; returns the executable."""
    program = directory / name
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        *("-O2", "-Wall", "-Wextra", f"-I{_BPF_SRC}"),
        *("-o", str(program), str(_HERE / f"{name}.c"), "-lbpf"),
    ]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not installed: a C compiler is needed") from error
    if done.returncode:
        raise BenchError(f"{name}.c was not compiled (libbpf-dev installed?):\n{done.stderr}")
    return program


class CProgram:
    """A running program, to be closed; it waits when it is not asked."""

    def __init__(self, program: Path, *arguments: Union[str, Path]) -> None:
        self._name = program.name
        self._process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def batch(self, reads: int) -> int:
        """Nanoseconds for this many reads, by the program's own clock."""
        return int(self._ask(reads))

    def values(self) -> list[int]:
        """The values of one read."""
        return [int(value) for value in self._ask(0).split()]

    def _ask(self, number: int) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"the C program {self._name} ended with status {self._process.wait()}")
        return answer

    def __enter__(self) -> CProgram:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._process.kill()
        self._process.communicate()
