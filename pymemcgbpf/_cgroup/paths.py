# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds a cgroup's path by its id, which is its directory's inode number, by listing directories.

open_by_handle_at() would find one path with one call, but it needs CAP_DAC_READ_SEARCH, which
containers do not have, and it does not work for cgroup v1. Listing a directory finds the paths of
all its children at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from typing import Callable, Optional

from .. import _fork, _lookup
from .._descriptors import opened_at
from ..errors import raise_if_transient
from .walk_paths import Origin, WalkPaths
from .walk_paths import Paths as PathsOfRows

ROOT = "."

_SPARE = 4096  # the number of ids remembered beyond two for each row
_AGAIN_AFTER_NS = 1_000_000_000  # the time before a directory that lacked an id is listed again
_EVERYTHING = -1  # a key of _listed that is not the id of any cgroup


class Paths:
    """The paths of the cgroups in one tree, relative to its root. Threads may share it.

    Remembered paths are only hints. Every path returned was checked at that moment, so a path that
    leads to another cgroup by now is never returned.

    Args:
        path: the path of the root.
        identity: the device and inode number of the root's directory.

    Attributes:
        root: the absolute path of the root.
        device: the device of the directories.
    """

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self.root = _lookup.absolute(path)
        self.device, self._root_id = identity
        if self._id_of(self.root) != self._root_id:  # abspath() removed ".." behind a link
            self.root = _lookup.resolved(path)
        self._prefix = os.path.join(self.root, "")
        self._known = {self._root_id: ROOT}
        self._listed: dict[int, int] = {}  # the time of listing, by directory id
        self._lock = threading.RLock()
        _fork.renew_in_child(self)

    def absolute(self, relative: str) -> str:
        """The absolute path for a path relative to the root."""
        if relative == ROOT:
            return self.root
        if relative.startswith("../") or relative == "..":
            return os.path.normpath(os.path.join(os.path.realpath(self.root), relative))
        return f"{self._prefix}{relative}"

    def look_up(
        self,
        cgroup_id: int,
        parent_of: Callable[[int], Optional[int]],
        seen_ns: int,
        ids: Collection[int],
    ) -> Optional[str]:
        """A cgroup's path now, relative to the root; None if it was not found.

        Args:
            cgroup_id: the cgroup's id.
            parent_of: returns the id of a cgroup's parent, or None if it is unknown.
            seen_ns: when the cgroup last existed for certain, in ns of CLOCK_MONOTONIC.
            ids: the ids to keep when too many are remembered.

        Raises:
            MemcgError: the process is short of file descriptors or memory.
        """
        with self._lock:
            try:
                return self._found(cgroup_id, parent_of, seen_ns)
            finally:
                most = 2 * len(ids) + _SPARE
                if len(self._known) > most or len(self._listed) > most:
                    self._forget_all_but(ids)

    def _found(
        self, cgroup_id: int, parent_of: Callable[[int], Optional[int]], seen_ns: int
    ) -> Optional[str]:
        chain = [cgroup_id]
        while not self._is_known(chain[-1]):
            parent = parent_of(chain[-1])
            if parent is None:  # the cgroup is above the walk's root, or has a parent without a row
                self._cache_ancestors()
                self._cache_descendants(seen_ns)
                return self._known[cgroup_id] if self._is_known(cgroup_id) else None
            chain.append(parent)
        for parent, child in zip(chain[:0:-1], chain[-2::-1]):
            if not self._is_known(child):
                self._cache_children(parent, seen_ns)
                if not self._is_known(child):
                    return None
        return self._known[cgroup_id]

    def _id_of(self, path: str) -> Optional[int]:
        try:
            status = os.stat(path)
        except OSError as error:
            self._raise_if_transient(error)
            return None
        except ValueError:  # the path has a NUL
            return None
        return status.st_ino if status.st_dev == self.device else None

    def _raise_if_transient(self, error: OSError) -> None:
        raise_if_transient(error, f"the cgroups below {self.root} cannot be listed", "open")

    def _is_known(self, cgroup_id: int) -> bool:
        relative = self._known.get(cgroup_id)
        if relative is None:
            return False
        if self._id_of(self.absolute(relative)) == cgroup_id:
            return True
        if cgroup_id == self._root_id:
            self._listed.clear()  # the root may appear again, with all the cgroups below it
        else:
            del self._known[cgroup_id]
        return False

    def _is_due(self, what: int, seen_ns: int) -> bool:
        """Whether to list a directory (again) for a cgroup that existed at a certain time."""
        listed = self._listed.get(what)
        if listed is None or listed <= seen_ns:
            return True
        return time.monotonic_ns() - listed >= _AGAIN_AFTER_NS

    def _cache_children(self, parent: int, seen_ns: int) -> None:
        """Lists a cgroup's directory, if it is due."""
        relative = self._known.get(parent)
        if relative is not None and self._is_due(parent, seen_ns):
            now = time.monotonic_ns()
            found = self._list(parent, relative)
            if found is not None:
                self._known.update(found)
                self._listed[parent] = now

    def _cache_descendants(self, seen_ns: int) -> None:
        """Lists all directories below the root, for a cgroup whose parent has no row."""
        if not self._is_due(_EVERYTHING, seen_ns):
            return
        now = time.monotonic_ns()
        found = self._list(self._root_id, ROOT)
        if found is None:
            return
        self._listed[_EVERYTHING] = now
        waiting = [found]
        while waiting:
            found = waiting.pop()
            self._known.update(found)
            waiting += (self._list(*each) or {} for each in found.items())

    def _cache_ancestors(self) -> None:
        relative, path = "..", self.root
        while path != "/":
            path = self.absolute(relative)
            cgroup_id = self._id_of(path)
            if cgroup_id is None:
                return  # the ancestor is above the mount
            self._known[cgroup_id] = relative
            relative += "/.."

    def _list(self, parent: int, relative: str) -> Optional[dict[int, str]]:
        """The paths of a cgroup's children by id; None if its directory cannot be listed, or if
        another cgroup's directory is at the path."""
        prefix = "" if relative == ROOT else f"{relative}/"
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            directory = opened_at(self.absolute(relative), flags)
        except OSError as error:
            self._raise_if_transient(error)
            return None
        try:
            fd = directory.fileno()
            if os.fstat(fd).st_ino != parent:
                return None
            with os.scandir(fd) as entries:
                return {
                    entry.inode(): prefix + entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                }
        except OSError as error:
            self._raise_if_transient(error)
            return None
        finally:
            directory.close()

    def _forget_all_but(self, ids: Collection[int]) -> None:
        kept = {*ids, self._root_id}
        self._known = {key: path for key, path in self._known.items() if key in kept}
        # Directories whose children were forgotten must be listed again.
        self._listed = {key: at for key, at in self._listed.items() if key == _EVERYTHING}


