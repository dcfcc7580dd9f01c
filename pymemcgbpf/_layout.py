# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Where each counter lies in struct memcg_vmstats: pure tables → places.

Up to Linux 6.9 ``state[]`` is indexed by the enumerator itself. From 6.10 on the
kernel keeps only some, and two static tables tell which lies where; ``events[]``
has had such a table since 6.1. Where the tables cannot be found (a kernel without
CONFIG_KALLSYMS_ALL), the order is rebuilt from the order in the kernel's source.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ._btf import KernelTypes

_NODE, _MEMCG, _EVENT = "node_stat_item", "memcg_stat_item", "vm_event_item"
_WORD = 8  # bytes of a counter


class Layout(NamedTuple):
    """Where the counters lie.

    Attributes:
        slots: enumerator's name → which 64-bit word of struct memcg_vmstats.
        size: bytes from the structure's start to the last counter's end.
        rebuilt: the order was rebuilt, so it must be checked before use.
    """

    slots: dict[str, int]
    size: int
    rebuilt: bool


def table_sizes(types: KernelTypes) -> tuple[int, int]:
    """Elements of mem_cgroup_stats_index and mem_cgroup_events_index."""
    return (
        types.counters.get("MEMCG_NR_STAT", ("", 0))[1],
        types.counters.get("NR_VM_EVENT_ITEMS", ("", 0))[1],
    )


def state_is_direct(types: KernelTypes) -> bool:
    """Whether state[] is indexed by the enumerator (up to Linux 6.9)."""
    state = types.vmstats.get("state")
    return state is not None and state.length == table_sizes(types)[0]


def from_tables(types: KernelTypes, stats_index: bytes, events_index: bytes) -> Optional[Layout]:
    """The layout by the kernel's own tables; None where they make no sense."""
    events = places(events_index, types.vmstats["events"].length, table_sizes(types)[1])
    if state_is_direct(types):
        state: Optional[dict[int, int]] = {at: at for at in range(types.vmstats["state"].length)}
    else:
        state = places(stats_index, types.vmstats["state"].length, table_sizes(types)[0])
    if events is None or state is None:
        return None
    state_at, events_at = _starts(types)
    slots = {}
    for name, (enum, value) in types.counters.items():
        if enum == _EVENT and value in events:
            slots[name] = events_at + events[value]
        elif enum != _EVENT and value in state:
            slots[name] = state_at + state[value]
    return Layout(_without_limits(slots), _size(types), False)


def places(table: bytes, length: int, elements: int) -> Optional[dict[int, int]]:
    """Enumerator → place in an array of *length*, from one of the kernel's index tables.

    The table's form has changed (index + 1 in an int, index + 1 in an s8, index in a
    u8 with 255 for none); the right one is the one that uses every place just once.
    """
    narrow = list(table[:elements])
    wide = list(memoryview(table[: 4 * elements]).cast("i")) if len(table) >= 4 * elements else []
    for values, base in ((narrow, 0), (wide, 1), (narrow, 1)):
        found = {at: value - base for at, value in enumerate(values) if 0 <= value - base < length}
        odd = [value for value in values if not 0 <= value - base < length]
        none = 255 if base == 0 else 0
        if sorted(found.values()) == list(range(length)) and all(value == none for value in odd):
            return found
    return None


