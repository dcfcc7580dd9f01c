# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks paths in a bpffs, creates files and directories there, and undoes that; the names of a
pinned tree's parts. Works without libbpf."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple, Optional

from .._descriptors import Owned, opened_at
from .._lookup import Path, status
from ..errors import MemcgError, is_transient
from . import diagnosis as _diagnosis

DIRECTORY_MODE = 0o755


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
    above = _existing_ancestor(path)
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


def _existing_ancestor(path: str) -> str:
    """The nearest ancestor of a path that exists; a dangling symbolic link counts."""
    at = os.path.dirname(path)
    while not _is_taken(at):
        at = os.path.dirname(at)
    return at


class Place(NamedTuple):
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
        nearest = _existing_ancestor(path)
        at = self._opened(nearest, os.O_PATH)
        if not is_bpffs(f"/proc/self/fd/{at}"):
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


# --- the parts of a pinned tree, which are the files of one directory

MOST_PARTS = 1024
"""How many parts a tree can have: pin_tree() creates no more, PinnedReader accepts no more."""


class Part(NamedTuple):
    """One of the several pins of a tree.

    Attributes:
        number: counted from 0.
        of: how many parts the tree has.
    """

    number: int
    of: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"part-{self.number:04}-of-{self.of:04}"


_PART = re.compile(r"part-([0-9]{4})-of-([0-9]{4})", re.ASCII)


def parts_of(names: Iterable[str]) -> list[Part]:
    """The parts that these names are, in their order; other names are skipped."""
    matches = map(_PART.fullmatch, names)
    return sorted(Part(int(match[1]), int(match[2])) for match in matches if match)


def are_whole(parts: list[Part]) -> bool:
    """Whether these are all parts of one tree."""
    return bool(parts) and parts == [Part(at, parts[0].of) for at in range(parts[0].of)]
