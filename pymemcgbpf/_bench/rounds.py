# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times contestants in turns, in rounds of batches."""

from __future__ import annotations

import gc
import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional

from .._records import Record

ROUNDS = 20
_CALIBRATION_NS = 2_000_000


class Batch(Record):
    """Several reads in a row: their number, and the nanoseconds that they took together."""

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
        values: reads once, and returns what is compared before anything is timed; None if
            nothing is compared.
        per: the number of cgroups that one read reads; times are divided by it.
        batches: one for each round so far.
    """

    name: str
    read: Callable[[], object]
    values: Optional[Callable[[], dict[str, int]]] = None
    per: int = 1
    batches: list[Batch] = field(default_factory=list)

    @property
    def reads(self) -> int:
        """The number of reads in all batches."""
        return sum(batch.reads for batch in self.batches)

    def microseconds(self, what: str) -> float:
        """The mean time in µs for one cgroup: "real", "user" or "system"."""
        total: int = sum(getattr(batch, what) for batch in self.batches)
        return total / 1000 / self.reads / self.per


def timed(read: Callable[[], object], reads: int) -> Batch:
    """Reads several times, without garbage collection, and measures the time."""
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
    """Has all contestants read in turns, so that disturbances of the machine affect all alike.

    Args:
        seconds: about how long each contestant reads; a single read may take longer.
        reads: how often each contestant reads, instead of the seconds.
        progress: called with what is being done.
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
                now = 0  # this contestant is slow and has used its time
            if now:
                one.batches.append(timed(one.read, now))


def _batch(read: Callable[[], object], seconds: float) -> int:
    """The number of reads that take as long as one round should."""
    reads = 1
    while (took := timed(read, reads).real) < _CALIBRATION_NS:
        reads *= 2
    return max(1, round(seconds * 1e9 / ROUNDS / took * reads))
