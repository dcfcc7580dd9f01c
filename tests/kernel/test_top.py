# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command top, in a real terminal, on real cgroups."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..terminal import Terminal, terminal
from .cgroups import Worker, busy_cgroup, cgroup, enable_memory, fault_in
from .oracle import by_text
from .surroundings import BPF_BACKENDS


@contextlib.contextmanager
def top(folder: Path, *arguments: object) -> Iterator[Terminal]:
    """The program, once it has drawn its first screen."""
    command = (sys.executable, "-m", "pymemcgbpf", "top", *map(str, arguments))
    with terminal(command, folder) as made:
        made.wait_for(is_drawn)
        yield made


def is_drawn(lines: list[str]) -> bool:
    return lines[-1].startswith("q quit")


def row(lines: list[str], name: str) -> list[str]:
    """A cgroup's cells, or nothing."""
    return next((cells[:-1] for cells in map(str.split, lines[2:-1]) if cells[-1:] == [name]), [])


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup whose children have memory statistics."""
    with cgroup() as path:
        enable_memory(path)
        yield path


def test_the_numbers_are_memory_stats(group: Path, backend: str, tmp_path: Path) -> None:
    items = ("shmem", "file_mapped", "pgfault")
    with busy_cgroup(group) as (path, _), top(
        tmp_path, "--interval", "0.2", "--backend", backend, group, *items
    ) as shown:
        lines = shown.wait_for(lambda lines: row(lines, path.name)[-1:] == ["0.0"])
        expected = by_text(path)
        mib = [f"{expected[name] / (1 << 20):.1f}" for name in items[:2]]
        assert row(lines, path.name) == [mib[0], "MiB", mib[1], "MiB", "0.0"]
        assert f"({backend}" in lines[0]


def test_a_rate_is_the_counters_own(group: Path, tmp_path: Path) -> None:
    pages, seconds = 5000, 3.0

    def fault() -> mmap.mmap:
        return fault_in(pages * mmap.PAGESIZE, shared=True)  # no huge pages

    with Worker(group, lambda: None, fault) as worker, top(
        tmp_path, "--interval", seconds, group, "pgfault"
    ) as shown:
        shown.wait_for(lambda lines: "0.0" in lines[2])  # the second look: it was quiet before
        before = by_text(group)["pgfault"]
        worker.step()
        grown = by_text(group)["pgfault"] - before
        assert grown >= pages
        lines = shown.wait_for(lambda lines: "0.0" not in lines[2])
        rate = int(row(lines, str(group)[-len(lines[2].split()[-1]) :])[0].replace(",", ""))
        assert rate == pytest.approx(grown / seconds, rel=0.2)
