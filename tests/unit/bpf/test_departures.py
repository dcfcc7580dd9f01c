# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The constants of the program that writes down removed cgroups."""

from __future__ import annotations

import struct

import pytest

from pymemcgbpf import BackendUnavailableError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import departures as _departures
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.btf import Member
from pymemcgbpf._bpf.plan import ReadPlan, Term, vmstats_path

from ..kernels import KERNELS

TYPES = KERNELS["6.12"].types()
FLUSHED = TYPES.structs["memcg_vmstats"]
OWN = TYPES.structs["memcg_vmstats_percpu"]


def of_counters(*offsets: int) -> ReadPlan:
    """A plan with an item for each of these words of struct memcg_vmstats."""
    base = vmstats_path(TYPES)
    terms = {f"item{at}": (Term(_terms.KIND_SIGNED, at, 1, base),) for at in offsets}
    other = Term(_terms.KIND_WORD, 64, 1)
    return ReadPlan("core", {"other": (other._replace(base=base._replace(steps=())),), **terms})


def test_each_counter_is_found_in_all_four_arrays() -> None:
    state, events = FLUSHED["state"].offset + 8 * 3, FLUSHED["events"].offset + 8 * 2
    found = list(_departures.counters_of(of_counters(events, state), TYPES))
    # The words of the block begin with its first one, after the one of the other structure.
    assert found == [
        _departures.Counter(
            1,
            state,
            FLUSHED["state_pending"].offset + 24,
            OWN["state"].offset + 24,
            OWN["state_prev"].offset + 24,
        ),
        _departures.Counter(
            1 + (events - state) // 8,
            events,
            FLUSHED["events_pending"].offset + 16,
            OWN["events"].offset + 16,
            OWN["events_prev"].offset + 16,
        ),
    ]


def test_a_plan_without_counters_needs_no_sums() -> None:
    base = vmstats_path(TYPES)._replace(steps=())
    plan = ReadPlan("core", {"peak": (Term(_terms.KIND_WORD, 8, 1, base),)})
    assert list(_departures.counters_of(plan, TYPES)) == []
    assert plan.block_number(vmstats_path(TYPES)) is None
    constants = _departures.counter_constants([])
    assert constants["nr_counters"] == bytes(4) and constants["own_part"] == bytes(8)


def test_what_is_copied_spans_all_words() -> None:
    counters = [_departures.Counter(0, 80, 400, 24, 600), _departures.Counter(1, 8, 300, 48, 500)]
    constants = _departures.counter_constants(counters)
    assert struct.unpack("=2I", constants["flushed_part"]) == (8, 400)
    assert struct.unpack("=2I", constants["own_part"]) == (24, 584)
    assert len(constants["counters"]) == 2 * _departures.COUNTER.size


@pytest.mark.parametrize(
    ("struct_name", "member"),
    [("memcg_vmstats", "events_pending"), ("memcg_vmstats_percpu", "state_prev")],
)
def test_a_kernel_that_keeps_them_otherwise(struct_name: str, member: str) -> None:
    members = {**TYPES.structs[struct_name]}
    del members[member]
    types = TYPES._replace(structs={**TYPES.structs, struct_name: members})
    with pytest.raises(BackendUnavailableError, match=f"no {member[:5]}.*Linux 6.1"):
        list(_departures.counters_of(of_counters(FLUSHED["state"].offset), types))


def test_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"pptrs": Member(312)}
    monkeypatch.setattr(_btf, "members_of", lambda name: members)
    assert TYPES.memory_cgrp_id is not None
    found = struct.unpack("=14I", _departures.offsets(TYPES))
    cgroup = TYPES.structs["cgroup"]
    assert found[3] == cgroup["subsys"].offset + 8 * TYPES.memory_cgrp_id
    assert found[4] == cgroup["subtree_control"].offset + TYPES.memory_cgrp_id // 8
    assert found[-1] == 312
    members.clear()
    structs = {name: dict(each) for name, each in TYPES.structs.items()}
    with pytest.raises(BackendUnavailableError, match="no pptrs in struct bpf_array"):
        _departures.offsets(TYPES)
    del structs["mem_cgroup"]["vmstats_percpu"]
    with pytest.raises(BackendUnavailableError, match="no vmstats_percpu in struct mem_cgroup"):
        _departures.offsets(TYPES._replace(structs=structs))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([0, 1], {0: 3}), ([0, 1, 63, 64, 130], {0: 3 | 1 << 63, 1: 1, 2: 4})],
)
def test_the_possible_cpus(numbers: list[int], words: dict[int, int]) -> None:
    constants = _departures.cpu_constants(numbers)
    assert constants["nr_cpus"] == _terms.u32(numbers[-1] + 1)
    found = struct.unpack(f"={_departures.CPU_WORDS}Q", constants["possible_cpus"])
    assert {at: word for at, word in enumerate(found) if word} == words


@pytest.mark.parametrize(
    ("counters", "cpus", "number"),
    [(0, 2, 1023), (6, 2, 1023), (70, 2, 142), (6, 128, 26), (70, 4096, 0)],
)
def test_the_work_with_interrupts_off_is_bounded(counters: int, cpus: int, number: int) -> None:
    assert _departures.most_below(counters, cpus) == number


@pytest.mark.parametrize("numbers", [[], [0, 4096]])
def test_too_many_cpus(numbers: list[int]) -> None:
    with pytest.raises(BackendUnavailableError, match="which CPUs there are"):
        _departures.cpu_constants(numbers)


@pytest.mark.parametrize("items", [0, 1, 6, 70, 512])
def test_there_is_room_for_as_many_as_is_promised(items: int) -> None:
    room = _departures.Room.for_cgroups(10_000, items, 100)
    record = 8 + _departures.HEAD.size + 24 + 8 * items + 101
    assert room.size & (room.size - 1) == 0 and room.size % 4096 == 0
    assert room.size - 8 >= 10_000 * (record + 7 & ~7)
    assert room.size <= 4 * 10_000 * record
