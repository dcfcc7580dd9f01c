# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The catalogue of items, and the names that callers give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pymemcgbpf import _items
from pymemcgbpf._items import (
    CATALOGUE,
    FILES,
    Counters,
    Item,
    NodeCounter,
    close_names,
    file_of,
    files_of_group,
    in_group,
    is_group,
    item_named,
    item_numbered,
    requested_names,
)

from .kernels import KERNELS, Kernel

# As published. A number is never given to another item: streams hold it. Add new ones only.
PUBLISHED = {
    1: "anon",
    2: "file",
    3: "kernel",
    4: "kernel_stack",
    5: "pagetables",
    6: "sec_pagetables",
    7: "percpu",
    8: "sock",
    9: "vmalloc",
    10: "shmem",
    11: "zswap",
    12: "zswapped",
    13: "zswap_incomp",
    14: "file_mapped",
    15: "file_dirty",
    16: "file_writeback",
    17: "swapcached",
    18: "anon_thp",
    19: "file_thp",
    20: "shmem_thp",
    21: "inactive_anon",
    22: "active_anon",
    23: "inactive_file",
    24: "active_file",
    25: "unevictable",
    26: "slab_reclaimable",
    27: "slab_unreclaimable",
    28: "slab",
    29: "hugetlb",
    30: "workingset_refault_anon",
    31: "workingset_refault_file",
    32: "workingset_activate_anon",
    33: "workingset_activate_file",
    34: "workingset_restore_anon",
    35: "workingset_restore_file",
    36: "workingset_nodereclaim",
    37: "pgdemote_kswapd",
    38: "pgdemote_direct",
    39: "pgdemote_khugepaged",
    40: "pgdemote_proactive",
    41: "pgsteal_kswapd",
    42: "pgsteal_direct",
    43: "pgsteal_khugepaged",
    44: "pgsteal_proactive",
    45: "pgscan_kswapd",
    46: "pgscan_direct",
    47: "pgscan_khugepaged",
    48: "pgscan_proactive",
    49: "pgrefill",
    50: "pgpromote_success",
    51: "pgscan",
    52: "pgsteal",
    53: "pswpin",
    54: "pswpout",
    55: "pgfault",
    56: "pgmajfault",
    57: "pgactivate",
    58: "pgdeactivate",
    59: "pglazyfree",
    60: "pglazyfreed",
    61: "swpin_zero",
    62: "swpout_zero",
    63: "zswpin",
    64: "zswpout",
    65: "zswpwb",
    66: "thp_fault_alloc",
    67: "thp_collapse_alloc",
    68: "thp_swpout",
    69: "thp_swpout_fallback",
    70: "numa_pages_migrated",
    71: "numa_pte_updates",
    72: "numa_hint_faults",
    73: "memory.current",
    74: "memory.peak",
    75: "memory.min",
    76: "memory.low",
    77: "memory.high",
    78: "memory.max",
    79: "memory.swap.current",
    80: "memory.swap.peak",
    81: "memory.swap.high",
    82: "memory.swap.max",
    83: "memory.zswap.current",
    84: "memory.zswap.max",
    85: "memory.events.low",
    86: "memory.events.high",
    87: "memory.events.max",
    88: "memory.events.oom",
    89: "memory.events.oom_kill",
    90: "memory.events.oom_group_kill",
    91: "memory.events.sock_throttled",
    92: "memory.events.local.low",
    93: "memory.events.local.high",
    94: "memory.events.local.max",
    95: "memory.events.local.oom",
    96: "memory.events.local.oom_kill",
    97: "memory.events.local.oom_group_kill",
    98: "memory.events.local.sock_throttled",
    99: "memory.swap.events.high",
    100: "memory.swap.events.max",
    101: "memory.swap.events.fail",
    102: "memory.pressure.some.total",
    103: "memory.pressure.full.total",
    104: "derived.working_set",
    105: "derived.effective_limit",
    106: "swap",
    107: "memory.failcnt",
    108: "memory.memsw.usage_in_bytes",
    109: "memory.memsw.max_usage_in_bytes",
    110: "memory.memsw.limit_in_bytes",
    111: "memory.memsw.failcnt",
}


def test_published_numbers_keep_their_names() -> None:
    now = {item.number: item.name for item in CATALOGUE.values()}
    assert {number: now.get(number) for number in PUBLISHED} == PUBLISHED


def test_every_item_has_its_own_published_number() -> None:
    everything = (*_items._STAT, *_items._OTHERS, *_items._OF_V1, *_items._COMPUTED)
    assert len(everything) == len(CATALOGUE), "two of a name"
    numbers = [item.number for item in everything]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) == set(PUBLISHED), "a new item: add it to PUBLISHED"
    assert all(0 < number < _items._NODE_BIT for number in numbers)
    assert all(name == item.name for name, item in CATALOGUE.items())


def test_v1_keys_are_unique_and_hierarchical() -> None:
    keys = [item.v1 for item in CATALOGUE.values() if item.v1]
    assert len(set(keys)) == len(keys) > 10
    assert all(key.startswith("total_") for key in keys)


