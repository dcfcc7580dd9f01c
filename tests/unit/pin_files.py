# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Files that stand for pins: what an iterator would write, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymemcgbpf import _wire

from ..published_tree import ANON, PGSCAN, PublishedTree
from .tree_rows import pack

ROW = _wire.RawRow(9, 1, 1, 0, (4096, 3))
# Of a tree: a root with two children, of which the second has a child.
TREE = [
    _wire.RawRow(10, 1, 1, 0, (100, 0)),
    _wire.RawRow(11, 10, 2, 0, (101, 1)),
    _wire.RawRow(12, 10, 2, 0, (102, 2)),
    _wire.RawRow(13, 12, 3, 0, (103, 3)),
]

TREE_NAMES = [b"", b"one.service", b"two.slice", b"three.service"]


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


def pinned_tree(directory: Path, tree: PublishedTree) -> Path:
    """A directory that stands for a pinned tree: its stream, and a file that stands for its map."""
    directory.mkdir(exist_ok=True)
    pinned_file(directory / "stream", tree.stream())
    pinned_file(directory / "map", b"")
    return directory


def published() -> PublishedTree:
    """A tree with one walk, that of TREE."""
    tree = PublishedTree()
    tree.publish(pack(*TREE), TREE_NAMES)
    return tree
