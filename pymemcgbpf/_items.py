# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The catalogue: every item by its name, and the kernel's counters that make it up.

It has names of enumerators and fields, never their values or offsets. These differ between
kernels and are looked up in the BTF of the running one. Source: ``memory_stats[]``,
``memcg_vm_event_stat[]``, ``memcg_stat_format()`` and the ``memory_files[]``,
``swap_files[]`` and ``zswap_files[]`` in the kernel's mm/memcontrol.c, ``memcg1_stats[]``,
``mem_cgroup_legacy_files[]`` and ``memsw_files[]`` in its mm/memcontrol-v1.c, and ``psi_show()``
in its kernel/sched/psi.c, Linux 5.10 to 7.3. The derived items are in no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Optional, Union

from ._records import Record
from .errors import ItemUnavailableError

__all__ = [
    "CATALOGUE",
    "CURRENT",
    "DERIVED",
    "EFFECTIVE_LIMIT",
    "MEMORY_STAT",
    "UNLIMITED",
    "V1_EVENTS",
    "V1_FILES",
    "V1_ONLY_FILES",
    "Counters",
    "Difference",
    "Field",
    "Item",
    "LeastLimit",
    "Pressure",
    "close_names",
    "file_of",
    "files_of_group",
    "in_group",
    "is_group",
    "is_limit",
    "item_named",
    "item_numbered",
    "names_numbered",
    "requested_names",
    "share_of_limit",
]

# The units of the kernel's counters. ONE is the unit of the item itself.
PAGES = "pages"
KIB = "kib"
ONE = "one"

BYTES, COUNT, MICROSECONDS = "bytes", "count", "microseconds"
GAUGE, COUNTER = "gauge", "counter"

MEMORY_STAT = "memory.stat"
NUMA_STAT = "memory.numa_stat"
PRESSURE = "memory.pressure"
CURRENT = "memory.current"
MAX = "memory.max"

DERIVED = "derived"
"""The place of a file in an item that no file shows."""
EFFECTIVE_LIMIT = f"{DERIVED}.effective_limit"

ON_ROOT = (MEMORY_STAT, NUMA_STAT, PRESSURE)
"""The files that the root of a hierarchy also has."""

UNLIMITED = (1 << 63) - 1
"""The value of a limit that is not set, which its file shows as "max": 2**63 - 1.

The limits are memory.max, memory.high, memory.low, memory.min, memory.swap.max, memory.swap.high,
memory.zswap.max, derived.effective_limit and, on cgroup v1, memory.memsw.limit_in_bytes."""


class Counters(Record):
    """A sum of counters that memory.stat shows.

    Attributes:
        parts: one tuple for each counter, with the names of its enumerator in different kernels.
        scale: the unit of the kernel's counter ("pages", "kib" or "one").
    """

    parts: tuple[tuple[str, ...], ...]
    scale: str


class NodeCounter(Record):
    """The same as :class:`Counters`, on one NUMA node."""

    of: Counters
    node: int


class Field(Record):
    """A number in a member of struct mem_cgroup.

    Attributes:
        path: the name of the member, and of a member inside it.
        limit: whether the file can show it as "max".
        enumerator: the index, of enum memcg_memory_event, if the member is an array.
        scale: the unit of a member inside a member ("pages" or "one").
    """

    path: tuple[str, ...]
    limit: bool = False
    enumerator: str = ""
    scale: str = PAGES


class Pressure(Record):
    """A total of stalled time, by its enumerator of enum psi_states."""

    enumerator: str


class Difference(Record):
    """An item less another one, by their names, and 0 if that is negative."""

    whole: str
    part: str


class LeastLimit(Record):
    """The least value of a limit, by its name, in the cgroup and all its ancestors."""

    limit: str


ItemSource = Union[Counters, NodeCounter, Field, Pressure, Difference, LeastLimit]


