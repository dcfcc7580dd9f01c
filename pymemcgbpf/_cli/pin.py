# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The commands that create, read and remove pins."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from typing import Optional

from .. import _options
from .._pins.read import PinnedReader
from .._pins.remove import unpin
from ..snapshot import Snapshot
from . import command, parsers, readers, rows, signals
from .stat import as_table

_STATUS = "Exit status: 0 for success, 1 for a failure, 2 for wrong usage{}."


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``pin``; returns its exit status."""
    parser = _parser(
        "pin",
        "PATH PIN [ITEM ...]",
        "Create a file, called a pin, in a bpffs (usually /sys/fs/bpf). Any user with read "
        "permission can read a cgroup's memory statistics from it with the command cat; no "
        "privileges and no running process are needed. A pin stays until unpin removes it or the "
        "machine restarts.",
    )
    parser.add_argument("path", nargs="?", metavar="PATH", help=parsers.A_CGROUP)
    parser.add_argument(
        "pin",
        nargs="?",
        metavar="PIN",
        help="path of the new file, such as /sys/fs/bpf/NAME; NAME must not contain dots",
    )
    parser.add_argument(
        "items",
        nargs="*",
        default=[],  # otherwise argparse says that it is required
        metavar="ITEM",
        help="an item such as anon, or a quoted pattern such as 'memory.events.*' (default: "
        f"{parsers.DEFAULT_ITEMS})",
    )
    parsers.add_pid(parser)
    parser.add_argument(
        "--order",
        choices=tuple(_options.ORDERS),
        help="the cgroups to show and their order. self: only this one; pre: the whole tree, "
        "parents first; post: the whole tree, children first; up: this one and those above it; "
        "children: its children only (default: self)",
    )
    parser.add_argument(
        "--tree",
        action="store_true",
        help="show the whole tree, however large it is: PIN becomes a directory of several pins",
    )
    parser.add_argument(
        "--room",
        type=parsers.integer("cgroups", least=1),
        metavar="N",
        help="with --tree, have room for N cgroups (default: somewhat more than twice as many as "
        "there are)",
    )
    parsers.add_no_flush(parser, "; Linux 6.16 to 6.19 require this option")
    parser.add_argument(
        "--mode",
        type=_mode,
        default=0o444,
        metavar="MODE",
        help="permissions of the pin, an octal number (default: 0444)",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.tree and options.order is not None:
        parser.error("--order cannot be combined with --tree, whose order is always pre")
    if options.room is not None and not options.tree:
        parser.error("--room needs --tree")
    words = [word for word in (options.path, options.pin, *options.items) if word is not None]
    needed = ["PATH", "PIN"] if options.pid is None else ["PIN"]
    missing = ", ".join(needed[len(words) :])
    if missing:
        parser.error(f"the following arguments are required: {missing}")
    path = words.pop(0) if options.pid is None else None
    pin_path, *items = words
    if options.pid is not None and any(os.sep in word for word in items):
        parser.error(readers.PATH_AND_PID)

    def make() -> None:
        from .._pins.create import pin, pin_tree

        cgroup, flush = readers.cgroup_of(path, options.pid), not options.no_flush
        assert cgroup is not None, "one of both is given"
        if options.tree:
            pin_tree(
                cgroup,
                pin_path,
                items or None,
                flush=flush,
                mode=options.mode,
                room=options.room,
            )
        else:
            order: _options.Order = options.order or "self"
            pin(cgroup, pin_path, items or None, order=order, flush=flush, mode=options.mode)

    with signals.exit_on_signals():  # so that an unfinished pin is removed
        return command.run(make)


def main_unpin(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``unpin``; returns its exit status."""
    parser = _parser(
        "unpin", "PIN", "Remove a pin, a file or a directory. Anything else is left alone."
    )
    parser.add_argument("pin", metavar="PIN", help="path of the pin")
    options = parser.parse_args(arguments)
    return command.run(lambda: unpin(options.pin))


def main_cat(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``cat``; returns its exit status."""
    parser = _parser(
        "cat",
        "PIN",
        "Print the memory statistics that a pin shows. This needs read permission for the pin, and "
        "no privileges.",
    )
    parser.add_argument("pin", metavar="PIN", help="path of the pin, a file or a directory")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object, or an array of objects if the pin shows several cgroups",
    )
    options = parser.parse_args(arguments)

    def text() -> str:
        with PinnedReader(options.pin) as reader:
            values = reader.read()
        if isinstance(values, Snapshot):
            if options.json:
                return rows.as_json((row.path, row) for row in values)
            named = [(row.path or f"cgroup {row.id}", row) for row in values]
            return rows.as_table(named, values.item_names)
        return json.dumps(values, indent=2) if options.json else as_table(values)

    return command.run(text)


def _parser(name: str, arguments: str, description: str) -> parsers.Parser:
    items = " or an item that is unknown or unavailable here" if "ITEM" in arguments else ""
    return parsers.plain_parser(f" {name}", arguments, description, _STATUS.format(items))


def _mode(text: str) -> int:
    mode = int(text, 8) if text.isascii() and re.fullmatch("(0o)?[0-7]+", text) else -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal number from 0 to 0777")
    return mode
