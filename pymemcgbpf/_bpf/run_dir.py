# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The program that reads one cgroup by its open directory: bpf_src/run_dir.bpf.c."""

from __future__ import annotations

import struct

from ..errors import BackendUnavailableError
from . import btf as _btf
from . import casts as _casts
from . import cpus as _cpus
from . import item_code as _item_code
from . import terms as _terms
from .plan import ReadPlan, page_constants
from .program import ANSWERS, RUN_DIR, MapSize, Program

SEQUENCE_BITS = 18
FAILED = 1 << 31

# struct memcg_stats_offsets. That of subsys[] is its element for the memory controller.
_OFFSETS = (
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "max_fds"),
    ("fdtable", "fd"),
    ("file", "f_inode"),
    ("inode", "i_private"),
    ("inode", "i_sb"),
    ("super_block", "s_magic"),
    ("kernfs_node", "id"),
    ("kernfs_node", "priv"),
    ("cgroup", "kn"),
    ("cgroup", "level"),
    ("cgroup", "subsys"),
    ("cgroup_subsys_state", "flags"),
    ("mem_cgroup", "css"),
)


def slot_size(plan: ReadPlan) -> int:
    """The bytes of a CPU's slot: the values, the id, the number of the answer, and the words of
    the blocks."""
    return 8 * (len(plan.terms) + 2 + plan.nr_words)


def load(plan: ReadPlan) -> Program:
    """Loads the program for a plan.

    Raises:
        BackendUnavailableError: this kernel's structures are not as the program needs them.
        MemcgError: the program cannot be loaded; a subclass says why.
    """
    constants, items = computing(plan)
    size = MapSize(slot_size(plan), _cpus.possible())
    program = Program(RUN_DIR, constants, {ANSWERS: size}, items)
    program.freeze(ANSWERS)
    return program


def computing(plan: ReadPlan) -> tuple[dict[str, bytes], bytes]:
    """What a program that starts at an open directory computes: its constants for a plan, and the
    instructions of its compute_items().

    Raises:
        BackendUnavailableError: this kernel's structures are not as the program needs them.
    """
    blocks, terms = plan.encoded()
    cast = _casts.kernel_cast()
    constants = {
        **page_constants(),
        "word_type": _terms.u32(cast.type if cast else 0),
        **_item_code.constants(terms),
        "offsets": offsets(_btf.kernel()),
        "nr_items": _terms.u32(len(plan.terms)),
    }
    items = _item_code.item_code(blocks, terms, cast, keeps_words=plan.keeps_words)
    return constants, items


def offsets(types: _btf.KernelTypes) -> bytes:
    """A struct memcg_stats_offsets.

    Raises:
        BackendUnavailableError: this kernel's structures have no such members.
    """
    found = []
    for name, member in _OFFSETS:
        offset = offset_of(types, name, member)
        if member == "subsys":
            offset += 8 * (types.memory_cgrp_id or 0)
        found.append(offset)
    return struct.pack(f"={len(found)}I", *found)


def offset_of(types: _btf.KernelTypes, name: str, member: str) -> int:
    """The offset of a member in a structure.

    Raises:
        BackendUnavailableError: this kernel's structure has no such member.
    """
    if member not in types.structs.get(name, {}):
        raise BackendUnavailableError(f"this kernel has no {member} in struct {name}")
    return types.structs[name][member].offset
