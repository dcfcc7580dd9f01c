# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The instructions that compute the items: run on memory of our own, compared with the rules."""

from __future__ import annotations

import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import UNLIMITED
from pymemcgbpf._bpf import item_code as _item_code
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.terms import Block, EncodedTerm
from pymemcgbpf._wire import ABSENT

from .bpf_machine import CAST, MASK, Memory, run

MEMCG, CGROUP, WORDS, VALUES = 1 << 20, 2 << 20, 3 << 20, 4 << 20
ONE_BLOCK = [Block(_terms.START_MEMCG, 0, 0, 0, 64, 32, 0, 0)]
LAST = _terms.TERM_LAST


def word(
    index: int, kind: int = _terms.KIND_WORD, flags: int = LAST, unit: int = 1, block: int = 0
) -> EncodedTerm:
    return EncodedTerm(kind, flags, block, index, unit % (1 << 64))


def computed(
    blocks: list[Block],
    terms: list[EncodedTerm],
    kernel: Memory,
    on_root: bool = False,
    before: int = 0,
    *,
    loads: bool = True,
) -> list[int]:
    """The values that the code computes. All of them are *before* at its start.

    They are the same whether the words are copied or loaded, unless *loads* is False: then they are
    only copied.
    """
    own = Memory()
    number = sum(term.flags & LAST for term in terms)
    words = sum(block.size // 8 for block in blocks)
    own.add(WORDS, b"\xa5" * (8 * words))
    found = []
    for cast, keeps_words in ((None, False), (CAST, True), (CAST, False))[: 2 + loads]:
        own.add(VALUES, struct.pack("=Q", before) * number)
        code = _item_code.item_code(blocks, terms, cast, keeps_words=keeps_words)
        arguments = [MEMCG, CGROUP, WORDS, VALUES, MASK if on_root else 0]
        assert run(code, arguments, kernel, own) == 0
        found.append(list(struct.unpack(f"={number}Q", own.read(VALUES, 8 * number))))
    assert all(each == found[0] for each in found), "a cast makes no difference"
    return found[0]


def of_words(words: list[int], terms: list[EncodedTerm], on_root: bool = False) -> list[int]:
    """The values if the only block has these words."""
    kernel = Memory()
    kernel.add(MEMCG + 64, struct.pack(f"={len(words)}Q", *(word & MASK for word in words)))
    size = 8 * len(words)
    return computed([Block(_terms.START_MEMCG, 0, 0, 0, 64, size, 0, 0)], terms, kernel, on_root)


def test_a_block_that_is_given_is_not_copied() -> None:
    blocks = [Block(_terms.START_MEMCG, 1, 8, 0, 0, 16, 0, 0), *ONE_BLOCK]
    blocks[1] = blocks[1]._replace(word=2)
    kernel, own = Memory(), Memory()  # no pointer leads to the first block
    kernel.add(MEMCG + 64, struct.pack("=4Q", 5, 6, 7, 8))
    own.add(WORDS, struct.pack("=6Q", 1, MASK, 0, 0, 0, 0))
    own.add(VALUES, bytes(24))
    terms = [word(0), word(1, _terms.KIND_SIGNED), word(3, block=1)]
    for cast in (None, CAST):
        code = _item_code.item_code(blocks, terms, cast, given=0)
        assert run(code, [MEMCG, CGROUP, WORDS, VALUES, 0], kernel, own) == 0
        assert struct.unpack("=3Q", own.read(VALUES, 24)) == (1, 0, 6)


def test_words_become_values_in_the_order_of_the_terms() -> None:
    assert of_words([1, 2, 3, 4], [word(3), word(0), word(2)]) == [4, 1, 3]


@pytest.mark.parametrize("unit", [1, 2, 3, 1000, 1024, 4096, 1 << 21, 1 << 31, (1 << 40) + 1])
def test_a_unit_multiplies(unit: int) -> None:
    assert of_words([7], [word(0, unit=unit)]) == [7 * unit]
    assert of_words([9, 7], [word(0, flags=0), word(1, unit=-unit)]) == [(9 - 7 * unit) & MASK]


def test_a_negative_counter_is_0() -> None:
    terms = [word(index, _terms.KIND_SIGNED, unit=4096) for index in range(3)]
    assert of_words([-1, 5, -(1 << 63)], terms) == [0, 5 * 4096, 0]


def test_a_limit_is_in_bytes_or_unlimited() -> None:
    most = UNLIMITED // mmap.PAGESIZE
    terms = [word(index, _terms.KIND_LIMIT) for index in range(4)]
    expected = [0, (most - 1) * mmap.PAGESIZE, UNLIMITED, UNLIMITED]
    assert of_words([0, most - 1, most, UNLIMITED], terms) == expected


def test_nanoseconds_become_microseconds() -> None:
    terms = [word(index, _terms.KIND_NANOSECONDS) for index in range(2)]
    assert of_words([999, 1_234_567], terms) == [0, 1234]


def test_a_difference_is_at_least_0() -> None:
    terms = [word(0, flags=0), word(1, flags=LAST | _terms.TERM_AT_LEAST_0, unit=-1)]
    assert of_words([7, 5], terms) == [2]
    assert of_words([5, 7], terms) == [0]


@pytest.mark.parametrize("flagged", [0, 1])
def test_an_item_can_be_absent_on_the_root(flagged: int) -> None:
    flags = [0, LAST]
    flags[flagged] |= _terms.TERM_NOT_ON_ROOT
    terms = [word(0), *(word(index, flags=each) for index, each in enumerate(flags))]
    assert of_words([7, 5], terms) == [7, 12]
    assert of_words([7, 5], terms, on_root=True) == [7, ABSENT]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("start", [_terms.START_MEMCG, _terms.START_CGROUP])
def test_pointers_are_followed(start: int, steps: int) -> None:
    base = MEMCG if start == _terms.START_MEMCG else CGROUP
    kernel = Memory()
    places = [base + 16, 0x5000 + 24, 0x6000 + 16]
    for place, target in zip(places[:steps], (0x5000, 0x6000)):
        kernel.add(place, struct.pack("=Q", target))
    at = [base, 0x5000, 0x6000][steps] + 40
    kernel.add(at, struct.pack("=2Q", 11, 22))
    block = Block(start, steps, 16, 24, 40, 16, 0, 0)
    assert computed([block], [word(1), word(0)], kernel) == [22, 11]


@pytest.mark.parametrize("lost", ["pointer", "next pointer", "words"])
def test_items_of_a_block_that_cannot_be_read_are_absent(lost: str) -> None:
    kernel = Memory()
    kernel.add(MEMCG + 16, struct.pack("=Q", 0 if lost == "pointer" else 0x5000))
    kernel.add(0x5000 + 24, struct.pack("=Q", 0 if lost == "next pointer" else 0x6000))
    if lost != "words":
        kernel.add(0x6000, struct.pack("=Q", 7))
    kernel.add(CGROUP, struct.pack("=Q", 5))
    blocks = [
        Block(_terms.START_MEMCG, 2, 16, 24, 0, 8, 0, 0),
        Block(_terms.START_CGROUP, 0, 0, 0, 0, 8, 1, 0),
    ]
    terms = [
        word(0),
        word(1, block=1),
        word(0, _terms.KIND_SIGNED, unit=4096),
        word(0, flags=0),
        word(1, block=1),
        word(1, block=1, flags=0),
        word(0, flags=LAST | _terms.TERM_AT_LEAST_0, unit=-1),
    ]
    found = computed(blocks, terms, kernel, loads=lost != "words")
    assert found == [ABSENT, 5, ABSENT, ABSENT, ABSENT]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("in_use", [None, 0, 1, 2, 255])
def test_items_of_a_structure_that_is_not_in_use_are_absent(in_use: int | None, steps: int) -> None:
    kernel = Memory()
    base = MEMCG
    if steps:
        kernel.add(MEMCG + 16, struct.pack("=Q", 0x5000))
        base = 0x5000
    kernel.add(base + 32, struct.pack("=Q", 7))
    if in_use is not None:
        kernel.add(base + 47, bytes([in_use]))
    block = Block(_terms.START_MEMCG, steps, 16, 0, 32, 8, 0, 1 + 47)
    assert computed([block], [word(0)], kernel) == [7 if in_use else ABSENT]


def test_the_least_limit_stays_in_its_place() -> None:
    kernel = Memory()
    kernel.add(MEMCG + 64, struct.pack("=4Q", 1, 2, 3, 4))
    limit = EncodedTerm(_terms.KIND_LEAST_LIMIT, LAST, 0, 160, 1)
    terms = [word(0), limit, word(3)]
    assert computed(ONE_BLOCK, terms, kernel, before=99) == [1, 99, 4]
    assert _item_code.constants(terms) == {
        "asks_on_root": bytes(1),
        "limit_value": _terms.u32(2),
        "limit_counter": _terms.u32(160),
    }
    nowhere = limit._replace(flags=LAST | _terms.TERM_NOT_ON_ROOT)
    assert computed(ONE_BLOCK, [nowhere], kernel, True, before=99) == [ABSENT]


def test_the_place_of_the_least_limit_counts_items_and_not_terms() -> None:
    limit = EncodedTerm(_terms.KIND_LEAST_LIMIT, LAST, 0, 8, 1)
    terms = [word(0, flags=0), word(1), limit]
    assert _item_code.constants(terms)["limit_value"] == _terms.u32(2)
    assert _item_code.constants(terms[:2]).keys() == {"asks_on_root"}


@pytest.mark.parametrize("flags", [0, _terms.TERM_NOT_ON_ROOT])
def test_the_program_is_asked_for_a_root_that_lacks_items(flags: int) -> None:
    terms = [word(0), word(1, flags=LAST | flags), word(2)]
    assert _item_code.constants(terms) == {"asks_on_root": bytes([bool(flags)])}


def test_a_term_that_is_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 2 is no word"):
        _item_code.item_code(ONE_BLOCK, [word(0, kind=2)])


def test_the_most_blocks_fit_onto_the_stack() -> None:
    kernel = Memory()
    blocks, terms = [], []
    for index in range(_terms.MAX_BLOCKS):
        if index % 2:
            kernel.add(MEMCG + 16 * index, struct.pack("=Q", index))
        blocks.append(Block(_terms.START_MEMCG, 0, 0, 0, 16 * index, 8, index, 0))
        terms.append(word(index, block=index))
    expected = [index if index % 2 else ABSENT for index in range(_terms.MAX_BLOCKS)]
    assert computed(blocks, terms, kernel, loads=False) == expected


@pytest.mark.parametrize("number", [1, 32, 33])
def test_few_words_are_loaded_and_many_are_copied(number: int) -> None:
    # What lies between the words that are needed is not there, and so it cannot be copied.
    kernel = Memory()
    for index in range(number):
        kernel.add(MEMCG + 16 * index, struct.pack("=Q", index))
    block = Block(_terms.START_MEMCG, 0, 0, 0, 0, 16 * number, 0, 0)
    terms = [word(2 * index) for index in range(number)]
    own = Memory()
    own.add(WORDS, bytes(16 * number))
    own.add(VALUES, bytes(8 * number))
    code = _item_code.item_code([block], terms, CAST)
    assert run(code, [MEMCG, CGROUP, WORDS, VALUES, 0], kernel, own) == 0
    found = list(struct.unpack(f"={number}Q", own.read(VALUES, 8 * number)))
    assert found == (list(range(number)) if number <= 32 else [ABSENT] * number)


KINDS = (_terms.KIND_WORD, _terms.KIND_SIGNED, _terms.KIND_LIMIT, _terms.KIND_NANOSECONDS)
UNITS = (1, -1, 4096, -4096, 1024, 1000)


def by_the_rules(words: list[int], terms: list[EncodedTerm], on_root: bool) -> list[int]:
    """What term_value() and fill_values() of bpf_src/items.bpf.h compute, of words that exist."""
    values = []
    total, absent = 0, False
    for term in terms:
        value = words[term.counter] & MASK
        if term.kind == _terms.KIND_SIGNED:
            value = 0 if value >> 63 else value
        elif term.kind == _terms.KIND_LIMIT:
            limited = value < UNLIMITED // mmap.PAGESIZE
            value = value * mmap.PAGESIZE if limited else UNLIMITED
        elif term.kind == _terms.KIND_NANOSECONDS:
            value //= 1000
        absent |= on_root and bool(term.flags & _terms.TERM_NOT_ON_ROOT)
        total = total + value * term.unit & MASK
        if term.flags & LAST:
            if term.flags & _terms.TERM_AT_LEAST_0 and total >> 63:
                total = 0
            values.append(ABSENT if absent else total)
            total, absent = 0, False
    return values


@given(
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=4, max_size=4),
    st.lists(
        st.builds(
            word,
            st.integers(0, 3),
            st.sampled_from(KINDS),
            st.integers(0, 7),
            st.sampled_from(UNITS),
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_any_terms_follow_the_rules(
    words: list[int], terms: list[EncodedTerm], on_root: bool
) -> None:
    terms = [*terms, word(0)]
    assert of_words(words, terms, on_root) == by_the_rules(words, terms, on_root)
