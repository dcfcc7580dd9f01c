# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup read again and again: the table, and the same for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pymemcgbpf
from pymemcgbpf import _cgroupfs
from tests.kernel.cgroups import busy_cgroup
from tests.kernel.surroundings import VERSION

from . import check, contestants, runner, table
from .c_programs import Programs
from .machine import machine

# Those that cgroup v1's memory.stat has as well.
SIX = ("anon", "file", "shmem", "file_mapped", "pgfault", "pgmajfault")
COLUMNS: dict[str, contestants.Items] = {"six": SIX, "all": None}


def one_cgroup(programs: Programs, reads: int, rounds: int) -> dict[str, object]:
    """Times all that read one cgroup; prints the table, returns the same for JSON."""
    top = _cgroupfs.hierarchy_root(_cgroupfs.own_cgroup())
    with ExitStack() as stack:
        path, _ = stack.enter_context(busy_cgroup(Path(top)))
        entrants = _entrants(path, programs, stack)
        compared = check.same_numbers(entrants, path)
        runner.run(entrants, reads, rounds)
        with pymemcgbpf.StatsReader(path) as reader:
            count = len(reader.items)
    print(table.table(entrants, {"six": "µs, 6 items", "all": f"µs, all {count}"}))
    print()
    print("ratio: to the C program's BPF iterator with the same flush; reading memory.stat flushes")
    if VERSION == 1:
        print("memory.stat of cgroup v1 has fewer items, so its column of all holds less")
    for column in COLUMNS:
        print(_split(entrants, column))
    print(f"{compared} values compared; best of {rounds} rounds of {reads} reads")
    print(machine(Path(top)))
    return {
        "machine": machine(Path(top)),
        "iterations": reads,
        "rounds": rounds,
        "results": table.results(entrants),
    }


def _entrants(path: Path, programs: Programs, stack: ExitStack) -> list[runner.Contestant]:
    found: list[runner.Contestant] = []
    for column, items in COLUMNS.items():
        for flush in (False, True):
            found += contestants.through_bpf(column, items, flush, path, programs, stack)
        found += contestants.through_text(column, items, path, programs, stack)
    return found


def _split(entrants: Sequence[runner.Contestant], column: str) -> str:
    """What of a StatsReader's time is the kernel's, and what Python's."""
    best = {one.name: one.best for one in entrants if one.column == column}
    kernel = best[contestants.C_ITERATOR[False]]
    bare = best[contestants.BARE]
    reader = best[contestants.READER[False]]
    return (
        f"{contestants.READER[False]}, {column}: {reader:.2f} µs = {kernel:.2f} kernel (C) "
        f"+ {bare - kernel:.2f} calls from Python + {reader - bare:.2f} dict, lock, decoding "
        f"(dict / kernel {(reader - bare) / kernel:.2f})"
    )
