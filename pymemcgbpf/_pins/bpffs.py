# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks paths in a bpffs. Works without libbpf."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Optional

from .._descriptors import opened_at
from .._lookup import Path, status
from ..errors import MemcgError, is_transient
from . import diagnosis as _diagnosis
from .parts import parts_of


def absolute(path: Path) -> str:
    """A path that does not depend on the working directory.

    Raises:
        PinPathError: the path is empty, or has a NUL.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise _diagnosis.not_a_path(text)
    return os.path.abspath(text)


def is_bpffs(path: str) -> bool:
    """Whether the file or directory at a path is on a bpffs.

    Raises:
        OSError: nothing is visible at the path.
        MemcgError: the mount table cannot be read.
    """
    return is_on_bpffs(os.stat(path), path)


def is_on_bpffs(status: os.stat_result, path: str) -> bool:
    """Whether a file is on a bpffs, by its status; the path is for the message.

    Raises:
        MemcgError: the mount table cannot be read.
    """
    wanted = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                if before.split(" ")[2] == wanted:
                    return after.startswith("bpf ")
    except OSError as error:
        raise _diagnosis.mount_table_error(path, error) from error
    return False


@contextlib.contextmanager
def opened_directory(path: str, at: Optional[int] = None) -> Iterator[int]:
    """Opens a directory, and closes it in the end.

    Without *at*, it is the directory at a path, opened with O_PATH, for calls that take names in
    it. With *at*, it is the directory of that name in the open directory, and can be listed; a
    symbolic link is refused.
    """
    flags = os.O_PATH if at is None else os.O_RDONLY | os.O_NOFOLLOW
    directory = opened_at(path, flags | os.O_DIRECTORY, at)
    try:
        yield directory.fileno()
    finally:
        directory.close()


def check_free(path: str) -> None:
    """Raises unless a pin or a directory could be created at an absolute path.

    Raises:
        PinExistsError, PinPathError, PinPermissionError.
    """
    if _is_taken(path):
        raise _diagnosis.exists(path)
    above = existing_ancestor(path)
    try:
        if not is_bpffs(above):
            raise _diagnosis.not_on_bpffs(path)
    except MemcgError:
        raise
    except OSError as error:
        raise _diagnosis.place_error(path, above, error) from error
    if _is_pinned_tree(above):
        raise _diagnosis.inside_pinned_tree(path, above)
    for name in os.path.relpath(path, above).split(os.sep):
        if "." in name:
            raise _diagnosis.name_with_dot(path, name)
        if parts_of([name]):
            raise _diagnosis.name_of_part(path, name)


def _is_taken(path: str) -> bool:
    return status(path, follow_symlinks=False) is not None


def _is_pinned_tree(directory: str) -> bool:
    try:
        return bool(parts_of(os.listdir(directory)))
    except OSError as error:
        if is_transient(error):
            raise _diagnosis.listing_error(directory, error) from error
        return False


def existing_ancestor(path: str) -> str:
    """The nearest ancestor of a path that exists; a dangling symbolic link counts."""
    at = os.path.dirname(path)
    while not _is_taken(at):
        at = os.path.dirname(at)
    return at
