# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins are removed, and nothing else is."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import PinNotFoundError, PinPathError, PinPermissionError, StreamError, unpin
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._pins import map_ids as _map_ids

from ..pin_files import ROW, pinned_file, pinned_tree, published, stream


def test_unpin_removes_only_pins_of_this_package(bpffs: Path, tmp_path: Path) -> None:
    one = pinned_file(tmp_path / "one", stream([ROW]))
    (bpffs / "foreign").write_text("prog_id name\n")
    mixed = pinned_tree(bpffs / "mixed", published())
    (mixed / "foreign").write_text("x")
    (bpffs / "directory").mkdir()
    (bpffs / "directory" / "foreign").write_text("x")
    odd = pinned_tree(bpffs / "odd", published())
    (odd / "stream").write_text("no stream at all, but long enough")
    of_pins = bpffs / "of_pins"
    of_pins.mkdir()
    pinned_file(of_pins / "stream", stream([ROW]))
    without = pinned_tree(bpffs / "without", published())
    (without / "stream").unlink()
    linked = pinned_tree(bpffs / "linked", published())
    (linked / "stream").rename(tmp_path / "stream")
    (linked / "stream").symlink_to(tmp_path / "stream")
    newer = pinned_tree(bpffs / "newer", published())
    (newer / "stream").write_bytes(b"MCST\x07\0" + bytes(20_000))
    before = sorted(bpffs.rglob("*"))
    for path, kind in (
        (bpffs / "foreign", StreamError),
        (bpffs / "directory", StreamError),
        (mixed, StreamError),
        (odd, StreamError),
        (of_pins, StreamError),
        (without, StreamError),
        (without / "map", StreamError),
        (linked, StreamError),
        (newer, StreamError),
        (bpffs / "mixed" / "map", PinPathError),
        (bpffs / "mixed" / "stream", PinPathError),
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
    pinned_tree(bpffs / "tree", published())
    (bpffs / "tree" / "timer").touch()
    pinned_tree(bpffs / "held", published())
    pinned_file(bpffs / "stream", stream([ROW]))
    monkeypatch.chdir(bpffs)
    for path in ("one", bpffs / "gone", os.fsencode(bpffs / "tree") + b"/", "./held", "stream"):
        unpin(path)
    assert os.listdir(bpffs) == []


@pytest.mark.parametrize("made", range(4))
def test_unpin_removes_what_an_interrupted_creation_has_left(made: int, bpffs: Path) -> None:
    whole = pinned_tree(bpffs / "tree", published())
    (whole / "timer").touch()
    for name in ("stream", "map", "timer")[made:]:
        (whole / name).unlink()
    unpin(whole)
    assert os.listdir(bpffs) == []


def test_what_refreshes_a_tree_is_removed_first(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing runs on if the removal is interrupted, and what is left can be unpinned."""
    path = pinned_tree(bpffs / "tree", published())
    (path / "timer").touch()
    unlink = os.unlink
    removed: list[str] = []
    stops = [1, 2]

    def interrupted(name: str, *, dir_fd: int) -> None:
        if stops and len(removed) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        unlink(name, dir_fd=dir_fd)
        removed.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                unpin(path)
    assert removed == ["timer", "map"] and os.listdir(path) == ["stream"]
    unpin(path)
    assert os.listdir(bpffs) == []


def test_what_its_maker_pins_while_it_is_unpinned_is_removed_too(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pinned_tree(bpffs / "tree", published())
    rmdir, late = os.rmdir, ["map", "timer"]

    def meanwhile(name: str, *, dir_fd: int) -> None:
        if late:
            (path / late.pop()).touch()
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", meanwhile)
    unpin(path)
    assert os.listdir(bpffs) == [] and late == []


def test_maps_alone_are_removed_if_they_are_a_tree_s(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what is left if a tree was unpinned while it was made, and its maker was killed."""
    path = bpffs / "tree"
    path.mkdir()
    for files in (["timer"], ["map"], ["map", "timer"]):
        for name in files:
            (path / name).touch()
        for wrong in ("foreign", "memcg_timer"):
            found = {"map": "memcg_tree", "timer": "memcg_timer", files[0]: wrong}
            if found == {"map": "memcg_tree", "timer": "memcg_timer"}:
                continue
            with monkeypatch.context() as patch:
                patch.setattr(_map_ids, "map_at", lambda at, found=found: _map_called(at, found))
                with pytest.raises(StreamError, match="nothing was removed"):
                    unpin(path)
        ours = {"map": "memcg_tree", "timer": "memcg_timer"}
        with monkeypatch.context() as patch:
            patch.setattr(_map_ids, "map_at", lambda at, ours=ours: _map_called(at, ours))
            unpin(path)
        assert os.listdir(bpffs) == []
        path.mkdir()


@pytest.mark.parametrize("wrong", ["map", "timer"])
def test_a_foreign_map_beside_a_stream_is_left_alone(
    wrong: str, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pinned_tree(bpffs / "tree", published())
    (path / "timer").touch()
    names = {"map": "memcg_tree", "timer": "memcg_timer", wrong: "foreign"}
    monkeypatch.setattr(_map_ids, "map_at", lambda at: _map_called(at, names))
    with pytest.raises(StreamError, match=f"has {wrong!r} beside the files of a pinned tree"):
        unpin(path)
    assert sorted(os.listdir(path)) == ["map", "stream", "timer"]
    names[wrong] = {"map": "memcg_tree", "timer": "memcg_timer"}[wrong]
    unpin(path)
    assert os.listdir(bpffs) == []


def _map_called(path: str, names: dict[str, str]) -> _map_ids.MapName:
    return _map_ids.MapName(1, names[os.path.basename(path)])


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
        pinned_tree(directory / "tree", published())
    read_pin = _bpffs.read_pin

    def swapped(*arguments: Any, **options: Any) -> Any:
        if not (bpffs / "moved").exists():
            (bpffs / "sub").rename(bpffs / "moved")
            (bpffs / "sub").symlink_to(tmp_path / "elsewhere")
        return read_pin(*arguments, **options)

    before = sorted((tmp_path / "elsewhere").rglob("*"))
    monkeypatch.setattr(_bpffs, "read_pin", swapped)
    unpin(bpffs / "sub" / name)
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before
    assert not (bpffs / "moved" / name).exists()
