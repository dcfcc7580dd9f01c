# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The lines of top's screen, as pieces of text with styles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from . import rows, table
from .departed_reader import PEAK
from .top_numbers import SHARE, cell, head, is_counter
from .top_page import Page
from .top_view import View
from .units import columns, human, printable

NORMAL, BOLD, REVERSE, ALERT = 0, 1, 2, 4
"""The styles of a piece of text; they can be added."""

Line = list[tuple[str, int]]
"""Pieces of text from left to right, each with its style."""

_KEYS = "q quit  ? help  / filter  Enter details  t tree  z zeros  g growth  p pause"
_PAGE_KEYS = "q back  up, down and page keys scroll"
_FEW_KEYS = "q quit  ? help"
_NARROWEST, _NAME_WIDTH = 10, 16  # a column's minimal width; the width reserved for names
_LEAST_NAME = 12  # of the name itself in a tree, without the drawing before it
_NARROW_SHARE = 6
_MOST_REMOVED, _LEAST_LISTED = 3, 5  # removed cgroups, and others even so
_ALERT_SHARE = 0.9  # from this share of its limit on, a cgroup stands out


def lines(view: View, height: int, width: int) -> list[Line]:
    """The screen, from top to bottom: at most *height* lines of at most *width* columns."""
    removed: list[Line] = []
    if view.page is None:
        room = min(_MOST_REMOVED, height - 3 - _LEAST_LISTED)
        removed = _removed_lines(view, room, width)
    view.fit(height - 3 - len(removed), height - 2)
    if view.page is not None:
        found = _page_lines(view.page, view.page_room)
        bottom = f"{_PAGE_KEYS}{'  (paused)' if view.is_paused else ''}"
    else:
        found, bottom = _list_lines(view, width)
    room = max(height - 1 - len(removed), 0)
    fitting = found[:room] + [[]] * (room - len(found))
    return [_cut(line, width) for line in [*fitting, *removed, [(bottom, NORMAL)]]]


def _removed_lines(view: View, most: int, width: int) -> list[Line]:
    """A line for each of the cgroups that were removed last."""
    found = view.last_removed(most)
    if not found:
        return []
    now = view.snapshot.started_ns
    ages = table.right([_age((now - each.removed_ns) / 1e9) for each in found])
    peaks = table.right(["-" if each.peak is None else _size(each.peak) for each in found])
    kills = table.left([_kills(each.kills) for each in found])
    lines: list[Line] = []
    for each, age, peak, killed in zip(found, ages, peaks, kills):
        before = f"removed {age} ago, peak {peak}  "
        killed = f"{killed}  " if killed else ""
        room = max(width - columns(before) - columns(killed), 0)
        name = end_of(printable(each.name), room)
        style = ALERT if each.kills else NORMAL
        lines.append([(before, NORMAL), (killed, style), (name, NORMAL)])
    return lines


def _age(seconds: float) -> str:
    """How long ago, in whole units."""
    for unit, size in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < size:
            return f"{max(seconds, 0):.0f} {unit}"
        seconds /= size
    return f"{seconds:.0f} d"


def _size(size: int) -> str:
    shown = human(PEAK, size)
    return f"{shown.number} {shown.unit}"


def _kills(number: int) -> str:
    return f"{number:,} OOM kill{'s' if number > 1 else ''}" if number else ""


def _page_lines(page: Page, room: int) -> list[Line]:
    text = page.lines[page.top : page.top + room]
    return [[(printable(page.title), BOLD)], *([(line, NORMAL)] for line in text)]


def _list_lines(view: View, width: int) -> tuple[list[Line], str]:
    """The lines of the list, and the bottom line."""
    places = view.order.places[view.top : view.top + view.room]
    shown, hidden = _columns(view, places, width)
    heads: Line = []
    body: list[Line] = [[] for _ in places]
    for name, (title, *cells) in shown:
        heads += [(title, REVERSE if name == view.sort else BOLD), (" ", NORMAL)]
        numbers = view.column(name)
        for line, place, text in zip(body, places, cells):
            alerts = name == SHARE and (numbers[place] or 0) >= _ALERT_SHARE
            line += [(text, ALERT if alerts else NORMAL), (" ", NORMAL)]
    heads.append(("cgroup", BOLD))
    room = max(width - sum(columns(title) + 1 for _, (title, *_) in shown), 0)
    for number, (line, place) in enumerate(zip(body, places), view.top):
        line.append((_name(view, place, number, room), NORMAL))
        if number == view.at:
            line.append((" " * width, NORMAL))  # cut to what is left of the screen's width
            line[:] = [(text, style | REVERSE) for text, style in line]
    about: Line = [(_about(view), NORMAL)]
    return [about, heads, *body], _bottom(view, hidden, width)


