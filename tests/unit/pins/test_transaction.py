# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Files and directories are created, and removed again, in a directory that looks like a bpffs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import PinPathError
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._pins import transaction as _transaction

from ...open_files import open_files


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def made() -> Iterator[_transaction.PinTransaction]:
    made = _transaction.PinTransaction()
    before = open_files()
    yield made
    made.close()
    made.close()
    assert open_files() == before


def touch(path: str) -> None:
    Path(path).touch(0o600, exist_ok=False)


def test_undo_removes_what_was_created(bpffs: Path, made: _transaction.PinTransaction) -> None:
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


def test_undo_leaves_what_others_created(bpffs: Path, made: _transaction.PinTransaction) -> None:
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
    bpffs: Path, made: _transaction.PinTransaction
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
    bits: int, bpffs: Path, made: _transaction.PinTransaction
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
    bpffs: Path, made: _transaction.PinTransaction, monkeypatch: pytest.MonkeyPatch
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
    bpffs: Path, tmp_path: Path, made: _transaction.PinTransaction
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
    bpffs: Path, tmp_path: Path, made: _transaction.PinTransaction
) -> None:
    (bpffs / "link").symlink_to(tmp_path)
    with pytest.raises(PinPathError, match="no longer on a bpffs"):
        made.above(str(bpffs / "link" / "pin"))


def test_a_directory_that_another_process_has_just_created_is_used(
    bpffs: Path, made: _transaction.PinTransaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = _bpffs.existing_ancestor

    def and_then(path: str) -> str:
        found = nearest(path)
        (bpffs / "new").mkdir()
        return found

    monkeypatch.setattr(_bpffs, "existing_ancestor", and_then)
    made.above(str(bpffs / "new" / "deep" / "pin"))
    made.undo()
    assert list(bpffs.rglob("*")) == [bpffs / "new"]
