# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The catalogue: every item by its memory.stat name, and which counters it is made of.

Names, never numbers: an enumerator's value differs from kernel to kernel and is
looked up in the running kernel's BTF. Source: ``memory_stats[]``,
``memcg_vm_event_stat[]`` and ``memcg_stat_format()`` in the kernel's
mm/memcontrol.c, Linux 6.1 to 7.3.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple, Optional

__all__ = ["CATALOGUE", "CURRENT", "Item", "PART_SCALE", "close_names", "requested_names"]

# How a counter's own unit becomes memory.stat's.
PAGES = "pages"
KIB = "kib"
ONE = "one"
PART_SCALE = (PAGES, KIB, ONE)

CURRENT = "memory.current"


class Item(NamedTuple):
    """One number that a cgroup has.

    Attributes:
        name: memory.stat's key, or "file.key" for another file's number.
        number: the project's own stable number, used in the stream's header.
        unit: "bytes" or "count", of the value as memory.stat prints it.
        cumulative: True for a counter that only rises, False for a gauge.
        scale: from the kernel's counter to that unit ("pages", "kib" or "one").
        parts: the counters it is the sum of. Each is a tuple of the enumerator's
            names in different kernels; none for what is not an enumerator.
        v1: the key of the same number in a cgroup v1 memory.stat, or None.
    """

    name: str
    number: int
    unit: str
    cumulative: bool
    scale: str
    parts: tuple[tuple[str, ...], ...]
    v1: Optional[str]


def _gauge(
    number: int, name: str, *enumerators: str, scale: str = PAGES, v1: Optional[str] = None
) -> Item:
    return Item(name, number, "bytes", False, scale, (enumerators,), v1)


def _counter(number: int, name: str, *enumerators: str, v1: Optional[str] = None) -> Item:
    return Item(name, number, "count", True, ONE, (enumerators or (name.upper(),),), v1)


def _sum(number: int, name: str, unit: str, *parts: str) -> Item:
    return Item(name, number, unit, unit == "count", ONE, tuple((part,) for part in parts), None)


