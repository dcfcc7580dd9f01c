# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The commands that create, read and remove pins."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, Optional

from .. import _options
from .._pins import find
from .._pins.remove import unpin
from .._pins.tree_layout import MOST_ROWS as _MOST_ROWS
from .._pins.tree_layout import ORDERS as _TREE_ORDERS
from .._samples import Ticks
from ..errors import MemcgError, PinNotFoundError, TreeTooLargeError, is_transient
from ..snapshot import Snapshot
from . import command, output, parsers, pinned, readers, rows, signals
from .stat import as_json, as_table
from .units import formatter

if TYPE_CHECKING:
    from .._pins.create_tree import PinnedTree

_STATUS = "Exit status: 0 for success, 1 for a failure, 2 for wrong usage{}."
_EVERY = 1.0  # in seconds
_BY_KERNEL = "kernel"  # PinnedTree.refreshed_by


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``pin``; returns its exit status."""
    parser = _pin_parser()
    options = parser.parse_intermixed_args(arguments)
    _check_combination(parser, options)
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
        cgroup = readers.cgroup_of(path, options.pid)
        assert cgroup is not None, "one of both is given"
        make_it = _make_tree if options.tree else _make_pin
        make_it(cgroup, pin_path, items or None, options)

    with signals.exit_on_signals():  # so that an unfinished pin is removed
        return command.run(make)


def _pin_parser() -> parsers.Parser:
    parser = _parser(
        "pin",
        "PATH PIN [ITEM ...]",
        "Create a file, called a pin, in a bpffs (usually /sys/fs/bpf). Any user with read "
        "permission can read memory statistics from it, with cat, stat, tree, top, watch and "
        "export; no privileges and no running process are needed. A pin stays until unpin "
        "removes it or the machine restarts.",
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
        "children: its children only (default: self; with --tree: pre)",
    )
    parser.add_argument(
        "--tree",
        action="store_true",
        help="show the whole tree, of any size: PIN becomes a directory whose numbers are "
        "refreshed at an interval, whoever reads them. Linux 6.12 or later does that itself, and "
        "the command ends at once; elsewhere the command refreshes the pin until it is "
        "interrupted, and then removes it",
    )
    parser.add_argument(
        "--every",
        type=parsers.seconds,
        metavar="SECONDS",
        help="with --tree, the seconds from one refresh to the next (default: 1)",
    )
    parser.add_argument(
        "--no-names",
        action="store_true",
        help="with --tree, do not show the names of cgroups to those who cannot see them elsewhere",
    )
    parsers.add_depth(
        parser, "with --tree, show only N levels below the root (default: all levels)"
    )
    parser.add_argument(
        "--room",
        type=parsers.integer("cgroups", least=1),
        metavar="N",
        help="with --tree, have room for N cgroups, at most 65536, as the kernel can have no more "
        "(default: 65536, or as many as 1/64 of the machine's memory has room for)",
    )
    parsers.add_no_flush(parser, "; without --tree, Linux 6.16 to 6.19 require this option")
    parser.add_argument(
        "--mode",
        type=_mode,
        default=0o444,
        metavar="MODE",
        help="permissions of the pin, an octal number (default: 0444)",
    )
    return parser


def _check_combination(parser: parsers.Parser, options: argparse.Namespace) -> None:
    """Refuses options that do not go with one another."""
    if options.tree:
        if options.order not in (None, *_TREE_ORDERS):
            orders = ", ".join(_TREE_ORDERS)
            parser.error(f"--order with --tree must be one of {orders}, not {options.order}")
        return
    for option, value in (
        ("--every", options.every),
        ("--no-names", options.no_names or None),
        ("--depth", options.depth),
        ("--room", options.room),
    ):
        if value is not None:
            parser.error(f"{option} needs --tree")


def _make_pin(
    cgroup: str, pin_path: str, items: Optional[list[str]], options: argparse.Namespace
) -> None:
    from .._pins.create import pin

    order: _options.Order = options.order or "self"
    pin(cgroup, pin_path, items, order=order, flush=not options.no_flush, mode=options.mode)


def _make_tree(
    cgroup: str, pin_path: str, items: Optional[list[str]], options: argparse.Namespace
) -> None:
    """Pins a tree. If the kernel does not refresh it, this does, until a signal ends it."""
    from .._pins.create_tree import pin_tree

    if options.room is not None and options.room > _MOST_ROWS:
        output.warn(f"room for {_MOST_ROWS} cgroups is made, as the kernel can have no more")
    tree = pin_tree(
        cgroup,
        pin_path,
        items,
        every=_EVERY if options.every is None else options.every,
        flush=not options.no_flush,
        order=options.order or "pre",
        max_depth=options.depth,
        names=not options.no_names,
        mode=options.mode,
        room=options.room,
    )
    if tree.refreshed_by == _BY_KERNEL:
        return
    with tree:
        output.warn(
            f"the kernel cannot refresh {pin_path}, so this command does, every "
            f"{tree.interval:g} s until it is interrupted: {tree.reason}"
        )
        try:
            _refresh(tree)
        except SystemExit:  # SIGTERM is the proper end of it
            return
        except PinNotFoundError as error:  # and unpin is, too
            output.warn(str(error))


def _refresh(tree: PinnedTree) -> NoReturn:
    """Refreshes a pinned tree for ever; what creates it has made the first walk.

    A refresh that fails for now is announced once. If walks are slow, fewer are made, as the
    kernel does.
    """
    ticks, said, pause = Ticks(tree.interval), "", 0.0
    ticks.take()
    while True:
        time.sleep(max(ticks.delay(), pause))
        ticks.take()
        failure, began = "", time.monotonic()
        try:
            tree.refresh()
        except MemcgError as error:
            if not isinstance(error, TreeTooLargeError) and not is_transient(error):
                raise
            failure = str(error)
        if failure and failure != said:
            output.warn(failure)
        said = failure
        took = time.monotonic() - began
        pause = find.pause(0, took) - took


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
        "PIN [ITEM ...]",
        "Print the memory statistics that a pin shows. This needs read permission for the pin, and "
        "no privileges.",
    )
    parser.add_argument("pin", metavar="PIN", help="path of the pin, a file or a directory")
    parser.add_argument(
        "items",
        nargs="*",
        default=[],
        metavar="ITEM",
        help="an item of the pin, or a quoted pattern (default: all that it has)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object, or an array of objects if the pin shows several cgroups",
    )
    parsers.add_bytes(parser)
    options = parser.parse_intermixed_args(arguments)
    other = next((word for word in options.items if os.sep in word), None)
    if other is not None:
        parser.error(f"cat takes one PIN, and {other} is another one")

    def text() -> str:
        with pinned.PinnedContents(options.pin, pinned.Chosen(options.items or None)) as reader:
            values = reader.read()
        show = formatter(options.bytes)
        if isinstance(values, Snapshot):
            if options.json:
                return rows.as_json((row.path, row) for row in values)
            named = [(row.path or f"cgroup {row.id}", row) for row in values]
            age = f"{values.age:.1f} s ago"
            return rows.as_table(named, values.item_names, show, age if reader.is_tree else "")
        return as_json(values) if options.json else as_table(values, show)

    return command.run(text)


def _parser(name: str, arguments: str, description: str) -> parsers.Parser:
    items = " or an item that is unknown or unavailable here" if "ITEM" in arguments else ""
    return parsers.plain_parser(f" {name}", arguments, description, _STATUS.format(items))


def _mode(text: str) -> int:
    mode = int(text, 8) if text.isascii() and re.fullmatch("(0o)?[0-7]+", text) else -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not an octal number from 0 to 0777")
    return mode
