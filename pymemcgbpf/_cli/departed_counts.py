# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Counts removed cgroups, and the OOM kills in them, by the exported cgroups above them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Optional

from .._records import Record


class DepartedCount(Record):
    """What has been removed below one cgroup.

    Attributes:
        cgroups: how many cgroups.
        oom_kills: how many processes of theirs an OOM killer has killed. Each is counted in its own
            cgroup alone, so that none is counted twice.
    """

    cgroups: int = 0
    oom_kills: int = 0


_NONE = DepartedCount()


class DepartedCounts:
    """Counts what is removed, for each cgroup that is exported, and for the root of the walk.

    A removed cgroup counts in all of these that it was below, whether they were its parent or not.
    So the count of a cgroup that is removed itself, or no longer exported, is not needed any more:
    what it had is in the counts above it already. The root's count has everything, and outlives the
    root. There is one entry for each exported cgroup, by its path.
    """

    def __init__(self) -> None:
        self._root = ""
        self._exported: object = None  # the paths that the entries are of
        self._of_root = _NONE
        self._exports_root = False
        self._below_root: dict[str, DepartedCount] = {}

    def export(self, root: str, paths: Collection[Optional[str]]) -> None:
        """Takes note of what is exported from now on.

        A path that is new begins with 0, and one that is missing loses its entry.

        Args:
            root: the path of the root of the walk.
            paths: the paths of the exported cgroups, absolute; None where one is unknown.
        """
        if paths is self._exported and root == self._root:
            return
        last = self._below_root
        self._below_root = {
            path: last.get(path, _NONE) for path in paths if path is not None and path != root
        }
        self._root, self._exported, self._exports_root = root, paths, root in paths

    def add(self, removed: Iterable[tuple[Optional[str], int]]) -> None:
        """Counts removed cgroups.

        Args:
            removed: the absolute path of each, or None if it is unknown, and how many processes
                were killed in it, without those in cgroups below it.
        """
        for path, kills in removed:
            self._of_root = _more(self._of_root, kills)
            above = "" if path is None else path.rpartition("/")[0]
            while len(above) > len(self._root):
                if above in self._below_root:
                    self._below_root[above] = _more(self._below_root[above], kills)
                above = above.rpartition("/")[0]

    def by_path(self) -> Mapping[str, DepartedCount]:
        """The count of each exported cgroup, by its path. It does not change later."""
        if not self._exports_root:
            return self._below_root.copy()
        return {self._root: self._of_root, **self._below_root}

    def forget_below_root(self) -> None:
        """Forgets all counts but the root's: the cgroups are gone with the root."""
        self._below_root, self._exported = {}, None


def _more(count: DepartedCount, kills: int) -> DepartedCount:
    return DepartedCount(count.cgroups + 1, count.oom_kills + kills)
