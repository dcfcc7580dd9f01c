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
from typing import Any

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
    number = call_number(os.uname().machine, sys.maxsize > 1 << 32)
    if not number:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) is not known on {os.uname().machine}")
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = _ObjGetAttr(pathname=ctypes.addressof(name))
    function = _syscall()
    try:
        found = opened(function, number, _BPF_OBJ_GET, ctypes.byref(attr), ctypes.sizeof(attr))
    except OverflowError:  # it returned -1
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed), path) from None
    return found if found.fileno() > 2 else duplicate(found.fileno())


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
