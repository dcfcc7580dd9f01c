# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The program that writes down removed cgroups: bpf_src/departures.bpf.c."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from .. import _wire
from .._records import Record
from ..errors import BackendUnavailableError
from . import btf as _btf
from . import casts as _casts
from . import cpus as _cpus
from . import item_code as _item_code
from . import program as _program
from . import reload as _reload
from . import run_dir as _run_dir
from . import terms as _terms
from .plan import ReadPlan, page_constants, vmstats_path

TRACEPOINT = "cgroup_rmdir"

HEAD = struct.Struct("=Q4H")
"""struct memcg_departed_head."""

COUNTER, PART = struct.Struct("=5I"), struct.Struct("=2I")
"""struct memcg_departed_counter and struct memcg_departed_part."""

UNSETTLED = 1 << 0
TEXT_SIZE = 4096
CPU_WORDS, MAX_COUNTERS = 64, 256

# struct memcg_departed_offsets, but for the last one. That of subsys[] is its element for the
# memory controller, and that of subtree_control the byte with its bit.
OFFSETS = (
    ("cgroup", "self"),
    ("cgroup", "kn"),
    ("cgroup", "level"),
    ("cgroup", "subsys"),
    ("cgroup", "subtree_control"),
    ("cgroup_subsys_state", "parent"),
    ("cgroup_subsys_state", "sibling"),
    ("cgroup_subsys_state", "children"),
    ("kernfs_node", "id"),
    ("kernfs_node", "name"),
    ("mem_cgroup", "css"),
    ("mem_cgroup", "vmstats"),
    ("mem_cgroup", "vmstats_percpu"),
)


class Room(Record):
    """The room for the records of removed cgroups.

    Attributes:
        size: the bytes of the ring buffer.
    """

    size: int

    @classmethod
    def for_cgroups(cls, number: int, items: int, path_size: int) -> Room:
        """Room for this number of cgroups, with relative paths of this length."""
        record = RECORD_HEADER.size + HEAD.size + _wire.row_size(items) + path_size
        needed = number * (record + 7 & ~7)
        return cls(1 << max(needed, mmap.PAGESIZE).bit_length())


RECORD_HEADER = struct.Struct("=II")
"""What comes before each record in a ring buffer: its size with two flags, and an offset."""


def load(plan: ReadPlan, root_id: int, max_depth: Optional[int], room: Room) -> _program.Program:
    """Loads the program, which is not attached yet.

    Args:
        plan: the items, in the form of the backend "core".
        root_id: the id of the cgroup below which removals are written down.
        max_depth: how many levels below; None for all.
        room: the room for the records.

    Raises:
        BackendUnavailableError: this kernel's structures are not as the program needs them.
        MemcgError: the program cannot be loaded; a subclass says why.
    """
    types = _btf.kernel()
    cast = _casts.kernel_cast()
    controller = types.memory_cgrp_id or 0
    counters, cpus = list(counters_of(plan, types)), _cpus.numbers()
    vmstats = vmstats_path(types)
    blocks, terms = plan.encoded()
    constants = {
        **page_constants(),
        **_item_code.constants(terms),
        "word_type": _terms.u32(cast.type if cast else 0),
        "offsets": offsets(types),
        "control_bit": bytes([1 << controller % 8]),
        "root_id": _terms.u64(root_id),
        "max_depth": _terms.u32(_NO_DEPTH if max_depth is None else min(max_depth, _NO_DEPTH)),
        "nr_items": _terms.u32(len(plan.terms)),
        **counter_constants(counters),
        "most_below": _terms.u32(most_below(len(counters), len(cpus))),
        **cpu_constants(cpus),
    }
    sizes = {
        _program.DEPARTURES: _program.MapSize(0, room.size, type=_reload.RING_BUFFER),
        _program.NR_LOST: _program.MapSize(8, 1),
        _program.ANCHORS: _program.MapSize(8, 1, type=_reload.PERCPU_ARRAY),
    }
    # The program puts the counters to their places itself.
    items = _item_code.item_code(blocks, terms, cast, given=plan.block_number(vmstats))
    return _program.Program(_program.DEPARTED, constants, sizes, items)


