# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a program is told before it is loaded: the constants, terms and blocks of
bpf_src/memcg_stats.h, and how they are encoded."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .._records import Record

MAX_TERMS = 576
MAX_BLOCKS = 24
MAX_WORDS = 1024

# struct memcg_stats_term: kind, flags, block, counter, unit
TERM = struct.Struct("=BBHIQ")
# struct memcg_stats_block: start, nr_steps, steps[2], offset, size, word, enabled_offset
BLOCK = struct.Struct("=HH6I")

# enum memcg_stats_backend, memcg_stats_flush, memcg_stats_kind, the flags of a term, and
# enum memcg_stats_start.
BACKEND_NUMBERS = {"kfunc": 1, "rfc": 2, "core": 3}
FLUSH_NONE, FLUSH_KFUNC, FLUSH_RFC, FLUSH_RSTAT = 0, 1, 2, 3
KINDS = {"node_stat_item": 1, "memcg_stat_item": 2, "vm_event_item": 3}
KIND_MEMORY_EVENT, KIND_USAGE, KIND_LEAST_LIMIT = 4, 5, 6
KIND_WORD, KIND_SIGNED, KIND_LIMIT, KIND_NANOSECONDS = 7, 8, 9, 10
TERM_LAST, TERM_NOT_ON_ROOT, TERM_AT_LEAST_0 = 1, 2, 4
START_MEMCG, START_CGROUP = 0, 1


class EncodedTerm(Record):
    """A struct memcg_stats_term: one number of the kernel. An item is the sum of its terms."""

    kind: int
    flags: int
    block: int
    counter: int
    unit: int


class Block(Record):
    """A struct memcg_stats_block: which bytes of a kernel structure the program copies."""

    start: int
    nr_steps: int
    first_step: int
    second_step: int
    offset: int
    size: int
    word: int
    enabled_offset: int


def u32(value: int) -> bytes:
    """Encodes a constant of type __u32."""
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    """Encodes a constant of type __u64."""
    return struct.pack("=Q", value)


def encode_terms(terms: Iterable[EncodedTerm]) -> bytes:
    """Encodes the constant ``terms[]``."""
    return b"".join(TERM.pack(*term) for term in terms)


def encode_blocks(blocks: Iterable[Block]) -> bytes:
    """Encodes the constant ``blocks[]``."""
    return b"".join(BLOCK.pack(*block) for block in blocks)
