# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Packed rows of a tree, snapshots of them, and a fake source that walks as the test asks."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from pymemcgbpf import Departed, Snapshot, _wire
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.walk_paths import Origin, WalkPaths
from pymemcgbpf._options import Request
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.tree_text import Rows
from pymemcgbpf.snapshot import Times

NAMES = ("anon", "pgscan")
_NO_TIMES = Times(0, 0, 0)
NOWHERE = Path("/nowhere")  # the root of a walk that no test looks for


def pack(*rows: _wire.RawRow) -> bytes:
    """The rows as the kernel writes them."""
    return b"".join(
        _wire.ROW.pack(*row[:4]) + struct.pack(f"={len(row.values)}Q", *row.values) for row in rows
    )


def unpack(rows: Rows, items: int) -> list[_wire.RawRow]:
    """What a walk found, with so many items a row."""
    size = _wire.row_size(items)
    return [_wire.decode_row(rows.memory, at * size, items) for at in range(rows.number)]


def snapshot_of(
    rows: Union[bytes, bytearray, Sequence[_wire.RawRow]],
    root: Path = NOWHERE,
    names: tuple[str, ...] = NAMES,
    *,
    paths: Optional[Sequence[Optional[str]]] = None,
    order: str = "pre",
    times: Times = _NO_TIMES,
    max_depth: Optional[int] = None,
    can_rename: bool = True,
    departed: Optional[Departed] = None,
) -> Snapshot:
    """A snapshot of these rows; of bytes, it is a view.

    A path is by default the root's with the row's number.
    """
    data = rows if isinstance(rows, (bytes, bytearray)) else pack(*rows)
    if paths is None:
        paths = [f"{root}/{at}" for at in range(len(data) // _wire.row_size(len(names)))]
    device = root.stat().st_dev if root.exists() else None
    found = WalkPaths(Origin(), str(root), device, tuple(paths), can_rename)
    return Snapshot(memoryview(data), names, order, times, found, max_depth, departed)


def departed_rows(
    rows: Sequence[_wire.RawRow],
    removed_ns: Sequence[int],
    names: tuple[str, ...] = NAMES,
    *,
    paths: Optional[Sequence[Optional[str]]] = None,
    lost: int = 0,
    began: int = 0,
    root: Path = NOWHERE,
) -> Departed:
    """Removed cgroups. The walk began at 1,000 seconds after 1970, *began* on the other clock."""
    if paths is None:
        paths = [f"{root}/{at}" for at in range(len(rows))]
    times = Times(began, began, 1000 * 1_000_000_000)
    found = WalkPaths(Origin(), str(root), None, tuple(paths), False)
    when = memoryview(struct.pack(f"={len(removed_ns)}Q", *removed_ns)).cast("Q")
    return Departed(memoryview(pack(*rows)), names, times, found, when, lost)


class NamedRow(NamedTuple):
    """A cgroup that a walk meets."""

    cgroup_id: int
    parent_id: int
    flags: int
    name: str


def write_names(memory: mmap.mmap, constants: dict[str, bytes], rows: Sequence[NamedRow]) -> None:
    """Writes into the map of names what the program writes."""
    if "nr_names_fit" not in constants:
        return
    fit = int.from_bytes(constants["nr_names_fit"], sys.byteorder)
    size = int.from_bytes(constants["text_size"], sys.byteorder)
    named_id, *_ = _wire.NAMES.unpack_from(memory)
    newest, number, at = named_id, 0, 0
    text_at = _wire.NAMES.size + fit * _wire.NAME.size
    for row in rows:
        if row.cgroup_id > named_id:
            text = os.fsencode(row.name) + b"\0"
            if number < fit and at <= size - _wire.NAME_SIZE:
                place = _wire.NAMES.size + number * _wire.NAME.size
                _wire.NAME.pack_into(memory, place, row.cgroup_id, row.parent_id)
                memory[text_at + at : text_at + at + len(text)] = text
            number, at = number + 1, at + len(text)
        newest = max(newest, row.cgroup_id)
    signature = hash(tuple((row.cgroup_id, row.flags) for row in rows)) & (1 << 64) - 1
    _wire.NAMES.pack_into(memory, 0, named_id, newest, signature, number, at)


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
        self.paths = WalkPaths(Origin(), "/root", None, (None,) * number, False)

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
            return Rows(self.memory, self.number, self.paths)
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
        self.source.paths = WalkPaths(
            Origin(),
            os.path.abspath(cgroup.path),
            cgroup.identity[0],
            (None,) * self.source.number,
            False,
        )
        return Selection(source, request.names or NAMES, "fake", "thin air", "because")
