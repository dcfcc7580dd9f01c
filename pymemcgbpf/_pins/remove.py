# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Removes pins. A pin is a file, so this works without libbpf."""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Optional

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
        _remove_files(path, at, lambda: _has_tree(path, at) or _has_our_maps(at))
        for _ in range(_ATTEMPTS):
            try:
                os.rmdir(os.path.basename(path), dir_fd=above)
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise _diagnosis.removal_error(path, error) from error
            # Another process is creating it at this moment, and has gone on since.
            _remove_files(path, at, lambda: True)
    _remove(path, os.rmdir, above)


_ATTEMPTS = 10


def _remove_files(path: str, at: int, are_ours: Callable[[], bool]) -> None:
    """Removes the files of a tree in an open directory, if they are a tree's."""
    names = os.listdir(at)
    foreign = sorted(set(names) - {*_layout.FILES})
    foreign += [name for name in _MAPS if name in names and _is_other_map(at, name)]
    if names and not are_ours():
        raise _diagnosis.not_a_tree(path)
    if foreign:
        raise _diagnosis.foreign_file(path, foreign[0])
    for name in _layout.FILES:  # the timer first, which ends the refreshing
        if name in names:
            _remove(os.path.join(path, name), os.unlink, at)


def _has_our_maps(at: int) -> bool:
    """Whether an open directory has maps of a pinned tree, and nothing else.

    That is what is left if the tree was unpinned while it was created, and its maker was killed.
    """
    names = os.listdir(at)
    return set(names) <= _MAPS.keys() and all(_map_name(at, name) == _MAPS[name] for name in names)


_MAPS = {_layout.MAP: "memcg_tree", _layout.TIMER: "memcg_timer"}


def _is_other_map(at: int, name: str) -> bool:
    """Whether a file with the name of a tree's map is known to be something else."""
    return _map_name(at, name) not in (None, _MAPS[name])


def _map_name(at: int, name: str) -> Optional[str]:
    """The name that the kernel has for a map in an open directory; None if it cannot be asked."""
    try:
        from . import map_ids
    except (ImportError, MemoryError, OSError):  # this Python has no ctypes
        return None
    try:
        return map_ids.map_at(f"/proc/self/fd/{at}/{name}").name
    except OSError:
        return None


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