class Item(Record):
    """A number that a cgroup has, such as ``anon`` or ``memory.events.oom_kill``::

        >>> item = list_items()[0]
        >>> item.name, item.unit, item.kind, item.file, item.description
        ('anon', 'bytes', 'gauge', 'memory.stat', 'anonymous memory in use')

    Attributes:
        name: The key in memory.stat. For other files it is the name of the file, with the key
            after a dot if the file has several. It begins with "derived." if no file shows the
            number.
        unit: "bytes", "count" or "microseconds". "" if it is a key of a newer kernel that this
            version knows nothing about.
        kind: "gauge" for a number that rises and falls, or "counter" for one that only rises.
            "" as for the unit.
        description: One line that says what is measured.
        file: The file of the cgroup that shows the number on cgroup v2; "derived" if none does.
            An item that only cgroup v1 has has its file there.
        number: The stable number of the item, which the header of a pin's stream has. 0 if it has
            none.
        source: Where the kernel keeps the number; for internal use.
        v1: The key of the same number in memory.stat on cgroup v1, or None.
    """

    name: str
    unit: str
    kind: str
    description: str
    file: str
    number: int
    source: ItemSource
    v1: Optional[str] = None


def _gauge(
    number: int,
    name: str,
    enumerator: Union[str, tuple[str, ...]],
    description: str,
    *,
    scale: str = PAGES,
    v1: Optional[str] = None,
) -> Item:
    names = (enumerator,) if isinstance(enumerator, str) else enumerator
    source = Counters((names,), scale)
    return Item(name, BYTES, GAUGE, description, MEMORY_STAT, number, source, v1)


def _counter(
    number: int, name: str, description: str, *, enumerator: str = "", v1: Optional[str] = None
) -> Item:
    source = Counters(((enumerator or name.upper(),),), ONE)
    return Item(name, COUNT, COUNTER, description, MEMORY_STAT, number, source, v1)


def _sum(number: int, name: str, unit: str, description: str, *parts: str) -> Item:
    source = Counters(tuple((part,) for part in parts), ONE)
    kind = COUNTER if unit == COUNT else GAUGE
    return Item(name, unit, kind, description, MEMORY_STAT, number, source)


