# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Places in a bpffs: checked, made, undone; and the names of a tree's parts. No libbpf."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple, Optional

from .._descriptors import Owned, opened_at
from .._lookup import Path as Path
from .._lookup import status
from ..errors import (
    MemcgError,
    PinExistsError,
    PinPathError,
    PinPermissionError,
    errno_text,
    is_transient,
    shortage,
)

DIRECTORY_MODE = 0o755
NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.EROFS)
NO_SUCH_PLACE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_MOUNT = "mount -t bpf bpf /sys/fs/bpf"


def absolute(path: Path) -> str:
    """A path that does not depend on the working directory.

    Raises:
        PinPathError: it is none.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise PinPathError(f"{text!r} cannot be a path")
    return os.path.abspath(text)


def is_bpffs(path: str) -> bool:
    """Whether what is at a path is in a bpffs.

    Raises:
        OSError: there is nothing.
        MemcgError: it cannot be told.
    """
    return is_on_bpffs(os.stat(path), path)


def is_on_bpffs(status: os.stat_result, path: str) -> bool:
    """The same of what os.stat() tells of it.

    Raises:
        MemcgError: it cannot be told.
    """
    wanted = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                if before.split(" ")[2] == wanted:
                    return after.startswith("bpf ")
    except OSError as error:
        raise MemcgError(
            f"whether {path} is on a bpffs cannot be told: /proc/self/mountinfo: "
            f"{errno_text(error.errno or 0)}",
            errno=error.errno,
            call="open",
        ) from error
    return False


def no_pin(path: str) -> PinPathError:
    """The error for what is on another file system."""
    return PinPathError(f"{path} is not on a bpffs, so it is no pin")


@contextlib.contextmanager
def opened_directory(path: str, at: Optional[int] = None) -> Iterator[int]:
    """An open directory: at a path, for names in it; or, to be listed, by its name in another."""
    flags = os.O_PATH if at is None else os.O_RDONLY | os.O_NOFOLLOW
    directory = opened_at(path, flags | os.O_DIRECTORY, at)
    try:
        yield directory.fileno()
    finally:
        directory.close()


def check_free(path: str) -> None:
    """Raises unless something can be made at an absolute path, as far as can be seen.

    Raises:
        PinExistsError, PinPathError, PinPermissionError.
    """
    if _is_taken(path):
        raise exists(path)
    above = _nearest(path)
    try:
        if not is_bpffs(above):
            raise PinPathError(
                f"{path} is not on a bpffs, where alone a pin can be ({_MOUNT}, "
                "if there is none, and give a path below it)"
            )
    except MemcgError:
        raise
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{above} cannot be looked at", error, "stat") from error
        if error.errno in NOT_ALLOWED:
            raise not_allowed(path, error) from error
        raise no_such_place(path, error) from error
    if _is_pinned_tree(above):
        raise PinPathError(f"{path} would lie in the directory of a pinned tree: {above}")
    for name in os.path.relpath(path, above).split(os.sep):
        if "." in name:
            raise PinPathError(f"a bpffs takes no name with a dot in it: {name!r} of {path}")
        if parts_of([name]):
            raise PinPathError(f"{name!r} is what a part of a pinned tree is called: {path}")


def _is_taken(path: str) -> bool:
    return status(path, follow_symlinks=False) is not None


def _is_pinned_tree(directory: str) -> bool:
    try:
        return bool(parts_of(os.listdir(directory)))
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{directory} cannot be listed", error, "open") from error
        return False


def exists(path: str) -> PinExistsError:
    """The error for a place that is taken."""
    return PinExistsError(f"{path} is there already: unpin it first, or choose another path")


def not_allowed(path: str, error: OSError) -> PinPermissionError:
    """The error for a place where this user may not make or remove anything."""
    return PinPermissionError(
        f"this user may not make or remove {path}: {errno_text(error.errno or 0)}",
        errno=error.errno,
        call="bpffs",
    )


def _nearest(path: str) -> str:
    """The nearest directory above that is there."""
    at = os.path.dirname(path)
    while not _is_taken(at):
        at = os.path.dirname(at)
    return at


def no_such_place(path: str, error: OSError) -> PinPathError:
    """The error for a path that leads nowhere where a pin could be."""
    return PinPathError(
        f"{path} cannot be a pin's path: {errno_text(error.errno or 0)}",
        errno=error.errno,
        call="bpffs",
    )


class Place(NamedTuple):
    """A name in an open directory, whatever that directory is called meanwhile."""

    directory: int
    name: str

    @property
    def path(self) -> str:
        """For calls that take no directory."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


