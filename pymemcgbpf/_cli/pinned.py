# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins for the commands that read cgroups: a chosen part of what a pin shows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Generic, Optional, TypeVar, Union

from .._closable import Closable
from .._items import among, members
from .._pins import find
from .._pins.read import PinnedReader
from .._records import Record
from .._samples import Ticks
from .._selection import CgroupSelection, root_at, with_items
from ..errors import MemcgError, PinNotFoundError, PinPermissionError
from ..snapshot import Snapshot
from . import command, output

# How long a pin that goes is waited for, and how often it is looked for, in seconds.
_PATIENCE, _PAUSE = 10.0, 0.1

BACKEND = "pin"  # what takes the place of a backend's name

_T = TypeVar("_T")


class Chosen(Record):
    """Which of a pin's items are shown.

    Attributes:
        words: items and groups; None if none are named.
        default: the items that are then shown, as far as the pin has them, and with them the
            members of groups. If it has none of these items, all that it has are shown.
        also: an item that is shown as well.
    """

    words: Optional[Sequence[str]] = None
    default: Optional[Sequence[str]] = None
    also: Optional[str] = None

    def items_of(self, reader: PinnedReader) -> tuple[str, ...]:
        """The items of a pin, in the order of the words.

        Raises:
            ItemUnavailableError: the pin does not have one of those that are named.
        """
        names = reader.item_names
        words = self.words
        if words is None:
            default = self.default or ()
            words = [name for word in default for name in among(names, word)]
            if not any(name in default for name in words):
                words = names
        if self.also is not None:
            words = [*words, self.also]
        return members(words, names, reader.path)


class _PinView(Closable, Generic[_T]):
    """What the readers of pins below share.

    Args:
        path: the path of the pin.
        chosen: which of its items are shown.

    Attributes:
        path: the path of the pin.
        item_names: the items that are shown.
        backend: "pin".
        transport: how the pin is read.
        fallback_reason: "": a pin is never read as text.
        interval: the seconds between two walks; None if each read is a walk, or nobody knows.
        time: the seconds since 1970 when what was read last was so.
        stale: how old the walk is that was read last, if it is too old; otherwise "".
        warns: whether the first of each series of stale reads is announced on stderr.

    Raises:
        ItemUnavailableError: the pin has none of an item's name.
        MemcgError: the pin cannot be read.
    """

    backend, fallback_reason = BACKEND, ""
    _missing = ""

    def __init__(self, path: str, chosen: Chosen) -> None:
        super().__init__(path)
        self._reader = PinnedReader(path)
        try:
            self.item_names = chosen.items_of(self._reader)
        except BaseException:
            self._reader.close()
            raise
        self.path, self.transport = path, self._reader.transport
        self.interval = self._reader.interval
        self.time = 0.0
        self._walk = 0  # what tells one walk from another
        self.stale, self.warns, self._has_warned = "", True, False

    def read(self) -> _T:
        """What the pin shows now."""
        found = self._reader.read()
        if isinstance(found, Snapshot):
            self.time, self._walk = found.time, found.started_ns
            self.stale = find.staleness(found, self.interval)
            if self.stale and self.warns and not self._has_warned:
                output.warn(f"{self.path} is stale: {self.stale}")
            self._has_warned = bool(self.stale)
        else:
            self.time, self._walk = time.time(), time.monotonic_ns()
        return self._chosen(found)

    def read_new(self) -> Optional[_T]:
        """What the pin shows now; None if that is what was read last."""
        before = self._walk
        found = self.read()
        return None if self._walk == before else found

    def _chosen(self, found: Union[dict[str, int], Snapshot]) -> _T:
        raise NotImplementedError

    def every(self, seconds: Optional[float], default: float = 1) -> Iterator[_T]:
        """Reads at an interval. No walk comes twice: the next one is waited for.

        Args:
            seconds: the interval; None for that at which the pin is refreshed.
            default: the interval, if the pin has none either.
        """
        if seconds is None and self.interval is None:
            seconds = default
        ticks = None if seconds is None else Ticks(seconds)
        before = 0
        while True:
            if ticks is not None:
                time.sleep(ticks.delay())
                ticks.take()
            value = self._after(before, find.STALE * (self.interval or default))
            before = self._walk
            yield value

    def _after(self, before: int, timeout: float) -> _T:
        """What the first walk has that is not the one before; 0 for the walk that is there now.

        A pin that goes is waited for, as a process that refreshes it may be restarted.
        """
        gone: Optional[float] = None
        while True:
            try:
                if before:
                    self._reader.wait(timeout=timeout)
                value = self.read()  # if nothing came in time, it says why, or warns
                if self._walk != before:
                    return value
                gone = None
            except (PinNotFoundError, PinPermissionError) as error:
                # While a tree is being pinned, only its maker may read it.
                if not before or (gone is None and isinstance(error, PinPermissionError)):
                    raise
                if gone is None:
                    output.warn(f"{error}; waiting up to {_PATIENCE:g} s for it to be pinned again")
                gone = gone or time.monotonic()
                if time.monotonic() - gone > _PATIENCE:
                    raise
                time.sleep(_PAUSE)

    def close(self) -> None:
        """Closes the reader."""
        self._wake_all()
        self._reader.close()


