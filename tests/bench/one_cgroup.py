# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times the contestants that read one cgroup repeatedly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pymemcgbpf
from pymemcgbpf._cgroup import mounts as _mounts
from tests.kernel.cgroups import busy_cgroup
from tests.kernel.surroundings import HAS_ITERATOR, VERSION

from . import check, contestants, runner, table
from .c_programs import Programs
from .names import C_ITERATOR, CTYPES_CALLS, ITEMS, ONE, READER


def one_cgroup(programs: Programs, reads: int, rounds: int) -> tuple[list[table.Result], list[str]]:
    """Times all contestants; returns their results, and notes about them."""
    top = _mounts.hierarchy_root(_mounts.own_cgroup())
    with ExitStack() as stack:
        path, _ = stack.enter_context(busy_cgroup(Path(top)))
        found = _contestants(path, programs, stack)
        compared = check.same_numbers(found, path)
        runner.run(found, reads, rounds)
        with pymemcgbpf.StatsReader(path) as reader:
            count = len(reader.item_names)
    notes = [_kernel_and_python(found, ONE.format(items)) for items in ITEMS if HAS_ITERATOR]
    of_v1 = ", of which cgroup v1's memory.stat has 17" if VERSION == 1 else ""
    notes.append(
        f"one cgroup: {count} items in all{of_v1}; {compared} values compared; best of {rounds} "
        f"rounds of {reads} reads"
    )
    return table.results(found), notes


def _contestants(path: Path, programs: Programs, stack: ExitStack) -> list[runner.Contestant]:
    """The contestants of all sections, which read the cgroup at *path*."""
    found: list[runner.Contestant] = []
    for title, items in ITEMS.items():
        section = ONE.format(title)
        for flush in (False, True):
            found += contestants.through_bpf(section, items, flush, path, programs, stack)
        found += contestants.through_text(section, items, path, programs, stack)
    return found


def _kernel_and_python(found: Sequence[runner.Contestant], section: str) -> str:
    """How a StatsReader's time is divided between the kernel and Python."""
    best = {one.name: one.best for one in found if one.section == section}
    kernel = best[C_ITERATOR[False]]
    calls = best[CTYPES_CALLS]
    reader = best[READER[False]]
    return (
        f"{section}, {READER[False]}: {reader:.2f} µs = {kernel:.2f} kernel (C) "
        f"+ {calls - kernel:.2f} calls from Python + {reader - calls:.2f} dict, lock, decoding "
        f"(dict / kernel {(reader - calls) / kernel:.2f})"
    )
