# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A terminal of our own: a program runs in it, and a test sees what is on its screen.

It comes with its own terminfo entry, so that it needs to know a few sequences only, and
no machine needs to know a terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

NAME = "pymemcgbpf-test"

# Number in term.h → the sequence.
_STRINGS = {
    2: b"\r",  # carriage_return
    5: b"\x1b[H\x1b[2J",  # clear_screen
    6: b"\x1b[K",  # clr_eol
    7: b"\x1b[J",  # clr_eos
    10: b"\x1b[%i%p1%d;%p2%dH",  # cursor_address
    13: b"\x1b[?25l",  # cursor_invisible
    16: b"\x1b[?25h",  # cursor_normal
    27: b"\x1b[1m",  # enter_bold_mode
    28: b"\x1b[?1049h",  # enter_ca_mode
    34: b"\x1b[7m",  # enter_reverse_mode
    39: b"\x1b[m",  # exit_attribute_mode
    40: b"\x1b[?1049l",  # exit_ca_mode
    61: b"\x1b[B",  # key_down
    79: b"\x1b[D",  # key_left
    81: b"\x1b[6~",  # key_npage
    82: b"\x1b[5~",  # key_ppage
    83: b"\x1b[C",  # key_right
    87: b"\x1b[A",  # key_up
}
_SEQUENCE = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])")


def write_terminfo(folder: Path) -> None:
    """A compiled entry of it, as term(5) has them."""
    names = NAME.encode() + b"|the tests' own\0"
    booleans = b"\0\1"  # no auto_left_margin; auto_right_margin
    numbers = struct.pack("<3h", 80, -1, 24)  # columns, init_tabs, lines
    count = max(_STRINGS) + 1
    offsets, table = [-1] * count, b""
    for at, text in sorted(_STRINGS.items()):
        offsets[at] = len(table)
        table += text + b"\0"
    head = struct.pack("<6h", 0o432, len(names), len(booleans), 3, count, len(table))
    filling = b"\0" * ((len(names) + len(booleans)) % 2)
    data = head + names + booleans + filling + numbers + struct.pack(f"<{count}h", *offsets) + table
    for place in (NAME[0], f"{ord(NAME[0]):x}"):
        (folder / place).mkdir()
        (folder / place / NAME).write_bytes(data)