# In memory.stat's order. A number, once given, is never given to another item.
_STAT = (
    _gauge(1, "anon", "NR_ANON_MAPPED", "anonymous memory in use", v1="total_rss"),
    _gauge(2, "file", "NR_FILE_PAGES", "page cache, tmpfs and shared memory", v1="total_cache"),
    _gauge(3, "kernel", "MEMCG_KMEM", "kernel memory, of all kinds"),
    _gauge(4, "kernel_stack", "NR_KERNEL_STACK_KB", "kernel stacks", scale=KIB),
    _gauge(5, "pagetables", "NR_PAGETABLE", "page tables"),
    _gauge(6, "sec_pagetables", "NR_SECONDARY_PAGETABLE", "secondary page tables (KVM's, IOMMUs')"),
    _gauge(7, "percpu", "MEMCG_PERCPU_B", "per-CPU kernel structures", scale=ONE),
    _gauge(8, "sock", "MEMCG_SOCK", "network transmission buffers"),
    # Linux 7.2 moved it from enum memcg_stat_item to enum node_stat_item.
    _gauge(9, "vmalloc", ("MEMCG_VMALLOC", "NR_VMALLOC"), "memory from vmalloc()"),
    _gauge(
        10, "shmem", "NR_SHMEM", "swap-backed page cache: tmpfs, shared memory", v1="total_shmem"
    ),
    _gauge(11, "zswap", "MEMCG_ZSWAP_B", "compressed pages in zswap", scale=ONE),
    _gauge(12, "zswapped", "MEMCG_ZSWAPPED", "memory swapped out to zswap, before compression"),
    _gauge(13, "zswap_incomp", "MEMCG_ZSWAP_INCOMP", "pages in zswap that could not be compressed"),
    _gauge(14, "file_mapped", "NR_FILE_MAPPED", "mapped page cache", v1="total_mapped_file"),
    _gauge(
        15, "file_dirty", "NR_FILE_DIRTY", "page cache that is not yet written", v1="total_dirty"
    ),
    _gauge(
        16,
        "file_writeback",
        "NR_WRITEBACK",
        "page cache that is just being written",
        v1="total_writeback",
    ),
    # cgroup v2 shows it in memory.swap.current, which is another counter there.
    _gauge(106, "swap", "MEMCG_SWAP", "swap in use, on cgroup v1 only", v1="total_swap"),
    _gauge(17, "swapcached", "NR_SWAPCACHE", "swap cached in memory, too", v1="total_swapcached"),
    _gauge(18, "anon_thp", "NR_ANON_THPS", "anonymous huge pages", v1="total_rss_huge"),
    _gauge(19, "file_thp", "NR_FILE_THPS", "page cache in huge pages"),
    _gauge(20, "shmem_thp", "NR_SHMEM_THPS", "shared memory and tmpfs in huge pages"),
    _gauge(
        21,
        "inactive_anon",
        "NR_INACTIVE_ANON",
        "anonymous and shmem pages, inactive",
        v1="total_inactive_anon",
    ),
    _gauge(
        22,
        "active_anon",
        "NR_ACTIVE_ANON",
        "anonymous and shmem pages, active",
        v1="total_active_anon",
    ),
    _gauge(
        23, "inactive_file", "NR_INACTIVE_FILE", "page cache, inactive", v1="total_inactive_file"
    ),
    _gauge(24, "active_file", "NR_ACTIVE_FILE", "page cache, active", v1="total_active_file"),
    _gauge(
        25, "unevictable", "NR_UNEVICTABLE", "pages that cannot be evicted", v1="total_unevictable"
    ),
    _gauge(
        26,
        "slab_reclaimable",
        "NR_SLAB_RECLAIMABLE_B",
        "slab that could be reclaimed: dentries, inodes",
        scale=ONE,
    ),
    _gauge(
        27,
        "slab_unreclaimable",
        "NR_SLAB_UNRECLAIMABLE_B",
        "slab that cannot be reclaimed",
        scale=ONE,
    ),
    _sum(
        28,
        "slab",
        BYTES,
        "slab: slab_reclaimable and slab_unreclaimable",
        "NR_SLAB_UNRECLAIMABLE_B",
        "NR_SLAB_RECLAIMABLE_B",
    ),
    _gauge(29, "hugetlb", "NR_HUGETLB", "hugetlb pages"),
    _counter(
        30,
        "workingset_refault_anon",
        "refaults of evicted anonymous pages",
        v1="total_workingset_refault_anon",
    ),
    _counter(
        31,
        "workingset_refault_file",
        "refaults of evicted page cache",
        v1="total_workingset_refault_file",
    ),
    _counter(32, "workingset_activate_anon", "refaulted anonymous pages activated at once"),
    _counter(33, "workingset_activate_file", "refaulted page cache activated at once"),
    _counter(34, "workingset_restore_anon", "anonymous pages found to be workingset again"),
    _counter(35, "workingset_restore_file", "page cache found to be workingset again"),
    _counter(36, "workingset_nodereclaim", "shadow nodes reclaimed"),
    _counter(37, "pgdemote_kswapd", "pages demoted to a slower node by kswapd"),
    _counter(38, "pgdemote_direct", "pages demoted directly"),
    _counter(39, "pgdemote_khugepaged", "pages demoted by khugepaged"),
    _counter(40, "pgdemote_proactive", "pages demoted by proactive reclaim"),
    _counter(41, "pgsteal_kswapd", "pages reclaimed by kswapd"),
    _counter(42, "pgsteal_direct", "pages reclaimed directly"),
    _counter(43, "pgsteal_khugepaged", "pages reclaimed by khugepaged"),
    _counter(44, "pgsteal_proactive", "pages reclaimed proactively"),
    _counter(45, "pgscan_kswapd", "pages scanned by kswapd"),
    _counter(46, "pgscan_direct", "pages scanned directly"),
    _counter(47, "pgscan_khugepaged", "pages scanned by khugepaged"),
    _counter(48, "pgscan_proactive", "pages scanned proactively"),
    _counter(49, "pgrefill", "pages scanned on an active list"),
    _counter(50, "pgpromote_success", "pages promoted to a faster node"),
    _sum(
        51,
        "pgscan",
        COUNT,
        "pages scanned on an inactive list",
        "PGSCAN_KSWAPD",
        "PGSCAN_DIRECT",
        "PGSCAN_PROACTIVE",
        "PGSCAN_KHUGEPAGED",
    ),
    _sum(
        52,
        "pgsteal",
        COUNT,
        "pages reclaimed",
        "PGSTEAL_KSWAPD",
        "PGSTEAL_DIRECT",
        "PGSTEAL_PROACTIVE",
        "PGSTEAL_KHUGEPAGED",
    ),
    _counter(53, "pswpin", "pages swapped in"),
    _counter(54, "pswpout", "pages swapped out"),
    _counter(55, "pgfault", "page faults", v1="total_pgfault"),
    _counter(56, "pgmajfault", "page faults that had to read", v1="total_pgmajfault"),
    _counter(57, "pgactivate", "pages moved to an active list"),
    _counter(58, "pgdeactivate", "pages moved to an inactive list"),
    _counter(59, "pglazyfree", "pages given up by MADV_FREE"),
    _counter(60, "pglazyfreed", "given-up pages reclaimed"),
    _counter(61, "swpin_zero", "pages of zeros swapped in without reading"),
    _counter(62, "swpout_zero", "pages of zeros swapped out without writing"),
    _counter(63, "zswpin", "pages moved from zswap to memory"),
    _counter(64, "zswpout", "pages moved from memory to zswap"),
    _counter(65, "zswpwb", "pages written from zswap to swap"),
    _counter(66, "thp_fault_alloc", "huge pages allocated at a fault"),
    _counter(67, "thp_collapse_alloc", "huge pages allocated to collapse small ones"),
    _counter(68, "thp_swpout", "huge pages swapped out whole"),
    _counter(69, "thp_swpout_fallback", "huge pages split to be swapped out"),
    _counter(
        70,
        "numa_pages_migrated",
        "pages migrated by NUMA balancing",
        enumerator="NUMA_PAGE_MIGRATE",
    ),
    _counter(71, "numa_pte_updates", "page table entries marked by NUMA balancing"),
    _counter(72, "numa_hint_faults", "faults of NUMA balancing"),
)


