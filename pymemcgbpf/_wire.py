# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Encodes and decodes the layouts of bpf_src/memcg_stats.h that readers see."""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Optional, Union

from ._records import Record
from .errors import StreamError

MAGIC = 0x4753434D
END_MAGIC = 0x4553434D
VERSION = 1
MAX_ITEMS = 512

ABSENT = (1 << 64) - 1
"""The value of an item that the kernel does not keep, or that the cgroup does not have."""

ABSENT_BYTES = b"\xff" * 8
"""The same, as it is in a row."""

ROW_ROOT = 1 << 0
ROW_TAG_SHIFT = 1

# struct memcg_stats_header without its items[]: magic, version, header_size, row_size,
# nr_items, order
HEADER = struct.Struct("=IHHIHH")
# struct memcg_stats_row: cgroup_id, parent_id, level, flags
ROW = struct.Struct("=QQII")
LEVEL_AND_ROOT: int = struct.unpack("=Q", struct.pack("=II", (1 << 32) - 1, ROW_ROOT))[0]
"""The bits of a row's third word that have the level, and whether it is the root."""
_ID = struct.Struct("=Q")
# struct memcg_stats_trailer: magic, nr_rows, end_ns
TRAILER = struct.Struct("=IIQ")

# struct memcg_stats_call: cgroup_id, program, status, nr_rows
CALL = struct.Struct("=QQII")
# struct memcg_stats_names: named_id, newest_id, signature, nr_names, text_size
NAMES = struct.Struct("=QQQII")
SIGNATURE = slice(16, 24)  # of them
# struct memcg_stats_name: cgroup_id, parent_id
NAME = struct.Struct("=QQ")
NAME_SIZE = 256
# enum memcg_stats_status
NOT_RUN, DONE, GONE, BUSY, BAD_ORDER, OTHER = 0, 1, 2, 3, 4, 5
NOT_OPEN, NOT_VISIBLE, NO_SLOT, TOO_DEEP, UNREADABLE = 6, 7, 8, 9, 10


def encode_id(cgroup_id: int) -> bytes:
    """Encodes a cgroup's id, with which its row begins."""
    return _ID.pack(cgroup_id)


def level(word: int) -> int:
    """The level, from the 64-bit word of a row that has the level and the flags."""
    return word & 0xFFFFFFFF if sys.byteorder == "little" else word >> 32


class Header(Record):
    """The header, with which a stream begins."""

    size: int
    row_size: int
    order: int
    item_numbers: tuple[int, ...]


class RawRow(Record):
    """The row of one cgroup, with its values in the order of the header."""

    cgroup_id: int
    parent_id: int
    level: int
    flags: int
    values: tuple[int, ...]


class Trailer(Record):
    """The trailer, with which a stream ends: the number of rows, and when the walk ended."""

    nr_rows: int
    end_ns: int


class RawStream(Record):
    """A stream whose rows are not yet decoded.

    Attributes:
        header: the header.
        rows: the bytes of the complete rows.
        end_ns: CLOCK_MONOTONIC when the walk ended. None if the trailer is missing: the stream did
            not fit into the kernel's buffer, and rows may be missing, too.
    """

    header: Header
    rows: memoryview
    end_ns: Optional[int]


class Stream(Record):
    """A complete stream, decoded."""

    header: Header
    rows: list[RawRow]
    end_ns: int


def header_size(items: int) -> int:
    """The number of bytes before the first row, which is aligned to 8."""
    return (HEADER.size + 2 * items + 7) & ~7


def row_size(items: int) -> int:
    """The size of a row in bytes."""
    return ROW.size + 8 * items


def encode_header(items: Sequence[int], order: int) -> bytes:
    """Encodes the header for these item numbers."""
    size = header_size(len(items))
    head = HEADER.pack(MAGIC, VERSION, size, row_size(len(items)), len(items), order)
    return (head + struct.pack(f"={len(items)}H", *items)).ljust(size, b"\0")


