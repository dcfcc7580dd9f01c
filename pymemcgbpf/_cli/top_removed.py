# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cgroups that were removed last, for the bottom of top's screen."""

from __future__ import annotations

import argparse
import collections
import contextlib
from typing import Optional

from .._options import TEXT
from .._records import Record
from .._tree_reader import TreeReader
from ..errors import MemcgError
from . import rows
from .departed_reader import KILLS, LAST_ITEMS, PEAK, departed_reader

_KEPT = 100  # more than are shown, as the filter hides some


class RemovedCgroup(Record):
    """A cgroup that was removed.

    Attributes:
        name: its path relative to the root of the walk.
        removed_ns: when, in nanoseconds of CLOCK_MONOTONIC.
        peak: its memory.peak, in bytes; None if this kernel has none.
        kills: how many of its processes were killed for memory.
    """

    name: str
    removed_ns: int
    peak: Optional[int]
    kills: int


class RemovedCgroups:
    """The cgroups that were removed since it was made: the last of them, and the last of those in
    which processes were killed.

    There are none where they cannot be seen.

    Args:
        root: the path of the root of the walks.
        options: the command's parsed arguments, with the options of a reader, and the depth.
    """

    def __init__(self, root: str, options: argparse.Namespace) -> None:
        self._killed: collections.deque[RemovedCgroup] = collections.deque(maxlen=_KEPT)
        self._others: collections.deque[RemovedCgroup] = collections.deque(maxlen=_KEPT)
        self._reader: Optional[TreeReader] = None
        with contextlib.suppress(MemcgError):
            if options.backend != TEXT:
                self._reader = departed_reader(root, LAST_ITEMS, options.backend, options.depth)

    @property
    def last(self) -> list[RemovedCgroup]:
        """They, in the order of removal."""
        return sorted([*self._killed, *self._others], key=lambda each: each.removed_ns)

    def refresh(self) -> None:
        """Looks which cgroups were removed meanwhile."""
        if self._reader is None:
            return
        try:
            departed = self._reader.read().departed
        except MemcgError:  # of which the walk that is shown says more
            departed = None
        if departed is None:
            self.close()
            return
        for row in departed:
            kills = row.get(KILLS, 0)
            found = RemovedCgroup(rows.name_of(row), row.removed_ns, row.get(PEAK), kills)
            (self._killed if kills else self._others).append(found)

    def close(self) -> None:
        """Closes the reader."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