def _bytes(number: int, file: str, description: str, *path: str, limit: bool = False) -> Item:
    return Item(file, BYTES, GAUGE, description, file, number, Field(path, limit))


def _limit(number: int, file: str, description: str, *path: str) -> Item:
    return _bytes(number, file, description, *path, limit=True)


def _event(number: int, file: str, key: str, enumerator: str, description: str) -> Item:
    member = "memory_events_local" if file == "memory.events.local" else "memory_events"
    source = Field((member,), enumerator=enumerator)
    return Item(f"{file}.{key}", COUNT, COUNTER, description, file, number, source)


V1_EVENTS = ("oom_kill",)
"""The lines of memory.oom_control, which cgroup v1 has, that are events."""

_OF_SUBTREE = ", of the subtree"
_OF_SUBTREE_ON_V2 = f"{_OF_SUBTREE} (v1: here alone)"

# Numbers in memory.events and memory.events.local, key, enumerator, description.
_EVENTS = (
    (85, 92, "low", "MEMCG_LOW", "reclaims although below memory.low"),
    (86, 93, "high", "MEMCG_HIGH", "times that processes were throttled for memory.high"),
    (87, 94, "max", "MEMCG_MAX", "times that memory.max was about to be exceeded"),
    (88, 95, "oom", "MEMCG_OOM", "times that an allocation was about to fail at the limit"),
    (89, 96, "oom_kill", "MEMCG_OOM_KILL", "processes killed by any OOM killer"),
    (90, 97, "oom_group_kill", "MEMCG_OOM_GROUP_KILL", "times that the whole group was killed"),
    (91, 98, "sock_throttled", "MEMCG_SOCK_THROTTLED", "times that sockets were throttled"),
)
_SWAP_EVENTS = (
    (99, "high", "MEMCG_SWAP_HIGH", "times that memory.swap.high was exceeded"),
    (100, "max", "MEMCG_SWAP_MAX", "swap allocations that memory.swap.max refused"),
    (101, "fail", "MEMCG_SWAP_FAIL", "swap allocations that failed"),
)

