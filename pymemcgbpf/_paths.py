# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""From a cgroup's id to its path, by listing directories: an id is an inode number.

(open_by_handle_at would do it with one call for any id, but takes CAP_DAC_READ_SEARCH,
which containers do not have, and knows no v1; and listing a directory once names all
the children in it.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from typing import Callable, Optional

from . import _fork

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
        self.root = os.path.abspath(path)
        self._prefix = os.path.join(self.root, "")
        self._device, self._root_id = identity
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

    def relative(
        self,
        cgroup_id: int,
        parent_of: Callable[[int], Optional[int]],
        seen_ns: int,
        ids: Collection[int],
    ) -> Optional[str]:
        """A cgroup's path now; None where it was removed.

        Args:
            cgroup_id: which one.
            parent_of: a cgroup's id → that of the one above, where known.
            seen_ns: when it was last known to be there (CLOCK_MONOTONIC).
            ids: those worth remembering when there are too many.
        """
        with self._lock:
            chain = [cgroup_id]
            while not self._is_known(chain[-1]):
                parent = parent_of(chain[-1])
                if parent is None:  # it is above the walk's root, or its parent has no row
                    self._learn_above()
                    self._learn_below(seen_ns)
                    return self._known[cgroup_id] if self._is_known(cgroup_id) else None
                chain.append(parent)
            for parent, child in zip(chain[:0:-1], chain[-2::-1]):
                if not self._is_known(child):
                    self._learn_children(parent, seen_ns)
                    if not self._is_known(child):
                        return None
            relative = self._known[cgroup_id]
            if len(self._known) > 2 * len(ids) + _SPARE:
                self._forget_all_but(ids)
            return relative

    def id_at(self, path: str) -> Optional[int]:
        """The id of the cgroup of this hierarchy that a path leads to, from the root."""
        return self._id_of(os.path.join(self.root, path))

    def _id_of(self, path: str) -> Optional[int]:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        return status.st_ino if status.st_dev == self._device else None

    def _is_known(self, cgroup_id: int) -> bool:
        relative = self._known.get(cgroup_id)
        if relative is None:
            return False
        if self._id_of(self.absolute(relative)) == cgroup_id:
            return True
        if cgroup_id != self._root_id:
            del self._known[cgroup_id]
        return False

    def _is_due(self, what: int, seen_ns: int) -> bool:
        """Whether to list something (again) for what was there at a certain time."""
        now = time.monotonic_ns()
        listed = self._listed.get(what)
        if listed is not None and listed > seen_ns and now - listed < _AGAIN_AFTER_NS:
            return False
        self._listed[what] = now
        return True

    def _learn_children(self, parent: int, seen_ns: int) -> None:
        if parent in self._known and self._is_due(parent, seen_ns):
            self._known.update(self._list(parent, self._known[parent]))

    def _learn_below(self, seen_ns: int) -> None:
        """Every cgroup below the root: only for one whose parent has no row."""
        if not self._is_due(_EVERYTHING, seen_ns):
            return
        waiting = [(self._root_id, ROOT)]
        while waiting:
            found = self._list(*waiting.pop())
            self._known.update(found)
            waiting += found.items()

    def _learn_above(self) -> None:
        relative = ".."
        while True:
            cgroup_id = self._id_of(self.absolute(relative))
            if cgroup_id is None:
                return
            self._known[cgroup_id] = relative
            relative += "/.."

    def _list(self, parent: int, relative: str) -> dict[int, str]:
        """Id → path of the directories in one that must be this very cgroup's."""
        prefix = "" if relative == ROOT else f"{relative}/"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            fd = os.open(self.absolute(relative), flags)
        except OSError:
            return {}  # removed, or not to be looked into
        try:
            if os.fstat(fd).st_ino != parent:
                return {}
            with os.scandir(fd) as entries:
                return {
                    entry.inode(): prefix + entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                }
        except OSError:
            return {}
        finally:
            os.close(fd)

    def _forget_all_but(self, ids: Collection[int]) -> None:
        kept = {*ids, self._root_id}
        self._known = {key: path for key, path in self._known.items() if key in kept}
        self._listed = {key: at for key, at in self._listed.items() if key in kept}
