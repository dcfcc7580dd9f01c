# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Publishes trees as the kernel would: into memory that stands for a map, and as a stream."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Optional

from pymemcgbpf._pins import tree_layout as _layout

ANON, PGSCAN = 1, 51


def head_of(
    division: _layout.Geometry,
    *,
    items: Sequence[int] = (ANON, PGSCAN),
    order: int = 2,
    flags: int = _layout.HAS_NAMES,
    room: int = 64,
    root_id: int = 10,
    interval_ns: int = 1_000_000_000,
    max_depth: Optional[int] = None,
) -> bytes:
    """The head of a tree before its first walk."""
    numbers = tuple(items)
    head = _layout.Head(division, order, max_depth, flags, room, root_id, interval_ns, numbers)
    return _layout.encode_head(head, b"")


class PublishedTree:
    """A tree in memory of its map's size, which can be written to.

    Args:
        memory: the memory; a new one if it is None.
        room: for how many cgroups there is room.
        items, others: as for :func:`head_of`.
    """

    def __init__(
        self,
        memory: Optional[memoryview] = None,
        *,
        room: int = 64,
        items: Sequence[int] = (ANON, PGSCAN),
        **others: int,
    ) -> None:
        self.division = _layout.geometry(len(items), room)
        if memory is None:
            memory = memoryview(bytearray(-(-self.division.size // 4096) * 4096))
        self.memory = memory
        head = head_of(self.division, items=items, room=room, **others)
        memory[: len(head)] = head
        self.number = 0

    def set(self, name: str, value: int) -> None:
        """Sets a field of :class:`_layout.Progress`. A reader never sees it half written."""
        fields = _layout.decode_progress(self.memory)._replace(**{name: value})
        packed = _layout.PROGRESS.pack(*fields)
        for place, (word,) in enumerate(struct.iter_unpack("=Q", packed)):
            self.word(place, word)

    def word(self, place: int, value: int) -> None:
        """Sets the 64-bit number at a place in the progress, by one store.

        struct.pack_into() would write zeros first, which a reader in another process could see.
        """
        at = _layout.PROGRESS_AT + 8 * place
        self.memory[at : at + 8].cast("Q")[0] = value

    def begin(self) -> int:
        """Begins a walk; returns its number."""
        self.number += 1
        self.word(0, self.number)
        return self.number

    def write(
        self,
        rows: bytes,
        names: Sequence[bytes] = (),
        *,
        signature: int = 1,
        root_path: bytes = b"/sys/fs/cgroup/root",
        started_ns: Optional[int] = None,
        took_ns: int = 1000,
    ) -> None:
        """Writes the walk that was begun into its half."""
        number, division = self.number, self.division
        at = division.half_at(number)
        self.memory[at : at + len(rows)] = rows
        text = _layout.encode_text(names, division.chunk_size)
        end = at + division.half_chunks * division.chunk_size
        for chunk in range(text.chunks):
            end -= division.chunk_size
            start = chunk * division.chunk_size
            self.memory[end : end + division.chunk_size] = text.data[
                start : start + division.chunk_size
            ]
        began = time.monotonic_ns() if started_ns is None else started_ns
        half = (
            number,
            began,
            began + took_ns,
            signature,
            len(rows) // division.row_size,
            text.chunks,
        )
        place = _layout.HALVES_AT + (number & 1) * _layout.HALF_SIZE
        _layout.HALF.pack_into(self.memory, place, *half)
        place += _layout.HALF.size
        self.memory[place : place + _layout.PATH_SIZE] = root_path.ljust(_layout.PATH_SIZE, b"\0")

    def end(self) -> None:
        """Publishes the walk that was written."""
        self.set("state", _layout.ALIVE)
        self.word(1, self.number)

    def publish(self, rows: bytes, names: Sequence[bytes] = (), **options: object) -> None:
        """Begins, writes and publishes a walk."""
        self.begin()
        self.write(rows, names, **options)  # type: ignore[arg-type]
        self.end()

    def stream(self) -> bytes:
        """What the stream of the tree has now."""
        memory, division = self.memory, self.division
        progress = _layout.decode_progress(memory)
        number = progress.written
        half = _layout.decode_half(memory, number)
        parts = [bytes(memory[: _layout.HEAD_SIZE])]
        base = 1 + (number & 1) * division.half_chunks
        last = base + division.half_chunks
        chunks = [
            *range(base, base + division.row_chunks(half.nr_rows)),
            *range(last - half.text_chunks, last),
        ]
        for index in chunks:
            at = index * division.chunk_size
            parts.append(_layout.PIECE.pack(number, index, division.chunk_size))
            parts.append(bytes(memory[at : at + division.chunk_size]))
        parts.append(_layout.PIECE.pack(number, _layout.END, 0))
        return b"".join(parts)
