# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Asks the kernel for all its BPF maps, through ctypes and without libbpf."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import Structure, c_char, c_uint32, c_uint64
from typing import Any

from .._records import Record
from . import map_calls as _map_calls

# enum bpf_cmd
_MAP_GET_NEXT_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 12, 14, 15


class _IdAttr(Structure):
    """The part of union bpf_attr that concerns ids."""

    _fields_ = [("id", c_uint32), ("next_id", c_uint32), ("open_flags", c_uint32)]


class _InfoAttr(Structure):
    """The part of union bpf_attr that BPF_OBJ_GET_INFO_BY_FD uses."""

    _fields_ = [("bpf_fd", c_uint32), ("info_len", c_uint32), ("info", c_uint64)]


class _MapInfo(Structure):
    """struct bpf_map_info up to its name."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
    ]


class MapName(Record):
    """A map of the kernel: its id, by which tools such as bpftool find it, and its name."""

    id: int
    name: str


def kernel_maps() -> Iterator[MapName]:
    """All maps that the kernel has now.

    Raises:
        OSError: this process may not ask (CAP_SYS_ADMIN is needed), or bpf(2) cannot be called.
    """
    attr = _IdAttr()
    while True:
        try:
            _map_calls.call(_MAP_GET_NEXT_ID, attr)
        except FileNotFoundError:  # there is no map with a higher id
            return
        attr.id = attr.next_id
        try:
            found = _map_calls.opened_by(_MAP_GET_FD_BY_ID, _IdAttr(attr.id))
        except FileNotFoundError:
            continue  # the kernel has just freed it
        yield _map_of(found.fileno())


def map_at(path: str) -> MapName:
    """The map that is pinned at a path. Of another BPF object, the name makes no sense.

    Raises:
        OSError: it cannot be opened, or is no map.
    """
    found = _map_calls.open_object(path)
    return _map_of(found.fileno())


def _map_of(fd: int) -> MapName:
    info = _MapInfo()
    attr = _InfoAttr(fd, ctypes.sizeof(info), ctypes.addressof(info))
    _map_calls.call(_OBJ_GET_INFO_BY_FD, attr)
    name: Any = info.name
    return MapName(info.id, name.decode(errors="replace"))
