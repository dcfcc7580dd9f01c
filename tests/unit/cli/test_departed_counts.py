# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What counts for which cgroup when others are removed."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Optional

from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf._cli.departed_counts import DepartedCounts

ROOT = "/sys/fs/cgroup"


def counts_of(counts: DepartedCounts) -> dict[str, tuple[int, int]]:
    """The counts by paths relative to the root."""
    return {
        posixpath.relpath(path, ROOT): (count.cgroups, count.oom_kills)
        for path, count in counts.by_path().items()
    }


def paths(*relative: str) -> list[str]:
    return [posixpath.normpath(f"{ROOT}/{each}") for each in relative]


def exporting(*relative: str) -> DepartedCounts:
    counts = DepartedCounts()
    counts.export(ROOT, paths(*relative))
    return counts


def test_all_that_is_exported_begins_with_0() -> None:
    assert counts_of(exporting(".", "b", "a")) == {".": (0, 0), "b": (0, 0), "a": (0, 0)}
    assert list(counts_of(exporting(".", "b", "a"))) == [".", "b", "a"]
    assert counts_of(exporting()) == {}


def test_a_removed_cgroup_counts_in_each_exported_one_that_it_was_below() -> None:
    counts = exporting(".", "a", "a/b", "ab", "c")
    counts.add(zip(paths("a/b/x", "a/y"), (2, 1)))
    expected = {".": (2, 3), "a": (2, 3), "a/b": (1, 2), "ab": (0, 0), "c": (0, 0)}
    assert counts_of(counts) == expected


def test_a_removed_subtree_counts_each_cgroup_and_each_kill_once() -> None:
    counts = exporting(".", "a")
    counts.add(zip(paths("a/b/c/d", "a/b/c", "a/b"), (1, 0, 4)))
    assert counts_of(counts) == {".": (3, 5), "a": (3, 5)}


def test_those_at_the_same_path_one_after_the_other_all_count() -> None:
    counts = exporting("a")
    counts.add(zip(paths("a/b") * 3, (1, 1, 1)))
    counts.add(zip(paths("a/b"), (1,)))
    assert counts_of(counts)["a"] == (4, 4)


def test_one_without_a_path_counts_for_the_root() -> None:
    counts = exporting(".", "a")
    counts.add([(None, 3)])
    assert counts_of(counts) == {".": (1, 3), "a": (0, 0)}


def test_what_counted_for_a_cgroup_stays_above_it_when_it_is_removed() -> None:
    counts = exporting(".", "a", "a/b")
    counts.add(zip(paths("a/b/x"), (2,)))
    counts.export(ROOT, paths(".", "a"))
    counts.add(zip(paths("a/b"), (1,)))
    assert counts_of(counts) == {".": (2, 3), "a": (2, 3)}
    counts.export(ROOT, paths("a", "a/b"))
    assert counts_of(counts)["a/b"] == (0, 0)


def test_a_root_that_is_not_exported_has_no_count_but_remembers() -> None:
    counts = exporting("z", "a")
    counts.add(zip(paths("other/x"), (1,)))
    assert list(counts_of(counts).items()) == [("z", (0, 0)), ("a", (0, 0))]
    counts.export(ROOT, paths(".", "z"))
    assert list(counts_of(counts).items()) == [(".", (1, 1)), ("z", (0, 0))]


def test_only_the_root_s_count_outlives_the_root() -> None:
    counts = exporting(".", "a")
    counts.add(zip(paths("a/x"), (1,)))
    counts.forget_below_root()
    counts.export(ROOT, paths(".", "a"))
    assert counts_of(counts) == {".": (1, 1), "a": (0, 0)}


def test_the_root_of_the_file_system_can_be_the_root_of_the_walk() -> None:
    counts = DepartedCounts()
    counts.export("/", ["/", "/a"])
    counts.add([("/a/b", 1), ("/c", 0)])
    assert {path: tuple(count) for path, count in counts.by_path().items()} == {
        "/": (2, 1),
        "/a": (1, 1),
    }


def test_what_was_returned_does_not_change() -> None:
    counts = exporting("a")
    before = counts.by_path()
    counts.add(zip(paths("a/b"), (1,)))
    assert {*before.values()} == {(0, 0)}


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What happens in a small tree: a number chooses which cgroup it happens to."""
    what = st.sampled_from(["make", "kill", "remove", "remove", "read"])
    return draw(st.lists(st.tuples(what, st.integers(0, 1000)), max_size=60))


@given(steps(), st.integers(0, 4))
def test_nothing_is_forgotten_whatever_is_removed(
    happens: Sequence[tuple[str, int]], depth: int
) -> None:
    """Kills of living cgroups and of removed ones are those that there were, below each cgroup.

    Reads come between; those cgroups are exported that are not deeper than *depth*.
    """
    alive: dict[str, int] = {"": 0}  # the kills of each, by its path below the root
    ever: dict[str, int] = {}  # the kills below each path, since it was exported first
    removed: list[tuple[Optional[str], int]] = []
    made = total_kills = total_removed = 0
    counts = DepartedCounts()

    def below(path: str) -> dict[str, int]:
        return {one: kills for one, kills in alive.items() if one.startswith(f"{path}/")}

    def read() -> None:
        exported = [path for path in alive if path and path.count("/") <= depth]
        counts.export(ROOT, [ROOT, *(f"{ROOT}{path}" for path in exported)])
        counts.add(removed)
        removed.clear()
        found = counts.by_path()
        assert {*found} == {ROOT, *(f"{ROOT}{path}" for path in exported)}
        assert found[ROOT] == (total_removed, total_kills - sum(alive.values()))
        for path in exported:
            of_path = found[f"{ROOT}{path}"]
            assert of_path.oom_kills + sum(below(path).values()) == ever[path]
            nearest = {f"{ROOT}{one}" for one in exported if one.rpartition("/")[0] == path}
            assert of_path.cgroups >= sum(found[one].cgroups for one in nearest)

    read()
    for what, number in happens:
        path = [*alive][number % len(alive)]
        if what == "make":
            made += 1
            alive[f"{path}/{made}"] = ever[f"{path}/{made}"] = 0
        elif what == "kill" and path:
            alive[path] += 1
            total_kills += 1
            for above in ever:
                ever[above] += path.startswith(f"{above}/")
        elif what == "remove" and path and not below(path):
            total_removed += 1
            removed.append((f"{ROOT}{path}", alive.pop(path)))
        elif what == "read":
            read()
    read()
