# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Encodes and decodes the layout of bpf_src/pinned_tree.h: a pinned tree's map and its stream."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from typing import Optional, Union

from .. import _options, _wire
from .._records import Record
from ..errors import StreamError

# The files in the directory of a pinned tree.
MAP = "map"
STREAM = "stream"
TIMER = "timer"
FILES = (TIMER, MAP, STREAM)  # in the order in which they are removed

MAGIC = 0x5453434D
VERSION = 1
PATH_SIZE = 4096

# enum memcg_tree_state
NEW, ALIVE, REMOVED, TOO_LARGE, ENDED = range(5)

# The flags of a head.
BY_KERNEL = 1 << 0
HAS_NAMES = 1 << 1
FLUSHES = 1 << 2
CAN_RENAME = 1 << 3

ORDERS: tuple[_options.Order, ...] = ("pre", "post", "children")

MOST_ROWS = 1 << 16  # the ids of memory cgroups have 16 bits
MOST_CHUNK = 16_128  # two pieces of a stream then fit into one read() of 32 KiB
TYPICAL_NAME = 64  # the bytes of a name that room is reserved for
NO_DEPTH = (1 << 32) - 1  # the max_depth of a walk of all levels

# struct memcg_tree_head up to its items[]: magic, version, head_size, chunk_size, half_chunks,
# row_size, rows_per_chunk, nr_items, order, max_depth, flags, room, root_id, interval_ns
STATIC = struct.Struct("=IHHIIIIHHIIIQQ")
# What changes with each walk: writing, written, due_ns, walks, walks_ns, state, needed
PROGRESS = struct.Struct("=QQQQQII")
PROGRESS_AT = STATIC.size + 2 * _wire.MAX_ITEMS
# struct memcg_tree_half up to its root_path: number, started_ns, ended_ns, signature, nr_rows,
# text_chunks
HALF = struct.Struct("=QQQQII")
HALF_SIZE = HALF.size + PATH_SIZE
HALVES_AT = PROGRESS_AT + PROGRESS.size
HEAD_SIZE = HALVES_AT + 2 * HALF_SIZE

# struct memcg_tree_text: size, nr_names
TEXT = struct.Struct("=II")
# struct memcg_tree_piece: number, index, size
PIECE = struct.Struct("=QII")
END = (1 << 32) - 1  # the index of a stream's last piece
# struct memcg_tree_walk: program, rows, text, root_path, started_ns, ended_ns, due_ns, signature,
# nr_rows, text_chunks, state, status
WALK = struct.Struct("=QQQQQQQQIIII")

Data = Union[bytes, bytearray, memoryview, mmap.mmap]


