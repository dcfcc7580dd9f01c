# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads the stream of a pinned tree: a plain file, which the kernel fills from the tree's map."""

from __future__ import annotations

import os
from typing import Optional

from ..errors import StreamError
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import tree_layout as _layout
from .tree_paths import NamesKey
from .tree_walk import TreeLook, TreeWalk, check_state, until_whole

_FIRST = 1 << 16  # the kernel returns at most 32 KiB or so at a time


class TreeStream:
    """The stream of a pinned tree.

    Args:
        path: the path of the tree's directory.
        check: what checks that a file is on a bpffs.
    """

    transport = "stream"

    def __init__(self, path: str, check: _bpffs.OnBpffs) -> None:
        self._path, self._check = path, check
        self._stream = os.path.join(path, _layout.STREAM)

    def close(self) -> None:
        """Nothing is open between two reads."""

    def look(self) -> TreeLook:
        """What the head says now. The kernel reads no further.

        Raises:
            MemcgError: a subclass: there is no such stream, or it cannot be read.
        """
        return read_head(self._stream, check=self._check)

    def read(self, known: Optional[NamesKey]) -> TreeWalk:
        """The walk that was published last.

        Args:
            known: the names that the reader has.

        Raises:
            MemcgError: a subclass, also as :func:`check_state` and :func:`until_whole`.
        """
        path = self._stream

        def read() -> Optional[TreeWalk]:
            return _bpffs.read_pin(
                path, lambda fd: self._walk(fd, known), check=self._check, follow=False
            )

        return until_whole(self._path, read)

    def _walk(self, fd: int, known: Optional[NamesKey]) -> Optional[TreeWalk]:
        """The walk in a stream; None if another was published meanwhile."""
        pin, path = _identity(fd), self._stream
        first = os.read(fd, _FIRST)
        while 0 < len(first) < _layout.HEAD_SIZE:
            more = os.read(fd, _FIRST)
            if not more:
                break
            first += more
        head, progress = _decoded(path, first), _layout.decode_progress(first)
        check_state(self._path, progress, head)
        number = progress.written
        half = _layout.decode_half(first, number)
        if half.number != number:
            return None
        try:
            _check(half, number, head)
        except StreamError as error:
            # The kernel may have been interrupted while it copied the head.
            if self.look().progress.writing > number + 1:
                return None
            raise _diagnosis.bad_stream(path, error) from error
        try:
            pieces = _pieces(fd, first, head, half)
        except StreamError as error:
            raise _diagnosis.bad_stream(path, error) from error
        if pieces is None:
            return None
        row_chunks = head.geometry.row_chunks(half.nr_rows)
        row_pieces = pieces[:row_chunks]
        if row_pieces:  # the last chunk may have more than its rows
            before = (row_chunks - 1) * head.geometry.chunk_size
            row_pieces[-1] = row_pieces[-1][: half.nr_rows * head.geometry.row_size - before]
        rows = b"".join(row_pieces)
        names, key = None, known
        if head.flags & _layout.HAS_NAMES:
            root_path = _layout.root_path(first, number)
            key = NamesKey(pin, half.signature, half.nr_rows, root_path)
            if key != known:
                try:
                    names = _layout.decode_text(reversed(pieces[row_chunks:]), half.nr_rows)
                except StreamError as error:
                    raise _diagnosis.bad_stream(path, error) from error
        return TreeWalk(pin, head, number, half.started_ns, half.ended_ns, rows, key, names)


def read_head(
    path: str, directory: Optional[int] = None, check: Optional[_bpffs.OnBpffs] = None
) -> TreeLook:
    """What the head in the stream of a tree says now. The kernel reads no further.

    Args:
        path: the path of the stream; with *directory*, its last component is a name in that
            open directory.
        check: what checks that the file is on a bpffs.

    Raises:
        StreamError: the file does not begin with the head of a pinned tree.
        MemcgError: a subclass, as :func:`_bpffs.read_pin` says.
    """

    def read(fd: int) -> TreeLook:
        data = os.read(fd, _layout.HEAD_SIZE)
        return TreeLook(_identity(fd), _decoded(path, data), _layout.decode_progress(data))

    return _bpffs.read_pin(path, read, directory, check, follow=False)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _decoded(path: str, data: bytes) -> _layout.Head:
    try:
        return _layout.decode_head(data)
    except StreamError as error:
        raise _diagnosis.bad_stream(path, error) from error


def _check(half: _layout.Half, number: int, head: _layout.Head) -> None:
    """As :func:`_layout.check_half`."""
    times = half.started_ns, half.ended_ns
    _layout.check_half(head.geometry, number, half.number, *times, half.nr_rows, half.text_chunks)


def _pieces(
    fd: int, first: bytes, head: _layout.Head, half: _layout.Half
) -> Optional[list[memoryview]]:
    """The chunks in a stream: those of rows, then those of names.

    None if the pieces are not those of this walk. No more is read than they take.

    Raises:
        StreamError: the stream is cut short, or a piece has an impossible size.
    """
    expected = _expected(head, half)
    most = _layout.HEAD_SIZE + _layout.PIECE.size
    most += sum(_layout.PIECE.size + size for _, _, size in expected)
    data = bytearray(max(most, len(first)))
    data[: len(first)] = first
    view = memoryview(data)
    end = len(first)
    at = _layout.HEAD_SIZE
    found: list[memoryview] = []
    for index, least, size in (*expected, (_layout.END, 0, 0)):
        end = _filled(fd, view, at + _layout.PIECE.size, end)
        if end < at + _layout.PIECE.size:
            raise StreamError(f"the stream is cut short at byte {end}")
        its_number, its_index, its_size = _layout.PIECE.unpack_from(data, at)
        if (its_number, its_index) != (half.number, index):
            return None
        if not least <= its_size <= size:
            raise StreamError(f"damaged stream: chunk {index} is said to have {its_size} bytes")
        at += _layout.PIECE.size
        end = _filled(fd, view, at + its_size, end)
        if end < at + its_size:
            raise StreamError(f"the stream is cut short at byte {end}")
        found.append(view[at : at + its_size])
        at += its_size
    return found[:-1]


def _filled(fd: int, view: memoryview, needed: int, end: int) -> int:
    """Reads on until so many bytes are there, or the stream ends. Returns how many there are."""
    while end < needed:
        more = os.readv(fd, [view[end:]])
        if not more:
            break
        end += more
    return end


def _expected(head: _layout.Head, half: _layout.Half) -> list[tuple[int, int, int]]:
    """The index, and the least and the largest size, of each chunk of a walk."""
    division = head.geometry
    base = 1 + (half.number & 1) * division.half_chunks
    left = half.nr_rows * division.row_size
    chunks = []
    for index in range(base, base + division.row_chunks(half.nr_rows)):
        chunks.append((index, min(left, division.chunk_size), division.chunk_size))
        left -= division.chunk_size
    after = base + division.half_chunks
    chunks += (
        (at, _layout.TEXT.size, division.chunk_size)
        for at in range(after - half.text_chunks, after)
    )
    return chunks
