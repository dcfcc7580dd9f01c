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
import importlib.util
import os
import select
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

from .errors import is_transient


def _owning_type() -> Any:
    """select.epoll, also where a library has taken it away, as those for green threads do: then
    it is that of the module made once more."""
    if hasattr(select, "epoll"):
        return select.epoll
    spec = importlib.util.find_spec("select")
    assert spec is not None and spec.loader is not None, "it was imported"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.epoll


if TYPE_CHECKING:
    Owned = select.epoll
else:
    Owned = _owning_type()
"""What owns a descriptor: closed when the last reference to it goes, by C code alone.

The type has nothing to do with what it is used for. It is the one in the standard library that
takes over any descriptor as it is, asks no system call about it, closes it without running Python
code, and does not warn of that.
"""

_own = Owned.fromfd

Identity = tuple[object, ...]


def opened(function: Callable[..., int], *arguments: Any) -> Owned:
    """Calls a function that returns a new descriptor, if it is C code: the owner of that.

    From the call until the descriptor has its owner no Python code runs.
    """
    return next(owned(map(function, *zip(arguments))))


def owned(descriptors: Iterable[int]) -> Iterator[Owned]:
    """The owner of each descriptor that comes of an iterable, if that is C code too."""
    return map(_own, descriptors)


def opened_at(path: str, flags: int, directory: Optional[int] = None) -> Owned:
    """Opens a file, by its path in an open directory if one is given. Never a number that
    belongs to stdin, stdout or stderr.

    (Where stdin is closed, open() would return 0, which the kernel's cgroup iterator takes for
    "no file".)
    """
    at = os.open if directory is None else functools.partial(os.open, dir_fd=directory)
    file = next(map(_own, map(at, (path,), (flags | os.O_CLOEXEC,))))
    return file if file.fileno() > 2 else duplicate(file.fileno())


def duplicate(fd: int) -> Owned:
    """Another descriptor of the same file, above those of stdin, stdout and stderr."""
    return opened(fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _may_be_of_bpf(fd: int) -> bool:
    """Whether an open file is a BPF object, or /proc does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("anon_inode:bpf")
    except OSError:
        return True


def file_identity(fd: int) -> tuple[int, int]:
    """The device and inode number of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Descriptor:
    """A descriptor that is kept: closed once, by :meth:`close` or with its last user, and only
    while its number is still this file's.

    Args:
        owned: what it takes over.
        number_of: of a BPF object, all of which look alike: what tells it from the others of its
            kind, by its descriptor.
    """

    def __init__(self, owned: Owned, number_of: Optional[Callable[[int], Identity]] = None) -> None:
        self.fd = owned.fileno()
        self._owned, self._identity = owned, _Identity(self.fd, number_of)
        self._finalizer = weakref.finalize(self, _close, owned, self._identity)
        self._finalizer.atexit = False  # the kernel closes what is open after a process

    @property
    def file_identity(self) -> tuple[int, int]:
        """The device and inode number of the file."""
        return self._identity.file

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the descriptor."""
        return not self._owned.closed and not self._identity.is_of(self.fd)

    def close(self) -> None:
        """Closes it, unless somebody else has. Calling it again does nothing."""
        self._finalizer()


class _Identity:
    """What tells an open file from all others.

    Raises:
        MemcgError: there was no memory to find it out.
    """

    def __init__(self, fd: int, number_of: Optional[Callable[[int], Identity]]) -> None:
        self._number_of = number_of
        self.file = file_identity(fd)
        self._number: Optional[Identity] = None
        if number_of is None:
            return
        try:
            self._number = number_of(fd)
        except OSError as error:
            if is_transient(error):
                raise
            # It may be used, but nothing may be asked about it: seccomp can have it so.

    def is_of(self, fd: int) -> bool:
        """Whether a descriptor is of this file."""
        try:
            if file_identity(fd) != self.file:
                return False
            if self._number_of is None:
                return True
            if self._number is None:
                return _may_be_of_bpf(fd)
            return self._number_of(fd) == self._number
        except OSError as error:
            # EPERM, among others: before Linux 5.19 nothing may be asked without rights.
            return error.errno not in _NOT_THIS_FILE and _may_be_of_bpf(fd)


# Of a number that is no open file's, of one that is no BPF object's.
_NOT_THIS_FILE = (errno.EBADF, errno.EBADFD, errno.EINVAL)


def _close(owned: Owned, identity: _Identity) -> None:
    if identity.is_of(owned.fileno()):
        owned.close()
    else:
        abandon(owned)


_abandoned: list[object] = []


def abandon(owner: object) -> None:
    """Never lets go of what owns a descriptor whose number is another file's now."""
    _abandoned.append(owner)
