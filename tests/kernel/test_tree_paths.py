# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""From rows to paths: odd names, odd places, names that move; never another cgroup's path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import CgroupRemovedError

from .cgroups import cgroup, enable_memory, remove
from .surroundings import HIERARCHY, VERSION
from .ways import Way

ODD_NAMES = (
    "with a blank",
    "-dash",
    "...",
    "\\x20",
    "ünïcode",
    os.fsdecode(b"\xff\xfe"),
    "n" * 255,
)


def test_cgroups_with_odd_names_have_exact_paths(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    enable_memory(empty_cgroup)
    made = [empty_cgroup / name for name in ODD_NAMES]
    for path in made:
        path.mkdir()
    with tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        snapshot = tree.read()
        assert [row.path for row in snapshot] == [str(path) for path in (empty_cgroup, *made)]
        assert [row.relative_path for row in snapshot] == [".", *ODD_NAMES]
        for path in made:
            for given in (path, str(path), os.fsencode(path), path.name):
                found = snapshot.find(given)
                assert found is not None and found.id == path.stat().st_ino


def test_find_returns_none_for_paths_outside_the_tree(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    with cgroup() as other, tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        snapshot = tree.read()
        for path in (other, HIERARCHY, "/", "/proc", "no-such", "..", "nul\0", b"\xff"):
            assert snapshot.find(path) is None
        for path in (".", "", empty_cgroup, f"../{empty_cgroup.name}"):
            found = snapshot.find(path)
            assert found is not None and found.id == empty_cgroup.stat().st_ino


@pytest.mark.parametrize("order", ["self", "pre", "post", "up", "children"])
def test_a_relative_path_is_resolved_when_the_reader_is_made(
    tree_transport_way: Way, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cgroup() as path:
        monkeypatch.chdir(path.parent)
        with tree_transport_way.tree(Path(path.name), ["anon"], order=order) as tree:
            before = [row.path for row in tree.read()]
            assert before[:1] == ([] if order == "children" else [str(path)])
            monkeypatch.chdir("/")
            # A cgroup without children is no removed one, wherever the process is now.
            assert [row.path for row in tree.read()] == before
            remove(path)
            with pytest.raises(CgroupRemovedError, match="was removed"):
                tree.read()


def test_a_symbolic_link_to_a_cgroup_is_followed(
    empty_cgroup: Path, tree_transport_way: Way, tmp_path: Path
) -> None:
    enable_memory(empty_cgroup)
    (empty_cgroup / "child").mkdir()
    link = tmp_path / "link"
    link.symlink_to(empty_cgroup)
    with cgroup() as other, tree_transport_way.tree(link, ["anon"]) as tree:
        enable_memory(other)
        (other / "child").mkdir()
        snapshot = tree.read()
        assert snapshot.paths == (str(empty_cgroup), str(empty_cgroup / "child"))
        assert snapshot.find(link / "child") == snapshot[1]
        # It leads to another cgroup with a child of the same name.
        link.unlink()
        link.symlink_to(other)
        again = tree.read()
        assert again.paths == snapshot.paths
        assert again.find("child") == again[1] and again.find(link / "child") is None


def test_a_path_above_the_walk_s_root_is_resolved_without_symbolic_links(
    empty_cgroup: Path, tree_transport_way: Way, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(empty_cgroup)
    with tree_transport_way.tree(link, ["anon"], order="up") as tree:
        assert [row.path for row in tree.read()] == [str(empty_cgroup), str(HIERARCHY)]


def test_a_cgroup_made_again_at_the_same_path_is_never_taken_for_the_first(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    enable_memory(empty_cgroup)
    path = empty_cgroup / "again"
    snapshots = []
    with tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        for _ in range(10):
            path.mkdir()
            (path / "below").mkdir()
            snapshots.append(tree.read())
            assert [row.relative_path for row in snapshots[-1]][:2] == [".", "again"]
            for old in snapshots[:-1]:
                assert [row.exists() for row in old][:2] == [True, False]
                assert old.find("again") == old[1]
            remove(path)
    ids = [snapshot[1].id for snapshot in snapshots]
    assert sorted(set(ids)) == ids and len(ids) == 10
    assert not any(row.exists() for snapshot in snapshots for row in snapshot[1:])


if VERSION == 1:  # v2 has no rename

    def test_a_renamed_cgroup_has_its_new_path(empty_cgroup: Path, tree_transport_way: Way) -> None:
        (empty_cgroup / "old").mkdir()
        (empty_cgroup / "old" / "below").mkdir()
        with tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
            first = tree.read()
            assert [row.relative_path for row in first] == [".", "old", "old/below"]
            (empty_cgroup / "old").rename(empty_cgroup / "new")
            (empty_cgroup / "old").mkdir()
            (empty_cgroup / "old" / "below").mkdir()
            expected = [".", "new", "new/below"]
            assert [row.relative_path for row in tree.read()][:3] == expected
            assert [row.relative_path for row in first] == [".", "old", "old/below"]
            assert [row.exists() for row in first] == [True] * 3

    def test_a_renamed_root_has_its_new_path(empty_cgroup: Path, tree_transport_way: Way) -> None:
        root, renamed = empty_cgroup / "above" / "root", empty_cgroup / "new" / "another"
        (root / "below").mkdir(parents=True)
        for order in ("pre", "post", "up", "children"):
            with tree_transport_way.tree(root, ["anon"], order=order) as tree:
                first = tree.read()
                moved = root.rename(root.parent / renamed.name)
                assert tree.read().path == str(moved)
                root.parent.rename(renamed.parent)
                second = tree.read()
                assert second.path == str(renamed)
                assert second.paths == tuple(
                    str(path)
                    .replace(str(root.parent), str(renamed.parent))
                    .replace(f"{renamed.parent}/root", str(renamed))
                    for path in first.paths
                )
                assert [row.exists() for row in first] == [True] * len(first)
            renamed.parent.rename(root.parent)
            (root.parent / renamed.name).rename(root)


@contextlib.contextmanager
def too_deep(root: Path) -> Iterator[int]:
    """Cgroups below each other until the path is longer than any that open() takes."""
    fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY)]
    name = "d" * 240
    try:
        for _ in range(os.pathconf("/", "PC_PATH_MAX") // len(name) + 2):
            os.mkdir(name, dir_fd=fds[-1])
            fds.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
            _enable_memory_at(fds[-1])
        yield len(fds)
    finally:
        while len(fds) > 1:
            os.close(fds.pop())
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=fds[-1])
        os.close(fds.pop())


def _enable_memory_at(dir_fd: int) -> None:
    if VERSION == 2:
        fd = os.open("cgroup.subtree_control", os.O_WRONLY, dir_fd=dir_fd)
        try:
            os.write(fd, b"+memory")
        finally:
            os.close(fd)


def test_a_path_that_is_too_long_does_not_spoil_a_walk(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    """Any process that may create cgroups can make one; the walk of an agent must survive it."""
    enable_memory(empty_cgroup)
    with too_deep(empty_cgroup) as count, tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        for order_of_reads in range(2):
            snapshot = tree.read()
            levels = [row.level - snapshot[0].level for row in snapshot]
            assert levels == list(range(len(levels))), order_of_reads
            paths = [row.relative_path for row in snapshot]
            given = [path for path in paths if path is not None]
            assert given == paths[: len(given)] and len(given) >= 10
            if tree_transport_way.backend != "text":
                assert len(levels) == count
