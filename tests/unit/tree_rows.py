# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Packed rows of a tree, snapshots of them, and a fake source that walks as the test asks."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

from pymemcgbpf import Snapshot, _wire
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.paths import Paths
from pymemcgbpf._options import Request
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.tree_text import Rows

NAMES = ("anon", "pgscan")


def pack(*rows: _wire.RawRow) -> bytes:
    """The rows as the kernel writes them."""
    return b"".join(
        _wire.ROW.pack(*row[:4]) + struct.pack(f"={len(row.values)}Q", *row.values) for row in rows
    )


def unpack(rows: Rows, items: int) -> list[_wire.RawRow]:
    """What a walk found, with so many items a row."""
    size = _wire.row_size(items)
    return [_wire.decode_row(rows.memory, at * size, items) for at in range(rows.number)]


def paths_of(directory: Path) -> Paths:
    """The paths below a directory."""
    status = directory.stat()
    return Paths(str(directory), (status.st_dev, status.st_ino))


def snapshot_of(
    rows: Union[bytes, bytearray, Sequence[_wire.RawRow]],
    paths: Paths,
    names: tuple[str, ...] = NAMES,
    *,
    order: str = "pre",
    began_ns: int = 0,
    ended_ns: int = 0,
) -> Snapshot:
    """A snapshot of these rows; of bytes, it is a view."""
    data = rows if isinstance(rows, (bytes, bytearray)) else pack(*rows)
    return Snapshot(memoryview(data), names, order, began_ns, ended_ns, paths)


class FakeTree:
    """A fake source of rows: counts its calls, and fails or waits as the test asks.

    Attributes:
        memory: what a walk returns, with the number of rows; the next walk returns it again.
        hold: an event that a walk waits for after it has set *entered*.
        error: the exception that a walk raises.
        root: the open directory of the walk's root.
    """

    root: Cgroup

    def __init__(self, memory: Any, number: int) -> None:
        self.memory, self.number = memory, number
        self.walks = self.closes = 0
        self.is_lost = False
        self.at_once = self.most_at_once = 0
        self.error: Optional[BaseException] = None
        self.hold: Optional[threading.Event] = None
        self.entered = threading.Event()
        self.during: Any = None

    def walk(self) -> Rows:
        assert self.closes == 0, "walked after close"
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.walks += 1
            self.entered.set()
            if self.hold is not None:
                assert self.hold.wait(30)
            if self.during is not None:
                self.during()
            if self.error is not None:
                raise self.error
            return Rows(self.memory, self.number)
        finally:
            self.at_once -= 1

    def probe_missing(self) -> set[str]:
        return set()

    def close(self) -> None:
        self.closes += 1


class Trees:
    """Stands in for pymemcgbpf._sources.choose.choose().

    Attributes:
        source: the source that every reader gets.
        asked: the path, the request and the factory of each reader.
        error: raised instead of returning the source.
    """

    def __init__(self, source: FakeTree) -> None:
        self.source = source
        self.asked: list[tuple[str, Request, Any]] = []
        self.error: Optional[BaseException] = None

    def choose(self, cgroup: Cgroup, request: Request, factory: Any) -> Selection[Any]:
        if self.error is not None:
            raise self.error
        self.asked.append((cgroup.path, request, factory))
        source: Any = self.source
        return Selection(source, request.names or NAMES, "fake", "thin air", "because")
