# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A cgroup's directory: open it, check it, and say well what is wrong with it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from .._descriptors import Owned, file_identity, opened_at
from .._items import MEMORY_STAT
from .._lookup import exists as exists
from .._lookup import identity as identity
from .._lookup import resolved as resolved
from ..errors import (
    BackendUnavailableError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    errno_text,
    is_transient,
    shortage,
)

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

Identity = tuple[int, int]


class Cgroup(NamedTuple):
    """An open cgroup directory with the memory controller enabled.

    Attributes:
        path: as the caller gave it.
        fd: the directory, opened for reading.
        identity: the directory's device and inode number. The number alone may be
            another cgroup's in another hierarchy.
        version: 1 or 2, of the hierarchy.
        is_root: the hierarchy's root, which has no usage counter of its own.
        owner: what keeps the directory open, if that is this cgroup's own affair.
    """

    path: str
    fd: int
    identity: Identity
    version: int
    is_root: bool
    owner: Optional[Owned] = None

    def close(self) -> None:
        """Closes the directory."""
        if self.owner is not None:
            self.owner.close()

    @property
    def id(self) -> int:
        """The kernel's 64-bit cgroup id, which is the directory's inode number."""
        return self.identity[1]

    def has_file(self, name: str) -> bool:
        """Whether the kernel shows this file there."""
        return exists(name, self.fd)

    @property
    def descendants(self) -> Optional[int]:
        """How many cgroups are below it; None where the kernel does not say.

        (v1 has but /proc/cgroups, which counts the whole hierarchy, and those with it that were
        removed and are not yet freed: there can be thousands of them.)
        """
        words = (_read_at(self.fd, "cgroup.stat") or "").split() if self.version == 2 else []
        counts = dict(zip(words[::2], words[1::2]))
        return int(counts["nr_descendants"]) if "nr_descendants" in counts else None

    @property
    def children(self) -> int:
        """About how many cgroups are right below it."""
        return max(os.fstat(self.fd).st_nlink - 2, 0)

    @property
    def current_file(self) -> str:
        """The file with the memory in use, in bytes."""
        return "memory.current" if self.version == 2 else "memory.usage_in_bytes"

    @property
    def has_current(self) -> bool:
        """Whether the kernel shows the page counter of memory in use: not for a root.

        (v2 has no such file there; v1's root shows a sum of global statistics.)
        """
        return not self.is_root and exists(self.current_file, self.fd)

    @property
    def has_lost_files(self) -> bool:
        """Whether it is being removed, or its memory controller disabled."""
        return not exists(MEMORY_STAT, self.fd) or not (self.is_root or self.has_current)


