# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Signals at any moment: what their handlers raise leaves nothing behind, and readers are made as
if there were none."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import pymemcgbpf
from pymemcgbpf import ClosedError, PinnedReader, StatsReader, TreeReader, pin, unpin

from ..open_files import open_files
from .pins import bpffs
from .surroundings import BEST_BACKEND, IN_LAB
from .ways import BEST_TREE_WAY, STAT_BPF_WAYS, TEXT, Way

READS = 1500
# How often readers are made, which takes long in a guest.
MADE, LOADED = (80, 12) if IN_LAB else (300, 30)


class Interrupted(Exception):
    """What the handler raises."""


def interrupt(signum: int, frame: object) -> None:
    raise Interrupted


@contextlib.contextmanager
def handling(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Handles SIGALRM.

    If a handler raises while Python calls a weak reference's callback, this is reported and not
    raised. pytest's report would keep the frames, and so what they have open.
    """
    before = signal.signal(signal.SIGALRM, handler)
    report, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = report


def duration_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(20):
        work()
    return (time.perf_counter() - begun) / 20


def interrupted(work: Callable[[], object], times: int) -> int:
    """Runs *work* again and again, with a signal at a moment of each; how many ended by it."""
    duration = duration_of(work)
    moments = random.Random(1)
    hit = 0
    with handling(interrupt):
        for _ in range(times):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 + 1.2 * duration * moments.random())
                    work()
                finally:  # the signal that has come may have been that of the timer before
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                hit += 1
    return hit


def files_after(work: Callable[[], object], times: int) -> tuple[int, dict[str, str]]:
    hit = interrupted(work, times)
    gc.collect()
    return hit, open_files()


def test_an_interrupted_read_leaves_nothing_open(empty_cgroup: Path, way: Way) -> None:
    with way.stats(empty_cgroup, ["anon", "file"]) as reader:
        expected, before = reader.read(), open_files()
        hit, after = files_after(reader.read, READS)
        assert after == before
        assert hit > READS // 20
        assert reader.read() == expected


def test_an_interrupted_walk_leaves_nothing_open(empty_cgroup: Path, tree_way: Way) -> None:
    with tree_way.tree(empty_cgroup, ["anon", "file"]) as reader:
        before = open_files()
        hit, after = files_after(reader.read, READS)
        assert after == before
        assert hit > READS // 20
        assert len(reader.read()) == 1


@pytest.mark.needs_iterator
def test_an_interrupted_reader_of_a_pin_leaves_nothing_open(empty_cgroup: Path) -> None:
    with bpffs() as folder:
        pin(empty_cgroup, folder / "one", ["anon"], flush=False)
        with PinnedReader(folder / "one") as reader:
            before = open_files()
            hit, after = files_after(reader.read, READS)
            assert after == before
            assert hit > READS // 20
            assert reader.read() == {"anon": 0}
        unpin(folder / "one")


def test_an_interrupted_reader_constructor_leaves_nothing_open(
    empty_cgroup: Path, bpf_way: Way
) -> None:
    def make() -> None:
        bpf_way.stats(empty_cgroup, ["anon", "file"]).close()

    make()
    before = open_files()
    _, after = files_after(make, MADE)
    assert after == before


def test_an_interrupted_tree_reader_constructor_leaves_nothing_open(
    empty_cgroup: Path, tree_bpf_transport_way: Way
) -> None:
    def make() -> None:
        tree_bpf_transport_way.tree(empty_cgroup, ["anon", "file"]).close()

    make()
    before = open_files()
    _, after = files_after(make, MADE)
    assert after == before


def test_an_interrupted_load_by_libbpf_leaves_nothing_open(empty_cgroup: Path) -> None:
    def make() -> None:
        pymemcgbpf.clear_cache()
        StatsReader(empty_cgroup, ["anon", "file"]).close()

    pymemcgbpf.clear_cache()
    before = open_files()
    interrupted(make, LOADED)
    pymemcgbpf.clear_cache()
    gc.collect()
    assert open_files() == before


@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "another thread"])
def test_a_timer_s_signals_do_not_change_the_backend(empty_cgroup: Path, in_thread: bool) -> None:
    # The verifier gives up while a signal is pending, and a timer's is most of the time.
    ticks = [0]
    made: list[tuple[str, str]] = []

    def tick(signum: int, frame: object) -> None:
        ticks[0] += 1

    def make() -> None:
        while ticks[0] <= 10 or len(made) < 6:
            pymemcgbpf.clear_cache()  # the next is loaded by libbpf
            with StatsReader(empty_cgroup) as stats, TreeReader(empty_cgroup) as tree:
                made.append((stats.backend, stats.transport))
                made.append((tree.backend, tree.transport))

    with handling(tick):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        if in_thread:
            thread = threading.Thread(target=make)
            thread.start()
            while thread.is_alive():
                thread.join(0.05)
        else:
            make()
    with StatsReader(empty_cgroup) as undisturbed:
        best = (undisturbed.backend, undisturbed.transport)
    assert best in [way.shown for way in [*STAT_BPF_WAYS, TEXT] if way.backend == BEST_BACKEND]
    assert made == [best, BEST_TREE_WAY.shown] * (len(made) // 2)


@pytest.mark.parametrize(
    "items", [["memory.max"], ["anon", "memory.max"]], ids=["one", "two files"]
)
def test_a_reader_that_a_handler_closes_is_closed_and_reads_no_other_file(
    empty_cgroup: Path, way: Way, items: list[str]
) -> None:
    """The descriptors' numbers belong to other files at once."""
    taken: list[int] = []
    stray = Path("/proc/self/cgroup")

    def close(signum: int, frame: object) -> None:
        reader.close()
        for _ in range(8):
            taken.append(os.open(stray, os.O_RDONLY))

    chance = random.Random(5)
    with handling(close):
        for _ in range(MADE):
            reader = way.stats(empty_cgroup, items, flush=False)
            expected = reader.read()
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(30e-6, 300e-6))
            try:
                with pytest.raises(ClosedError):
                    while True:
                        assert reader.read() == expected
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                while taken:
                    os.close(taken.pop())
