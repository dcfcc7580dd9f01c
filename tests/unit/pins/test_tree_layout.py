# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The layout of a pinned tree: what is encoded is decoded, and what lies is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import StreamError, _wire
from pymemcgbpf._pins import tree_layout as _layout

from ...published_tree import ANON, PGSCAN, head_of


@given(st.integers(1, _wire.MAX_ITEMS), st.integers(1, _layout.MOST_ROWS), st.booleans())
def test_a_map_has_room_for_what_it_was_made_for(items: int, room: int, names: bool) -> None:
    found = _layout.geometry(items, room, names)
    assert found.row_size == _wire.row_size(items)
    assert found.chunk_size == found.rows_per_chunk * found.row_size
    assert _layout.HEAD_SIZE <= found.chunk_size <= _layout.MOST_CHUNK
    assert found.chunk_size + found.row_size > _layout.MOST_CHUNK
    assert found.rows_per_chunk >= 3 and found.chunk_size % 8 == 0
    text = -(-room * _layout.TYPICAL_NAME // found.chunk_size) if names else 0
    assert found.row_chunks(room) + text <= found.half_chunks
    assert found.size == (1 + 2 * found.half_chunks) * found.chunk_size
    assert found.half_at(4) == found.chunk_size
    assert found.half_at(5) == (1 + found.half_chunks) * found.chunk_size
    head = head_of(found, items=range(1, items + 1), room=room)
    assert _layout.decode_head(head).geometry == found


def test_two_pieces_fit_into_one_read() -> None:
    assert 2 * (_layout.PIECE.size + _layout.MOST_CHUNK) < 8 * 4096


@pytest.mark.parametrize("size", [2, 64, 128, 256])
def test_the_names_that_room_is_reserved_for_fit(size: int) -> None:
    found = _layout.geometry(3, 5000, name_size=size)
    names = [b"n" * (size - 1)] * 5000
    text = _layout.encode_text(names, found.chunk_size)
    assert found.row_chunks(5000) + text.chunks <= found.half_chunks


def test_a_head_is_decoded() -> None:
    division = _layout.geometry(2, 100)
    head = head_of(
        division,
        items=(ANON, PGSCAN),
        order=3,
        flags=_layout.BY_KERNEL | _layout.FLUSHES,
        room=100,
        root_id=77,
        interval_ns=5,
        max_depth=2,
    )
    assert len(head) == _layout.HEAD_SIZE
    assert _layout.decode_head(head + b"more") == _layout.Head(
        division, 3, 2, _layout.BY_KERNEL | _layout.FLUSHES, 100, 77, 5, (ANON, PGSCAN)
    )
    assert _layout.decode_head(head_of(division)).max_depth is None
    assert _layout.decode_progress(head) == _layout.Progress(0, 0, 0, 0, 0, _layout.NEW, 0)
    assert _layout.decode_half(head, 1) == _layout.Half(0, 0, 0, 0, 0, 0)
    assert _layout.root_path(head, 1) == bytes(_layout.PATH_SIZE)


GOOD = head_of(_layout.geometry(2, 100))


def changed(at: int, kind: str, value: int) -> bytes:
    """A head with another number at an offset."""
    data = bytearray(GOOD)
    struct.pack_into(f"={kind}", data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "only 0 bytes", id="nothing"),
        pytest.param(GOOD[:-1], "only 9399 bytes", id="cut short"),
        pytest.param(bytes(_layout.HEAD_SIZE), "begins with 0x00000000", id="zeros"),
        pytest.param(b"\x7fELF" * 3000, "not a pinned tree", id="another file"),
        pytest.param(
            changed(4, "H", 2), "version 2; this pymemcgbpf reads version 1", id="version"
        ),
        pytest.param(changed(6, "H", 9408), "damaged head", id="head_size"),
        pytest.param(changed(8, "I", 16128 - 40), "damaged head", id="chunk_size"),
        pytest.param(changed(8, "I", 0), "damaged head", id="no chunk_size"),
        pytest.param(changed(12, "I", 0), "damaged head", id="no half_chunks"),
        pytest.param(changed(12, "I", (1 << 32) - 1), "damaged head", id="half_chunks"),
        pytest.param(changed(12, "I", 5000), "damaged head", id="more than any tree needs"),
        pytest.param(changed(16, "I", 0), "damaged head", id="no row_size"),
        pytest.param(changed(16, "I", 48), "damaged head", id="row_size"),
        pytest.param(changed(20, "I", 0), "damaged head", id="no rows_per_chunk"),
        pytest.param(changed(20, "I", 402), "damaged head", id="rows_per_chunk"),
        pytest.param(changed(24, "H", 0), "damaged head", id="no items"),
        pytest.param(changed(24, "H", 3), "damaged head", id="items"),
        pytest.param(changed(24, "H", 513), "damaged head", id="too many items"),
        pytest.param(changed(26, "H", 0), "make no sense", id="no order"),
        pytest.param(changed(26, "H", 1), "make no sense", id="the order self"),
        pytest.param(changed(26, "H", 9), "make no sense", id="order"),
        pytest.param(changed(40, "Q", 0), "make no sense", id="no root"),
        pytest.param(changed(56, "H", 0), "make no sense", id="no item"),
        pytest.param(changed(56, "H", PGSCAN), "make no sense", id="an item twice"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        _layout.decode_head(data)


@given(st.binary(min_size=_layout.STATIC.size, max_size=_layout.STATIC.size))
def test_no_head_makes_a_map_larger_than_any_tree_needs(noise: bytes) -> None:
    """Whatever a head says, what follows from it is bounded, or it is refused."""
    head = struct.pack("=IHH", _layout.MAGIC, _layout.VERSION, _layout.HEAD_SIZE) + noise[8:]
    try:
        found = _layout.decode_head(head.ljust(_layout.HEAD_SIZE, b"\1"))
    except StreamError:
        return
    assert found.geometry.size < 2 * (_layout.MOST_ROWS + 4096) * (found.geometry.row_size + 512)


FITTING = (7, 7, 5, 9, 100, 1)
DIVISION = _layout.geometry(2, 1000)


@pytest.mark.parametrize(
    "half",
    [
        pytest.param((7, 8, 5, 9, 100, 1), id="another walk"),
        pytest.param((7, 7, 9, 5, 100, 1), id="it ended before it began"),
        pytest.param((7, 7, 5, 9, _layout.MOST_ROWS + 1, 0), id="more rows than cgroups"),
        pytest.param(
            (7, 7, 5, 9, DIVISION.half_chunks * DIVISION.rows_per_chunk + 1, 0), id="rows"
        ),
        pytest.param((7, 7, 5, 9, 1, DIVISION.half_chunks), id="rows and names"),
        pytest.param((7, 7, 5, 9, 0, (1 << 32) - 1), id="names"),
    ],
)
def test_a_half_that_does_not_fit_is_refused(half: tuple[int, ...]) -> None:
    _layout.check_half(DIVISION, *FITTING)
    with pytest.raises(StreamError, match="walk 7 is said to have"):
        _layout.check_half(DIVISION, *half)


# --- names ----------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=255).map(lambda name: name.replace(b"\0", b"/")), max_size=300),
    st.sampled_from([12360, 15808, 16128]),
)
def test_names_are_decoded(names: list[bytes], chunk_size: int) -> None:
    text = _layout.encode_text(names, chunk_size)
    assert len(text.data) == text.chunks * chunk_size
    chunks = [text.data[at : at + chunk_size] for at in range(0, len(text.data), chunk_size)]
    assert _layout.decode_text(chunks, len(names)) == names


def test_no_name_is_in_two_chunks() -> None:
    names = [b"x" * 255] * 200
    text = _layout.encode_text(names, 16128)
    sizes = [_layout.TEXT.unpack_from(text.data, at * 16128) for at in range(text.chunks)]
    assert sizes == [(62 * 256, 62)] * 3 + [(14 * 256, 14)]


@pytest.mark.parametrize(
    ("chunk", "rows"),
    [
        pytest.param(_layout.TEXT.pack(4, 2) + b"a\0b\0", 3, id="too few"),
        pytest.param(_layout.TEXT.pack(4, 2) + b"a\0b\0", 1, id="too many"),
        pytest.param(_layout.TEXT.pack(4, 3) + b"a\0b\0", 3, id="another count"),
        pytest.param(_layout.TEXT.pack(3, 1) + b"a\0b\0", 1, id="no end"),
        pytest.param(_layout.TEXT.pack(5, 2) + b"a\0b\0", 2, id="beyond the chunk"),
        pytest.param(_layout.TEXT.pack((1 << 32) - 1, 2) + b"a\0b\0", 2, id="a huge size"),
        pytest.param(_layout.TEXT.pack(0, 0), 0, id="nothing"),
    ],
)
def test_names_that_contradict_themselves_are_refused(chunk: bytes, rows: int) -> None:
    with pytest.raises(StreamError, match="damaged names"):
        _layout.decode_text([chunk], rows)