def open_cgroup(path: Path) -> Cgroup:
    """Opens a cgroup's directory and checks that it has memory statistics.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError,
        MemoryControllerError, CgroupRemovedError.
    """
    text = os.fsdecode(path)
    try:
        owner = opened_at(text, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        raise _open_error(text, error) from error
    try:
        fd = owner.fileno()
        opened = file_identity(fd)
        if not exists("cgroup.procs", fd):
            if _is_being_removed(text, opened):
                raise removed(text)
            raise NotACgroupError(
                f"{text} is a directory, but not a cgroup's: no cgroup.procs"
                f"{_memory_is_elsewhere(text)}"
            )
        version = 2 if exists("cgroup.controllers", fd) else 1
        if not exists(MEMORY_STAT, fd):
            raise removed(text) if identity(text) != opened else _why_no_memory(text)
        return Cgroup(text, fd, opened, version, is_hierarchy_root(fd, version), owner)
    except BaseException:
        owner.close()
        raise


def is_hierarchy_root(fd: int, version: int, path: str = ".") -> bool:
    """Whether an open cgroup directory, or one below or above it, is its hierarchy's root.

    Only a root lacks cgroup.type (v2); only a root has cgroup.sane_behavior (v1).
    """
    if version == 2:
        return not exists(f"{path}/cgroup.type", fd)
    return exists(f"{path}/cgroup.sane_behavior", fd)


def _is_being_removed(path: str, opened: Identity) -> bool:
    """Whether an open directory is of a cgroup that has been, or is just being, removed.

    Its files go first, its path last: then it is known by its parent.
    """
    if identity(path) != opened:
        return True
    above = identity(os.path.join(resolved(path), os.pardir, "cgroup.procs"))
    return above is not None and above[0] == opened[0]


def _open_error(path: str, error: Exception) -> MemcgError:
    if isinstance(error, ValueError):  # a NUL in it
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
        kind, message = CgroupPermissionError, f"{path!r} may not be read by this user"
    return kind(message, errno=error.errno, call="open")


def removed(path: str) -> CgroupRemovedError:
    """The error for a cgroup that is gone."""
    return CgroupRemovedError(f"the cgroup {path} was removed")


def why_unreadable(path: str, opened: Identity) -> MemcgError:
    """Why a reader of this cgroup finds nothing any more."""
    try:
        os.stat(path)
    except PermissionError as error:
        return _open_error(path, error)
    except OSError as error:
        if is_transient(error):
            return shortage(f"{path} cannot be looked at", error, "stat")
        return removed(path)
    if identity(path) != opened:
        return CgroupRemovedError(
            f"the cgroup {path} was removed; another one has its path now: make a new reader"
        )
    if exists(os.path.join(path, MEMORY_STAT)):
        return removed(path)  # it is on its way out
    return _why_no_memory(path)


_LOOKS, _SECONDS_BETWEEN = 25, 0.01


def why_not_found(path: str, opened: Identity) -> MemcgError:
    """Why the kernel does not find a cgroup by its id: it was removed, or is out of sight.

    Its files go a moment after its statistics, so a while they may still be there.
    """
    for _ in range(_LOOKS):
        if identity(path) != opened or not exists(os.path.join(path, MEMORY_STAT)):
            return why_unreadable(path, opened)
        time.sleep(_SECONDS_BETWEEN)
    return BackendUnavailableError(
        f"the kernel does not find {path} by its id from this process: it is outside of the "
        "cgroup namespace that the process is in"
    )


def _why_no_memory(path: str) -> MemcgError:
    """Why a cgroup has no memory.stat, and what to do about it."""
    if not exists(os.path.join(path, "cgroup.procs")):
        return removed(path)
    controllers = _read(os.path.join(path, "cgroup.controllers"))
    if controllers is None:
        above = os.path.dirname(resolved(path))  # ".." would be gone with the path
        if exists(os.path.join(above, MEMORY_STAT)):
            return removed(path)  # its parent has the controller, so it had a file there
        return MemoryControllerError(
            f"{path} is in a cgroup v1 hierarchy without the memory controller"
            f"{_memory_is_elsewhere(path)}"
        )
    if "memory" in controllers.split():
        return removed(path)  # it has the controller; only the files are gone
    at = resolved(path)
    if _read(os.path.join(at, "cgroup.type")) == "threaded":
        return MemoryControllerError(
            f"{path} is a threaded cgroup, which cannot have the memory controller: "
            'read its domain, the nearest ancestor whose cgroup.type is not "threaded"'
        )
    # The topmost ancestor that has the controller and does not hand it on.
    while True:
        parent = os.path.dirname(at)
        controllers = _read(os.path.join(parent, "cgroup.controllers"))
        if parent == at or controllers is None:
            elsewhere = _memory_is_elsewhere(path)
            why = elsewhere or (
                ": it is on a cgroup v1 hierarchy, switched off (cgroup_disable=memory), or not "
                "handed to this container"
            )
            return MemoryControllerError(
                f"{path} has no memory controller, and none of its ancestors does{why}"
            )
        if "memory" in controllers.split():
            file = os.path.join(parent, "cgroup.subtree_control")
            return MemoryControllerError(
                f"the memory controller is not enabled for {path}: "
                f'write "+memory" to {file}'
                + ("" if at == resolved(path) else ", then on down to it")
            )
        at = parent


def _memory_is_elsewhere(path: str) -> str:
    """The end of a sentence: where the hierarchy with the memory controller is mounted; "" if no
    other than the path's own."""
    at = resolved(path)
    for _, mount in memory_mounts():
        if _below(mount, at) is None and exists(os.path.join(mount, MEMORY_STAT)):
            return f"; the memory controller's cgroups are in {mount}"
    return ""


def hierarchy_root(path: str) -> str:
    """The topmost visible ancestor of a cgroup that has memory statistics itself."""
    at = resolved(path)
    while True:
        parent = os.path.dirname(at)
        if parent == at or not exists(os.path.join(parent, MEMORY_STAT)):
            return at
        at = parent


def _read(path: str) -> Optional[str]:
    try:
        # Names may hold any bytes but a line feed.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read().strip()
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{path} cannot be read", error, "open") from error
        return None


def _read_at(dir_fd: int, name: str) -> Optional[str]:
    opener = functools.partial(os.open, dir_fd=dir_fd)
    try:
        with open(name, encoding="ascii", opener=opener) as file:
            return file.read()
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{name} cannot be read", error, "open") from error
        return None


def own_cgroup() -> str:
    """The directory of the calling process's own memory cgroup.

    Raises:
        CgroupNotFoundError: no mounted hierarchy shows it.
    """
    path = _membership()
    if path is None:
        raise CgroupNotFoundError("this process is in no memory cgroup: /proc/self/cgroup")
    for root, mount in memory_mounts():
        below = _below(root, path)
        if below is not None:
            return os.path.normpath(os.path.join(mount, below))
    raise CgroupNotFoundError(
        f"the cgroup of this process ({path}) is not under any mounted cgroup file system"
    )


def _memberships() -> dict[str, str]:
    """Controller → path; "" for the v2 hierarchy."""
    memberships = {}
    for line in (_read("/proc/self/cgroup") or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        for controller in controllers.split(",") if colon else ():
            memberships[controller] = path
    return memberships


def _membership() -> Optional[str]:
    memberships = _memberships()
    return memberships.get("memory", memberships.get(""))


def memory_mounts() -> Iterator[tuple[str, str]]:
    """Where the hierarchy with the memory controller is mounted: the cgroup that is seen there,
    by its path in the hierarchy, and the directory."""
    wanted = "memory" if "memory" in _memberships() else ""  # "" is the v2 hierarchy
    for line in (_read("/proc/self/mountinfo") or "").split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if wanted and not (kind == "cgroup" and wanted in options.split(" ")[-1].split(",")):
            continue
        if not wanted and kind != "cgroup2":
            continue
        root, mount = (_unescape(field) for field in before.split(" ")[3:5])
        yield root, mount


def find_cgroup(cgroup_id: int) -> Optional[tuple[str, int]]:
    """A memory cgroup's directory by its id, and the device; None where none is mounted here
    that shows it. Lists directories until it is found.

    Raises:
        MemcgError: there are no file descriptors left to list them with.
    """
    for _, mount in memory_mounts():
        at = identity(mount)
        if at is None:
            continue
        if at[1] == cgroup_id:
            return mount, at[0]
        waiting = [mount]
        for directory in waiting:  # which grows
            found = _directories(directory)
            if cgroup_id in found:
                return found[cgroup_id], at[0]
            waiting += found.values()
    return None


def _directories(path: str) -> dict[int, str]:
    """Those in one, by their inode numbers; none where it cannot be listed."""
    try:
        with os.scandir(path) as entries:
            return {
                entry.inode(): entry.path
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{path} cannot be listed", error, "open") from error
        return {}


def _below(root: str, path: str) -> Optional[str]:
    """*path* relative to *root*; None where it is not below.

    Seen from inside a cgroup namespace, what lies outside of it begins with "/..".
    """
    if any(f"{end}/".startswith("/../") for end in (root, path)):
        return None
    prefix = root.rstrip("/") + "/"
    if not (path + "/").startswith(prefix):
        return None
    return path[len(prefix) :]


def _unescape(field: str) -> str:
    """mountinfo writes a space, among others, as a backslash and three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


@contextlib.contextmanager
def opened_or_own(path: Optional[Path]) -> Iterator[Cgroup]:
    """A cgroup; without a path the process's own, or the nearest above with a memory.stat."""
    cgroup = open_cgroup(_nearest_with_memory(own_cgroup()) if path is None else path)
    try:
        yield cgroup
    finally:
        cgroup.close()


def _nearest_with_memory(path: str) -> str:
    """The cgroup, or the nearest above it, that has a memory.stat; itself if there is none."""
    at = resolved(path)
    while not exists(os.path.join(at, MEMORY_STAT)):
        above = os.path.dirname(at)
        if not exists(os.path.join(above, "cgroup.procs")):
            return path
        at = above
    return at
