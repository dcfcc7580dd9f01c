# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The commands' parsers, the options that several commands have, and the types of values."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any, Callable, ClassVar, NoReturn, Optional

from .. import _options
from .._items import is_group
from .._version import VERSION
from . import command, output

A_CGROUP = "directory of a cgroup, or a systemd unit such as cron.service"
OWN_CGROUP = f"{A_CGROUP} (default: the cgroup that this process is in)"
TOPMOST_CGROUP = f"the tree's root: {A_CGROUP} (default: the topmost cgroup that is visible)"
DEFAULT_ITEMS = "all items of memory.stat, and memory.current"
OR_PIN = "; or a pin, a file or a directory on a bpffs"

_NO_FLUSH = (
    "do not have the kernel add its pending updates first: reading is cheaper, but the numbers "
    "may be about 2 seconds old"
)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage in one line, without the usage.

    Attributes:
        after_help: text that ends the help and is printed unchanged.
        taken: where help is put instead of being printed, while parser_of() asks for it.
    """

    after_help = ""
    taken: ClassVar[Optional[list[Parser]]] = None

    def error(self, message: str) -> NoReturn:
        command.refuse(message)

    def parse_words(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses PATH and ITEMs into the attribute *words*; options may stand anywhere.

        What follows ``--`` is never an option. argparse's own treatment of ``--`` does not
        survive its parsing of options anywhere.
        """
        at = list(arguments).index("--") if "--" in arguments else len(arguments)
        options = self.parse_intermixed_args(arguments[:at])
        before = [] if options.path is None else [options.path, *options.items]
        options.words = [*before, *arguments[at + 1 :]]
        return options

    def print_help(self, file: object = None) -> None:
        """Writes the help to standard output, and exits if it cannot; argparse ignores that."""
        if Parser.taken is not None:
            Parser.taken.append(self)
            return
        _write_or_exit(self.format_help())

    def format_help(self) -> str:
        return super().format_help() + self.after_help


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter. It makes one for each option, and imports shutil, which takes 3 ms, for
    the width of a terminal that it does not write to."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width() - 2)


_STDOUT = 1


def _terminal_width() -> int:
    """The width that shutil.get_terminal_size() would give."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(_STDOUT).columns or 80
    except OSError:
        return 80


class _PrintVersion(argparse.Action):
    """The option --version; argparse's own ignores that it cannot write."""

    def __call__(self, *_: Any) -> NoReturn:
        _write_or_exit(f"{output.PROGRAM} {VERSION}\n")
        raise SystemExit(command.OK)


def _write_or_exit(text: str) -> None:
    if not output.write(text):
        raise SystemExit(command.FAILED)


def parser_of(run: Callable[[list[str]], object]) -> Parser:
    """The parser of a command, which makes it when it is run: it is asked for its help."""
    taken: list[Parser] = []
    Parser.taken = taken
    try:
        with contextlib.suppress(SystemExit):
            run(["--help"])
    finally:
        Parser.taken = None
    (parser,) = taken
    return parser


def plain_parser(name: str, arguments: str, description: str, epilog: str) -> Parser:
    """A parser with the options that all commands have.

    Args:
        name: the command's name after a space; "" for the program itself.
        arguments: those of the usage, such as "[PATH]".
        description: what the command prints or does.
        epilog: the end of the help, with the exit status.
    """
    made = Parser(
        prog=f"{output.PROGRAM}{name}",
        usage=f"%(prog)s [options] {arguments}",
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
    )
    made.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the program's version and exit"
    )
    return made