# The order in the kernel's source, all releases from 6.10 to 7.3 laid over each other.
# memcg_node_stat_items[], then memcg_stat_items[]:
_STATE_ORDER = (
    ("NR_INACTIVE_ANON", _NODE),
    ("NR_ACTIVE_ANON", _NODE),
    ("NR_INACTIVE_FILE", _NODE),
    ("NR_ACTIVE_FILE", _NODE),
    ("NR_UNEVICTABLE", _NODE),
    ("NR_SLAB_RECLAIMABLE_B", _NODE),
    ("NR_SLAB_UNRECLAIMABLE_B", _NODE),
    ("WORKINGSET_REFAULT_ANON", _NODE),
    ("WORKINGSET_REFAULT_FILE", _NODE),
    ("WORKINGSET_ACTIVATE_ANON", _NODE),
    ("WORKINGSET_ACTIVATE_FILE", _NODE),
    ("WORKINGSET_RESTORE_ANON", _NODE),
    ("WORKINGSET_RESTORE_FILE", _NODE),
    ("WORKINGSET_NODERECLAIM", _NODE),
    ("NR_ANON_MAPPED", _NODE),
    ("NR_FILE_MAPPED", _NODE),
    ("NR_FILE_PAGES", _NODE),
    ("NR_FILE_DIRTY", _NODE),
    ("NR_WRITEBACK", _NODE),
    ("NR_SHMEM", _NODE),
    ("NR_SHMEM_THPS", _NODE),
    ("NR_FILE_THPS", _NODE),
    ("NR_ANON_THPS", _NODE),
    ("NR_VMSCAN_WRITE", _NODE),
    ("NR_VMALLOC", _NODE),
    ("NR_KERNEL_STACK_KB", _NODE),
    ("NR_PAGETABLE", _NODE),
    ("NR_SECONDARY_PAGETABLE", _NODE),
    ("NR_SWAPCACHE", _NODE),
    ("PGPROMOTE_SUCCESS", _NODE),
    ("PGDEMOTE_KSWAPD", _NODE),
    ("PGDEMOTE_DIRECT", _NODE),
    ("PGDEMOTE_KHUGEPAGED", _NODE),
    ("PGDEMOTE_PROACTIVE", _NODE),
    ("PGSTEAL_KSWAPD", _NODE),
    ("PGSTEAL_DIRECT", _NODE),
    ("PGSTEAL_KHUGEPAGED", _NODE),
    ("PGSTEAL_PROACTIVE", _NODE),
    ("PGSTEAL_ANON", _NODE),
    ("PGSTEAL_FILE", _NODE),
    ("PGSCAN_KSWAPD", _NODE),
    ("PGSCAN_DIRECT", _NODE),
    ("PGSCAN_KHUGEPAGED", _NODE),
    ("PGSCAN_PROACTIVE", _NODE),
    ("PGSCAN_ANON", _NODE),
    ("PGSCAN_FILE", _NODE),
    ("PGROTATE_ANON", _NODE),
    ("PGROTATE_FILE", _NODE),
    ("PGREFILL", _NODE),
    ("NR_HUGETLB", _NODE),
    ("MEMCG_SWAP", _MEMCG),
    ("MEMCG_SOCK", _MEMCG),
    ("MEMCG_PERCPU_B", _MEMCG),
    ("MEMCG_VMALLOC", _MEMCG),
    ("MEMCG_KMEM", _MEMCG),
    ("MEMCG_ZSWAP_B", _MEMCG),
    ("MEMCG_ZSWAPPED", _MEMCG),
    ("MEMCG_ZSWAP_INCOMP", _MEMCG),
)

# memcg_vm_event_stat[]:
_EVENT_ORDER = tuple(
    (name, _EVENT)
    for name in (
        "PGPGIN",
        "PGPGOUT",
        "PSWPIN",
        "PSWPOUT",
        "PGSCAN_KSWAPD",
        "PGSCAN_DIRECT",
        "PGSCAN_KHUGEPAGED",
        "PGSCAN_PROACTIVE",
        "PGSTEAL_KSWAPD",
        "PGSTEAL_DIRECT",
        "PGSTEAL_KHUGEPAGED",
        "PGSTEAL_PROACTIVE",
        "PGFAULT",
        "PGMAJFAULT",
        "PGREFILL",
        "PGACTIVATE",
        "PGDEACTIVATE",
        "PGLAZYFREE",
        "PGLAZYFREED",
        "SWPIN_ZERO",
        "SWPOUT_ZERO",
        "ZSWPIN",
        "ZSWPOUT",
        "ZSWPWB",
        "THP_FAULT_ALLOC",
        "THP_COLLAPSE_ALLOC",
        "THP_SWPOUT",
        "THP_SWPOUT_FALLBACK",
        "NUMA_PAGE_MIGRATE",
        "NUMA_PTE_UPDATES",
        "NUMA_HINT_FAULTS",
    )
)

