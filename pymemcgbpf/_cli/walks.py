# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Walks over one tree, again and again, for the commands that write metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional, Union

from .. import _lookup, _openmetrics
from .._options import TEXT
from .._pins import find
from .._records import Record
from .._selection import CgroupSelection
from ..errors import CgroupNotFoundError, CgroupRemovedError, MemcgError
from ..snapshot import Snapshot
from . import output, readers
from .departed_counter import DepartedCounter
from .departed_counts import DepartedCount
from .own_metrics import OwnNumbers
from .pinned import PinnedRows

if TYPE_CHECKING:
    from .._tree_reader import TreeReader


class WalkResult(Record):
    """What a walk has found.

    Attributes:
        snapshot: the cgroups that are shown; None if the walk has failed.
        own: what the program says of itself after this walk.
        error: why the walk has failed; None if it has not.
        departed: what has been removed below each of the cgroups that are shown, by their paths;
            None where that is not counted.
    """

    snapshot: Optional[Snapshot]
    own: OwnNumbers
    error: Optional[MemcgError] = None
    departed: Optional[Mapping[str, DepartedCount]] = None


class Walks:
    """Reads the tree or the pin that a command's arguments name, as often as it is asked to.

    After a failure, the next walk begins with a new reader.

    Args:
        options: the arguments of a command with parsers.add_selection().
        refuse_stale: whether a stale pin is a failure, and not only a line on stderr.
        count_departed: whether removed cgroups are counted from the first walk on. Those below a
            pin's root, and those of a tree that is read as text, cannot be.

    Attributes:
        interval: the seconds between two walks of a pinned tree; None for anything else.
    """

    def __init__(
        self, options: argparse.Namespace, refuse_stale: bool, count_departed: bool = False
    ) -> None:
        self._options, self._refuse_stale = options, refuse_stale
        self._selection = CgroupSelection(options.match, options.exclude, options.leaves)
        self._root: Optional[str] = None
        self._items: Optional[list[str]] = None
        self._reader: Union[TreeReader, PinnedRows, None] = None
        self._last = OwnNumbers()  # of the last walk that worked
        self._walks = self._errors = 0
        self._told: Optional[str] = None  # the reason for text that was looked at last
        self._chose_none = False  # in the last walk
        self._departed = DepartedCounter() if count_departed else None
        self.interval: Optional[float] = None

    def read(self) -> WalkResult:
        """Walks once.

        Raises:
            MemcgError: the tree or the pin cannot be read.
        """
        self._walks += 1
        try:
            walk = self._read()
        except BaseException as error:
            self._errors += 1
            self._close_reader()
            if self._departed is not None and isinstance(
                error, (CgroupNotFoundError, CgroupRemovedError)
            ):
                self._departed.end_of_root()
            raise
        self._last = walk.own
        return walk

    def take(self) -> WalkResult:
        """Walks once, and never raises a failure."""
        try:
            return self.read()
        except Exception as failure:  # even of a kind that nobody has thought of: this goes on
            error = failure
            if not isinstance(error, MemcgError):
                error = MemcgError(f"{type(error).__name__}: {error}")
            own = OwnNumbers(
                time=self._last.time,
                walks=self._walks,
                errors=self._errors,
                departed_lost=self._departed_lost,
            )
            return WalkResult(None, own, error)

    def _read(self) -> WalkResult:
        reader = self._reader
        if reader is None:
            if self._root is None:
                # What words mean changes when a directory goes or a process is moved.
                path, self._items = readers.tree_and_items(self._options)
                self._root = _lookup.absolute(path)
            reader = readers.tree_reader_of(self._root, self._items, self._options)
            self._reader = reader
            if isinstance(reader, PinnedRows):
                reader.warns = not self._refuse_stale
        if (
            self._departed is not None
            and self._root is not None
            and not isinstance(reader, PinnedRows)
            and reader.backend != TEXT
        ):
            self._departed.watch(self._root, reader.backend)
        found = reader.read()
        if isinstance(reader, PinnedRows):
            self._check_pin(reader, found)
        if reader.fallback_reason != self._told:
            self._told = reader.fallback_reason
            readers.warn_if_text(reader)
        shown = self._selection.apply(found)
        self._note_choice(found, shown)
        departed = None if self._departed is None else self._departed.count(shown)
        own = OwnNumbers(
            reader.backend,
            reader.transport,
            found.duration_ns,
            found.time,
            len(found),
            _exported(shown),
            self._walks,
            self._errors,
            self._departed_lost,
        )
        return WalkResult(shown, own, departed=departed)

    @property
    def _departed_lost(self) -> Optional[int]:
        """How many removed cgroups were not seen; None where they are not counted."""
        return None if self._departed is None else self._departed.lost

    def _note_choice(self, found: Snapshot, shown: Snapshot) -> None:
        """Prints that no cgroup is left, once for a series of such walks."""
        chose_none = bool(found) and not shown
        if chose_none and not self._chose_none:
            output.warn(
                f"none of {len(found)} cgroups is chosen: a pattern must match the whole path, as "
                "'/system.slice/*' does"
            )
        self._chose_none = chose_none

    def _check_pin(self, reader: PinnedRows, found: Snapshot) -> None:
        """Refuses a pin that cannot be exported."""
        self.interval = reader.interval
        if len(found) and not any(found.paths):
            raise MemcgError(
                f"{reader.path} has no names, and its cgroups are not visible here, so that there "
                "is nothing for the label cgroup: pin with names, or export where they are visible"
            )
        if self._refuse_stale and reader.stale and found.age > find.FRESH:
            self._last = self._last._replace(time=found.time)
            raise MemcgError(f"{reader.path} is stale: {reader.stale}")

    def close(self) -> None:
        """Closes all readers. The counts of removed cgroups stay."""
        self._close_reader()
        if self._departed is not None:
            self._departed.close()

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _exported(snapshot: Snapshot) -> int:
    """How many cgroups have samples."""
    marks = _openmetrics.rows_shown(snapshot.paths)
    return len(snapshot) if marks is None else sum(marks)


class Failures:
    """Announces the first of a series of failures, and the end of the series, on stderr."""

    def __init__(self) -> None:
        self._is_failing = False

    def note(self, error: Optional[MemcgError]) -> None:
        """Takes note of a failure, or of a success if it is None."""
        if error is not None and not self._is_failing:
            output.warn(f"{error} (this is tried again)")
        if error is None and self._is_failing:
            output.warn("all is well again")
        self._is_failing = error is not None
