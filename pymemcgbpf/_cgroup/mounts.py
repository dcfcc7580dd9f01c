# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the mounts of the memory controller's hierarchy, and cgroups in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Optional

from .._items import MEMORY_STAT
from .._lookup import contents, exists, identity, resolved
from ..errors import CgroupNotFoundError, raise_if_transient

PROC_SELF = "/proc/self"


def memory_mounts() -> Iterator[tuple[str, str]]:
    """The mounts of the hierarchy that has the memory controller.

    Each is the path, in the hierarchy, of the cgroup that is mounted, and the mount point.
    """
    # With cgroup v1, /proc/self/cgroup names the memory controller; "" stands for cgroup v2.
    controller = "memory" if "memory" in _memberships() else ""
    for line in (contents(f"{PROC_SELF}/mountinfo") or "").split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if controller and not (
            kind == "cgroup" and controller in options.split(" ")[-1].split(",")
        ):
            continue
        if not controller and kind != "cgroup2":
            continue
        root, mount_point = (_unescape(field) for field in before.split(" ")[3:5])
        yield root, mount_point


def own_cgroup() -> str:
    """The directory of the calling process's own memory cgroup.

    Raises:
        CgroupNotFoundError: no mounted hierarchy shows it.
    """
    memberships = _memberships()
    path = memberships.get("memory", memberships.get(""))
    if path is None:
        if not memberships:
            raise CgroupNotFoundError(
                "the cgroup of this process is unknown, because /proc/self/cgroup cannot be read",
                remedy="mount /proc, or name a cgroup",
            )
        raise CgroupNotFoundError("this process is in no memory cgroup (see /proc/self/cgroup)")
    for root, mount_point in memory_mounts():
        below = path_below(root, path)
        if below is not None:
            return os.path.normpath(os.path.join(mount_point, below))
    raise CgroupNotFoundError(
        f"the cgroup of this process ({path}) is not under any mounted cgroup file system",
        remedy="mount one, or name a cgroup",
    )


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
            found = _directories(directory)
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

    In a cgroup namespace, the path of a cgroup outside of the namespace begins with "/..".
    """
    if any(f"{end}/".startswith("/../") for end in (root, path)):
        return None
    prefix = root.rstrip("/") + "/"
    if not (path + "/").startswith(prefix):
        return None
    return path[len(prefix) :]


def _memberships() -> dict[str, str]:
    """The paths of this process's cgroups by controller; the key "" is the v2 hierarchy."""
    memberships = {}
    for line in (contents(f"{PROC_SELF}/cgroup") or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        for controller in controllers.split(",") if colon else ():
            memberships[controller] = path
    return memberships


def _directories(path: str) -> dict[int, str]:
    """The paths of a directory's subdirectories by inode number; none if it cannot be listed."""
    try:
        with os.scandir(path) as entries:
            return {
                entry.inode(): entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be listed", "open")
        return {}


def _unescape(field: str) -> str:
    """A field of mountinfo, which writes characters such as a space as a backslash and three octal
    digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
