# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What all commands have in common: options, errors as one line, and printing."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Callable, NoReturn, Optional

from .. import _options
from .._items import CATALOGUE, close_names, is_group, item_named
from .._version import VERSION
from ..errors import ItemUnavailableError, MemcgError, UnknownItemError
from .units import printable

if TYPE_CHECKING:
    from ..reader import StatsReader, TreeReader
    from ..snapshot import Snapshot

PROGRAM = "pymemcgbpf"
OK, FAILED, USAGE = 0, 1, 2

ONE_CGROUP = (
    "a cgroup's directory (default: this process's own cgroup), and the items to print, or "
    "groups of them like 'memory.events.*' (default: memory.stat's and memory.current)"
)
"""The help of PATH and ITEM for commands that read one cgroup."""


class Parser(argparse.ArgumentParser):
    """An argument parser that tells of a wrong option in one line, without the usage.

    Attributes:
        after_help: what the help ends with, printed as it is.
    """

    after_help = ""

    def error(self, message: str) -> NoReturn:
        warn(f"{message} (see --help)")
        raise SystemExit(USAGE)

    def parse_words(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Options anywhere among the words; behind ``--``, which argparse then forgets, words
        alone."""
        at = list(arguments).index("--") if "--" in arguments else len(arguments)
        options = self.parse_intermixed_args(arguments[:at])
        options.words += arguments[at + 1 :]
        return options

    def exit(self, status: int = OK, message: Optional[str] = None) -> NoReturn:
        """What --help and --version have printed may fail to be written yet."""
        if status == OK and not _flushed():
            status = FAILED
        super().exit(status, message)

    def format_help(self) -> str:
        return super().format_help() + self.after_help


def warn(message: str) -> None:
    """One line on stderr, without control characters; nothing where that is closed (print would
    take stdout instead), or where nobody reads it."""
    if sys.stderr is not None:
        line = printable(f"{PROGRAM}: {message}".replace("\n", " "))
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def parser(command: str, description: str, epilog: str, words: str) -> Parser:
    """The parser of a command that reads cgroups itself, with the options that all those have."""

    made = plain_parser(
        command,
        "[PATH] [ITEM ...]",
        description,
        "A first word that is a path, or no item's name and without a star, is PATH. "
        f"{epilog}Exit status: 0; 1 where the cgroup could not be read; 2 for wrong usage or an "
        "item that is not to be had.",
    )
    made.add_argument("words", nargs="*", metavar="PATH, ITEM", help=words)
    made.add_argument(
        "--backend",
        choices=(_options.AUTO, *_options.BACKENDS),
        default=_options.AUTO,
        help="where the numbers come from (default: the best that works here)",
    )
    made.add_argument(
        "--no-flush",
        action="store_true",
        help="do not bring pending updates in first: cheaper, up to about 2 s old",
    )
    return made


def plain_parser(command: str, words: str, description: str, epilog: str) -> Parser:
    """A command's parser, with the options that all have."""
    made = Parser(
        prog=f"{PROGRAM}{command}",
        usage=f"%(prog)s [options] {words}",
        description=description,
        epilog=epilog,
    )
    made.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    return made


_SHORTEST, _LONGEST = 0.001, 1_000_000
_MOST = 10**12


def seconds(text: str) -> float:
    """An option's value: an interval."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not _SHORTEST <= number <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {_SHORTEST} to {_LONGEST}"
        )
    return number


def integer(what: str, least: int = 0) -> Callable[[str], int]:
    """The type of an option whose value is a number of *what*."""

    def number(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST))
        if not digits or not least <= int(text) <= _MOST:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}")
        return int(text)

    return number


def add_depth(to: Parser) -> None:
    """The option of commands that show a tree: how deep."""
    to.add_argument(
        "--depth",
        type=integer("levels"),
        metavar="N",
        help="show no more than N levels below the root",
    )


def add_sort(to: Parser, what: str) -> None:
    """The option of commands that show a tree: by which item it is sorted."""
    to.add_argument("--sort", type=one_item, metavar="ITEM", help=what)


def add_interval(to: Parser, default: int) -> None:
    """The option of commands that read again and again."""
    to.add_argument(
        "--interval",
        type=seconds,
        default=float(default),
        metavar="SECONDS",
        help=f"from one look to the next (default: {default})",
    )


def one_item(text: str) -> str:
    """An option's value: an item, no group of them."""
    if is_group(text):
        raise argparse.ArgumentTypeError(f"{text} stands for several items")
    return text


def path_and_items(words: Sequence[str]) -> tuple[Optional[str], Optional[list[str]]]:
    """What the words mean; None for what they do not say."""
    if not words:
        return None, None
    first = words[0]
    if (item_named(first) or is_group(first)) and not os.path.isdir(first):
        return None, list(words)
    if os.sep not in first and not os.path.lexists(first):
        from .main import COMMANDS

        like = close_names(first, COMMANDS) or close_names(first, CATALOGUE)
        hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else ""
        message = f"{first!r} is neither a command, a path nor an item{hint}"
        if first in COMMANDS:
            message = f"{first!r} is a command: it comes before all options"
        raise UnknownItemError(message, item=first, suggestions=like)
    return first, list(words[1:]) or None


def stats_reader(options: argparse.Namespace) -> StatsReader:
    """A reader of the cgroup that is meant: by default this process's own."""
    from .._cgroup import mounts as _mounts
    from ..reader import StatsReader

    path, items = path_and_items(options.words)
    return StatsReader(
        path if path is not None else _mounts.own_cgroup(),
        items,
        flush=not options.no_flush,
        backend=options.backend,
    )


def tree_reader(
    options: argparse.Namespace, default: Optional[Sequence[str]] = None, also: Optional[str] = None
) -> TreeReader:
    """A reader of the tree that is meant: by default all that is visible.

    Args:
        options: of the command.
        default: the items, if none are named.
        also: one more, if it is not among them.
    """
    from .._cgroup import mounts as _mounts
    from ..reader import TreeReader

    path, items = path_and_items(options.words)
    if path is None:
        path = _mounts.hierarchy_root(_mounts.own_cgroup())
    chosen = items or default
    if chosen is not None:
        chosen = [*chosen, *([] if also is None else [also])]
    return TreeReader(path, chosen, flush=not options.no_flush, backend=options.backend)


def run(make_text: Callable[[], Optional[str]]) -> int:
    """Prints a text, if there is one; returns the exit status."""

    def texts() -> Iterator[str]:
        text = make_text()
        if text is not None:
            yield text

    return run_each(texts)


def run_each(make_texts: Callable[[], Iterable[str]]) -> int:
    """Prints texts, each as soon as it is made; returns the exit status."""
    try:
        for text in make_texts():
            if not _printed(text):
                return FAILED
    except (UnknownItemError, ItemUnavailableError) as error:
        return _complain(error, USAGE)
    except MemcgError as error:
        return _complain(error, FAILED)
    return OK


def _printed(text: str) -> bool:
    if sys.stdout is None:
        warn("cannot write: standard output is closed")
        return False
    if sys.stdout.isatty():  # whoever names a cgroup must not command the terminal
        text = "\n".join(map(printable, text.split("\n")))
    encoding = sys.stdout.encoding or "ascii"
    return _flushed(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))


def _flushed(text: str = "") -> bool:
    """Whether standard output has taken this, and all that was printed before."""
    if sys.stdout is None:
        return True
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is buffered cannot be written either; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read our output has gone (head)
            warn(f"cannot write: {error.strerror}")
        return False
    return True


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Has SIGTERM, and SIGHUP where it is not ignored (nohup), end the program by an exception,
    as Ctrl-C does."""

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, leave)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def warn_if_text(backend: str, why: str) -> None:
    """Tells people that the numbers came the slow way."""
    if backend == "text" and why:
        warn(f"read as text; {why}")


def say_if_unseen(snapshot: Snapshot) -> None:
    """Tells how many cgroups of a tree have no path here."""
    unseen = sum(row.path is None and not row.gone for row in snapshot)
    if unseen:
        warn(f"{unseen} cgroups are left out: their directories cannot be seen")


def _complain(error: MemcgError, status: int) -> int:
    warn(str(error))
    return status
