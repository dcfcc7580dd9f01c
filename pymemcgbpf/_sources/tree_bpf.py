# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whole trees through BPF: one walk fills a map of rows, which this process has mapped."""

from __future__ import annotations

import mmap
from collections.abc import Collection
from typing import TYPE_CHECKING, Optional, Union

from .. import _fork, _items, _options, _wire
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.features import ITERATOR, RUN, RUN_DIR, Feature
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import files as _files
from .._cgroup.directory import Cgroup
from .._cgroup.walk_paths import WalkPaths
from .._records import Record
from ..errors import TreeTooLargeError
from . import flush as _flush
from . import tree_paths as _tree_paths
from . import tree_text as _tree_text
from .tree_walkers import FORKED, DirWalker, IteratorWalker, MapSizes, RunWalker, Walker

if TYPE_CHECKING:
    from .departures import Departures


class MapSource:
    """A tree that is read into a map. The map grows if the rows do not fit."""

    def __init__(
        self,
        cgroup: Cgroup,
        plan: ReadPlan,
        flush: bool,
        walker: type[Walker],
        tree: TreeSourceFactory,
    ) -> None:
        self.names = tuple(plan.terms)
        self._plan, self._make_walker, self._tree = plan, walker, tree
        self._walker: Optional[Walker] = None
        self._depth: dict[str, bytes] = {}
        self._name_size = _tree_paths.TYPICAL_NAME
        self._directory = _files.CgroupFile(cgroup, ".")  # to create further links from
        self._root = cgroup._replace(fd=self._directory.fd, owner=None)
        self._flush = _flush.NO_FLUSH
        try:
            self._paths = _tree_paths.TreePaths(self._root, tree.order)
            self._flush = _flush.before_walking(
                cgroup,
                plan,
                flush,
                tree.order,
                by_iterator=walker.by_iterator,
                by_program=walker.can_flush,
            )
            if tree.max_depth is not None:
                name, deepest = "max_depth", tree.max_depth
                if not walker.counts_depth:
                    name, deepest = "max_level", level_of(self._root, plan, walker) + deepest
                self._depth = {name: _terms.u32(min(deepest, _NO_LEVEL))}
            self._load(tree.room_for(estimate_rows(cgroup, tree.order, tree.max_depth)))
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> Cgroup:
        """The root of the walk, which stays open until close(), with its absolute path."""
        return self._root._replace(path=self._paths.root)

    def departures(self) -> Departures:
        """Sees which cgroups are removed below the root from now on.

        Raises:
            BackendUnavailableError: this kernel cannot tell.
            MemcgError: the program for it cannot be loaded or attached; a subclass says why.
        """
        from .departures import Departures  # which few readers need

        return Departures(
            self._root,
            self.names,
            self._plan,
            self._tree.max_depth,
            waits=not self._make_walker.by_iterator,
        )

    @property
    def last_paths(self) -> WalkPaths:
        """The paths of the last walk."""
        return self._paths.last

    def walk(self) -> _tree_text.Rows:
        """Walks the tree, and returns all rows. The next walk overwrites them.

        Raises:
            TreeTooLargeError: there are more rows than the caller allows.
            CgroupRemovedError: the root of the walk was removed.
            BpfPermissionError: a forked child, or a larger tree, needs another program, and this
                process may no longer load programs.
        """
        walker = self._walker
        if walker is None or self._owner != _fork.generation:
            # Parent and child would otherwise write into the same map.
            walker = self._load(self._room)
        while True:
            self._flush.by_file()
            self._paths.begin(walker.names)
            count = walker.walk()
            if count == FORKED:
                walker = self._load(self._room)
                continue
            unchanged = self._paths.unchanged(walker.names, count)
            if unchanged is not None:
                return _tree_text.Rows(walker.rows, count, unchanged)
            self._tree.check_cap(count, self._root.path)
            written = _tree_paths.WrittenNames.of(walker.names)
            if count > self._room or not self._name_room.holds(written):
                walker = self._load(self._tree.room_for(count), written)
                continue
            self._check_root(walker.rows, count)
            width = self._plan.row_size // 8
            paths = self._paths.of_walk(
                walker.rows, count, width, walker.names, written, self._name_room
            )
            if paths is not None:
                return _tree_text.Rows(walker.rows, count, paths)

    def probe_missing(self) -> set[str]:
        """Walks once, and returns the items that this kernel does not keep, by the first row."""
        rows = self.walk()
        if not rows.number:
            return set()
        row = _wire.decode_row(rows.memory, 0, len(self.names))
        absent = {name for name, value in zip(self.names, row.values) if value == _wire.ABSENT}
        on_root = bool(row.flags & _wire.ROW_ROOT)
        return {name for name in absent if not is_optional(name, on_root)}

    def _load(self, room: int, written: Optional[_tree_paths.WrittenNames] = None) -> Walker:
        """Replaces the program by one with room for this number of rows, and for their names.

        *written* are the names of a walk that did not fit.
        """
        setup = self._make_walker.setup(
            self._plan, self._flush.mode, _options.ORDERS[self._tree.order], self._root
        )
        names = room
        if written is not None:
            names = max(room, written.nr_names)
            self._name_size = max(self._name_size, written.name_size)
        name_room = _tree_paths.NameRoom.for_names(names, self._name_size)
        constants = {
            **setup.constants,
            **name_room.constants(self._paths.can_rename),
            **self._depth,
        }
        maps = _maps(self._plan, room, name_room)
        walker = self._make_walker(setup._replace(constants=constants), maps, self._root)
        self._unload()
        self._walker, self._room, self._name_room = walker, room, name_room
        self._owner = _fork.generation
        return walker

    def _unload(self) -> None:
        walker, self._walker = self._walker, None
        if walker is not None:
            walker.close()

    def _check_root(self, memory: mmap.mmap, count: int) -> None:
        """Raises an error if the walk did not meet its root."""
        if self._tree.order == "children":
            if count or not self._root.has_lost_files:
                return
        elif count:
            at = count - 1 if self._tree.order == "post" else 0
            if _wire.cgroup_id(memory, at * self._plan.row_size) == self._root.id:
                return
        raise _diagnosis.why_unreadable(self._root.path, self._root.identity)

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        walker = self._walker
        lost = self._directory.is_lost or self._flush.is_lost
        return lost or (walker is not None and walker.is_lost)

    def close(self) -> None:
        """Closes the program, its map and all files. Calling it again does nothing."""
        self._unload()
        self._flush.close()
        self._directory.close()


