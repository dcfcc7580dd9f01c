# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the running kernel's layout of counters: by its own tables, or rebuilt and checked."""

from __future__ import annotations

import mmap
import os
import time
from typing import Optional

from . import _btf, _cgroupfs, _fork, _kallsyms, _layout, _memory_stat, _program
from ._cgroupfs import Cgroup
from ._recipe import Recipe, terms_of
from ._stat_sources import StreamSource
from .errors import BackendUnavailableError

_lock = _fork.renewed_lock(__name__, "_lock")
_found: Optional[_layout.Layout] = None
_why_not = ""  # why there is none
_ask_again_at = 0.0  # CLOCK_MONOTONIC; asking costs tens of milliseconds
_SECONDS_BETWEEN = 60.0  # a check can fail because the numbers moved, or all were 0


def find(types: _btf.KernelTypes, cgroup: Cgroup) -> _layout.Layout:
    """This kernel's layout, found on the first call.

    Raises:
        BackendUnavailableError: neither found nor rebuilt.
    """
    global _found, _why_not, _ask_again_at
    with _lock:
        if _found is None and time.monotonic() >= _ask_again_at:
            if {"state", "events"} <= types.vmstats.keys():
                _found = from_kernel_tables(types) or _rebuilt_layout(types, cgroup)
                _why_not = "" if _found else _NOT_TO_BE_FOUND
            else:
                _why_not = "this kernel's struct memcg_vmstats is not known to this package"
            if _found is None:
                _ask_again_at = time.monotonic() + _SECONDS_BETWEEN
        if _found is None:
            raise BackendUnavailableError(_why_not)
        return _found


_NOT_TO_BE_FOUND = (
    "where this kernel keeps its counters is not known: /proc/kallsyms does not show "
    "mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or kernel.kptr_restrict), and no order "
    "rebuilt from BTF, or more than one, agrees with memory.stat"
)


def from_kernel_tables(types: _btf.KernelTypes) -> Optional[_layout.Layout]:
    """The layout by the kernel's own index tables; None where they are not to be seen."""
    stats, events = _kallsyms.addresses("mem_cgroup_stats_index", "mem_cgroup_events_index")
    if not events or not (stats or _layout.state_is_direct(types)):
        return None
    stats_size, events_size = _layout.table_sizes(types)
    for width in (4, 1):  # the older tables hold ints
        program = _program.Program(
            _program.COPY_TABLES,
            {
                "stats_index_address": _program.u64(stats or 0),
                "events_index_address": _program.u64(events),
                "stats_index_size": _program.u32(stats_size),
                "events_index_size": _program.u32(width * events_size),
            },
        )
        try:
            if program.run() == 0:
                return _layout.from_tables(
                    types,
                    program.variable("stats_index")[:stats_size],
                    program.variable("events_index")[: width * events_size],
                )
        finally:
            program.close()
    return None


def _rebuilt_layout(types: _btf.KernelTypes, cgroup: Cgroup) -> Optional[_layout.Layout]:
    """The one rebuilt order whose numbers are memory.stat's own, if there is just one.

    Checked on the topmost cgroup that is visible, where the fewest counters are 0.
    """
    top = _cgroupfs.open_cgroup(_cgroupfs.hierarchy_root(cgroup.path))
    try:
        shown = tuple(_memory_stat.keys(top)) if top.version == 2 else ()
        fitting = [
            layout
            for layout in _layout.rebuilt(types, shown)
            if _gives_memory_stat(layout, types, top)
        ]
    finally:
        os.close(top.fd)
    return fitting[0] if len(fitting) == 1 else None


_ATTEMPTS = 20


def _gives_memory_stat(layout: _layout.Layout, types: _btf.KernelTypes, cgroup: Cgroup) -> bool:
    terms = {key: terms_of(name, types, layout) for name, key in _memory_stat.keys(cgroup).items()}
    if cgroup.version == 1:
        for key, enumerator in _V1_ALSO.items():
            enum, _ = types.counters[enumerator]
            slot = layout.slots.get(enumerator)
            unit = mmap.PAGESIZE if enumerator == "MEMCG_SWAP" else 1
            if slot is not None:
                terms[key] = (_program.Term(_program.KINDS[enum], True, slot, unit),)
    terms = {key: parts for key, parts in terms.items() if parts}
    file = _memory_stat.CgroupFile(cgroup, _cgroupfs.MEMORY_STAT)
    try:
        bpf = StreamSource(cgroup, Recipe("core", terms, layout), False)
        try:
            for _ in range(_ATTEMPTS):  # the numbers move while they are compared
                before = _memory_stat.parse(_memory_stat.read_whole(file.fd))
                values = bpf.read()
                after = _memory_stat.parse(_memory_stat.read_whole(file.fd))
                if all(
                    key not in after
                    or min(before[key], after[key]) <= value <= max(before[key], after[key])
                    for key, value in values.items()
                ):
                    return True
        finally:
            bpf.close()
    finally:
        file.close()
    return False


# Keys of v1's memory.stat that are no items but help to tell one order from another.
_V1_ALSO = {
    "total_pgpgin": "PGPGIN",
    "total_pgpgout": "PGPGOUT",
    "total_swap": "MEMCG_SWAP",
}


def forget() -> None:
    """Lets go of the opinion that the layout cannot be found."""
    global _ask_again_at
    _ask_again_at = 0.0