class PinTransaction:
    """What was made so far, to be taken back unless it is kept. Closed, it is all kept."""

    def __init__(self) -> None:
        self._directories: list[Place] = []
        self._files: list[Place] = []
        self._open: list[Owned] = []

    def above(self, path: str) -> Place:
        """Makes the directories above an absolute path that are not there, for all to enter.

        Raises:
            PinPathError: the path does not lead into a bpffs; others may rename what is in there.
            OSError.
        """
        nearest = _nearest(path)
        at = self._opened(nearest, os.O_PATH)
        if not is_bpffs(f"/proc/self/fd/{at}"):
            raise PinPathError(f"{nearest} is no longer on a bpffs")
        *missing, name = os.path.relpath(path, nearest).split(os.sep)
        for each in missing:
            try:
                at = self.directory(Place(at, each), DIRECTORY_MODE)
            except FileExistsError:  # another makes it just now, too
                at = self._opened(each, os.O_PATH | os.O_NOFOLLOW, at)
        return Place(at, name)

    def directory(self, place: Place, mode: int) -> int:
        """Makes a directory, whatever the umask; returns it, open."""
        _check_safe(place)
        make = functools.partial(os.mkdir, place.name, mode, dir_fd=place.directory)
        self._make(self._directories, place, make)
        made = self._opened(place.name, os.O_RDONLY | os.O_NOFOLLOW, place.directory)
        os.fchmod(made, mode)
        return made

    def file(self, place: Place, make: Callable[[str], None], mode: int) -> None:
        """Makes a file, by a function that does at a path."""
        _check_safe(place)
        self._make(self._files, place, lambda: make(place.path))
        os.chmod(place.name, mode, dir_fd=place.directory)

    def _opened(self, path: str, flags: int, at: Optional[int] = None) -> int:
        directory = opened_at(path, flags | os.O_DIRECTORY, at)
        self._open.append(directory)
        return directory.fileno()

    @staticmethod
    def _make(made: list[Place], place: Place, make: Callable[[], None]) -> None:
        made.append(place)  # before, as a signal handler may raise at once when it is there
        try:
            make()
        except OSError:  # so it is not there, or not ours
            made.pop()
            raise

    def undo(self) -> None:
        """Takes all back, but for directories that others use now."""
        for place in reversed(self._files):
            with contextlib.suppress(OSError):
                os.unlink(place.name, dir_fd=place.directory)
        for place in reversed(self._directories):
            with contextlib.suppress(OSError):
                os.rmdir(place.name, dir_fd=place.directory)

    def close(self) -> None:
        """Closes the directories. Twice is fine."""
        while self._open:
            self._open.pop().close()


def _check_safe(place: Place) -> None:
    """Raises where another user could put something else in the place of what is made, whose
    permissions would then be set."""
    status = os.fstat(place.directory)
    others_write = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if others_write or status.st_uid not in (0, os.geteuid()):
        where = os.readlink(f"/proc/self/fd/{place.directory}")
        raise PinPathError(
            f"other users may rename what is in {where}: pin into a directory that only this user "
            "may write to (chown, chmod go-w)"
        )


# --- a tree's parts, in a directory of their own

MOST_PARTS = 1024
"""How many parts a tree can have: pin_tree() makes no more, and PinnedReader takes no more."""


class Part(NamedTuple):
    """One of several pins that share a tree."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """The file's."""
        return f"part-{self.number:04}-of-{self.of:04}"


_PART = re.compile(r"part-([0-9]{4})-of-([0-9]{4})", re.ASCII)


def parts_of(names: Iterable[str]) -> list[Part]:
    """Those of the names that are a part's, in order."""
    matches = map(_PART.fullmatch, names)
    return sorted(Part(int(match[1]), int(match[2])) for match in matches if match)


def are_whole(parts: list[Part]) -> bool:
    """Whether these are all parts of one tree."""
    return bool(parts) and parts == [Part(at, parts[0].of) for at in range(parts[0].of)]
