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
from .cgroups import MIB, Worker, busy_cgroup, cgroup, current, enable_memory, fault_in, remove
from .oracle import by_text
from .published import published
from .surroundings import VERSION
from .test_departed import remove_when_empty
from .test_oom_kills import kill_one


@contextlib.contextmanager
def top(folder: Path, *arguments: object) -> Iterator[Terminal]:
    """The program, once it has drawn its first screen."""
    command = (sys.executable, "-m", "pymemcgbpf", "top", *map(str, arguments))
    with terminal(command, folder) as made:
        made.wait_for(is_drawn)
        yield made


DEFAULT = ("anon", "file", "pgfault", "pgmajfault")


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


def test_the_details_of_a_cgroup_are_those_of_its_files_until_it_is_removed(
    group: Path, tmp_path: Path
) -> None:
    path = group / "busy"
    path.mkdir()
    with top(tmp_path, "--interval", "0.2", group, "anon") as shown:
        shown.resize(200, 100)
        with Worker(path, lambda: fault_in(8 * MIB)):

            def are_shown(lines: list[str]) -> bool:
                files, known = by_text(path), items_of(lines)
                return known.get("anon", [])[:2] == [f"{files['anon'] / MIB:.1f}", "MiB"]

            shown.type("/busy\r\r")
            lines = shown.wait_for(lambda lines: lines[0] == str(path) and are_shown(lines))
            expected = {"memory.current", "memory.max", "derived.effective_limit", *DEFAULT}
            assert expected <= {*items_of(lines)}
        remove(path)
        shown.wait_for(lambda lines: lines[1] == f"the cgroup {path} was removed")
        shown.type("q")
        shown.wait_for(lambda lines: lines[0].startswith("0 of 1 cgroups with 'busy'"))


def items_of(lines: list[str]) -> dict[str, list[str]]:
    """What a page of details shows of each item."""
    return {words[0]: words[1:] for words in map(str.split, lines[2:-1]) if words}


def test_the_share_of_a_limit_is_that_of_the_files(group: Path, tmp_path: Path) -> None:
    limit = 64 * MIB
    path = group / "limited"
    path.mkdir()
    (path / ("memory.max" if VERSION == 2 else "memory.limit_in_bytes")).write_text(str(limit))
    try:
        with (
            Worker(path, lambda: fault_in(48 * MIB)),
            top(tmp_path, "--interval", "0.2", group) as shown,
        ):

            def is_shown(lines: list[str]) -> bool:
                cells = row(lines, path.name)
                at = lines[1].split().index("%limit") if "%limit" in lines[1] else -1
                share = 100 * current(path) / limit
                return at == 1 and abs(float(cells[2]) - share) < 1

            shown.wait_for(is_shown)
    finally:
        remove(path)


@pytest.mark.needs_iterator
def test_top_shows_a_pinned_tree_and_the_details_of_its_cgroups(
    group: Path, folder: Path, tmp_path: Path
) -> None:
    path = group / "busy"
    path.mkdir()
    with (
        Worker(path, lambda: fault_in(8 * MIB)),
        published(group, folder / "top", ["anon", "pgfault"]),
        top(tmp_path, "--interval", "0.2", folder / "top", "anon") as shown,
    ):

        def is_size(cells: list[str]) -> bool:
            return cells[:2] == [f"{by_text(path)['anon'] / MIB:.1f}", "MiB"]

        shown.wait_for(lambda lines: is_size(row(lines, path.name)) and "(pin/" in lines[0])
        shown.type("/busy\r\r")
        lines = shown.wait_for(
            lambda lines: lines[0] == str(path) and is_size(items_of(lines).get("anon", []))
        )
        assert [*items_of(lines)] == ["anon", "pgfault"]
    remove(path)


def test_top_ends_with_an_error_when_its_root_is_removed(tmp_path: Path) -> None:
    with cgroup() as path, top(tmp_path, "--interval", "0.2", path) as shown:
        remove(path)
        assert shown.wait() == (1, f"pymemcgbpf: the cgroup {path} was removed\n")
        assert shown.is_as_before


@pytest.mark.needs_iterator
def test_a_cgroup_that_was_killed_for_memory_and_removed_is_shown(
    group: Path, tmp_path: Path
) -> None:
    with top(tmp_path, "--interval", "0.2", group, "anon") as shown:
        path = group / "short"
        path.mkdir()
        kill_one(path)
        remove_when_empty(path)

        def is_shown(lines: list[str]) -> bool:
            said = lines[-2].split()
            return said[:1] == ["removed"] and said[-4:] == ["1", "OOM", "kill", "short"]

        assert "ago, peak" in shown.wait_for(is_shown)[-2]
        shown.type("d")
        shown.wait_for(lambda lines: is_drawn(lines) and "removed" not in lines[-2])
        shown.type("q")
        assert shown.wait() == (0, "")
