# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Instructions that compute the items of one cgroup, written for the items of one plan.

They become the function compute_items() of bpf_src/item_code.bpf.h. A program that looked up in
tables what to do, as that of a stream does (bpf_src/items.bpf.h), would take twice as long for all
items.

The instructions never branch on a number that they have read, since the verifier would explore both
branches. A condition is a mask instead: all ones, or 0.
"""

from __future__ import annotations

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
_ADD, _MULTIPLY, _DIVIDE, _OR, _AND, _SHIFT_LEFT, _XOR, _MOVE, _SHIFT_RIGHT_SIGNED = (
    operation | 0x07 for operation in (0x00, 0x20, 0x30, 0x40, 0x50, 0x60, 0xA0, 0xB0, 0xC0)
)
_BY_REGISTER = 0x08  # the operand is a register instead of the immediate number
_PROBE_READ_KERNEL = 113  # bpf_probe_read_kernel(to, size, from)

# The registers. Calls overwrite R0 to R5, which also hold the arguments and the result of each.
_SUM, _VALUE, _OTHER, _MISSING, _LIMITED, _ABSENT = 0, 1, 2, 3, 4, 5
_MEMCG, _CGROUP, _WORDS, _VALUES, _STACK = 6, 7, 8, 9, 10
# Offsets on the stack: a pointer that was followed, a byte that says whether a structure is in use,
# the argument on_root, and a mask for each block, all ones if it could not be copied.
_POINTER, _IN_USE, _ON_ROOT, _FIRST_MISSING = -8, -16, -24, -32


def item_code(blocks: Sequence[_terms.Block], terms: Sequence[_terms.EncodedTerm]) -> bytes:
    """The instructions of compute_items().

    Args:
        blocks: what is copied from the kernel's memory.
        terms: the numbers that make up the items, in the order of the values. The least limit of
            the ancestors is in its place already when this code runs.
    """
    return b"".join((*_beginning(), *_copy(blocks), *_compute(terms), *_ending()))


def limit_constants(terms: Sequence[_terms.EncodedTerm]) -> dict[str, bytes]:
    """The constants of item_code.bpf.h: which value is the least limit, and of which counter."""
    index = 0
    for term in terms:
        if term.kind == _terms.KIND_LEAST_LIMIT:
            found = 1 + index, term.counter
            return dict(zip(("limit_value", "limit_counter"), map(_terms.u32, found)))
        index += term.flags & _terms.TERM_LAST
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
        base = _MEMCG if block.start == _terms.START_MEMCG else _CGROUP
        missing = _FIRST_MISSING - 8 * index
        for step in (block.first_step, block.second_step)[: block.nr_steps]:
            yield from _read((_STACK, _POINTER), 8, (base, step))
            base = _STACK
        if block.enabled_offset:
            yield from _read((_STACK, _IN_USE), 1, (base, block.enabled_offset - 1))
            yield _encode(_LOAD_BYTE, _VALUE, _STACK, _IN_USE)
            yield _with(_ADD, _VALUE, -1)
            yield from _negative(_VALUE)
            yield _encode(_STORE, _STACK, _VALUE, missing)
        yield from _read((_WORDS, 8 * block.word), block.size, (base, block.offset))
        yield from _negative(0)
        if block.enabled_offset:
            yield _encode(_LOAD, _VALUE, _STACK, missing)
            yield _with_register(_OR, 0, _VALUE)
        yield _encode(_STORE, _STACK, 0, missing)


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


def _negative(register: int) -> Iterator[bytes]:
    """Makes a number a mask: all ones if it is negative."""
    yield _with(_SHIFT_RIGHT_SIGNED, register, 63)


def _compute(terms: Sequence[_terms.EncodedTerm]) -> Iterator[bytes]:
    """Computes the values from the words."""
    item: list[_terms.EncodedTerm] = []
    index, loaded = 0, -1  # the block whose mask is in _MISSING
    for term in terms:
        item.append(term)
        if term.flags & _terms.TERM_LAST:
            if term.kind == _terms.KIND_LEAST_LIMIT:
                yield _encode(_LOAD, _VALUE, _VALUES, 8 * index)
                yield from _finish(_VALUE, item, index)
            elif len(item) == 1:
                yield from _mask_of(term, loaded)
                yield from _value(term)
                yield from _clamp_sum(_VALUE, term)
                yield _with_register(_OR, _VALUE, _MISSING)
                yield from _finish(_VALUE, item, index)
                loaded = term.block
            else:
                yield _with(_MOVE, _SUM, 0)
                yield _with(_MOVE, _ABSENT, 0)
                for each in item:
                    yield from _mask_of(each, loaded)
                    yield from _value(each)
                    yield _with_register(_ADD, _SUM, _VALUE)
                    yield _with_register(_OR, _ABSENT, _MISSING)
                    loaded = each.block
                yield from _clamp_sum(_SUM, term)
                yield _with_register(_OR, _SUM, _ABSENT)
                yield from _finish(_SUM, item, index)
            item, index = [], index + 1


def _mask_of(term: _terms.EncodedTerm, loaded: int) -> Iterator[bytes]:
    if term.block != loaded:
        yield _encode(_LOAD, _MISSING, _STACK, _FIRST_MISSING - 8 * term.block)


def _value(term: _terms.EncodedTerm) -> Iterator[bytes]:
    """The value of a term, whose block may be missing."""
    yield _encode(_LOAD, _VALUE, _WORDS, 8 * term.counter)
    if term.kind == _terms.KIND_SIGNED:
        # Updates of several CPUs may not all have arrived yet. memory.stat shows 0, too.
        yield from _at_least_0(_VALUE)
    elif term.kind == _terms.KIND_LIMIT:
        yield from _limit_in_bytes()
    elif term.kind == _terms.KIND_NANOSECONDS:
        yield _with(_DIVIDE, _VALUE, 1000)
    elif term.kind != _terms.KIND_WORD:
        raise ValueError(f"a term of kind {term.kind} is no word")
    unit = term.unit - (1 << 64) if term.unit >> 63 else term.unit
    if unit > 1 and not unit & (unit - 1):
        yield _with(_SHIFT_LEFT, _VALUE, unit.bit_length() - 1)
    elif -(1 << 31) <= unit < 1 << 31:
        if unit != 1:
            yield _with(_MULTIPLY, _VALUE, unit)
    else:
        yield _load_number(_OTHER, term.unit)
        yield _with_register(_MULTIPLY, _VALUE, _OTHER)


def _at_least_0(register: int) -> Iterator[bytes]:
    yield _with_register(_MOVE, _OTHER, register)
    yield from _negative(_OTHER)
    yield _with(_XOR, _OTHER, -1)
    yield _with_register(_AND, register, _OTHER)


def _limit_in_bytes() -> Iterator[bytes]:
    """PAGE_COUNTER_MAX pages, or more, mean that there is no limit."""
    page_size = mmap.PAGESIZE
    yield _load_number(_OTHER, (1 << 64) - _items.UNLIMITED // page_size)
    yield _with_register(_MOVE, _LIMITED, _VALUE)
    yield _with_register(_ADD, _LIMITED, _OTHER)
    yield from _negative(_LIMITED)
    yield _with(_SHIFT_LEFT, _VALUE, page_size.bit_length() - 1)
    yield _with_register(_AND, _VALUE, _LIMITED)
    yield _with(_XOR, _LIMITED, -1)
    yield _load_number(_OTHER, _items.UNLIMITED)
    yield _with_register(_AND, _OTHER, _LIMITED)
    yield _with_register(_OR, _VALUE, _OTHER)


def _clamp_sum(register: int, last: _terms.EncodedTerm) -> Iterator[bytes]:
    if last.flags & _terms.TERM_AT_LEAST_0:
        yield from _at_least_0(register)


def _finish(register: int, item: Sequence[_terms.EncodedTerm], index: int) -> Iterator[bytes]:
    """Makes the value absent on the root if it has to be, and stores it."""
    if any(term.flags & _terms.TERM_NOT_ON_ROOT for term in item):
        yield _encode(_LOAD, _OTHER, _STACK, _ON_ROOT)
        yield _with_register(_OR, register, _OTHER)
    yield _encode(_STORE, _VALUES, register, 8 * index)
