# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What can go wrong, as exceptions that a caller can act on.

Every one is a :class:`MemcgError`, and so an :class:`OSError`: ``errno`` is the
kernel's number where there is one (else ``None``), ``call`` the function that
failed, ``log`` what libbpf and the verifier said.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Optional

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
    "StreamError",
    "TreeTooLargeError",
    "UnknownItemError",
    "VerifierError",
]


class MemcgError(OSError):
    """Base of all errors of this package.

    Attributes:
        errno: the kernel's error number, or ``None``.
        call: the function that failed ("bpf_object__load"), or ``""``.
        log: libbpf's messages and the verifier's log, or ``""``.
    """

    def __init__(
        self, message: str, *, errno: Optional[int] = None, call: str = "", log: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errno = errno
        self.call = call
        self.log = log

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # OSError's own pickling would call __init__ with the wrong arguments.
        return (_rebuild, (type(self), self.args, self.__dict__, self.errno))


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
    """The system's words for an error number, with its number: "Operation not permitted (1)"."""
    return f"{os.strerror(number)} ({number})"


TRANSIENT_ERRNOS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR))


def is_transient(error: OSError) -> bool:
    """Whether a call failed for want of descriptors or memory, or because a signal was pending.

    Such a failure says nothing of what the kernel can do, or of what is at a path.
    """
    return error.errno in TRANSIENT_ERRNOS


def shortage(what: str, error: OSError, call: str) -> MemcgError:
    """The error for something that failed for such a reason: "… cannot be opened"."""
    if isinstance(error, MemcgError):
        return error
    return MemcgError(f"{what}: {errno_text(error.errno or 0)}", errno=error.errno, call=call)


class CgroupNotFoundError(MemcgError, FileNotFoundError):
    """The path does not exist."""


class NotACgroupError(MemcgError, NotADirectoryError):
    """The path is a file, or a directory that is not a cgroup's."""


class CgroupPermissionError(MemcgError, PermissionError):
    """The cgroup's directory or files may not be read by this user."""


class MemoryControllerError(MemcgError):
    """The cgroup exists, but the memory controller is not enabled for it."""


class CgroupRemovedError(MemcgError):
    """The cgroup was removed after its reader was made, or while it was being made."""


class UnknownItemError(MemcgError, ValueError):
    """Neither this package nor the running kernel knows an item of this name.

    Attributes:
        item: the name asked for.
        suggestions: the names most like it, best first.
    """

    def __init__(self, message: str, *, item: str = "", suggestions: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.item = item
        self.suggestions = tuple(suggestions)


class ItemUnavailableError(MemcgError, LookupError):
    """A known item that this kernel (or this cgroup, or the chosen backend) does not have.

    Attributes:
        item_names: the names of the unavailable items.
    """

    def __init__(self, message: str, *, item_names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.item_names = tuple(item_names)


class BackendUnavailableError(MemcgError):
    """The backend asked for cannot serve here; the base of the reasons why."""


class LibbpfNotFoundError(BackendUnavailableError):
    """libbpf.so.1 is not installed, or cannot be loaded."""


class LibbpfTooOldError(BackendUnavailableError):
    """The installed libbpf lacks a function that is needed."""


class BtfNotFoundError(BackendUnavailableError):
    """The kernel gives no type information (/sys/kernel/btf/vmlinux)."""


class BpfPermissionError(BackendUnavailableError, PermissionError):
    """The process may not load BPF programs."""


class BpfObjectError(BackendUnavailableError):
    """The package's BPF object is missing, damaged or not accepted by libbpf."""


class VerifierError(BackendUnavailableError):
    """The kernel's verifier refused the program; ``log`` has all it said."""


class StreamError(MemcgError):
    """What was read is not what its header promises; or no statistics of this package at all."""


class TreeTooLargeError(MemcgError):
    """There are more cgroups than the ``max_rows`` that a TreeReader was given, or than a pin
    can write.

    Attributes:
        rows: how many there were; of a pin, how many there is room for.
        max_rows: the most that there may be.
    """

    def __init__(self, message: str, *, rows: int = 0, max_rows: int = 0) -> None:
        super().__init__(message)
        self.rows = rows
        self.max_rows = max_rows


class PinPathError(MemcgError, ValueError):
    """No pin can be at this path: it is not on a bpffs, or has a dot in its name, or lies in the
    directory of a pinned tree."""


class PinExistsError(MemcgError, FileExistsError):
    """There is something at the path already; nothing is overwritten."""


class PinNotFoundError(MemcgError, FileNotFoundError):
    """There is no pin at the path: it was removed, or never made."""


class PinPermissionError(MemcgError, PermissionError):
    """This user may not read the pin, or not make or remove it."""


class ClosedError(MemcgError, ValueError):
    """The reader was used after ``close()``, or a snapshot's view after it was overwritten."""
