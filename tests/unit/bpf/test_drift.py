# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""bpf_src/memcg_stats.h and the Python side say the same."""

from __future__ import annotations

import re
import struct

import pytest

from pymemcgbpf import _items, _options, _wire
from pymemcgbpf._bpf import run_dir as _run_dir
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf import walk_dir as _walk_dir
from pymemcgbpf._sources import one_bpf as _one_bpf
from pymemcgbpf._sources import tree_walkers as _tree_walkers

from ..c_values import BPF_SRC, c_layout, c_values

HEADER = '"memcg_stats.h"'

CONSTANTS = {
    "MEMCG_STATS_MAGIC": _wire.MAGIC,
    "MEMCG_STATS_END_MAGIC": _wire.END_MAGIC,
    "MEMCG_STATS_VERSION": _wire.VERSION,
    "MEMCG_STATS_MAX_ITEMS": _wire.MAX_ITEMS,
    "MEMCG_STATS_MAX_TERMS": _terms.MAX_TERMS,
    "MEMCG_STATS_MAX_BLOCKS": _terms.MAX_BLOCKS,
    "MEMCG_STATS_MAX_WORDS": _terms.MAX_WORDS,
    "MEMCG_STATS_MAX_STEPS": 2,
    "MEMCG_STATS_ABSENT": _wire.ABSENT,
    "MEMCG_STATS_UNLIMITED": _items.UNLIMITED,
    "MEMCG_STATS_ROW_ROOT": _wire.ROW_ROOT,
    "MEMCG_STATS_ROW_TAG_SHIFT": _wire.ROW_TAG_SHIFT,
    "MEMCG_STATS_NAME_SIZE": _wire.NAME_SIZE,
    "MEMCG_STATS_NOT_RUN": _wire.NOT_RUN,
    "MEMCG_STATS_DONE": _wire.DONE,
    "MEMCG_STATS_GONE": _wire.GONE,
    "MEMCG_STATS_BUSY": _wire.BUSY,
    "MEMCG_STATS_BAD_ORDER": _wire.BAD_ORDER,
    "MEMCG_STATS_OTHER": _wire.OTHER,
    "MEMCG_STATS_NOT_OPEN": _wire.NOT_OPEN,
    "MEMCG_STATS_NOT_VISIBLE": _wire.NOT_VISIBLE,
    "MEMCG_STATS_NO_SLOT": _wire.NO_SLOT,
    "MEMCG_STATS_TOO_DEEP": _wire.TOO_DEEP,
    "MEMCG_STATS_UNREADABLE": _wire.UNREADABLE,
    "MEMCG_STATS_MORE": _walk_dir.MORE,
    "MEMCG_STATS_MAX_PART": _walk_dir.MAX_PART,
    "MEMCG_STATS_SEQUENCE_BITS": _run_dir.SEQUENCE_BITS,
    "MEMCG_STATS_FAILED": _run_dir.FAILED,
    "MEMCG_STATS_BACKEND_KFUNC": _terms.BACKEND_NUMBERS["kfunc"],
    "MEMCG_STATS_BACKEND_RFC": _terms.BACKEND_NUMBERS["rfc"],
    "MEMCG_STATS_BACKEND_CORE": _terms.BACKEND_NUMBERS["core"],
    "MEMCG_STATS_FLUSH_NONE": _terms.FLUSH_NONE,
    "MEMCG_STATS_FLUSH_KFUNC": _terms.FLUSH_KFUNC,
    "MEMCG_STATS_FLUSH_RFC": _terms.FLUSH_RFC,
    "MEMCG_STATS_FLUSH_RSTAT": _terms.FLUSH_RSTAT,
    "MEMCG_STATS_KIND_NODE": _terms.KINDS["node_stat_item"],
    "MEMCG_STATS_KIND_MEMCG": _terms.KINDS["memcg_stat_item"],
    "MEMCG_STATS_KIND_EVENT": _terms.KINDS["vm_event_item"],
    "MEMCG_STATS_KIND_MEMORY_EVENT": _terms.KIND_MEMORY_EVENT,
    "MEMCG_STATS_KIND_USAGE": _terms.KIND_USAGE,
    "MEMCG_STATS_KIND_WORD": _terms.KIND_WORD,
    "MEMCG_STATS_KIND_SIGNED": _terms.KIND_SIGNED,
    "MEMCG_STATS_KIND_LIMIT": _terms.KIND_LIMIT,
    "MEMCG_STATS_KIND_NANOSECONDS": _terms.KIND_NANOSECONDS,
    "MEMCG_STATS_KIND_LEAST_LIMIT": _terms.KIND_LEAST_LIMIT,
    "MEMCG_STATS_TERM_LAST": _terms.TERM_LAST,
    "MEMCG_STATS_TERM_NOT_ON_ROOT": _terms.TERM_NOT_ON_ROOT,
    "MEMCG_STATS_TERM_AT_LEAST_0": _terms.TERM_AT_LEAST_0,
    "MEMCG_STATS_START_MEMCG": _terms.START_MEMCG,
    "MEMCG_STATS_START_CGROUP": _terms.START_CGROUP,
}