_NO_DEPTH = (1 << 32) - 1


def offsets(types: _btf.KernelTypes) -> bytes:
    """A struct memcg_departed_offsets.

    Raises:
        BackendUnavailableError: this kernel's structures have no such members.
    """
    controller = types.memory_cgrp_id or 0
    found = []
    for name, member in OFFSETS:
        offset = _run_dir.offset_of(types, name, member)
        if member == "subsys":
            offset += 8 * controller
        elif member == "subtree_control":
            offset += controller // 8
        found.append(offset)
    array = _btf.members_of("bpf_array")
    if "pptrs" not in array:
        raise BackendUnavailableError("this kernel has no pptrs in struct bpf_array")
    return struct.pack(f"={len(found) + 1}I", *found, array["pptrs"].offset)


class Counter(Record):
    """A struct memcg_departed_counter."""

    word: int
    flushed: int
    pending: int
    now: int
    before: int


def counters_of(plan: ReadPlan, types: _btf.KernelTypes) -> Iterator[Counter]:
    """The counters of a plan of which each CPU may have counted more than is flushed.

    Raises:
        BackendUnavailableError: this kernel does not keep what the CPUs have counted as the program
            needs it.
    """
    words = plan.words_in(vmstats_path(types))
    if not words:
        return
    if len(words) > MAX_COUNTERS:
        raise BackendUnavailableError(f"{len(words)} counters are too many for the BPF program")
    flushed = types.structs.get("memcg_vmstats", {})
    own = types.structs.get("memcg_vmstats_percpu", {})
    for array in ("state", "events"):
        members = (f"{array}_pending", array, f"{array}_prev")
        if array not in flushed or members[0] not in flushed or not {*members[1:]} <= own.keys():
            raise BackendUnavailableError(
                f"this kernel has no {members[0]} in struct memcg_vmstats, or no {members[2]} in "
                "struct memcg_vmstats_percpu (Linux 6.1 or later)"
            )
        start, length = flushed[array].offset, 8 * flushed[array].length
        others = (flushed[members[0]], own[members[1]], own[members[2]])
        for offset, word in words.items():
            if start <= offset < start + length:
                yield Counter(word, offset, *(other.offset + offset - start for other in others))


def counter_constants(counters: Sequence[Counter]) -> dict[str, bytes]:
    """The constants that say where the counters are."""
    return {
        "nr_counters": _terms.u32(len(counters)),
        "counters": b"".join(COUNTER.pack(*counter) for counter in counters),
        "flushed_part": _part(at for each in counters for at in (each.flushed, each.pending)),
        "own_part": _part(at for each in counters for at in (each.now, each.before)),
    }


# A word that is added takes some 5 ns, while interrupts are off.
_MOST_WORDS, _MOST_BELOW = 20_000, 1023


def most_below(counters: int, cpus: int) -> int:
    """At how many removed cgroups below one the program looks for pending updates."""
    return min(_MOST_BELOW, _MOST_WORDS // max(1, counters * cpus))


def _part(offsets: Iterable[int]) -> bytes:
    """A struct memcg_departed_part with the words at these offsets."""
    found = sorted(offsets)
    return PART.pack(found[0], found[-1] + 8 - found[0]) if found else PART.pack(0, 0)


def cpu_constants(numbers: Sequence[int]) -> dict[str, bytes]:
    """The constants that say which CPUs there can be.

    Raises:
        BackendUnavailableError: there are too many, or they are not known.
    """
    if not numbers or numbers[-1] >= 64 * CPU_WORDS:
        raise BackendUnavailableError("it is not known which CPUs there are, or there are too many")
    words = [0] * CPU_WORDS
    for number in numbers:
        words[number // 64] |= 1 << number % 64
    return {
        "nr_cpus": _terms.u32(numbers[-1] + 1),
        "possible_cpus": struct.pack(f"={CPU_WORDS}Q", *words),
    }
