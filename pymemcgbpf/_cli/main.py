# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints one cgroup's statistics."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Optional

from .. import _backend, _cgroupfs
from .._version import VERSION
from ..errors import ItemUnavailableError, MemcgError, UnknownItemError
from ..items import CATALOGUE
from ..reader import StatsReader
from .units import human

_PROGRAM = "pymemcgbpf"
_OK, _FAILED, _USAGE = 0, 1, 2


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit status: 0, 1 (could not read) or 2 (usage)."""
    options = _parser().parse_intermixed_args(arguments)
    path, items = _path_and_items(options.words)
    try:
        with StatsReader(
            path if path is not None else _cgroupfs.own_cgroup(),
            items,
            flush=not options.no_flush,
            backend=options.backend,
        ) as reader:
            values = reader.read()
            text = _as_json(values) if options.json else _as_table(values)
            if reader.backend == "text" and reader.why and not options.json:
                print(f"{_PROGRAM}: read as text; {reader.why}", file=sys.stderr)
    except (UnknownItemError, ItemUnavailableError) as error:
        return _complain(error, _USAGE)
    except MemcgError as error:
        return _complain(error, _FAILED)
    if sys.stdout is None:
        print(f"{_PROGRAM}: cannot write: standard output is closed", file=sys.stderr)
        return _FAILED
    try:
        print(text)
        sys.stdout.flush()
    except OSError as error:
        # What is buffered cannot be written either; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read our output has gone (head)
            print(f"{_PROGRAM}: cannot write: {error.strerror}", file=sys.stderr)
        return _FAILED
    return _OK


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong option: one line, without the usage."""
        print(f"{_PROGRAM}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(_USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python3 -m {_PROGRAM}",
        usage="%(prog)s [options] [PATH] [ITEM ...]",
        description="Print a cgroup's memory statistics, read as numbers through BPF.",
        epilog="A first word that is a path or no item's name is PATH. Exit status: 0; 1 where "
        "the cgroup could not be read; 2 for wrong usage or an item that is not to be had.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PATH, ITEM",
        help="a cgroup's directory (default: this process's own cgroup), and the items to "
        "print (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--backend",
        choices=(_backend.AUTO, *_backend.BEST_FIRST),
        default=_backend.AUTO,
        help="where the numbers come from (default: the best that works here)",
    )
    parser.add_argument(
        "--no-flush",
        action="store_true",
        help="do not bring pending updates in first: cheaper, up to about 2 s old",
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {VERSION}")
    return parser


def _path_and_items(words: Sequence[str]) -> tuple[Optional[str], Optional[list[str]]]:
    if not words:
        return None, None
    first = words[0]
    if first in CATALOGUE and not os.path.isdir(first):
        return None, list(words)
    return first, list(words[1:]) or None


def _as_json(values: dict[str, int]) -> str:
    return json.dumps(values, indent=2)


def _as_table(values: dict[str, int]) -> str:
    shown = [(name, human(name, value)) for name, value in values.items()]
    name_width = max((len(name) for name, _ in shown), default=0)
    value_width = max((len(value.number) for _, value in shown), default=0)
    return "\n".join(
        f"{name:<{name_width}}  {value.number:>{value_width}} {value.unit}".rstrip()
        for name, value in shown
    )


def _complain(error: MemcgError, status: int) -> int:
    print(f"{_PROGRAM}: {error}".replace("\n", " "), file=sys.stderr)
    return status
