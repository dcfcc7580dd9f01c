# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is at a path, and what a small file says."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Callable

import pytest

import pymemcgbpf
from pymemcgbpf import _lookup

from .commands import failed


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO])
def test_a_permanent_failure_means_that_nothing_is_visible(number: int, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        assert not _lookup.exists(str(tmp_path))
        assert _lookup.identity(str(tmp_path)) is None
    assert _lookup.exists(str(tmp_path))


def test_nothing_is_visible_at_a_path_with_a_nul() -> None:
    assert not _lookup.exists("a\0b")
    assert _lookup.identity("a\0b") is None


def test_contents_keeps_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    # Some mount's name, in mountinfo, need not be UTF-8.
    (tmp_path / "mountinfo").write_bytes(b"/media/caf\xe9 rw\n")
    text = _lookup.contents(str(tmp_path / "mountinfo"))
    assert text is not None
    assert os.fsencode(text) == b"/media/caf\xe9 rw"


def test_contents_of_a_missing_file_or_a_directory_is_none(tmp_path: Path) -> None:
    assert _lookup.contents(str(tmp_path / "none")) is None
    assert _lookup.contents(str(tmp_path)) is None


def test_contents_of_a_file_is_whole_but_for_the_last_line_end(tmp_path: Path) -> None:
    for text in ("", "0::/a ", "a\r", "x" * 50_000 + "\n" + "y" * 50_000):
        (tmp_path / "it").write_bytes(f"{text}\n".encode())
        assert _lookup.contents(str(tmp_path / "it")) == text


@pytest.fixture
def removed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the current directory one that was removed."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()


@pytest.mark.usefixtures("removed_directory")
@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (lambda: pymemcgbpf.pin("/sys/fs/cgroup", "./p"), pymemcgbpf.PinPathError),
        (lambda: pymemcgbpf.pin_tree("/sys/fs/cgroup", "./p"), pymemcgbpf.PinPathError),
        (lambda: pymemcgbpf.unpin("./p"), pymemcgbpf.PinPathError),
        (lambda: pymemcgbpf.collector("./p"), pymemcgbpf.CgroupNotFoundError),
        (lambda: pymemcgbpf.StatsReader("./p"), pymemcgbpf.CgroupNotFoundError),
        (lambda: pymemcgbpf.TreeReader("."), pymemcgbpf.CgroupNotFoundError),
    ],
)
def test_a_removed_current_directory_is_an_error_of_the_package(
    use: Callable[[], object], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        use()
    assert isinstance(caught.value, (pymemcgbpf.PinPathError, pymemcgbpf.CgroupNotFoundError))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.usefixtures("removed_directory")
@pytest.mark.parametrize("words", ["stat .", "tree .", "watch ./x", "export .", "pins ./x"])
def test_commands_in_a_removed_directory_say_so(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the current directory was removed: change to another one" in failed(
        capsys, 1, *words.split()
    )
