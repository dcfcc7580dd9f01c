# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The page of top with all items of one cgroup: values, and their changes per second."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Callable, Optional

from .._items import (
    COUNTER,
    CURRENT,
    EFFECTIVE_LIMIT,
    FILES,
    MEMORY_STAT,
    NUMA_STAT,
    is_limit,
    item_named,
    share_of_limit,
)
from .._records import Record
from ..changes import difference
from ..errors import MemcgError, is_transient
from . import table
from .top_numbers import growth_cell
from .top_page import Page
from .units import human, per_second

ITEMS = [f"{file}.*" for file in (*FILES[1:], MEMORY_STAT) if file != NUMA_STAT]
"""The items that are read: all but those of single NUMA nodes, first those of the small files."""

_WRAPPED = 78  # the longest line of a sentence, in letters


class Reading(Record):
    """The values of one cgroup, and when they were so, in seconds of a monotonic clock."""

    seconds: float
    values: Mapping[str, int]


class Details(Page):
    """All items of one cgroup.

    If the cgroup cannot be read, the page says why, with the last values below. It is read again
    later only if the failure is transient.

    Args:
        path: the cgroup's path.
        read: reads the cgroup, or raises a MemcgError.
        close: releases what it reads from.
    """

    def __init__(
        self, path: str, read: Callable[[], Reading], close: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(path, ())
        self._read, self._close = read, close
        self._is_open = True
        self._failure: list[str] = []
        self._now: Optional[Reading] = None
        self._before: Optional[Reading] = None
        self.refresh()

    def refresh(self) -> None:
        if not self._is_open:
            return
        try:
            reading = self._read()
        except MemcgError as error:
            self._failure = textwrap.wrap(str(error), _WRAPPED)
            if not is_transient(error):
                self.close()
        else:
            self._failure = []
            if self._now is None or reading.seconds > self._now.seconds:
                self._before, self._now = self._now, reading
        self.lines = self._made()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._close()

    def _made(self) -> list[str]:
        if self._now is None:
            return self._failure
        values = self._now.values
        names = list(values)
        numbers = ["value", *(_value(name, values[name]) for name in names)]
        changes = ["per second", *map(self._change, names)]
        share = share_of_limit(values.get(CURRENT), values.get(EFFECTIVE_LIMIT))
        if share is not None:
            at = names.index(EFFECTIVE_LIMIT) + 1
            names.insert(at, f"{CURRENT}, of this limit")
            numbers.insert(at + 1, f"{share:.1%}".replace("%", " %"))
            changes.insert(at + 1, "")
        shown = table.join(table.left(["", *names]), table.right(numbers), table.right(changes))
        return [*self._failure, *shown.split("\n")]

    def _change(self, name: str) -> str:
        """What an item changed by per second since the reading before; "-" if that is unknown."""
        item, before, now = item_named(name), self._before, self._now
        if item is None or before is None or now is None or name not in before.values:
            return "-"
        rises = item.kind == COUNTER
        changed = difference(now.values[name], before.values[name], rises, is_limit(item))
        if changed is None:
            return "-"
        rate = changed / (now.seconds - before.seconds)
        if not rises:
            return growth_cell(name, rate)
        shown = per_second(name, rate)
        return f"{shown.number} {shown.unit}".rstrip()


def _value(name: str, value: int) -> str:
    shown = human(name, value)
    return f"{shown.number} {shown.unit}".rstrip()
