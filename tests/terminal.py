# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs a program in a pseudo-terminal; pyte shows what is on its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NoReturn

import pyte
from pyte.modes import DECTCEM

NAME = "pymemcgbpf-test"

# Terminfo entries of our own, because a guest of the lab has no terminfo: number in term.h → the
# sequence, as an xterm has it.
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
# Of a terminal with colours, as an xterm has them: number in term.h → the number, the sequence.
COLOUR_NAME = f"{NAME}-colour"
_COLOURS, _PAIRS = 13, 14  # max_colors, max_pairs
_COLOUR_STRINGS = {
    297: b"\x1b[39;49m",  # orig_pair
    359: b"\x1b[3%p1%dm",  # set_a_foreground
    360: b"\x1b[4%p1%dm",  # set_a_background
}
_ALTERNATE_SCREEN = 1049 << 5  # as pyte numbers private modes


def write_terminfo(folder: Path) -> None:
    """Writes the compiled entries, in the format of term(5)."""
    for place in (NAME[0], f"{ord(NAME[0]):x}"):
        (folder / place).mkdir()
        (folder / place / NAME).write_bytes(_entry(NAME, {}, _STRINGS))
        colours = {_COLOURS: 8, _PAIRS: 64}
        entry = _entry(COLOUR_NAME, colours, {**_STRINGS, **_COLOUR_STRINGS})
        (folder / place / COLOUR_NAME).write_bytes(entry)


def _entry(name: str, more_numbers: dict[int, int], strings: dict[int, bytes]) -> bytes:
    """The compiled entry of one terminal."""
    names = name.encode() + b"|for tests\0"
    booleans = b"\0\1\0\0\1"  # auto_right_margin; eat_newline_glitch
    known = {0: 80, 2: 24, **more_numbers}  # columns, lines
    numbers = [known.get(at, -1) for at in range(max(known) + 1)]
    count = max(strings) + 1
    offsets, table = [-1] * count, b""
    for at, text in sorted(strings.items()):
        offsets[at] = len(table)
        table += text + b"\0"
    head = struct.pack("<6h", 0o432, len(names), len(booleans), len(numbers), count, len(table))
    filling = b"\0" * ((len(names) + len(booleans)) % 2)
    shorts = struct.pack(f"<{len(numbers) + count}h", *numbers, *offsets)
    return head + names + booleans + filling + shorts + table


class Screen(pyte.Screen):
    """What the terminal shows."""

    def debug(self, *arguments: object, **_: object) -> NoReturn:
        """pyte calls this for a sequence that it does not know."""
        raise AssertionError(f"the program wrote an unknown sequence: {arguments}")

    def bell(self, *_: object) -> NoReturn:
        """No program under test may ring the bell."""
        raise AssertionError("the program rang the bell")

    def resize_empty(self, rows: int, columns: int) -> None:
        """Changes the size and erases everything, so that the program has to draw it again."""
        self.resize(rows, columns)
        self.erase_in_display(2)

    @property
    def shown(self) -> list[str]:
        """The lines from top to bottom, without the spaces at their ends."""
        return [line.rstrip() for line in self.display]

    @property
    def reversed(self) -> list[str]:
        """The lines that are in reverse from their first column to their last."""
        cells = ([self.buffer[y][x] for x in range(self.columns)] for y in range(self.lines))
        return [
            "".join(cell.data for cell in line).rstrip()
            for line in cells
            if all(cell.reverse for cell in line)
        ]

    @property
    def cursor_is_shown(self) -> bool:
        return DECTCEM in self.mode

    @property
    def is_alternate(self) -> bool:
        return _ALTERNATE_SCREEN in self.mode


def _as_from_a_login() -> None:
    """In the child: takes the terminal, and ignores no signal, even under nohup."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A program in a terminal.

    Attributes:
        screen: what the terminal shows.
        process: the program.
        before: the terminal's settings before the program started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        terminfo: Path,
        rows: int,
        columns: int,
        term: str,
    ) -> None:
        self.screen = Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
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
        # Sends SIGWINCH to the program, if this is its controlling terminal.
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Changes the size, as a user does who drags the window's corner."""
        self._take(0)
        self.screen.resize_empty(rows, columns)
        self._set_size(rows, columns)

    def type(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._master, keys.encode())

    def _take(self, seconds: float) -> bool:
        """Shows what the program has written; returns whether there was something."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self._stream.feed(os.read(self._master, 1 << 16))
        return True

    def wait_for(
        self, found: Callable[[list[str]], object], *, settled: bool = True, seconds: float = 30
    ) -> list[str]:
        """The screen's lines, as soon as *found* accepts them, and nothing more is being drawn."""
        deadline = time.monotonic() + seconds
        while not (found(self.screen.shown) and not (settled and self._take(0.05))):
            if not self._take(0.05):
                assert self.process.poll() is None, f"the program has ended: {self._stderr()}"
                shown = "\n".join(self.screen.shown)
                assert time.monotonic() < deadline, f"this was expected otherwise:\n{shown}"
        return self.screen.shown

    def _stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def wait(self, seconds: float = 30) -> tuple[int, str]:
        """The program's exit status and what it wrote to stderr, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._take(0.05)
            assert time.monotonic() < deadline, "the program does not end"
        while self._take(0):
            pass
        return self.process.returncode, self._stderr()

    @property
    def is_as_before(self) -> bool:
        """Whether the program has left the terminal as it found it."""
        screen = self.screen
        settings = termios.tcgetattr(self._slave) == self.before
        return settings and screen.cursor_is_shown and not screen.is_alternate

    def hang_up(self) -> None:
        """Closes the terminal, as a user does who closes its window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def close(self) -> None:
        """Ends the program and closes the terminal."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.hang_up()
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
    """A program in a terminal, which is closed at the end.

    Args:
        arguments: the program and its arguments.
        folder: where the terminfo entry is written.
        rows, columns: the terminal's size.
        term: the terminal's name, instead of its own.
    """
    terminfo = folder / "terminfo"
    terminfo.mkdir()
    write_terminfo(terminfo)
    made = Terminal(arguments, terminfo, rows, columns, term)
    try:
        yield made
    finally:
        made.close()