def test_every_item_is_complete() -> None:
    for item in CATALOGUE.values():
        assert_complete(item)


def assert_complete(item: Item) -> None:
    assert item.unit in ("bytes", "count", "microseconds")
    assert item.kind == ("gauge" if item.unit == "bytes" else "counter")
    assert 3 < len(item.description) < 72 and "\n" not in item.description
    assert item.file == item.name or item.file == "memory.stat" or "." in item.name
    assert item.name.startswith(item.file) == (item.file != "memory.stat")
    assert item.file in FILES
    if isinstance(item.source, Counters):
        assert item.unit == "bytes" or item.source.scale == _items.ONE
        for alternatives in item.source.parts:
            assert alternatives and all(name.isupper() for name in alternatives)


def parts_of(name: str) -> tuple[tuple[str, ...], ...]:
    source = CATALOGUE[name].source
    assert isinstance(source, Counters)
    return source.parts


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_line_of_memory_stat_is_an_item_made_of_kept_counters(kernel: Kernel) -> None:
    kept = kernel.slots()
    printed = kernel.printed.split()
    for name in printed:
        parts = [
            [enumerator for enumerator in part if enumerator in kept] for part in parts_of(name)
        ]
        assert any(parts), f"{name}: none of {parts_of(name)} is kept"
        assert all(len(part) <= 1 for part in parts), f"{name} has two sources"


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_sum_has_every_part_that_the_kernel_counts(kernel: Kernel) -> None:
    kept = set(kernel.slots())
    for name, prefix in (("slab", "NR_SLAB_"), ("pgscan", "PGSCAN_"), ("pgsteal", "PGSTEAL_")):
        # ANON and FILE count the same pages once more.
        expected = {
            counter
            for counter in kept
            if counter.startswith(prefix) and not counter.endswith(("_ANON", "_FILE"))
        }
        assert {part for parts in parts_of(name) for part in parts} & kept == expected


def test_the_catalogue_has_the_order_of_memory_stat() -> None:
    # Before 7.x, the scan counters were events and so stood after the sums.
    printed = [name for name in KERNELS["7.3"].printed.split() if name in CATALOGUE]
    assert [name for name in CATALOGUE if name in printed] == printed


def test_the_closest_name_comes_first() -> None:
    cases: list[tuple[str, str]] = [
        ("anonn", "anon"),
        ("ANON", "anon"),
        ("pgfalt", "pgfault"),
        ("slab_reclaimible", "slab_reclaimable"),
        ("memory.curent", "memory.current"),
        ("oom_kill", "memory.events.oom_kill"),
        ("memory.stat.anon", "anon"),
    ]
    for name, best in cases:
        assert close_names(name, CATALOGUE)[0] == best


def test_a_name_unlike_all_others_has_no_suggestion() -> None:
    cases: list[str] = ["", "xyzzy", "no such item at all", "\N{SNOWMAN}"]
    for name in cases:
        assert close_names(name, CATALOGUE) == ()


def test_close_names_are_few_and_known() -> None:
    cases: list[str] = ["workingset", "pg", "thp", "e", "anon"]
    for name in cases:
        found = close_names(name, CATALOGUE)
        assert len(found) <= 4 and len(set(found)) == len(found)
        assert set(found) <= set(CATALOGUE)


def test_a_single_string_is_not_a_list_of_names() -> None:
    cases: list[Any] = ["anon", "", b"anon"]
    for single in cases:
        with pytest.raises(TypeError, match="list of names"):
            requested_names(single)


def test_a_name_must_be_text() -> None:
    cases: list[Any] = [["anon", 1], [None], [b"anon"], ["anon", 2.5]]
    for wrong in cases:
        with pytest.raises(TypeError, match="must be names"):
            requested_names(wrong)


def test_a_name_that_cannot_be_hashed_is_a_type_error() -> None:
    cases: list[Any] = [[["anon"]], [{}], [{"anon"}]]
    for wrong in cases:
        with pytest.raises(TypeError):
            requested_names(wrong)


@pytest.mark.parametrize(("wrong", "name"), [(5, "int"), (object(), "object"), (True, "bool")])
def test_items_that_are_no_iterable_are_a_type_error_that_says_what_is_expected(
    wrong: Any, name: str
) -> None:
    with pytest.raises(TypeError, match=f"^items must be a list of names of items, not {name}$"):
        requested_names(wrong)


def test_an_empty_list_of_names_is_an_error() -> None:
    cases: list[Iterable[str]] = [[], (), set(), iter(())]
    for empty in cases:
        with pytest.raises(ValueError, match="empty"):
            requested_names(empty)


def names_one_by_one() -> Iterator[str]:
    yield from ("file", "anon", "file")


