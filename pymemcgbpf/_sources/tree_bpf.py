# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whole trees through BPF: one walk fills a map of rows, which is mapped here."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import NamedTuple, Optional, Union

from .. import _fork, _items, _options, _wire
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import files as _files
from .._cgroup.directory import Cgroup
from ..errors import MemcgError, TreeTooLargeError
from . import flush as _flush
from . import links as _links
from . import one_bpf as _one_bpf
from . import tree_text as _tree_text


class IteratorWalker:
    """Walks by an iterator link. The kernel holds cgroup_mutex meanwhile."""

    by_iterator = True

    def __init__(
        self, constants: dict[str, bytes], rows: _program.MapSize, cgroup: Cgroup, order: int
    ) -> None:
        self._program = _program.Program(_program.SHARE, constants, rows)
        self.memory = self._program.map_rows(rows)
        self._link = _links.attach(self._program, cgroup, order)
        self._new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        self._link_number = _libbpf_programs.ObjectNumber(self._link.fd)

    def walk(self) -> int:
        """Fills the map; returns how many rows there were, whether or not they fitted."""
        if self._link_number.is_lost():  # whose map would be filled
            raise _one_bpf.another_reader_s()
        iterator = self._new_iterator()
        try:
            data = os.read(iterator.fileno(), _HEADER_AND_TRAILER)
        finally:
            iterator.close()
        return _wire.decode_trailer(data).nr_rows

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed a descriptor of it."""
        return self._link.is_lost or self._program.is_lost

    def close(self) -> None:
        """Detaches the link. Calling it again does nothing."""
        self._new_iterator.close()
        self._link.close()
        self._program.close()
        _unmap(self.memory)


_HEADER_AND_TRAILER = _wire.header_size(_wire.MAX_ITEMS) + _wire.TRAILER.size


class RunWalker:
    """Walks by running a program, under RCU. Holds no reference to any cgroup."""

    by_iterator = False

    def __init__(
        self, constants: dict[str, bytes], rows: _program.MapSize, cgroup: Cgroup, order: int
    ) -> None:
        self._program = program = _program.Program(_program.RUN_TREE, constants, rows)
        self.memory = program.map_rows(rows)
        self._path, self._identity = cgroup.path, cgroup.identity
        self._call = bytearray(_wire.CALL.size)
        _wire.CALL.pack_into(self._call, 0, cgroup.id, program.key, _wire.NOT_RUN, 0)
        self._run = _libbpf_programs.runner(program.fd, self._call)

    def walk(self) -> int:
        """Fills the map; returns how many rows there were, whether or not they fitted."""
        while True:
            error = self._run()
            if error:
                raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
            _, _, status, count = _wire.CALL.unpack_from(self._call)
            if status == _wire.DONE:
                return int(count)
            if status == _wire.GONE:
                raise _diagnosis.why_not_found(self._path, self._identity)
            if status == _wire.OTHER:
                raise _one_bpf.another_reader_s()
            if status != _wire.BUSY:
                raise MemcgError(f"the kernel's cgroup walk failed (status {status})")
            time.sleep(_one_bpf.BUSY_SECONDS)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed a descriptor of it."""
        return self._program.is_lost

    def close(self) -> None:
        """Releases the program. Calling it again does nothing."""
        self._run = _one_bpf.closed_run
        self._program.close()
        _unmap(self.memory)


def _unmap(memory: mmap.mmap) -> None:
    with contextlib.suppress(BufferError):  # somebody has a view: it goes with the last
        memory.close()


Walker = Union[IteratorWalker, RunWalker]


