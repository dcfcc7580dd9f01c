# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One walk's rows, as the kernel wrote them; converted only where they are looked at."""

from __future__ import annotations

import functools
import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, NoReturn, Optional, Union, overload

from . import _wire
from .errors import ClosedError

if TYPE_CHECKING:
    from ._cgroup.paths import Paths, PathsOfId
    from ._lookup import Path

__all__ = ["ABSENT", "Row", "Snapshot"]

ABSENT = _wire.ABSENT
"""In a column: this cgroup does not have the item (a hierarchy's root, memory.current)."""

# Why a view has expired.
_READ_AGAIN = "its reader has read again since"
_FORKED = "this process was forked since: the memory is its parent's"

_ABSENT_BYTES = b"\xff" * 8

# Of a row, in words of 8 bytes: cgroup_id, parent_id, level and flags, values.
_ID, _PARENT_ID, _LEVEL_WORD, _VALUES = 0, 1, 2, 3


class Snapshot(Sequence["Row"]):
    """The cgroups of one walk: a sequence of :class:`Row`, in the walk's order::

        >>> snapshot = tree.read()
        >>> len(snapshot), snapshot[1].path, snapshot[1]["anon"]
        (38, '/sys/fs/cgroup/init.scope', 7376896)
        >>> sum(snapshot.column("pgscan"))
        0

    Made by :meth:`TreeReader.read` and :meth:`PinnedReader.read`. It never changes, outlives its
    reader, and can be used in a forked child. (But see the first for ``copy=False``.)
    """

    def __init__(
        self,
        rows: memoryview,
        names: tuple[str, ...],
        order: str,
        began_ns: int,
        ended_ns: int,
        paths: Union[Paths, PathsOfId],
    ) -> None:
        self._bytes = rows
        self._words = rows.cast("Q")
        self._width = _wire.row_size(len(names)) // 8
        self._count = len(self._words) // self._width
        self._names = names
        self._places = _places_of(names)
        self._order = order
        self._started_ns, self._duration_ns = began_ns, ended_ns - began_ns
        self._paths = paths
        self._starts: Optional[dict[int, int]] = None  # id → its row's first word
        self._complete = False  # known to have no ABSENT anywhere
        self._iterated = False  # so it is worth while to know that
        self._why_expired = _READ_AGAIN

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items, in the order of a row."""
        return self._names

    @property
    def order(self) -> str:
        """The order of the rows, as :class:`TreeReader` has it."""
        return self._order

    @property
    def path(self) -> Optional[str]:
        """The absolute path of the walk's root; None where it cannot be seen from here, which
        only a pin's can be."""
        return self._paths.root

    @property
    def started_ns(self) -> int:
        """When the flush and the walk began, in ns of CLOCK_MONOTONIC (time.monotonic_ns())."""
        return self._started_ns

    @property
    def duration_ns(self) -> int:
        """How long the flush and the walk took, in ns. All numbers are from that time."""
        return self._duration_ns

    # --- columns

    def column(self, item: str) -> memoryview:
        """One item of all rows, as a memoryview of unsigned 64-bit integers::

            >>> numpy.asarray(snapshot.column("anon")).sum()
            1289998336

        Nothing is copied: it is strided. Where a cgroup does not have the item, its value
        is :data:`ABSENT`.

        Raises:
            KeyError: the snapshot does not have this item.
        """
        return self._column(self._places[item])

    @property
    def ids(self) -> memoryview:
        """The cgroups' ids, as :meth:`column`."""
        return self._column(_ID)

    @property
    def parent_ids(self) -> memoryview:
        """The parents' ids, as :meth:`column`; 0 for a hierarchy's root."""
        return self._column(_PARENT_ID)

    def _column(self, place: int) -> memoryview:
        try:
            return self._words[place :: self._width]
        except ValueError:
            raise self._expired() from None

    # --- rows

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Row, list[Row]]:
        starts = range(0, self._count * self._width, self._width)[index]
        if isinstance(starts, range):
            return [Row(self, start) for start in starts]
        return Row(self, starts)

    def __iter__(self) -> Iterator[Row]:
        self._iterated = True
        for start in range(0, self._count * self._width, self._width):
            yield Row(self, start)

    def dicts(self) -> list[dict[str, int]]:
        """All rows as dicts, in the walk's order: ``[dict(row) for row in snapshot]``, but
        three times as fast::

            >>> for row, values in zip(snapshot, snapshot.dicts()):
            ...     print(row.id, values)
            28 {'anon': 7376896, 'pgscan': 0}

        As in a row, an item that a cgroup does not have is missing.

        Raises:
            ClosedError: the snapshot was a view, which has expired.
        """
        names = self._names
        rows = _wire.values_of_rows(self._data(), len(names))
        if self._complete:
            return [dict(zip(names, values)) for values in rows]
        return [
            {name: value for name, value in zip(names, values) if value != ABSENT}
            for values in rows
        ]

    def by_id(self) -> dict[int, Row]:
        """Cgroup's id → its row, in the walk's order."""
        return {cgroup_id: Row(self, start) for cgroup_id, start in self._index().items()}

    def by_path(self) -> dict[str, Row]:
        """Absolute path → its row, in the walk's order, of those that have a :attr:`Row.path`."""
        found = {}
        for row in self:
            path = row.path
            if path is not None:
                found[path] = row
        return found

    def find(self, path: Path) -> Optional[Row]:
        """The row of the cgroup that a path leads to now; None where there is none.

        Args:
            path: absolute, or relative to the walk's root.
        """
        cgroup_id = self._paths.id_at(os.fsdecode(path))
        start = None if cgroup_id is None else self._index().get(cgroup_id)
        return None if start is None else Row(self, start)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Snapshot cannot be copied or pickled: take dicts of its rows")

    def __repr__(self) -> str:
        of = "" if self.path is None else f" of {self.path!r}"
        return f"<Snapshot{of}: {self._count} cgroups, {len(self._names)} items>"

    # --- for rows

    def _index(self) -> dict[int, int]:
        starts = self._starts
        if starts is None:
            ends = self._count * self._width
            starts = dict(zip(self.ids, range(0, ends, self._width)))
            self._starts = starts
        return starts

    def _data(self) -> bytes:
        """All bytes; looks for any ABSENT in them."""
        self._iterated = False
        try:
            data = bytes(self._bytes)
        except ValueError:
            raise self._expired() from None
        # Bytes of two numbers may look like one, too: then rows look for themselves.
        self._complete = _ABSENT_BYTES not in data
        return data

    def _has_all(self) -> bool:
        """Whether no row lacks an item; False where nobody knows. When all rows are gone
        through, one look at all of them spares each a look at its own."""
        if self._iterated and not self._complete:
            self._data()
        return self._complete

    def _word(self, at: int) -> int:
        try:
            return self._words[at]
        except ValueError:
            raise self._expired() from None

    def _values(self, start: int) -> list[int]:
        try:
            return self._words[start + _VALUES : start + self._width].tolist()
        except ValueError:
            raise self._expired() from None

    def _look_up(self, cgroup_id: int) -> tuple[Optional[str], bool]:
        """A cgroup's relative path, or None; and whether it is gone."""
        index = self._index()
        ended_ns = self._started_ns + self._duration_ns
        return self._paths.look_up(cgroup_id, self._parent_of, ended_ns, index.keys())

    def _parent_of(self, cgroup_id: int) -> Optional[int]:
        start = self._index().get(cgroup_id)
        return None if start is None else self._word(start + _PARENT_ID)

    def _expire_in_child(self) -> None:
        """The rows are the parent's, which may overwrite them at any time."""
        self._why_expired = _FORKED
        self._expire()

    def _expired(self) -> ClosedError:
        return ClosedError(f"this snapshot was a view (copy=False), and {self._why_expired}")

    def _expire(self) -> None:
        """The rows are about to be overwritten."""
        self._complete = self._iterated = False
        self._words.release()
        self._bytes.release()


