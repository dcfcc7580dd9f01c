# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A cgroup's directory: opens it and checks that it has memory statistics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Optional

from .. import _options
from .._descriptors import Owned, file_identity, opened_at
from .._items import MEMORY_STAT
from .._lookup import Path, contents, exists
from .._records import Record
from . import diagnosis as _diagnosis
from . import mounts as _mounts
from .diagnosis import Identity


class Cgroup(Record):
    """An open cgroup directory with the memory controller enabled.

    Attributes:
        path: the path that the caller gave.
        fd: the directory, opened for reading.
        identity: the directory's device and inode number. The inode number alone may belong to
            another cgroup in another hierarchy.
        version: the version of the hierarchy, 1 or 2.
        is_root: whether it is the hierarchy's root, which has no usage counter.
        owner: what keeps the directory open; None if another object keeps it open.
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
        """Whether the kernel shows a file of this name in the directory."""
        return exists(name, self.fd)

    @property
    def descendants(self) -> Optional[int]:
        """The number of cgroups below this one; None where the kernel does not say.

        (cgroup v1 has only /proc/cgroups, which counts the whole hierarchy and also removed
        cgroups that are not freed yet. There can be thousands of them.)
        """
        words = (contents("cgroup.stat", self.fd) or "").split() if self.version == 2 else []
        counts = dict(zip(words[::2], words[1::2]))
        return int(counts["nr_descendants"]) if "nr_descendants" in counts else None

    @property
    def children(self) -> int:
        """The number of cgroups directly below this one, by the directory's link count."""
        return max(os.fstat(self.fd).st_nlink - 2, 0)

    @property
    def current_file(self) -> str:
        """The name of the file that shows the memory in use, in bytes."""
        return "memory.current" if self.version == 2 else "memory.usage_in_bytes"

    @property
    def has_current(self) -> bool:
        """Whether the kernel shows the page counter of memory in use. A root has none.

        (The root of v2 has no such file; the root of v1 shows a sum of global statistics.)
        """
        return not self.is_root and exists(self.current_file, self.fd)

    @property
    def has_lost_files(self) -> bool:
        """Whether the cgroup is being removed, or its memory controller disabled."""
        return not exists(MEMORY_STAT, self.fd) or not (self.is_root or self.has_current)


def open_cgroup(path: Path) -> Cgroup:
    """Opens a cgroup's directory and checks that it has memory statistics.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: diagnosis.py says what each means.
        MemcgError: the process is short of file descriptors or memory.
    """
    text = _options.path("cgroup_path", path)
    try:
        owner = opened_at(text, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        raise _diagnosis.cannot_be_opened(text, error) from error
    try:
        fd = owner.fileno()
        opened = file_identity(fd)
        if not exists("cgroup.procs", fd):
            raise _diagnosis.why_not_a_cgroup(text, opened)
        version = 2 if exists("cgroup.controllers", fd) else 1
        if not exists(MEMORY_STAT, fd):
            raise _diagnosis.why_unreadable(text, opened)
        return Cgroup(text, fd, opened, version, is_hierarchy_root(fd, version), owner)
    except BaseException:
        owner.close()
        raise


@contextlib.contextmanager
def opened_or_own(path: Optional[Path]) -> Iterator[Cgroup]:
    """Opens a cgroup, and closes it in the end.

    Without a path, it is the process's own cgroup or its nearest ancestor with a memory.stat.
    """
    if path is None:
        path = _mounts.nearest_with_memory(_mounts.own_cgroup())
    cgroup = open_cgroup(path)
    try:
        yield cgroup
    finally:
        cgroup.close()


def is_hierarchy_root(fd: int, version: int, path: str = ".") -> bool:
    """Whether a cgroup, by its path relative to an open directory, is its hierarchy's root.

    Only a root lacks cgroup.type (v2); only a root has cgroup.sane_behavior (v1).
    """
    if version == 2:
        return not exists(f"{path}/cgroup.type", fd)
    return exists(f"{path}/cgroup.sane_behavior", fd)
