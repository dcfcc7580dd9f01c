# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Places for pins, on a file system that is said to be a bpffs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pymemcgbpf import MemcgError, PinExistsError, PinPathError, PinPermissionError, _bpffs


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is taken for one."""
    made = tmp_path / "bpf"
    made.mkdir()
    monkeypatch.setattr(_bpffs, "is_bpffs", lambda path: Path(path).is_relative_to(made))
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_what_is_no_bpffs_is_told(tmp_path: Path) -> None:
    assert not _bpffs.is_bpffs(str(tmp_path))
    assert not _bpffs.is_bpffs("/proc/self/mountinfo")
    with pytest.raises(FileNotFoundError):
        _bpffs.is_bpffs(str(tmp_path / "none"))


def test_the_kind_of_a_file_system_is_the_mount_table_s(
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


def test_a_free_place(bpffs: Path) -> None:
    _bpffs.check_free(str(bpffs / "pin"))
    _bpffs.check_free(str(bpffs / "deep" / "down" / "pin"))
    (bpffs / "with.dot").mkdir()  # which can be only where the mount is
    _bpffs.check_free(str(bpffs / "with.dot" / "pin"))
    assert list(bpffs.rglob("*")) == [bpffs / "with.dot"]


def test_a_place_that_is_not(bpffs: Path, tmp_path: Path) -> None:
    (bpffs / "taken").touch()
    (bpffs / "dangling").symlink_to("nowhere")
    for name in ("taken", "dangling"):
        with pytest.raises(PinExistsError, match="there already"):
            _bpffs.check_free(str(bpffs / name))
    for name in ("system.slice", "a.b/pin", "deep/system.slice", ".pin"):
        with pytest.raises(PinPathError, match="no name with a dot"):
            _bpffs.check_free(str(bpffs / name))
    for path in (tmp_path / "pin", tmp_path / "new" / "pin", Path("/pin")):
        with pytest.raises(PinPathError, match="mount -t bpf bpf /sys/fs/bpf"):
            _bpffs.check_free(str(path))


def test_a_pinned_tree_is_no_place_for_another_pin(bpffs: Path) -> None:
    (bpffs / "tree").mkdir()
    (bpffs / "tree" / "part-0000-of-0001").touch()
    for path in (bpffs / "tree" / "pin", bpffs / "tree" / "deep" / "pin"):
        with pytest.raises(PinPathError, match="in the directory of a pinned tree"):
            _bpffs.check_free(str(path))
    with pytest.raises(PinExistsError):
        _bpffs.check_free(str(bpffs / "tree"))


@pytest.mark.parametrize("path", ["", b"", "a\0b"])
def test_what_is_no_path(path: _bpffs.Path) -> None:
    with pytest.raises(PinPathError, match="cannot be a path"):
        _bpffs.absolute(path)


def test_a_place_that_may_not_be_looked_at(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> bool:
        raise PermissionError(13, "x")

    monkeypatch.setattr(_bpffs, "is_bpffs", refuse)
    with pytest.raises(PinPermissionError, match=r"Permission denied \(13\)"):
        _bpffs.check_free(str(bpffs / "pin"))


def test_what_was_made_is_taken_back(bpffs: Path) -> None:
    (bpffs / "old").mkdir()
    made = _bpffs.Made()
    pin = bpffs / "old" / "new" / "deep" / "pin"
    before = os.umask(0o077)
    try:
        made.parents(str(pin))
        made.file(str(pin), pin.touch, 0o440)
        made.directory(str(bpffs / "other"), 0o700)
    finally:
        os.umask(before)
    assert [mode(path) for path in (pin.parent, pin.parent.parent)] == [0o755, 0o755]
    assert mode(bpffs / "other") == 0o700 and mode(pin) == 0o440
    made.undo()
    assert list(bpffs.rglob("*")) == [bpffs / "old"]


def test_what_others_made_stays(bpffs: Path) -> None:
    made = _bpffs.Made()
    made.parents(str(bpffs / "new" / "pin"))
    (bpffs / "new" / "other").touch()
    (bpffs / "pin").touch()

    def refuse() -> None:
        raise FileExistsError

    with pytest.raises(FileExistsError):
        made.file(str(bpffs / "pin"), refuse, 0o444)
    with pytest.raises(FileExistsError):
        made.directory(str(bpffs / "pin"), 0o700)
    made.undo()
    assert sorted(bpffs.rglob("*")) == [bpffs / "new", bpffs / "new" / "other", bpffs / "pin"]


def test_what_was_made_when_a_signal_came_is_taken_back(bpffs: Path) -> None:
    made = _bpffs.Made()

    def make_and_be_interrupted() -> None:
        (bpffs / "pin").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.file(str(bpffs / "pin"), make_and_be_interrupted, 0o444)
    made.undo()
    assert os.listdir(bpffs) == []


def test_what_another_user_has_put_in_its_place_keeps_its_mode(
    bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, pin = tmp_path / "secret", bpffs / "pin"
    secret.touch(0o600)
    made = _bpffs.Made()
    with pytest.raises(PinPathError, match=f"{pin} was replaced by another user"):
        made.file(str(pin), lambda: pin.symlink_to(secret), 0o444)
    made.undo()
    assert mode(secret) == 0o600 and os.listdir(bpffs) == []
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PinPathError, match="was replaced by another user"):
        made.file(str(pin), lambda: pin.touch(0o600), 0o444)
    assert mode(pin) == 0o600


def test_a_directory_that_another_makes_meanwhile_is_used(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = _bpffs._nearest

    def and_then(path: str) -> str:
        found = nearest(path)
        (bpffs / "new").mkdir()
        return found

    monkeypatch.setattr(_bpffs, "_nearest", and_then)
    made = _bpffs.Made()
    made.parents(str(bpffs / "new" / "deep" / "pin"))
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
