# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Places in a bpffs: checked, made, undone; and the names of a tree's parts. No libbpf."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable
from typing import Callable, NamedTuple, Union

from .errors import MemcgError, PinExistsError, PinPathError, PinPermissionError, errno_text

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

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
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
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


def check_free(path: str) -> None:
    """Raises unless something can be made at an absolute path, as far as can be seen.

    Raises:
        PinExistsError, PinPathError, PinPermissionError.
    """
    if os.path.lexists(path):
        raise exists(path)
    above = _nearest(path)
    try:
        if not is_bpffs(above):
            raise PinPathError(
                f"{path} is not on a bpffs, where alone a pin can be ({_MOUNT}, "
                "if there is none, and give a path below it)"
            )
    except PermissionError as error:
        raise not_allowed(path, error) from error
    if _is_pinned_tree(above):
        raise PinPathError(f"{path} would lie in the directory of a pinned tree: {above}")
    for name in os.path.relpath(path, above).split(os.sep):
        if "." in name:
            raise PinPathError(f"a bpffs takes no name with a dot in it: {name!r} of {path}")


def _is_pinned_tree(directory: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(parts_of(os.listdir(directory)))
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
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    return at


def set_mode(path: str, mode: int) -> None:
    """Sets the permissions of what this process has just made at a path.

    Whoever owns a directory above may have put another's file or a link there since: that is
    left alone.

    Raises:
        PinPathError: so it is.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
            raise PinPathError(f"{path} was replaced by another user as soon as it was made")
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


class Made:
    """What was made so far, to be taken back unless it is kept."""

    def __init__(self) -> None:
        self._directories: list[str] = []
        self._files: list[str] = []

    def parents(self, path: str) -> None:
        """Makes the directories above a path that are not there, for all to enter."""
        above = _nearest(path)
        missing = os.path.relpath(os.path.dirname(path), above).split(os.sep)
        for name in missing if missing != [os.curdir] else ():
            above = os.path.join(above, name)
            with contextlib.suppress(FileExistsError):  # another makes it just now, too
                self.directory(above, DIRECTORY_MODE)

    def directory(self, path: str, mode: int) -> None:
        """Makes a directory, whatever the umask."""
        self._make(self._directories, path, lambda: os.mkdir(path, mode))
        set_mode(path, mode)

    def file(self, path: str, make: Callable[[], None], mode: int) -> None:
        """Makes a file, by a function that does."""
        self._make(self._files, path, make)
        set_mode(path, mode)

    @staticmethod
    def _make(made: list[str], path: str, make: Callable[[], None]) -> None:
        made.append(path)  # before, as a signal handler may raise at once when it is there
        try:
            make()
        except OSError:  # so it is not there, or not ours
            made.pop()
            raise

    def undo(self) -> None:
        """Takes all back, but for directories that others use now."""
        for path in reversed(self._files):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for path in reversed(self._directories):
            with contextlib.suppress(OSError):
                os.rmdir(path)


# --- a tree's parts, in a directory of their own


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
