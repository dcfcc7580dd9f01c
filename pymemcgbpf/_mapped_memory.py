# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Maps files into this process without a duplicate of their descriptor. Uses ctypes."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from ctypes import Structure, c_char, c_int, c_long, c_size_t, c_void_p
from typing import Any, Union

_MAP_FIXED = 0x10  # linux/mman.h; the same on all machines that Python knows


def mapped(
    fd: int, size: int, start: int = 0, *, writable: bool = False, shared: bool = True
) -> mmap.mmap:
    """Maps a part of a file for reading, or for reading and writing.

    mmap.mmap(fd) would keep a duplicate of the descriptor, under the lowest free number, and in the
    end close whatever has that number then. So Python maps anonymous memory, which the file's
    memory then replaces.

    Args:
        fd: the file's descriptor.
        size: the number of bytes.
        start: the offset of the first byte, a multiple of the page's size.
        writable: whether the memory may be written.
        shared: whether what is written reaches the file.

    Raises:
        OSError: the kernel refuses to map it.
    """
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    # Shared memory would need an inode, for want of which the kernel says ENOSPC.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=access)
    address = address_of(memory)
    flags = _MAP_FIXED | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    if _mmap()(address, size, access, flags, fd, start) != address:
        failed = ctypes.get_errno()
        memory.close()
        raise OSError(failed, os.strerror(failed))
    return memory


@functools.cache
def _mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = c_void_p
    function.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
    return function


class _Buffer(Structure):
    """Py_buffer, of which only the address is used."""

    _fields_ = [("address", c_void_p), ("owner", c_void_p), ("rest", c_char * 128)]


def address_of(memory: Union[bytes, bytearray, memoryview, mmap.mmap]) -> int:
    """The address of memory, as long as it lives and is neither closed nor resized."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(memory), ctypes.byref(buffer), 0)
    address: int = buffer.address
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address
