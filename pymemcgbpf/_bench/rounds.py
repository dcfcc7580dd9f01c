# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Rounds of batches: who is compared, and how the time is taken."""

from __future__ import annotations

import gc
import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional

ROUNDS = 20
_CALIBRATION_NS = 2_000_000


class Batch(NamedTuple):
    """So many reads in a row: how many, and the nanoseconds that all took together."""

    reads: int
    real: int
    user: int
    system: int


@dataclass
class Contestant:
    """One way to read.

    Attributes:
        name: its row in the table.
        read: reads once.
        values: reads once; what is compared before anything is timed, or None.
        per: what a time is divided by beside the reads: the cgroups of a walk.
        batches: one for each round so far.
    """

    name: str
    read: Callable[[], object]
    values: Optional[Callable[[], dict[str, int]]] = None
    per: int = 1
    batches: list[Batch] = field(default_factory=list)

    @property
    def reads(self) -> int:
        """How many in all."""
        return sum(batch.reads for batch in self.batches)

    def microseconds(self, what: str) -> float:
        """µs a read (or a cgroup of it) over all rounds: "real", "user" or "system"."""
        total: int = sum(getattr(batch, what) for batch in self.batches)
        return total / 1000 / self.reads / self.per


def timed(read: Callable[[], object], reads: int) -> Batch:
    """Reads so many times."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, reads):
            read()
        real = time.perf_counter_ns() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        if collecting:
            gc.enable()
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Batch(reads, real, round(user * 1e9), round(system * 1e9))


def race(
    contestants: Sequence[Contestant],
    seconds: float,
    reads: Optional[int] = None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Lets all read in turns, so that what disturbs the machine disturbs all alike.

    Args:
        seconds: for each of them, about: one read may take longer.
        reads: of each of them, instead of the seconds.
        progress: told what is done, each time.
    """
    batch = {}
    for one in contestants:
        progress(f"{one.name}: trying")
        batch[one.name] = _batch(one.read, seconds) if reads is None else -(-reads // ROUNDS)
    for number in range(ROUNDS):
        for one in contestants:
            progress(f"{one.name}: round {number + 1} of {ROUNDS}")
            now = batch[one.name]
            if reads is not None:
                now = min(now, reads - one.reads)
            elif sum(each.real for each in one.batches) > seconds * 1e9 * (number + 1) / ROUNDS:
                now = 0  # it is slow, and has had its time already
            if now:
                one.batches.append(timed(one.read, now))


def _batch(read: Callable[[], object], seconds: float) -> int:
    """How many reads make a round's time."""
    reads = 1
    while (took := timed(read, reads).real) < _CALIBRATION_NS:
        reads *= 2
    return max(1, round(seconds * 1e9 / ROUNDS / took * reads))