class MapSource:
    """A tree read into a map, which grows when the rows did not fit."""

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
        self._directory = _files.CgroupFile(cgroup, ".")  # which a new link is made from
        self._root = cgroup._replace(fd=self._directory.fd, owner=None)
        self._flush = _flush.NO_FLUSH
        try:
            self._flush = _flush.before_walking(
                cgroup, plan, flush, tree.order, by_iterator=walker.by_iterator
            )
            self._load(tree.room_for(estimate_rows(cgroup, tree.order)))
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> Cgroup:
        """The walk's root, open as long as this is."""
        return self._root

    def walk(self) -> _tree_text.Rows:
        """All rows, now. The next walk overwrites them.

        Raises:
            TreeTooLargeError: there are more than the caller's cap.
            CgroupRemovedError: the walk's root was removed.
            BpfPermissionError: a program of this process's own, or one with more room, is needed,
                and it may no longer load any.
        """
        walker = self._walker
        if walker is None or self._owner != _fork.generation:
            # A forked child has the same map: both processes would write into it.
            walker = self._load(self._room)
        while True:
            self._flush.by_file()
            count = walker.walk()
            self._tree.check_cap(count, self._root.path)
            if count <= self._room:
                self._check_root(walker.memory, count)
                return _tree_text.Rows(walker.memory, count)
            walker = self._load(self._tree.room_for(count))

    def probe_missing(self) -> set[str]:
        """The items that this kernel does not keep, by the walk's first row."""
        memory, count = self.walk()
        if not count:
            return set()
        row = _wire.decode_row(memory, 0, len(self.names))
        absent = {name for name, value in zip(self.names, row.values) if value == _wire.ABSENT}
        on_root = bool(row.flags & _wire.ROW_ROOT)
        return {name for name in absent if not is_optional(name, on_root)}

    def _load(self, room: int) -> Walker:
        """A program with room for so many rows, in place of the one before."""
        order, more = _links.walk_order(_options.ORDERS[self._tree.order], self._root)
        constants = {**self._plan.constants(self._flush.mode, order), **more}
        rows = _program.MapSize(self._plan.row_size, room)
        walker = self._make_walker(constants, rows, self._root, order)
        self._unload()
        self._walker, self._room, self._owner = walker, room, _fork.generation
        return walker

    def _unload(self) -> None:
        walker, self._walker = self._walker, None
        if walker is not None:
            walker.close()

    def _check_root(self, memory: mmap.mmap, count: int) -> None:
        """Raises if the walk did not meet its root."""
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
        """Whether somebody else has closed a descriptor of it."""
        walker = self._walker
        lost = self._directory.is_lost or self._flush.is_lost
        return lost or (walker is not None and walker.is_lost)

    def close(self) -> None:
        """Closes the program, its map and all files. Calling it again does nothing."""
        self._unload()
        self._flush.close()
        self._directory.close()


def is_optional(name: str, on_root: bool) -> bool:
    """Whether one cgroup, perhaps its hierarchy's root, may lack what others have: pressure can
    be switched off."""
    file = _items.file_of(name)
    return file == _items.PRESSURE or (on_root and file not in _items.ON_ROOT)


def estimate_rows(cgroup: Cgroup, order: str) -> int:
    """About how many rows a walk has; on v1 fewer: the first walk counts them, and a map grows."""
    if order in ("self", "up"):
        return 1
    below = None if order == "children" else cgroup.descendants
    return 1 + (cgroup.children if below is None else below)


def count_rows(cgroup: Cgroup, plan: ReadPlan) -> int:
    """How many rows a tree has now, by a walk."""
    constants = plan.constants(_terms.FLUSH_NONE, _options.PRE)
    room = _program.MapSize(plan.row_size, 1)
    walker = IteratorWalker(constants, room, cgroup, _options.PRE)
    try:
        return walker.walk()
    finally:
        walker.close()


TreeSource = Union[MapSource, _tree_text.TextTreeSource]


class TreeSourceFactory(NamedTuple):
    """What a TreeReader reads from.

    Attributes:
        order: the walk's order.
        max_rows: the caller's cap on cgroups, or None.
        transports: how the rows can travel, the best first.
    """

    order: _options.Order
    max_rows: Optional[int]
    transports: tuple[str, ...] = ("run", "shared")

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Nothing: a flush is small beside a walk."""
        return ""

    @property
    def walks(self) -> bool:
        """Whether there are other rows than the root's."""
        return self.order != "self"

    def room_for(self, rows: int) -> int:
        """So many rows and some more, but not beyond the cap."""
        room = rows + rows // 4 + 16
        return room if self.max_rows is None else min(room, self.max_rows)

    def check_cap(self, rows: int, path: str) -> None:
        """Raises TreeTooLargeError."""
        if self.max_rows is not None and rows > self.max_rows:
            raise TreeTooLargeError(
                f"the walk from {path} found {rows} cgroups, more than max_rows={self.max_rows}",
                rows=rows,
                max_rows=self.max_rows,
            )

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> MapSource:
        """A source through BPF."""
        walker = RunWalker if transport == "run" else IteratorWalker
        return MapSource(cgroup, plan, flush, walker, self)

    def text(self, cgroup: Cgroup, names: tuple[str, ...]) -> _tree_text.TextTreeSource:
        """A source through the cgroups' files."""
        return _tree_text.TextTreeSource(cgroup, names, self.order, self.check_cap)
