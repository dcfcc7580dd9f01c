# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Rounds of batches: who is compared, and how the time is taken."""

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
        name: what it is: its row in the table.
        section: what it reads: the section of its row.
        batch: reads that many times; returns the nanoseconds they took.
        values: reads once; what the numbers are, where it decodes them.
        against: the row, of the same section, that it is compared with.
        rounds: nanoseconds per read of each round so far.
    """

    name: str
    section: str
    batch: Callable[[int], float]
    values: Optional[Callable[[], dict[str, int]]] = None
    against: str = ""
    rounds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """µs per read in the least disturbed round."""
        return min(self.rounds) / 1000

    @property
    def median(self) -> float:
        """µs per read in the round in the middle."""
        return statistics.median(self.rounds) / 1000


def timed(read: Callable[[], object]) -> Callable[[int], int]:
    """A batch of a Python function. A tenth of the reads goes before, untimed."""

    def batch(reads: int) -> int:
        package.timed(read, reads // 10)
        return package.timed(read, reads).real

    return batch


def pin() -> int:
    """Keeps this process, and those it starts from now on, on one CPU; returns which."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


def run(contestants: Sequence[Contestant], reads: int, rounds: int) -> None:
    """Lets all read in turns, so that what disturbs the machine disturbs all alike."""
    order = list(contestants)
    shuffled = random.Random(1)
    for _ in range(rounds):
        # Nobody always follows the same one, which may leave caches cold.
        shuffled.shuffle(order)
        for contestant in order:
            contestant.rounds.append(contestant.batch(reads) / reads)
