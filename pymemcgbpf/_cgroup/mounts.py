# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the mounts of the memory controller's hierarchy, and cgroups in them.

They are found by process, by the path that /proc/PID/cgroup shows, and by id.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from typing import Optional, SupportsIndex, Union

from .._items import MEMORY_STAT
from .._lookup import contents, exists, identity, resolved, utf_8
from .._options import integer
from ..errors import (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemcgError,
    ProcessNotFoundError,
    raise_if_transient,
)

PROC = "/proc"

_SELF = "self"  # /proc/self is this process
_DELETED = " (deleted)"  # follows the path of a removed cgroup in which a zombie was
_PF_EXITING = 4  # of include/linux/sched.h, in the flags of /proc/PID/stat


def memory_mounts() -> Iterator[tuple[str, str]]:
    """The mounts of the hierarchy that has the memory controller.

    Each is the path, in the hierarchy, of the cgroup that is mounted, and the mount point.
    """
    # With cgroup v1, /proc/self/cgroup names the memory controller; "" stands for cgroup v2.
    controller = "memory" if "memory" in _memberships(own_membership()) else ""
    for line in (contents(f"{PROC}/{_SELF}/mountinfo") or "").split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if controller and not (
            kind == "cgroup" and controller in options.split(" ")[-1].split(",")
        ):
            continue
        if not controller and kind != "cgroup2":
            continue
        root, mount_point = (unescaped(field) for field in before.split(" ")[3:5])
        yield root, mount_point


def own_cgroup() -> str:
    """Finds the memory cgroup that the calling process is in::

        >>> own_cgroup()
        '/sys/fs/cgroup/system.slice/agent.service'

    Returns:
        The directory of the cgroup. The process may be moved to another cgroup later. On cgroup
        v2, the memory controller may not be enabled for the cgroup; a reader of it says so then.

    Raises:
        CgroupNotFoundError: No mounted hierarchy shows the cgroup, or /proc is not mounted.
    """
    return cgroup_of_membership(own_membership())


def cgroup_of(pid: SupportsIndex) -> str:
    """Finds the memory cgroup that a process is in::

        >>> cgroup_of(1)
        '/sys/fs/cgroup/init.scope'

    A thread of the kernel is in the root of the hierarchy.

    Args:
        pid: The id of the process, as /proc shows it. The id of a thread stands for that thread.

    Returns:
        The directory of the cgroup, as :func:`own_cgroup` does. The process may be moved to
        another cgroup, or exit, at any moment.

    Raises:
        ProcessNotFoundError: There is no such process; or, on cgroup v1, it has exited and is a
            zombie, of which the kernel no longer says where it was.
        CgroupPermissionError: The process exists, but /proc hides it from this user.
        CgroupRemovedError: The process is a zombie, and its cgroup was removed.
        CgroupNotFoundError: No mounted hierarchy shows the cgroup, or it is outside of the cgroup
            namespace of the calling process, or /proc is not mounted.
        TypeError: *pid* is not an integer.
        ValueError: *pid* is less than 1.
    """
    number = integer("pid", pid)
    if number < 1:
        raise ValueError(f"pid must be at least 1, not {number}")
    membership = contents(f"{PROC}/{number}/cgroup")
    if membership is None:
        raise _why_not_shown(number)
    return cgroup_of_membership(membership, number)


def own_membership() -> Optional[str]:
    """What /proc/self/cgroup says now; None if it cannot be read."""
    return contents(f"{PROC}/{_SELF}/cgroup")


def own_namespace() -> str:
    """What tells this process's cgroup namespace, in which its membership is shown, from others."""
    with contextlib.suppress(OSError):
        return os.readlink(f"{PROC}/{_SELF}/ns/cgroup")
    return ""


