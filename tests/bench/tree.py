# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A whole tree read again and again: the table, and the same for JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pymemcgbpf import _cgroupfs
from tests.kernel.forest import forest

from . import runner, table, tree_contestants
from .c_programs import Programs
from .errors import BenchError
from .machine import machine
from .one_cgroup import COLUMNS

_LEAVES = 99  # of each group
_SLOW = 5.0  # µs per cgroup: who takes longer has fewer turns
_ATTEMPTS = 20
_PAUSE = 0.25  # seconds


def trees(programs: Programs, sizes: Sequence[int], walks: int, rounds: int) -> dict[str, object]:
    """Times all that read a tree, for each of the sizes; prints the table."""
    entrants: list[runner.Contestant] = []
    titles = {}
    compared = 0
    top = Path(_cgroupfs.hierarchy_root(_cgroupfs.own_cgroup()))
    for size in sizes:
        with ExitStack() as stack:
            made = stack.enter_context(forest(size // (1 + _LEAVES), _LEAVES))
            paths = list(made.paths.values())
            here: list[runner.Contestant] = []
            for column, items in COLUMNS.items():
                title = f"{size}/{column}"
                found = [
                    *tree_contestants.through_bpf(
                        title, items, made.root, len(paths), programs, stack
                    )
                ]
                best = found[0].against.removeprefix(tree_contestants.c_map(""))
                found += tree_contestants.through_text(
                    title, items, made.root, paths, best, programs, stack
                )
                compared += _same_numbers(found)
                here += found
                count = max(len(one.values()) for one in found if one.values) - 1
                titles[title] = f"{len(paths):,} × {count}"
            _run(here, walks, rounds)
            entrants += here
    print(table.table(entrants, titles))
    print()
    print("µs per cgroup, with the flush; columns: cgroups × items; ratio: to the C program that")
    print("has its rows in the same mapped array. memory.stat of cgroup v1 has fewer items.")
    print(
        f"{compared} sums compared; best of {rounds} rounds of {walks} walks (fewer for the slow)"
    )
    print(machine(top))
    return {
        "machine": machine(top),
        "walks": walks,
        "rounds": rounds,
        "results": table.results(entrants),
    }


def _run(entrants: Sequence[runner.Contestant], walks: int, rounds: int) -> None:
    """A first round tells who is slow."""
    runner.run(entrants, 1, 1)
    slow = [one for one in entrants if one.best > _SLOW]
    runner.run([one for one in entrants if one not in slow], walks, rounds)
    if slow:
        runner.run(slow, 1, max(rounds // 10, 1))


def _same_numbers(entrants: Sequence[runner.Contestant]) -> int:
    """Holds all sums against each other; returns how many."""
    for _ in range(_ATTEMPTS):
        found = {one.name: one.values() for one in entrants if one.values}
        first = next(iter(found.values()))
        wrong = [
            f"{name}: {item} is {value}, not {first[item]}"
            for name, values in found.items()
            for item, value in values.items()
            if value != first[item] and item not in _MOVING
        ]
        if not wrong and all(found.values()):
            return sum(map(len, found.values()))
        time.sleep(_PAUSE)
    raise BenchError("; ".join(wrong or ["a contestant gave no values"]))


# The readers themselves allocate, and the kernel's own caches come and go.
_MOVING = ("memory.current", "kernel", "slab", "slab_reclaimable", "slab_unreclaimable", "percpu")
