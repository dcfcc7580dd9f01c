# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the running kernel's layout of counters: by its own tables, or rebuilt and checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Optional

from . import _btf, _cgroup_files, _cgroupfs, _fork, _layout, _program, _shown
from ._catalogue import MEMORY_STAT, Counters
from ._cgroupfs import Cgroup
from ._recipe import Recipe, Source
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
    "where this kernel keeps its counters is not known: its symbols do not show "
    "mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or kernel.kptr_restrict), and no order "
    "rebuilt from BTF, or more than one, agrees with memory.stat"
)


# enum index_tables_status of bpf_src/index_tables.h
COPIED, NOT_SHOWN, NOT_READ = 0, 1, 2


def from_kernel_tables(types: _btf.KernelTypes) -> Optional[_layout.Layout]:
    """The layout by the kernel's own index tables; None where they are not to be seen."""
    stats_size, events_size = _layout.table_sizes(types)
    if _layout.state_is_direct(types):
        stats_size = 0
    for width in (4, 1):  # the older tables hold ints
        program = _program.Program(
            _program.COPY_TABLES,
            {
                "stats_index_size": _program.u32(stats_size),
                "events_index_size": _program.u32(width * events_size),
            },
        )
        try:
            status = program.run()
            if status == COPIED:
                return _layout.from_tables(
                    types,
                    program.variable("stats_index")[:stats_size],
                    program.variable("events_index")[: width * events_size],
                )
            if status == NOT_SHOWN:
                return None
        finally:
            program.close()
    return None


def _rebuilt_layout(types: _btf.KernelTypes, cgroup: Cgroup) -> Optional[_layout.Layout]:
    """The one rebuilt order whose numbers are memory.stat's own, if there is just one.

    Checked on the topmost cgroup that is visible, where the fewest counters are 0.
    """
    top = _cgroupfs.open_cgroup(_cgroupfs.hierarchy_root(cgroup.path))
    try:
        shown = _shown.Shown(top, False).names(MEMORY_STAT) if top.version == 2 else ()
        fitting = [
            layout
            for layout in _layout.rebuilt(types, shown)
            if _gives_memory_stat(layout, types, top)
        ]
    finally:
        top.close()
    return fitting[0] if len(fitting) == 1 else None


_ATTEMPTS = 20


def _gives_memory_stat(layout: _layout.Layout, types: _btf.KernelTypes, cgroup: Cgroup) -> bool:
    source = Source("core", types, layout)
    names = _shown.Shown(cgroup, False).names(MEMORY_STAT)
    terms = {_cgroup_files.stat_key(name, cgroup.version): source.terms_of(name) for name in names}
    if cgroup.version == 1:
        terms.update((key, source.terms(counter)) for key, counter in _V1_ALSO.items())
    terms = {key: parts for key, parts in terms.items() if parts}
    compared = comparisons(cgroup, Recipe("core", terms))
    return any(agreeing == terms.keys() for agreeing in compared)


def comparisons(cgroup: Cgroup, recipe: Recipe) -> Iterator[set[str]]:
    """Which keys of memory.stat have the value there that a recipe gives them, again and
    again: the numbers move while they are compared."""
    file = _cgroup_files.CgroupFile(cgroup, MEMORY_STAT)
    try:
        bpf = StreamSource(cgroup, recipe, False)
        try:
            for _ in range(_ATTEMPTS):
                before = _cgroup_files.parse(_cgroup_files.read_whole(file.fd))
                values = bpf.read()
                after = _cgroup_files.parse(_cgroup_files.read_whole(file.fd))
                yield {
                    key
                    for key, value in values.items()
                    if key not in after
                    or min(before[key], after[key]) <= value <= max(before[key], after[key])
                }
        finally:
            bpf.close()
    finally:
        file.close()


# Keys of v1's memory.stat that are no items but help to tell one order from another.
_V1_ALSO = {
    "total_pgpgin": Counters((("PGPGIN",),), "one"),
    "total_pgpgout": Counters((("PGPGOUT",),), "one"),
    "total_swap": Counters((("MEMCG_SWAP",),), "pages"),
}


def forget() -> None:
    """Lets go of the opinion that the layout cannot be found."""
    global _ask_again_at
    _ask_again_at = 0.0