# The items of other files than memory.stat.
_OTHERS = (
    _bytes(73, CURRENT, "memory in use", "memory", "usage"),
    _bytes(74, "memory.peak", "the most memory ever in use", "memory", "watermark"),
    _limit(75, "memory.min", "memory that is never reclaimed", "memory", "min"),
    _limit(76, "memory.low", "memory that is reclaimed last", "memory", "low"),
    _limit(77, "memory.high", "the throttle limit", "memory", "high"),
    _limit(78, MAX, "the hard limit", "memory", "max"),
    _bytes(79, "memory.swap.current", "swap in use", "swap", "usage"),
    _bytes(80, "memory.swap.peak", "the most swap ever in use", "swap", "watermark"),
    _limit(81, "memory.swap.high", "the throttle limit for swap", "swap", "high"),
    _limit(82, "memory.swap.max", "the hard limit for swap", "swap", "max"),
    Item(
        "memory.zswap.current",
        BYTES,
        GAUGE,
        "compressed pages in zswap",
        "memory.zswap.current",
        83,
        Counters((("MEMCG_ZSWAP_B",),), ONE),
    ),
    _limit(84, "memory.zswap.max", "the hard limit for zswap", "zswap_max"),
    *(
        _event(
            number,
            "memory.events",
            key,
            enumerator,
            f"{description}{_OF_SUBTREE_ON_V2 if key in V1_EVENTS else _OF_SUBTREE}",
        )
        for number, _, key, enumerator, description in _EVENTS
    ),
    *(
        _event(number, "memory.events.local", key, enumerator, f"{description}, here alone")
        for _, number, key, enumerator, description in _EVENTS
    ),
    *(
        _event(number, "memory.swap.events", key, enumerator, description)
        for number, key, enumerator, description in _SWAP_EVENTS
    ),
    Item(
        "memory.pressure.some.total",
        MICROSECONDS,
        COUNTER,
        "time in which some tasks waited for memory",
        PRESSURE,
        102,
        Pressure("PSI_MEM_SOME"),
    ),
    Item(
        "memory.pressure.full.total",
        MICROSECONDS,
        COUNTER,
        "time in which all tasks waited for memory",
        PRESSURE,
        103,
        Pressure("PSI_MEM_FULL"),
    ),
)


def _derived(number: int, key: str, description: str, source: ItemSource) -> Item:
    return Item(f"{DERIVED}.{key}", BYTES, GAUGE, description, DERIVED, number, source)


def _failures(number: int, file: str, description: str, member: str) -> Item:
    source = Field((member, "failcnt"), scale=ONE)
    return Item(file, COUNT, COUNTER, description, file, number, source)


# The items of files that only cgroup v1 has. memsw shares its memory with swap, which v2 has.
_OF_V1 = (
    _failures(107, "memory.failcnt", "times that memory.max was hit", "memory"),
    _bytes(108, "memory.memsw.usage_in_bytes", "memory and swap in use", "memsw", "usage"),
    _bytes(
        109,
        "memory.memsw.max_usage_in_bytes",
        "the most memory and swap ever in use",
        "memsw",
        "watermark",
    ),
    _limit(
        110, "memory.memsw.limit_in_bytes", "the hard limit for memory and swap", "memsw", "max"
    ),
    _failures(
        111,
        "memory.memsw.failcnt",
        "times that the limit for memory and swap was hit; 0 on newer kernels",
        "memsw",
    ),
)

