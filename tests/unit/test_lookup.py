# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is at a path, and what a small file says."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import _lookup


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
