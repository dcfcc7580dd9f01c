# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF maps: created, filled, and mapped into this process."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_size_t
from typing import Any

from .._descriptors import Owned
from .._mapped_memory import address_of as address_of  # for those who import this through bindings
from .._mapped_memory import mapped
from . import libbpf as _libbpf


def create_map(
    lib: _libbpf.Libbpf, name: str, value_size: int, entries: int, flags: int, map_type: int
) -> Owned:
    """Creates a map, and returns the owner of its descriptor.

    Args:
        lib: the library.
        name: its name.
        value_size: the size of an entry in bytes; 0 for a ring buffer.
        entries: how many entries it has; the bytes of a ring buffer.
        flags: ``BPF_F_*``.
        map_type: of enum bpf_map_type.
    """
    options = _libbpf.MapCreateOpts(sz=ctypes.sizeof(_libbpf.MapCreateOpts), map_flags=flags)
    return lib.descriptor(
        "bpf_map_create",
        map_type,
        name.encode(),
        4 if value_size else 0,
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


def map_memory(
    fd: int, size: int, writable: bool = False, *, shared: bool = True, start: int = 0
) -> mmap.mmap:
    """Maps a map's elements, or a part of another file, for reading, or for reading and writing.

    Raises:
        MemcgError: the kernel refuses to map it.
    """
    try:
        return mapped(fd, size, start, writable=writable, shared=shared)
    except OSError as error:
        raise _libbpf.failure(error.errno or 0, "mmap") from error
