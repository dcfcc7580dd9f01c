# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Where the counters lie, by the kernel's own tables."""

from __future__ import annotations

import struct
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf._bpf import counter_slots as _counter_slots
from pymemcgbpf._bpf.btf import KernelTypes
from pymemcgbpf._items import CATALOGUE, Counters

from ..kernels import (
    DIRECT,
    EVENT,
    KERNELS,
    LINUX_5_10,
    LINUX_5_15,
    LINUX_6_1,
    LINUX_6_12,
    LINUX_6_18,
    LINUX_7_3,
    Kernel,
)

# A table's three forms, from enumerator's value -> place.
Encode = Callable[[dict[int, int], int], bytes]


def as_u8(table: dict[int, int], elements: int) -> bytes:
    """Linux 6.12 on: the index, 255 for none."""
    return bytes(table.get(at, 255) for at in range(elements))


def as_int(table: dict[int, int], elements: int) -> bytes:
    """Linux 6.1: the index + 1 in an int, 0 for none."""
    return struct.pack(f"={elements}i", *(table.get(at, -1) + 1 for at in range(elements)))


def as_s8(table: dict[int, int], elements: int) -> bytes:
    """Linux 6.10: the index + 1 in an s8, 0 for none."""
    return struct.pack(f"={elements}b", *(table.get(at, -1) + 1 for at in range(elements)))


FORMS = {"u8": as_u8, "int": as_int, "s8": as_s8}


# --- places ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "table",
    [{0: 0}, {5: 0, 9: 1}, {3: 2, 1: 0, 2: 1}, {at: at for at in range(10)}],
    ids=["first", "gaps", "unordered", "full"],
)
def test_places(form: Encode, table: dict[int, int]) -> None:
    assert _counter_slots.places(form(table, 10), len(table), 10) == table


@given(
    kept=st.lists(st.integers(0, 119), min_size=1, max_size=60, unique=True),
    form=st.sampled_from(list(FORMS.values())),
)
def test_places_round_trip(kept: list[int], form: Encode) -> None:
    table = {value: place for place, value in enumerate(kept)}
    assert _counter_slots.places(form(table, 120), len(kept), 120) == table


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(40), id="zeros"),
        pytest.param(b"\xff" * 40, id="none kept"),
        pytest.param(bytes(range(100, 140)), id="out of range"),
        pytest.param(b"\0\0\1\2" + b"\xff" * 36, id="a place used twice"),
        pytest.param(b"\0\2\3" + b"\xff" * 37, id="a place left out"),
        pytest.param(b"\0\1\2\7" + b"\xff" * 36, id="an odd mark for none"),
        pytest.param(b"\xa5" * 40, id="garbage"),
    ],
)
def test_no_places(table: bytes) -> None:
    assert _counter_slots.places(table, 3, 10) is None


def test_a_table_that_is_too_short_is_no_table() -> None:
    table = {0: 0, 1: 1, 9: 2}
    assert _counter_slots.places(as_u8(table, 10)[:9], 3, 10) is None
    assert _counter_slots.places(as_int(table, 10)[:39], 3, 10) is None


# --- by the kernel's tables -----------------------------------------------------------


def tables_of(kernel: Kernel, state: Encode, events: Encode) -> tuple[bytes, bytes]:
    counters, slots, types = kernel.counters(), kernel.slots(), kernel.types()
    stats_size, events_size = _counter_slots.table_sizes(types)
    start = types.vmstats["state"].length
    kept_state = {counters[name][1]: slots[name] for name in kernel.state.split()}
    kept_events = {counters[name][1]: slots[name] - start for name in kernel.events.split()}
    return state(kept_state, stats_size), events(kept_events, events_size)


def without_counts(slots: dict[str, int]) -> dict[str, int]:
    """Less the enumerators that count the others."""
    counts = ("NR_VM_NODE_STAT_ITEMS", "MEMCG_NR_STAT", "NR_VM_EVENT_ITEMS")
    return {name: slot for name, slot in slots.items() if name not in counts}


