# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The rows of one walk, kept as the kernel wrote them. A number is converted when it is used."""

from __future__ import annotations

import functools
import heapq
import time
from array import array
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, NoReturn, Optional, Union, overload

from . import _options, _row_dicts, _wire
from ._items import requested_names
from ._records import Record
from .errors import ClosedError

if TYPE_CHECKING:
    from ._cgroup.walk_paths import WalkPaths
    from ._lookup import Path
    from .changes import Changes
    from .departed import Departed

__all__ = ["Row", "Snapshot"]

_ABSENT = _wire.ABSENT

# Why a view has expired.
_READ_AGAIN = "its reader has read again since"
_FORKED = "this process was forked since: the memory is its parent's"

_LISTED = 8  # how many names of items a message lists

# Of a row, in words of 8 bytes: cgroup_id, parent_id, level and flags, values.
_ID, _PARENT_ID, _LEVEL_WORD, _VALUES = 0, 1, 2, 3


class Times(Record):
    """When a walk took place: the nanoseconds of CLOCK_MONOTONIC at its beginning and at its end,
    and of CLOCK_REALTIME at its beginning."""

    started_ns: int
    ended_ns: int
    time_ns: int


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

    _row_type: type[Row]

    def __init__(
        self,
        rows: memoryview,
        names: tuple[str, ...],
        order: str,
        times: Times,
        paths: WalkPaths,
        max_depth: Optional[int] = None,
        departed: Optional[Departed] = None,
    ) -> None:
        self._bytes = rows
        self._words = rows.cast("Q")
        self._width = _wire.row_size(len(names)) // 8
        self._count = len(self._words) // self._width
        self._names = names
        self._places = _places_of(names)
        self._order, self._max_depth = order, max_depth
        self._times = times
        self._paths = paths
        self._departed = departed
        self._starts: Optional[dict[Optional[int], int]] = None  # id → its row's first word
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
    def max_depth(self) -> Optional[int]:
        """How many levels below the walk's root have rows; None for all."""
        return self._max_depth

    @property
    def path(self) -> Optional[str]:
        """The absolute path of the walk's root. It can be None for a pin only: its cgroup may lie
        outside of what this process can see."""
        return self._paths.root

    @property
    def started_ns(self) -> int:
        """When the flush and the walk began, in nanoseconds of ``time.monotonic_ns()``."""
        return self._times.started_ns

    @property
    def time(self) -> float:
        """When the flush and the walk began, in seconds since 1970, as ``time.time()``."""
        return self._times.time_ns / 1e9

    @property
    def age(self) -> float:
        """How many seconds ago the flush and the walk began::

            >>> PinnedReader("/sys/fs/bpf/stats/tree").read().age
            0.41

        All numbers are this old now.
        """
        return (time.monotonic_ns() - self._times.started_ns) / 1e9

    @property
    def duration_ns(self) -> int:
        """How long the flush and the walk took, in nanoseconds. All numbers are from that time."""
        return self._times.ended_ns - self._times.started_ns

    @property
    def departed(self) -> Optional[Departed]:
        """The cgroups below the root that were removed since the reader's last read, with their
        last numbers::

            >>> [(row.relative_path, row["memory.peak"]) for row in snapshot.departed]
            [('job-17', 104857600)]

        None unless the reader was made with ``departed=True``, and where it cannot see removals;
        :attr:`TreeReader.fallback_reason` says why then.
        """
        return self._departed

    # --- columns

    def column(self, item: str, absent: Optional[int] = None) -> memoryview:
        """One item of all rows, in the unit of the item::

            >>> snapshot.column("anon").tolist()
            [60297216, 421888, 1155072, 58720256]

        Args:
            item: The name of the item.
            absent: The number where a cgroup does not have the item, such as 0. If it is None, a
                column that lacks a number is refused, so that no sum and no maximum is wrong.

        Returns:
            A memoryview of unsigned 64-bit integers with one dimension, of the snapshot's length.
            It copies nothing, so it is strided, and ``numpy.asarray()`` accepts it. It is a copy
            where *absent* had to be filled in.

        Raises:
            KeyError: The snapshot does not have this item, or a cgroup does not have it and
                *absent* is None.
            ValueError: *absent* is not in the range of the column.
            ClosedError: The snapshot was a view, which has expired.
        """
        column = self._column(self._place_of(item))
        if absent is not None:
            absent = _options.integer("absent", absent)
        if absent is not None and not 0 <= absent <= _ABSENT:
            raise ValueError(f"absent must be from 0 to 2**64 - 1, not {absent}")
        if self._complete:
            return column
        values = column.tolist()
        if _ABSENT not in values:
            return column
        if absent is None:
            row = self[values.index(_ABSENT)]
            raise KeyError(
                f"the cgroup {row.path or row.id} has no {item}: column({item!r}, absent=0) has 0 "
                "there, and to_columns() has None"
            )
        return memoryview(array("Q", [absent if value == _ABSENT else value for value in values]))

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
        """The absolute path of each cgroup at the time of the walk, as :attr:`Row.path`::

            >>> snapshot.paths[1]
            '/sys/fs/cgroup/system.slice/cron.service'

        While the tree does not change, the snapshots of a reader share one tuple.
        """
        return self._paths.paths

    def to_columns(
        self, items: Optional[Iterable[str]] = None, absent: object = None
    ) -> dict[str, list[Any]]:
        """All rows as columns, for pandas, polars, pyarrow and other tables::

            >>> columns = snapshot.to_columns()
            >>> list(columns)
            ['path', 'id', 'parent_id', 'level', 'anon', 'pgscan']
            >>> columns["anon"]
            [60297216, 421888, 1155072, 58720256]

        Args:
            items: The names of the items, in the order of the columns; by default all of
                :attr:`item_names`.
            absent: The value where a cgroup does not have an item. The libraries take None for a
                missing value, so their sums and means leave it out.

        Returns:
            A dict of lists, all of the snapshot's length: "path", "id", "parent_id", "level", and
            the items. The libraries refuse text that is not valid, so in "path" each byte that is
            not UTF-8 is ``//xNN``; :attr:`paths` are the names as they are.

        Raises:
            KeyError: The snapshot does not have one of the items.
            TypeError: *items* is not a list of names.
            ValueError: *items* is empty.
            ClosedError: The snapshot was a view, which has expired.
        """
        columns = self._identities()
        for item in requested_names(items) or self._names:
            values: list[Any] = self._column(self._place_of(item)).tolist()
            if _ABSENT in values:
                values = [absent if value == _ABSENT else value for value in values]
            columns[item] = values
        return columns

    def _identities(self) -> dict[str, list[Any]]:
        """The columns that say which cgroups these are."""
        return {
            "path": list(self._paths.texts),
            "id": self.ids.tolist(),
            "parent_id": self.parent_ids.tolist(),
            "level": self.levels.tolist(),
        }

    def _column(self, place: int) -> memoryview:
        """A word of each row. Where a cgroup lacks an item, it is ABSENT."""
        try:
            return self._words[place :: self._width]
        except ValueError:
            raise self._expired() from None

    def _place_of(self, item: str) -> int:
        """The place of an item in a row, in words."""
        try:
            return self._places[item]
        except (KeyError, TypeError):  # TypeError: what cannot be a key
            names = ", ".join(self._names[:_LISTED])
            more = len(self._names) - _LISTED
            if more > 0:
                names += f" and {more} others (see item_names)"
            raise KeyError(f"{item!r} was not read: this snapshot has {names}") from None

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
            return [self._row_type(self, start) for start in starts]
        return self._row_type(self, starts)

    def __iter__(self) -> Iterator[Row]:
        self._iterated = True
        row_type = self._row_type
        for start in range(0, self._count * self._width, self._width):
            yield row_type(self, start)

    def dicts(self, absent: object = None, identity: bool = False) -> list[dict[str, Any]]:
        """All rows as dicts with the same keys, in the walk's order::

            >>> snapshot.dicts()[0]
            {'anon': 60297216, 'pgscan': 0}
            >>> by_path = dict(zip(snapshot.paths, snapshot.dicts()))

        This is several times as fast as ``[dict(row) for row in snapshot]``, whose dicts lack the
        items that a cgroup does not have.

        Args:
            absent: The value where a cgroup does not have an item.
            identity: Whether the dicts begin with "path", "id", "parent_id" and "level", as
                :meth:`to_columns` has them.

        Raises:
            ClosedError: The snapshot was a view, which has expired.
        """
        names = self._names
        data = self._data()
        rows: Iterable[tuple[Any, ...]]
        if _options.switch("identity", identity):
            names = ("path", "id", "parent_id", "level", *names)
            found = _wire.unpacked_rows(data, len(self._names))
            rows = ((path, *row) for path, row in zip(self._paths.texts, found))
        else:
            rows = _wire.values_of_rows(data, len(names))
        if not self._complete:
            rows = (
                tuple(absent if value == _ABSENT else value for value in row)
                if _ABSENT in row
                else row
                for row in rows
            )
        return _row_dicts.list_maker(names)(rows)

    def top(self, item: str, n: int = 10) -> list[Row]:
        """The *n* rows with the largest values of an item, the largest first::

            >>> [(row.relative_path, row["anon"]) for row in snapshot.top("anon", 2)]
            [('.', 60297216), ('web.service', 58720256)]

        Rows that lack the item are left out. A cgroup's memory includes that of the cgroups below
        it, so its ancestors are as large; :meth:`leaves` leaves them out.

        Raises:
            KeyError: The snapshot does not have this item.
            TypeError, ValueError: *n* is not an integer, or is negative.
            ClosedError: The snapshot was a view, which has expired.
        """
        number = _options.integer("n", n)
        if number < 0:
            raise ValueError(f"n must be at least 0, not {number}")
        values = self._column(self._place_of(item)).tolist()
        present = (at for at, value in enumerate(values) if value != _ABSENT)
        return [self[at] for at in heapq.nlargest(number, present, key=values.__getitem__)]

    def leaves(self) -> list[Row]:
        """The rows of the cgroups below which the snapshot has no other row, in the walk's order.

        Their values can be added up, because no memory is counted twice. Memory that is charged to
        an inner cgroup itself is not among them.

        Raises:
            ClosedError: The snapshot was a view, which has expired.
        """
        inner = set(self.parent_ids)
        return [self[at] for at, cgroup_id in enumerate(self.ids) if cgroup_id not in inner]

    def by_id(self) -> dict[int, Row]:
        """A dict from the id of each cgroup to its row, in the walk's order."""
        return dict(zip(self.ids, self))

    def by_path(self) -> dict[str, Row]:
        """A dict from the absolute path of each cgroup to its row, in the walk's order.

        Rows whose :attr:`Row.path` is None are skipped.
        """
        return {path: row for path, row in zip(self.paths, self) if path is not None}

    def find(self, path: Path) -> Optional[Row]:
        """The row of the cgroup at a path; None if the snapshot has no such row.

        Args:
            path: An absolute path, one that is relative to the walk's root, or one as
                /proc/PID/cgroup shows it.
        """
        found = self._paths.find(_options.path("path", path))
        if found.place is not None:
            return self[found.place]
        start = self._index().get(found.cgroup_id)
        return None if start is None else self._row_type(self, start)

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

    def _index(self) -> dict[Optional[int], int]:
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
        self._complete = _wire.ABSENT_BYTES not in data
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
    def path(self) -> Optional[str]:
        """The absolute path of the cgroup at the time of the walk.

        On cgroup v2 a cgroup is never renamed. None if the path is unknown: the cgroup is above
        what is mounted here, or, in a pin, its directory is not visible to this process.
        """
        return self._snapshot.paths[self._start // self._snapshot._width]

    @property
    def relative_path(self) -> Optional[str]:
        """The path relative to the walk's root, which itself is "."; None where :attr:`path` is."""
        path, root = self.path, self._snapshot.path
        if path is None or root is None:
            return None
        if path == root:
            return "."
        if self._snapshot.order == "up":
            return "/".join([".."] * (self._snapshot[0].level - self.level))
        return path[len(root) :].lstrip("/")

    def exists(self) -> bool:
        """Whether the cgroup exists now, even if it was renamed. This looks at the file system.

        Raises:
            CgroupPermissionError: Its directory is not visible to this process.
        """
        snapshot = self._snapshot
        return snapshot._paths.exists(self._start // snapshot._width, self.id)

    def __getitem__(self, item: str) -> int:
        snapshot = self._snapshot
        try:
            value = snapshot._words[self._start + snapshot._places[item]]
        except ValueError:
            raise snapshot._expired() from None
        except KeyError:
            snapshot._place_of(item)
            raise
        if value == _ABSENT:
            which = f"cgroup {self.id}" if self.level else "the root cgroup"
            raise KeyError(f"{which} has no {item}")
        return value

    def __iter__(self) -> Iterator[str]:
        snapshot = self._snapshot
        if snapshot._complete or snapshot._has_all():
            return iter(snapshot._names)
        values = snapshot._values(self._start)
        if _ABSENT not in values:
            return iter(snapshot._names)
        return (name for name, value in zip(snapshot._names, values) if value != _ABSENT)

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
        return (pair for pair in pairs if pair[1] != _ABSENT)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Row):
            return self.id == other.id and dict(self) == dict(other)
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Row cannot be copied or pickled: take its dict")

    def __repr__(self) -> str:
        return f"<Row of cgroup {self.id}, level {self.level}: {dict(self)}>"


Snapshot._row_type = Row


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
