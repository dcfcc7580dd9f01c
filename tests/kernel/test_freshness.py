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
    memory_stat,
    right_without_a_flush,
)
from .surroundings import VERSION
from .ways import Way

CHARGE = 16 * MIB  # far above the threshold under which the kernel puts a flush off
ANON = "anon" if VERSION == 2 else "total_rss"


def test_new_pages_of_a_child_are_counted_at_once(empty_cgroup: Path, way: Way) -> None:
    """All but once: while the kernel's own flush is at work, it puts off ours and memory.stat's."""
    put_off = 0
    enable_memory(empty_cgroup)
    with (
        way.stats(empty_cgroup, ["anon"]) as reader,
        cgroup(empty_cgroup) as child,
        Worker(child, lambda: None, lambda: fault_in(CHARGE)) as worker,
    ):
        for _ in range(5):
            before = reader.read()["anon"]
            worker.step()
            values = reader.read()["anon"]
            text = memory_stat(empty_cgroup)[ANON]
            # At least as fresh as the file a moment later; nothing else charges here
            # but the last few pages of the worker's own stack and heap.
            fresh = values >= before + CHARGE * 0.9
            put_off += not (fresh and abs(values - text) <= 64 * mmap.PAGESIZE)
    assert put_off <= 1


def test_read_stats_flushes_unless_told_not_to(empty_cgroup: Path) -> None:
    put_off = 0
    with Worker(empty_cgroup, lambda: None, lambda: fault_in(CHARGE)) as worker:
        for step in (1, 2, 3):
            read_stats(empty_cgroup, ["anon"])
            worker.step()
            put_off += read_stats(empty_cgroup, ["anon"])["anon"] < step * CHARGE * 0.9
    assert put_off <= 1


def test_without_flush_a_value_is_right_within_seconds(empty_cgroup: Path, bpf_way: Way) -> None:
    with (
        bpf_way.stats(empty_cgroup, ["anon"], flush=False) as reader,
        Worker(empty_cgroup, lambda: None, lambda: fault_in(CHARGE)) as worker,
    ):
        worker.step()
        assert right_without_a_flush(lambda: reader.read()["anon"] >= CHARGE * 0.9)
