# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the program is loaded with that walks a tree from an open directory."""

from __future__ import annotations

import struct

import pytest

from pymemcgbpf import BackendUnavailableError, _options
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import run_dir as _run_dir
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf import walk_dir as _walk_dir
from pymemcgbpf._bpf.btf import KernelTypes, Member
from pymemcgbpf._bpf.plan import PointerPath, ReadPlan, Term, page_constants

from ..fake_libbpf import WALK_RODATA
from ..kernels import KERNELS, LINUX_6_18, Kernel

VMSTATS = PointerPath(_terms.START_MEMCG, (880,))
PLAN = ReadPlan("core", {"pgfault": (Term(_terms.KIND_WORD, 8 * 16, 1, VMSTATS),)})
NEEDED = (
    ("cgroup", "self"),
    *(("cgroup_subsys_state", name) for name in ("parent", "sibling", "children")),
    ("cgroup_subsys_state", "serial_nr"),
    *(("kernfs_node", name) for name in ("name", "hash", "id")),
)


def with_members(types: KernelTypes, struct_name: str, /, **members: int) -> KernelTypes:
    """These types with some members of a structure at other places."""
    found = {**types.structs[struct_name], **{each: Member(at) for each, at in members.items()}}
    return types._replace(structs={**types.structs, struct_name: found})


def test_what_it_is_loaded_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    found, _ = _walk_dir.computing(PLAN, _options.POST)
    not_of_the_plan = {
        "limit_value",
        "limit_counter",
        "program_key",
        "nr_names_fit",
        "text_size",
        "can_rename",
        "max_depth",
    }
    assert found.keys() == WALK_RODATA.keys() - not_of_the_plan
    assert all(len(data) <= WALK_RODATA[name] for name, data in found.items())
    assert {name: found[name] for name in page_constants()} == page_constants()
    assert found["offsets"] == _run_dir.offsets(LINUX_6_18.types())
    assert (found["nr_items"], found["order"]) == (_terms.u32(1), _terms.u32(_options.POST))
    assert found["longest_ns"] == _terms.u64(1_000_000)
    assert 0 < _walk_dir.STEPS_AT_ONCE <= 64, "MAX_STEPS in walk_dir.bpf.c"
    assert found["searches"] == b"\0"


def test_parts_begin_at_a_word_and_have_all_members_whole() -> None:
    types = with_members(
        LINUX_6_18.types(),
        "cgroup_subsys_state",
        sibling=40,
        children=56,
        serial_nr=80,
        parent=184,
    )
    types = with_members(types, "kernfs_node", name=16, hash=60, id=96)
    found = struct.unpack("=14I", _walk_dir.walk_offsets(types))
    assert found[:4] == (0, 184, 40, 56)
    assert found[4:9] == (40, 48, 0, 16, 40)
    assert found[9:] == (16, 88, 0, 44, 80)
    types = with_members(types, "kernfs_node", name=64, hash=12, id=32)
    assert struct.unpack("=14I", _walk_dir.walk_offsets(types))[9:] == (8, 64, 56, 4, 24)


@pytest.mark.parametrize(("name", "member"), NEEDED, ids=".".join)
def test_a_missing_member_is_named(name: str, member: str) -> None:
    types = LINUX_6_18.types()
    members = {each: at for each, at in types.structs[name].items() if each != member}
    types = types._replace(structs={**types.structs, name: members})
    with pytest.raises(BackendUnavailableError, match=f"no {member} in struct {name}$"):
        _walk_dir.walk_offsets(types)


def test_members_that_are_too_far_apart() -> None:
    types = with_members(LINUX_6_18.types(), "kernfs_node", name=0, hash=8, id=248)
    assert struct.unpack("=14I", _walk_dir.walk_offsets(types))[10] == _walk_dir.MAX_PART
    types = with_members(types, "kernfs_node", id=256)
    with pytest.raises(BackendUnavailableError, match="struct kernfs_node is larger"):
        _walk_dir.walk_offsets(types)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_no_kernel_lacks_a_member(kernel: Kernel) -> None:
    assert len(_walk_dir.walk_offsets(kernel.types())) == WALK_RODATA["walk_offsets"]
