# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF maps: created, filled, and mapped into this process."""

from __future__ import annotations

import ctypes
import functools
import mmap
from ctypes import Structure, c_char, c_int, c_long, c_size_t, c_void_p
from typing import Any, Union

from .._descriptors import Owned
from . import libbpf as _libbpf

_MAP_TYPE_ARRAY = 2  # enum bpf_map_type: BPF_MAP_TYPE_ARRAY
_MAP_FIXED = 0x10  # linux/mman.h; the same on x86-64 and arm64


def create_array(
    lib: _libbpf.Libbpf, name: str, value_size: int, entries: int, flags: int
) -> Owned:
    """Creates an array map, and returns the owner of its descriptor."""
    options = _libbpf.MapCreateOpts(sz=ctypes.sizeof(_libbpf.MapCreateOpts), map_flags=flags)
    return lib.descriptor(
        "bpf_map_create",
        _MAP_TYPE_ARRAY,
        name.encode(),
        4,
        value_size,
        entries,
        ctypes.byref(options),
    )


def set_and_freeze(lib: _libbpf.Libbpf, map_fd: int, value: bytes) -> None:
    """Sets the only element of an array and freezes the map, so that the verifier may treat the
    value as constant."""
    lib.bpf_map_update_elem(map_fd, bytes(4), value, 0)
    lib.bpf_map_freeze(map_fd)


def initial_value(lib: _libbpf.Libbpf, bpf_map: Any) -> tuple[int, int]:
    """The address and the size of the data that libbpf fills a global-data map with at load."""
    size = c_size_t()
    address: int = lib.bpf_map__initial_value(bpf_map, ctypes.byref(size))
    return address, size.value


def map_memory(fd: int, size: int, writable: bool = False, *, shared: bool = True) -> mmap.mmap:
    """Maps a map's elements, or another file, for reading, or for reading and writing.

    mmap.mmap(fd) would keep a duplicate of the descriptor, under the lowest free number, and in the
    end close whatever has that number then. So Python maps anonymous memory, which the BPF map's
    memory then replaces.

    Raises:
        MemcgError: the kernel refuses to map it.
    """
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    # Shared memory would need an inode, for want of which the kernel says ENOSPC.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=access)
    address = address_of(memory)
    flags = _MAP_FIXED | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    mapped = _mmap()(address, size, access, flags, fd, 0)
    if mapped != address:
        number = ctypes.get_errno()
        memory.close()
        raise _libbpf.failure(number, "mmap")
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