@functools.lru_cache(maxsize=32)  # a reader's snapshots all have the same
def _places_of(names: tuple[str, ...]) -> dict[str, int]:
    return {name: _VALUES + at for at, name in enumerate(names)}


class Row(Mapping[str, int]):
    """One cgroup of a snapshot: a mapping from item's name to value, with who it is.

    >>> row["anon"], row.level, row.relative_path
    (7376896, 1, 'init.scope')
    >>> dict(row)
    {'anon': 7376896, 'pgscan': 0}
    """

    __slots__ = ("_snapshot", "_start")

    def __init__(self, snapshot: Snapshot, start: int) -> None:
        self._snapshot = snapshot
        self._start = start

    @property
    def id(self) -> int:
        """The kernel's 64-bit id of the cgroup. Never another's, even after its removal."""
        return self._snapshot._word(self._start + _ID)

    @property
    def parent_id(self) -> int:
        """The id of the cgroup above; 0 for a hierarchy's root."""
        return self._snapshot._word(self._start + _PARENT_ID)

    @property
    def level(self) -> int:
        """How many cgroups are above it in the hierarchy: 0 for the hierarchy's root."""
        return _wire.level(self._snapshot._word(self._start + _LEVEL_WORD))

    @property
    def relative_path(self) -> Optional[str]:
        """The path from the walk's root ("." for the root itself); None as for :attr:`path`."""
        return self._snapshot._look_up(self.id)[0]

    @property
    def path(self) -> Optional[str]:
        """The absolute path; None where the cgroup is :attr:`gone`, or cannot be seen.

        Looked up when asked for: a path that is given led to this very cgroup just then. It
        cannot be seen where a directory above it may not be listed, or is not mounted here.

        Raises:
            MemcgError: there are no file descriptors left to look it up with.
        """
        relative = self.relative_path
        return None if relative is None else self._snapshot._paths.absolute(relative)

    @property
    def gone(self) -> bool:
        """Whether the cgroup was removed since. False where that cannot be seen."""
        return self._snapshot._look_up(self.id)[1]

    def __getitem__(self, item: str) -> int:
        snapshot = self._snapshot
        try:
            value = snapshot._words[self._start + snapshot._places[item]]
        except ValueError:
            raise snapshot._expired() from None
        if value == ABSENT:
            raise KeyError(item)
        return value

    def __iter__(self) -> Iterator[str]:
        snapshot = self._snapshot
        if snapshot._complete or snapshot._has_all():
            return iter(snapshot._names)
        values = snapshot._values(self._start)
        if ABSENT not in values:
            return iter(snapshot._names)
        return (name for name, value in zip(snapshot._names, values) if value != ABSENT)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> KeysView[str]:
        """The names of the items that it has."""
        return _Keys(self)

    def items(self) -> ItemsView[str, int]:
        """The items that it has, with their values."""
        return _Items(self)

    def values(self) -> ValuesView[int]:
        """The values of the items that it has."""
        return _Values(self)

    def _pairs(self) -> Iterator[tuple[str, int]]:
        snapshot = self._snapshot
        pairs = zip(snapshot._names, snapshot._values(self._start))
        if snapshot._complete or snapshot._has_all():
            return pairs
        return (pair for pair in pairs if pair[1] != ABSENT)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Row):
            return self.id == other.id and dict(self) == dict(other)
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Row cannot be copied or pickled: take its dict")

    def __repr__(self) -> str:
        return f"<Row of cgroup {self.id}, level {self.level}: {dict(self)}>"


# Mapping's own views look each value up by its name, and go through a generator.
class _Keys(KeysView[str]):
    __slots__ = ()
    _mapping: Row

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping)


class _Items(ItemsView[str, int]):
    __slots__ = ()
    _mapping: Row

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return self._mapping._pairs()


class _Values(ValuesView[int]):
    __slots__ = ()
    _mapping: Row

    def __iter__(self) -> Iterator[int]:
        return (value for _, value in self._mapping._pairs())
