# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Paths are made of the names that are published with the rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from pymemcgbpf import CgroupPermissionError, _wire
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup.walk_paths import Origin
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_paths as _tree_paths
from pymemcgbpf._pins.tree_paths import NamedPaths

from ..pin_files import TREE, TREE_NAMES
from ..tree_rows import pack

DIVISION = _layout.geometry(2, 100)


def paths_of(
    rows: list[_wire.RawRow],
    names: list[bytes],
    root_path: bytes = b"/sys/fs/cgroup/root",
    *,
    order: int = 2,
    flags: int = _layout.HAS_NAMES,
    root_id: int = 10,
) -> NamedPaths:
    head = _layout.Head(DIVISION, order, None, flags, 100, root_id, 0, (1, 51))
    return NamedPaths(Origin(), head, root_path.ljust(4096, b"\0"), pack(*rows), names)


def relative(paths: NamedPaths) -> list[Optional[str]]:
    """The paths below the root's."""
    return [each and each.replace("/sys/fs/cgroup/root", "R") for each in paths.paths]


def test_a_path_is_the_parent_s_with_the_name() -> None:
    every = ["R", "R/one.service", "R/two.slice", "R/two.slice/three.service"]
    assert relative(paths_of(TREE, TREE_NAMES)) == every
    assert relative(paths_of(TREE[::-1], TREE_NAMES[::-1], order=3)) == every[::-1]
    assert relative(paths_of(TREE[1:3], TREE_NAMES[1:3], order=5)) == every[1:3]


def test_the_root_s_own_name_does_not_matter() -> None:
    for name in (b"", b"/", b"root", b".."):
        assert relative(paths_of(TREE[:2], [name, b"x"])) == ["R", "R/x"]


def test_the_root_of_the_file_system_is_no_special_case() -> None:
    assert paths_of(TREE[:2], [b"", b"x"], b"/").paths == ("/", "/x")


def test_a_cgroup_whose_parent_has_no_row_has_no_path() -> None:
    rows = [TREE[0], TREE[3], TREE[1], _wire.RawRow(14, 13, 4, 0, (0, 0))]
    names = [b"", b"orphan", b"one", b"below"]
    assert relative(paths_of(rows, names)) == ["R", None, "R/one", None]


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc"])
def test_what_cannot_be_a_name_makes_no_path(name: bytes) -> None:
    rows = [*TREE[:3], TREE[3]]
    assert relative(paths_of(rows, [b"", b"x", name, b"below"])) == ["R", "R/x", None, None]


def test_names_need_not_be_utf_8() -> None:
    paths = paths_of(TREE[:2], [b"", b"n\xff\xe4\n"], b"/m\xfc")
    assert [os.fsencode(path or "") for path in paths.paths] == [b"/m\xfc", b"/m\xfc/n\xff\xe4\n"]
    assert paths.texts == ("/m//xfc", "/m//xfc/n//xff//xe4\n")


def test_without_a_path_of_the_root_no_path_is_known() -> None:
    paths = paths_of(TREE, TREE_NAMES, b"")
    assert (paths.root, paths.paths) == (None, (None,) * 4)


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A directory that stands for the root of a walk, with one below it."""
    made = tmp_path / "cgroup"
    (made / "one").mkdir(parents=True)
    (made / "cgroup.procs").touch()
    return made


def of_directory(cgroup: Path, root_id: int) -> NamedPaths:
    inode = (cgroup / "one").stat().st_ino
    rows = [_wire.RawRow(root_id, 1, 1, 0, (0, 0)), _wire.RawRow(inode, root_id, 2, 0, (0, 0))]
    return paths_of(rows, [b"", b"one"], os.fsencode(cgroup), root_id=root_id)


def test_what_exists_is_seen_where_the_root_is_visible(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(cgroup))])
    paths = of_directory(cgroup, cgroup.stat().st_ino)
    inode = (cgroup / "one").stat().st_ino
    assert paths.device == cgroup.stat().st_dev
    assert paths.exists(1, inode) and paths.find("one").place == 1
    assert paths.find("two").cgroup_id is None
    (cgroup / "one").rmdir()
    assert not paths.exists(1, inode)


def test_another_directory_at_the_root_s_path_is_not_taken_for_it(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, another cgroup, or another file system, may be at that path."""
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(cgroup))])
    paths = of_directory(cgroup, cgroup.stat().st_ino + 1_000_000)
    assert paths.device is None and paths.paths[1] == str(cgroup / "one")
    with pytest.raises(CgroupPermissionError):
        paths.exists(1, (cgroup / "one").stat().st_ino)


def test_only_on_cgroup_v1_cgroups_are_renamed() -> None:
    assert not paths_of(TREE, TREE_NAMES).can_rename
    assert paths_of(TREE, TREE_NAMES, flags=_layout.HAS_NAMES | _layout.CAN_RENAME).can_rename


def test_a_directory_that_is_no_cgroup_is_not_taken_for_the_root(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").unlink()
    assert of_directory(cgroup, cgroup.stat().st_ino).device is None


def test_the_paths_of_a_chain_are_bounded() -> None:
    """Each is longer than the one above; a path of the kernel has at most 4,095 bytes."""
    many = 40
    rows = [_wire.RawRow(10 + at, 9 + at, at, 0, (0, 0)) for at in range(many)]
    paths = paths_of(rows, [b""] + [b"n" * 250] * (many - 1), b"/top", root_id=10).paths
    known = [path for path in paths if path is not None]
    assert [len(path) for path in known] == [4 + 251 * at for at in range(17)]
    assert paths[len(known) :] == (None,) * (many - len(known))


def test_the_paths_of_a_walk_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree_paths, "_MOST_TEXT", 1000)
    rows = [_wire.RawRow(10 + at, 10 if at else 1, 1, 0, (0, 0)) for at in range(200)]
    paths = paths_of(rows, [b""] + [b"name"] * 199, b"/top", root_id=10).paths
    assert paths[0] == "/top" and paths[1] == "/top/name"
    assert sum(map(len, filter(None, paths[1:]))) <= 1000 and paths[-1] is None
