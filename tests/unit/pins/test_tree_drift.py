# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""bpf_src/pinned_tree.h and the Python side say the same."""

from __future__ import annotations

import re
import struct

import pytest

from pymemcgbpf import _wire
from pymemcgbpf._pins import create_tree as _create_tree
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_programs as _programs

from ..c_values import BPF_SRC, c_layout, c_values

HEADER = '"pinned_tree.h"'

CONSTANTS = {
    "MEMCG_TREE_MAGIC": _layout.MAGIC,
    "MEMCG_TREE_VERSION": _layout.VERSION,
    "MEMCG_TREE_PATH_SIZE": _layout.PATH_SIZE,
    "MEMCG_TREE_NEW": _layout.NEW,
    "MEMCG_TREE_ALIVE": _layout.ALIVE,
    "MEMCG_TREE_REMOVED": _layout.REMOVED,
    "MEMCG_TREE_TOO_LARGE": _layout.TOO_LARGE,
    "MEMCG_TREE_ENDED": _layout.ENDED,
    "MEMCG_TREE_BY_KERNEL": _layout.BY_KERNEL,
    "MEMCG_TREE_HAS_NAMES": _layout.HAS_NAMES,
    "MEMCG_TREE_FLUSHES": _layout.FLUSHES,
    "MEMCG_TREE_CAN_RENAME": _layout.CAN_RENAME,
    "MEMCG_TREE_END": _layout.END,
}

# Each structure: its packing here, where that begins, and its fields in the packing's order.
STRUCTS = {
    "head": (
        _layout.STATIC,
        0,
        (
            *("magic", "version", "head_size", "chunk_size", "half_chunks", "row_size"),
            *("rows_per_chunk", "nr_items", "order", "max_depth", "flags", "room", "root_id"),
            *("interval_ns", "items"),
        ),
    ),
    "half": (
        _layout.HALF,
        0,
        (
            *("number", "started_ns", "ended_ns", "signature", "nr_rows", "text_chunks"),
            "root_path",
        ),
    ),
    "text": (_layout.TEXT, 0, ("size", "nr_names")),
    "piece": (_layout.PIECE, 0, ("number", "index", "size")),
    "walk": (
        _layout.WALK,
        0,
        (
            *("program", "rows", "text", "root_path", "started_ns", "ended_ns", "due_ns"),
            *("signature", "nr_rows", "text_chunks", "state", "status"),
        ),
    ),
}
PROGRESS = ("writing", "written", "due_ns", "walks", "walks_ns", "state", "needed", "halves")


def test_constants() -> None:
    assert c_values([HEADER], CONSTANTS) == CONSTANTS


def test_nothing_of_the_header_is_left_out() -> None:
    text = (BPF_SRC / "pinned_tree.h").read_text()
    defined = re.findall(r"^(?:#define\s+|\t)(MEMCG_TREE_\w+)[ \t=]", text, re.MULTILINE)
    assert set(defined) == set(CONSTANTS)
    assert set(re.findall(r"^struct memcg_tree_(\w+) \{", text, re.MULTILINE)) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_structure(name: str) -> None:
    packing, begin, fields = STRUCTS[name]
    layout = c_layout([HEADER], f"struct memcg_tree_{name}", fields)
    starts = _starts(packing, begin)
    assert dict(zip(fields, starts)) == {field: layout[field] for field in fields}
    if len(starts) == len(fields) + 1:
        assert starts[-1] == layout[""]


def test_what_changes_in_the_head() -> None:
    layout = c_layout([HEADER], "struct memcg_tree_head", PROGRESS)
    starts = _starts(_layout.PROGRESS, _layout.PROGRESS_AT)
    assert dict(zip(PROGRESS, starts)) == {field: layout[field] for field in PROGRESS}
    assert layout["halves"] == _layout.HALVES_AT and layout[""] == _layout.HEAD_SIZE
    assert c_layout([HEADER], "struct memcg_tree_half", ())[""] == _layout.HALF_SIZE


def _starts(packing: struct.Struct, begin: int) -> list[int]:
    """Where each field begins, and the end."""
    codes = packing.format
    assert codes.startswith("=") and not re.search(r"\d", codes)
    return [begin + struct.calcsize(codes[:at]) for at in range(1, len(codes) + 1)]


def test_the_timer_s_map_is_as_large_as_its_structures() -> None:
    source = (BPF_SRC / "pinned_tree.bpf.c").read_text()
    assert "struct clock {\n\tstruct bpf_timer timer;\n\tstruct bpf_wq work;\n};" in source
    timer = c_values(["<linux/bpf.h>"], ["sizeof(struct bpf_timer)"])
    assert [*timer.values()] == [_programs._TIMER_SIZE - 16]
    assert "struct bpf_wq {\n\t__u64 __opaque[2];\n}" in source


def test_the_documented_limits_are_the_program_s() -> None:
    source = (BPF_SRC / "pinned_tree.bpf.c").read_text()
    limits = dict(re.findall(r"^#define (\w+_PER_WALK|LEAST_\w+)\s+(\w+)", source, re.MULTILINE))
    assert limits["PAUSE_PER_WALK"] == "3", "pin_tree() says so"
    assert int(limits["LEAST_PAUSE_NS"].rstrip("UL")) <= _create_tree.LEAST_INTERVAL * 1e9


def test_the_head_fits_into_every_chunk() -> None:
    for items in range(1, _wire.MAX_ITEMS + 1):
        division = _layout.geometry(items, 1)
        assert _layout.HEAD_SIZE <= division.chunk_size <= _layout.MOST_CHUNK
        assert division.chunk_size > _layout.TEXT.size + _wire.NAME_SIZE
