# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Instructions that compute the items of one cgroup, written for the items of one plan.

They become the function compute_items() of bpf_src/item_code.bpf.h. A program that looked up in
tables what to do, as that of a stream does (bpf_src/items.bpf.h), would take twice as long for all
items.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Generator, Iterator, Sequence
from typing import Optional

from .. import _items
from . import instructions as _code
from . import terms as _terms
from .casts import Cast

# The registers. Calls overwrite R0 to R5, which also hold the arguments and the result of each.
_VALUE, _OTHER, _LIMITED, _SUM = 1, 2, 3, 4
_MEMCG, _CGROUP, _WORDS, _VALUES = 6, 7, 8, 9
# Offsets on the stack: a pointer that was followed, a byte that says whether a structure is in use,
# the argument on_root, and a number for each block, which is negative if it could not be copied.
_POINTER, _IN_USE, _ON_ROOT, _FIRST_RESULT = -8, -16, -24, -32


# Up to so many words are loaded one by one. A call that copies all that lie between takes as long.
_MOST_LOADS = 32


def item_code(
    blocks: Sequence[_terms.Block],
    terms: Sequence[_terms.EncodedTerm],
    cast: Optional[Cast] = None,
    *,
    keeps_words: bool = False,
    given: Optional[int] = None,
) -> bytes:
    """The instructions of compute_items().

    Args:
        blocks: what is copied from the kernel's memory.
        terms: the numbers that make up the items, in the order of the values. The least limit of
            the ancestors is in its place already when this code runs.
        cast: how the kernel's memory may be loaded from; None if only a helper may read it.
        keeps_words: whether words are copied that no term needs, too.
        given: the index of a block whose words are in their places already; None if there is none.
    """
    items = list(_items_of(terms))
    copies: list[Iterator[bytes]] = []
    for index, block in enumerate(blocks):
        words = {term.counter for term in terms if _is_word_of(term, index)}
        if index == given:
            copies.append(_take_as_given(index))
        elif cast is None:
            copies.append(_copy(block, index))
        elif keeps_words or len(words) > _MOST_LOADS:
            copies.append(_copy(block, index, cast))
        else:
            copies.append(_load(block, index, sorted(words), cast))
    code = (
        _beginning(),
        *copies,
        _compute(items),
        _make_absent(blocks, items),
        _ending(),
    )
    return b"".join(itertools.chain(*code))


def _is_word_of(term: _terms.EncodedTerm, block: int) -> bool:
    return term.block == block and term.kind >= _terms.KIND_WORD


def _items_of(terms: Sequence[_terms.EncodedTerm]) -> Iterator[list[_terms.EncodedTerm]]:
    """The terms of each item."""
    item: list[_terms.EncodedTerm] = []
    for term in terms:
        item.append(term)
        if term.flags & _terms.TERM_LAST:
            yield item
            item = []


def constants(terms: Sequence[_terms.EncodedTerm]) -> dict[str, bytes]:
    """The constants of item_code.bpf.h: what the code asks of the program beside it."""
    on_root = any(term.flags & _terms.TERM_NOT_ON_ROOT for term in terms)
    return {"asks_on_root": bytes([on_root]), **_limit_constants(terms)}


def _limit_constants(terms: Sequence[_terms.EncodedTerm]) -> dict[str, bytes]:
    """Which value is the least limit, and of which counter."""
    for number, (term, *_) in enumerate(_items_of(terms), 1):
        if term.kind == _terms.KIND_LEAST_LIMIT:
            found = {"limit_value": number, "limit_counter": term.counter}
            return {name: _terms.u32(value) for name, value in found.items()}
    return {}


def _beginning() -> Iterator[bytes]:
    """Saves the arguments, which are in R1 to R5."""
    for argument, register in enumerate((_MEMCG, _CGROUP, _WORDS, _VALUES), 1):
        yield _code.with_register(_code.MOVE, register, argument)
    yield _code.encode(_code.STORE, _code.STACK, 5, _ON_ROOT)


def _ending() -> Iterator[bytes]:
    yield _code.with_number(_code.MOVE, 0, 0)
    yield _code.encode(_code.EXIT)


