# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The path of a walk's root, and what is at a path now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.walk_paths import Origin, RootPath, WalkPaths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "above" / "root"
    path.mkdir(parents=True)
    return path


def opened(path: str, version: int, fd: int = -1) -> Cgroup:
    status = os.stat(path)
    return Cgroup(path, fd, (status.st_dev, status.st_ino), version, False)


@pytest.mark.parametrize("version", [1, 2])
def test_a_root_has_an_absolute_path(
    version: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    for spelled in ("root", "./root/", str(root), f"{root}/../root"):
        at = RootPath(opened(spelled, version))
        monkeypatch.chdir("/")
        assert at.path == str(root)
        monkeypatch.chdir(root.parent)


def test_a_root_reached_through_a_link_has_the_path_of_the_cgroup(root: Path) -> None:
    """The link may lead elsewhere later."""
    link = root.parent / "link"
    link.symlink_to(root)
    assert RootPath(opened(str(link), 2)).path == str(root)


def test_dots_after_a_link_are_resolved_at_the_link_s_target(root: Path) -> None:
    far = root.parent.parent / "far"
    far.mkdir()
    (far / "link").symlink_to(root)
    assert RootPath(opened(f"{far}/link/..", 2)).path == str(root.parent)


@pytest.fixture
def fd(root: Path) -> object:
    number = os.open(root, os.O_RDONLY)
    yield number
    os.close(number)


def test_a_root_is_followed_when_it_or_one_above_is_renamed(root: Path, fd: int) -> None:
    at = RootPath(opened(str(root), 1, fd))
    assert not at.follow()
    new = root.rename(root.parent / "new")
    assert at.follow() and at.path == str(new)
    assert not at.follow()
    above = root.parent.rename(root.parent.parent / "another")
    assert at.follow() and at.path == str(above / "new")


def test_a_root_is_not_followed_to_where_it_is_not(
    root: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another mount namespace, or after the root was removed."""
    at = RootPath(opened(str(root), 1, fd))
    for link in ("/", "(unreachable)/above/root", f"{root} (deleted)"):
        monkeypatch.setattr(os, "readlink", lambda path, link=link: link)
        assert not at.follow() and at.path == str(root)


def test_a_root_is_not_followed_without_proc_or_on_cgroup_v2(
    root: Path, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = RootPath(opened(str(root), 2, fd))

    def none(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", none)
    first = RootPath(opened(str(root), 1, fd))
    root.rename(root.parent / "new")
    assert not first.follow() and not second.follow()
    assert first.path == second.path == str(root)


def test_places_and_ids(root: Path) -> None:
    status = os.stat(root)
    paths = WalkPaths(Origin(), str(root), status.st_dev, (str(root), None, f"{root}/a"), False)
    assert paths.places[str(root)] == 0 and paths.places[f"{root}/a"] == 2
    assert paths.places is paths.places, "made once"
    assert paths.id_at(str(root)) == status.st_ino
    for nowhere in (f"{root}/a", "/proc", "a\0"):
        assert paths.id_at(nowhere) is None
