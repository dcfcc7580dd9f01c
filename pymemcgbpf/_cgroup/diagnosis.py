# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Why a cgroup cannot be read: each failure becomes one exception with one sentence."""

from __future__ import annotations

import errno
import os
from typing import Callable, NoReturn, Protocol, TypeVar

from .._items import MEMORY_STAT
from .._lookup import contents, exists, identity, resolved
from ..errors import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    errno_text,
    is_transient,
    shortage,
)
from . import mounts as _mounts

Identity = tuple[int, int]
"""A directory's device and inode number."""

_Result = TypeVar("_Result")


class OpenCgroup(Protocol):
    """What :func:`map_os_errors` asks of a directory.Cgroup."""

    @property
    def path(self) -> str:
        """The path that the caller gave."""

    @property
    def identity(self) -> Identity:
        """The directory's device and inode number."""

    @property
    def has_lost_files(self) -> bool:
        """Whether the cgroup is being removed, or its memory controller disabled."""


# --- what a failed call means


def map_os_errors(cgroup: OpenCgroup, work: Callable[[], _Result]) -> _Result:
    """Returns what *work* returns, and raises its plain OSErrors as errors of this package."""
    try:
        return work()
    except ItemUnavailableError as error:
        if cgroup.has_lost_files:
            raise why_unreadable(cgroup.path, cgroup.identity) from error
        raise
    except OSError as error:
        raise_mapped(cgroup.path, cgroup.identity, error)


def raise_mapped(path: str, opened: Identity, error: OSError) -> NoReturn:
    """Raises the error that :func:`read_error` returns."""
    clear = read_error(path, opened, error)
    try:
        if clear is error:
            raise error
        raise clear from error
    finally:
        # Otherwise the error, its traceback and so this frame would keep each other, and the
        # reader's source, alive.
        del clear, error


_CALLS_OF_A_READ = ("bpf_iter_create", "bpf_prog_test_run_opts")
# A filter of seccomp decides which; with ENOSYS it denies that there is such a system call.
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


def read_error(path: str, opened: Identity, error: OSError) -> MemcgError:
    """What it means that something of a cgroup could not be opened or read."""
    if isinstance(error, MemcgError):
        if error.call in _CALLS_OF_A_READ and error.errno in _REFUSED:
            return BpfPermissionError(
                f"the kernel no longer lets this process read {path} through BPF: {error}",
                errno=error.errno,
                call=error.call,
            )
        return error
    if is_gone(error):
        return why_unreadable(path, opened)
    return cannot_be_read(path, error)


def is_gone(error: OSError) -> bool:
    """Whether a call failed because the file, or the cgroup, does not exist any more."""
    return error.errno in (errno.ENOENT, errno.ENODEV)


def cannot_be_read(path: str, error: OSError, call: str = "read") -> MemcgError:
    """The error for a file or directory of a cgroup that is there and cannot be read."""
    denied = error.errno in (errno.EACCES, errno.EPERM)
    kind = CgroupPermissionError if denied else MemcgError
    message = f"{path} cannot be read: {errno_text(error.errno or 0)}"
    return kind(message, errno=error.errno, call=call)


def cannot_be_opened(path: str, error: Exception) -> MemcgError:
    """The error for a path that could not be opened as a directory."""
    if isinstance(error, ValueError):
        return CgroupNotFoundError(f"{path!r} cannot be a path: {error}")
    assert isinstance(error, OSError)
    if is_transient(error):
        return shortage(f"{path!r} cannot be opened", error, "open")
    kind: type[MemcgError] = MemcgError
    message = f"{path!r} cannot be opened: {errno_text(error.errno or 0)}"
    if isinstance(error, FileNotFoundError):
        kind, message = CgroupNotFoundError, f"{path!r} does not exist: no such cgroup"
    elif isinstance(error, NotADirectoryError):
        kind, message = NotACgroupError, f"{path!r} is a file: give the cgroup's directory"
    elif isinstance(error, PermissionError):
        kind, message = CgroupPermissionError, f"this user may not read {path!r}"
    return kind(message, errno=error.errno, call="open")


# --- what is wrong with a directory


def removed(path: str) -> CgroupRemovedError:
    """The error for a cgroup that was removed."""
    return CgroupRemovedError(f"the cgroup {path} was removed")


def why_not_a_cgroup(path: str, opened: Identity) -> MemcgError:
    """Why an open directory has no cgroup.procs."""
    if identity(path) != opened:
        return removed(path)
    # The kernel removes a cgroup's files before its directory, so only the parent can tell.
    parent = identity(os.path.join(resolved(path), os.pardir, "cgroup.procs"))
    if parent is not None and parent[0] == opened[0]:
        return removed(path)
    return NotACgroupError(
        f"{path} is a directory, but not a cgroup: it has no cgroup.procs{_where_memory_is(path)}"
    )


