# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Instructions that compute the items of one cgroup, written for the items of one plan.

They become the function compute_items() of bpf_src/item_code.bpf.h. A program that looked up in
tables what to do, as that of a stream does (bpf_src/items.bpf.h), would take twice as long for all
items.
"""

from __future__ import annotations

import itertools
import mmap
import struct
import sys
from collections.abc import Iterator, Sequence

from .. import _items
from . import terms as _terms

# struct bpf_insn: the operation, two registers of 4 bits, an offset, and an immediate number.
_INSTRUCTION = struct.Struct("=BBhi")
_EXIT, _CALL = 0x95, 0x85
_LOAD_64 = 0x18  # an immediate number of 64 bits, two instructions long
_LOAD, _LOAD_BYTE, _STORE = 0x79, 0x71, 0x7B
_ADD, _MULTIPLY, _DIVIDE, _OR, _SHIFT_LEFT, _MOVE = 0x07, 0x27, 0x37, 0x47, 0x67, 0xB7
_JUMP, _JUMP_IF_EQUAL, _JUMP_IF_ABOVE, _JUMP_IF_AT_LEAST = 0x05, 0x15, 0x25, 0x75  # or signed
_BY_REGISTER = 0x08  # the operand is a register instead of the immediate number
_PROBE_READ_KERNEL = 113  # bpf_probe_read_kernel(to, size, from)

# The registers. Calls overwrite R0 to R5, which also hold the arguments and the result of each.
_VALUE, _OTHER, _LIMITED, _SUM = 1, 2, 3, 4
_MEMCG, _CGROUP, _WORDS, _VALUES, _STACK = 6, 7, 8, 9, 10
# Offsets on the stack: a pointer that was followed, a byte that says whether a structure is in use,
# the argument on_root, and a number for each block, which is negative if it could not be copied.
_POINTER, _IN_USE, _ON_ROOT, _FIRST_RESULT = -8, -16, -24, -32


def item_code(blocks: Sequence[_terms.Block], terms: Sequence[_terms.EncodedTerm]) -> bytes:
    """The instructions of compute_items().

    Args:
        blocks: what is copied from the kernel's memory.
        terms: the numbers that make up the items, in the order of the values. The least limit of
            the ancestors is in its place already when this code runs.
    """
    items = list(_items_of(terms))
    parts = _beginning(), _copy(blocks), _compute(items), _make_absent(blocks, items), _ending()
    return b"".join(itertools.chain(*parts))


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


def _encode(
    operation: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0
) -> bytes:
    registers = to | source << 4 if sys.byteorder == "little" else to << 4 | source
    return _INSTRUCTION.pack(operation, registers, offset, number)


def _with(operation: int, to: int, number: int) -> bytes:
    """An operation with a register and an immediate number."""
    return _encode(operation, to, number=number)


def _with_register(operation: int, to: int, source: int) -> bytes:
    return _encode(operation | _BY_REGISTER, to, source)


def _load_number(to: int, number: int) -> bytes:
    low, high = struct.unpack("<ii", struct.pack("<Q", number))
    return _encode(_LOAD_64, to, number=low) + _encode(0, number=high)


def _beginning() -> Iterator[bytes]:
    """Saves the arguments, which are in R1 to R5."""
    for argument, register in enumerate((_MEMCG, _CGROUP, _WORDS, _VALUES), 1):
        yield _with_register(_MOVE, register, argument)
    yield _encode(_STORE, _STACK, 5, _ON_ROOT)


def _ending() -> Iterator[bytes]:
    yield _with(_MOVE, 0, 0)
    yield _encode(_EXIT)


def _copy(blocks: Sequence[_terms.Block]) -> Iterator[bytes]:
    """Copies the blocks to their places among the words, and notes which ones are missing.

    If a pointer is NULL, the next read fails and leaves NULL, and so does the last read.
    """
    for index, block in enumerate(blocks):
        base, result = _base_of(block), _FIRST_RESULT - 8 * index
        for step in (block.first_step, block.second_step)[: block.nr_steps]:
            yield from _read((_STACK, _POINTER), 8, (base, step))
            base = _STACK
        if block.enabled_offset:
            yield from _read((_STACK, _IN_USE), 1, (base, block.enabled_offset - 1))
            yield _encode(_LOAD_BYTE, _VALUE, _STACK, _IN_USE)
            yield _with(_ADD, _VALUE, -1)
            yield _encode(_STORE, _STACK, _VALUE, result)
        yield from _read((_WORDS, 8 * block.word), block.size, (base, block.offset))
        if block.enabled_offset:
            yield _encode(_LOAD, _VALUE, _STACK, result)
            yield _with_register(_OR, 0, _VALUE)
        yield _encode(_STORE, _STACK, 0, result)


def _base_of(block: _terms.Block) -> int:
    return _MEMCG if block.start == _terms.START_MEMCG else _CGROUP


def _read(to: tuple[int, int], size: int, source: tuple[int, int]) -> Iterator[bytes]:
    """Reads the kernel's memory, into a place at an offset from a register.

    The source is an offset from a register, or from the pointer that was followed last.
    """
    base, offset = source
    if base == _STACK:
        yield _encode(_LOAD, 3, _STACK, _POINTER)
    else:
        yield _with_register(_MOVE, 3, base)
    if offset:
        yield _with(_ADD, 3, offset)
    yield _with_register(_MOVE, 1, to[0])
    if to[1]:
        yield _with(_ADD, 1, to[1])
    yield _with(_MOVE, 2, size)
    yield _encode(_CALL, number=_PROBE_READ_KERNEL)


def _compute(items: Sequence[Sequence[_terms.EncodedTerm]]) -> Iterator[bytes]:
    """Computes the values from the words, as if no block were missing."""
    for index, item in enumerate(items):
        if item[0].kind == _terms.KIND_LEAST_LIMIT:
            continue
        yield from _value(item[0])
        if len(item) > 1:
            yield _with_register(_MOVE, _SUM, _VALUE)
            for term in item[1:]:
                yield from _value(term)
                yield _with_register(_ADD, _SUM, _VALUE)
            yield _with_register(_MOVE, _VALUE, _SUM)
        if item[-1].flags & _terms.TERM_AT_LEAST_0:
            yield from _at_least_0()
        yield _encode(_STORE, _VALUES, _VALUE, 8 * index)


def _value(term: _terms.EncodedTerm) -> Iterator[bytes]:
    """The value of one term."""
    yield _encode(_LOAD, _VALUE, _WORDS, 8 * term.counter)
    if term.kind == _terms.KIND_SIGNED:
        # Updates of several CPUs may not all have arrived yet. memory.stat shows 0, too.
        yield from _at_least_0()
    elif term.kind == _terms.KIND_LIMIT:
        yield from _limit_in_bytes()
    elif term.kind == _terms.KIND_NANOSECONDS:
        yield _with(_DIVIDE, _VALUE, 1000)
    elif term.kind != _terms.KIND_WORD:
        raise ValueError(f"a term of kind {term.kind} is no word")
    unit = term.unit - (1 << 64) if term.unit >> 63 else term.unit
    if unit > 1 and not unit & (unit - 1):
        yield _with(_SHIFT_LEFT, _VALUE, unit.bit_length() - 1)
    elif not -(1 << 31) <= unit < 1 << 31:
        yield _load_number(_OTHER, term.unit)
        yield _with_register(_MULTIPLY, _VALUE, _OTHER)
    elif unit != 1:
        yield _with(_MULTIPLY, _VALUE, unit)


def _at_least_0() -> Iterator[bytes]:
    # The verifier explores both branches, but only up to where they meet again.
    yield _encode(_JUMP_IF_AT_LEAST, _VALUE, offset=1, number=0)
    yield _with(_MOVE, _VALUE, 0)


def _limit_in_bytes() -> Iterator[bytes]:
    """PAGE_COUNTER_MAX pages, or more, mean that there is no limit."""
    unlimited = _items.UNLIMITED // mmap.PAGESIZE
    yield _load_number(_LIMITED, unlimited)
    yield _encode(_JUMP_IF_ABOVE | _BY_REGISTER, _LIMITED, _VALUE, 3)
    yield _load_number(_VALUE, _items.UNLIMITED)
    yield _encode(_JUMP, offset=1)
    yield _with(_SHIFT_LEFT, _VALUE, mmap.PAGESIZE.bit_length() - 1)


def _make_absent(
    blocks: Sequence[_terms.Block], items: Sequence[Sequence[_terms.EncodedTerm]]
) -> Iterator[bytes]:
    """Makes values absent: those of a block that is missing, and on the root those of others."""
    yield _with(_MOVE, _OTHER, -1)
    for block in range(len(blocks)):
        lost = [
            at
            for at, item in enumerate(items)
            if any(term.block == block and term.kind >= _terms.KIND_WORD for term in item)
        ]
        yield _encode(_LOAD, _VALUE, _STACK, _FIRST_RESULT - 8 * block)
        yield from _absent_unless(_JUMP_IF_AT_LEAST, lost)
    lost = [
        at
        for at, item in enumerate(items)
        if any(term.flags & _terms.TERM_NOT_ON_ROOT for term in item)
    ]
    yield _encode(_LOAD, _VALUE, _STACK, _ON_ROOT)
    yield from _absent_unless(_JUMP_IF_EQUAL, lost)


def _absent_unless(jump: int, lost: Sequence[int]) -> Iterator[bytes]:
    yield _encode(jump, _VALUE, offset=len(lost), number=0)
    for at in lost:
        yield _encode(_STORE, _VALUES, _OTHER, 8 * at)
