# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whole trees through text: the files of every cgroup, parsed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from collections.abc import Collection, Iterator
from typing import Callable, Optional, Union

from .. import _lookup, _wire
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import directory as _directory
from .._cgroup import files as _files
from .._cgroup.derived import Derived
from .._cgroup.directory import Cgroup
from .._cgroup.walk_paths import Origin, Paths, RootPath, WalkPaths
from .._descriptors import Owned, opened_at
from .._items import MEMORY_STAT, ON_ROOT, PRESSURE, file_of
from .._records import Record
from ..errors import MemcgError, is_transient

# The number of links of a cgroup's directory. Each directory in it adds one.
_NO_DIRECTORY_BELOW = 2


class Rows(Record):
    """The result of a walk.

    Attributes:
        memory: the rows, one after the other, from its beginning.
        number: the number of rows.
        paths: the path of each row.
    """

    memory: Union[mmap.mmap, bytes]
    number: int
    paths: WalkPaths


class _Place(Record):
    """A cgroup to visit.

    Attributes:
        path: the path relative to the root of the walk.
        id: the id of the cgroup. If another cgroup is at the path by then, it is skipped.
        parent_id: the id of its parent; 0 for the root of a hierarchy.
        level: the number of its ancestors; 0 for the root of a hierarchy.
    """

    path: str
    id: int
    parent_id: int
    level: int


class _TreeFile:
    """A file that is read in every cgroup.

    Attributes:
        file: the name of the file on cgroup v2.
        name: the name of the file in this hierarchy.
    """

    def __init__(self, file: str, version: int, places: dict[str, int]) -> None:
        self.file, self._version = file, version
        self.name = _files.name_of(file, version) or file
        self._places = places  # the index of each item in a row, by its name
        self._lines = _files.StatLines(places, version, absent=_wire.ABSENT)

    def parse_into(self, values: list[int], data: bytes) -> None:
        """Parses the file, and stores its numbers in the row's values."""
        if self.file == MEMORY_STAT:
            for place, value in zip(self._places.values(), self._lines.values(data)):
                values[place] = value
            return
        for name, value in _files.parse_items(self.file, self._version, data).items():
            if name in self._places:
                values[self._places[name]] = value


def _files_with(names: tuple[str, ...], version: int) -> list[_TreeFile]:
    """The files that have these items. memory.stat is always read: without it there is no row."""
    places: dict[str, dict[str, int]] = {MEMORY_STAT: {}}
    for at, name in enumerate(names):
        places.setdefault(file_of(name), {})[name] = at
    return [_TreeFile(file, version, items) for file, items in places.items()]


