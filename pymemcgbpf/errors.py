# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The exceptions that this package raises.

Every exception is a :class:`MemcgError`, which is an :class:`OSError`. Its ``errno`` is the
kernel's error number, or that of its class, its ``call`` is the function that failed, and its
``log`` has the messages of libbpf and of the verifier.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Optional

if TYPE_CHECKING:
    from .departed import Departed

__all__ = [
    "BackendUnavailableError",
    "BpfObjectError",
    "BpfPermissionError",
    "BtfNotFoundError",
    "CgroupNotFoundError",
    "CgroupPermissionError",
    "CgroupRemovedError",
    "ClosedError",
    "ItemUnavailableError",
    "LibbpfNotFoundError",
    "LibbpfTooOldError",
    "MemcgError",
    "MemoryControllerError",
    "NotACgroupError",
    "PinExistsError",
    "PinNotFoundError",
    "PinPathError",
    "PinPermissionError",
    "ProcessNotFoundError",
    "StreamError",
    "TreeTooLargeError",
    "UnknownItemError",
    "VerifierError",
]


class MemcgError(OSError):
    """Base class of all errors of this package.

    The message is one sentence that says what is wrong and, where possible, what to do about it.

    Attributes:
        remedy: what can be done about it, with which the message ends; ``""`` if the message has
            no such end.
        errno: the kernel's error number. If no call of the kernel failed, it is that of the class,
            which is ``None`` for MemcgError itself.
        call: the function that failed (``"bpf_object__load"``), or ``""``.
        log: the messages of libbpf and of the kernel's verifier, or ``""``.
    """

    _own_errno: ClassVar[Optional[int]] = None

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        errno: Optional[int] = None,
        call: str = "",
        log: str = "",
    ) -> None:
        if remedy:
            message = f"{message}: {remedy}"
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.errno = self._own_errno if errno is None else errno
        self.call = call
        self.log = log

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # OSError's own pickling would call __init__ with the wrong arguments.
        return (_rebuild, (type(self), self.args, self._state(), self.errno))

    def _state(self) -> dict[str, object]:
        """The attributes that a copy gets."""
        return self.__dict__


def _rebuild(
    cls: type[MemcgError],
    args: tuple[object, ...],
    state: dict[str, object],
    errno: Optional[int],
) -> MemcgError:
    error = cls.__new__(cls, *args)
    OSError.__init__(error, *args)
    error.__dict__.update(state)
    error.errno = errno
    return error


def errno_text(number: int) -> str:
    """The system's text for an error number, and the number: "Operation not permitted (1)"."""
    return f"{os.strerror(number)} ({number})"


TRANSIENT_ERRNOS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR))


def is_transient(error: OSError) -> bool:
    """Whether a call failed for lack of descriptors or memory, or because a signal was pending.

    Such a failure says nothing about what the kernel can do, or about what is at a path.
    """
    return error.errno in TRANSIENT_ERRNOS


def raise_if_short(error: BaseException, what: str, call: str) -> None:
    """Raises an error for a failure to load a library or a module, if that is transient.

    dlopen() reports such a failure in words only.

    Args:
        error: the failure.
        what: the beginning of the message: "… cannot be loaded".
        call: the function that failed.
    """
    for number in TRANSIENT_ERRNOS:
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            raise MemcgError(f"{what}: {error}", errno=number, call=call) from error


def shortage(what: str, error: OSError, call: str) -> MemcgError:
    """The error for a transient failure.

    Args:
        what: the beginning of the message: "… cannot be opened".
        error: the failure.
        call: the function that failed.
    """
    if isinstance(error, MemcgError):
        return error
    return MemcgError(f"{what}: {errno_text(error.errno or 0)}", errno=error.errno, call=call)


def raise_if_transient(error: OSError, what: str, call: str) -> None:
    """Raises :func:`shortage` for a transient failure; does nothing for any other."""
    if is_transient(error):
        raise shortage(what, error, call) from error


class CgroupNotFoundError(MemcgError, FileNotFoundError):
    """The path does not exist, or no mount shows the cgroup of a process."""

    _own_errno = errno.ENOENT


class NotACgroupError(MemcgError, NotADirectoryError):
    """The path is a file, or a directory that is not a cgroup's."""

    _own_errno = errno.ENOTDIR


class CgroupPermissionError(MemcgError, PermissionError):
    """This user may not read the cgroup's directory or files, or /proc hides the process."""

    _own_errno = errno.EACCES


