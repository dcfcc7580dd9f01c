# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Contestants, and the rounds in which they are timed."""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional

from pymemcgbpf._bench import rounds as package


@dataclass
class Contestant:
    """One way to read the statistics.

    Attributes:
        name: the name of its row in the table.
        section: the section of its row, which says what it reads.
        batch: reads this many times; returns the nanoseconds that the reads took.
        values: reads once and returns the numbers; None if it does not decode them.
        against: the name of the row, of the same section, that it is compared with.
        changes: whether it changes what the others read, so that it runs after them.
        rounds: nanoseconds per read, for each round so far.
    """

    name: str
    section: str
    batch: Callable[[int], float]
    values: Optional[Callable[[], dict[str, int]]] = None
    against: str = ""
    changes: bool = False
    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Microseconds per read in the fastest round."""
        return min(self.rounds) / 1000

    @property
    def median(self) -> float:
        """Microseconds per read in the median round."""
        return statistics.median(self.rounds) / 1000


def timed(read: Callable[[], object]) -> Callable[[int], int]:
    """A batch of a Python function. Before it is timed, it makes a tenth of the reads untimed."""

    def batch(reads: int) -> int:
        package.timed(read, reads // 10)
        return package.timed(read, reads).real

    return batch


def timed_after(prepare: Callable[[], object], read: Callable[[], object]) -> Callable[[int], int]:
    """A batch of a Python function, with something else before each read that is not timed."""

    def batch(reads: int) -> int:
        real = 0
        for _ in range(reads):
            prepare()
            real += package.timed(read, 1).real
        return real

    return batch


def pin() -> int:
    """Binds this process, and those that it starts later, to one CPU; returns its number."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


def run(contestants: Sequence[Contestant], reads: int, rounds: int) -> None:
    """Has the contestants take turns, so that other load on the machine affects all of them."""
    order = list(contestants)
    shuffled = random.Random(1)
    for _ in range(rounds):
        # The order changes in each round: what a contestant leaves in the caches affects the next.
        shuffled.shuffle(order)
        for contestant in order:
            contestant.rounds.append(contestant.batch(reads) / reads)
