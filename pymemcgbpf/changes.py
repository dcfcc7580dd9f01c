# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What changed between two snapshots of one walk: differences, and rates per second."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Optional, Union, overload

from ._items import COUNTER, PRESSURE, UNLIMITED, item_named, requested_names
from ._items import is_limit as _is_limit
from ._wire import ABSENT

if TYPE_CHECKING:
    from .snapshot import Row, Snapshot

__all__ = ["Change", "Changes"]


class Changes(Sequence["Change"]):
    """What changed since an earlier snapshot: a sequence with a :class:`Change` for each row of
    the later one, in its order::

        >>> changes = later.since(earlier)
        >>> changes
        <Changes of '/sys/fs/cgroup/system.slice' in 5.0 s: 4 cgroups, 1 new, 0 gone, 2 items>
        >>> changes[3].path, changes[3]["pgfault"], changes[3].rate("pgfault")
        ('/sys/fs/cgroup/system.slice/web.service', 2140, 428.0)
        >>> changes.rates("pgfault")
        [430.2, 0.0, 2.2, 428.0]

    :meth:`Snapshot.since` returns it. Cgroups are matched by their ids, never by their paths. The
    difference of an item is its later value less its earlier one, with these exceptions:

    - A counter of a cgroup that is :attr:`new` has counted from 0, and so has a counter that has
      become smaller: it was restarted, by switching the memory controller off and on. The
      difference is then the later value, and what a restarted counter had counted between the
      earlier snapshot and the restart is lost. So no counter ever has a negative difference.
    - It is absent for a gauge and for the pressure of a new cgroup, for an item that the cgroup
      lacks in either snapshot, and for a limit that was set or lifted in between:
      :data:`UNLIMITED` is no amount.

    The numbers are computed when they are used. If one of the snapshots is a view (copy=False),
    use this object while the view is valid: afterwards, what was not used before raises
    ClosedError. An index gives a change, and a slice gives a list of changes.
    """

    def __init__(self, later: Snapshot, earlier: Snapshot) -> None:
        if not isinstance(earlier, type(later)):
            raise TypeError(f"changes are since a Snapshot, not a {type(earlier).__name__}")
        elapsed_ns = later.started_ns - earlier.started_ns
        if elapsed_ns <= 0:
            when = f"{-elapsed_ns / 1e9:g} s after" if elapsed_ns else "at the same time as"
            raise ValueError(
                f"the snapshot given is not an earlier one: its walk began {when} this one's"
            )
        roots = {_root_id(later), _root_id(earlier)} - {None}
        ways = [(each.path, each.order, each.max_depth) for each in (earlier, later)]
        if len(roots) > 1 or ways[0][1:] != ways[1][1:]:
            told = "{!r} in the order {!r} with max_depth={}"
            raise ValueError(
                f"the snapshots are not of the same walk: one of {told.format(*ways[0])}, and one "
                f"of {told.format(*ways[1])}"
            )
        self._later, self._earlier = later, earlier
        self._seconds = elapsed_ns / 1e9
        self._names = tuple(name for name in later.item_names if name in earlier.item_names)
        self._differences: dict[str, list[Optional[int]]] = {}
        # Where the cgroup of each row is among the earlier rows, -1 if nowhere; None if the rows
        # of both are those of the same cgroups.
        self._places: Optional[list[int]] = None
        if later.ids != earlier.ids:
            ids = earlier.ids.tolist()
            place = dict(zip(ids, range(len(ids)))).get
            self._places = list(map(place, later.ids.tolist(), itertools.repeat(-1)))

    @property
    def seconds(self) -> float:
        """The time between the beginnings of the two walks, in seconds: what rates are based on."""
        return self._seconds

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items that both snapshots have, in the order of the later one."""
        return self._names

    @property
    def new(self) -> list[Row]:
        """The rows of the later snapshot whose cgroups have none in the earlier one."""
        if self._places is None:
            return []
        return [self._later[at] for at, place in enumerate(self._places) if place < 0]

    @property
    def gone(self) -> list[Row]:
        """The rows of the earlier snapshot whose cgroups have none in the later one: they were
        removed, or have lost the memory controller."""
        if self._places is None:
            return []
        left = set(self._places)
        return [row for at, row in enumerate(self._earlier) if at not in left]

    # --- columns

    def differences(self, item: str) -> list[Optional[int]]:
        """The difference of one item for each cgroup, in the unit of the item::

            >>> changes.differences("pgfault")
            [2151, 0, 11, 2140]

        It is None where there is none.

        Raises:
            KeyError: One of the snapshots does not have this item.
            ClosedError: One of them was a view, which has expired.
        """
        return list(self._column(item))

    def rates(self, item: str) -> list[Optional[float]]:
        """The difference of one item for each cgroup, in the unit of the item per second::

            >>> changes.rates("pgfault")
            [430.2, 0.0, 2.2, 428.0]

        It is None where there is no difference.

        Raises:
            KeyError, ClosedError: As :meth:`differences`.
        """
        seconds, found = self._seconds, self._column(item)
        try:
            return [number / seconds for number in found]  # type: ignore[operator]
        except TypeError:  # None is among them
            return [None if number is None else number / seconds for number in found]

    def to_columns(
        self, items: Optional[Iterable[str]] = None, *, absent: Any = None, rates: bool = False
    ) -> dict[str, list[Any]]:
        """The changes as columns of equal length, from which pandas, polars and pyarrow make a
        table::

            >>> changes.to_columns(["pgfault"], rates=True)
            {'path': ['/sys/fs/cgroup/system.slice', ...], 'id': [15791327, ...],
             'parent_id': [1, ...], 'level': [2, ...], 'pgfault': [430.2, ...]}

        Args:
            items: The names of the items; None for all of :attr:`item_names`.
            absent: What stands where an item has no difference.
            rates: True for rates per second; False for differences.

        Returns:
            A dict of lists, all of the length of these changes. "path" is valid text, as in
            :meth:`Snapshot.to_columns`.

        Raises:
            KeyError, ClosedError: As :meth:`differences`.
        """
        found = self._later._identities()
        for name in requested_names(items) or self._names:
            column: list[Any] = self.rates(name) if rates else self.differences(name)
            if absent is not None:
                column = [absent if number is None else number for number in column]
            found[name] = column
        return found

    def _column(self, item: str) -> list[Optional[int]]:
        found = self._differences.get(item)
        if found is None:
            found = self._differences[item] = self._compute(item)
        return found

    def _compute(self, item: str) -> list[Optional[int]]:
        """The differences. The usual case, that no row is an exception, is the fast one."""
        if item not in self._names:
            raise KeyError(f"{item!r} is not an item of both snapshots")
        known = item_named(item)
        rises = known is not None and known.kind == COUNTER
        is_limit = known is not None and _is_limit(known)
        now, before = _numbers(self._later, item), _numbers(self._earlier, item)
        if self._places is not None:
            # That of new cgroups, at [-1]. Pressure is also counted before a cgroup has a row.
            from_0 = rises and known is not None and known.file != PRESSURE
            before.append(0 if from_0 else ABSENT)
            before = list(map(before.__getitem__, self._places))
        found: list[Any] = list(map(operator.sub, now, before))
        # A counter that was absent before shows as a negative difference.
        lacking = ABSENT in now or (min(found, default=0) < 0 if rises else ABSENT in before)
        if lacking or is_limit:
            found = [difference(*both, rises, is_limit) for both in zip(now, before)]
        return found

    # --- rows

    def __len__(self) -> int:
        return len(self._later)

    @overload
    def __getitem__(self, index: int) -> Change: ...

    @overload
    def __getitem__(self, index: slice) -> list[Change]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Change, list[Change]]:
        if isinstance(index, slice):
            return [Change(self, at) for at in range(len(self))[index]]
        if isinstance(index, str):
            raise TypeError(f"changes have numbers: use differences({index!r}), or a change's")
        try:
            return Change(self, range(len(self))[index])
        except IndexError:
            raise IndexError(f"there is no change {index} among {len(self)}") from None

    def __iter__(self) -> Iterator[Change]:
        return (Change(self, at) for at in range(len(self)))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Changes cannot be copied or pickled: take to_columns()")

    def __repr__(self) -> str:
        of = "" if self._later.path is None else f" of {self._later.path!r}"
        return (
            f"<Changes{of} in {self._seconds:.1f} s: {len(self)} cgroups, {len(self.new)} new, "
            f"{len(self.gone)} gone, {len(self._names)} items>"
        )


class Change(Mapping[str, int]):
    """What changed in one cgroup: a mapping from the names of items to differences::

        >>> change = changes[3]
        >>> change.path, change["pgfault"], change.rate("pgfault"), change.row["anon"]
        ('/sys/fs/cgroup/system.slice/web.service', 2140, 428.0, 58720256)

    An item that has no difference is missing, as :class:`Changes` describes: ``change[item]``
    raises KeyError, and ``change.get(item)`` is None.
    """

    __slots__ = ("_at", "_changes")

    def __init__(self, changes: Changes, at: int) -> None:
        self._changes = changes
        self._at = at

    @property
    def row(self) -> Row:
        """The cgroup's row in the later snapshot, with its values."""
        return self._changes._later[self._at]

    @property
    def path(self) -> Optional[str]:
        """The absolute path of the cgroup, as :attr:`Row.path` of :attr:`row`."""
        return self.row.path

    @property
    def id(self) -> int:
        """The kernel's 64-bit id of the cgroup."""
        return self._changes._later.ids[self._at]

    @property
    def parent_id(self) -> int:
        """The id of the parent cgroup; 0 for a hierarchy's root."""
        return self._changes._later.parent_ids[self._at]

    @property
    def level(self) -> int:
        """The number of cgroups above it in the hierarchy; 0 for the hierarchy's root."""
        return self._changes._later.levels[self._at]

    def rate(self, item: str) -> float:
        """The difference of an item, in the unit of the item per second.

        Raises:
            KeyError: The item has no difference.
        """
        return self[item] / self._changes._seconds

    def __getitem__(self, item: str) -> int:
        found = self._changes._column(item)[self._at]
        if found is None:
            raise KeyError(item)
        return found

    def __iter__(self) -> Iterator[str]:
        changes, at = self._changes, self._at
        return (name for name in changes._names if changes._column(name)[at] is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Change cannot be copied or pickled: take its dict")

    def __repr__(self) -> str:
        return f"<Change of cgroup {self.id}: {dict(self)}>"


def _numbers(snapshot: Snapshot, item: str) -> list[int]:
    """The values of an item in all rows, where ABSENT stands for none."""
    return snapshot._column(snapshot._places[item]).tolist()


def difference(now: int, before: int, rises: bool, is_limit: bool) -> Optional[int]:
    """The later value of an item less its earlier one, as :class:`Changes` describes it; None where
    there is none. ABSENT stands for a value that is missing."""
    if ABSENT in (now, before):
        return None
    if is_limit and now != before and UNLIMITED in (now, before):
        return None
    return now if rises and now < before else now - before


def _root_id(snapshot: Snapshot) -> Optional[int]:
    """The id of the walk's root; None if there is no row to tell."""
    if not snapshot:
        return None
    if snapshot.order == "children":
        return snapshot.parent_ids[0]
    return snapshot.ids[-1 if snapshot.order == "post" else 0]
