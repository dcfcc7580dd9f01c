# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Compiles the C programs, starts them and asks them to read. bench.h describes the protocol."""

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


def build_object(name: str, directory: Path) -> Path:
    """Compiles a BPF program of this folder as the package's own are; returns the object."""
    from bpf_src import build_object as package_build  # imports setuptools, which guests lack

    target = directory / f"{name}.bpf.o"
    command = [
        *(package_build.find_clang(), *package_build.FLAGS),
        *(f"-I{_BPF_SRC}", *package_build.include_flags()),
        *("-c", str(_HERE / f"{name}.bpf.c"), "-o", str(target)),
    ]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"{name}.bpf.c was not compiled:\n{done.stderr}")
    return target


def build(name: str, directory: Path) -> Path:
    """Compiles a C program of this folder; returns the executable."""
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


Argument = Union[str, Path]


class Programs:
    """A folder of executables and BPF objects. A missing one is built when it is first used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def executable(self, name: str) -> Path:
        """The C program of this name."""
        path = self.directory / name
        return path if path.exists() else build(name, self.directory)

    def bpf_object(self, name: str) -> Path:
        """The BPF object of this name."""
        path = self.directory / f"{name}.bpf.o"
        return path if path.exists() else build_object(name, self.directory)


EXECUTABLES = (
    *("iterator", "run_dir", "run_one", "memory_stat"),
    *("tree_map", "tree_text", "hash_drain", "copy_walk"),
)
OBJECTS = ("hash_drain", "copy_walk")


class CProgram:
    """A running C program, used as a context manager. It waits between requests."""

    def __init__(self, program: Path, *arguments: Argument) -> None:
        self._name = program.name
        self._process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def batch(self, reads: int) -> int:
        """Nanoseconds that this many reads took, measured by the program itself."""
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
            pass  # The program has ended, so the answer below is empty.
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