class Geometry(Record):
    """How a map is divided.

    Attributes:
        row_size: the bytes of a row.
        rows_per_chunk: the rows in a chunk.
        chunk_size: the bytes of a chunk: so many whole rows.
        half_chunks: the chunks of each half.
    """

    row_size: int
    rows_per_chunk: int
    chunk_size: int
    half_chunks: int

    @property
    def chunks(self) -> int:
        """The chunks of the whole map."""
        return 1 + 2 * self.half_chunks

    @property
    def size(self) -> int:
        """The bytes of the whole map."""
        return self.chunks * self.chunk_size

    def row_chunks(self, rows: int) -> int:
        """How many chunks this number of rows fills."""
        return -(-rows // self.rows_per_chunk)

    def half_at(self, number: int) -> int:
        """The offset of the half that a walk of this number is in."""
        return (1 + (number & 1) * self.half_chunks) * self.chunk_size


def geometry(items: int, room: int, names: bool = True, name_size: int = TYPICAL_NAME) -> Geometry:
    """The map for this number of cgroups with this number of items.

    Args:
        items: the number of items, at most 512.
        room: the number of cgroups, at least 1.
        names: whether there is room for their names, too.
        name_size: the average bytes of a name, its NUL included.
    """
    row_size = _wire.row_size(items)
    rows_per_chunk = MOST_CHUNK // row_size
    chunk_size = rows_per_chunk * row_size
    half_chunks = -(-room // rows_per_chunk)
    if names:
        half_chunks += -(-room * name_size // _least_text(chunk_size))
    return Geometry(row_size, rows_per_chunk, chunk_size, half_chunks)


def _least_text(chunk_size: int) -> int:
    """The bytes of names that surely fit into a chunk: the next name may be the longest one."""
    return chunk_size - TEXT.size - (_wire.NAME_SIZE - 1)


class Head(Record):
    """What never changes in a map.

    Attributes:
        geometry: how the map is divided.
        order: the number of the walk's order.
        max_depth: how many levels below the root have rows; None for all.
        flags: of BY_KERNEL, HAS_NAMES, FLUSHES and CAN_RENAME.
        room: how many cgroups with names of usual length fit.
        root_id: the id of the walk's root.
        interval_ns: the time between the beginnings of two walks; 0 for no interval.
        item_numbers: the numbers of the items, in the order of a row's values.
    """

    geometry: Geometry
    order: int
    max_depth: Optional[int]
    flags: int
    room: int
    root_id: int
    interval_ns: int
    item_numbers: tuple[int, ...]


class Progress(Record):
    """What changes in the head of a map with each walk.

    Attributes:
        writing: the number of the walk that is being written, or the last one.
        written: the number of the last complete walk; 0 for none.
        due_ns: CLOCK_MONOTONIC when the next walk begins, or a little later.
        walks: how many walks there were, also those that did not fit.
        walks_ns: how long all of them took.
        state: NEW, ALIVE, REMOVED, TOO_LARGE or ENDED.
        needed: the rows of the last walk, if it did not fit.
    """

    writing: int
    written: int
    due_ns: int
    walks: int
    walks_ns: int
    state: int
    needed: int


class Half(Record):
    """What the head says of one half. All times are in ns of CLOCK_MONOTONIC.

    Attributes:
        number: of the walk; the first one is number 1.
        started_ns: when the flush and the walk began.
        ended_ns: when they ended.
        signature: the same if the rows are of the same cgroups with the same names.
        nr_rows: the number of rows.
        text_chunks: the number of chunks of names.
    """

    number: int
    started_ns: int
    ended_ns: int
    signature: int
    nr_rows: int
    text_chunks: int


# --- the head


def encode_head(head: Head, root_path: bytes) -> bytes:
    """Encodes the head of a map before the first walk. It has HEAD_SIZE bytes.

    The path of the root is empty without names.
    """
    division, numbers = head.geometry, head.item_numbers
    static = STATIC.pack(
        MAGIC,
        VERSION,
        HEAD_SIZE,
        division.chunk_size,
        division.half_chunks,
        division.row_size,
        division.rows_per_chunk,
        len(numbers),
        head.order,
        NO_DEPTH if head.max_depth is None else head.max_depth,
        head.flags,
        head.room,
        head.root_id,
        head.interval_ns,
    )
    data = bytearray(HEAD_SIZE)
    data[: STATIC.size] = static
    struct.pack_into(f"={len(numbers)}H", data, STATIC.size, *numbers)
    for number in (0, 1):
        at = HALVES_AT + number * HALF_SIZE + HALF.size
        data[at : at + len(root_path)] = root_path
    return bytes(data)


def decode_head(data: Data) -> Head:
    """Decodes the head of a map or of a stream, and checks that it does not contradict itself.

    Raises:
        StreamError: it is not a head of this package, has another version, or contradicts itself.
    """
    if len(data) < HEAD_SIZE:
        raise StreamError(f"not a pinned tree: only {len(data)} bytes")
    (
        magic,
        version,
        head_size,
        chunk_size,
        half_chunks,
        row_size,
        rows_per_chunk,
        items,
        order,
        max_depth,
        flags,
        room,
        root_id,
        interval_ns,
    ) = STATIC.unpack_from(data)
    if magic != MAGIC:
        raise StreamError(f"not a pinned tree: it begins with {magic:#010x}")
    if version != VERSION:
        raise StreamError(
            f"the pinned tree is of version {version}; this pymemcgbpf reads version {VERSION}"
        )
    found = Geometry(row_size, rows_per_chunk, chunk_size, half_chunks)
    if head_size != HEAD_SIZE or not 0 < items <= _wire.MAX_ITEMS or not _is_possible(found, items):
        raise StreamError(
            f"damaged head of a pinned tree: {items} items, but a head of {head_size} bytes, "
            f"rows of {row_size}, and chunks of {chunk_size} bytes and {rows_per_chunk} rows, "
            f"{half_chunks} in each half"
        )
    numbers = struct.unpack_from(f"={items}H", data, STATIC.size)
    name = _options.ORDER_NAMES.get(order)
    if name not in ORDERS or 0 in numbers or len(set(numbers)) != items or not root_id:
        raise StreamError("damaged head of a pinned tree: its items, order or root make no sense")
    depth = None if max_depth == NO_DEPTH else max_depth
    return Head(found, order, depth, flags, room, root_id, interval_ns, numbers)


def _is_possible(found: Geometry, items: int) -> bool:
    """Whether a map can be divided so. It is then at most as large as the largest tree needs."""
    row_size, rows_per_chunk, chunk_size, half_chunks = found
    if row_size != _wire.row_size(items) or chunk_size != rows_per_chunk * row_size:
        return False
    if not HEAD_SIZE <= chunk_size <= MOST_CHUNK:
        return False
    most = found.row_chunks(MOST_ROWS) + -(-MOST_ROWS * _wire.NAME_SIZE // _least_text(chunk_size))
    return 0 < half_chunks <= most


def decode_progress(data: Data) -> Progress:
    """Decodes what changes in the head with each walk."""
    return Progress(*PROGRESS.unpack_from(data, PROGRESS_AT))


def decode_half(data: Data, number: int) -> Half:
    """Decodes what the head says of the half that a walk of this number is in."""
    return Half(*HALF.unpack_from(data, HALVES_AT + (number & 1) * HALF_SIZE))


def check_half(
    division: Geometry,
    wanted: int,
    number: int,
    started_ns: int,
    ended_ns: int,
    nr_rows: int,
    text_chunks: int,
) -> None:
    """Checks that what a half has fits into it, and is of the walk that is wanted.

    The arguments are those of a :class:`Half`, without its signature.

    Raises:
        StreamError: it does not fit, or is of another walk.
    """
    if (
        number != wanted
        or nr_rows > MOST_ROWS
        or -(-nr_rows // division.rows_per_chunk) + text_chunks > division.half_chunks
        or ended_ns < started_ns
    ):
        raise StreamError(
            f"damaged head of a pinned tree: walk {wanted} is said to have number {number}, "
            f"{nr_rows} rows and {text_chunks} chunks of names, from {started_ns} to {ended_ns} ns"
        )


def root_path(data: Data, number: int) -> bytes:
    """The path of the root in the half that a walk of this number is in, filled up to PATH_SIZE
    bytes; only zeros without names."""
    at = HALVES_AT + (number & 1) * HALF_SIZE + HALF.size
    return bytes(data[at : at + PATH_SIZE])


# --- the names


class Text(Record):
    """Names as chunks.

    Attributes:
        data: whole chunks, the first one first. In a map they are in the opposite order.
        chunks: their number.
    """

    data: bytes
    chunks: int


def encode_text(names: Iterable[bytes], chunk_size: int) -> Text:
    """Encodes names, in the order of the rows, each without its NUL."""
    chunks: list[bytes] = []
    waiting: list[bytes] = []
    size, room = 0, chunk_size - TEXT.size
    for name in names:
        if size + len(name) + 1 > room:
            chunks.append(_text_chunk(waiting, chunk_size))
            waiting, size = [], 0
        waiting.append(name)
        size += len(name) + 1
    if waiting:
        chunks.append(_text_chunk(waiting, chunk_size))
    return Text(b"".join(chunks), len(chunks))


def _text_chunk(names: list[bytes], chunk_size: int) -> bytes:
    text = b"\0".join([*names, b""])
    return (TEXT.pack(len(text), len(names)) + text).ljust(chunk_size, b"\0")


def decode_text(chunks: Iterable[Data], nr_rows: int) -> list[bytes]:
    """Decodes the names of so many rows, from their chunks, the first one first.

    Raises:
        StreamError: there are more or fewer names, or a chunk contradicts itself.
    """
    parts, count = [], 0
    for chunk in chunks:
        size, names = TEXT.unpack_from(chunk)
        part = bytes(chunk[TEXT.size : TEXT.size + size])
        if len(part) != size or not part.endswith(b"\0") or part.count(b"\0") != names:
            raise StreamError(
                f"damaged names of a pinned tree: a chunk is said to have {names} names in "
                f"{size} bytes"
            )
        parts.append(part)
        count += names
    if count != nr_rows:
        raise StreamError(f"damaged names of a pinned tree: {count} names of {nr_rows} rows")
    return b"".join(parts).split(b"\0")[:-1]