# In memory.stat's order. A number, once given, is never given to another item.
_ITEMS = (
    _gauge(1, "anon", "NR_ANON_MAPPED", v1="total_rss"),
    _gauge(2, "file", "NR_FILE_PAGES", v1="total_cache"),
    _gauge(3, "kernel", "MEMCG_KMEM"),
    _gauge(4, "kernel_stack", "NR_KERNEL_STACK_KB", scale=KIB),
    _gauge(5, "pagetables", "NR_PAGETABLE"),
    _gauge(6, "sec_pagetables", "NR_SECONDARY_PAGETABLE"),
    _gauge(7, "percpu", "MEMCG_PERCPU_B", scale=ONE),
    _gauge(8, "sock", "MEMCG_SOCK"),
    # Linux 7.2 moved it from enum memcg_stat_item to enum node_stat_item.
    _gauge(9, "vmalloc", "MEMCG_VMALLOC", "NR_VMALLOC"),
    _gauge(10, "shmem", "NR_SHMEM", v1="total_shmem"),
    _gauge(11, "zswap", "MEMCG_ZSWAP_B", scale=ONE),
    _gauge(12, "zswapped", "MEMCG_ZSWAPPED"),
    _gauge(13, "zswap_incomp", "MEMCG_ZSWAP_INCOMP"),
    _gauge(14, "file_mapped", "NR_FILE_MAPPED", v1="total_mapped_file"),
    _gauge(15, "file_dirty", "NR_FILE_DIRTY", v1="total_dirty"),
    _gauge(16, "file_writeback", "NR_WRITEBACK", v1="total_writeback"),
    _gauge(17, "swapcached", "NR_SWAPCACHE", v1="total_swapcached"),
    _gauge(18, "anon_thp", "NR_ANON_THPS", v1="total_rss_huge"),
    _gauge(19, "file_thp", "NR_FILE_THPS"),
    _gauge(20, "shmem_thp", "NR_SHMEM_THPS"),
    _gauge(21, "inactive_anon", "NR_INACTIVE_ANON", v1="total_inactive_anon"),
    _gauge(22, "active_anon", "NR_ACTIVE_ANON", v1="total_active_anon"),
    _gauge(23, "inactive_file", "NR_INACTIVE_FILE", v1="total_inactive_file"),
    _gauge(24, "active_file", "NR_ACTIVE_FILE", v1="total_active_file"),
    _gauge(25, "unevictable", "NR_UNEVICTABLE", v1="total_unevictable"),
    _gauge(26, "slab_reclaimable", "NR_SLAB_RECLAIMABLE_B", scale=ONE),
    _gauge(27, "slab_unreclaimable", "NR_SLAB_UNRECLAIMABLE_B", scale=ONE),
    _sum(28, "slab", "bytes", "NR_SLAB_UNRECLAIMABLE_B", "NR_SLAB_RECLAIMABLE_B"),
    _gauge(29, "hugetlb", "NR_HUGETLB"),
    _counter(30, "workingset_refault_anon", v1="total_workingset_refault_anon"),
    _counter(31, "workingset_refault_file", v1="total_workingset_refault_file"),
    _counter(32, "workingset_activate_anon"),
    _counter(33, "workingset_activate_file"),
    _counter(34, "workingset_restore_anon"),
    _counter(35, "workingset_restore_file"),
    _counter(36, "workingset_nodereclaim"),
    _counter(37, "pgdemote_kswapd"),
    _counter(38, "pgdemote_direct"),
    _counter(39, "pgdemote_khugepaged"),
    _counter(40, "pgdemote_proactive"),
    _counter(41, "pgsteal_kswapd"),
    _counter(42, "pgsteal_direct"),
    _counter(43, "pgsteal_khugepaged"),
    _counter(44, "pgsteal_proactive"),
    _counter(45, "pgscan_kswapd"),
    _counter(46, "pgscan_direct"),
    _counter(47, "pgscan_khugepaged"),
    _counter(48, "pgscan_proactive"),
    _counter(49, "pgrefill"),
    _counter(50, "pgpromote_success"),
    _sum(
        51,
        "pgscan",
        "count",
        "PGSCAN_KSWAPD",
        "PGSCAN_DIRECT",
        "PGSCAN_PROACTIVE",
        "PGSCAN_KHUGEPAGED",
    ),
    _sum(
        52,
        "pgsteal",
        "count",
        "PGSTEAL_KSWAPD",
        "PGSTEAL_DIRECT",
        "PGSTEAL_PROACTIVE",
        "PGSTEAL_KHUGEPAGED",
    ),
    _counter(53, "pswpin"),
    _counter(54, "pswpout"),
    _counter(55, "pgfault", v1="total_pgfault"),
    _counter(56, "pgmajfault", v1="total_pgmajfault"),
    _counter(57, "pgactivate"),
    _counter(58, "pgdeactivate"),
    _counter(59, "pglazyfree"),
    _counter(60, "pglazyfreed"),
    _counter(61, "swpin_zero"),
    _counter(62, "swpout_zero"),
    _counter(63, "zswpin"),
    _counter(64, "zswpout"),
    _counter(65, "zswpwb"),
    _counter(66, "thp_fault_alloc"),
    _counter(67, "thp_collapse_alloc"),
    _counter(68, "thp_swpout"),
    _counter(69, "thp_swpout_fallback"),
    _counter(70, "numa_pages_migrated", "NUMA_PAGE_MIGRATE"),
    _counter(71, "numa_pte_updates"),
    _counter(72, "numa_hint_faults"),
    # Not of memory.stat: the cgroup's own file (v1: memory.usage_in_bytes).
    Item(CURRENT, 73, "bytes", False, PAGES, (), None),
)

CATALOGUE: dict[str, Item] = {item.name: item for item in _ITEMS}


def requested_names(items: Optional[Iterable[str]]) -> Optional[tuple[str, ...]]:
    """The names a caller asked for, each once and in order; None for all.

    Raises:
        TypeError: not an iterable of str; a single str is most likely a slip.
        ValueError: no name at all.
    """
    if items is None:
        return None
    if isinstance(items, (str, bytes)):
        raise TypeError(f"items must be a list of names, not the single {items!r}")
    names = tuple(items)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"items must be names (str), not {name!r}")
    names = tuple(dict.fromkeys(names))
    if not names:
        raise ValueError("items is empty: name at least one item, or pass None for all")
    return names


def close_names(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """The candidates most like *name*, best first; at most four."""
    known = list(candidates)
    like = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.6)
    for candidate in known:
        if len(like) < 4 and name and candidate not in like and name.lower() in candidate:
            like.append(candidate)
    return tuple(like)
