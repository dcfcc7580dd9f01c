# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Bytes fed to the decoder of the statistics stream."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import StreamError, _wire

U16, U32, U64 = ((1 << bits) - 1 for bits in (16, 32, 64))
ITEMS = (1, 55, 73)


def encode_row(row: _wire.RawRow) -> bytes:
    return _wire.ROW.pack(*row[:4]) + struct.pack(f"={len(row.values)}Q", *row.values)


def encode_trailer(rows: int, end_ns: int = 77) -> bytes:
    return _wire.TRAILER.pack(_wire.END_MAGIC, rows, end_ns)


def encode(items: Sequence[int], rows: Sequence[_wire.RawRow], order: int = 1) -> bytes:
    body = b"".join(map(encode_row, rows))
    return _wire.encode_header(items, order) + body + encode_trailer(len(rows))


def some_rows(count: int, items: int = len(ITEMS)) -> list[_wire.RawRow]:
    return [_wire.RawRow(100 + at, 100, at, 0, tuple(range(at, at + items))) for at in range(count)]


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def test_a_stream_cut_short_anywhere_is_an_error() -> None:
    cases: list[int] = [0, 1, 3]
    for count in cases:
        whole = encode(ITEMS, some_rows(count))
        assert len(_wire.decode(whole).rows) == count
        for length in range(len(whole)):
            with pytest.raises(StreamError):
                _wire.decode(whole[:length])


def test_bytes_after_a_stream_are_an_error() -> None:
    cases: list[int] = [0, 1, 3]
    for count in cases:
        whole = encode(ITEMS, some_rows(count))
        for length in range(1, 2 * _wire.row_size(len(ITEMS))):
            with pytest.raises(StreamError):
                _wire.decode(whole + bytes(length))


def test_bytes_lost_in_the_middle_are_an_error() -> None:
    whole = encode(ITEMS, some_rows(3))
    for length in range(1, 2 * _wire.row_size(len(ITEMS)) + 1):
        with pytest.raises(StreamError):
            _wire.decode(whole[:40] + whole[40 + length :])


def test_a_trailer_with_a_wrong_count_is_an_error() -> None:
    cases: list[int] = [0, 1, 3, 4, U32]
    for told in cases:
        data = _wire.encode_header(ITEMS, 1) + b"".join(map(encode_row, some_rows(2)))
        with pytest.raises(StreamError):
            _wire.decode(data + encode_trailer(told))


def test_a_trailer_inside_the_header_is_not_taken_for_one() -> None:
    # The header's own items spell a trailer of zero rows.
    items = (*struct.unpack("=2H", struct.pack("=I", _wire.END_MAGIC)), 0, 0, 9, 9, 9, 9)
    header = _wire.encode_header(items, 1)
    assert len(_wire.decode(header + encode_trailer(0)).rows) == 0
    with pytest.raises(StreamError):
        _wire.decode(header)


def test_a_damaged_field_is_an_error() -> None:
    cases: list[tuple[int, str, int]] = [
        (0, "=I", 0x7F454C46),  # "magic"
        (0, ">I", _wire.MAGIC),  # "other byte order"
        (0, "=I", _wire.END_MAGIC),  # "trailer's magic"
        (4, "=H", 0),  # "version 0"
        (4, "=H", 2),  # "version 2"
        (6, "=H", 0),  # "header size 0"
        (6, "=H", 32),  # "header size"
        (8, "=I", 0),  # "row size 0"
        (8, "=I", 40),  # "row size"
        (8, "=I", U32),  # "row size too large"
        (12, "=H", 2),  # "fewer items"
        (12, "=H", U16),  # "more items than bytes"
        (-16, "=I", 0),  # "trailer's magic lost"
        (-16, "=I", _wire.MAGIC),  # "header's magic in the trailer"
    ]
    for at, form, value in cases:
        whole = encode(ITEMS, some_rows(1))
        with pytest.raises(StreamError):
            _wire.decode(patched(whole, at % len(whole), form, value))


def test_the_version_is_named() -> None:
    data = patched(encode(ITEMS, []), 4, "=H", 9)
    with pytest.raises(StreamError, match=r"version 9.*version 1"):
        _wire.decode(data)


def test_the_error_for_other_bytes_says_that_they_are_no_stream() -> None:
    cases: list[bytes] = [b"", b"\0", b"anon 4096\nfile 0\nslab 1\n", bytes(400)]
    for data in cases:
        with pytest.raises(StreamError, match="not a statistics stream"):
            _wire.decode(data)


def test_a_lone_trailer_is_an_error() -> None:
    cases: list[int] = [0, 2]
    for rows in cases:
        with pytest.raises(StreamError):
            _wire.decode(encode_trailer(rows))


def test_a_stream_may_have_no_rows() -> None:
    stream = _wire.decode(encode(ITEMS, [], order=4))
    assert (stream.rows, stream.header.item_numbers, stream.header.order) == ([], ITEMS, 4)


def test_every_field_comes_back() -> None:
    row = _wire.RawRow(U64, U64 - 1, 7, _wire.ROW_ROOT, (0, _wire.ABSENT, 5))
    stream = _wire.decode(encode(ITEMS, [row]))
    assert stream.rows == [row]
    assert stream.end_ns == 77
    assert stream.header == _wire.Header(24, 48, 1, ITEMS)


# --- streams of which the end may be missing ------------------------------------------


