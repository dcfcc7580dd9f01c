# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""top's terminal: it is set up and restored, lines are drawn on it, and keys come from it."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from ..errors import MemcgError
from . import signals, top_page
from .top_screen import ALERT, BOLD, REVERSE, Line

if TYPE_CHECKING:
    from curses import window

try:
    import curses
except ImportError:  # a Python that was built without, or split into packages
    curses = None  # type: ignore[assignment]

_ESCAPE_DELAY = 100  # in milliseconds: what comes later than this after Esc is another key
_ALERT_PAIR = 1
_LONGEST_WAIT = 0.5  # in seconds: a signal's handler may only run after the wait
_REDRAW = "\x0c"  # Ctrl-L


def check() -> None:
    """Checks that there is a terminal, and curses.

    Raises:
        MemcgError: there is not.
    """
    if curses is None:
        raise MemcgError(
            "this Python has no curses module, which top needs; use watch or tree instead"
        )
    if not _is_there():
        raise MemcgError("top needs a terminal; use watch or tree instead")


def _is_there() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


@contextlib.contextmanager
def opened() -> Iterator[Terminal]:
    """The terminal, for as long as the program draws on it; afterwards it is as before.

    Raises:
        MemcgError: it cannot be drawn on.
    """
    try:
        with signals.exit_on_signals():  # so that the terminal is restored
            _check_cursor()
            screen = curses.initscr()
            try:
                yield Terminal(screen)
            finally:
                _restore(screen)
    except curses.error as error:
        raise MemcgError(f"this terminal cannot be drawn on: {error}") from error


def _check_cursor() -> None:
    curses.setupterm()
    if not curses.tigetstr("cup"):
        kind = os.environ.get("TERM", "")
        raise MemcgError(f"this terminal cannot be drawn on: TERM={kind} cannot move the cursor")


def _restore(screen: window) -> None:
    with contextlib.suppress(curses.error):  # the terminal may be gone
        screen.keypad(False)
        curses.echo()
        curses.nocbreak()
    with contextlib.suppress(curses.error):
        curses.endwin()


class Terminal:
    """A terminal in curses' hands.

    Args:
        screen: all of the terminal.
    """

    def __init__(self, screen: window) -> None:
        self._screen = screen
        curses.noecho()
        curses.cbreak()
        curses.set_escdelay(_ESCAPE_DELAY)
        screen.keypad(True)
        with contextlib.suppress(curses.error):  # some terminals cannot hide the cursor
            curses.curs_set(0)
        self._alert = _alert_style()
        self._keys = {
            curses.KEY_UP: top_page.UP,
            curses.KEY_DOWN: top_page.DOWN,
            curses.KEY_LEFT: top_page.LEFT,
            curses.KEY_RIGHT: top_page.RIGHT,
            curses.KEY_PPAGE: top_page.PAGE_UP,
            curses.KEY_NPAGE: top_page.PAGE_DOWN,
            curses.KEY_HOME: top_page.HOME,
            curses.KEY_END: top_page.END,
            curses.KEY_ENTER: top_page.ENTER,
            curses.KEY_BACKSPACE: top_page.BACKSPACE,
            "\n": top_page.ENTER,
            "\r": top_page.ENTER,
            "\x1b": top_page.ESCAPE,
            "\x7f": top_page.BACKSPACE,
            "\b": top_page.BACKSPACE,
            "\x15": top_page.ERASE,  # Ctrl-U
        }

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width."""
        return self._screen.getmaxyx()

    @property
    def encoding(self) -> str:
        """The encoding of what is drawn."""
        return self._screen.encoding

    def draw(self, lines: Sequence[Line]) -> None:
        """Shows these lines, which fit."""
        self._screen.erase()
        encoding = self.encoding
        for y, line in enumerate(lines):
            with contextlib.suppress(curses.error):  # after the screen's last cell is written, too
                self._screen.move(y, 0)
                for text, style in line:
                    safe = text.encode(encoding, "backslashreplace").decode(encoding)
                    self._screen.addstr(safe, self._attributes(style))
        self._screen.refresh()

    def _attributes(self, style: int) -> int:
        found = curses.A_BOLD if style & BOLD else curses.A_NORMAL
        if style & REVERSE:
            found |= curses.A_REVERSE
        if style & ALERT:
            found |= self._alert
        return found

    def key(self, seconds: float) -> Optional[str]:
        """The key that is pressed within some seconds: a character, or one of the names of
        top_page; "" for any other. None if none is pressed, perhaps before the time is over."""
        self._screen.timeout(math.ceil(min(seconds, _LONGEST_WAIT) * 1000))
        key: Union[int, str]
        try:
            key = self._screen.get_wch()
        except curses.error:
            return None
        if key == _REDRAW:
            self._screen.clear()
        return self._keys.get(key, key if isinstance(key, str) else "")

    @property
    def is_closed(self) -> bool:
        """Whether no key can ever come, because the terminal was closed."""
        return not sys.stdin.isatty()


def _alert_style() -> int:
    """How what stands out is drawn: in red, if the user and the terminal have colours."""
    if not os.environ.get("NO_COLOR"):
        with contextlib.suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
            curses.init_pair(_ALERT_PAIR, curses.COLOR_RED, -1)
            return curses.color_pair(_ALERT_PAIR)
    return curses.A_BOLD
