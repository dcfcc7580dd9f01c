# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Opens a pinned map and maps it, through ctypes and without libbpf."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import sys
from ctypes import Structure, c_int, c_long, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Optional

from .. import _mapped_memory
from .._descriptors import Owned, duplicate, opened

_BPF_OBJ_GET = 7  # enum bpf_cmd

# The number of bpf(2) by machine, for programs of 64 bits and of 32 bits.
_BPF_64 = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "s390x": 351,
    "ppc64le": 361,
    "ppc64": 361,
}
_BPF_32 = {"x86_64": 357, "i386": 357, "i586": 357, "i686": 357}  # and all of ARM


class _ObjGetAttr(Structure):
    """The part of union bpf_attr that BPF_OBJ_GET uses."""

    _fields_ = [("pathname", c_uint64), ("bpf_fd", c_uint32), ("file_flags", c_uint32)]


def call_number(machine: str, is_64_bit: bool) -> int:
    """The number of bpf(2); 0 if it is not known."""
    if is_64_bit:
        return _BPF_64.get(machine, 0)
    if machine.startswith(("arm", "aarch64")):
        return 386
    return _BPF_32.get(machine, 0)


def open_object(path: str) -> Owned:
    """Opens what is pinned at a path, for reading and writing.

    A map that was opened for reading only cannot be mapped.

    Raises:
        OSError: nothing is pinned there; this user may not open it; or bpf(2) is refused, or
            its number is not known.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = _ObjGetAttr(pathname=ctypes.addressof(name))
    found = opened_by(_BPF_OBJ_GET, attr, path)
    return found if found.fileno() > 2 else duplicate(found.fileno())


def call(command: int, attr: Structure) -> None:
    """Calls bpf(2) for what is no descriptor.

    Raises:
        OSError: the call failed, or its number is not known.
    """
    if _syscall()(*_arguments(command, attr)) == _FAILED:
        raise _failure()


def opened_by(command: int, attr: Structure, path: Optional[str] = None) -> Owned:
    """The owner of the descriptor that bpf(2) returns. The path is for the error.

    Raises:
        OSError: the call failed, or its number is not known.
    """
    arguments = _arguments(command, attr)
    try:
        return opened(_syscall(), *arguments)
    except OverflowError:  # it returned -1
        raise _failure(path) from None


_FAILED = 0xFFFFFFFF  # -1, as an unsigned number


def _arguments(command: int, attr: Structure) -> tuple[Any, ...]:
    machine = os.uname().machine
    number = call_number(machine, sys.maxsize > 1 << 32)
    if not number:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) is not known on {machine}")
    return number, command, ctypes.byref(attr), ctypes.sizeof(attr)


def _failure(path: Optional[str] = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


@functools.cache
def _syscall() -> Any:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.argtypes = [c_long, c_int, c_void_p, c_size_t]
    function.restype = c_uint
    return function


def map_shared(fd: int, start: int, size: int) -> mmap.mmap:
    """Maps a part of a map for reading.

    Args:
        fd: the map's descriptor.
        start: the offset of the first byte, a multiple of the page's size.
        size: the number of bytes.

    Raises:
        OSError: the kernel refuses to map it.
    """
    return _mapped_memory.mapped(fd, size, start)