class PathsOfId:
    """As :class:`Paths`, for a tree of whose root only the id is known.

    The root is searched for when a path is first needed.

    Args:
        root_id: the id of the root; 0 if it is unknown.
        find: returns the path and the device of the cgroup with an id, or None if the cgroup is
            not visible.
    """

    def __init__(self, root_id: int, find: Callable[[int], Optional[tuple[str, int]]]) -> None:
        self.root_id, self.origin = root_id, Origin()
        self._find = find
        self._paths: Optional[Paths] = None
        self._looked_ns: Optional[int] = None
        self._lock = threading.RLock()
        _fork.renew_in_child(self)

    def _found(self) -> Optional[Paths]:
        with self._lock:
            now = time.monotonic_ns()
            due = self._looked_ns is None or now - self._looked_ns >= _AGAIN_AFTER_NS
            if self._paths is None and due and self.root_id:
                found = self._find(self.root_id)
                self._looked_ns = time.monotonic_ns()
                if found is not None:
                    path, device = found
                    self._paths = Paths(path, (device, self.root_id))
            return self._paths

    @property
    def root(self) -> Optional[str]:
        """The root's absolute path; None if the root is not visible."""
        paths = self._found()
        return None if paths is None else paths.root

    @property
    def device(self) -> Optional[int]:
        """The device of the root's directory; None if the root is not visible."""
        paths = self._found()
        return None if paths is None else paths.device

    def of_rows(self, ids: list[int], parent_ids: list[int], seen_ns: int) -> PathsOfRows:
        """The absolute paths of cgroups; None for those that are not found.

        Args:
            ids: their ids.
            parent_ids: the ids of their parents.
            seen_ns: when the cgroups last existed for certain, in ns of CLOCK_MONOTONIC.

        Raises:
            MemcgError: the process is short of file descriptors or memory.
        """
        paths = self._found()
        if paths is None:
            return (None,) * len(ids)
        parent_of = dict(zip(ids, parent_ids))
        relative = [paths.look_up(each, parent_of.get, seen_ns, parent_of) for each in ids]
        return tuple(None if each is None else paths.absolute(each) for each in relative)


class ListedPaths(WalkPaths):
    """The paths of a walk that wrote no names, found by listing directories when first used."""

    def __init__(
        self, paths: PathsOfId, ids: memoryview, parent_ids: memoryview, seen_ns: int
    ) -> None:
        super().__init__(paths.origin, None, None, (), can_rename=True)
        self._of_id, self._walk = paths, (ids, parent_ids, seen_ns)
        self._is_listed = False

    @property
    def root(self) -> Optional[str]:
        """As :attr:`WalkPaths.root`."""
        return self._of_id.root

    @property
    def device(self) -> Optional[int]:
        """As :attr:`WalkPaths.device`."""
        return self._of_id.device

    @property
    def paths(self) -> PathsOfRows:
        """As :attr:`WalkPaths.paths`, but of the time when they are first used."""
        if not self._is_listed:
            ids, parent_ids, seen_ns = self._walk
            self._paths = self._of_id.of_rows(ids.tolist(), parent_ids.tolist(), seen_ns)
            self._is_listed = True
        return self._paths