def is_optional(name: str, on_root: bool) -> bool:
    """Whether a cgroup may lack an item that others have.

    Pressure can be switched off for each cgroup, and the root of a hierarchy lacks some files.
    """
    file = _items.file_of(name)
    return file == _items.PRESSURE or (on_root and file not in _items.ON_ROOT)


def estimate_rows(cgroup: Cgroup, order: str, max_depth: Optional[int]) -> int:
    """An estimate of the rows of a walk. It is too low on cgroup v1, where the map grows later."""
    if order in ("self", "up") or max_depth == 0:
        return 1
    below = None if order == "children" or max_depth == 1 else cgroup.descendants
    return 1 + (cgroup.children if below is None else below)


_NO_LEVEL = (1 << 32) - 1  # the constant max_level, or max_depth, for all levels


def level_of(cgroup: Cgroup, plan: ReadPlan, make_walker: type[Walker]) -> int:
    """The level of a cgroup in its hierarchy, which a walk of this cgroup alone finds.

    Raises:
        CgroupRemovedError: the cgroup was removed.
    """
    setup = make_walker.setup(plan, _terms.FLUSH_NONE, _options.SELF, cgroup)
    walker = make_walker(setup, _maps(plan, 1), cgroup)
    try:
        if not walker.walk():
            raise _diagnosis.why_unreadable(cgroup.path, cgroup.identity)
        return _wire.decode_row(walker.rows, 0, 0).level
    finally:
        walker.close()


def _maps(
    plan: ReadPlan, rows: int, names: _tree_paths.NameRoom = _tree_paths.NO_NAMES
) -> MapSizes:
    return {
        _program.ROWS: _program.MapSize(plan.row_size, rows),
        _program.NAMES: names.map_size,
    }


TreeSource = Union[MapSource, _tree_text.TextTreeSource]


class TreeSourceFactory(Record):
    """Opens the sources of a TreeReader.

    Attributes:
        order: the order of the walk.
        max_rows: the largest number of rows that the caller allows; None for no limit.
        max_depth: how many levels below the root have rows; None for all.
        transports: the BPF transports, the best first.
        departed: whether removed cgroups are seen, too.
    """

    order: _options.Order
    max_rows: Optional[int]
    max_depth: Optional[int] = None
    transports: tuple[str, ...] = ("run", "shared")
    departed: bool = False

    def feature_of(self, backend: str, transport: str) -> Feature:
        """The feature of the kernel that a transport needs."""
        if transport == "shared":
            return ITERATOR
        return RUN_DIR if backend == "core" else RUN

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Always "": a flush costs little compared to a walk."""
        return ""

    @property
    def walks(self) -> bool:
        """Whether there are other rows than that of the root, which can have other items."""
        return self.order != "self" or self.departed

    def room_for(self, rows: int) -> int:
        """Room for this number of rows and some more, but for no more than *max_rows*."""
        room = rows + rows // 4 + 16
        return room if self.max_rows is None else min(room, self.max_rows)

    def check_cap(self, rows: int, path: str) -> None:
        """Raises TreeTooLargeError if there are more than *max_rows*."""
        if self.max_rows is not None and rows > self.max_rows:
            raise TreeTooLargeError(
                f"the walk from {path} found {rows} cgroups, more than max_rows={self.max_rows}",
                rows=rows,
                max_rows=self.max_rows,
            )

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> MapSource:
        """Opens a source that reads through BPF."""
        walker: type[Walker] = IteratorWalker
        if transport == "run":
            walker = DirWalker if plan.backend == "core" else RunWalker
        return MapSource(cgroup, plan, flush, walker, self)

    def text(
        self, cgroup: Cgroup, names: tuple[str, ...], lacking: Collection[str] = ()
    ) -> _tree_text.TextTreeSource:
        """Opens a source that reads the cgroups' files, which have all of *names* but *lacking*."""
        return _tree_text.TextTreeSource(
            cgroup, names, self.order, self.check_cap, self.max_depth, lacking
        )