def cgroup_of_membership(membership: Optional[str], pid: Union[int, str] = _SELF) -> str:
    """The directory of the memory cgroup of a process.

    Args:
        membership: what /proc/PID/cgroup says; None if it cannot be read.
        pid: the process.

    Raises:
        CgroupNotFoundError, CgroupRemovedError, ProcessNotFoundError: as :func:`cgroup_of`.
    """
    who = "this process" if pid == _SELF else f"process {pid}"
    if not membership:
        raise CgroupNotFoundError(
            f"the cgroup of {who} is unknown, because {PROC}/{pid}/cgroup cannot be read",
            remedy="mount /proc, or name a cgroup",
        )
    memberships = _memberships(membership)
    is_v2 = "memory" not in memberships
    path = memberships.get("" if is_v2 else "memory")
    if path is None:
        raise CgroupNotFoundError(f"{who} is in no memory cgroup (see {PROC}/{pid}/cgroup)")
    # On cgroup v1, every process that exits is shown in the root (proc_cgroup_show()).
    if not is_v2 and path == "/" and pid != _SELF and _is_exiting(pid):
        raise ProcessNotFoundError(
            f"{who} has exited: on cgroup v1, the kernel no longer says which cgroup it was in"
        )
    found = directory_of(path)
    if is_v2 and path.endswith(_DELETED) and (found is None or not exists(found)):
        raise CgroupRemovedError(
            f"the cgroup of {who} ({path[: -len(_DELETED)]}) was removed: the process has exited"
        )
    if found is None and f"{path}/".startswith("/../"):
        raise CgroupNotFoundError(
            f"the cgroup of {who} ({path}) is outside of the cgroup namespace of this process",
            remedy="run in the host's cgroup namespace, or name a cgroup",
        )
    if found is None:
        raise CgroupNotFoundError(
            f"the cgroup of {who} ({path}) is not under any mounted cgroup file system",
            remedy="mount one, or name a cgroup",
        )
    return found


def directory_of(path: str) -> Optional[str]:
    """The directory of a cgroup, by its path as /proc/PID/cgroup shows it to this process.

    None if no mount shows the cgroup. The cgroup may not exist.
    """
    first = None
    for root, mount_point in memory_mounts():
        below = path_below(root, path)
        if below is not None:
            found = os.path.normpath(os.path.join(mount_point, below))
            if exists(os.path.join(mount_point, "cgroup.procs")):
                return found
            first = first or found  # something else is mounted over it
    return first


def path_in_hierarchy(directory: str) -> str:
    """The path of a cgroup as /proc/PID/cgroup shows it to this process, by its directory.

    It is the reverse of :func:`directory_of`, for any mount of the hierarchy. If none is known,
    the path begins at the topmost visible cgroup.
    """
    # The last of several mounts at one place is the visible one.
    roots = {identity(mount_point): root for root, mount_point in memory_mounts()}
    roots.pop(None, None)
    found = at = resolved(directory)
    # The nearest mount counts: one from outside of the cgroup namespace also shows the cgroups
    # inside of it, whose paths begin at the namespace's root.
    while (root := roots.get(identity(at))) is None:
        above = os.path.dirname(at)
        if above == at:
            root, at = "/", hierarchy_root(found)
            break
        at = above
    below = os.path.relpath(found, at)
    return root if below == os.curdir else f"{root.rstrip('/')}/{below}"


def label_path(directory: str) -> str:
    """The path of a cgroup, by its directory, as labels and patterns of names have it.

    It is that of :func:`path_in_hierarchy`, but one from outside of this process's cgroup
    namespace, which begins with "/..", begins at the topmost cgroup that is visible.
    """
    return os.path.normpath(path_in_hierarchy(directory))


def label_paths(directories: Sequence[str], root: str, root_label: str) -> list[str]:
    """What :func:`label_path` returns for many directories, as valid text: bytes that are not UTF-8
    are ``//xNN``.

    Args:
        directories: most of them below *root*.
        root: the directory of a cgroup; "" for none.
        root_label: its label_path().
    """
    if not directories:
        return []
    above, below = root_label.rstrip("/"), f"{root}/"
    shown = [
        f"{above}{path[len(root) :]}" if path.startswith(below) else label_path(path)
        for path in directories
    ]
    return utf_8("\0".join(shown)).split("\0")  # all at once is faster, and no path has a NUL


