# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The catalogue of items, and the names that callers give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pymemcgbpf import items
from pymemcgbpf.items import CATALOGUE, close_names, requested_names

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
}


def test_published_numbers_keep_their_names() -> None:
    now = {item.number: item.name for item in CATALOGUE.values()}
    assert {number: now.get(number) for number in PUBLISHED} == PUBLISHED


def test_new_items_have_numbers_of_their_own() -> None:
    numbers = [item.number for item in items._ITEMS]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) == set(PUBLISHED), "a new item: add it to PUBLISHED"
    assert all(0 < number < 1 << 16 for number in numbers)


def test_names_are_unique() -> None:
    names = [item.name for item in items._ITEMS]
    assert len(set(names)) == len(names) == len(CATALOGUE)
    assert all(name == item.name for name, item in CATALOGUE.items())


def test_v1_keys_are_unique_and_hierarchical() -> None:
    keys = [item.v1 for item in CATALOGUE.values() if item.v1]
    assert len(set(keys)) == len(keys) > 10
    assert all(key.startswith("total_") for key in keys)


@pytest.mark.parametrize("item", CATALOGUE.values(), ids=lambda item: str(item.name))
def test_an_item_is_whole(item: items.Item) -> None:
    assert item.unit in ("bytes", "count")
    assert item.scale in items.PART_SCALE
    assert item.cumulative == (item.unit == "count")
    assert item.unit == "bytes" or item.scale == items.ONE
    assert bool(item.parts) == (item.name != items.CURRENT)
    for alternatives in item.parts:
        assert alternatives and all(name.isupper() for name in alternatives)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_line_of_memory_stat_is_an_item_made_of_kept_counters(kernel: Kernel) -> None:
    kept = kernel.slots()
    printed = kernel.printed.split()
    for name in printed:
        parts = [
            [enumerator for enumerator in part if enumerator in kept]
            for part in CATALOGUE[name].parts
        ]
        assert any(parts), f"{name}: none of {CATALOGUE[name].parts} is kept"
        assert all(len(part) <= 1 for part in parts), f"{name} has two sources"


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("name", ["slab", "pgscan", "pgsteal"])
def test_a_sum_has_every_kept_part(kernel: Kernel, name: str) -> None:
    kept = set(kernel.slots())
    prefix = "NR_SLAB" if name == "slab" else name.upper()
    # ANON and FILE count the same pages once more.
    expected = {
        counter
        for counter in kept
        if counter.startswith(prefix + "_") and not counter.endswith(("_ANON", "_FILE"))
    }
    assert {part for parts in CATALOGUE[name].parts for part in parts} & kept == expected


def test_the_order_is_memory_stat_s() -> None:
    # Before 7.x, the scan counters were events and so stood after the sums.
    printed = [name for name in KERNELS["7.3"].printed.split() if name in CATALOGUE]
    assert [name for name in CATALOGUE if name in printed] == printed


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("anonn", "anon"),
        ("ANON", "anon"),
        ("pgfalt", "pgfault"),
        ("slab_reclaimible", "slab_reclaimable"),
        ("current", "memory.current"),
    ],
)
def test_close_names(name: str, best: str) -> None:
    assert close_names(name, CATALOGUE)[0] == best


@pytest.mark.parametrize("name", ["", "xyzzy", "no such item at all", "\N{SNOWMAN}"])
def test_nothing_is_close(name: str) -> None:
    assert close_names(name, CATALOGUE) == ()


@pytest.mark.parametrize("name", ["workingset", "pg", "thp", "e", "anon"])
def test_close_names_are_few_and_known(name: str) -> None:
    found = close_names(name, CATALOGUE)
    assert len(found) <= 4 and len(set(found)) == len(found)
    assert set(found) <= set(CATALOGUE)


@pytest.mark.parametrize("single", ["anon", "", b"anon"])
def test_a_single_name_is_a_slip(single: Any) -> None:
    with pytest.raises(TypeError, match="list of names"):
        requested_names(single)


@pytest.mark.parametrize("wrong", [["anon", 1], [None], [b"anon"], ["anon", 2.5]])
def test_a_name_must_be_text(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be names"):
        requested_names(wrong)


@pytest.mark.parametrize("wrong", [[["anon"]], [{}], [{"anon"}]])
def test_a_name_that_cannot_be_hashed_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        requested_names(wrong)


@pytest.mark.parametrize("wrong", [5, object()])
def test_no_iterable_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        requested_names(wrong)


@pytest.mark.parametrize("empty", [[], (), set(), iter(())])
def test_no_name_at_all_is_an_error(empty: Iterable[str]) -> None:
    with pytest.raises(ValueError, match="empty"):
        requested_names(empty)


def names_one_by_one() -> Iterator[str]:
    yield from ("file", "anon", "file")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, None),
        (["anon"], ("anon",)),
        (("file", "anon"), ("file", "anon")),
        (["file", "anon", "file", "anon"], ("file", "anon")),
        ({"pgfault": 1, "anon": 2}, ("pgfault", "anon")),
        (names_one_by_one(), ("file", "anon")),
        (["not an item"], ("not an item",)),
    ],
)
def test_requested_names(given: Any, names: Any) -> None:
    assert requested_names(given) == names
