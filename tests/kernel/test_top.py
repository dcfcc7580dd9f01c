# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command top, in a real terminal, on real cgroups."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..terminal import Terminal, terminal
from .cgroups import MIB, Worker, busy_cgroup, cgroup, enable_memory, fault_in, remove
from .oracle import by_text


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


def test_top_shows_the_numbers_of_memory_stat(
    group: Path, tree_backend: str, tmp_path: Path
) -> None:
    items = ("shmem", "file_mapped", "pgfault")
    options = ("--interval", "0.2", "--backend", tree_backend)
    with busy_cgroup(group) as (path, _), top(tmp_path, *options, group, *items) as shown:

        def are_shown(lines: list[str]) -> bool:
            now = by_text(path)  # a few pages the kernel may put off
            sizes = [f"{now[name] / MIB:.1f}" for name in items[:2]]
            return row(lines, path.name) == [sizes[0], "MiB", sizes[1], "MiB", "0.0"]

        assert f"({tree_backend}" in shown.wait_for(are_shown)[0]


def test_a_rate_is_the_change_of_its_counter(group: Path, tmp_path: Path) -> None:
    pages, seconds = 5000, 3

    def fault() -> mmap.mmap:
        return fault_in(pages * mmap.PAGESIZE, shared=True)  # no huge pages

    with (
        cgroup(group) as path,
        Worker(path, lambda: None, fault) as worker,
        top(tmp_path, "--interval", seconds, group, "pgfault") as shown,
    ):
        shown.wait_for(lambda lines: row(lines, path.name) == ["0.0"])
        before = by_text(path)["pgfault"]
        worker.step()
        grown = by_text(path)["pgfault"] - before
        assert grown >= pages
        lines = shown.wait_for(lambda lines: row(lines, path.name) != ["0.0"])
        rate = int(row(lines, path.name)[0].replace(",", ""))
        assert rate == pytest.approx(grown / seconds, rel=0.2)


def test_a_cgroup_made_again_at_the_same_path_does_not_inherit_a_rate(
    group: Path, tmp_path: Path
) -> None:
    path = group / "same"
    path.mkdir()
    with top(tmp_path, "--interval", 1, group, "pgfault") as shown:
        with Worker(path, lambda: fault_in(1000 * mmap.PAGESIZE, shared=True)):
            shown.wait_for(lambda lines: row(lines, "same") == ["0.0"])
        remove(path)
        shown.wait_for(lambda lines: lines[0].startswith("1 cgroups"))
        path.mkdir()
        shown.wait_for(lambda lines: row(lines, "same") == ["0.0"])
        shown.wait_for(lambda lines: row(lines, "same") == ["0.0"])


def test_top_obeys_keys_and_a_new_size_and_ends(group: Path, tmp_path: Path) -> None:
    for number in range(30):
        (group / f"g{number}").mkdir()
    with top(tmp_path, "--interval", "0.3", group) as shown:
        assert len([line for line in shown.screen.shown[2:-1] if line]) == 21
        shown.resize(40, 100)
        lines = shown.wait_for(lambda lines: is_drawn(lines) and lines[0].startswith("31 cgroups"))
        assert len([line for line in lines[2:-1] if line]) == 31
        shown.resize(6, 40)
        shown.wait_for(is_drawn)
        shown.type(">r")
        shown.wait_for(lambda lines: "by anon, smallest" in lines[0])
        assert not shown.is_as_before
        shown.type("q")
        assert shown.wait() == (0, "")
        assert shown.is_as_before


def test_top_ends_with_an_error_when_its_root_is_removed(tmp_path: Path) -> None:
    with cgroup() as path, top(tmp_path, "--interval", "0.2", path) as shown:
        remove(path)
        assert shown.wait() == (1, f"pymemcgbpf: the cgroup {path} was removed\n")
        assert shown.is_as_before
