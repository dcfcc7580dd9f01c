# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Paths of new pins are checked, in a directory that looks like a bpffs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pymemcgbpf import MemcgError, PinExistsError, PinPathError, PinPermissionError, _lookup
from pymemcgbpf._pins import bpffs as _bpffs

from ..pin_files import ROW, pinned_tree, published, stream


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

    def fake_open(path: str, mode: str) -> object:
        assert path == "/proc/self/mountinfo"
        return real_open(table, mode)

    monkeypatch.setattr("builtins.open", fake_open)
    for kind, expected in (("bpf", True), ("bpfx", False), ("ext4", False)):
        table.write_bytes(
            b"30 1 0:999 / /a\rb rw - tmpfs t rw\n"
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
    pinned_tree(bpffs / "tree", published())
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


def test_a_directory_with_a_file_named_stream_is_no_tree(bpffs: Path) -> None:
    for name in ("stream", "map", "timer"):
        _bpffs.check_free(str(bpffs / name))
    for data in (b"", b"anon 7\n", stream([ROW]), bytes(20_000)):
        (bpffs / "stream").write_bytes(data)
        _bpffs.check_free(str(bpffs / "pin"))
    (bpffs / "stream").unlink()
    os.mkfifo(bpffs / "stream")
    _bpffs.check_free(str(bpffs / "pin"))
    with open(bpffs / "stream", "r+b", buffering=0):
        _bpffs.check_free(str(bpffs / "pin"))


def test_a_shortage_is_not_taken_for_an_answer(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_tree(bpffs / "tree", published())

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "x")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MemcgError, match="cannot be listed") as caught:
        _bpffs.check_free(str(bpffs / "tree" / "pin"))
    assert caught.value.errno == errno.EMFILE