ORDERS = {
    "BPF_CGROUP_ITER_SELF_ONLY": _options.SELF,
    "BPF_CGROUP_ITER_DESCENDANTS_PRE": _options.PRE,
    "BPF_CGROUP_ITER_DESCENDANTS_POST": _options.POST,
    "BPF_CGROUP_ITER_ANCESTORS_UP": _options.UP,
}

# The fields of struct memcg_stats_offsets, and the members of kernel structures whose offsets they
# are.
OFFSETS = {
    "task_files": ("task_struct", "files"),
    "files_fdt": ("files_struct", "fdt"),
    "fdt_max_fds": ("fdtable", "max_fds"),
    "fdt_fd": ("fdtable", "fd"),
    "file_inode": ("file", "f_inode"),
    "inode_private": ("inode", "i_private"),
    "inode_sb": ("inode", "i_sb"),
    "sb_magic": ("super_block", "s_magic"),
    "kn_id": ("kernfs_node", "id"),
    "kn_priv": ("kernfs_node", "priv"),
    "cgroup_kn": ("cgroup", "kn"),
    "cgroup_level": ("cgroup", "level"),
    "cgroup_memory": ("cgroup", "subsys"),
    "css_flags": ("cgroup_subsys_state", "flags"),
    "memcg_css": ("mem_cgroup", "css"),
}

# The fields of struct memcg_stats_walk_offsets.
WALK_OFFSETS = (
    *("cgroup_self", "css_parent", "css_sibling", "css_children"),
    *("css_part", "css_part_size", "css_part_sibling", "css_part_children", "css_part_serial"),
    *("kn_part", "kn_part_size", "kn_part_name", "kn_part_hash", "kn_part_id"),
)

# Each structure: its packing here, and its fields in the packing's order.
STRUCTS = {
    "header": (
        _wire.HEADER,
        ("magic", "version", "header_size", "row_size", "nr_items", "order", "items"),
    ),
    "row": (_wire.ROW, ("cgroup_id", "parent_id", "level", "flags")),
    "names": (
        _wire.NAMES,
        ("named_id", "newest_id", "signature", "nr_names", "text_size"),
    ),
    "name": (_wire.NAME, ("cgroup_id", "parent_id")),
    "trailer": (_wire.TRAILER, ("magic", "nr_rows", "end_ns")),
    "call": (_wire.CALL, ("cgroup_id", "program", "status", "nr_rows")),
    "term": (_terms.TERM, ("kind", "flags", "block", "counter", "unit")),
    "block": (
        _terms.BLOCK,
        ("start", "nr_steps", "steps", "steps[1]", "offset", "size", "word", "enabled_offset"),
    ),
    "offsets": (struct.Struct(f"={len(OFFSETS)}I"), (*OFFSETS,)),
    "walk_offsets": (struct.Struct(f"={len(WALK_OFFSETS)}I"), WALK_OFFSETS),
}


def test_constants() -> None:
    assert c_values([HEADER], CONSTANTS) == CONSTANTS


def test_orders() -> None:
    assert c_values(["<linux/bpf.h>"], ORDERS) == ORDERS
    # Linux 7.0's header has it too; the enum's next, wherever it is.
    assert {*_options.ORDERS.values()} - {*ORDERS.values()} == {_options.CHILDREN} == {5}