def find_cgroup(cgroup_id: int) -> Optional[tuple[str, int]]:
    """The directory and the device of the memory cgroup that has an id.

    Lists directories until it finds the cgroup; None where no mount shows it.

    Raises:
        MemcgError: the process is short of file descriptors or memory.
    """
    for _, mount_point in memory_mounts():
        at = identity(mount_point)
        if at is None:
            continue
        if at[1] == cgroup_id:
            return mount_point, at[0]
        waiting = [mount_point]
        for directory in waiting:  # the loop itself appends to the list
            found = subdirectories(directory)
            if cgroup_id in found:
                return found[cgroup_id], at[0]
            waiting += found.values()
    return None


def hierarchy_root(path: str) -> str:
    """The topmost visible ancestor of a cgroup that has memory statistics itself."""
    at = resolved(path)
    while True:
        parent = os.path.dirname(at)
        if parent == at or not exists(os.path.join(parent, MEMORY_STAT)):
            return at
        at = parent


def nearest_with_memory(path: str) -> str:
    """The cgroup or its nearest ancestor that has a memory.stat; the path if there is none."""
    at = resolved(path)
    while not exists(os.path.join(at, MEMORY_STAT)):
        above = os.path.dirname(at)
        if not exists(os.path.join(above, "cgroup.procs")):
            return path
        at = above
    return at


def path_below(root: str, path: str) -> Optional[str]:
    """*path* relative to *root*; None if it is not below *root*.

    Both are paths as /proc shows them to this process. In a cgroup namespace, the path of a cgroup
    outside of the namespace begins with "/..".
    """
    prefix = root.rstrip("/") + "/"
    if not f"{path}/".startswith(prefix):
        return None
    below = path[len(prefix) :]
    return None if f"{below}/".startswith("../") else below


def subdirectories(path: str) -> dict[int, str]:
    """The paths of a directory's subdirectories by inode number; none if it cannot be listed."""
    try:
        if os.stat(path).st_nlink == 2:  # none: it counts them (kernfs_refresh_inode())
            return {}
        with os.scandir(path) as entries:
            return {
                entry.inode(): entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be listed", "open")
        return {}


def _memberships(text: Optional[str]) -> dict[str, str]:
    """The paths in the text of /proc/PID/cgroup by controller; the key "" is the v2 hierarchy."""
    memberships = {}
    for line in (text or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        for controller in controllers.split(",") if colon else ():
            memberships[controller] = path
    return memberships


def _why_not_shown(pid: int) -> MemcgError:
    """Why /proc/PID/cgroup cannot be read."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ProcessNotFoundError(f"there is no process {pid}", errno=errno.ESRCH, call="kill")
    except PermissionError:
        pass  # it exists
    if own_membership() is None:
        return CgroupNotFoundError(
            f"the cgroup of process {pid} is unknown, because {PROC} is not mounted",
            remedy="mount it, or name a cgroup",
        )
    return CgroupPermissionError(
        f"this user may not read {PROC}/{pid}/cgroup (see the mount option hidepid of {PROC})",
        remedy="run as root, or name a cgroup",
        errno=errno.EACCES,
        call="open",
    )


def _is_exiting(pid: Union[int, str]) -> bool:
    """Whether a process has exited, or is about to."""
    _, _, fields = (contents(f"{PROC}/{pid}/stat") or "").rpartition(") ")  # after its name
    return not fields or bool(int(fields.split(" ")[6]) & _PF_EXITING)


def unescaped(field: str) -> str:
    """A field of mountinfo, which writes characters such as a space as a backslash and three octal
    digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
