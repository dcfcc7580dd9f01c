# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Replaces a file that other programs read, also as root in a directory of other users."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Optional

from ..errors import MemcgError
from . import signals

NEW_MODE = 0o644  # the program that collects the file runs as another user
_PERMISSIONS = 0o777  # without setuid, setgid and the sticky bit


def replace(path: str, data: bytes) -> None:
    """Replaces a file in one step, so that another program reads the old data or all new data.

    The new file keeps the old one's permissions, and its owner if this user may change owners.
    Every step uses the open directory, so it does not matter if the path changes meanwhile. The
    last component must not be a symbolic link. Only the kernel follows links above it, and it
    applies fs.protected_symlinks.

    Raises:
        MemcgError: the file cannot be written, or the path names something other than a file.
    """
    directory, name = os.path.split(path)
    try:
        at = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace_in(at, name or ".", data)
        finally:
            os.close(at)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise MemcgError(message, errno=error.errno, call="export") from error


def _replace_in(at: int, name: str, data: bytes) -> None:
    old = _old_file(at, name)
    temporary = f".pymemcgbpf-{os.urandom(16).hex()}.tmp"  # a name that cannot be guessed

    def create(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600, dir_fd=at)

    with signals.exit_on_signals():  # so that a half-written file is removed
        try:
            with open(temporary, "xb", opener=create) as file:
                if old is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), NEW_MODE if old is None else old.st_mode & _PERMISSIONS)
                file.write(data)
            os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=at)
            raise


def _old_file(at: int, name: str) -> Optional[os.stat_result]:
    """The status of the file whose owner and permissions are kept; None if none is to be kept.

    Raises:
        OSError: the name belongs to something other than a regular file.
    """
    try:
        old = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(old.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link (name the file that it leads to)")
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return None if _may_be_planted(os.fstat(at), old) else old


def _may_be_planted(directory: os.stat_result, old: os.stat_result) -> bool:
    """Whether another user, who could not replace the new file, may have created the old one.

    In a sticky directory that several users can write to, other users cannot replace a file of
    this user. Keeping the owner or the permissions that one of them has chosen would give that
    user the statistics. The kernel's fs.protected_regular makes the same distinction.
    """
    shared = directory.st_mode & stat.S_ISVTX and directory.st_mode & 0o022
    trusted = old.st_uid in (os.geteuid(), directory.st_uid) and old.st_nlink == 1
    return bool(shared) and not trusted
