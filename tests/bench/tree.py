# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times the contestants that read a whole tree repeatedly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.kernel.forest import forest
from tests.kernel.surroundings import IN_LAB

from . import runner, table, tree_contestants
from .c_programs import Programs
from .errors import BenchError
from .names import BY_PATH, C_MAP, ITEMS, TREE, VIEW

_LEAVES = 99  # below each inner cgroup
_SLOW = 5.0  # µs per cgroup: a contestant that takes longer has fewer rounds
_ATTEMPTS = 20
_PAUSE = 0.25  # seconds


def trees(
    programs: Programs, sizes: Sequence[int], walks: int, rounds: int
) -> tuple[list[table.Result], list[str]]:
    """Times all contestants for each size of tree; returns their results, and notes about them."""
    entrants: list[runner.Contestant] = []
    compared = 0
    for size in sizes:
        with ExitStack() as stack:
            made = stack.enter_context(forest(size // (1 + _LEAVES), _LEAVES))
            paths = list(made.paths.values())
            here: list[runner.Contestant] = []
            for title, items in ITEMS.items():
                section = TREE.format(len(paths), title)
                found = [*tree_contestants.through_bpf(section, items, made, programs, stack)]
                best = found[0].against.removeprefix(C_MAP)
                found += tree_contestants.through_text(
                    section, items, made.root, paths, best, programs, stack
                )
                compared += _same_numbers(found)
                here += found
            _run(here, walks, rounds)
            entrants += here
    note = (
        f"trees, with the flush: {compared} sums compared; best of {rounds} rounds of {walks} "
        "walks (fewer for slow contestants)"
    )
    return table.results(entrants), [note]


def _run(entrants: Sequence[runner.Contestant], walks: int, rounds: int) -> None:
    """The first rounds show who is slow. In the lab one is enough, as nothing disturbs it.

    Who changes the tree is last, for others hold its files open. It is compared with the same read
    of an unchanged tree, which takes turns with it.
    """
    first = [one for one in entrants if not one.changes]
    runner.run(first, 1, 1 if IN_LAB else 3)
    slow = [one for one in first if one.best > _SLOW]
    runner.run([one for one in first if one not in slow], walks, rounds)
    if slow:
        runner.run(slow, 1, max(rounds // 10, 1))
    changing = [one for one in entrants if one.changes]
    unchanged = [one for one in first if one.name.startswith((VIEW, BY_PATH))]
    runner.run([*changing, *unchanged], 1, rounds)


def _same_numbers(entrants: Sequence[runner.Contestant]) -> int:
    """Compares the contestants' sums with each other; returns how many were compared."""
    for _ in range(_ATTEMPTS):
        found = {one.name: one.values() for one in entrants if one.values}
        first = next(iter(found.values()))
        wrong = [
            f"{name}: {item} is {value}, not {first[item]}"
            for name, values in found.items()
            for item, value in values.items()
            if value != first[item] and item not in _CHANGING_ITEMS
        ]
        if not wrong and all(found.values()):
            return sum(map(len, found.values()))
        time.sleep(_PAUSE)
    raise BenchError("; ".join(wrong or ["a contestant gave no values"]))


# These change by themselves: the readers allocate memory, and the kernel's caches grow and shrink.
_CHANGING_ITEMS = (
    "memory.current",
    "kernel",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "percpu",
)