# Enumerators that exist on some kernels which do not keep them per cgroup, together.
_STATE_DOUBTFUL = (("NR_VMSCAN_WRITE",), ("PGROTATE_ANON", "PGROTATE_FILE"))
_EVENT_DOUBTFUL = (
    ("PGPGIN", "PGPGOUT"),  # CONFIG_MEMCG_V1
    ("PSWPIN", "PSWPOUT"),
    ("PGSCAN_KHUGEPAGED", "PGSTEAL_KHUGEPAGED"),
    ("PGSCAN_PROACTIVE", "PGSTEAL_PROACTIVE"),
    ("ZSWPWB",),
    ("THP_SWPOUT", "THP_SWPOUT_FALLBACK"),
    ("NUMA_PAGE_MIGRATE", "NUMA_PTE_UPDATES", "NUMA_HINT_FAULTS"),
)


def rebuilt(types: KernelTypes, printed: Sequence[str]) -> list[Layout]:
    """The layouts that fit what BTF says, to be checked against memory.stat.

    Args:
        printed: memory.stat's keys, in its order, as far as they name items (v2). The
            kernel prints its events in the array's order, so v2 leaves little choice.
    """
    if state_is_direct(types):
        states = [{name: at for name, (enum, at) in types.counters.items() if enum != _EVENT}]
    else:
        states = _orders(types, _STATE_ORDER, _STATE_DOUBTFUL, types.vmstats["state"].length)
    events = _orders(types, _EVENT_ORDER, _EVENT_DOUBTFUL, types.vmstats["events"].length)
    shown = _events_in(types, printed)
    state_at, events_at = _starts(types)
    layouts = []
    for state, event in itertools.product(states, events):
        if shown and [name for name in event if name not in _NEVER_PRINTED] != shown:
            continue
        slots = {name: state_at + at for name, at in state.items()}
        slots.update((name, events_at + at) for name, at in event.items())
        layouts.append(Layout(_without_limits(slots), _size(types), True))
    return layouts


def _orders(
    types: KernelTypes,
    order: Sequence[tuple[str, str]],
    doubtful: Sequence[tuple[str, ...]],
    length: int,
) -> list[dict[str, int]]:
    """The choices of doubtful names that make up an array of *length*: name → place."""
    fitting = []
    present = [name for name, enum in order if types.counters.get(name, ("", 0))[0] == enum]
    groups = [group for group in doubtful if set(group) & set(present)]
    for chosen in itertools.product((True, False), repeat=len(groups)):
        absent = {name for group, kept in zip(groups, chosen) if not kept for name in group}
        candidate = [name for name in present if name not in absent]
        if len(candidate) == length:
            fitting.append({name: at for at, name in enumerate(candidate)})
    return fitting


_NEVER_PRINTED = ("PGPGIN", "PGPGOUT")  # on v2


def _events_in(types: KernelTypes, printed: Sequence[str]) -> list[str]:
    """The events among memory.stat's keys, in its order."""
    events = []
    for key in printed:
        # One key is not its enumerator's name in small letters.
        name = "NUMA_PAGE_MIGRATE" if key == "numa_pages_migrated" else key.upper()
        if types.counters.get(name, ("", 0))[0] == _EVENT:
            events.append(name)
    return events


_LIMITS = ("NR_VM_", "MEMCG_NR_")


def _without_limits(slots: dict[str, int]) -> dict[str, int]:
    """Drops the enumerators that only count the others."""
    return {name: slot for name, slot in slots.items() if not name.startswith(_LIMITS)}


def _starts(types: KernelTypes) -> tuple[int, int]:
    return types.vmstats["state"].offset // _WORD, types.vmstats["events"].offset // _WORD


def _size(types: KernelTypes) -> int:
    return max(
        array.offset + array.length * _WORD
        for array in (types.vmstats["state"], types.vmstats["events"])
    )
