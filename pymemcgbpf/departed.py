# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cgroups that were removed between two reads of a tree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Union, overload

from .snapshot import Row, Snapshot, Times

if TYPE_CHECKING:
    from ._cgroup.walk_paths import WalkPaths

__all__ = ["Departed", "DepartedRow"]


class Departed(Snapshot):
    """The cgroups that were removed between two reads of a tree, in the order of their removal::

        >>> with TreeReader("/sys/fs/cgroup/jobs", ["memory.peak"], departed=True) as tree:
        ...     time.sleep(10)
        ...     departed = tree.read().departed
        >>> departed
        <Departed of '/sys/fs/cgroup/jobs': 1 cgroup, 0 lost, 1 item>
        >>> departed[0].relative_path, departed[0]["memory.peak"], departed.lost
        ('job-17', 104857600, 0)

    It is a :class:`Snapshot` whose rows have the last numbers of each cgroup, as they were within
    its rmdir(2). Each row is a :class:`DepartedRow`. :class:`TreeReader` describes which cgroups
    are among them. Several of them may have had the same path, one after the other; dicts by path
    have the last one. :attr:`started_ns`, :attr:`time`, :attr:`age` and :attr:`duration_ns` are
    those of the walk with which they were read.
    """

    def __init__(
        self,
        rows: memoryview,
        names: tuple[str, ...],
        times: Times,
        paths: WalkPaths,
        removed_ns: memoryview,
        lost: int,
    ) -> None:
        super().__init__(rows, names, REMOVED, times, paths)
        self._removed_ns, self._lost = removed_ns, lost

    @property
    def order(self) -> str:
        """Always "removed": the rows are in the order in which the cgroups were removed."""
        return self._order

    @property
    def lost(self) -> int:
        """How many cgroups were removed that have no row here, nor in another read: most often
        because the reader had not read for long, and there was no room any more."""
        return self._lost

    @property
    def removed_ns(self) -> memoryview:
        """When each cgroup was removed, in nanoseconds of ``time.monotonic_ns()``, as a memoryview
        like that of :meth:`column`. (In a time namespace that clock has another zero than here.)"""
        return self._removed_ns

    @property
    def removed_times(self) -> list[float]:
        """The same in seconds since 1970, as ``time.time()``."""
        return [self._time_of(each) for each in self._removed_ns]

    def _time_of(self, removed_ns: int) -> float:
        return (self._times.time_ns + removed_ns - self._times.started_ns) / 1e9

    def dicts(self, absent: object = None, identity: bool = False) -> list[dict[str, Any]]:
        """All rows as dicts, as :meth:`Snapshot.dicts`. With *identity* they also have
        "removed_ns", after "level"."""
        found = super().dicts(absent, identity)
        if not identity:
            return found
        return [
            {**dict(itertools.islice(each.items(), 4)), "removed_ns": removed_ns, **each}
            for each, removed_ns in zip(found, self._removed_ns)
        ]

    def _identities(self) -> dict[str, list[Any]]:
        return {**super()._identities(), "removed_ns": self._removed_ns.tolist()}

    @overload  # type: ignore[override]  # a list of rows of this kind is a list of rows
    def __getitem__(self, index: int) -> DepartedRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[DepartedRow]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[DepartedRow, list[DepartedRow]]:
        found: Any = super().__getitem__(index)
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[DepartedRow]:
        found: Any = super().__iter__()
        return found  # type: ignore[no-any-return]

    def since(self, earlier: Snapshot) -> NoReturn:
        """Always raises ValueError: these are last numbers."""
        raise ValueError("removed cgroups have last numbers only: compare snapshots of the tree")

    def __repr__(self) -> str:
        of = "" if self.path is None else f" of {self.path!r}"
        cgroups = "1 cgroup" if len(self) == 1 else f"{len(self)} cgroups"
        items = "1 item" if len(self._names) == 1 else f"{len(self._names)} items"
        return f"<Departed{of}: {cgroups}, {self._lost} lost, {items}>"


REMOVED = "removed"


class DepartedRow(Row):
    """One cgroup that was removed, with its last numbers: a :class:`Row` that knows when."""

    __slots__ = ()

    _snapshot: Departed

    @property
    def removed_ns(self) -> int:
        """When the cgroup was removed, in nanoseconds of ``time.monotonic_ns()``."""
        snapshot = self._snapshot
        return int(snapshot.removed_ns[self._start // snapshot._width])

    def exists(self) -> bool:
        """Always False: it was removed, and the kernel gives its id to no other."""
        return False

    def __repr__(self) -> str:
        where = f"cgroup {self.id}" if self.path is None else repr(self.path)
        return f"<DepartedRow of {where}, level {self.level}: {dict(self)}>"

    @property
    def removed_time(self) -> float:
        """The same in seconds since 1970, as ``time.time()``."""
        return self._snapshot._time_of(self.removed_ns)


Departed._row_type = DepartedRow
