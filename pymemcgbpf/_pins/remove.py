# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Removes pins. A pin is a file, so this works without libbpf."""

from __future__ import annotations

import os
import stat
from typing import Callable

from .._lookup import Path
from ..errors import MemcgError
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import parts as _parts
from . import read as _read


def unpin(pin_path: Path) -> None:
    """Removes a pin that :func:`pin` created, or the directory that :func:`pin_tree` created::

        >>> unpin("/sys/fs/bpf/stats/system")

    The pin is read first, so that nothing else is removed. The kernel drops the program and its
    reference to the cgroup when the last process that is reading at the moment has finished. The
    directories above stay.

    Args:
        pin_path: the path of the pin, or of the directory of a pinned tree, which may be
            incomplete.

    Raises:
        PinNotFoundError: nothing exists at the path.
        PinPathError: the path is not on a bpffs, is a symbolic link, or is one part of a tree.
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
                _remove_directory(path, at)
            elif _parts.parts_of([name]):
                raise _diagnosis.one_part(path, above)
            else:
                _read.read_head(path, at)
                _remove(path, os.unlink, at)
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def _remove_directory(path: str, above: int) -> None:
    with _bpffs.opened_directory(os.path.basename(path) or ".", above) as at:
        names = os.listdir(at)
        parts = [os.path.join(path, part.name) for part in _parts.parts_of(names)]
        if not parts:
            raise _diagnosis.not_a_tree(path, is_empty=not names)
        foreign = sorted(set(names) - set(map(os.path.basename, parts)))
        if foreign:
            raise _diagnosis.foreign_file(path, foreign[0])
        for part in parts:
            _read.read_head(part, at)
        for part in reversed(parts):
            _remove(part, os.unlink, at)
    _remove(path, os.rmdir, above)


def _remove(path: str, remove: Callable[..., None], at: int) -> None:
    """Removes a file or directory by the last component of its path, in an open directory."""
    try:
        remove(os.path.basename(path), dir_fd=at)
    except OSError as error:
        raise _diagnosis.removal_error(path, error) from error
