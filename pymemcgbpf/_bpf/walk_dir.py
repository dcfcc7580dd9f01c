# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The program that walks a tree from an open directory: bpf_src/walk_dir.bpf.c."""

from __future__ import annotations

import struct

from ..errors import BackendUnavailableError
from . import btf as _btf
from . import run_dir as _run_dir
from . import terms as _terms
from .plan import ReadPlan

MORE = 1 << 30
MAX_PART = 256

# The members that are copied together. Each is followed by the names in struct
# memcg_stats_walk_offsets, in the order there, and by its size.
_CSS_PART = (("sibling", 16), ("children", 16), ("serial_nr", 8))
_KN_PART = (("name", 8), ("hash", 4), ("id", 8))

LONGEST_NS = 1_000_000
"""How long a call of the program walks. No other task runs on its CPU meanwhile."""
STEPS_AT_ONCE = 64
"""After how many steps the program looks at the clock."""
SEARCHES = False
"""For tests: whether a cgroup is searched for among its siblings even if it need not be."""


def computing(plan: ReadPlan, order: int) -> tuple[dict[str, bytes], bytes]:
    """The program's constants for a plan and an order, and the instructions of its
    compute_items().

    Raises:
        BackendUnavailableError: this kernel's structures are not as the program needs them.
    """
    constants, items = _run_dir.computing(plan)
    of_the_walk = {
        "walk_offsets": walk_offsets(_btf.kernel()),
        "order": _terms.u32(order),
        "longest_ns": _terms.u64(LONGEST_NS),
        "steps_at_once": _terms.u32(STEPS_AT_ONCE),
        "searches": bytes([SEARCHES]),
    }
    return {**constants, **of_the_walk}, items


def walk_offsets(types: _btf.KernelTypes) -> bytes:
    """A struct memcg_stats_walk_offsets.

    Raises:
        BackendUnavailableError: this kernel's structures have no such members, or they are further
            apart than the program has room for.
    """
    css = "cgroup_subsys_state"
    alone = [
        _run_dir.offset_of(types, struct_name, member)
        for struct_name, member in (
            ("cgroup", "self"),
            (css, "parent"),
            (css, "sibling"),
            (css, "children"),
        )
    ]
    parts = (*_part(types, css, _CSS_PART), *_part(types, "kernfs_node", _KN_PART))
    return struct.pack(f"={len(alone) + len(parts)}I", *alone, *parts)


def _part(
    types: _btf.KernelTypes, name: str, members: tuple[tuple[str, int], ...]
) -> tuple[int, ...]:
    """The offset and size of the part of a structure that has these members, and the members'
    offsets in it."""
    found = [_run_dir.offset_of(types, name, member) for member, _ in members]
    start = min(found) & ~7
    end = max(at + size for at, (_, size) in zip(found, members))
    size = (end - start + 7) & ~7
    if size > MAX_PART:
        raise BackendUnavailableError(f"this kernel's struct {name} is larger than expected")
    return (start, size, *(at - start for at in found))