def _copy(block: _terms.Block, index: int, cast: Optional[Cast] = None) -> Iterator[bytes]:
    """Copies a block to its place among the words, and notes whether it is missing.

    If a pointer is NULL, the next read fails and leaves NULL, and so does the last read.
    """
    base = yield from _follow(block, cast)
    result = _result_of(index)
    if block.enabled_offset:
        yield from _read((_code.STACK, _IN_USE), 1, (base, block.enabled_offset - 1))
        yield _code.encode(_code.LOAD_BYTE, _VALUE, _code.STACK, _IN_USE)
        yield _code.with_number(_code.ADD, _VALUE, -1)
        yield _code.encode(_code.STORE, _code.STACK, _VALUE, result)
    yield from _read((_WORDS, 8 * block.word), block.size, (base, block.offset))
    if block.enabled_offset:
        yield _code.encode(_code.LOAD, _VALUE, _code.STACK, result)
        yield _code.with_register(_code.OR, 0, _VALUE)
    yield _code.encode(_code.STORE, _code.STACK, 0, result)


def _take_as_given(index: int) -> Iterator[bytes]:
    """Notes that a block is not missing."""
    yield _code.with_number(_code.MOVE, _OTHER, 0)
    yield _code.encode(_code.STORE, _code.STACK, _OTHER, _result_of(index))


