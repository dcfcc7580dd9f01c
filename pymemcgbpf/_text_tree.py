# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whole trees through text: every cgroup's directory opened, its files parsed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional, Union

from . import _cgroupfs, _memory_stat, _wire
from ._cgroupfs import MEMORY_STAT, Cgroup
from .items import CURRENT


class Rows(NamedTuple):
    """The outcome of a walk.

    Attributes:
        memory: the rows, one after the other, from its start on.
        number: how many there are.
    """

    memory: Union[mmap.mmap, bytes]
    number: int


class _Place(NamedTuple):
    """A cgroup to visit.

    Attributes:
        path: relative to the walk's root.
        id: its id; another one's directory there is passed over.
        parent_id: likewise of the one above; 0 for a hierarchy's root.
        level: 0 for a hierarchy's root.
    """

    path: str
    id: int
    parent_id: int
    level: int


class TextTreeSource:
    """A tree read as text, into the very rows that BPF makes.

    *check_cap* raises when there are too many, given their number and the path.
    """

    def __init__(
        self,
        cgroup: Cgroup,
        names: tuple[str, ...],
        order: str,
        check_cap: Callable[[int, str], None],
    ) -> None:
        self.names = names
        self._order, self._check_cap = order, check_cap
        key_of = _memory_stat.keys(cgroup)
        self._keys = [key_of.get(name, "") for name in names]
        self._current_at = names.index(CURRENT) if CURRENT in names else -1
        self._current_file = cgroup.current_file
        self._pack_values = struct.Struct(f"={len(names)}Q").pack
        self._directory = _memory_stat.CgroupFile(cgroup, ".")
        self._root = cgroup._replace(fd=self._directory.fd)
        self._above = tuple(self._ancestors())
        parent_id = self._above[0].id if self._above else 0
        self._start = _Place(".", cgroup.id, parent_id, len(self._above))
        # In a cgroup namespace the topmost that is visible is no root.
        topmost = (self._start, *self._above)[-1]
        is_root = _cgroupfs.is_hierarchy_root(cgroup.fd, cgroup.version, topmost.path)
        self._root_id = topmost.id if is_root else 0

    def walk(self) -> Rows:
        """All rows, now.

        Raises:
            TreeTooLargeError: there are more than the caller's cap.
            CgroupRemovedError: the walk's root was removed.
        """
        rows = []
        for place in self._places():
            row = self._row(place)
            if row is not None:
                rows.append(row)
            elif place is self._start:
                raise _cgroupfs.why_unreadable(self._root.path, self._root.identity)
        if not rows and self._root.has_lost_files:
            raise _cgroupfs.why_unreadable(self._root.path, self._root.identity)
        self._check_cap(len(rows), self._root.path)
        return Rows(b"".join(rows), len(rows))

    def absent(self) -> set[str]:
        """None: what memory.stat shows is kept."""
        return set()

    def close(self) -> None:
        """Closes the root's directory. Twice is fine."""
        self._directory.close()

    # --- where ------------------------------------------------------------------------

    def _places(self) -> Iterator[_Place]:
        if self._order == "self":
            yield self._start
        elif self._order == "up":
            yield self._start
            yield from self._above
        elif self._order == "children":
            yield from self._children(self._start)
        elif self._order == "pre":
            waiting = [self._start]
            while waiting:
                place = waiting.pop()
                yield place
                waiting += reversed(self._children(place))
        else:
            stack = [(self._start, False)]
            while stack:
                place, children_done = stack.pop()
                if children_done:
                    yield place
                else:
                    stack.append((place, True))
                    stack += [(child, False) for child in reversed(self._children(place))]

    def _children(self, parent: _Place) -> list[_Place]:
        """In the order of their making, which is the kernel's: ids only rise."""
        with self._opened(parent) as fd:
            if fd < 0:
                return []
            prefix = "" if parent.path == "." else f"{parent.path}/"
            with os.scandir(fd) as entries:
                found = [
                    _Place(prefix + entry.name, entry.inode(), parent.id, parent.level + 1)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
        return sorted(found, key=lambda place: place.id)

    def _ancestors(self) -> Iterator[_Place]:
        """Those that are visible, nearest first."""
        found: list[tuple[str, int]] = []
        path = ".."
        while (cgroup_id := self._id_of(path)) is not None:
            found.append((path, cgroup_id))
            path += "/.."
        parents = [cgroup_id for _, cgroup_id in found[1:]] + [0]
        for at, ((path, cgroup_id), parent_id) in enumerate(zip(found, parents)):
            yield _Place(path, cgroup_id, parent_id, len(found) - 1 - at)

    def _id_of(self, path: str) -> Optional[int]:
        """The id of the cgroup that a relative path leads to, in the same hierarchy."""
        try:
            os.stat(f"{path}/cgroup.procs", dir_fd=self._directory.fd)
            status = os.stat(path, dir_fd=self._directory.fd)
        except OSError:
            return None
        return status.st_ino if status.st_dev == self._root.identity[0] else None

    @contextlib.contextmanager
    def _opened(self, place: _Place) -> Iterator[int]:
        """The directory, if the cgroup is still there; else -1."""
        try:
            fd = _open_directory(place.path, self._directory.fd)
        except FileNotFoundError:
            yield -1
            return
        try:
            yield fd if os.fstat(fd).st_ino == place.id else -1
        finally:
            os.close(fd)

    # --- what -------------------------------------------------------------------------

    def _row(self, place: _Place) -> Optional[bytes]:
        """The row of a cgroup; None where it is gone or has no memory.stat."""
        is_root = place.id == self._root_id
        with self._opened(place) as fd:
            if fd < 0:
                return None
            try:
                stat = _memory_stat.parse(_read(MEMORY_STAT, fd))
                values = [stat.get(key, _wire.ABSENT) for key in self._keys]
                if self._current_at >= 0 and not is_root:
                    values[self._current_at] = int(_read(self._current_file, fd))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENODEV):
                    return None
                raise
        flags = _wire.ROW_ROOT if is_root else 0
        head = _wire.ROW.pack(place.id, place.parent_id, place.level, flags)
        return head + self._pack_values(*values)


# Characters that the kernel takes at once in any case: PATH_MAX is 4096 bytes.
_LONGEST = 1000


def _open_directory(path: str, dir_fd: int) -> int:
    """Opens a directory, however long the way to it is."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if len(path) <= _LONGEST:
        return os.open(path, flags, dir_fd=dir_fd)
    cut = path.rindex("/", 0, _LONGEST)
    above = os.open(path[:cut], flags, dir_fd=dir_fd)
    try:
        return _open_directory(path[cut + 1 :], above)
    finally:
        os.close(above)


def _read(name: str, dir_fd: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return _memory_stat.read_whole(fd)
    finally:
        os.close(fd)
