# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Creates files and directories in a bpffs, and removes them again if pinning fails."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from typing import Callable, Optional

from .._descriptors import Owned, opened_at
from .._records import Record
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis

DIRECTORY_MODE = 0o755


class Place(Record):
    """A name in an open directory. It stays valid if the directory is renamed."""

    directory: int
    name: str

    @property
    def path(self) -> str:
        """A path to it, for calls that do not accept an open directory."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


class PinTransaction:
    """The files and directories created so far, which :meth:`undo` removes.

    :meth:`close` without :meth:`undo` keeps them.
    """

    def __init__(self) -> None:
        self._directories: list[Place] = []
        self._files: list[Place] = []
        self._open: list[Owned] = []

    def above(self, path: str) -> Place:
        """Creates the missing directories above an absolute path, with mode 0755.

        Raises:
            PinPathError: the path does not lead into a bpffs, or other users may rename what is
                in the directory.
            OSError.
        """
        nearest = _bpffs.existing_ancestor(path)
        at = self._opened(nearest, os.O_PATH)
        if not _bpffs.is_bpffs(f"/proc/self/fd/{at}"):
            raise _diagnosis.no_longer_on_bpffs(nearest)
        *missing, name = os.path.relpath(path, nearest).split(os.sep)
        for each in missing:
            try:
                at = self.directory(Place(at, each), DIRECTORY_MODE)
            except FileExistsError:  # another process has just created it
                at = self._opened(each, os.O_PATH | os.O_NOFOLLOW, at)
        return Place(at, name)

    def directory(self, place: Place, mode: int) -> int:
        """Creates a directory with this mode, whatever the umask; returns its descriptor."""
        _check_safe(place)
        make = functools.partial(os.mkdir, place.name, mode, dir_fd=place.directory)
        self._make(self._directories, place, make)
        made = self._opened(place.name, os.O_RDONLY | os.O_NOFOLLOW, place.directory)
        os.fchmod(made, mode)
        return made

    def file(self, place: Place, make: Callable[[str], None], mode: int) -> None:
        """Creates a file with this mode by calling *make* with its path."""
        _check_safe(place)
        self._make(self._files, place, lambda: make(place.path))
        os.chmod(place.name, mode, dir_fd=place.directory)

    def _opened(self, path: str, flags: int, at: Optional[int] = None) -> int:
        directory = opened_at(path, flags | os.O_DIRECTORY, at)
        self._open.append(directory)
        return directory.fileno()

    @staticmethod
    def _make(made: list[Place], place: Place, make: Callable[[], None]) -> None:
        # It is recorded first, because a signal handler may raise right after it is created.
        made.append(place)
        try:
            make()
        except OSError:  # it was not created, or another process created it
            made.pop()
            raise

    def undo(self) -> None:
        """Removes all of it, except directories that others have put something into."""
        for place in reversed(self._files):
            with contextlib.suppress(OSError):
                os.unlink(place.name, dir_fd=place.directory)
        for place in reversed(self._directories):
            with contextlib.suppress(OSError):
                os.rmdir(place.name, dir_fd=place.directory)

    def close(self) -> None:
        """Closes the directories. Calling it again does nothing."""
        while self._open:
            self._open.pop().close()


def _check_safe(place: Place) -> None:
    """Raises where another user could replace what is created: the permissions of the
    replacement would then be set."""
    status = os.fstat(place.directory)
    others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if others_write or status.st_uid not in (0, os.geteuid()):
        raise _diagnosis.replaceable(os.readlink(f"/proc/self/fd/{place.directory}"))