class Screen:
    """What a terminal shows after some output."""

    def __init__(self, rows: int, columns: int) -> None:
        self.cursor_is_shown = True
        self.is_alternate = False
        self._y = self._x = 0
        self._rest = ""
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        """Another size; what was there is gone, so that a program must draw it anew."""
        self._rows, self._columns = rows, columns
        self._cells = [[" "] * columns for _ in range(rows)]

    @property
    def lines(self) -> list[str]:
        """From top to bottom."""
        return ["".join(line).rstrip() for line in self._cells]

    def feed(self, text: str) -> None:
        """Takes output; a sequence's end may come later."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = _SEQUENCE.match(text, at)
                if match is None:
                    assert len(text) - at < 12, f"an unknown sequence: {text[at : at + 12]!r}"
                    self._rest = text[at:]
                    return
                self._obey(match[3], match[2], bool(match[1]))
                at = match.end()
                continue
            self._print(text[at])
            at += 1

    def _print(self, letter: str) -> None:
        if letter == "\r":
            self._x = 0
        elif letter == "\n":
            self._y = min(self._y + 1, self._rows - 1)
        elif letter == "\b":
            self._x = max(self._x - 1, 0)
        else:
            assert letter.isprintable(), repr(letter)
            if self._x == self._columns:
                self._x, self._y = 0, min(self._y + 1, self._rows - 1)
            self._cells[self._y][self._x] = letter
            self._x += 1

    def _obey(self, command: str, arguments: str, private: bool) -> None:
        numbers = [int(number or 0) for number in arguments.split(";")]
        if private:
            if numbers == [25]:
                self.cursor_is_shown = command == "h"
            elif numbers == [1049]:
                self.is_alternate = command == "h"
        elif command == "H":
            row, column = numbers if arguments else (1, 1)
            self._y, self._x = min(row, self._rows) - 1, min(column, self._columns) - 1
        elif command in "JK":
            whole = numbers == [2]
            first = 0 if whole else self._x
            self._cells[self._y][first:] = " " * (self._columns - first)
            for y in range(0 if whole else self._y + 1, self._rows) if command == "J" else ():
                self._cells[y][:] = " " * self._columns
        else:
            assert command == "m", f"an unknown sequence: {command}"


def _as_from_a_login() -> None:
    """The child has the terminal, and no signal is ignored, as SIGHUP is under nohup."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A program in a terminal.

    Attributes:
        screen: what is to be seen.
        process: the program.
        before: the terminal's settings, before the program began.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        terminfo: Path,
        rows: int,
        columns: int,
        term: str,
    ) -> None:
        self.screen = Screen(rows, columns)
        self._master, self._slave = pty.openpty()
        self._set_size(rows, columns)
        self.before = termios.tcgetattr(self._slave)
        environment = {**os.environ, "TERM": term, "TERMINFO": str(terminfo), "LC_ALL": "C.UTF-8"}
        for name in ("LINES", "COLUMNS"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            arguments,
            stdin=self._slave,
            stdout=self._slave,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_login,
            env=environment,
        )

    def _set_size(self, rows: int, columns: int) -> None:
        # With SIGWINCH to the program, once this is its controlling terminal.
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """As when a user draws at the window's corner."""
        self._take(0)
        self.screen.resize(rows, columns)
        self._set_size(rows, columns)

    def type(self, keys: str) -> None:
        """As if these keys were pressed."""
        os.write(self._master, keys.encode())

    def _take(self, seconds: float) -> bool:
        """Shows what the program has written; whether there was something."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self.screen.feed(os.read(self._master, 1 << 16).decode(errors="replace"))
        return True

    def wait_for(
        self, found: Callable[[list[str]], object], *, settled: bool = True, seconds: float = 30
    ) -> list[str]:
        """The screen's lines, as soon as they are what is waited for, and drawn to the end."""
        deadline = time.monotonic() + seconds
        while not (found(self.screen.lines) and not (settled and self._take(0.05))):
            if not self._take(0.05):
                assert self.process.poll() is None, f"it has ended: {self._last_words()}"
                shown = "\n".join(self.screen.lines)
                assert time.monotonic() < deadline, f"not to be seen; but:\n{shown}"
        return self.screen.lines

    def _last_words(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def wait(self, seconds: float = 30) -> tuple[int, str]:
        """The program's exit status, and what it had to complain of."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._take(0.05)
            assert time.monotonic() < deadline, "it does not end"
        while self._take(0):
            pass
        return self.process.returncode, self._last_words()

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal is as the program found it."""
        screen = self.screen
        settings = termios.tcgetattr(self._slave) == self.before
        return settings and screen.cursor_is_shown and not screen.is_alternate

    def close(self) -> None:
        """Ends the program, and takes the terminal away."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        os.close(self._master)
        os.close(self._slave)


@contextlib.contextmanager
def terminal(
    arguments: Sequence[str],
    folder: Path,
    *,
    rows: int = 24,
    columns: int = 80,
    term: str = NAME,
) -> Iterator[Terminal]:
    """A program in a terminal, ended at the end.

    Args:
        arguments: the program and its arguments.
        folder: where the terminfo entry is put.
        rows, columns: the terminal's size.
        term: what it is called, if not by its own name.
    """
    terminfo = folder / "terminfo"
    terminfo.mkdir()
    write_terminfo(terminfo)
    made = Terminal(arguments, terminfo, rows, columns, term)
    try:
        yield made
    finally:
        made.close()