def test_a_stream_with_or_without_its_trailer_is_split() -> None:
    cases: list[int] = [0, 1, 4]
    for count in cases:
        rows = b"".join(map(encode_row, some_rows(count)))
        whole = encode(ITEMS, some_rows(count))
        header, found, end_ns = _wire.split(whole)
        assert (header, bytes(found), end_ns) == (_wire.decode_header(whole), rows, 77)
        header, found, end_ns = _wire.split(whole[: -_wire.TRAILER.size])
        assert (header, bytes(found), end_ns) == (_wire.decode_header(whole), rows, None)


def test_no_row_is_taken_for_a_trailer() -> None:
    # Its last two values spell one.
    trailer = struct.unpack("=2Q", encode_trailer(1))
    row = _wire.RawRow(1, 0, 0, 0, (5, *trailer))
    assert _wire.split(_wire.encode_header(ITEMS, 1) + encode_row(row)).end_ns is None
    assert _wire.decode(encode(ITEMS, [row])).rows == [row]


def test_a_stream_that_ends_within_a_row_cannot_be_split() -> None:
    whole = encode(ITEMS, some_rows(3))
    row = _wire.row_size(len(ITEMS))
    for length in range(24, len(whole)):
        if (length - 24) % row:
            with pytest.raises(StreamError):
                _wire.split(whole[:length])


@given(
    items=st.lists(st.integers(0, U16), max_size=20),
    ids=st.lists(st.tuples(st.integers(0, U64), st.integers(0, U64)), max_size=5),
    numbers=st.lists(st.integers(0, U64), min_size=20, max_size=20),
    order=st.integers(0, 5),
)
def test_round_trip(
    items: list[int], ids: list[tuple[int, int]], numbers: list[int], order: int
) -> None:
    values = tuple(numbers[: len(items)])
    rows = [_wire.RawRow(own, parent, at, at, values) for at, (own, parent) in enumerate(ids)]
    stream = _wire.decode(encode(items, rows, order))
    assert stream.rows == rows
    assert stream.header.item_numbers == tuple(items)
    assert stream.header.order == order


@given(st.binary(max_size=120))
def test_any_bytes_are_a_stream_or_a_stream_error(data: bytes) -> None:
    try:
        stream = _wire.decode(data)
    except StreamError:
        return
    assert data[-16:-12] == struct.pack("=I", _wire.END_MAGIC)
    assert len(stream.rows) == struct.unpack_from("=I", data, len(data) - 12)[0]


def test_headers_and_rows_are_multiples_of_8_bytes() -> None:
    cases: list[int] = [0, 1, 2, 3, 4, 5, 73, _wire.MAX_ITEMS]
    for items in cases:
        assert _wire.header_size(items) % 8 == 0
        assert _wire.header_size(items) - (_wire.HEADER.size + 2 * items) in range(8)
        assert _wire.row_size(items) % 8 == 0
        assert len(_wire.encode_header(range(items), 1)) == _wire.header_size(items)


# --- rows that are elsewhere ----------------------------------------------------------


@given(
    ids=st.lists(st.integers(0, U64), min_size=1, max_size=4),
    values=st.lists(st.integers(0, U64), max_size=6),
    read=st.integers(0, 6),
)
def test_a_row_is_decoded_where_it_lies(ids: list[int], values: list[int], read: int) -> None:
    rows = [_wire.RawRow(own, own ^ U64, at, at, tuple(values)) for at, own in enumerate(ids)]
    memory = b"".join(map(encode_row, rows))
    count = min(read, len(values))
    for at, row in enumerate(rows):
        found = _wire.decode_row(memory, at * _wire.row_size(len(values)), count)
        assert found == row._replace(values=row.values[:count])


def test_a_row_beyond_the_memory_is_an_error() -> None:
    memory = b"".join(map(encode_row, some_rows(2)))
    for at, items in ((2 * 48, 0), (48, 4), (48 + 1, 3), (80, 0)):
        with pytest.raises(struct.error):
            _wire.decode_row(memory, at, items)


def test_a_trailer_is_found_at_the_end_whatever_precedes_it() -> None:
    cases: list[bytes] = [b"", bytes(24), _wire.encode_header(ITEMS, 2)]
    for before in cases:
        assert _wire.decode_trailer(before + encode_trailer(70_000, 9)) == (70_000, 9)


def test_a_missing_trailer_is_named_in_the_error() -> None:
    cases: list[bytes] = [
        b"",
        encode_trailer(1)[:-1],
        encode_trailer(1)[1:],
        encode_trailer(1) + b"\0",
        _wire.encode_header(ITEMS, 2),
        bytes(64),
    ]
    for data in cases:
        with pytest.raises(StreamError, match=f"stream of {len(data)} bytes has no trailer"):
            _wire.decode_trailer(data)


@pytest.mark.parametrize(("order", "form"), [("little", "<"), ("big", ">")])
def test_the_level_is_the_first_half_of_its_word(
    order: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "byteorder", order)
    for level, flags in ((0, 0), (7, 0), (0, U32), (U32, 1), (0x01020304, 0x05060708)):
        (word,) = struct.unpack(f"{form}Q", struct.pack(f"{form}II", level, flags))
        assert _wire.level(word) == level


def test_a_row_s_third_word_has_its_level() -> None:
    words = memoryview(encode_row(_wire.RawRow(5, 4, 3, _wire.ROW_ROOT, (9,)))).cast("Q")
    assert (words[0], words[1], _wire.level(words[2]), words[3]) == (5, 4, 3, 9)