def _load(block: _terms.Block, index: int, words: Sequence[int], cast: Cast) -> Iterator[bytes]:
    """Loads some words of a block to their places, and notes whether the block is missing."""
    base = yield from _follow(block, cast)
    loads = [*_loads(block, base, words, cast), _code.with_number(_code.MOVE, _OTHER, 0)]
    if block.enabled_offset:
        loads += [
            *_load_from(_code.LOAD_BYTE, (base, block.enabled_offset - 1), cast),
            _code.with_number(_code.MOVE, _OTHER, 0),
            _code.encode(_code.JUMP_IF_NOT, _VALUE, offset=1, number=0),
            _code.with_number(_code.MOVE, _OTHER, -1),
        ]
    if base == _code.STACK:
        # From where nothing is, a load would give 0.
        yield _code.with_number(_code.MOVE, _OTHER, -1)
        yield _code.encode(_code.LOAD, _VALUE, _code.STACK, _POINTER)
        yield _code.encode(_code.JUMP_IF_EQUAL, _VALUE, offset=len(b"".join(loads)) // 8, number=0)
    yield from loads
    yield _code.encode(_code.STORE, _code.STACK, _OTHER, _result_of(index))


def _loads(block: _terms.Block, base: int, words: Sequence[int], cast: Cast) -> Iterator[bytes]:
    for word in words:
        source = base, block.offset + 8 * (word - block.word)
        yield from _load_from(_code.LOAD, source, cast)
        yield _code.encode(_code.STORE, _WORDS, _VALUE, 8 * word)


def _follow(block: _terms.Block, cast: Optional[Cast]) -> Generator[bytes, None, int]:
    """Follows the pointers to a block. It returns the register with the last one, which is the
    stack if the pointer is there."""
    base = _MEMCG if block.start == _terms.START_MEMCG else _CGROUP
    for step in (block.first_step, block.second_step)[: block.nr_steps]:
        if cast is None:
            yield from _read((_code.STACK, _POINTER), 8, (base, step))
        else:
            yield from _load_from(_code.LOAD, (base, step), cast)
            yield _code.encode(_code.STORE, _code.STACK, _VALUE, _POINTER)
        base = _code.STACK
    return base


def _result_of(block: int) -> int:
    return _FIRST_RESULT - 8 * block


def _address(to: int, source: tuple[int, int]) -> Iterator[bytes]:
    """The address at an offset from a register, or from the pointer that was followed last."""
    base, offset = source
    if base == _code.STACK:
        yield _code.encode(_code.LOAD, to, _code.STACK, _POINTER)
    else:
        yield _code.with_register(_code.MOVE, to, base)
    if offset:
        yield _code.with_number(_code.ADD, to, offset)


def _load_from(operation: int, source: tuple[int, int], cast: Cast) -> Iterator[bytes]:
    """Loads a word or a byte of the kernel's memory."""
    yield from _address(1, source)
    yield _code.with_number(_code.MOVE, 2, cast.type)
    yield _code.call_kernel(cast.function)
    yield _code.encode(operation, _VALUE, 0)


def _read(to: tuple[int, int], size: int, source: tuple[int, int]) -> Iterator[bytes]:
    """Copies the kernel's memory from such an address to a place at an offset from a register."""
    yield from _address(3, source)
    yield _code.with_register(_code.MOVE, 1, to[0])
    if to[1]:
        yield _code.with_number(_code.ADD, 1, to[1])
    yield _code.with_number(_code.MOVE, 2, size)
    yield _code.encode(_code.CALL, number=_code.PROBE_READ_KERNEL)


def _compute(items: Sequence[Sequence[_terms.EncodedTerm]]) -> Iterator[bytes]:
    """Computes the values from the words, as if no block were missing."""
    for index, item in enumerate(items):
        if item[0].kind == _terms.KIND_LEAST_LIMIT:
            continue
        yield from _value(item[0])
        if len(item) > 1:
            yield _code.with_register(_code.MOVE, _SUM, _VALUE)
            for term in item[1:]:
                yield from _value(term)
                yield _code.with_register(_code.ADD, _SUM, _VALUE)
            yield _code.with_register(_code.MOVE, _VALUE, _SUM)
        if item[-1].flags & _terms.TERM_AT_LEAST_0:
            yield from _at_least_0()
        yield _code.encode(_code.STORE, _VALUES, _VALUE, 8 * index)


def _value(term: _terms.EncodedTerm) -> Iterator[bytes]:
    """The value of one term."""
    yield _code.encode(_code.LOAD, _VALUE, _WORDS, 8 * term.counter)
    if term.kind == _terms.KIND_SIGNED:
        # Updates of several CPUs may not all have arrived yet. memory.stat shows 0, too.
        yield from _at_least_0()
    elif term.kind == _terms.KIND_LIMIT:
        yield from _limit_in_bytes()
    elif term.kind == _terms.KIND_NANOSECONDS:
        yield _code.with_number(_code.DIVIDE, _VALUE, 1000)
    elif term.kind != _terms.KIND_WORD:
        raise ValueError(f"a term of kind {term.kind} is no word")
    unit = term.unit - (1 << 64) if term.unit >> 63 else term.unit
    if unit > 1 and not unit & (unit - 1):
        yield _code.with_number(_code.SHIFT_LEFT, _VALUE, unit.bit_length() - 1)
    elif not -(1 << 31) <= unit < 1 << 31:
        yield _code.load_number(_OTHER, term.unit)
        yield _code.with_register(_code.MULTIPLY, _VALUE, _OTHER)
    elif unit != 1:
        yield _code.with_number(_code.MULTIPLY, _VALUE, unit)


def _at_least_0() -> Iterator[bytes]:
    # The verifier explores both branches, but only up to where they meet again.
    yield _code.encode(_code.JUMP_IF_AT_LEAST, _VALUE, offset=1, number=0)
    yield _code.with_number(_code.MOVE, _VALUE, 0)


def _limit_in_bytes() -> Iterator[bytes]:
    """PAGE_COUNTER_MAX pages, or more, mean that there is no limit."""
    unlimited = _items.UNLIMITED // mmap.PAGESIZE
    yield _code.load_number(_LIMITED, unlimited)
    yield _code.encode(_code.JUMP_IF_ABOVE | _code.BY_REGISTER, _LIMITED, _VALUE, 3)
    yield _code.load_number(_VALUE, _items.UNLIMITED)
    yield _code.encode(_code.JUMP, offset=1)
    yield _code.with_number(_code.SHIFT_LEFT, _VALUE, mmap.PAGESIZE.bit_length() - 1)


def _make_absent(
    blocks: Sequence[_terms.Block], items: Sequence[Sequence[_terms.EncodedTerm]]
) -> Iterator[bytes]:
    """Makes values absent: those of a block that is missing, and on the root those of others."""
    yield _code.with_number(_code.MOVE, _OTHER, -1)
    for block in range(len(blocks)):
        lost = [
            at for at, item in enumerate(items) if any(_is_word_of(term, block) for term in item)
        ]
        yield _code.encode(_code.LOAD, _VALUE, _code.STACK, _FIRST_RESULT - 8 * block)
        yield from _absent_unless(_code.JUMP_IF_AT_LEAST, lost)
    lost = [
        at
        for at, item in enumerate(items)
        if any(term.flags & _terms.TERM_NOT_ON_ROOT for term in item)
    ]
    yield _code.encode(_code.LOAD, _VALUE, _code.STACK, _ON_ROOT)
    yield from _absent_unless(_code.JUMP_IF_EQUAL, lost)


def _absent_unless(jump: int, lost: Sequence[int]) -> Iterator[bytes]:
    yield _code.encode(jump, _VALUE, offset=len(lost), number=0)
    for at in lost:
        yield _code.encode(_code.STORE, _VALUES, _OTHER, 8 * at)
