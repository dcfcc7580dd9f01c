# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Shows a tree of cgroups live in a terminal, as a sorted list or as a tree."""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Optional, Union

from .. import _lookup
from .._cgroup import diagnosis as _diagnosis
from .._items import CURRENT, EFFECTIVE_LIMIT
from .._options import TEXT
from .._samples import Ticks
from ..errors import CgroupRemovedError
from ..snapshot import Row
from . import command, parsers, readers, rows, top_screen, top_terminal
from .pinned import PinnedRows
from .top_details import ITEMS, Details, Reading
from .top_page import KEYS
from .top_terminal import Terminal
from .top_view import View

if TYPE_CHECKING:
    from .._stats_reader import StatsReader
    from .._tree_reader import TreeReader
    from .top_removed import RemovedCgroups

    _Reader = Union[TreeReader, PinnedRows]

_DEFAULT_ITEMS = (CURRENT, "anon", "file", "pgfault", "pgmajfault")
# For the share of the limit; as a group, the item is skipped where there is none.
_DEFAULT_ITEMS_READ = (*_DEFAULT_ITEMS, f"{EFFECTIVE_LIMIT}*")
_INTERVAL = 2.0  # in seconds


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_words(arguments)

    def show() -> Iterator[str]:
        top_terminal.check()
        with readers.tree_reader(options, _DEFAULT_ITEMS_READ, options.sort) as reader:
            readers.warn_if_text(reader, is_brief=True)  # the screen says how it is read
            view = _view(options, reader)
            removed = _removed(options, reader)
            with contextlib.ExitStack() as stack:
                if removed is not None:
                    stack.callback(removed.close)
                stack.enter_context(contextlib.suppress(KeyboardInterrupt))  # Ctrl-C quits
                terminal = stack.enter_context(top_terminal.opened())
                view.encoding = terminal.encoding
                _run(terminal, view, reader, removed, options.interval)
        yield from ()

    return command.run_each(show)


def _parser() -> parsers.Parser:
    parser = parsers.reader_parser(
        " top",
        "Show a tree of cgroups live in a terminal, as a sorted list or as a tree: for counters "
        "the rate per second, for other items the value or its change.",
        "Cgroups without the memory controller are not shown. ",
        path=f"{parsers.TOPMOST_CGROUP}{parsers.OR_PIN}",
        items=" ".join(_DEFAULT_ITEMS),
    )
    parsers.add_interval(parser, _INTERVAL)
    parsers.add_depth(parser)
    parser.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="show only cgroups whose path below the root contains TEXT (default: all)",
    )
    parsers.add_sort(parser, "sort by this item, the largest first (default: the first ITEM)")
    width = max(map(len, KEYS))
    keys = "\n".join(f"  {key:<{width}}  {what}" for key, what in KEYS.items())
    parser.after_help = f"\nkeys:\n{keys}\n"
    return parser


def _view(options: argparse.Namespace, reader: _Reader) -> View:
    items = reader.item_names
    has_share = {CURRENT, EFFECTIVE_LIMIT} <= set(items)
    are_named = readers.paths_and_items(options.words)[1] is not None
    if has_share and not are_named and options.sort != EFFECTIVE_LIMIT:
        items = tuple(name for name in items if name != EFFECTIVE_LIMIT)
    return View(
        items,
        has_share,
        open_page=lambda row: _details(options, reader, row),
        sort=options.sort,
        part=options.filter,
    )


def _removed(options: argparse.Namespace, reader: _Reader) -> Optional[RemovedCgroups]:
    """The cgroups that are removed; None where nothing tells which they are."""
    if isinstance(reader, PinnedRows) or reader.backend == TEXT:
        return None
    from .top_removed import RemovedCgroups

    return RemovedCgroups(reader.path, options)


def _run(
    terminal: Terminal,
    view: View,
    reader: _Reader,
    removed: Optional[RemovedCgroups],
    interval: Optional[float],
) -> None:
    """Shows the tree until the user quits."""
    if isinstance(reader, PinnedRows):
        reader.warns = False  # the screen says it
        interval = interval or reader.interval
    interval = interval or _INTERVAL
    ticks = Ticks(interval)
    is_drawn = False
    try:
        while not view.is_over:
            if not view.is_paused and not ticks.delay():
                ticks.take()
                view.show(reader.read(), _status(reader, interval))
                if removed is not None:
                    removed.refresh()
                    view.removed = removed.last
                is_drawn = False
            if not is_drawn:
                terminal.draw(top_screen.lines(view, *terminal.size))
            key = terminal.key(math.inf if view.is_paused else ticks.delay())
            if key is None and terminal.is_closed:
                return
            is_drawn = key is None
            if key is not None:
                view.press(key)
    finally:
        view.close_page()


def _status(reader: _Reader, interval: float) -> str:
    """Where the numbers come from; of a pin that is stale, how old they are."""
    way = "/".join(dict.fromkeys((reader.backend, reader.transport)))
    stale = reader.stale if isinstance(reader, PinnedRows) else ""
    return stale or f"{way}, every {interval:g} s"


# --- the details of a cgroup


def _details(options: argparse.Namespace, reader: _Reader, row: Row) -> Details:
    """The page with all items of a cgroup, or, from a pin, with all items of the pin."""
    if isinstance(reader, PinnedRows):
        return Details(row.path or rows.name_of(row), partial(_read_pinned, reader, row.id))
    assert row.path is not None, "only the rows of a pin have none"
    source = _OneCgroup(row, row.path, options)
    return Details(row.path, source.read, source.close)


def _read_pinned(reader: PinnedRows, cgroup_id: int) -> Reading:
    walk = reader.whole
    assert walk is not None, "the row is of a walk"
    for at, each in enumerate(walk.ids):
        if each == cgroup_id:
            return Reading(walk.started_ns / 1e9, walk[at])
    raise CgroupRemovedError("the pin does not have this cgroup any more: it was removed")


class _OneCgroup:
    """Reads the cgroup of a row. The reader is made by the first read."""

    def __init__(self, row: Row, path: str, options: argparse.Namespace) -> None:
        self._row, self._path, self._options = row, path, options
        self._reader: Optional[StatsReader] = None

    def read(self) -> Reading:
        if self._reader is None:
            from .._stats_reader import StatsReader

            flush, backend = not self._options.no_flush, self._options.backend
            self._reader = StatsReader(self._path, ITEMS, flush=flush, backend=backend)
            found = _lookup.identity(self._path)
            if found is None or found[1] != self._row.id:  # another cgroup has its path by now
                raise _diagnosis.removed(self._path)
        values = self._reader.read()
        return Reading(time.monotonic(), values)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
