# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The numbers that top shows: values, rates and shares, by columns, and as text."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Optional

from .._items import COUNTER, CURRENT, EFFECTIVE_LIMIT, item_named, share_of_limit
from ..changes import Changes
from ..snapshot import Snapshot
from .units import human, per_second

SHARE = "share of limit"
"""The name of the column with memory.current as a share of the effective limit; no item has it."""

_Column = Sequence[Optional[float]]


def is_counter(name: str) -> bool:
    """Whether an item only rises, so that top shows its rate."""
    item = item_named(name)
    return item is not None and item.kind == COUNTER


class Numbers:
    """The numbers of one walk. Each column is computed when it is first used.

    Args:
        snapshot: the walk.
        before: an earlier walk, which rates are based on; None if there is none yet.
    """

    def __init__(self, snapshot: Snapshot, before: Optional[Snapshot] = None) -> None:
        self.snapshot = snapshot
        self._changes: Optional[Changes] = None
        if before is not None:
            with contextlib.suppress(ValueError):  # a pin may claim anything: it is another walk
                self._changes = snapshot.since(before)
        self._columns: dict[tuple[str, bool], _Column] = {}

    def column(self, name: str, growth: bool) -> _Column:
        """A number for each row, None where there is none: of a counter the rate per second, of
        another item the value, or with *growth* its change per second, and of SHARE the share from
        0 to 1."""
        changes = name != SHARE and (growth or is_counter(name))
        key = name, changes
        found = self._columns.get(key)
        if found is None:
            found = self._columns[key] = self._compute(name, changes)
        return found

    def _compute(self, name: str, changes: bool) -> _Column:
        if name == SHARE:
            parts = self.snapshot.to_columns([CURRENT, EFFECTIVE_LIMIT])
            return list(map(share_of_limit, parts[CURRENT], parts[EFFECTIVE_LIMIT]))
        if not changes:
            values: _Column = self.snapshot.to_columns([name])[name]
            return values
        if self._changes is None:
            return [None] * len(self.snapshot)
        return self._changes.rates(name)


def head(name: str, growth: bool) -> str:
    """The head of a column: the item without "memory.", and "/s" where it shows changes."""
    if name == SHARE:
        return "%limit"
    short = name[len("memory.") :] if name.startswith("memory.") else name
    return f"{short}/s" if growth or is_counter(name) else short


def cell(name: str, value: Optional[float], growth: bool) -> str:
    """A number of a column as text; "-" where there is none."""
    if value is None:
        return "-"
    if name == SHARE:
        return f"{value:.1%}"[:-1]
    if is_counter(name):
        shown = per_second(name, value)
    elif growth:
        return growth_cell(name, value)
    else:
        shown = human(name, int(value))
    return f"{shown.number} {shown.unit}".rstrip()


def growth_cell(name: str, rate: float) -> str:
    """The change per second of an item that rises and falls, with its sign."""
    change = round(rate)
    shown = human(name, abs(change))
    sign = "-" if change < 0 else "+" if change else ""
    return f"{sign}{shown.number} {shown.unit}".rstrip()
