# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""In which slot of struct memcg_vmstats each counter is. Pure functions, without any I/O.

Up to Linux 6.0 the enumerator itself is the index into ``state[]`` and ``events[]``. Since 6.1 the
kernel keeps only some of the events, and since 6.10 only some of the other counters, too; a static
table has the slot of each. If the tables cannot be read (the kernel lacks CONFIG_KALLSYMS_ALL), the
order is rebuilt from the order in the kernel's source. A kernel may keep counters that this package
does not know, so a slot is used only if observations prove it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Optional

from .._records import Record
from .btf import KernelTypes

_NODE, _MEMCG, _EVENT = "node_stat_item", "memcg_stat_item", "vm_event_item"
_WORD = 8  # the size of a counter in bytes


class Layout(Record):
    """The slots of the counters.

    Attributes:
        slots: the index of the 64-bit word in struct memcg_vmstats, by the enumerator's name. On
            kernels without this structure it counts from ``vmstats`` in struct mem_cgroup.
        rebuilt: whether the order was rebuilt, and not read from the kernel's tables.
        unproved: enumerators of counters that the kernel may keep in a slot that is not proved.
        not_kept: enumerators of counters that the kernel is proved not to keep.
    """

    slots: dict[str, int]
    rebuilt: bool
    unproved: frozenset[str] = frozenset()
    not_kept: frozenset[str] = frozenset()


def table_sizes(types: KernelTypes) -> tuple[int, int]:
    """The numbers of elements of mem_cgroup_stats_index and mem_cgroup_events_index."""
    return (
        types.counters.get("MEMCG_NR_STAT", ("", 0))[1],
        types.counters.get("NR_VM_EVENT_ITEMS", ("", 0))[1],
    )


def state_is_direct(types: KernelTypes) -> bool:
    """Whether the enumerator is the index into state[], as up to Linux 6.9."""
    state = types.vmstats.get("state")
    return state is not None and state.length == table_sizes(types)[0]


def direct(types: KernelTypes) -> Optional[Layout]:
    """The layout of a kernel whose enumerators are the indices of both arrays, as up to Linux 6.0;
    None for any other kernel."""
    events = types.vmstats.get("events")
    if not state_is_direct(types) or events is None or events.length != table_sizes(types)[1]:
        return None
    slots = _direct_slots(types, events=False) | _direct_slots(types, events=True)
    return Layout(_without_limits(slots), rebuilt=False)


def _direct_slots(types: KernelTypes, *, events: bool) -> dict[str, int]:
    """The slots in events[], or in state[], of a kernel where the enumerators are its indices."""
    start = _starts(types)[events]
    return {
        name: start + value
        for name, (enum, value) in types.counters.items()
        if (enum == _EVENT) == events and not _is_global_only(types, name)
    }


def _is_global_only(types: KernelTypes, name: str) -> bool:
    """Whether an enumerator's slot stays 0, because this kernel counts it for each node only."""
    signs = _DOUBTFUL.get(name, ())
    return bool(signs) and types.counters.keys().isdisjoint(signs)


def from_tables(types: KernelTypes, stats_index: bytes, events_index: bytes) -> Optional[Layout]:
    """The layout according to the kernel's tables; None if they make no sense."""
    events = places(events_index, types.vmstats["events"].length, table_sizes(types)[1])
    state: Optional[dict[int, int]] = {}
    if not state_is_direct(types):
        state = places(stats_index, types.vmstats["state"].length, table_sizes(types)[0])
    if events is None or state is None:
        return None
    state_at, events_at = _starts(types)
    slots = _direct_slots(types, events=False) if state_is_direct(types) else {}
    for name, (enum, value) in types.counters.items():
        if enum == _EVENT and value in events:
            slots[name] = events_at + events[value]
        elif enum != _EVENT and value in state:
            slots[name] = state_at + state[value]
    return Layout(_without_limits(slots), rebuilt=False)


