# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The rows of one walk, kept as the kernel wrote them. A number is converted when it is used."""

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
    from .changes import Changes

__all__ = ["ABSENT", "Row", "Snapshot"]

ABSENT = _wire.ABSENT
"""In a column, the value of an item that the cgroup does not have: 2**64 - 1.

The root of a hierarchy, for instance, has no memory.current. In a row such an item is missing."""

# Why a view has expired.
_READ_AGAIN = "its reader has read again since"
_FORKED = "this process was forked since: the memory is its parent's"

_ABSENT_BYTES = b"\xff" * 8

# Of a row, in words of 8 bytes: cgroup_id, parent_id, level and flags, values.
_ID, _PARENT_ID, _LEVEL_WORD, _VALUES = 0, 1, 2, 3


class Snapshot(Sequence["Row"]):
    """The result of one walk: a sequence with a :class:`Row` for each cgroup, in the walk's order::

        >>> snapshot = tree.read()
        >>> len(snapshot), snapshot[1].path, snapshot[1]["anon"]
        (4, '/sys/fs/cgroup/system.slice/cron.service', 421888)
        >>> snapshot.column("anon").tolist()
        [60297216, 421888, 1155072, 58720256]

    :meth:`TreeReader.read` and :meth:`PinnedReader.read` return snapshots. A snapshot never
    changes, outlives its reader, and can be used in a forked child. The exception is a view, which
    ``TreeReader.read(copy=False)`` returns. An index gives a row, and a slice gives a list of rows.
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
        self._complete = False  # whether it is known that no value is ABSENT
        self._iterated = False  # whether a caller iterates over the rows
        self._why_expired = _READ_AGAIN

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items, in the order of a row's values."""
        return self._names

    @property
    def order(self) -> str:
        """The order of the rows: "pre", "post", "up", "children" or "self"."""
        return self._order

    @property
    def path(self) -> Optional[str]:
        """The absolute path of the walk's root. It can be None for a pin only: its cgroup may lie
        outside of what this process can see."""
        return self._paths.root

    @property
    def started_ns(self) -> int:
        """When the flush and the walk began, in nanoseconds of ``time.monotonic_ns()``."""
        return self._started_ns

    @property
    def duration_ns(self) -> int:
        """How long the flush and the walk took, in nanoseconds. All numbers are from that time."""
        return self._duration_ns

    # --- columns

    def column(self, item: str) -> memoryview:
        """One item of all rows, in the unit of the item::

            >>> snapshot.column("anon").tolist()
            [60297216, 421888, 1155072, 58720256]

        Where a cgroup does not have the item, the value is :data:`ABSENT`.

        Returns:
            A memoryview of unsigned 64-bit integers with one dimension, of the snapshot's length.
            It copies nothing, so it is strided, and ``numpy.asarray()`` accepts it.

        Raises:
            KeyError: The snapshot does not have this item.
            ClosedError: The snapshot was a view, which has expired.
        """
        return self._column(self._places[item])

    @property
    def ids(self) -> memoryview:
        """The ids of the cgroups, as a memoryview like that of :meth:`column`."""
        return self._column(_ID)

    @property
    def parent_ids(self) -> memoryview:
        """The ids of the parents, as a memoryview like that of :meth:`column`; 0 for a hierarchy's
        root."""
        return self._column(_PARENT_ID)

    @property
    def levels(self) -> memoryview:
        """The number of cgroups above each one in the hierarchy, as a memoryview of unsigned 32-bit
        integers; 0 for a hierarchy's root."""
        try:
            return self._bytes.cast("I")[2 * _LEVEL_WORD :: 2 * self._width]
        except ValueError:
            raise self._expired() from None

    @property
    def paths(self) -> tuple[Optional[str], ...]:
        """The absolute path of each cgroup, as :attr:`Row.path`, in the walk's order."""
        return tuple(row.path for row in self)

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
        if isinstance(index, str):
            raise TypeError(f"rows have numbers: use column({index!r}), or a row's [{index!r}]")
        try:
            starts = range(0, self._count * self._width, self._width)[index]
        except IndexError:
            raise IndexError(f"there is no row {index} among {self._count}") from None
        if isinstance(starts, range):
            return [Row(self, start) for start in starts]
        return Row(self, starts)

    def __iter__(self) -> Iterator[Row]:
        self._iterated = True
        for start in range(0, self._count * self._width, self._width):
            yield Row(self, start)

    def dicts(self) -> list[dict[str, int]]:
        """All rows as dicts, in the walk's order::

            >>> snapshot.dicts()[0]
            {'anon': 60297216, 'pgscan': 0}

        This gives the same as ``[dict(row) for row in snapshot]`` and is three times as fast. As
        in a row, an item that the cgroup does not have is missing.

        Raises:
            ClosedError: The snapshot was a view, which has expired.
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
        """A dict from the id of each cgroup to its row, in the walk's order."""
        return {cgroup_id: Row(self, start) for cgroup_id, start in self._index().items()}

    def by_path(self) -> dict[str, Row]:
        """A dict from the absolute path of each cgroup to its row, in the walk's order.

        Rows whose :attr:`Row.path` is None are skipped.
        """
        found = {}
        for row in self:
            path = row.path
            if path is not None:
                found[path] = row
        return found

    def find(self, path: Path) -> Optional[Row]:
        """The row of the cgroup that is at a path now; None if the snapshot has no such row.

        Args:
            path: An absolute path, or one that is relative to the walk's root.
        """
        cgroup_id = self._paths.id_at(os.fsdecode(path))
        start = None if cgroup_id is None else self._index().get(cgroup_id)
        return None if start is None else Row(self, start)

    def since(self, earlier: Snapshot) -> Changes:
        """What changed since an earlier snapshot of the same walk::

            >>> later.since(earlier).rates("pgfault")
            [430.2, 0.0, 2.2, 428.0]

        The snapshots may be of different readers, and have different items. :class:`Changes`
        describes what is compared.

        Raises:
            ValueError: The walk of *earlier* did not begin before this one, or it is one from
                another root or in another order.
            ClosedError: One of the snapshots was a view, which has expired.
        """
        from .changes import Changes

        return Changes(self, earlier)

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
        """All bytes of the rows. Also notes whether ABSENT is anywhere in them."""
        self._iterated = False
        try:
            data = bytes(self._bytes)
        except ValueError:
            raise self._expired() from None
        # The bytes of two adjacent numbers may look like ABSENT. Then each row is searched.
        self._complete = _ABSENT_BYTES not in data
        return data

    def _has_all(self) -> bool:
        """Whether it is known that no row lacks an item.

        When a caller iterates over all rows, one search through all bytes replaces a search
        through each row.
        """
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
        """The relative path of a cgroup, or None; and whether the cgroup was removed."""
        index = self._index()
        ended_ns = self._started_ns + self._duration_ns
        return self._paths.look_up(cgroup_id, self._parent_of, ended_ns, index.keys())

    def _parent_of(self, cgroup_id: int) -> Optional[int]:
        start = self._index().get(cgroup_id)
        return None if start is None else self._word(start + _PARENT_ID)

    def _expire_in_child(self) -> None:
        """Expires a view: the rows belong to the parent process, which may overwrite them."""
        self._why_expired = _FORKED
        self._expire()

    def _expired(self) -> ClosedError:
        return ClosedError(f"this snapshot was a view (copy=False), and {self._why_expired}")

    def _expire(self) -> None:
        """Expires a view: its reader is about to overwrite the rows."""
        self._complete = self._iterated = False
        self._words.release()
        self._bytes.release()


