# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A cgroup's directory is opened and checked."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemcgError,
    NotACgroupError,
)
from pymemcgbpf._cgroup.directory import Cgroup, open_cgroup

from ..directories import make_v1, make_v2

Opened = Callable[[Path], Cgroup]


# --- paths that are not cgroups -------------------------------------------------------


def test_a_missing_path_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CgroupNotFoundError, match="does not exist") as caught:
        open_cgroup(tmp_path / "none")
    assert "none" in str(caught.value)
    assert caught.value.call == "open"
    assert caught.value.errno == 2


def test_the_empty_path_is_not_found() -> None:
    with pytest.raises(CgroupNotFoundError, match="''"):
        open_cgroup("")


def test_a_file_is_not_a_cgroup(v2: Path) -> None:
    with pytest.raises(NotACgroupError, match=r"memory\.stat' is a file"):
        open_cgroup(v2 / "memory.stat")


def test_a_path_through_a_file_is_not_a_cgroup(v2: Path) -> None:
    with pytest.raises(NotACgroupError):
        open_cgroup(v2 / "memory.stat" / "below")


def test_an_ordinary_directory_is_not_a_cgroup(tmp_path: Path) -> None:
    with pytest.raises(NotACgroupError, match=r"not a cgroup: it has no cgroup\.procs"):
        open_cgroup(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", b"a\0b", "\0", "\ud800"])
def test_text_that_cannot_be_a_path_is_not_found(path: Any) -> None:
    with pytest.raises(CgroupNotFoundError, match="cannot be a path"):
        open_cgroup(path)


@pytest.mark.parametrize("path", [None, 3, 1.5, ["x"]])
def test_an_argument_of_another_type_is_a_type_error(path: Any) -> None:
    with pytest.raises(TypeError):
        open_cgroup(path)


@pytest.mark.parametrize("name", ["loop", "x" * 300])
def test_every_failure_to_open_is_a_memcg_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MemcgError, match="cannot be opened") as caught:
        open_cgroup(tmp_path / name)
    assert caught.value.errno


def test_a_directory_that_may_not_be_read_is_a_permission_error(
    v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CgroupPermissionError, match="this user may not read") as caught:
        open_cgroup(v2)
    assert caught.value.errno == 13
    assert isinstance(caught.value, PermissionError)


def test_a_directory_removed_while_it_was_opened_is_a_removed_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "going"
    path.mkdir()
    real = os.open

    def open_and_remove(*arguments: Any, **options: Any) -> int:
        fd = real(*arguments, **options)
        path.rmdir()
        return fd

    monkeypatch.setattr(os, "open", open_and_remove)
    with pytest.raises(CgroupRemovedError, match="was removed"):
        open_cgroup(path)


def test_a_cgroup_whose_files_are_removed_already_is_a_removed_cgroup(tmp_path: Path) -> None:
    make_v2(tmp_path / "parent")
    (tmp_path / "parent" / "going").mkdir()
    with pytest.raises(CgroupRemovedError):
        open_cgroup(tmp_path / "parent" / "going")


# --- paths that are cgroups -----------------------------------------------------------


def test_a_v2_cgroup_is_recognised(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    assert cgroup.path == str(v2)
    assert cgroup.id == v2.stat().st_ino == os.fstat(cgroup.fd).st_ino
    assert (cgroup.version, cgroup.is_root, cgroup.has_current) == (2, False, True)
    assert cgroup.current_file == "memory.current"


def test_a_v1_cgroup_is_recognised(tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v1(tmp_path / "v1"))
    assert (cgroup.version, cgroup.is_root, cgroup.has_current) == (1, False, True)
    assert cgroup.current_file == "memory.usage_in_bytes"


def test_roots_have_no_usage_of_their_own(tmp_path: Path, opened: Opened) -> None:
    for path in (make_v1(tmp_path / "v1", root=True), make_v2(tmp_path / "v2", kind=None)):
        cgroup = opened(path)
        assert (cgroup.is_root, cgroup.has_current) == (True, False)


def test_a_cgroup_without_the_file_has_no_current(tmp_path: Path, opened: Opened) -> None:
    assert not opened(make_v2(tmp_path / "v2", current=None)).has_current


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
def test_a_path_may_be_text_bytes_or_a_path_object(form: Callable[[Path], Any], v2: Path) -> None:
    cgroup = open_cgroup(form(v2))
    cgroup.close()
    assert cgroup.path == str(v2)


def test_a_path_need_not_be_utf_8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    make_v2(Path(os.fsdecode(raw)))
    cgroup = open_cgroup(raw)
    cgroup.close()
    assert os.fsencode(cgroup.path) == raw


def test_a_symbolic_link_is_followed_and_its_path_kept(
    v2: Path, tmp_path: Path, opened: Opened
) -> None:
    (tmp_path / "link").symlink_to(v2)
    cgroup = opened(tmp_path / "link")
    assert cgroup.path == str(tmp_path / "link")
    assert cgroup.id == v2.stat().st_ino


def test_a_relative_path_is_accepted(
    v2: Path, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    monkeypatch.chdir(v2)
    assert opened(Path(".")).id == v2.stat().st_ino


# --- descendants, children and files --------------------------------------------------


def test_descendants_are_cgroup_stat_s_on_v2(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    assert cgroup.descendants is None, "no cgroup.stat"
    (v2 / "cgroup.stat").write_text("nr_descendants 12\nnr_dying_descendants 3\n")
    assert cgroup.descendants == 12
    (v2 / "cgroup.stat").write_text("nr_dying_descendants 3\nnr_descendants 0\n")
    assert cgroup.descendants == 0
    (v2 / "cgroup.stat").write_text("nr_dying_descendants 3\n")
    assert cgroup.descendants is None


def test_the_number_of_descendants_is_unknown_on_v1(tmp_path: Path, opened: Opened) -> None:
    """/proc/cgroups counts the whole hierarchy, and removed cgroups that are not freed yet."""
    cgroup = opened(make_v1(tmp_path / "v1"))
    (tmp_path / "v1" / "cgroup.stat").write_text("nr_descendants 12\n")
    assert cgroup.descendants is None


@pytest.mark.parametrize(("links", "children"), [(1, 0), (2, 0), (3, 1), (70_000, 69_998)])
def test_children_are_the_links_beyond_its_own_two(
    links: int, children: int, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", lambda fd: SimpleNamespace(st_nlink={cgroup.fd: links}[fd]))
        assert cgroup.children == children


def test_has_file_looks_into_the_open_directory(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    v2.rename(v2.with_name("elsewhere"))
    assert cgroup.has_file("memory.stat")
    assert not cgroup.has_file("memory.zswap.current")