def reader_parser(
    name: str, description: str, epilog: str, *, path: str, items: str, several: bool = False
) -> Parser:
    """A parser for a command that makes a reader of PATH and ITEMs; see Parser.parse_words().

    Args:
        name: as for plain_parser().
        description: as for plain_parser().
        epilog: more sentences for the end of the help, "" or with a space at their end.
        path: the help of PATH.
        items: which items are the default.
        several: whether the command takes several PATHs, and --pid several times.
    """
    made = plain_parser(
        name,
        "[PATH ...] [ITEM ...]" if several else "[PATH] [ITEM ...]",
        description,
        "The first argument is PATH unless it is an item or a pattern, or --pid is given. "
        f"{epilog}Exit status: 0 for success, 1 if the cgroup cannot be read, 2 for wrong usage or "
        "an item that is unknown or unavailable here.",
    )
    made.add_argument("path", nargs="?", metavar="PATH", help=path)
    made.add_argument(
        "items",
        nargs="*",
        default=[],
        metavar="ITEM",
        help="an item such as anon, or a quoted pattern such as 'memory.events.*'; the command "
        f"items lists all (default: {items})",
    )
    made.add_argument(
        "--backend",
        choices=(_options.AUTO, *_options.BACKENDS),
        default=_options.AUTO,
        help="how to read: kfunc, rfc and core go through BPF, text parses the cgroup's files "
        "(default: auto, the fastest that works here)",
    )
    if several:
        made.add_argument(
            "--pid",
            action="append",
            default=[],
            type=process_id,
            metavar="PID",
            help=f"{_PID}; may be given several times",
        )
    else:
        add_pid(made)
    add_no_flush(made)
    return made


_PID = "instead of PATH: the cgroup that the process PID is in"


def add_pid(to: Parser) -> None:
    """Adds the option of commands that take PATH: a process whose cgroup is meant."""
    to.add_argument("--pid", type=process_id, metavar="PID", help=_PID)


def add_no_flush(to: Parser, more: str = "") -> None:
    """Adds the option of commands that can read without a flush."""
    to.add_argument("--no-flush", action="store_true", help=f"{_NO_FLUSH}{more}")


def add_bytes(to: Parser) -> None:
    """Adds the option of commands that print a table of values: numbers as the files have them."""
    to.add_argument(
        "--bytes",
        action="store_true",
        help="print plain numbers: sizes in bytes, stalled time in microseconds, no separators",
    )


def add_depth(
    to: Parser, what: str = "show only N levels below the root (default: all levels)"
) -> None:
    """Adds the option of commands that show a tree: how deep."""
    to.add_argument(
        "--depth",
        type=integer("levels"),
        metavar="N",
        help=what,
    )


def add_selection(to: Parser) -> None:
    """Adds the options of commands that export a tree: which cgroups."""
    add_depth(to, "export only N levels below the root (default: all levels)")
    for option, what in (
        ("--match", "export only cgroups whose path, as the label cgroup shows it, matches"),
        ("--exclude", "leave out cgroups whose path matches"),
    ):
        to.add_argument(
            option,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{what} the quoted shell pattern, in which * also stands for slashes; may be "
            "given several times",
        )
    to.add_argument(
        "--leaves",
        action="store_true",
        help="export only cgroups without cgroups below them, so that sums count no memory twice; "
        "with --depth, those at the last level, too",
    )


def add_sort(to: Parser, what: str) -> None:
    """Adds the option of commands that show a tree: the item to sort by."""
    to.add_argument("--sort", type=one_item, metavar="ITEM", help=what)


def add_interval(to: Parser, default: float) -> None:
    """Adds the option of commands that read repeatedly; it is None if it is not given."""
    to.add_argument(
        "--interval",
        type=seconds,
        metavar="SECONDS",
        help=f"seconds from one sample to the next, at least 0.001 (default: {default:g}; for a "
        "pinned tree, the interval at which it is refreshed; for several PATHs, the shortest one)",
    )


_SHORTEST, _LONGEST = 0.001, 1_000_000
_MOST = 10**12
_LARGEST_PID = 2**31 - 1


def seconds(text: str) -> float:
    """The type of an option whose value is a duration."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not _SHORTEST <= number <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds from {_SHORTEST} to {_LONGEST}"
        )
    return number


def integer(what: str, least: int = 0) -> Callable[[str], int]:
    """The type of an option whose value is a number of *what*."""

    def number(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST))
        if not digits or not least <= int(text) <= _MOST:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of {what} from {least} to {_MOST}"
            )
        return int(text)

    return number


def process_id(text: str) -> int:
    """The type of an option whose value is a process."""
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_PID))
    if not digits or not 0 < int(text) <= _LARGEST_PID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return int(text)


def one_item(text: str) -> str:
    """The type of an option whose value is an item, not a pattern."""
    if is_group(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a pattern, but one item is needed")
    return text
