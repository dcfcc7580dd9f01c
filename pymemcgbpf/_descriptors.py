# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""File descriptors that are neither lost nor closed in another's place.

Python runs signal handlers between any two steps. What a handler raises between the call that
opens something and the assignment of its result would lose the descriptor, so it has an owner
before any Python code can run: see :func:`opened`.

And a process that becomes a daemon closes every descriptor that it finds. The numbers are soon
other files', which nobody here may close: see :class:`Descriptor`.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import weakref
from typing import Any, Callable, Optional

from .errors import is_transient

Owned = select.epoll
"""What owns a descriptor: closed when the last reference to it goes, by C code alone.

The type has nothing to do with what it is used for. It is the one in the standard library that
takes over any descriptor as it is, asks no system call about it, closes it without running Python
code, and does not warn of that.
"""

_own = select.epoll.fromfd

Identity = tuple[object, ...]


def opened(function: Callable[..., int], *arguments: Any) -> Owned:
    """Calls a function that returns a new descriptor, if it is C code: the owner of that.

    From the call until the descriptor has its owner no Python code runs.
    """
    return next(map(_own, map(function, *((argument,) for argument in arguments))))


def opened_at(path: str, flags: int, directory: Optional[int] = None) -> Owned:
    """Opens a file, by its path in an open directory if one is given. Never a number that
    belongs to stdin, stdout or stderr.

    (Where stdin is closed, open() would return 0, which the kernel's cgroup iterator takes for
    "no file".)
    """
    flags |= os.O_CLOEXEC
    at = os.open if directory is None else functools.partial(os.open, dir_fd=directory)
    owned = opened(at, path, flags)
    return owned if owned.fileno() > 2 else duplicate(owned.fileno())


def duplicate(fd: int) -> Owned:
    """Another descriptor of the same file, above those of stdin, stdout and stderr."""
    return opened(fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)


def file_identity(fd: int) -> tuple[int, int]:
    """The device and inode number of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Descriptor:
    """A descriptor that is kept: closed once, by :meth:`close` or with its last user, and only
    while its number is still this file's.

    Args:
        owned: what it takes over.
        identify: what tells this file from all others, by its number.
    """

    def __init__(self, owned: Owned, identify: Callable[[int], Identity] = file_identity) -> None:
        self.fd = owned.fileno()
        try:
            identity = identify(self.fd)
        except OSError as error:
            if is_transient(error):
                raise
            # It may be used, but nothing may be asked about it: seccomp can have it so.
            identify, identity = file_identity, file_identity(self.fd)
        self._owned, self._identify, self._identity = owned, identify, identity
        self._finalizer = weakref.finalize(self, _close, owned, identify, self._identity)
        self._finalizer.atexit = False  # the kernel closes what is open after a process

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed it."""
        return not self._owned.closed and _is_lost(self._owned, self._identify, self._identity)

    def close(self) -> None:
        """Closes it, unless somebody else has. Calling it again does nothing."""
        self._finalizer()


def _is_lost(owned: Owned, identify: Callable[[int], Identity], identity: Identity) -> bool:
    try:
        return identify(owned.fileno()) != identity
    except OSError as error:
        return error.errno in _NOT_THIS_FILE  # else it cannot be told


# Of a number that is no open file's, of one that is no BPF object's.
_NOT_THIS_FILE = (errno.EBADF, errno.EBADFD, errno.EINVAL)


def _close(owned: Owned, identify: Callable[[int], Identity], identity: Identity) -> None:
    if _is_lost(owned, identify, identity):
        abandon(owned)
    else:
        owned.close()


_abandoned: list[object] = []


def abandon(owner: object) -> None:
    """Never lets go of what owns a descriptor whose number is another file's now."""
    _abandoned.append(owner)
