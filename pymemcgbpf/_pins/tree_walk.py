# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One published walk of a pinned tree, as its map or its stream gives it."""

from __future__ import annotations

import time
from typing import Callable, Optional, TypeVar

from .._records import Record
from . import diagnosis as _diagnosis
from . import tree_layout as _layout
from .tree_paths import NamesKey

_T = TypeVar("_T")

# A read is repeated if the walk was overwritten meanwhile: this often, and for so many seconds.
_LEAST_TRIES = 10
_LEAST_SECONDS = 5.0
_PAUSE = 0.0005  # in seconds, between two tries


class TreeWalk(Record):
    """One published walk.

    Attributes:
        pin: what tells the pin from one that replaces it.
        head: what never changes in the pin.
        number: of the walk.
        started_ns, ended_ns: when it began and ended, in ns of CLOCK_MONOTONIC.
        rows: the rows.
        key: what tells the names from those of other walks; None without names.
        names: the names of the rows; None if the names are known, and without names.
    """

    pin: object
    head: _layout.Head
    number: int
    started_ns: int
    ended_ns: int
    rows: bytes
    key: Optional[NamesKey]
    names: Optional[list[bytes]]


class TreeLook(Record):
    """What the head of a pinned tree says now.

    Attributes:
        pin: as in a :class:`TreeWalk`.
        head: what never changes.
        progress: what changes with each walk.
    """

    pin: object
    head: _layout.Head
    progress: _layout.Progress


def check_state(path: str, progress: _layout.Progress, head: _layout.Head) -> None:
    """Raises unless there is a walk to read.

    Raises:
        PinNotFoundError: there was no walk yet, or the tree was removed.
        CgroupRemovedError: the walk's root was removed.
        TreeTooLargeError: the last walk did not fit.
        StreamError: the head makes no sense.
    """
    state = progress.state
    if state == _layout.ALIVE and progress.written:
        return
    if state in (_layout.NEW, _layout.ALIVE):
        raise _diagnosis.no_walk_yet(path)
    if state == _layout.REMOVED:
        raise _diagnosis.cgroup_removed(path)
    if state == _layout.TOO_LARGE:
        raise _diagnosis.map_too_small(path, progress.needed, head.room)
    if state == _layout.ENDED:
        raise _diagnosis.tree_ended(path)
    raise _diagnosis.bad_state(path, state)


def until_whole(path: str, read: Callable[[], Optional[_T]]) -> _T:
    """Calls a function until it returns something: until no walk has come between.

    Raises:
        MemcgError: with EAGAIN, after 10 tries and 5 seconds at least: this reader is too slow.
    """
    end = time.monotonic() + _LEAST_SECONDS
    tries = 0
    while tries < _LEAST_TRIES or time.monotonic() < end:
        found = read()
        if found is not None:
            return found
        time.sleep(_PAUSE)
        tries += 1
    raise _diagnosis.too_slow(path, tries)