class PinnedContents(_PinView["Union[dict[str, int], Snapshot]"]):
    """All that a pin shows, of the items that are chosen."""

    @property
    def is_tree(self) -> bool:
        """Whether it is a pinned tree: the numbers are as old as its last walk."""
        return os.path.isdir(self.path)

    def _chosen(self, found: Union[dict[str, int], Snapshot]) -> Union[dict[str, int], Snapshot]:
        if isinstance(found, Snapshot):
            return with_items(found, self.item_names)
        return {name: found[name] for name in self.item_names if name in found}


class PinnedRows(_PinView[Snapshot]):
    """The cgroups of a pin, as a TreeReader gives those of a tree.

    Args:
        path, chosen: as for _PinView.
        depth: how many levels below the walk's root are shown; None for all that the pin has.

    Attributes:
        whole: the walk that was read last, with all items and levels of the pin.

    Raises:
        MemcgError: the pin shows one cgroup and no tree; or as for _PinView.
    """

    def __init__(self, path: str, chosen: Chosen, depth: Optional[int] = None) -> None:
        super().__init__(path, chosen)
        self._depth, self._selection = depth, CgroupSelection(depth=depth)
        self.whole: Optional[Snapshot] = None
        if self._reader.order == "self":
            self.close()
            raise MemcgError(
                f"{path} shows one cgroup and no tree: read it with cat, stat or watch, or pin a "
                "tree (pin --tree)"
            )

    def _chosen(self, found: Union[dict[str, int], Snapshot]) -> Snapshot:
        assert isinstance(found, Snapshot), "dicts come from the order self only"
        self.whole = found
        deepest = found.max_depth
        if self._depth is not None and deepest is not None and self._depth > deepest:
            raise command.WrongUsageError(
                f"--depth {self._depth} is more than {self.path} has, which is {deepest}"
            )
        return with_items(self._selection.apply(found), self.item_names)


class PinnedValues(_PinView["dict[str, int]"]):
    """One cgroup of a pin, the root of a walk, as a StatsReader gives it."""

    def _chosen(self, found: Union[dict[str, int], Snapshot]) -> dict[str, int]:
        values = found
        if isinstance(found, Snapshot):
            if found.order == "children":
                raise MemcgError(
                    f"{self.path} shows the children of a cgroup, and not the cgroup itself: read "
                    "it with cat or tree, or with watch --depth 1"
                )
            values = dict(found[root_at(found)])
        assert isinstance(values, dict)
        return {name: values[name] for name in self.item_names if name in values}
