# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What all commands have in common: options, errors as one line, and printing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Callable, NoReturn, Optional

from .._catalogue import is_group, item_named
from .._version import VERSION
from ..errors import ItemUnavailableError, MemcgError, UnknownItemError

PROGRAM = "pymemcgbpf"
OK, FAILED, USAGE = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """An argument parser that tells of a wrong option in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{PROGRAM}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(USAGE)


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
        print(f"{PROGRAM}: cannot write: standard output is closed", file=sys.stderr)
        return FAILED
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is buffered cannot be written either; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read our output has gone (head)
            print(f"{PROGRAM}: cannot write: {error.strerror}", file=sys.stderr)
        return FAILED
    return OK


def say_if_text(backend: str, why: str) -> None:
    """Tells people that the numbers came the slow way."""
    if backend == "text" and why:
        print(f"{PROGRAM}: read as text; {why}", file=sys.stderr)


def _complain(error: MemcgError, status: int) -> int:
    print(f"{PROGRAM}: {error}".replace("\n", " "), file=sys.stderr)
    return status
