# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Files that stand for pins: what an iterator would write, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymemcgbpf import _wire
from pymemcgbpf._pins import parts as _parts

from .tree_rows import pack

ANON, PGSCAN = 1, 51
ROW = _wire.RawRow(9, 1, 1, 0, (4096, 3))
# Of a tree: a root with two children, of which the second has a child.
TREE = [
    _wire.RawRow(10, 1, 1, 0, (100, 0)),
    _wire.RawRow(11, 10, 2, 0, (101, 1)),
    _wire.RawRow(12, 10, 2, 0, (102, 2)),
    _wire.RawRow(13, 12, 3, 0, (103, 3)),
]


def stream(
    rows: Sequence[_wire.RawRow], order: int = 1, items: Sequence[int] = (ANON, PGSCAN)
) -> bytes:
    """A stream as an iterator would write it."""
    trailer = _wire.TRAILER.pack(_wire.END_MAGIC, len(rows), 7)
    return _wire.encode_header(items, order) + pack(*rows) + trailer


def pinned_file(path: Path, data: bytes) -> Path:
    """A file that stands for a pin."""
    path.write_bytes(data)
    return path


def pinned_parts(directory: Path, *parts: Sequence[_wire.RawRow]) -> Path:
    """A directory that stands for a pinned tree."""
    directory.mkdir(exist_ok=True)
    for at, rows in enumerate(parts):
        pinned_file(directory / _parts.Part(at, len(parts)).name, stream(rows, 2))
    return directory