V1_ONLY_FILES = tuple(item.file for item in _OF_V1)
"""The files whose items cgroup v2 does not have."""

V1_FILES = {
    MEMORY_STAT: MEMORY_STAT,
    CURRENT: "memory.usage_in_bytes",
    "memory.peak": "memory.max_usage_in_bytes",
    MAX: "memory.limit_in_bytes",
    "memory.events": "memory.oom_control",
    "memory.events.local": "memory.oom_control",
    **{file: file for file in V1_ONLY_FILES},
}
"""The files of cgroup v1 that show the same as a file of an item, by the name of that. Other v1
files that have a v2 name mean something else.

On v1 an event counts in its own cgroup alone (memcg_memory_event() does not go up), so
memory.events and memory.events.local are the same there."""


# The items that no file shows.
_COMPUTED = (
    _derived(
        104,
        "working_set",
        "memory.current less inactive_file, but at least 0",
        Difference(CURRENT, "inactive_file"),
    ),
    _derived(
        105,
        "effective_limit",
        "the least memory.max of the cgroup and all its ancestors",
        LeastLimit(MAX),
    ),
)

CATALOGUE: dict[str, Item] = {item.name: item for item in (*_STAT, *_OTHERS, *_OF_V1, *_COMPUTED)}

_NODE_ITEM = re.compile(rf"{re.escape(NUMA_STAT)}\.(\w+)\.N(0|[1-9][0-9]*)", re.ASCII)
# The number of an item of a node: this bit, the node, and the number of the item of memory.stat.
_NODE_BIT, _NODE_SHIFT, _MOST_NODES = 1 << 15, 8, 128


