# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Asks the kernel for all its BPF maps, through ctypes and without libbpf."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from ctypes import Structure, c_char, c_uint32, c_uint64
from typing import Any

from .._descriptors import Owned, opened
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
            _call(_MAP_GET_NEXT_ID, attr)
        except FileNotFoundError:  # there is no map with a higher id
            return
        attr.id = attr.next_id
        try:
            found = _opened(_IdAttr(attr.id))
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
    _call(_OBJ_GET_INFO_BY_FD, attr)
    name: Any = info.name
    return MapName(info.id, name.decode(errors="replace"))


_FAILED = 0xFFFFFFFF  # -1, as an unsigned number


def _call(command: int, attr: Structure) -> None:
    """Calls bpf(2) for what is no descriptor.

    Raises:
        OSError: the call failed.
    """
    if _map_calls._syscall()(*_arguments(command, attr)) == _FAILED:
        raise _failure()


def _opened(attr: _IdAttr) -> Owned:
    """The descriptor of the map with an id."""
    try:
        return opened(_map_calls._syscall(), *_arguments(_MAP_GET_FD_BY_ID, attr))
    except OverflowError:  # it returned -1
        raise _failure() from None


def _arguments(command: int, attr: Structure) -> tuple[Any, ...]:
    machine = os.uname().machine
    number = _map_calls.call_number(machine, sys.maxsize > 1 << 32)
    if not number:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) is not known on {machine}")
    return number, command, ctypes.byref(attr), ctypes.sizeof(attr)


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