class TextTreeSource:
    """A tree that is read as text, into the same rows that BPF writes.

    *check_cap* is called with the number of rows and the path, and raises if there are too many.
    *max_depth* is how many levels below the root have rows; None for all. *lacking* are those of
    *names* that no file has; the rows are without them.
    """

    def __init__(
        self,
        cgroup: Cgroup,
        names: tuple[str, ...],
        order: str,
        check_cap: Callable[[int, str], None],
        max_depth: Optional[int] = None,
        lacking: Collection[str] = (),
    ) -> None:
        self.names = names
        self._order, self._check_cap = order, check_cap
        self._derived = Derived((name for name in names if name not in lacking), cgroup.version)
        self._files = _files_with(self._derived.shown, cgroup.version)
        self._pack_values = struct.Struct(f"={len(names)}Q").pack
        self._directory = _files.CgroupFile(cgroup, ".")
        self._root = cgroup._replace(fd=self._directory.fd, owner=None)
        self._root_path, self._can_rename = RootPath(self._root), cgroup.version == 1
        self._origin = Origin()
        self._last = WalkPaths(self._origin, None, None, (), self._can_rename)
        self._above = tuple(self._ancestors())
        parent_id = self._above[0].id if self._above else 0
        self._start = _Place(".", cgroup.id, parent_id, len(self._above))
        self._deepest = None if max_depth is None else self._start.level + max_depth
        # In a cgroup namespace the topmost visible cgroup is not the root of the hierarchy.
        topmost = (self._start, *self._above)[-1]
        is_root = _directory.is_hierarchy_root(cgroup.fd, cgroup.version, topmost.path)
        self._root_id = topmost.id if is_root else 0

    @property
    def root(self) -> Cgroup:
        """The root of the walk, which stays open until close(), with its absolute path."""
        return self._root._replace(path=self._root_path.path)

    def walk(self) -> Rows:
        """Walks the tree, and returns all rows.

        Raises:
            TreeTooLargeError: there are more rows than the caller allows.
            CgroupRemovedError: the root of the walk was removed.
        """
        self._root_path.follow()
        self._derived.begin()
        rows, paths = [], []
        for place in self._places():
            row = self._row(place)
            if row is not None:
                rows.append(row)
                paths.append(place.path)
            elif place is self._start:
                raise _diagnosis.why_unreadable(self._root.path, self._root.identity)
        if not rows and self._root.has_lost_files:
            raise _diagnosis.why_unreadable(self._root.path, self._root.identity)
        self._check_cap(len(rows), self._root.path)
        return Rows(b"".join(rows), len(rows), self._walk_paths(paths))

    def _walk_paths(self, relative: list[str]) -> WalkPaths:
        """The paths of a walk; the object of the last walk if they are the same."""
        root = self._root_path.path
        if self._order == "up":
            above = (os.path.normpath(f"{root}/{path}") for path in relative[1:])
            paths: Paths = (root, *above)
        else:
            prefix = os.path.join(root, "")
            paths = tuple(root if path == "." else prefix + path for path in relative)
        if paths != self._last.paths or root != self._last.root:
            device = self._root.identity[0]
            self._last = WalkPaths(self._origin, root, device, paths, self._can_rename)
        return self._last

    def probe_missing(self) -> set[str]:
        """Returns the empty set: the kernel keeps what its files show."""
        return set()

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        return self._directory.is_lost

    def close(self) -> None:
        """Closes the directory of the root. Calling it again does nothing."""
        self._directory.close()

    # --- places ------------------------------------------------------------------------

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
        """The children, oldest first. The kernel walks in this order, and ids only rise."""
        if self._deepest is not None and parent.level >= self._deepest:
            return []
        with self._opened(parent) as fd:
            if fd < 0:
                return []
            if os.fstat(fd).st_nlink == _NO_DIRECTORY_BELOW:
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
        """The visible ancestors of the root, nearest first."""
        found: list[tuple[str, int]] = []
        path = ".."
        while (cgroup_id := self._id_of(path)) is not None:
            found.append((path, cgroup_id))
            path += "/.."
        parents = [cgroup_id for _, cgroup_id in found[1:]] + [0]
        for at, ((path, cgroup_id), parent_id) in enumerate(zip(found, parents)):
            yield _Place(path, cgroup_id, parent_id, len(found) - 1 - at)

    def _id_of(self, path: str) -> Optional[int]:
        """The id of the cgroup at a relative path; None if it is in no or in another hierarchy."""
        try:
            os.stat(f"{path}/cgroup.procs", dir_fd=self._directory.fd)
            status = os.stat(path, dir_fd=self._directory.fd)
        except OSError as error:
            if is_transient(error):
                raise
            return None
        return status.st_ino if status.st_dev == self._root.identity[0] else None

    @contextlib.contextmanager
    def _opened(self, place: _Place) -> Iterator[int]:
        """The descriptor of the directory, or -1 if the cgroup was removed."""
        try:
            directory = _open_directory(place.path, self._directory.fd)
        except FileNotFoundError:
            yield -1
            return
        except PermissionError as error:
            raise self._forbidden(place, error) from error
        try:
            fd = directory.fileno()
            yield fd if os.fstat(fd).st_ino == place.id else -1
        except PermissionError as error:
            raise self._forbidden(place, error) from error
        finally:
            directory.close()

    def _forbidden(self, place: _Place, error: PermissionError) -> MemcgError:
        path = os.path.normpath(os.path.join(self._root.path, place.path))
        return _diagnosis.cannot_be_read(path, error, "open")

    # --- rows -------------------------------------------------------------------------

    def _row(self, place: _Place) -> Optional[bytes]:
        """The row of a cgroup; None if it was removed or has no memory.stat."""
        is_root = place.id == self._root_id
        with self._opened(place) as fd:
            if fd < 0:
                return None
            values = [_wire.ABSENT] * len(self._derived.shown)
            for file in self._files:
                if is_root and file.file not in ON_ROOT:
                    continue
                try:
                    shown = _files.read_at(fd, file.name)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        raise
                    if file.file == PRESSURE and not self._is_gone(fd):
                        continue  # pressure is switched off for this cgroup
                    return None
                file.parse_into(values, shown)
            if self._derived.shown != self.names:
                try:
                    values = self._with_derived(values, fd, is_root)
                except OSError as error:
                    if not _diagnosis.is_gone(error):
                        raise
                    return None
        flags = _wire.ROW_ROOT if is_root else 0
        head = _wire.ROW.pack(place.id, place.parent_id, place.level, flags)
        return head + self._pack_values(*values)

    def _with_derived(self, values: list[int], fd: int, is_root: bool) -> list[int]:
        """The values of all items, from those that files show."""
        shown = zip(self._derived.shown, values)
        found = {name: value for name, value in shown if value != _wire.ABSENT}
        if not is_root:
            self._derived.add_to(found, fd)
        return [found.get(name, _wire.ABSENT) for name in self.names]

    @staticmethod
    def _is_gone(fd: int) -> bool:
        return not _lookup.exists(MEMORY_STAT, fd)


# This number of characters always fits into PATH_MAX, which is 4096 bytes.
_LONGEST = 1000


def _open_directory(path: str, dir_fd: int) -> Owned:
    """Opens a directory, whose path may be longer than PATH_MAX."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    if len(path) <= _LONGEST:
        return opened_at(path, flags, dir_fd)
    cut = path.rindex("/", 0, _LONGEST)
    above = opened_at(path[:cut], flags, dir_fd)
    try:
        return _open_directory(path[cut + 1 :], above.fileno())
    finally:
        above.close()
