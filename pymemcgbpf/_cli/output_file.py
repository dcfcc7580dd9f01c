# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Replaces a file that other programs read, also as root in a directory of other users."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Optional

from ..errors import MemcgError
from . import command

NEW_MODE = 0o644  # the program that collects the file runs as another user
_PERMISSIONS = 0o777  # without setuid, setgid and the sticky bit


def replace(path: str, data: bytes) -> None:
    """Writes a file such that whoever opens it finds the old one or all of the new one.

    The permissions of the old file stay, and its owner where this user may give a file away. All
    is done by the open directory, so what the path leads to meanwhile does not matter. The last
    component must not be a symbolic link; links above it are followed by the kernel alone, which
    applies fs.protected_symlinks.

    Raises:
        MemcgError: it cannot be written, or what is there is no regular file.
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
    temporary = f".pymemcgbpf-{os.urandom(16).hex()}.tmp"  # which nobody can guess

    def create(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600, dir_fd=at)

    with command.signals_raise():  # so that a half-written file is removed
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
    """The status of the file whose owner and permissions are kept; None where there is none.

    Raises:
        OSError: there is something else than a regular file.
    """
    try:
        old = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(old.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link (name the file that it leads to)")
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return None if _may_be_planted(os.fstat(at), old) else old


def _may_be_planted(directory: os.stat_result, old: os.stat_result) -> bool:
    """Whether another user may have put the file there who could not replace the new one.

    In a sticky directory that several users write to, a file that belongs to this user cannot be
    replaced by the others. To keep the owner or the permissions that one of them has chosen would
    give the numbers into his hands. (fs.protected_regular draws the same line.)
    """
    shared = directory.st_mode & stat.S_ISVTX and directory.st_mode & 0o022
    trusted = old.st_uid in (os.geteuid(), directory.st_uid) and old.st_nlink == 1
    return bool(shared) and not trusted
