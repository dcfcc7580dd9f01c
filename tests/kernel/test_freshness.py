# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""flush=True is at least as fresh as memory.stat; flush=False lags until the kernel's own flush."""

from __future__ import annotations

import mmap
from pathlib import Path

from pymemcgbpf import read_stats

from .cgroups import (
    MIB,
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    is_fresh_at_once,
    memory_stat,
    right_without_a_flush,
)
from .surroundings import VERSION
from .ways import Way

CHARGE = 16 * MIB  # far above the threshold under which the kernel puts a flush off
ANON = "anon" if VERSION == 2 else "total_rss"


def test_new_pages_of_a_child_are_counted_at_once(empty_cgroup: Path, way: Way) -> None:
    enable_memory(empty_cgroup)
    with (
        way.stats(empty_cgroup, ["anon"]) as reader,
        cgroup(empty_cgroup) as child,
        Worker(child, lambda: None, lambda: fault_in(CHARGE)) as worker,
    ):

        def charge(_: int) -> bool:
            before = reader.read()["anon"]
            worker.step()
            value = reader.read()["anon"]
            text = memory_stat(empty_cgroup)[ANON]
            # At least as fresh as the file a moment later; nothing else charges here
            # but the last few pages of the worker's own stack and heap.
            fresh = value >= before + CHARGE * 0.9
            return fresh and abs(value - text) <= 64 * mmap.PAGESIZE

        assert is_fresh_at_once(charge)


def test_read_stats_flushes_unless_told_not_to(empty_cgroup: Path) -> None:
    with Worker(empty_cgroup, lambda: None, lambda: fault_in(CHARGE)) as worker:

        def charge(step: int) -> bool:
            read_stats(empty_cgroup, ["anon"])
            worker.step()
            return read_stats(empty_cgroup, ["anon"])["anon"] >= step * CHARGE * 0.9

        assert is_fresh_at_once(charge)


def test_without_flush_a_value_is_right_within_seconds(empty_cgroup: Path, bpf_way: Way) -> None:
    with (
        bpf_way.stats(empty_cgroup, ["anon"], flush=False) as reader,
        Worker(empty_cgroup, lambda: None, lambda: fault_in(CHARGE)) as worker,
    ):
        worker.step()
        assert right_without_a_flush(lambda: reader.read()["anon"] >= CHARGE * 0.9)
