# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""bpf_src/departures.h and the Python side say the same."""

from __future__ import annotations

import re
import struct

import pytest

from pymemcgbpf._bpf import departures as _departures

from ..c_values import BPF_SRC, c_layout, c_values

HEADER = '"departures.h"'

CONSTANTS = {
    "MEMCG_DEPARTED_MAX_DEPTH": 1024,
    "MEMCG_DEPARTED_UNSETTLED": _departures.UNSETTLED,
    "MEMCG_DEPARTED_TEXT_SIZE": _departures.TEXT_SIZE,
    "MEMCG_DEPARTED_CPU_WORDS": _departures.CPU_WORDS,
    "MEMCG_DEPARTED_MAX_COUNTERS": _departures.MAX_COUNTERS,
}

# The fields of struct memcg_departed_offsets, and the members of kernel structures whose offsets
# they are.
OFFSETS = {
    "cgroup_self": ("cgroup", "self"),
    "cgroup_kn": ("cgroup", "kn"),
    "cgroup_level": ("cgroup", "level"),
    "cgroup_memory": ("cgroup", "subsys"),
    "cgroup_control": ("cgroup", "subtree_control"),
    "css_parent": ("cgroup_subsys_state", "parent"),
    "css_sibling": ("cgroup_subsys_state", "sibling"),
    "css_children": ("cgroup_subsys_state", "children"),
    "kn_id": ("kernfs_node", "id"),
    "kn_name": ("kernfs_node", "name"),
    "memcg_css": ("mem_cgroup", "css"),
    "memcg_vmstats": ("mem_cgroup", "vmstats"),
    "memcg_vmstats_percpu": ("mem_cgroup", "vmstats_percpu"),
    "array_pptrs": ("bpf_array", "pptrs"),
}

# Each structure: its packing here, and its fields in the packing's order.
STRUCTS = {
    "head": (_departures.HEAD, ("removed_ns", "flags", "text_size", "depth", "nr_names")),
    "offsets": (struct.Struct(f"={len(OFFSETS)}I"), (*OFFSETS,)),
    "counter": (_departures.COUNTER, ("word", "flushed", "pending", "now", "before")),
    "part": (_departures.PART, ("offset", "size")),
}


def test_constants() -> None:
    assert c_values([HEADER], CONSTANTS) == CONSTANTS


def test_nothing_of_the_header_is_left_out() -> None:
    text = (BPF_SRC / "departures.h").read_text()
    assert set(re.findall(r"^#define\s+(MEMCG_DEPARTED_\w+)", text, re.M)) == set(CONSTANTS)
    assert set(re.findall(r"^struct memcg_departed_(\w+) \{", text, re.M)) == set(STRUCTS)


def test_the_offsets_are_given_in_the_order_of_their_structure() -> None:
    assert (*OFFSETS.values(),) == (*_departures.OFFSETS, ("bpf_array", "pptrs"))


@pytest.mark.parametrize("name", STRUCTS)
def test_structure(name: str) -> None:
    packing, fields = STRUCTS[name]
    layout = c_layout([HEADER], f"struct memcg_departed_{name}", fields)
    codes = re.sub(r"(\d+)(\w)", lambda match: int(match[1]) * match[2], packing.format)
    ends = [struct.calcsize(codes[: at + 2]) for at in range(len(codes) - 1)]
    widths = [struct.calcsize(f"={code}") for code in codes[1:]]
    assert {"": packing.size, **dict(zip(fields, (a - b for a, b in zip(ends, widths))))} == layout


def test_a_record_lies_as_the_kernel_writes_it() -> None:
    # A ring buffer's record has 8 bytes before it; struct memcg_stats_row follows the head.
    assert _departures.RECORD_HEADER.size == 8
    whole = "sizeof(struct memcg_departed_head) + sizeof(struct memcg_stats_row)"
    assert c_values([HEADER], [whole])[whole] == _departures.HEAD.size + 24
