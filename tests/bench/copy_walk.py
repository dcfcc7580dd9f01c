# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The floor of a walk that reads all items: a C program that only copies the kernel's counters."""

from __future__ import annotations

import struct
from contextlib import ExitStack

from pymemcgbpf import TreeReader
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._sources import tree_bpf as _tree_bpf
from tests.kernel.surroundings import HAS_ITERATOR

from .c_programs import CProgram, Programs
from .contestants import flushing_file, with_constants
from .errors import BenchError
from .named_contestants import CGROUPS
from .names import C_COPY, C_MAP
from .runner import Contestant

IS_POSSIBLE = HAS_ITERATOR
"""Whether this kernel has cgroup iterators. All such kernels keep the counters behind a pointer."""

_SPARE_ROWS = 1000


def contestant(
    section: str,
    way: str,
    tree: TreeReader,
    cgroups: int,
    programs: Programs,
    stack: ExitStack,
) -> Contestant:
    """The floor for one way of reading a tree."""
    source = tree._source
    if not isinstance(source, _tree_bpf.MapSource):
        raise BenchError(f"{tree.path} is not read through BPF here: {tree.fallback_reason}")
    types = _btf.kernel()
    structs, arrays = types.structs, (types.vmstats["state"], types.vmstats["events"])
    places = [
        structs["cgroup"]["subsys"].offset + 8 * (types.memory_cgrp_id or 0),
        structs["mem_cgroup"]["vmstats"].offset,
        *(number for array in arrays for number in (array.offset, 8 * array.length)),
    ]
    row_size = 8 + sum(8 * array.length for array in arrays)
    bpf_object = programs.bpf_object("copy_walk")
    constants = programs.directory / "constants-copy"
    constants.write_bytes(with_constants(bpf_object, {"places": struct.pack("=6I", *places)}))
    copying = stack.enter_context(
        CProgram(
            programs.executable("copy_walk"),
            bpf_object,
            constants,
            *(tree.path, str(row_size), str(cgroups + _SPARE_ROWS)),
            *flushing_file(source._flush),
        )
    )

    def batch(walks: int) -> float:
        return copying.batch(walks) / cgroups

    def values() -> dict[str, int]:
        return {CGROUPS: copying.values()[0]}

    return Contestant(C_COPY + way, section, batch, values, C_MAP + way)