def decode_header(data: bytes) -> Header:
    """Decodes the header of a stream.

    Raises:
        StreamError: it is not a header of this package, has another version, or contradicts itself.
    """
    if len(data) < HEADER.size:
        raise StreamError(f"not a statistics stream: only {len(data)} bytes")
    magic, version, size, row, items, order = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise StreamError(f"not a statistics stream: it begins with {magic:#010x}")
    if version != VERSION:
        raise StreamError(
            f"the stream is of version {version}; this pymemcgbpf reads version {VERSION}"
        )
    if size != header_size(items) or row != row_size(items) or len(data) < size:
        raise StreamError(
            f"damaged stream: {items} items, but a header of {size} and rows of {row} bytes"
        )
    return Header(size, row, order, struct.unpack_from(f"={items}H", data, HEADER.size))


def decode_row(data: Union[bytes, memoryview, mmap.mmap], at: int, items: int) -> RawRow:
    """Decodes the row at an offset, with its first *items* values."""
    cgroup_id, parent_id, level, flags = ROW.unpack_from(data, at)
    values = struct.unpack_from(f"={items}Q", data, at + ROW.size)
    return RawRow(cgroup_id, parent_id, level, flags, values)


def values_of_rows(data: bytes, items: int) -> Iterator[tuple[int, ...]]:
    """The values of each row, from bytes that have rows only."""
    return struct.iter_unpack(f"={ROW.size}x{items}Q", data)


def unpacked_rows(data: bytes, items: int) -> Iterator[tuple[int, ...]]:
    """The id, the parent's id, the level and the values of each row, from bytes that have rows
    only."""
    return struct.iter_unpack(f"=QQI4x{items}Q", data)


def cgroup_id(data: Union[bytes, mmap.mmap], at: int) -> int:
    """The cgroup's id in the row at an offset."""
    found: int = _ID.unpack_from(data, at)[0]
    return found


def decode_trailer(data: bytes) -> Trailer:
    """Decodes the trailer at the end of a stream, whose rows may be in a map.

    Raises:
        StreamError: there is no trailer.
    """
    at = len(data) - TRAILER.size
    magic, count, end_ns = TRAILER.unpack_from(data, at) if at >= 0 else (0, 0, 0)
    if magic != END_MAGIC:
        raise StreamError(f"the stream of {len(data)} bytes has no trailer")
    return Trailer(count, end_ns)


def split(data: bytes) -> RawStream:
    """Splits a stream, which may lack its trailer, into its parts.

    Raises:
        StreamError: it is not a stream of this package, or it is damaged.
    """
    header = decode_header(data)
    end = len(data) - TRAILER.size
    if end >= header.size:
        magic, count, end_ns = TRAILER.unpack_from(data, end)
        if magic == END_MAGIC and end - header.size == count * header.row_size:
            return RawStream(header, memoryview(data)[header.size : end], end_ns)
    # A trailer is shorter than a row, so the remainder cannot be a trailer with another count.
    if (len(data) - header.size) % header.row_size:
        raise _cut_short(data, header)
    return RawStream(header, memoryview(data)[header.size :], None)


def decode(data: bytes) -> Stream:
    """Decodes a complete stream.

    Raises:
        StreamError: it is not a stream of this package, it is damaged, or it has no trailer.
    """
    header, rows, end_ns = split(data)
    if end_ns is None:
        raise _cut_short(data, header)
    count = len(header.item_numbers)
    found = [decode_row(rows, at, count) for at in range(0, len(rows), header.row_size)]
    return Stream(header, found, end_ns)


def _cut_short(data: bytes, header: Header) -> StreamError:
    return StreamError(
        f"the stream of {len(data)} bytes is cut short or damaged: no trailer for the "
        f"{max(len(data) - header.size, 0) // header.row_size} rows it has"
    )