def test_no_constant_of_the_header_is_left_out() -> None:
    text = (BPF_SRC / "memcg_stats.h").read_text()
    defined = set(re.findall(r"^(?:#define\s+|\t)(MEMCG_STATS_\w+)[ \t=]", text, re.MULTILINE))
    assert defined == set(CONSTANTS)


def test_no_structure_of_the_header_is_left_out() -> None:
    text = (BPF_SRC / "memcg_stats.h").read_text()
    assert set(re.findall(r"^struct memcg_stats_(\w+) \{", text, re.MULTILINE)) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_structure(name: str) -> None:
    packing, fields = STRUCTS[name]
    layout = c_layout([HEADER], f"struct memcg_stats_{name}", fields)
    size = layout[""] - (2 * _wire.MAX_ITEMS if name == "header" else 0)
    assert packing.size == size
    codes = re.sub(r"(\d+)(\w)", lambda match: int(match[1]) * match[2], packing.format)
    starts = [struct.calcsize(codes[: at + 1]) for at in range(len(codes))]
    ours = dict(zip(fields, [*starts[:-1], packing.size]))
    assert ours == {field: layout[field] for field in fields}


def test_the_offsets_are_given_in_the_order_of_their_structure() -> None:
    assert tuple(OFFSETS.values()) == _run_dir._OFFSETS


def test_the_number_of_an_answer_fits_into_what_a_program_returns() -> None:
    # NR_CPUS is 8192 at most. (arch/x86/Kconfig: "range 2 8192 if SMP && CPUMASK_OFFSTACK")
    assert 8191 << _run_dir.SEQUENCE_BITS | (1 << _run_dir.SEQUENCE_BITS) - 1 < _run_dir.FAILED
    statuses = (_wire.OTHER, _wire.NOT_OPEN, _wire.NOT_VISIBLE, _wire.NO_SLOT)
    assert _run_dir.FAILED | max(statuses) < 1 << 32


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_order_is_the_machine_s_own_without_padding(name: str) -> None:
    assert STRUCTS[name][0].format.startswith("=")


def test_an_answer_is_taken_apart_where_it_lies() -> None:
    # What follows a struct memcg_stats_call is the row of a struct run_one_ctx.
    assert _wire.CALL.size % 8 == _wire.ROW.size % 8 == 0
    call = _wire.CALL.pack(1 << 40, 7, _wire.BUSY, 1)
    layout = c_layout([HEADER], "struct memcg_stats_call", ("status", "nr_rows"))
    assert struct.unpack_from("=I", call, layout["status"]) == (_wire.BUSY,)
    assert call[_one_bpf._ANSWER] == call[layout["status"] :]
    done = _wire.CALL.pack(1 << 40, 7, _wire.DONE, 1)
    assert done[_one_bpf._ANSWER] == _one_bpf._ONE_ROW
    row = c_values([HEADER], ["sizeof(struct memcg_stats_call) + sizeof(struct memcg_stats_row)"])
    assert [*row.values()] == [_one_bpf._VALUES_AT]


def test_the_message_for_a_tree_that_is_too_deep_names_the_program_s_limit() -> None:
    source = (BPF_SRC / "walk_dir.bpf.c").read_text(encoding="utf-8")
    (limit,) = re.findall(r"^#define MAX_LEVELS (\d+)", source, re.M)
    assert int(limit) == _tree_walkers.MAX_LEVELS


def test_the_shared_walk_s_stream_is_read_whole() -> None:
    # The largest header, and the trailer.
    whole = "sizeof(struct memcg_stats_header) + sizeof(struct memcg_stats_trailer)"
    assert c_values([HEADER], [whole])[whole] <= _tree_walkers._HEADER_AND_TRAILER


def test_a_term_is_packed_as_the_program_reads_it() -> None:
    term = _terms.EncodedTerm(kind=3, flags=1, block=7, counter=0x01020304, unit=1 << 40)
    assert _terms.encode_terms([term, term]) == 2 * struct.pack(
        "=BBHIQ", 3, 1, 7, 0x01020304, 1 << 40
    )
    assert _terms.encode_terms([]) == b""


def test_a_block_is_packed_as_the_program_reads_it() -> None:
    block = _terms.Block(1, 2, 3, 4, 5, 6, 7, 8)
    packed = struct.pack("=HHIIIIII", 1, 2, 3, 4, 5, 6, 7, 8)
    assert _terms.encode_blocks([block, block]) == 2 * packed
