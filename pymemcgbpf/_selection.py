# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Parts of snapshots: some of the cgroups, and some of the items."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Callable, Optional

from ._cgroup import mounts as _mounts
from ._cgroup.walk_paths import Origin, Paths, WalkPaths
from ._records import Record
from .snapshot import Snapshot

_IDENTITY = (0, 1, 2)  # the words of a row that say which cgroup it is


class CgroupSelection:
    """Which cgroups of a walk are shown::

        >>> services = CgroupSelection(match=["/system.slice/*"], leaves=True)
        >>> services.apply(snapshot)
        <Snapshot of '/sys/fs/cgroup': 3 cgroups, 2 items>

    The conditions are applied in this order: the depth, the leaves, the patterns. So with a depth,
    the cgroups at the last level count as leaves, although there are others below them, which they
    include. What the patterns leave out makes no other cgroup a leaf.

    While the tree does not change, all selected snapshots share one tuple of paths, as the
    snapshots of the reader do, and nothing but the rows is copied. Several threads may use one
    selection.

    Args:
        match: shell patterns. A cgroup is shown if its path matches one of them; none: all are. The
            path is the one in the label "cgroup" of metrics: as in /proc/PID/cgroup, with bytes
            that are not UTF-8 as ``//xNN``. Case matters, and ``*`` also matches ``/``. A cgroup
            whose path is unknown matches no pattern.
        exclude: shell patterns. A cgroup whose path matches one of them is not shown.
        leaves: whether only those cgroups are shown below which the walk has no other.
        depth: how many levels below the walk's root are shown; None for all.
    """

    def __init__(
        self,
        match: Iterable[str] = (),
        exclude: Iterable[str] = (),
        leaves: bool = False,
        depth: Optional[int] = None,
    ) -> None:
        self._match, self._exclude = _pattern(match), _pattern(exclude)
        self._leaves, self._depth = leaves, depth
        self._last: Optional[_Chosen] = None

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """The rows of a snapshot that are shown; the snapshot itself if all are.

        Raises:
            ClosedError: the snapshot was a view, which has expired.
            MemcgError: the process has no file descriptor or memory left to look up paths.
        """
        depth, deepest = self._depth, snapshot.max_depth
        if depth is not None and deepest is not None and depth >= deepest:
            depth = None  # the walk itself was not deeper
        if not (self._match or self._exclude or self._leaves) and depth is None:
            return snapshot
        chosen = self._chosen(snapshot, depth)
        if chosen.at is None:
            return snapshot
        size = 8 * snapshot._width
        try:
            rows = b"".join([snapshot._bytes[size * at : size * (at + 1)] for at in chosen.at])
        except ValueError:
            raise snapshot._expired() from None
        return Snapshot(
            memoryview(rows),
            snapshot.item_names,
            snapshot.order,
            snapshot._times,
            chosen.paths,
            max_depth=deepest if depth is None else depth,
        )

    def _chosen(self, snapshot: Snapshot, depth: Optional[int]) -> _Chosen:
        """The rows that are shown; those of the last snapshot if the tree has not changed."""
        paths, root, last = snapshot.paths, snapshot.path, self._last
        if last is not None and last.every is paths and (last.root, last.depth) == (root, depth):
            return last
        origin = snapshot._paths.origin
        own = last.paths.origin if last is not None and last.origin is origin else Origin()
        at = self._places(snapshot, depth)
        shown = WalkPaths(
            own,
            root,
            snapshot._paths.device,
            tuple([paths[row] for row in at]),
            snapshot._paths.can_rename,
        )
        rows = None if len(at) == len(paths) else at
        chosen = _Chosen(origin, paths, root, depth, rows, shown)
        if None not in paths:  # rows without a path can be other cgroups in the next walk
            self._last = chosen
        return chosen

    def _places(self, snapshot: Snapshot, depth: Optional[int]) -> list[int]:
        """The numbers of the rows that are shown."""
        at = [*range(len(snapshot))]
        if depth is not None and at:
            levels = snapshot.levels.tolist()
            root = min(levels) - 1 if snapshot.order == "children" else levels[root_at(snapshot)]
            at = [row for row in at if abs(levels[row] - root) <= depth]
        if self._leaves:
            ids, parents = snapshot.ids.tolist(), snapshot.parent_ids.tolist()
            inner = {parents[row] for row in at}
            at = [row for row in at if ids[row] not in inner]
        if self._match or self._exclude:
            paths = snapshot.paths
            label_of = _labels({paths[row] for row in at}, snapshot.path)
            at = [row for row in at if self._is_shown(label_of.get(paths[row]))]
        return at

    def _is_shown(self, path: Optional[str]) -> bool:
        if path is None:
            return self._match is None
        if self._match is not None and not self._match(path):
            return False
        return self._exclude is None or not self._exclude(path)


class _Chosen(Record):
    """The rows of a walk that are shown.

    Attributes:
        origin: what tells the walk's reader from others.
        every: the paths of all rows of the walk.
        root, depth: the path of its root, and how deep the selection goes.
        at: the numbers of the rows that are shown; None if all are.
        paths: their paths.
    """

    origin: Origin
    every: Paths
    root: Optional[str]
    depth: Optional[int]
    at: Optional[list[int]]
    paths: WalkPaths


def _labels(paths: set[Optional[str]], root: Optional[str]) -> dict[Optional[str], str]:
    """The label of each path."""
    known = [path for path in paths if path is not None]
    at = ("", "") if root is None else (root, _mounts.label_path(root))
    return dict(zip(known, _mounts.label_paths(known, *at)))


def _pattern(patterns: Iterable[str]) -> Optional[Callable[[str], object]]:
    """A function that says whether a path matches one of some shell patterns; None for none."""
    found = [*map(fnmatch.translate, patterns)]
    return re.compile("|".join(found)).match if found else None


def with_items(snapshot: Snapshot, names: tuple[str, ...]) -> Snapshot:
    """A snapshot with some of the items, in another order perhaps."""
    if names == snapshot.item_names:
        return snapshot
    words, width = snapshot._words, snapshot._width
    places = [*_IDENTITY, *(snapshot._place_of(name) for name in names)]
    rows = memoryview(bytearray(8 * len(snapshot) * len(places)))
    copied = rows.cast("Q")
    for place, of in enumerate(places):
        copied[place :: len(places)] = words[of::width]
    return Snapshot(
        rows.toreadonly(),
        names,
        snapshot.order,
        snapshot._times,
        snapshot._paths,
        max_depth=snapshot.max_depth,
    )


def root_at(snapshot: Snapshot) -> int:
    """The index of the row of the walk's root, which an order other than "children" has."""
    return -1 if snapshot.order == "post" else 0
