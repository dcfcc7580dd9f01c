# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins are removed, and nothing else is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pymemcgbpf import PinNotFoundError, PinPathError, PinPermissionError, StreamError, unpin
from pymemcgbpf._pins import read as _read

from ..directories import said_to_be
from ..pin_files import ROW, TREE, pinned_file, pinned_parts, stream


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a bpffs."""
    made = tmp_path / "bpf"
    made.mkdir()
    said_to_be(monkeypatch, made)
    return made


def test_unpin_removes_only_pins_of_this_package(bpffs: Path, tmp_path: Path) -> None:
    one = pinned_file(tmp_path / "one", stream([ROW]))
    (bpffs / "foreign").write_text("prog_id name\n")
    (bpffs / "empty").mkdir()
    mixed = pinned_parts(bpffs / "mixed", TREE)
    (mixed / "foreign").write_text("x")
    odd = pinned_parts(bpffs / "odd", TREE)
    (odd / "part-0000-of-0001").write_text("no stream at all, but long enough")
    before = sorted(bpffs.rglob("*"))
    for path, kind in (
        (bpffs / "foreign", StreamError),
        (bpffs / "empty", StreamError),
        (mixed, StreamError),
        (odd, StreamError),
        (one, PinPathError),
        (bpffs / "none", PinNotFoundError),
    ):
        with pytest.raises(kind) as caught:
            unpin(path)
        assert str(path) in str(caught.value)
    assert sorted(bpffs.rglob("*")) == before and one.exists()


def test_unpin_removes_pins_and_trees(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned_file(bpffs / "one", stream([ROW]))
    pinned_file(bpffs / "gone", stream([]))
    pinned_parts(bpffs / "parts", TREE[:2], TREE[2:])
    half = pinned_parts(bpffs / "half", TREE[:2], TREE[2:])
    (half / "part-0000-of-0002").unlink()
    monkeypatch.chdir(bpffs)
    for path in ("one", bpffs / "gone", os.fsencode(bpffs / "parts") + b"/", "./half"):
        unpin(path)
    assert os.listdir(bpffs) == []


def test_a_pin_that_may_not_be_removed_is_a_permission_error(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_file(bpffs / "one", stream([ROW]))

    def refuse(path: str, *, dir_fd: int) -> None:
        raise PermissionError(errno.EPERM, "x")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PinPermissionError, match="may not create or remove"):
        unpin(bpffs / "one")


@pytest.mark.parametrize("name", ["one", "tree"])
def test_unpin_removes_what_it_checked_though_the_path_leads_elsewhere_by_then(
    name: str, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (bpffs / "sub", tmp_path / "elsewhere"):
        directory.mkdir()
        pinned_file(directory / "one", stream([ROW]))
        pinned_parts(directory / "tree", TREE[:2], TREE[2:])
    read_head = _read.read_head

    def swapped(path: str, at: int) -> bytes:
        if not (bpffs / "moved").exists():
            (bpffs / "sub").rename(bpffs / "moved")
            (bpffs / "sub").symlink_to(tmp_path / "elsewhere")
        return read_head(path, at)

    before = sorted((tmp_path / "elsewhere").rglob("*"))
    monkeypatch.setattr(_read, "read_head", swapped)
    unpin(bpffs / "sub" / name)
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before
    assert not (bpffs / "moved" / name).exists()