class MemoryControllerError(MemcgError):
    """The cgroup exists, but the memory controller is not enabled for it.

    On cgroup v2, the message names the ``cgroup.subtree_control`` file to write to. Otherwise it
    says where the memory controller's hierarchy is mounted, if it is.
    """

    _own_errno = errno.EOPNOTSUPP


class CgroupRemovedError(MemcgError):
    """The cgroup was removed after its reader was created, or while it was being created.

    :func:`cgroup_of` raises it for a zombie whose cgroup was removed.

    Attributes:
        departed: the cgroups below it that were removed since the last read, as
            :attr:`Snapshot.departed` would have them, if ``TreeReader.read()`` of a reader with
            ``departed=True`` raises it in a process that has read with it before; None otherwise.
    """

    _own_errno = errno.ENODEV
    departed: Optional[Departed] = None

    def _state(self) -> dict[str, object]:
        return {**super()._state(), "departed": None}  # a snapshot cannot be pickled


class ProcessNotFoundError(MemcgError, ProcessLookupError):
    """There is no process of this id, or it has exited and the kernel does not say where it was."""

    _own_errno = errno.ESRCH


class UnknownItemError(MemcgError, ValueError):
    """Neither this package nor the running kernel knows an item of this name.

    Attributes:
        item: the name that was asked for.
        suggestions: similar names, the most similar first.
    """

    _own_errno = errno.EINVAL

    def __init__(self, message: str, *, item: str = "", suggestions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.item = item
        self.suggestions = tuple(suggestions)


class ItemUnavailableError(MemcgError, LookupError):
    """The item is known, but this kernel, this cgroup or the chosen backend does not have it.

    Attributes:
        item_names: the names of the unavailable items.
    """

    _own_errno = errno.ENODATA

    def __init__(self, message: str, *, item_names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.item_names = tuple(item_names)


class BackendUnavailableError(MemcgError):
    """The backend or transport that was asked for does not work here.

    The subclasses say why. With ``backend="auto"`` and ``transport="auto"``, readers do not raise
    it: they use text.
    """

    _own_errno = errno.EOPNOTSUPP


class LibbpfNotFoundError(BackendUnavailableError):
    """libbpf.so.1 is not installed, or cannot be loaded."""


class LibbpfTooOldError(BackendUnavailableError):
    """The installed libbpf lacks a function that this package needs."""


class BtfNotFoundError(BackendUnavailableError):
    """The kernel provides no type information (``/sys/kernel/btf/vmlinux``), or it cannot be read
    or understood; the message says which."""


class BpfPermissionError(BackendUnavailableError, PermissionError):
    """The process may not load BPF programs, or has lost the privileges to read on."""

    _own_errno = errno.EPERM


class BpfObjectError(BackendUnavailableError):
    """The package's BPF object is missing or damaged, or libbpf does not accept it."""


class VerifierError(BackendUnavailableError):
    """The kernel's verifier refused the program; ``log`` has its full output."""


class StreamError(MemcgError):
    """The data read is not what was expected, or does not come from this package."""

    _own_errno = errno.EBADMSG


class TreeTooLargeError(MemcgError):
    """A tree has more cgroups than a TreeReader's ``max_rows``, or than a pin has room for.

    Attributes:
        rows: the number of cgroups that were found; for a pin of :func:`pin`, the number that it
            can write.
        max_rows: the largest number allowed.
    """

    _own_errno = errno.ENOSPC

    def __init__(self, message: str, *, remedy: str = "", rows: int = 0, max_rows: int = 0) -> None:
        super().__init__(message, remedy=remedy)
        self.rows = rows
        self.max_rows = max_rows


class PinPathError(MemcgError, ValueError):
    """A pin cannot be at this path.

    The path is not on a bpffs (pins can only be created there), a name in it has a dot, it is a
    symbolic link, it lies in the directory of a pinned tree, or other users could replace what is
    created there.
    """

    _own_errno = errno.EINVAL


class PinExistsError(MemcgError, FileExistsError):
    """Something is at the path already; nothing is overwritten."""

    _own_errno = errno.EEXIST


class PinNotFoundError(MemcgError, FileNotFoundError):
    """There is no pin at the path: it was removed, or never created."""

    _own_errno = errno.ENOENT


class PinPermissionError(MemcgError, PermissionError):
    """This user may not read the pin, or not create or remove it."""

    _own_errno = errno.EACCES


class ClosedError(MemcgError, ValueError):
    """The reader was used after ``close()``, or a view (``read(copy=False)``) after it expired.

    A view expires with the next read of its reader, and in a forked child.
    """

    _own_errno = errno.EBADF
