# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Takes pins away. No libbpf: a pin is a file."""

from __future__ import annotations

import os
import stat
from typing import Callable

from .._lookup import Path
from ..errors import MemcgError
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import read as _read


def unpin(pin_path: Path) -> None:
    """Removes what :func:`pin` or :func:`pin_tree` made::

        >>> unpin("/sys/fs/bpf/stats/system")

    The kernel drops the program, and its reference to the cgroup, when the last process that
    is just reading has finished. The directories above stay.

    Args:
        pin_path: the pin, or the directory that pin_tree() made, even if half of it is gone.

    Raises:
        PinNotFoundError: there is nothing.
        PinPathError: it is not on a bpffs, is a symbolic link, or is one part of a tree.
        StreamError: it is not this package's; nothing was removed.
        PinPermissionError: this user may not remove it, or not read it, which comes first.
    """
    path = _bpffs.absolute(pin_path)
    try:
        # By directories that are open: what the path leads to may change meanwhile.
        above, name = os.path.split(path)
        with _bpffs.opened_directory(above) as at:
            status = os.stat(name or ".", dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise _diagnosis.symbolic_link(path)
            if not _bpffs.is_on_bpffs(status, path):
                raise _diagnosis.no_pin(path)
            if stat.S_ISDIR(status.st_mode):
                _remove_directory(path, at)
            elif _bpffs.parts_of([name]):
                raise _diagnosis.one_part(path, above)
            else:
                _read.read_head(path, at)
                _taken_away(path, os.unlink, at)
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def _remove_directory(path: str, above: int) -> None:
    with _bpffs.opened_directory(os.path.basename(path) or ".", above) as at:
        names = os.listdir(at)
        parts = [os.path.join(path, part.name) for part in _bpffs.parts_of(names)]
        if not parts:
            raise _diagnosis.not_a_tree(path, is_empty=not names)
        foreign = sorted(set(names) - set(map(os.path.basename, parts)))
        if foreign:
            raise _diagnosis.foreign_file(path, foreign[0])
        for part in parts:
            _read.read_head(part, at)
        for part in reversed(parts):
            _taken_away(part, os.unlink, at)
    _taken_away(path, os.rmdir, above)


def _taken_away(path: str, remove: Callable[..., None], at: int) -> None:
    """Removes what the path's last word names in an open directory."""
    try:
        remove(os.path.basename(path), dir_fd=at)
    except OSError as error:
        raise _diagnosis.removal_error(path, error) from error
