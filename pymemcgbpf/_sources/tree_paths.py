# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The paths of the cgroups in a tree, from the names that the walk itself writes.

A path is the cgroup's at the time of the walk. The program writes the names of new cgroups only,
and a signature of all rows, so a tree that has not changed costs nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Optional

from .. import _wire
from .._bpf.program import MapSize
from .._bpf.terms import u32
from .._cgroup import mounts as _mounts
from .._cgroup.directory import Cgroup
from .._cgroup.walk_paths import Origin, Paths, RootPath, WalkPaths
from .._records import Record

TYPICAL_NAME = 64  # bytes of a name in the map; names that do not fit make the map larger


class NameRoom(Record):
    """The room in the map of names.

    Attributes:
        names: how many names it holds; 0 if a walk shall write no names.
        text_size: the bytes of their text.
    """

    names: int
    text_size: int

    @classmethod
    def for_names(cls, names: int, name_size: int = TYPICAL_NAME) -> NameRoom:
        """Room for this number of names of this average size."""
        return cls(names, names * name_size + _wire.NAME_SIZE)

    @property
    def map_size(self) -> MapSize:
        """The size of the map."""
        return MapSize(self._text_at + self.text_size, 1)

    @property
    def _text_at(self) -> int:
        return _wire.NAMES.size + self.names * _wire.NAME.size

    def constants(self, can_rename: bool) -> dict[str, bytes]:
        """The program's constants for a map of this size."""
        return {
            "nr_names_fit": u32(self.names),
            "text_size": u32(self.text_size),
            "can_rename": bytes([can_rename]),
        }

    def holds(self, written: WrittenNames) -> bool:
        """Whether all names of a walk fitted."""
        return (
            written.nr_names <= self.names and written.text_size <= self.text_size - _wire.NAME_SIZE
        )


NO_NAMES = NameRoom(0, 0)


class WrittenNames(Record):
    """What a walk wrote into the map of names: a struct memcg_stats_names."""

    named_id: int
    newest_id: int
    signature: int
    nr_names: int
    text_size: int

    @property
    def name_size(self) -> int:
        """The bytes that a name takes, on average, and some more."""
        return self.text_size // max(self.nr_names, 1) + 8

    @classmethod
    def of(cls, memory: mmap.mmap) -> WrittenNames:
        """Decodes the map after a walk."""
        return cls(*_wire.NAMES.unpack_from(memory))


class TreePaths:
    """The paths of the rows of one tree, remembered from walk to walk.

    What is remembered is bounded by twice the rows of the last walk.

    Args:
        cgroup: the root of the walk.
        order: the order of the rows.
    """

    def __init__(self, cgroup: Cgroup, order: str) -> None:
        self._root_id, self._device = cgroup.id, cgroup.identity[0]
        self._order = order
        self.can_rename = cgroup.version == 1
        self._root = RootPath(cgroup)
        self.named_id = 0
        self._path_of: dict[int, str] = {}
        self._tags: dict[int, int] = {}
        self._signature: Optional[tuple[bytes, int]] = None
        self._origin = Origin()
        self._last = WalkPaths(self._origin, None, None, (), self.can_rename)
        self._forget()

    @property
    def root(self) -> str:
        """The path of the root of the walk."""
        return self._root.path

    @property
    def last(self) -> WalkPaths:
        """The paths of the rows of the last walk."""
        return self._last

    def begin(self, names: mmap.mmap) -> None:
        """Prepares the map of names for a walk."""
        names[:8] = _wire.encode_id(self.named_id)

    def _forget(self) -> None:
        """Forgets all paths but the root's, so that the next walk writes all names."""
        self._signature = None
        self.named_id = 0
        self._path_of = {self._root_id: self._root.path}
        self._tags = {}

    def unchanged(self, names: mmap.mmap, count: int) -> Optional[WalkPaths]:
        """The paths of the last walk, if this one met the same cgroups with the same names.

        None if it met no cgroup, because its root may have been removed.
        """
        same = count and self._signature == (names[_wire.SIGNATURE], count)
        return self._last if same else None

    def of_walk(
        self,
        rows: mmap.mmap,
        count: int,
        width: int,
        names: mmap.mmap,
        written: WrittenNames,
        room: NameRoom,
    ) -> Optional[WalkPaths]:
        """The paths of all rows of a walk; None if it has to walk again, and then writes all names.

        Args:
            rows: the map of rows.
            count: the number of rows.
            width: the number of 64-bit words of a row.
            names: the map of names.
            written: what the walk wrote into it. All names must have fitted.
            room: the room that it has.
        """
        # If a signal handler's exception ends this, the next walk finds all paths again.
        complete = self.named_id == 0
        self._signature, self.named_id = None, 0
        if self._root.follow():
            self._forget()
            return None
        with memoryview(rows) as every, every[: 8 * count * width].cast("Q") as words:
            ids = words[::width].tolist()
            if self.can_rename and not self._have_kept_names(ids, words[2::width].tolist()):
                self._forget()
                return None
        all_known = True
        if self._order == "up":
            paths = self._upwards(count)
        else:
            if written.nr_names:
                self._learn(names, written, room)
            try:
                paths = (*map(self._path_of.__getitem__, ids),)
            except KeyError:
                if not complete:
                    self._forget()
                    return None
                paths, all_known = tuple(map(self._path_of.get, ids)), False
        if max(len(self._path_of), len(self._tags)) > 2 * count + 64:
            self._prune(ids)
        root, device = self._root.path, self._device
        self._last = WalkPaths(self._origin, root, device, paths, self.can_rename)
        if all_known:
            self._signature = (names[_wire.SIGNATURE], count)
            self.named_id = written.newest_id
        return self._last

    def _have_kept_names(self, ids: list[int], words: list[int]) -> bool:
        """Whether no remembered cgroup was renamed, by the words with the level and the tag."""
        if [*map(self._tags.get, ids, words)] != words:
            return False
        self._tags.update(zip(ids, words))
        return True

    def _learn(self, names: mmap.mmap, written: WrittenNames, room: NameRoom) -> None:
        """Remembers the paths of the cgroups that the walk has named."""
        start = _wire.NAMES.size
        numbers = struct.unpack_from(f"={2 * written.nr_names}Q", names, start)
        start += room.names * _wire.NAME.size
        text = os.fsdecode(names[start : start + written.text_size]).split("\0")
        new = zip(numbers[::2], numbers[1::2], text)
        path_of, root_id = self._path_of, self._root_id
        for cgroup_id, parent_id, name in reversed(list(new)) if self._order == "post" else new:
            above = path_of.get(parent_id)
            if name and above is not None and cgroup_id != root_id:
                path_of[cgroup_id] = f"{above}/{name}" if above != "/" else f"/{name}"

    def _upwards(self, count: int) -> Paths:
        """The paths of the root and its ancestors, as far as they are below the mount."""
        path = self._root.path
        paths: list[Optional[str]] = [path]
        topmost = _mounts.hierarchy_root(path)
        while len(paths) < count and path != topmost:
            path = os.path.dirname(path)
            paths.append(path)
        return tuple(paths + [None] * (count - len(paths)))

    def _prune(self, ids: list[int]) -> None:
        """Forgets the cgroups that have no row any more."""
        path_of, tags = self._path_of, self._tags
        kept = {self._root_id, *ids}
        self._path_of = {key: path for key, path in path_of.items() if key in kept}
        self._tags = {key: tag for key, tag in tags.items() if key in kept}