def test_requested_names_are_unique_and_keep_their_order() -> None:
    cases: list[tuple[Any, Any]] = [
        (None, None),
        (["anon"], ("anon",)),
        (("file", "anon"), ("file", "anon")),
        (["file", "anon", "file", "anon"], ("file", "anon")),
        ({"pgfault": 1, "anon": 2}, ("pgfault", "anon")),
        (names_one_by_one(), ("file", "anon")),
        (["not an item"], ("not an item",)),
    ]
    for given, names in cases:
        assert requested_names(given) == names


# --- items of a NUMA node -------------------------------------------------------------


def test_an_item_of_a_node_is_that_of_memory_stat_on_the_node() -> None:
    item = item_named("memory.numa_stat.file_mapped.N12")
    assert item is not None
    assert item.name == "memory.numa_stat.file_mapped.N12"
    assert (item.unit, item.kind, item.file) == ("bytes", "gauge", "memory.numa_stat")
    assert item.description == "mapped page cache, on NUMA node 12"
    of = CATALOGUE["file_mapped"].source
    assert isinstance(of, Counters) and item.source == NodeCounter(of, 12)
    assert item.number == 1 << 15 | 12 << 8 | CATALOGUE["file_mapped"].number


def test_the_numbers_of_node_items_are_all_different() -> None:
    numbers = [item.number for item in CATALOGUE.values()]
    for node in (0, 1, 127):
        for name in _items.CATALOGUE:
            item = item_named(f"memory.numa_stat.{name}.N{node}")
            if item is not None:
                numbers.append(item.number)
    assert len(set(numbers)) == len(numbers) > 200
    assert max(numbers) < 1 << 16


def test_a_name_that_is_no_item_is_not_found() -> None:
    cases: list[str] = [
        "memory.numa_stat",
        "memory.numa_stat.anon",
        "memory.numa_stat.anon.N",
        "memory.numa_stat.anon.0",
        "memory.numa_stat.anon.N00",
        "memory.numa_stat.anon.N-1",
        "memory.numa_stat.anon.N128",
        "memory.numa_stat.anon.N0 ",
        "memory.numa_stat.unknown.N0",
        "memory.numa_stat.slab.N0",  # a sum, which the kernel does not show by node
        "memory.numa_stat.memory.max.N0",
        "memory_numa_stat.anon.N0",
        "memory.events.unknown",
        "",
    ]
    for name in cases:
        assert item_named(name) is None
        (file,) = [
            file for file in ("memory.numa_stat", "memory.events") if f"{file}." in name
        ] or ["memory.stat"]
        assert file_of(name) == file, "if anything"


def test_an_unknown_key_belongs_to_the_file_that_its_name_begins_with() -> None:
    assert file_of("memory.events.local.unknown") == "memory.events.local"
    assert file_of("memory.swap.events.unknown") == "memory.swap.events"


# --- groups ---------------------------------------------------------------------------

EVERY_NAME = (*CATALOGUE, "memory.numa_stat.anon.N0", "memory.numa_stat.pgscan_anon.N1")


def members(group: str) -> list[str]:
    files = files_of_group(group)
    return [name for name in EVERY_NAME if file_of(name) in files and in_group(group, name)]


def test_the_group_of_a_file_has_exactly_its_items() -> None:
    for file in FILES:
        group = f"{file}.*"
        assert is_group(group) and files_of_group(group) == (file,)
        found = members(group)
        assert found == [name for name in EVERY_NAME if file_of(name) == file] and found


def test_a_star_elsewhere_matches_any_characters() -> None:
    cases: list[tuple[str, list[str]]] = [
        ("workingset_refault_*", ["workingset_refault_anon", "workingset_refault_file"]),
        ("*_thp", ["anon_thp", "file_thp", "shmem_thp"]),
        ("memory.swap.*.*il", ["memory.swap.events.fail"]),
        ("memory.*oom_kill", ["memory.events.oom_kill", "memory.events.local.oom_kill"]),
        ("memory.numa_stat.anon.*", ["memory.numa_stat.anon.N0"]),
        ("nothing_*", []),
        ("[a]*", []),
        (".*on", []),
        ("anon*", ["anon", "anon_thp"]),
        ("*anon", [name for name in CATALOGUE if name.endswith("anon")]),
    ]
    for group, names in cases:
        assert is_group(group) and members(group) == names


def test_a_star_alone_matches_every_item() -> None:
    assert members("*") == list(EVERY_NAME)


def test_a_name_without_a_star_is_no_group() -> None:
    cases: list[str] = ["anon", "memory.events.low", "", "anon?"]
    for name in cases:
        assert not is_group(name)


def test_a_number_leads_back_to_its_item() -> None:
    for item in CATALOGUE.values():
        assert item_numbered(item.number) is item
    for node in (0, 1, 127):
        on_node = item_named(f"memory.numa_stat.file_mapped.N{node}")
        assert on_node is not None and item_numbered(on_node.number) == on_node


def test_an_unused_number_is_no_item() -> None:
    cases: list[int] = [0, 150, 0x7FFF, 0x8000, 0x80FF, 0x8000 | 28, 0x8000 | 73]
    for number in cases:
        assert item_numbered(number) is None  # slab has none per node, nor has memory.current
