# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A bpffs made for the tests, and a process that may only read from it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pymemcgbpf

from .surroundings import symbols

# Linux 6.16 to 6.19 have neither function.
CAN_FLUSH = bool(symbols("bpf_mem_cgroup_flush_stats", "cgroup_rstat_flush"))

NOBODY = 65534
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
# Those of cgroups, of processes (for the children), of IPC, of names and of the network.
_OTHER_NAMESPACES = 0x02000000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(what: str, where: str, kind: Optional[bytes], flags: int) -> None:
    _check(_libc().mount(what.encode(), where.encode(), kind, flags, None))


@contextlib.contextmanager
def bpffs() -> Iterator[Path]:
    """A new bpffs that every user may enter; it is unmounted with all its pins."""
    folder = Path(tempfile.mkdtemp(prefix="pymemcgbpf-bpffs-"))
    folder.chmod(0o755)
    try:
        _mount("bpf", str(folder), b"bpf", 0)
        try:
            folder.chmod(0o755)
            yield folder
        finally:
            _check(_libc().umount2(str(folder).encode(), 0))
    finally:
        folder.rmdir()


def hiding(directory: Path) -> Callable[[], None]:
    """A preexec_fn for a process that does not see what is in a directory."""

    def hide() -> None:
        _check(_libc().unshare(_CLONE_NEWNS))
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("none", str(directory), b"tmpfs", 0)

    return hide


class Nobody:
    """Runs Python as a process without privilege: another user in a user namespace of its own,
    without capabilities, with the bpffs bind-mounted read-only, and without ctypes unless it may
    call the kernel by itself.

    It can use only the interpreter and a copy of the package.
    """

    def __init__(self, pins: Path, *, calls: bool = False) -> None:
        self._pins, self._begin = pins, (_BEGIN if calls else _NO_CTYPES + _BEGIN)
        self._folder = tempfile.mkdtemp(prefix="pymemcgbpf-nobody-")
        self._prefix = Path(self._folder, "prefix")  # the interpreter's may be root's alone
        self._prefix.mkdir()
        package = Path(pymemcgbpf.__file__).resolve().parent
        shutil.copytree(package, Path(self._folder, "pymemcgbpf"))
        for path in (Path(self._folder), *Path(self._folder).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(Path(self._folder, "pymemcgbpf", "_bpf", "objects"))

    def start(
        self, code: str, *arguments: object, hide: Optional[Path] = None
    ) -> subprocess.Popen[str]:
        """Runs code that prints JSON; sys.argv[1:] are the arguments.

        Args:
            hide: a directory that the process must not see.
        """

        def become_nobody() -> None:
            _check(_libc().unshare(_CLONE_NEWNS))
            _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
            _mount(sys.base_prefix, str(self._prefix), None, _MS_BIND)
            _mount(str(self._pins), str(self._pins), None, _MS_BIND)
            _mount("none", str(self._pins), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
            if hide is not None:
                _mount("none", str(hide), b"tmpfs", 0)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            _check(_libc().unshare(_CLONE_NEWUSER))

        executable = os.path.relpath(os.path.realpath(sys.executable), sys.base_prefix)
        return subprocess.Popen(
            [str(self._prefix / executable), "-I", "-S", "-c", self._begin + code, self._folder]
            + [str(each) for each in arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"LD_LIBRARY_PATH": str(self._prefix / "lib")},
            preexec_fn=become_nobody,
        )

    def run(self, code: str, *arguments: object, hide: Optional[Path] = None) -> Any:
        """Runs the code; returns what it printed, as JSON."""
        return self.end(self.start(code, *arguments, hide=hide))

    @staticmethod
    def end(process: subprocess.Popen[str]) -> Any:
        """Waits for a started process; returns what it printed, as JSON."""
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return json.loads(out)

    def close(self) -> None:
        """Removes the copy."""
        shutil.rmtree(self._folder)


_NO_CTYPES = """
import sys
sys.modules["ctypes"] = sys.modules["_ctypes"] = None
"""
_BEGIN = """
import json, os, sys
sys.path.insert(0, sys.argv.pop(1))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
assert os.getuid() == 65534 != 0
import pymemcgbpf as memcg
"""

# Prints the error of reading a pin: its type, and what it says.
READ_ERROR = """
try:
    memcg.PinnedReader(sys.argv[1]).read()
except memcg.MemcgError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