@functools.lru_cache(maxsize=32)  # a reader's snapshots all have the same
def _places_of(names: tuple[str, ...]) -> dict[str, int]:
    return {name: _VALUES + at for at, name in enumerate(names)}


class Row(Mapping[str, int]):
    """One cgroup of a snapshot: a mapping from the names of items to values::

        >>> row = snapshot[1]
        >>> row["anon"], row.level, row.relative_path
        (421888, 3, 'cron.service')
        >>> dict(row)
        {'anon': 421888, 'pgscan': 0}

    An item that the cgroup does not have is missing: ``row[item]`` raises KeyError, and
    ``row.get(item)`` is None. The values have the units of the items: bytes, a count or
    microseconds.
    """

    __slots__ = ("_snapshot", "_start")

    def __init__(self, snapshot: Snapshot, start: int) -> None:
        self._snapshot = snapshot
        self._start = start

    @property
    def id(self) -> int:
        """The kernel's 64-bit id of the cgroup. The kernel never gives it to another cgroup."""
        return self._snapshot._word(self._start + _ID)

    @property
    def parent_id(self) -> int:
        """The id of the parent cgroup; 0 for a hierarchy's root."""
        return self._snapshot._word(self._start + _PARENT_ID)

    @property
    def level(self) -> int:
        """The number of cgroups above it in the hierarchy; 0 for the hierarchy's root."""
        return _wire.level(self._snapshot._word(self._start + _LEVEL_WORD))

    @property
    def relative_path(self) -> Optional[str]:
        """The path relative to the walk's root, which itself is "."; None where :attr:`path` is."""
        return self._snapshot._look_up(self.id)[0]

    @property
    def path(self) -> Optional[str]:
        """The absolute path of the cgroup; None if it is :attr:`gone` or out of sight.

        The path is looked up when this property is used: every path returned was checked at that
        moment. A cgroup is out of sight if a directory above it may not be listed by this process
        or is not mounted here.

        Raises:
            MemcgError: The process has no file descriptor left for the lookup.
        """
        relative = self.relative_path
        return None if relative is None else self._snapshot._paths.absolute(relative)

    @property
    def gone(self) -> bool:
        """Whether the cgroup was removed after the walk. False if that cannot be seen."""
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
        """The names of the items that this cgroup has."""
        return _Keys(self)

    def items(self) -> ItemsView[str, int]:
        """The items that this cgroup has, with their values."""
        return _Items(self)

    def values(self) -> ValuesView[int]:
        """The values of the items that this cgroup has."""
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


# Faster than the views of collections.abc, which look up each value by its name.
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
