# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Names from the kernel: no directory is looked at, and no storm gives a wrong path."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import CgroupPermissionError, TreeReader

from .cgroups import enable_memory, ended, forked, in_child
from .surroundings import HIERARCHY, IN_LAB, VERSION
from .ways import Way

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH = 2


@pytest.fixture
def family(empty_cgroup: Path) -> Path:
    """A cgroup with children and grandchildren."""
    enable_memory(empty_cgroup)
    for name in ("a", "b", "c"):
        (empty_cgroup / name).mkdir()
        enable_memory(empty_cgroup / name)
        for below in ("x", "y"):
            (empty_cgroup / name / below).mkdir()
    return empty_cgroup


def of_family(family: Path) -> Iterator[Path]:
    yield family
    for name in ("a", "b", "c"):
        yield family / name
        yield family / name / "x"
        yield family / name / "y"


def test_names_are_known_where_the_hierarchy_is_not_mounted(
    family: Path, tree_bpf_way: Way
) -> None:
    def child() -> None:
        libc = ctypes.CDLL(None)
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        directory = os.open(family, os.O_RDONLY)
        with tree_bpf_way.tree(family, ["anon"]) as tree:
            assert libc.umount2(bytes(HIERARCHY), _MNT_DETACH) == 0
            assert not family.exists()
            assert tree.read().paths == tuple(map(str, of_family(family)))
            os.mkdir("new", dir_fd=directory)
            snapshot = tree.read()
            assert snapshot.paths[-1] == str(family / "new")
            found = snapshot.find("new")
            assert found is not None and found.relative_path == "new"
            with pytest.raises(CgroupPermissionError):
                found.exists()
            os.rmdir("new", dir_fd=directory)

    assert in_child(child) == 0


def test_no_directory_is_opened_or_listed_for_a_name(family: Path, tree_bpf_way: Way) -> None:
    def child() -> None:
        events: list[str] = []
        with tree_bpf_way.tree(family, ["anon"]) as tree:
            tree.read()
            (family / "a" / "new").mkdir()
            sys.addaudithook(lambda event, _: events.append(event))
            events.clear()
            paths = tree.read().paths
            seen = {*events}
            assert str(family / "a" / "new") in paths
            assert not seen & {"open", "os.listdir", "os.scandir"}, seen
            (family / "a" / "new").rmdir()

    assert in_child(child) == 0


def test_a_root_of_another_mount_namespace_keeps_the_path_that_leads_there(
    family: Path, tree_transport_way: Way, tmp_path: Path
) -> None:
    def child() -> None:
        libc = ctypes.CDLL(None)
        given = Path(f"/proc/{os.getppid()}/root{family}")
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        assert libc.mount(b"none", bytes(HIERARCHY), b"tmpfs", 0, None) == 0
        (family / "a").mkdir(parents=True)  # no cgroups
        with tree_transport_way.tree(given, ["anon"]) as tree:
            assert tree.read().paths == tuple(
                str(given / path.relative_to(family)) for path in of_family(family)
            )

    assert in_child(child) == 0


def test_an_unchanged_tree_has_the_same_paths_object(family: Path, tree_transport_way: Way) -> None:
    with tree_transport_way.tree(family, ["anon"]) as tree:
        first, second = tree.read(), tree.read()
        assert second.paths is first.paths
        (family / "new").mkdir()
        third = tree.read()
        assert third.paths == (*first.paths, str(family / "new"))
        (family / "new").rmdir()
        assert tree.read().paths == first.paths


@pytest.mark.parametrize("order", ["pre", "post", "children", "up", "self"])
def test_max_depth_leaves_out_what_is_further_down(order: str, family: Path, tree_way: Way) -> None:
    with tree_way.tree(family, ["anon"], order=order) as tree:
        whole = tree.read()
    levels = {row.id: row.level for row in whole}
    root = levels.get(family.stat().st_ino, min(levels.values()) - 1)
    for depth in (0, 1, 2, 3, 1 << 40):
        with tree_way.tree(family, ["anon"], order=order, max_depth=depth) as tree:
            snapshot = tree.read()
            assert snapshot.max_depth == depth
            expected = [row for row in whole if row.level <= root + depth]
            assert list(snapshot.ids) == [row.id for row in expected]
            assert snapshot.paths == tuple(row.path for row in expected)
    with pytest.raises(ValueError, match="max_depth must be at least 0"):
        TreeReader(family, max_depth=-1)


