# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Opens file descriptors so that they cannot leak, and closes only those that are still its own.

Python runs signal handlers between any two steps. If a handler raises between the call that opens a
descriptor and the assignment of its result, the descriptor leaks. Here it gets an owner before any
Python code can run: see :func:`opened`.

A process that becomes a daemon closes all descriptors that it finds. Their numbers soon belong to
other files, which this package must not close: see :class:`Descriptor`.
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
    """select.epoll. Libraries for green threads delete it; then it is taken from a second instance
    of the module select."""
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
"""The owner of a descriptor: C code closes the descriptor when the last reference to it is gone.

Nothing here polls. It is the one type of the standard library that takes over any descriptor, makes
no system call for that, closes it without running Python code, and does not warn about it.
"""

_own = Owned.fromfd

Identity = tuple[object, ...]


def opened(function: Callable[..., int], *arguments: Any) -> Owned:
    """Calls a function that returns a new descriptor, and returns the owner of that.

    The function must be C code, so that no Python code runs between its call and the moment when
    the descriptor has its owner.
    """
    return next(owned(map(function, *zip(arguments))))


def owned(descriptors: Iterable[int]) -> Iterator[Owned]:
    """Yields the owner of each descriptor of an iterable, which must be C code, too."""
    return map(_own, descriptors)


def opened_at(path: str, flags: int, directory: Optional[int] = None) -> Owned:
    """Opens a file, by its path in an open directory if one is given.

    The descriptor is never 0, 1 or 2. If stdin is closed, open() returns 0, which the kernel's
    cgroup iterator takes for "no file".
    """
    at = os.open if directory is None else functools.partial(os.open, dir_fd=directory)
    file = next(map(_own, map(at, (path,), (flags | os.O_CLOEXEC,))))
    return file if file.fileno() > 2 else duplicate(file.fileno())


def duplicate(fd: int) -> Owned:
    """Another descriptor of the same file; it is above 2."""
    return opened(fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _may_be_of_bpf(fd: int) -> bool:
    """Whether an open file is a BPF object; True if /proc cannot tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("anon_inode:bpf")
    except OSError:
        return True


def file_identity(fd: int) -> tuple[int, int]:
    """The device and inode number of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Descriptor:
    """A descriptor that is kept for longer.

    It is closed once, by :meth:`close` or with the last reference to it, and only while its number
    still belongs to the same file.

    Args:
        owned: the owner of the descriptor, which is taken over.
        number_of: for a BPF object, a function of the descriptor that returns what tells the object
            from others of its kind. All BPF objects have the same device and inode number.
    """

    def __init__(self, owned: Owned, number_of: Optional[Callable[[int], Identity]] = None) -> None:
        self.fd = owned.fileno()
        self._owned, self._identity = owned, _Identity(self.fd, number_of)
        self._finalizer = weakref.finalize(self, _close, owned, self._identity)
        self._finalizer.atexit = False  # the kernel closes it when the process ends

    @property
    def file_identity(self) -> tuple[int, int]:
        """The device and inode number of the file."""
        return self._identity.file

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the descriptor."""
        return not self._owned.closed and not self._identity.is_of(self.fd)

    def close(self) -> None:
        """Closes the descriptor, unless other code has. Calling it again does nothing."""
        self._finalizer()


class _Identity:
    """What tells an open file from all others.

    Raises:
        MemcgError: the kernel was short of memory.
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
            # A seccomp filter, for instance, can forbid to identify an object that may be used.

    def is_of(self, fd: int) -> bool:
        """Whether a descriptor belongs to this file."""
        try:
            if file_identity(fd) != self.file:
                return False
            if self._number_of is None:
                return True
            if self._number is None:
                return _may_be_of_bpf(fd)
            return self._number_of(fd) == self._number
        except OSError as error:
            # For instance EPERM: before Linux 5.19, only a privileged process may identify it.
            return error.errno not in _NOT_THIS_FILE and _may_be_of_bpf(fd)


# The errors for a number that is not an open file's, or not a BPF object's.
_NOT_THIS_FILE = (errno.EBADF, errno.EBADFD, errno.EINVAL)


def _close(owned: Owned, identity: _Identity) -> None:
    if identity.is_of(owned.fileno()):
        owned.close()
    else:
        abandon(owned)


_abandoned: list[object] = []


def abandon(owner: object) -> None:
    """Keeps an owner for ever, so that it never closes its descriptor, whose number is another
    file's now."""
    _abandoned.append(owner)
