# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""From a cgroup's id to its path, by listing directories: an id is an inode number.

(open_by_handle_at would do it with one call for any id, but takes CAP_DAC_READ_SEARCH,
which containers do not have, and knows no v1; and listing a directory once names all
the children in it.)
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Collection
from typing import Callable, Optional

from .. import _fork
from .._descriptors import opened_at
from ..errors import is_transient, shortage

ROOT = "."

_SPARE = 4096  # how many ids are remembered beyond two for each row
_AGAIN_AFTER_NS = 1_000_000_000  # before listing again for an id that was not in it
_EVERYTHING = -1  # no cgroup's id


class Paths:
    """The paths of the cgroups in one tree, relative to its root. Safe across threads.

    What is remembered is only a hint: every answer was checked just before, so that a path
    that leads to another cgroup now is never given.
    """

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self._lookup_blocked = False  # to the look-up just done
        self.root = os.path.abspath(path)
        self._device, self._root_id = identity
        if self._id_of(self.root) != self._root_id:  # ".." behind a symbolic link
            self.root = os.path.realpath(path)
        self._prefix = os.path.join(self.root, "")
        self._known = {self._root_id: ROOT}
        self._listed: dict[int, int] = {}  # directory's id → CLOCK_MONOTONIC, in ns
        self._lock = threading.RLock()
        _fork.renew_in_child(self)

    def absolute(self, relative: str) -> str:
        """The whole path for one that :meth:`relative` gave."""
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
    ) -> tuple[Optional[str], bool]:
        """A cgroup's path now, or None; and whether it is gone, or only not to be found.

        Args:
            cgroup_id: which one.
            parent_of: a cgroup's id → that of the one above, where known.
            seen_ns: when it was last known to be there (CLOCK_MONOTONIC).
            ids: those worth remembering when there are too many.

        Raises:
            MemcgError: there are no file descriptors left to look it up with.
        """
        with self._lock:
            self._lookup_blocked = False
            try:
                path = self._found(cgroup_id, parent_of, seen_ns)
                return path, path is None and not self._lookup_blocked
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
            if parent is None:  # it is above the walk's root, or its parent has no row
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

    def id_at(self, path: str) -> Optional[int]:
        """The id of the cgroup of this hierarchy that a path leads to, from the root."""
        return self._id_of(os.path.join(self.root, path))

    def _id_of(self, path: str) -> Optional[int]:
        try:
            status = os.stat(path)
        except OSError as error:
            self._record_error(error)
            return None
        except ValueError:  # a NUL in it
            return None
        return status.st_ino if status.st_dev == self._device else None

    def _record_error(self, error: OSError) -> None:
        """Why a directory could not be looked at: because it is not there any more, or else."""
        if is_transient(error):
            message = f"the cgroups below {self.root} cannot be listed"
            raise shortage(message, error, "open") from error
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            self._lookup_blocked = True

    def _is_known(self, cgroup_id: int) -> bool:
        relative = self._known.get(cgroup_id)
        if relative is None:
            return False
        if self._id_of(self.absolute(relative)) == cgroup_id:
            return True
        if cgroup_id == self._root_id:
            self._listed.clear()  # it may come back, with all below
        else:
            del self._known[cgroup_id]
        return False

    def _is_due(self, what: int, seen_ns: int) -> bool:
        """Whether to list something (again) for what was there at a certain time."""
        listed = self._listed.get(what)
        if listed is None or listed <= seen_ns:
            return True
        return time.monotonic_ns() - listed >= _AGAIN_AFTER_NS

    def _cache_children(self, parent: int, seen_ns: int) -> None:
        """Lists a directory, if it is due."""
        relative = self._known.get(parent)
        if relative is not None and self._is_due(parent, seen_ns):
            now = time.monotonic_ns()
            found = self._list(parent, relative)
            if found is not None:
                self._known.update(found)
                self._listed[parent] = now

    def _cache_descendants(self, seen_ns: int) -> None:
        """Lists all that is below the root: only for one whose parent has no row."""
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
                self._lookup_blocked = True  # it is outside of what is mounted here
                return
            self._known[cgroup_id] = relative
            relative += "/.."

    def _list(self, parent: int, relative: str) -> Optional[dict[int, str]]:
        """Id → path of the directories in one; None unless that is this very cgroup's."""
        prefix = "" if relative == ROOT else f"{relative}/"
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            directory = opened_at(self.absolute(relative), flags)
        except OSError as error:
            self._record_error(error)
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
            self._record_error(error)
            return None
        finally:
            directory.close()

    def _forget_all_but(self, ids: Collection[int]) -> None:
        kept = {*ids, self._root_id}
        self._known = {key: path for key, path in self._known.items() if key in kept}
        # What is forgotten is to be listed again.
        self._listed = {key: at for key, at in self._listed.items() if key == _EVERYTHING}


class PathsOfId:
    """The same as :class:`Paths`, of a tree whose root is known by its id alone: it is looked
    for when something is first asked about it.

    Args:
        root_id: the root.
        find: a cgroup's id → a path and its device; None where it cannot be seen.
    """

    def __init__(self, root_id: int, find: Callable[[int], Optional[tuple[str, int]]]) -> None:
        self.root_id = root_id
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
        """The root's absolute path; None where it cannot be seen."""
        paths = self._found()
        return None if paths is None else paths.root

    def absolute(self, relative: str) -> str:
        """As :meth:`Paths.absolute`."""
        paths = self._found()
        assert paths is not None, "a relative path came from it"
        return paths.absolute(relative)

    def look_up(
        self,
        cgroup_id: int,
        parent_of: Callable[[int], Optional[int]],
        seen_ns: int,
        ids: Collection[int],
    ) -> tuple[Optional[str], bool]:
        """As :meth:`Paths.look_up`; where the root cannot be seen, nothing is found, nor gone."""
        paths = self._found()
        if paths is None:
            return None, False
        return paths.look_up(cgroup_id, parent_of, seen_ns, ids)

    def id_at(self, path: str) -> Optional[int]:
        """As :meth:`Paths.id_at`; None also where the root cannot be seen."""
        paths = self._found()
        return None if paths is None else paths.id_at(path)