def item_named(name: str) -> Optional[Item]:
    """The item of this name, from the catalogue or of memory.numa_stat; None if unknown."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    match = _NODE_ITEM.fullmatch(name)
    of = match and CATALOGUE.get(match[1])
    if not match or not of or of.file != MEMORY_STAT or not isinstance(of.source, Counters):
        return None
    node = int(match[2])
    if node >= _MOST_NODES or len(of.source.parts) > 1:
        return None
    number = _NODE_BIT | node << _NODE_SHIFT | of.number
    source = NodeCounter(of.source, node)
    description = f"{of.description}, on NUMA node {node}"
    return Item(name, of.unit, of.kind, description, NUMA_STAT, number, source)


def item_numbered(number: int) -> Optional[Item]:
    """The item of this stable number; None if this version has none."""
    if number & _NODE_BIT:
        of = item_numbered(number & ((1 << _NODE_SHIFT) - 1))
        node = (number ^ _NODE_BIT) >> _NODE_SHIFT
        return None if of is None else item_named(f"{NUMA_STAT}.{of.name}.N{node}")
    return _BY_NUMBER.get(number)


def names_numbered(numbers: Iterable[int]) -> tuple[str, ...]:
    """The names of the items of these stable numbers; "#1234" for one that this version has not."""
    found = ((number, item_numbered(number)) for number in numbers)
    return tuple(f"#{number}" if item is None else item.name for number, item in found)


_BY_NUMBER = {item.number: item for item in CATALOGUE.values()}


def is_limit(item: Item) -> bool:
    """Whether the value can be :data:`UNLIMITED`."""
    source = item.source
    return isinstance(source, LeastLimit) or (isinstance(source, Field) and source.limit)


def share_of_limit(current: Optional[int], limit: Optional[int]) -> Optional[float]:
    """memory.current as a share of derived.effective_limit, from 0 to 1; None if no limit is set,
    if the limit is 0, or if a value is missing."""
    return None if current is None or not limit or limit == UNLIMITED else current / limit


def guess(name: str, enumerator: str, scale: str) -> Item:
    """An item of a newer kernel, whose unit is guessed from its enumerator. It has no number."""
    unit, kind = (COUNT, COUNTER) if enumerator == name.upper() else (BYTES, GAUGE)
    source = Counters(((enumerator,),), scale)
    return unknown(name)._replace(unit=unit, kind=kind, source=source)


def unknown(name: str) -> Item:
    """An item about which only the name is known."""
    return Item(name, "", "", "not known to this version", file_of(name), 0, Counters((), ONE))


def requested_names(items: Optional[Iterable[str]]) -> Optional[tuple[str, ...]]:
    """The names that a caller asked for, each once and in order; None for the default items.

    Raises:
        TypeError: *items* is not an iterable of str. A single str is refused, too: it is an
            iterable of its letters, which is never meant.
        ValueError: *items* has no name.
    """
    if items is None:
        return None
    if isinstance(items, (str, bytes)):
        raise TypeError(f"items must be a list of names, not the single {items!r}")
    if not isinstance(items, Iterable):
        raise TypeError(f"items must be a list of names of items, not {type(items).__name__}")
    names = tuple(items)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"items must be names (str), not {name!r}")
    names = tuple(dict.fromkeys(names))
    if not names:
        raise ValueError("items is empty: name at least one item, or pass None for all")
    return names


def is_group(name: str) -> bool:
    """Whether a name stands for several items, because it has a star."""
    return "*" in name


def files_of_group(group: str) -> tuple[str, ...]:
    """The files whose items may belong to a group. FILE.* has all items of that file only."""
    file = group[:-2]
    return (file,) if group == f"{file}.*" and file in FILES else FILES


def in_group(group: str, name: str) -> bool:
    """Whether an item of one of the group's files belongs to the group. A star stands for any
    characters."""
    if len(files_of_group(group)) == 1:
        return True
    pattern = ".*".join(map(re.escape, group.split("*")))
    return re.fullmatch(pattern, name) is not None


def members(words: Iterable[str], names: Sequence[str], path: str) -> tuple[str, ...]:
    """The items that names and groups stand for, among those of a pin, each once and in the order
    of the words.

    Args:
        words: names and groups.
        names: the items of the pin.
        path: its path, for the message.

    Raises:
        ItemUnavailableError: the pin has none of them.
    """
    found: dict[str, None] = {}
    for word in words:
        here = among(names, word)
        if not here:
            raise ItemUnavailableError(
                f"{path} does not have {word!r}; it has {', '.join(names)}", item_names=[word]
            )
        found.update(dict.fromkeys(here))
    return tuple(found)


def among(names: Sequence[str], word: str) -> list[str]:
    """Those of the names that a name or a group stands for."""
    if not is_group(word):
        return [name for name in names if name == word]
    files = files_of_group(word)
    return [name for name in names if file_of(name) in files and in_group(word, name)]


def file_of(name: str) -> str:
    """The file that shows an item, which may be one of a newer kernel; "derived" if none does."""
    item = item_named(name)
    if item is not None:
        return item.file
    files = [file for file in FILES if name.startswith(f"{file}.")]
    return max(files, key=len, default=MEMORY_STAT)


# The files that have items, in the order of the group "*"; at last those that are in no file.
FILES = tuple(
    dict.fromkeys(
        (MEMORY_STAT, *(item.file for item in _OTHERS), *V1_ONLY_FILES, NUMA_STAT, DERIVED)
    )
)


def close_names(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """At most four candidates that resemble *name*, the best first."""
    known = list(candidates)
    import difflib  # slow to import, and needed for messages only

    if name.removeprefix(f"{MEMORY_STAT}.") in known:  # items of memory.stat have no prefix
        return (name.removeprefix(f"{MEMORY_STAT}."),)
    like = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.6)
    for candidate in known:
        if len(like) < 4 and name and candidate not in like and name.lower() in candidate:
            like.append(candidate)
    return tuple(like)