def places(table: bytes, length: int, elements: int) -> Optional[dict[int, int]]:
    """The index in an array of *length* by enumerator, from one of the kernel's index tables.

    The encoding of the table has changed between releases: index + 1 in an int, index + 1 in an
    s8, or the index in a u8 with 255 for "none". The right one uses each index exactly once. The
    result is None if none does.
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


# The order in the kernel's source, merged from all releases from 6.10 to 7.3:
# memcg_node_stat_items[], then memcg_stat_items[].
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

# The same for memcg_vm_event_stat[].
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

# Enumerators that some released kernels have without keeping the counter per cgroup. Each comes
# with other enumerators that only kernels have which do keep it: if BTF has one of these, the
# counter is kept. Every other counter of the two orders has always been kept since the kernel has
# had both its enumerator and an order. A wrong assumption that a counter is not kept does no
# harm: its slot then counts as one of an unknown counter.
#
# An array whose indices are the enumerators has a slot for each of them, which stays 0 if the
# kernel does not keep the counter.
_DOUBTFUL: dict[str, tuple[str, ...]] = {
    # 7.3, with the vmstat-derived cost of reclaim
    **dict.fromkeys(("NR_VMSCAN_WRITE", "PGROTATE_ANON", "PGROTATE_FILE"), ("PGROTATE_ANON",)),
    # 6.12, f77f0c751478. SWPIN_ZERO came with that release, the others with 6.13 and 6.17.
    **dict.fromkeys(
        (
            *("PGPROMOTE_SUCCESS", "PGDEMOTE_KSWAPD", "PGDEMOTE_DIRECT", "PGDEMOTE_KHUGEPAGED"),
            *("NUMA_PAGE_MIGRATE", "NUMA_PTE_UPDATES", "NUMA_HINT_FAULTS"),
        ),
        ("SWPIN_ZERO", "NR_HUGETLB", "PGDEMOTE_PROACTIVE"),
    ),
    # Between 6.12 and 6.17, which has PGDEMOTE_PROACTIVE
    **dict.fromkeys(("PSWPIN", "PSWPOUT"), ("PGDEMOTE_PROACTIVE",)),
    # 6.7. ZSWPWB came with 6.8.
    **dict.fromkeys(
        ("THP_SWPOUT", "THP_SWPOUT_FALLBACK"),
        ("ZSWPWB", "SWPIN_ZERO", "NR_HUGETLB", "PGDEMOTE_PROACTIVE"),
    ),
    **dict.fromkeys(("PGPGIN", "PGPGOUT"), ()),  # CONFIG_MEMCG_V1, from 6.11 on
    # 5.11, b8eddff8886b. In that release NR_PAGETABLE became a node_stat_item, f0c0c115fb81.
    **dict.fromkeys(("NR_FILE_THPS", "NR_SHMEM_THPS"), ("NR_PAGETABLE",)),
}


class Printed(Record):
    """What memory.stat shows.

    Attributes:
        counters: the enumerators behind its keys. The kernel certainly keeps these counters.
        events: those of them that are events, in the order of memory.stat. cgroup v2 prints all
            events but PGPGIN and PGPGOUT in the order of the array. Empty on cgroup v1.
        unknown: whether it has keys whose enumerator is not known.
    """

    counters: frozenset[str]
    events: tuple[str, ...] = ()
    unknown: bool = False


class Observation(Record):
    """The counters at one moment, in the kernel's memory and according to its files.

    Attributes:
        words: the words of struct memcg_vmstats by their index.
        ranges: the least and the greatest possible value of each counter, in its own unit, by its
            enumerator.
    """

    words: dict[int, int]
    ranges: dict[str, tuple[int, int]]


def rebuilt(
    types: KernelTypes, printed: Printed, observations: Sequence[Observation]
) -> Optional[Layout]:
    """The slots that can be proved without the kernel's tables; None if there are none.

    An order is possible if it has the known counters in the order of the kernel's source, if it
    leaves out only counters that are in doubt, and if it agrees with the array lengths of BTF and
    with all observations. It may have any number of unknown counters anywhere. A slot is proved if
    all possible orders put the counter there.
    """
    state = _direct_slots(types, events=False) if state_is_direct(types) else {}
    names: set[str] = set()
    proved: dict[str, _Place] = {}
    for section in _sections(types, printed):
        names.update(name for name, _ in section.names)
        proved.update(_proved_in(section, observations))
    places = {name: at for name, at in proved.items() if at is not None}
    if not places:
        return None
    return Layout(
        _without_limits({**state, **places}),
        rebuilt=True,
        unproved=frozenset(names - proved.keys()),
        not_kept=frozenset(proved.keys() - places.keys()),
    )


_Place = Optional[int]  # an index in struct memcg_vmstats; None if the counter is not kept


class _Section(Record):
    """A part of the arrays that has an order of its own.

    Attributes:
        start: the index of its first word in struct memcg_vmstats.
        length: the number of its words.
        names: the known counters in their order, each with whether it may be missing.
    """

    start: int
    length: int
    names: tuple[tuple[str, bool], ...]


def _sections(types: KernelTypes, printed: Printed) -> Iterator[_Section]:
    state_at, events_at = _starts(types)
    if not state_is_direct(types):
        # The nodes' counters come first; how many they are is the length of each node's own array.
        length = types.vmstats["state"].length
        node = types.structs.get("lruvec_stats", {}).get("state")
        cuts = [0, node.length, length] if node and 0 < node.length < length else [0, length]
        kinds: list[tuple[str, ...]] = (
            [(_NODE,), (_MEMCG,)] if len(cuts) == 3 else [(_NODE, _MEMCG)]
        )
        for first, end, enums in zip(cuts, cuts[1:], kinds):
            order = [name for name, enum in _STATE_ORDER if enum in enums]
            names = _with_doubts(types, [(name, enums) for name in order], printed)
            yield _Section(state_at + first, end - first, names)
    length = types.vmstats["events"].length
    yield _Section(events_at, length, _events(types, printed, length))


def _with_doubts(
    types: KernelTypes, order: Sequence[tuple[str, tuple[str, ...]]], printed: Printed
) -> tuple[tuple[str, bool], ...]:
    """The names of an order that BTF has, each with whether it may be missing."""
    found = []
    for name, enums in order:
        if types.counters.get(name, ("", 0))[0] in enums:
            settled = name in printed.counters or name not in _DOUBTFUL
            signs = _DOUBTFUL.get(name, ())
            found.append((name, not settled and types.counters.keys().isdisjoint(signs)))
    return tuple(found)


def _events(types: KernelTypes, printed: Printed, length: int) -> tuple[tuple[str, bool], ...]:
    if not printed.events:
        return _with_doubts(types, [(name, (_EVENT,)) for name, _ in _EVENT_ORDER], printed)
    hidden = [name for name in _NEVER_PRINTED if types.counters.get(name, ("", 0))[0] == _EVENT]
    shown = tuple((name, False) for name in printed.events)
    doubted = printed.unknown or length not in (len(shown), len(hidden) + len(shown))
    if not doubted and length == len(shown):
        hidden = []
    return (*((name, doubted) for name in hidden), *shown)


def _proved_in(section: _Section, observations: Sequence[Observation]) -> dict[str, _Place]:
    """The proved slots of a section, by counter."""
    seen: dict[str, set[int]] = {}
    nonzero: set[str] = set()
    for words, ranges in observations:
        for name, _ in section.names:
            if name in ranges:
                low, high = ranges[name]
                places = range(section.start, section.start + section.length)
                fitting = {at for at in places if low <= words[at] <= high}
                seen.setdefault(name, set()).update(fitting)
                nonzero |= {name} if low > 0 else set()
    # The length alone proves nothing: at least one number must have been found in one word only.
    if not any(len(seen[name]) == 1 for name in nonzero):
        return {}
    # A counter whose number was found nowhere tells nothing about the others.
    nowhere = {name for name, places in seen.items() if not places}
    known = {name: places for name, places in seen.items() if places}
    places_of = _possible_places(section, known)
    return {
        name: at for name, (at, *others) in places_of.items() if not others and name not in nowhere
    }


def _possible_places(section: _Section, seen: dict[str, set[int]]) -> dict[str, list[_Place]]:
    """The slots of each counter in all possible orders, with None for "not kept". Empty if no
    order is possible.

    An order is a path through a grid of counters and slots, from none of either to all of them.
    """
    names, length = section.names, section.length
    everywhere = range(section.start, section.start + length)
    allowed = [[at in seen.get(name, everywhere) for at in everywhere] for name, _ in section.names]
    before = [[False] * (length + 1) for _ in range(len(names) + 1)]
    for which, at in itertools.product(range(len(names) + 1), range(length + 1)):
        before[which][at] = (
            which == at == 0
            or (at > 0 and before[which][at - 1])
            or (which > 0 and names[which - 1][1] and before[which - 1][at])
            or (which > 0 and at > 0 and before[which - 1][at - 1] and allowed[which - 1][at - 1])
        )
    after = [[False] * (length + 1) for _ in range(len(names) + 1)]
    for which, at in itertools.product(range(len(names), -1, -1), range(length, -1, -1)):
        more, room = which < len(names), at < length
        after[which][at] = (
            not more
            or (room and after[which][at + 1])
            or (names[which][1] and after[which + 1][at])
            or (room and after[which + 1][at + 1] and allowed[which][at])
        )
    found: dict[str, list[_Place]] = {}
    for which, (name, may_be_missing) in enumerate(names):
        places: list[_Place] = [
            section.start + at
            for at in range(length)
            if before[which][at] and allowed[which][at] and after[which + 1][at + 1]
        ]
        if may_be_missing and any(map(all, zip(before[which], after[which + 1]))):
            places.append(None)
        if places:
            found[name] = places
    return found


_NEVER_PRINTED = ("PGPGIN", "PGPGOUT")  # on cgroup v2


def event_printed_as(types: KernelTypes, key: str) -> Optional[str]:
    """The enumerator of the event that a key of cgroup v2 shows; None if the key is no event."""
    # All keys but this one are their enumerator's name in lower case.
    name = "NUMA_PAGE_MIGRATE" if key == "numa_pages_migrated" else key.upper()
    return name if types.counters.get(name, ("", 0))[0] == _EVENT else None


_LIMITS = ("NR_VM_", "MEMCG_NR_")


def _without_limits(slots: dict[str, int]) -> dict[str, int]:
    """Drops the enumerators that mark the end of an enum."""
    return {name: slot for name, slot in slots.items() if not name.startswith(_LIMITS)}


def _starts(types: KernelTypes) -> tuple[int, int]:
    return types.vmstats["state"].offset // _WORD, types.vmstats["events"].offset // _WORD