def why_unreadable(path: str, opened: Identity) -> MemcgError:
    """Why a cgroup that was opened has no memory statistics, or has none any more."""
    try:
        status = os.stat(path)
    except PermissionError as error:
        return cannot_be_opened(path, error)
    except OSError as error:
        if is_transient(error):
            return shortage(f"{path} cannot be looked at", error, "stat")
        return removed(path)
    if (status.st_dev, status.st_ino) != opened:
        return CgroupRemovedError(
            f"the cgroup {path} was removed, and another cgroup has its path now: make a new reader"
        )
    if exists(os.path.join(path, MEMORY_STAT)):
        return removed(path)  # the kernel is just removing it
    return _why_no_memory(path)


def why_not_found(path: str, opened: Identity) -> MemcgError:
    """Why the kernel did not find a cgroup by its id.

    One look at the directory decides it. When a cgroup is removed, the kernel removes memory.stat
    first (css_clear_dir() in cgroup_destroy_locked()) and then the directory (kernfs_remove()), and
    only then does its id lead nowhere (kernfs_find_and_get_node_by_id()). So a cgroup that still
    has a memory.stat after the kernel did not find it was not removed: it is outside of the
    process's cgroup namespace (cgroup_get_from_id()).
    """
    return _unless_it_is_there(
        path,
        opened,
        "by its id from this process: it is outside of the cgroup namespace that the process is in",
    )


def why_not_open(path: str, opened: Identity) -> MemcgError:
    """Why a program did not find a cgroup by its open directory.

    An open directory leads to its cgroup until the cgroup's files and the directory are removed
    (cgroup_destroy_locked() removes them, and css_release_work_fn() clears the pointer later). So a
    directory that still has a memory.stat is not one of the kernel's, but for instance of LXCFS.
    """
    return _unless_it_is_there(
        path,
        opened,
        "by its open directory: it is not in a cgroup file system of this kernel",
    )


def _unless_it_is_there(path: str, opened: Identity, why: str) -> MemcgError:
    """Why a cgroup is unreadable or, if it is there with its memory.stat, why it was not found."""
    if identity(path) == opened and exists(os.path.join(path, MEMORY_STAT)):
        return BackendUnavailableError(f"the kernel does not find {path} {why}")
    return why_unreadable(path, opened)


def _why_no_memory(path: str) -> MemcgError:
    """Why a cgroup has no memory.stat, and what to do about it."""
    if not exists(os.path.join(path, "cgroup.procs")):
        return removed(path)
    controllers = contents(os.path.join(path, "cgroup.controllers"))
    if controllers is None:
        return _why_no_memory_on_v1(path)
    if "memory" in controllers.split():
        return removed(path)  # it has the controller, so it had the file
    at = resolved(path)
    if contents(os.path.join(at, "cgroup.type")) == "threaded":
        return MemoryControllerError(
            f"{path} is a threaded cgroup, which cannot have the memory controller: "
            'read its domain, the nearest ancestor whose cgroup.type is not "threaded"'
        )
    # Find the nearest ancestor that has the controller: it does not enable it for its children.
    while True:
        parent = os.path.dirname(at)
        controllers = contents(os.path.join(parent, "cgroup.controllers"))
        if parent == at or controllers is None:
            why = _where_memory_is(path) or (
                ": the controller is on a cgroup v1 hierarchy, disabled "
                "(cgroup_disable=memory), or not available to this container"
            )
            return MemoryControllerError(
                f"{path} has no memory controller, and none of its ancestors does{why}"
            )
        if "memory" in controllers.split():
            file = os.path.join(parent, "cgroup.subtree_control")
            return MemoryControllerError(
                f"the memory controller is not enabled for {path}: "
                f'write "+memory" to {file}'
                + (
                    ""
                    if at == resolved(path)
                    else f", and then to the same file of each cgroup between that one and {path}"
                )
            )
        at = parent


def _why_no_memory_on_v1(path: str) -> MemcgError:
    parent = os.path.dirname(resolved(path))  # ".." would vanish with the path
    if exists(os.path.join(parent, MEMORY_STAT)):
        return removed(path)  # its parent has the controller, so it had the file
    return MemoryControllerError(
        f"{path} is in a cgroup v1 hierarchy without the memory controller{_where_memory_is(path)}"
    )


def _where_memory_is(path: str) -> str:
    """The end of a sentence: where the memory controller's hierarchy is mounted.

    "" if no mount other than the path's own shows it.
    """
    at = resolved(path)
    for _, mount_point in _mounts.memory_mounts():
        elsewhere = _mounts.path_below(mount_point, at) is None
        if elsewhere and exists(os.path.join(mount_point, MEMORY_STAT)):
            return f"; the cgroups of the memory controller are in {mount_point}"
    return ""
