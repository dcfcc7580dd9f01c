# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Paths of pins are checked, and files created, in a directory that looks like a bpffs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import MemcgError, PinExistsError, PinPathError, PinPermissionError, _lookup
from pymemcgbpf._pins import bpffs as _bpffs

from ...open_files import open_files
from ..directories import said_to_be


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a bpffs."""
    made = tmp_path / "bpf"
    made.mkdir()
    said_to_be(monkeypatch, made)
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_files_on_other_file_systems_are_not_on_a_bpffs(tmp_path: Path) -> None:
    assert not _bpffs.is_bpffs(str(tmp_path))
    assert not _bpffs.is_bpffs("/proc/self/mountinfo")
    with pytest.raises(FileNotFoundError):
        _bpffs.is_bpffs(str(tmp_path / "none"))


def test_the_mount_table_says_whether_a_file_is_on_a_bpffs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    real_open = open

    def fake_open(path: str, **options: str) -> object:
        assert path == "/proc/self/mountinfo"
        return real_open(table, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", fake_open)
    for kind, expected in (("bpf", True), ("bpfx", False), ("ext4", False)):
        table.write_bytes(
            b"30 1 0:999 / /a rw - tmpfs t rw\n"
            + f"31 1 {number} / /b\\040 rw,mode=700 shared:3 - {kind} bpf rw\n".encode()
            + b"32 1 0:998 / /c\xff rw - bpf bpf rw\n"
        )
        assert _bpffs.is_bpffs(str(tmp_path)) is expected
    table.unlink()
    with pytest.raises(MemcgError, match="cannot be told"):
        _bpffs.is_bpffs(str(tmp_path))


def test_a_path_where_a_pin_can_be_created_passes(bpffs: Path) -> None:
    _bpffs.check_free(str(bpffs / "pin"))
    _bpffs.check_free(str(bpffs / "deep" / "down" / "pin"))
    (bpffs / "with.dot").mkdir()  # a mount point may have such a name
    _bpffs.check_free(str(bpffs / "with.dot" / "pin"))
    assert list(bpffs.rglob("*")) == [bpffs / "with.dot"]


def test_a_path_where_no_pin_can_be_created_is_refused(bpffs: Path, tmp_path: Path) -> None:
    (bpffs / "taken").touch()
    (bpffs / "dangling").symlink_to("nowhere")
    for name in ("taken", "dangling"):
        with pytest.raises(PinExistsError, match="exists already"):
            _bpffs.check_free(str(bpffs / name))
    for name in ("system.slice", "a.b/pin", "deep/system.slice", ".pin"):
        with pytest.raises(PinPathError, match="no name with a dot"):
            _bpffs.check_free(str(bpffs / name))
    for path in (tmp_path / "pin", tmp_path / "new" / "pin", Path("/pin")):
        with pytest.raises(PinPathError, match="mount -t bpf bpf /sys/fs/bpf"):
            _bpffs.check_free(str(path))


def test_no_pin_is_created_in_a_pinned_tree(bpffs: Path) -> None:
    (bpffs / "tree").mkdir()
    (bpffs / "tree" / "part-0000-of-0001").touch()
    for path in (bpffs / "tree" / "pin", bpffs / "tree" / "deep" / "pin"):
        with pytest.raises(PinPathError, match="in the directory of a pinned tree"):
            _bpffs.check_free(str(path))
    with pytest.raises(PinExistsError):
        _bpffs.check_free(str(bpffs / "tree"))


@pytest.mark.parametrize("path", ["", b"", "a\0b"])
def test_text_that_cannot_be_a_path_is_refused(path: _lookup.Path) -> None:
    with pytest.raises(PinPathError, match="cannot be a path"):
        _bpffs.absolute(path)


def test_a_path_that_cannot_be_looked_at_is_refused_with_the_reason(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> bool:
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(_bpffs, "is_bpffs", refuse)
    with pytest.raises(PinPermissionError, match=r"Permission denied \(13\)"):
        _bpffs.check_free(str(bpffs / "pin"))


def test_dangling_links_above_are_refused(bpffs: Path) -> None:
    (bpffs / "dangling").symlink_to("nowhere")
    (bpffs / "loop").symlink_to("loop")
    for name in ("dangling", "loop"):
        for path in (bpffs / name / "pin", bpffs / name / "deep" / "pin"):
            with pytest.raises(PinPathError, match="cannot be a pin's path"):
                _bpffs.check_free(str(path))


def test_the_name_of_a_part_is_refused(bpffs: Path) -> None:
    for name in ("part-0000-of-0002", "part-0000-of-0002/pin", "deep/part-0000-of-0002"):
        with pytest.raises(PinPathError, match="a name for a part of a pinned tree"):
            _bpffs.check_free(str(bpffs / name))


@pytest.fixture
def made() -> Iterator[_bpffs.PinTransaction]:
    made = _bpffs.PinTransaction()
    before = open_files()
    yield made
    made.close()
    made.close()
    assert open_files() == before


def touch(path: str) -> None:
    Path(path).touch(0o600, exist_ok=False)


def test_undo_removes_what_was_created(bpffs: Path, made: _bpffs.PinTransaction) -> None:
    (bpffs / "old").mkdir()
    pin = bpffs / "old" / "new" / "deep" / "pin"
    before = os.umask(0o077)
    try:
        place = made.above(str(pin))
        made.file(place, touch, 0o440)
        made.directory(made.above(str(bpffs / "other")), 0o700)
    finally:
        os.umask(before)
    assert [mode(path) for path in (pin.parent, pin.parent.parent)] == [0o755, 0o755]
    assert mode(bpffs / "other") == 0o700 and mode(pin) == 0o440
    made.undo()
    assert list(bpffs.rglob("*")) == [bpffs / "old"]


def test_undo_leaves_what_others_created(bpffs: Path, made: _bpffs.PinTransaction) -> None:
    made.above(str(bpffs / "new" / "pin"))
    (bpffs / "new" / "other").touch()
    (bpffs / "pin").touch()
    place = made.above(str(bpffs / "pin"))
    with pytest.raises(FileExistsError):
        made.file(place, touch, 0o444)
    with pytest.raises(FileExistsError):
        made.directory(place, 0o700)
    made.undo()
    assert sorted(bpffs.rglob("*")) == [bpffs / "new", bpffs / "new" / "other", bpffs / "pin"]


def test_undo_removes_a_file_whose_creation_a_signal_interrupted(
    bpffs: Path, made: _bpffs.PinTransaction
) -> None:
    def make_and_be_interrupted(path: str) -> None:
        touch(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.file(made.above(str(bpffs / "pin")), make_and_be_interrupted, 0o444)
    made.undo()
    assert os.listdir(bpffs) == []


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o757])
def test_nothing_is_created_where_other_users_could_replace_it(
    bits: int, bpffs: Path, made: _bpffs.PinTransaction
) -> None:
    bpffs.chmod(bits)
    place = made.above(str(bpffs / "pin"))
    for make in (lambda: made.file(place, touch, 0o444), lambda: made.directory(place, 0o755)):
        with pytest.raises(PinPathError, match=f"other users may rename what is in {bpffs}: pin"):
            make()
    with pytest.raises(PinPathError, match="other users"):
        made.above(str(bpffs / "deep" / "pin"))
    assert os.listdir(bpffs) == []
    bpffs.chmod(bits | 0o1000)  # as /tmp
    made.file(place, touch, 0o444)
    assert mode(bpffs / "pin") == 0o444


def test_nothing_is_created_in_another_user_s_directory(
    bpffs: Path, made: _bpffs.PinTransaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made.above(str(bpffs / "pin"))
    fstat = os.fstat

    def owned_by(uid: int) -> Any:
        def look(fd: int) -> os.stat_result:
            return os.stat_result([*fstat(fd)[:4], uid, *fstat(fd)[5:10]])

        return look

    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "fstat", owned_by(4321))
    with pytest.raises(PinPathError, match="other users"):
        made.file(place, touch, 0o444)
    for uid in (0, 1234):
        monkeypatch.setattr(os, "fstat", owned_by(uid))
        made.file(place, touch, 0o444)
        os.unlink(bpffs / "pin")


def test_a_pin_is_created_in_the_directory_that_was_checked_though_renamed(
    bpffs: Path, tmp_path: Path, made: _bpffs.PinTransaction
) -> None:
    (bpffs / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pin").touch(0o600)
    place = made.above(str(bpffs / "mine" / "pin"))
    (bpffs / "mine").rename(bpffs / "moved")
    (bpffs / "mine").symlink_to(tmp_path / "elsewhere")
    made.file(place, touch, 0o444)
    assert mode(bpffs / "moved" / "pin") == 0o444
    made.undo()
    assert os.listdir(bpffs / "moved") == []
    assert mode(tmp_path / "elsewhere" / "pin") == 0o600


def test_a_path_that_no_longer_leads_to_a_bpffs_is_refused(
    bpffs: Path, tmp_path: Path, made: _bpffs.PinTransaction
) -> None:
    (bpffs / "link").symlink_to(tmp_path)
    with pytest.raises(PinPathError, match="no longer on a bpffs"):
        made.above(str(bpffs / "link" / "pin"))


def test_a_directory_that_another_process_has_just_created_is_used(
    bpffs: Path, made: _bpffs.PinTransaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = _bpffs._existing_ancestor

    def and_then(path: str) -> str:
        found = nearest(path)
        (bpffs / "new").mkdir()
        return found

    monkeypatch.setattr(_bpffs, "_existing_ancestor", and_then)
    made.above(str(bpffs / "new" / "deep" / "pin"))
    made.undo()
    assert list(bpffs.rglob("*")) == [bpffs / "new"]


def test_parts_are_found_by_their_names() -> None:
    parts = [_bpffs.Part(at, 3) for at in range(3)]
    names = [part.name for part in parts]
    assert names == ["part-0000-of-0003", "part-0001-of-0003", "part-0002-of-0003"]
    assert _bpffs.parts_of([*reversed(names), "part-1-of-2", "x", f"{names[0]}x"]) == parts
    assert _bpffs.are_whole(parts)
    for some in ([], parts[:2], parts[1:], [*parts, _bpffs.Part(0, 1)], [_bpffs.Part(0, 0)]):
        assert not _bpffs.are_whole(sorted(some))
