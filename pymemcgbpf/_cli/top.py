# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Shows a tree of cgroups live in a terminal, sorted."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from .._items import COUNTER, CURRENT, item_named
from .._records import Record
from .._samples import Ticks
from ..errors import MemcgError
from ..snapshot import Row, Snapshot
from . import command, parsers, readers, rows, signals, table
from .pinned import PinnedRows
from .units import columns, human, per_second, printable

if TYPE_CHECKING:
    from curses import window

    from .._tree_reader import TreeReader

try:
    import curses
except ImportError:  # a Python that was built without, or split into packages
    curses = None  # type: ignore[assignment]

_DEFAULT_ITEMS = (CURRENT, "anon", "file", "pgfault", "pgmajfault")
_KEYS = "q quit  < > sort by  r reverse  arrows, page keys scroll"
_INTERVAL = 2.0  # in seconds
_NARROWEST, _NAME_WIDTH = 10, 20  # a column's minimal width; the width reserved for names


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.reader_parser(
        " top",
        "Show a tree of cgroups live in a terminal, as one sorted list: for counters the rate per "
        "second, for other items the value. Keys: q quits; < and > (or left and right) choose the "
        "column to sort by; r reverses the order; up, down and the page keys scroll.",
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
    options = parser.parse_words(arguments)

    def show() -> Iterator[str]:
        _check_terminal()
        with readers.tree_reader(options, _DEFAULT_ITEMS, options.sort) as reader:
            interval = _INTERVAL
            if isinstance(reader, PinnedRows):
                reader.warns = False  # the screen says it
                interval = reader.interval or _INTERVAL
            readers.warn_if_text(reader, is_brief=True)  # the screen says how it is read
            view = _View(reader, options.interval or interval, options.filter)
            if options.sort is not None:
                view.sort = reader.item_names.index(options.sort)
            try:
                with signals.exit_on_signals():  # so that the terminal is restored
                    _check_cursor()
                    curses.wrapper(view.run)
            except curses.error as error:
                raise MemcgError(f"this terminal cannot be drawn on: {error}") from error
            except KeyboardInterrupt:
                pass  # Ctrl-C quits
        yield from ()

    return command.run_each(show)


def _check_terminal() -> None:
    if curses is None:
        raise MemcgError(
            "this Python has no curses module, which top needs; use watch or tree instead"
        )
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise MemcgError("top needs a terminal; use watch or tree instead")


def _check_cursor() -> None:
    curses.setupterm()
    if not curses.tigetstr("cup"):
        kind = os.environ.get("TERM", "")
        raise MemcgError(f"this terminal cannot be drawn on: TERM={kind} cannot move the cursor")


class _Line(Record):
    """A cgroup, and the number shown for each item; None where there is none."""

    row: Row
    values: tuple[Optional[float], ...]


class _Rates:
    """Makes lines of snapshots; a counter's number is its rate since the previous snapshot."""

    def __init__(self) -> None:
        self._before: Optional[Snapshot] = None
        self._lines: list[_Line] = []

    def lines(self, snapshot: Snapshot) -> list[_Line]:
        """The lines in the snapshot's order. A pin can show the same walk as before."""
        if self._before is not None and self._before.started_ns == snapshot.started_ns:
            return self._lines
        changes = None if self._before is None else snapshot.since(self._before)
        self._before = snapshot
        columns: list[Iterable[Optional[float]]] = []
        for name in snapshot.item_names:
            if not _is_counter(name):
                columns.append(snapshot.to_columns([name])[name])
            elif changes is None:
                columns.append(itertools.repeat(None))
            else:
                columns.append(changes.rates(name))
        self._lines = [_Line(row, values) for row, values in zip(snapshot, zip(*columns))]
        return self._lines


def _is_counter(name: str) -> bool:
    item = item_named(name)
    return item is not None and item.kind == COUNTER


class _View:
    """The state of the screen.

    Attributes:
        sort: the index of the column that the list is sorted by.
        smallest_first: whether the order is reversed.
        top: the number of cgroups above the first one on the screen.
    """

    def __init__(self, reader: Union[TreeReader, PinnedRows], interval: float, part: str) -> None:
        self._reader, self._interval, self._part = reader, interval, part
        self._rates = _Rates()
        self.sort, self.smallest_first, self.top = 0, False, 0
        self._height = 0  # how many cgroups the screen shows

    def run(self, screen: window) -> None:
        """Shows the tree until the user quits."""
        with contextlib.suppress(curses.error):  # some terminals cannot hide the cursor
            curses.curs_set(0)
        ticks = Ticks(self._interval)
        while True:
            ticks.take()
            snapshot = self._reader.read()
            lines = self._wanted(self._rates.lines(snapshot))
            key = 0
            while key >= 0:  # getch() returns -1 when the time is over
                self._draw(screen, snapshot, lines)
                screen.timeout(math.ceil(ticks.delay() * 1000))
                key = screen.getch()
                if key in (ord("q"), ord("Q")) or not sys.stdin.isatty():
                    return
                self.press(key, len(lines))

    def press(self, key: int, count: int) -> None:
        """Does what a key stands for, while *count* cgroups are listed."""
        if key in (ord("<"), ord(","), curses.KEY_LEFT):
            self.sort -= self.sort > 0
        elif key in (ord(">"), ord("."), curses.KEY_RIGHT):
            self.sort += self.sort < len(self._reader.item_names) - 1
        elif key == ord("r"):
            self.smallest_first = not self.smallest_first
        scrolled = {
            curses.KEY_UP: self.top - 1,
            curses.KEY_DOWN: self.top + 1,
            curses.KEY_PPAGE: self.top - self._height,
            curses.KEY_NPAGE: self.top + self._height,
            curses.KEY_HOME: 0,
            curses.KEY_END: count,
        }.get(key, self.top)
        self.top = max(min(scrolled, count - self._height), 0)

    def _wanted(self, lines: list[_Line]) -> list[_Line]:
        if self._part:
            lines = [line for line in lines if self._part in (self._name_of(line.row) or "")]
        return lines

    def _draw(self, screen: window, snapshot: Snapshot, lines: Sequence[_Line]) -> None:
        height, width = screen.getmaxyx()
        self._height = max(height - 3, 1)
        shown = list(itertools.islice(self._named(lines), self._height))
        screen.erase()
        _put(screen, 0, 0, self._about(snapshot, len(lines)))
        at = 0
        for column, (head, *cells) in self._columns([line for line, _ in shown], width):
            _put(screen, 1, at, head, curses.A_REVERSE if column == self.sort else curses.A_BOLD)
            for y, cell in enumerate(cells, 2):
                _put(screen, y, at, cell)
            at += len(head) + 1
        _put(screen, 1, at, "cgroup", curses.A_BOLD)
        for y, (_, name) in enumerate(shown, 2):
            _put(screen, y, at, _end_of(name, width - at))
        _put(screen, height - 1, 0, _KEYS)
        screen.refresh()

    def _about(self, snapshot: Snapshot, listed: int) -> str:
        count = f"{listed} of {len(snapshot)}" if listed < len(snapshot) else listed
        way = "/".join(dict.fromkeys((self._reader.backend, self._reader.transport)))
        order = "smallest" if self.smallest_first else "largest"
        by = f"{self._reader.item_names[self.sort]}, {order} first"
        stale = self._reader.stale if isinstance(self._reader, PinnedRows) else ""
        return f"{count} cgroups by {by} ({stale or f'{way}, every {self._interval:g} s'})"

    def _named(self, lines: Sequence[_Line]) -> Iterator[tuple[_Line, str]]:
        """The lines from the first one on the screen on, with paths; those without are omitted."""

        def place(line: _Line) -> tuple[bool, float]:
            value = line.values[self.sort]
            return value is None, (value or 0) * (1 if self.smallest_first else -1)

        for line in sorted(lines, key=place)[self.top :]:
            name = self._name_of(line.row)
            if name is not None:
                yield line, printable(self._root_name(line.row) if name == "." else name)

    def _name_of(self, row: Row) -> Optional[str]:
        """The path below the root; of a pin without names, what else there is."""
        return rows.name_of(row) if isinstance(self._reader, PinnedRows) else row.relative_path

    def _root_name(self, row: Row) -> str:
        """The name of the root. The path of a pin is not that of its cgroup."""
        return row.path or self._reader.path

    def _columns(self, lines: Sequence[_Line], width: int) -> Iterator[tuple[int, list[str]]]:
        """The columns that there is room for, and always the one that the list is sorted by.

        Yields:
            The column's index among the items, and its head and cells, all of one width.
        """
        made = []
        for at, name in enumerate(self._reader.item_names):
            cells = (_cell(name, line.values[at]) for line in lines)
            made.append(table.right([_head(name), *cells], _NARROWEST))
        room = width - _NAME_WIDTH - len(made[self.sort][0]) - 1
        for at, column in enumerate(made):
            if at != self.sort:
                room -= len(column[0]) + 1
            if at == self.sort or room >= 0:
                yield at, column


def _head(name: str) -> str:
    short = name[len("memory.") :] if name.startswith("memory.") else name
    return f"{short}/s" if _is_counter(name) else short


def _cell(name: str, value: Optional[float]) -> str:
    if value is None:
        return "-"
    shown = per_second(name, value) if _is_counter(name) else human(name, int(value))
    return f"{shown.number} {shown.unit}".rstrip()


def _end_of(text: str, width: int) -> str:
    """The end of a path, as much as there is room for; it says more than the beginning."""
    if columns(text) <= width:
        return text
    room = max(width - 2, 0)
    at = next(at for at in range(len(text) + 1) if columns(text[at:]) <= room)
    return f"..{text[at:]}"


def _put(screen: window, y: int, x: int, text: str, style: int = 0) -> None:
    height, width = screen.getmaxyx()
    safe = text.encode(screen.encoding, "backslashreplace").decode(screen.encoding)
    if y < height and x < width:
        with contextlib.suppress(curses.error):  # raised after the screen's last cell is written
            screen.addnstr(y, x, safe, width - x, style)
