# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Swap space for a guest, in a file on its disk."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from .cgroups import MIB
from .surroundings import IN_LAB

_SIZE = 64 * MIB
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def swap_space() -> Iterator[None]:
    """Swap space, in use until the end."""
    assert IN_LAB, "never on a machine that is not ours"
    path = Path("/mnt/disk/swap")
    pages = _SIZE // mmap.PAGESIZE
    # As mkswap writes it: version, last page, bad pages, at 1024; the magic at the page's end.
    head = struct.pack("=III", 1, pages - 1, 0).rjust(1024 + 12, b"\0")
    head = head.ljust(mmap.PAGESIZE - 10, b"\0") + b"SWAPSPACE2"
    path.write_bytes(head + bytes(_SIZE - len(head)))
    path.chmod(0o600)
    try:
        _call(_libc.swapon, os.fsencode(path), 0)
        try:
            yield
        finally:
            _call(_libc.swapoff, os.fsencode(path))
    finally:
        path.unlink()


def _call(function: object, *arguments: object) -> None:
    assert callable(function)
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
