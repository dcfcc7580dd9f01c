# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which cgroups top lists, and in which order: as a list, and as a tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from .._records import Record
from ..snapshot import Snapshot
from . import branches


class Order(Record):
    """The rows of a snapshot in the order in which they are listed.

    Attributes:
        places: the numbers of the rows.
        branches: for each, the drawing of the tree that precedes its name; None for a list.
    """

    places: Sequence[int]
    branches: Optional[Sequence[str]]


def sorted_places(
    places: Iterable[int], values: Sequence[Optional[float]], smallest_first: bool
) -> list[int]:
    """Rows sorted by their values; those without one come last."""
    present: list[int] = []
    absent: list[int] = []
    for place in places:
        (absent if values[place] is None else present).append(place)
    # sort() leaves equal ones in their order, also in reverse.
    present.sort(key=values.__getitem__, reverse=not smallest_first)  # type: ignore[arg-type]
    return present + absent


def as_list(
    places: Iterable[int], values: Sequence[Optional[float]], smallest_first: bool
) -> Order:
    """The rows as one list."""
    return Order(sorted_places(places, values, smallest_first), None)


def as_tree(
    places: Sequence[int],
    values: Sequence[Optional[float]],
    smallest_first: bool,
    snapshot: Snapshot,
    encoding: Optional[str] = None,
) -> Order:
    """The rows, and those of their ancestors, as a tree in which siblings are sorted. The encoding
    is that of the terminal; None for that of standard output."""
    ids, parents = snapshot.ids.tolist(), snapshot.parent_ids.tolist()
    place_of = dict(zip(ids, range(len(ids))))
    shown = set(places)
    if len(shown) < len(ids):
        for place in places:
            above = place_of.get(parents[place])
            while above is not None and above not in shown:
                shown.add(above)
                above = place_of.get(parents[above])
    children: dict[Optional[int], list[int]] = {}
    for place in sorted_places(sorted(shown), values, smallest_first):
        parent = parents[place] if parents[place] in place_of else None
        children.setdefault(parent, []).append(place)
    drawn = list(branches.drawn(children, ids.__getitem__, encoding))
    return Order([place for place, _ in drawn], [branch for _, branch in drawn])
