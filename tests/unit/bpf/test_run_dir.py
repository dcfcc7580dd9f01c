# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the program is loaded with that reads one cgroup by its open directory."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Optional

import pytest

from pymemcgbpf import BackendUnavailableError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import cpus as _cpus
from pymemcgbpf._bpf import item_code as _item_code
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import run_dir as _run_dir
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.btf import KernelTypes, Member
from pymemcgbpf._bpf.plan import PointerPath, ReadPlan, Term, Terms
from pymemcgbpf._bpf.program import MapSize
from pymemcgbpf._sources import program_cache as _program_cache

from ..fake_libbpf import DIR_RODATA
from ..kernels import KERNELS, LINUX_6_18, Kernel

VMSTATS = PointerPath(_terms.START_MEMCG, (880,))
TERMS: Terms = {
    "anon": (Term(_terms.KIND_SIGNED, 8 * 14, 4096, VMSTATS),),
    "pgfault": (Term(_terms.KIND_WORD, 8 * 16, 1, VMSTATS),),
}
PLAN = ReadPlan("core", TERMS)


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)


def without(types: KernelTypes, name: str, member: Optional[str]) -> KernelTypes:
    """These types without a member, or without the whole structure."""
    structs = dict(types.structs)
    members = structs.pop(name)
    if member is not None:
        structs[name] = {each: at for each, at in members.items() if each != member}
    return types._replace(structs=structs)


def test_offsets_are_those_of_btf() -> None:
    types = LINUX_6_18.types()
    found = struct.unpack("=15I", _run_dir.offsets(types))
    expected = [types.structs[name][member].offset for name, member in _run_dir._OFFSETS]
    assert len(found) == len(_run_dir._OFFSETS)
    at = _run_dir._OFFSETS.index(("cgroup", "subsys"))
    assert found[at] == expected[at] + 8 * 4, "the element of the memory controller"
    assert [*found[:at], *found[at + 1 :]] == [*expected[:at], *expected[at + 1 :]]


@pytest.mark.parametrize("number", [None, 0, 3])
def test_the_memory_controller_s_element_is_found_by_its_number(number: Optional[int]) -> None:
    structs = {name: {member: Member(0)} for name, member in _run_dir._OFFSETS}
    for name, member in _run_dir._OFFSETS:
        structs[name][member] = Member(1)
    types = LINUX_6_18.types()._replace(structs=structs, memory_cgrp_id=number)
    found = struct.unpack("=15I", _run_dir.offsets(types))
    assert sum(found) == 15 + 8 * (number or 0)


@pytest.mark.parametrize("whole", [False, True], ids=["member", "structure"])
@pytest.mark.parametrize(("name", "member"), _run_dir._OFFSETS, ids=".".join)
def test_a_missing_member_is_named(name: str, member: str, whole: bool) -> None:
    types = without(LINUX_6_18.types(), name, None if whole else member)
    first = next(each for struct, each in _run_dir._OFFSETS if struct == name) if whole else member
    with pytest.raises(
        BackendUnavailableError, match=f"^this kernel has no {first} in struct {name}$"
    ):
        _run_dir.offsets(types)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_no_kernel_lacks_a_member(kernel: Kernel) -> None:
    assert len(_run_dir.offsets(kernel.types())) == DIR_RODATA["offsets"]


def test_a_slot_has_room_for_values_their_numbers_and_words() -> None:
    # The words from the 14th to the 16th are copied as one block.
    assert PLAN.nr_words == 3
    assert _run_dir.slot_size(PLAN) == 8 * (2 + 2 + 3)
    assert _run_dir.slot_size(ReadPlan("core", {"anon": (Term(1, 2),)})) == 8 * 3


class Loads:
    """The programs that were loaded."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, bytes], Mapping[str, MapSize], bytes]] = []
        self.frozen: list[str] = []
        self.is_lost = False

    def freeze(self, name: str) -> None:
        self.frozen.append(name)

    def load(
        self, name: str, constants: dict[str, bytes], maps: Mapping[str, MapSize], items: bytes
    ) -> Loads:
        self.asked.append((name, constants, maps, items))
        return self


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    made = Loads()
    monkeypatch.setattr(_run_dir, "Program", made.load)
    monkeypatch.setattr(_cpus, "possible", lambda: 6)
    return made


def test_the_program_is_loaded_with_a_slot_for_each_cpu(loads: Loads) -> None:
    assert _run_dir.load(PLAN) is loads  # type: ignore[comparison-overlap]
    ((name, constants, maps, items),) = loads.asked
    assert loads.frozen == [_program.ANSWERS], "nobody but the program may change the answers"
    assert name == _program.RUN_DIR
    assert maps == {_program.ANSWERS: MapSize(_run_dir.slot_size(PLAN), 6)}
    limit = {"limit_value", "limit_counter"}
    assert constants.keys() == DIR_RODATA.keys() - {"program_key", *limit}
    assert all(len(data) <= DIR_RODATA[each] for each, data in constants.items())
    assert constants["nr_items"] == _terms.u32(2)
    assert constants["offsets"] == _run_dir.offsets(LINUX_6_18.types())
    assert items == _item_code.item_code(*PLAN.encoded())


def test_the_least_limit_has_its_constants(loads: Loads) -> None:
    terms = {**PLAN.terms, "derived.effective_limit": (Term(_terms.KIND_LEAST_LIMIT, 160),)}
    _run_dir.load(ReadPlan("core", terms))
    ((_, constants, _, _),) = loads.asked
    assert constants["limit_value"] == _terms.u32(3)
    assert constants["limit_counter"] == _terms.u32(160)


def test_a_kernel_whose_structures_differ_is_not_asked_to_load(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = without(LINUX_6_18.types(), "kernfs_node", "id")
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    with pytest.raises(BackendUnavailableError, match="no id in struct kernfs_node"):
        _run_dir.load(PLAN)
    assert loads.asked == []


def test_the_program_is_kept_for_other_readers(loads: Loads) -> None:
    _program_cache.clear()
    first = _program_cache.cached(_program.RUN_DIR, PLAN, _terms.FLUSH_NONE)
    second = _program_cache.cached(_program.RUN_DIR, ReadPlan("core", {**TERMS}), 0)
    assert first is second
    assert [name for name, *_ in loads.asked] == [_program.RUN_DIR]