# --- storms -----------------------------------------------------------------------------

SECONDS = 10.0 if IN_LAB else 4.0

# The path of a cgroup, from when at the earliest, until when at the latest (CLOCK_MONOTONIC).
Entry = tuple[int, str, int, int]


def storm(parent: Path, seconds: float, journal: Path) -> None:
    """Makes, renames (on cgroup v1) and removes cgroups, whose few paths are used again and again.

    What was where is written into a file as JSON.
    """
    entries: list[Entry] = []
    where: dict[int, tuple[str, int]] = {}

    def arrives(path: Path, began: int) -> None:
        where[path.stat().st_ino] = (str(path), began)

    def leaves(cgroup_id: int) -> None:
        path, began = where.pop(cgroup_id)
        entries.append((cgroup_id, path, began, time.monotonic_ns()))

    deadline = time.monotonic() + seconds
    for names in itertools.cycle((("a", "b"), ("b", "a"), ("b", "c" * 200))):
        if time.monotonic() > deadline:
            break
        above, below = parent / names[0], parent / names[0] / names[1]
        for path in (above, below):
            began = time.monotonic_ns()
            path.mkdir()
            arrives(path, began)
            enable_memory(path)
        if VERSION == 1:
            ids = above.stat().st_ino, below.stat().st_ino
            began = time.monotonic_ns()
            above = above.rename(parent / "renamed")
            below = above / names[1]
            for cgroup_id in ids:
                leaves(cgroup_id)
            for path in (above, below):
                arrives(path, began)
        for path in (below, above):
            cgroup_id = path.stat().st_ino
            path.rmdir()
            leaves(cgroup_id)
    journal.write_text(json.dumps(entries))


@pytest.mark.parametrize("order", ["pre", "post"])
def test_no_storm_gives_a_path_that_the_cgroup_did_not_have(
    order: str, family: Path, tree_bpf_way: Way, tmp_path: Path
) -> None:
    places = {path: tmp_path / f"journal-{path.name}" for path in (family / "a", family / "b")}
    seen: list[tuple[int, str, int, int]] = []
    walks = unknown = 0
    stay = {path.stat().st_ino: str(path) for path in of_family(family)}
    with tree_bpf_way.tree(family, ["anon"], order=order) as tree:
        pids = [
            forked(functools.partial(storm, path, SECONDS, journal))
            for path, journal in places.items()
        ]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            snapshot = tree.read()
            ended_ns = snapshot.started_ns + snapshot.duration_ns
            walks += 1
            for cgroup_id, path in zip(snapshot.ids, snapshot.paths):
                if cgroup_id in stay:
                    assert path == stay[cgroup_id]
                elif path is None:
                    unknown += 1
                else:
                    seen.append((cgroup_id, path, snapshot.started_ns, ended_ns))
        assert [ended(pid) for pid in pids] == [0] * len(pids)
        assert tree.read().paths == tuple(
            str(path) for path in sorted(of_family(family), key=lambda path: order_of(path, order))
        )
    had: dict[int, list[tuple[str, int, int]]] = {}
    for journal in places.values():
        for cgroup_id, path, began, end in json.loads(journal.read_text()):
            had.setdefault(cgroup_id, []).append((path, began, end))
    for cgroup_id, path, began, end in seen:
        assert any(
            path == each and entered <= end and began <= left
            for each, entered, left in had[cgroup_id]
        ), (path, had[cgroup_id])
    assert walks > 50 and len(seen) > walks / 50, "no storm was seen"
    if tree_bpf_way.transport == "shared":
        assert unknown == 0, "the kernel holds cgroup_mutex during the walk"
    assert unknown <= len(seen) / 100


def order_of(path: Path, order: str) -> tuple[str, ...]:
    """The place of a cgroup in a walk of the family, whose siblings are made in their names'
    order."""
    return (*path.parts, *(["~"] if order == "post" else []))
