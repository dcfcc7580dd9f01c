# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Sees the cgroups that are removed below the root of repeated walks, and counts them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

from ..errors import CgroupNotFoundError, CgroupRemovedError, MemcgError, is_transient
from ..snapshot import Snapshot
from . import output
from .departed_counts import DepartedCount, DepartedCounts
from .departed_reader import KILLS, departed_reader

if TYPE_CHECKING:
    from .._tree_reader import TreeReader


class DepartedCounter:
    """Counts removed cgroups with a reader of its own, which outlives failures of the walks.

    Its reader reads the root alone, but sees removals at all levels. The reader of the walks would
    see them only as deep as it walks, and its records would have all items. The counts outlive
    both readers.

    Attributes:
        lost: how many removed cgroups were not seen, because there were too many between two walks;
            None where none are seen at all.
    """

    def __init__(self) -> None:
        self._counts = DepartedCounts()
        self._reader: Optional[TreeReader] = None
        self._is_refused = self._is_told = False
        self.lost: Optional[int] = None

    def watch(self, root: str, backend: str) -> None:
        """Sees removals from now on, if it does not yet. To be called before each walk.

        Where they cannot be seen, this prints the reason once. If the process is short of file
        descriptors or memory, the next call tries again.

        Args:
            root: the path of the root of the walk.
            backend: that of the walk.
        """
        if self._reader is not None or self._is_refused:
            return
        try:
            self._reader = departed_reader(root, [KILLS], backend)
        except (CgroupNotFoundError, CgroupRemovedError):
            return  # the walk will say so
        except MemcgError as error:
            if is_transient(error):
                self._tell(error)
                return  # the next walk tries again
            self._is_refused, self.lost = True, None
            output.warn(f"removed cgroups are not counted: {error}")
        else:
            self.lost = self.lost or 0

    def _tell(self, error: MemcgError) -> None:
        """Prints why removed cgroups are not counted for now, once for a series of such walks."""
        if not self._is_told:
            output.warn(f"removed cgroups are not counted for now: {error}")
        self._is_told = True

    def count(self, shown: Snapshot) -> Optional[Mapping[str, DepartedCount]]:
        """What was removed so far, by the paths of the cgroups above; None if that is not seen.

        Args:
            shown: the cgroups that are exported, of the walk that has just ended.

        Raises:
            MemcgError: it cannot be read, and not for lack of file descriptors or memory.
        """
        if self._reader is None or shown.path is None:
            return None
        self._counts.export(shown.path, shown.paths)
        try:
            self._take(self._reader)
        except MemcgError as error:
            if not is_transient(error):
                raise
            self._tell(error)
        else:
            self._is_told = False
        return self._counts.by_path()

    def end_of_root(self) -> None:
        """Counts what was removed before the root of the walk was."""
        reader = self._reader
        if reader is not None:
            with contextlib.suppress(MemcgError):  # the walk has failed in any case
                self._take(reader)
            self.close()
        self._counts.forget_below_root()

    def _take(self, reader: TreeReader) -> None:
        try:
            departed = reader.read().departed
        except CgroupRemovedError as error:
            departed = error.departed
            self.close()
        except MemcgError as error:
            if not is_transient(error):
                self.close()
            raise
        if departed is not None:
            kills = departed.column(KILLS, absent=0)
            self._counts.add(zip(departed.paths, kills))
            self.lost = (self.lost or 0) + departed.lost

    def close(self) -> None:
        """Closes the reader. The counts stay."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