def _about(view: View) -> str:
    """What is listed, and in which order."""
    listed, known = len(view.order.places), len(view.snapshot)
    count = f"{listed} of {known}" if listed < known else f"{known}"
    order = "smallest" if view.smallest_first else "largest"
    grows = view.shows_growth and view.sort != SHARE and not is_counter(view.sort)
    return "".join(
        (
            "paused: " if view.is_paused else "",
            f"{count} cgroups",
            f" with '{printable(view.part)}'" if view.part else "",
            " without zeros" if view.hides_zeros else "",
            f" by {'growth of ' if grows else ''}{view.sort}, {order} first",
            f" ({view.status})",
        )
    )


def _bottom(view: View, hidden: Sequence[str], width: int) -> str:
    if view.is_typing:
        part = end_of(printable(view.part), max(width - 2, 0))
        return f"/{part}_  (Enter keeps this filter, Esc clears it)"
    if view.notice:
        return f"{_FEW_KEYS}  {view.notice}"
    if not hidden:
        return _KEYS
    names = ", ".join(head(name, view.shows_growth) for name in hidden)
    count = f"+{len(hidden)} column{'s' if len(hidden) > 1 else ''}"
    text = f"{_FEW_KEYS}  {count}: {names} (widen, or name fewer items)"
    return text if len(text) <= width else f"{_FEW_KEYS}  {count} (widen): {names}"


def _columns(
    view: View, places: Sequence[int], width: int
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The columns that there is room for, and always the one that the list is sorted by.

    Returns:
        The name of each, with its head and cells, all of one width; and the names of the others.
    """
    made = {}
    for name in view.columns:
        numbers, growth = view.column(name), view.shows_growth
        cells = (cell(name, numbers[place], growth) for place in places)
        least = _NARROW_SHARE if name == SHARE else _NARROWEST
        made[name] = table.right([head(name, growth), *cells], least)
    room = width - _names_width(view) - len(made[view.sort][0]) - 1
    shown, hidden = [], []
    for name, column in made.items():
        if name != view.sort:
            room -= len(column[0]) + 1
        if name == view.sort or room >= 0:
            shown.append((name, column))
        else:
            hidden.append(name)
    return shown, hidden


def _names_width(view: View) -> int:
    """The width that is reserved for names: in a tree, more where it is deep."""
    if view.order.branches is None:
        return _NAME_WIDTH
    on_screen = view.order.branches[view.top : view.top + view.room]
    return max(_NAME_WIDTH, max(map(len, on_screen), default=0) + _LEAST_NAME)


def _name(view: View, place: int, number: int, room: int) -> str:
    """The name of a cgroup: its path below the root; in a tree, the end of that."""
    row = view.snapshot[place]
    name = rows.name_of(row)
    if name == ".":
        name = row.path or name
    if view.order.branches is None:
        return end_of(printable(name), room)
    branch = end_of(view.order.branches[number], max(room - _LEAST_NAME, 0))
    known = row.relative_path not in (None, ".")
    return branch + end_of(printable(os.path.basename(name) if known else name), room - len(branch))


def end_of(text: str, width: int) -> str:
    """The end of a path, as much as there is room for; it says more than the beginning."""
    if columns(text) <= width:
        return text
    fitting = _fitting_letters(reversed(text), max(width - 2, 0))
    return f"..{text[len(text) - fitting :]}"


def beginning_of(text: str, width: int) -> str:
    """The beginning of a text, as much as there is room for."""
    if columns(text) <= width:
        return text
    return text[: _fitting_letters(text, width)]


def _fitting_letters(letters: Iterable[str], room: int) -> int:
    """How many letters of these there is room for."""
    count = 0
    for count, letter in enumerate(letters):
        room -= columns(letter)
        if room < 0:
            return count
    return count + 1


def _cut(line: Line, room: int) -> Line:
    """The beginning of a line, as much as there is room for."""
    found: Line = []
    for text, style in line:
        fitting = beginning_of(text, room)
        if fitting:
            found.append((fitting, style))
        room -= columns(fitting)
    return found
