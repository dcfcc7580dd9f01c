# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Removes pins. A pin is a file, so this works without libbpf."""

from __future__ import annotations

import os
import stat
from typing import Callable

from .._lookup import Path
from ..errors import MemcgError, PinNotFoundError, StreamError
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import pin_stream as _pin_stream
from . import tree_layout as _layout
from . import tree_stream as _tree_stream


def unpin(pin_path: Path) -> None:
    """Removes a pin that :func:`pin` created, or a tree that :func:`pin_tree` created::

        >>> unpin("/sys/fs/bpf/stats/system")

    It is read first, so that nothing else is removed. The kernel drops the program and its
    reference to the cgroup when the last process that is reading at the moment has finished. A
    tree is not refreshed any more from the moment of its removal on. The directories above stay.

    Args:
        pin_path: the path of the pin, or of the directory of a pinned tree. The tree may be
            incomplete, because its creation was interrupted: then its directory may be empty.

    Raises:
        PinNotFoundError: nothing exists at the path.
        PinPathError: the path is not on a bpffs, is a symbolic link, or is one file of a tree.
        StreamError: it is not a pin of this package; nothing was removed.
        PinPermissionError: this user may not read the pin, or not remove it.
    """
    path = _bpffs.absolute(pin_path)
    try:
        # All names are looked up in open directories, because the path may lead to something else
        # by the time that the pin is removed.
        above, name = os.path.split(path)
        with _bpffs.opened_directory(above) as at:
            status = os.stat(name or ".", dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise _diagnosis.symbolic_link(path)
            if not _bpffs.is_on_bpffs(status, path):
                raise _diagnosis.no_pin(path)
            if stat.S_ISDIR(status.st_mode):
                _remove_tree(path, at)
            elif name in _layout.FILES and _has_tree(above, at):
                raise _diagnosis.part_of_tree(path, above)
            else:
                _pin_stream.read_head(path, at)
                _remove(path, os.unlink, at)
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def _remove_tree(path: str, above: int) -> None:
    with _bpffs.opened_directory(os.path.basename(path) or ".", above) as at:
        names = os.listdir(at)
        foreign = sorted(set(names) - {*_layout.FILES})
        if names and not _has_tree(path, at):
            raise _diagnosis.not_a_tree(path)
        if foreign:
            raise _diagnosis.foreign_file(path, foreign[0])
        for name in _layout.FILES:  # the timer first, which ends the refreshing
            if name in names:
                _remove(os.path.join(path, name), os.unlink, at)
    _remove(path, os.rmdir, above)


def _has_tree(path: str, at: int) -> bool:
    """Whether an open directory has the stream of a tree."""
    try:
        _tree_stream.read_head(os.path.join(path, _layout.STREAM), at)
    except (PinNotFoundError, StreamError):
        return False
    return True


def _remove(path: str, remove: Callable[..., None], at: int) -> None:
    """Removes a file or directory by the last component of its path, in an open directory."""
    try:
        remove(os.path.basename(path), dir_fd=at)
    except OSError as error:
        raise _diagnosis.removal_error(path, error) from error
