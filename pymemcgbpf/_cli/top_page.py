# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The pages that top shows in place of its list: lines of text that scroll."""

from __future__ import annotations

from collections.abc import Sequence

# The names of keys, where they are no characters.
UP, DOWN, LEFT, RIGHT = "up", "down", "left", "right"
PAGE_UP, PAGE_DOWN, HOME, END = "page up", "page down", "home", "end"
ENTER, ESCAPE, BACKSPACE, ERASE = "enter", "escape", "backspace", "erase"


MOVES = (UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END)


def moved(key: str, at: int, page: int, last: int) -> int:
    """Where one of MOVES leads from line *at*, with *page* lines on the screen; other keys lead
    nowhere. The last line is *last*."""
    to = {
        UP: at - 1,
        DOWN: at + 1,
        PAGE_UP: at - page,
        PAGE_DOWN: at + page,
        HOME: 0,
        END: last,
    }.get(key, at)
    return max(min(to, last), 0)


class Page:
    """A page of text.

    Attributes:
        title: the first line of the screen.
        lines: all lines below it.
        top: the number of lines above the first one on the screen.
    """

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        self.title, self.lines, self.top = title, lines, 0

    def press(self, key: str, room: int) -> bool:
        """Scrolls, while the screen has *room* lines; returns whether the key ends the page."""
        self.top = moved(key, self.top, room, max(len(self.lines) - room, 0))
        return key in ("q", "Q", ESCAPE, ENTER)

    def refresh(self) -> None:
        """Reads again what the page shows."""

    def close(self) -> None:
        """Releases what the page reads from."""


KEYS = {
    "up, down, page keys": "move the cursor, which stays with its cgroup, or on top",
    "Enter": "show all items of the cgroup at the cursor",
    "< >, left, right": "choose the column to sort by, which is always shown",
    "r": "reverse the order",
    "/": "list the cgroups whose path contains what you type",
    "Esc": "list all cgroups again; leave a page",
    "z": "hide cgroups whose numbers are all 0 or absent",
    "t": "show a tree, in which siblings are sorted",
    "g": "show the growth per second in place of values",
    "l": "show memory.current in percent of the effective limit",
    "d": "hide the cgroups that were removed last",
    "p, space": "pause",
    "Ctrl-L": "draw the screen again",
    "?, h": "show these keys",
    "q": "quit, or leave a page",
}
"""What each key does. z, t, g, l, d and p do the opposite when they are pressed again."""


def help_page() -> Page:
    """The page that describes the keys."""
    width = max(map(len, KEYS))
    lines = [f"{key:<{width}}  {what}" for key, what in KEYS.items()]
    return Page("Keys of pymemcgbpf top", lines)