@pytest.mark.parametrize(
    ("kernel", "state", "events"),
    [
        pytest.param(LINUX_6_1, as_int, as_int, id="6.1"),
        pytest.param(LINUX_6_12, as_s8, as_s8, id="6.12 with 6.10's form"),
        pytest.param(LINUX_6_12, as_u8, as_u8, id="6.12"),
        pytest.param(LINUX_6_18, as_u8, as_u8, id="6.18"),
        pytest.param(LINUX_7_3, as_u8, as_u8, id="7.3"),
    ],
)
def test_from_tables(kernel: Kernel, state: Encode, events: Encode) -> None:
    types = kernel.types()
    layout = _counter_slots.from_tables(types, *tables_of(kernel, state, events))
    assert layout is not None
    truth = without_counts(kernel.slots())
    assert {name: layout.slots.get(name) for name in truth} == truth
    places = [at for name, at in layout.slots.items() if types.counters[name][0] == EVENT]
    assert len(places) == types.vmstats["events"].length
    assert not layout.rebuilt


@pytest.mark.parametrize("which", [0, 1])
def test_from_damaged_tables(which: int) -> None:
    tables = list(tables_of(LINUX_6_12, as_u8, as_u8))
    tables[which] = bytes(len(tables[which]))
    assert _counter_slots.from_tables(LINUX_6_12.types(), tables[0], tables[1]) is None


def test_a_direct_state_needs_no_table() -> None:
    events = tables_of(LINUX_6_1, as_u8, as_int)[1]
    layout = _counter_slots.from_tables(LINUX_6_1.types(), b"", events)
    assert layout is not None
    assert layout.slots["NR_ANON_MAPPED"] == LINUX_6_1.counters()["NR_ANON_MAPPED"][1]
    assert "PGPROMOTE_SUCCESS" not in layout.slots, "only nodes count it there"


@pytest.mark.parametrize(
    ("kernel", "direct"),
    [
        *((LINUX_5_10, True), (LINUX_5_15, True)),
        *((LINUX_6_1, True), (LINUX_6_12, False), (LINUX_6_18, False), (LINUX_7_3, False)),
    ],
    ids=[*DIRECT, *KERNELS],
)
def test_state_is_direct(kernel: Kernel, direct: bool) -> None:
    assert _counter_slots.state_is_direct(kernel.types()) is direct


def test_a_kernel_without_state_is_not_direct() -> None:
    types = KernelTypes({}, None, frozenset(), frozenset(), {}, {})
    assert not _counter_slots.state_is_direct(types)
    assert _counter_slots.direct(types) is None


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_where_both_arrays_are_direct_the_enumerators_tell_all(kernel: Kernel) -> None:
    layout = _counter_slots.direct(kernel.types())
    assert layout is not None
    assert layout.slots == without_counts(kernel.slots())
    assert not layout.rebuilt


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_where_events_have_a_table_the_enumerators_do_not(kernel: Kernel) -> None:
    assert _counter_slots.direct(kernel.types()) is None


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_every_item_that_an_old_kernel_prints_has_its_slots(kernel: Kernel) -> None:
    layout = _counter_slots.direct(kernel.types())
    assert layout is not None
    for key in kernel.printed.split():
        source = CATALOGUE[key].source
        assert isinstance(source, Counters)
        parts = [[name for name in part if name in layout.slots] for part in source.parts]
        assert any(parts), key


@pytest.mark.parametrize(
    ("kernel", "enumerator"),
    [
        (LINUX_5_10, "NR_FILE_THPS"),  # b8eddff8886b, 5.11
        (LINUX_5_10, "NR_SHMEM_THPS"),
        (LINUX_5_10, "PSWPIN"),  # between 6.12 and 6.17
        (LINUX_5_10, "THP_SWPOUT"),  # 6.7
        (LINUX_5_10, "NUMA_HINT_FAULTS"),  # 6.12
        (LINUX_5_15, "PGDEMOTE_KSWAPD"),  # 6.12
    ],
)
def test_what_only_nodes_count_has_no_slot_although_it_has_an_enumerator(
    kernel: Kernel, enumerator: str
) -> None:
    layout = _counter_slots.direct(kernel.types())
    assert layout is not None
    assert enumerator in kernel.types().counters
    assert enumerator not in layout.slots


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_the_counts_of_enumerators_are_no_counters(kernel: Kernel) -> None:
    form = as_u8 if kernel.state else as_int
    layout = _counter_slots.from_tables(kernel.types(), *tables_of(kernel, form, form))
    assert layout is not None
    assert not {"MEMCG_NR_STAT", "NR_VM_NODE_STAT_ITEMS", "NR_VM_EVENT_ITEMS"} & set(layout.slots)
