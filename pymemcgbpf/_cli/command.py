# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What all commands have in common: options, errors as one line, and printing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Callable, NoReturn, Optional

from .._catalogue import CATALOGUE, close_names, is_group, item_named
from .._version import VERSION
from ..errors import ItemUnavailableError, MemcgError, UnknownItemError

PROGRAM = "pymemcgbpf"
OK, FAILED, USAGE = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """An argument parser that tells of a wrong option in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        say(f"{message} (see --help)")
        raise SystemExit(USAGE)


def say(message: str) -> None:
    """One line on stderr; nothing where that is closed (print would take stdout instead)."""
    if sys.stderr is not None:
        print(f"{PROGRAM}: {message}".replace("\n", " "), file=sys.stderr)


def parser(command: str, description: str, epilog: str, words: str) -> Parser:
    """A command's parser, with the options that those have that read cgroups themselves."""
    from .. import _backend  # which imports ctypes: reading pins does not need it

    made = Parser(
        prog=f"python3 -m {PROGRAM}{command}",
        usage="%(prog)s [options] [PATH] [ITEM ...]",
        description=description,
        epilog="A first word that is a path, or no item's name and without a star, is PATH. "
        f"{epilog}Exit status: 0; 1 where the cgroup could not be read; 2 for wrong usage or an "
        "item that is not to be had.",
    )
    made.add_argument("words", nargs="*", metavar="PATH, ITEM", help=words)
    made.add_argument(
        "--backend",
        choices=(_backend.AUTO, *_backend.BEST_FIRST),
        default=_backend.AUTO,
        help="where the numbers come from (default: the best that works here)",
    )
    made.add_argument(
        "--no-flush",
        action="store_true",
        help="do not bring pending updates in first: cheaper, up to about 2 s old",
    )
    made.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    return made


def path_and_items(words: Sequence[str]) -> tuple[Optional[str], Optional[list[str]]]:
    """What the words mean; None for what they do not say."""
    if not words:
        return None, None
    first = words[0]
    if (item_named(first) or is_group(first)) and not os.path.isdir(first):
        return None, list(words)
    if os.sep not in first and not os.path.lexists(first):
        like = close_names(first, CATALOGUE)
        hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else ""
        message = f"{first!r} is neither a path nor an item{hint}"
        raise UnknownItemError(message, item=first, suggestions=like)
    return first, list(words[1:]) or None


def run(make_text: Callable[[], Optional[str]]) -> int:
    """Prints a text, if there is one; returns the exit status."""
    try:
        text = make_text()
    except (UnknownItemError, ItemUnavailableError) as error:
        return _complain(error, USAGE)
    except MemcgError as error:
        return _complain(error, FAILED)
    if text is None:
        return OK
    if sys.stdout is None:
        say("cannot write: standard output is closed")
        return FAILED
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is buffered cannot be written either; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read our output has gone (head)
            say(f"cannot write: {error.strerror}")
        return FAILED
    return OK


def say_if_text(backend: str, why: str) -> None:
    """Tells people that the numbers came the slow way."""
    if backend == "text" and why:
        say(f"read as text; {why}")


def _complain(error: MemcgError, status: int) -> int:
    say(str(error))
    return status
