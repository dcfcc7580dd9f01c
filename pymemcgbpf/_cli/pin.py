# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes pins, removes them, and prints what they give."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Optional

from .. import _options
from .._pins.read import PinnedReader
from .._pins.remove import unpin
from ..snapshot import Row, Snapshot
from . import command
from .units import FormattedValue, columns, human, padded, printable, utf_8

_STATUS = "Exit status: 0; 1 where it failed; 2 for wrong usage or an item that is not to be had."


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``pin``; returns its exit status."""
    parser = _parser(
        "pin",
        "PATH PIN [ITEM ...]",
        "Put a cgroup's memory statistics into a bpffs, where whoever may read the file can read "
        "them without privilege (see cat --help). They stay until they are unpinned.",
    )
    parser.add_argument("path", metavar="PATH", help="the cgroup's directory")
    parser.add_argument(
        "pin", metavar="PIN", help="the file to be made, in a bpffs: /sys/fs/bpf/NAME, without dots"
    )
    parser.add_argument(
        "items",
        nargs="*",
        default=[],  # else argparse calls it required
        metavar="ITEM",
        help="what is to be read, or groups like 'memory.events.*' (default: memory.stat's items "
        "and memory.current)",
    )
    parser.add_argument(
        "--order",
        choices=tuple(_options.ORDERS),
        help="of a walk (default: self, this cgroup alone)",
    )
    parser.add_argument(
        "--tree",
        action="store_true",
        help="all cgroups below it, too, any number: PIN is to be a directory of several pins",
    )
    parser.add_argument(
        "--room",
        type=command.integer("cgroups", least=1),
        metavar="N",
        help="with --tree: for N cgroups (default: twice as many as there are, and some more)",
    )
    parser.add_argument(
        "--no-flush",
        action="store_true",
        help="do not bring pending updates in first: cheaper, up to about 2 s old; on Linux 6.16 "
        "to 6.19 nothing else can be had",
    )
    parser.add_argument(
        "--mode", type=_mode, default=0o444, metavar="MODE", help="permissions (default: 0444)"
    )
    options = parser.parse_intermixed_args(arguments)
    if options.tree and options.order is not None:
        parser.error("--tree has an order of its own, pre")
    if options.room is not None and not options.tree:
        parser.error("--room is of use with --tree alone")

    def make() -> None:
        from .._pins.create import pin, pin_tree

        items, flush = options.items or None, not options.no_flush
        if options.tree:
            pin_tree(
                options.path,
                options.pin,
                items,
                flush=flush,
                mode=options.mode,
                room=options.room,
            )
        else:
            order: _options.Order = options.order or "self"
            pin(options.path, options.pin, items, order=order, flush=flush, mode=options.mode)

    with command.signals_raise():  # so that what is half made is taken back
        return command.run(make)


def main_unpin(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``unpin``; returns its exit status."""
    parser = _parser("unpin", "PIN", "Remove what pin made, a file or a directory; nothing else.")
    parser.add_argument("pin", metavar="PIN", help="where it is")
    options = parser.parse_args(arguments)
    return command.run(lambda: unpin(options.pin))


def main_cat(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``cat``; returns its exit status."""
    parser = _parser(
        "cat", "PIN", "Print the memory statistics that a pin gives, read without privilege."
    )
    parser.add_argument("pin", metavar="PIN", help="the pin, a file or a directory")
    parser.add_argument(
        "--json", action="store_true", help="print JSON: an object, or of a walk an array"
    )
    options = parser.parse_args(arguments)

    def text() -> str:
        with PinnedReader(options.pin) as reader:
            values = reader.read()
        if isinstance(values, Snapshot):
            return (
                json.dumps(list(map(_as_object, values)), indent=2)
                if options.json
                else (_walk_as_table(values))
            )
        return json.dumps(values, indent=2) if options.json else _as_table(values)

    return command.run(text)


def _parser(name: str, words: str, description: str) -> command.Parser:
    return command.plain_parser(f" {name}", words, description, _STATUS)


def _mode(text: str) -> int:
    mode = int(text, 8) if text.isascii() and re.fullmatch("(0o)?[0-7]+", text) else -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 0777")
    return mode


def _as_object(row: Row) -> dict[str, object]:
    return {
        "path": None if row.path is None else utf_8(row.path),
        "id": row.id,
        "parent_id": row.parent_id,
        "level": row.level,
        "items": dict(row),
    }


def _as_table(values: dict[str, int]) -> str:
    return _aligned([[name] for name in values], [[human(*one) for one in values.items()]])


def _walk_as_table(snapshot: Snapshot) -> str:
    names = [[printable(row.path or f"cgroup {row.id}")] for row in snapshot]
    numbers = [
        [human(item, row[item]) if item in row else FormattedValue("-", "") for row in snapshot]
        for item in snapshot.item_names
    ]
    return _aligned([[""], *names], numbers, snapshot.item_names)


def _aligned(
    lines: list[list[str]], numbers: list[list[FormattedValue]], header: Sequence[str] = ()
) -> str:
    """Names on the left, then columns of numbers with their units, each of one width."""
    width = max((columns(line[0]) for line in lines), default=0)
    for line in lines:
        line[0] = padded(line[0], width)
    for at, column in enumerate(numbers):
        number = max((len(each.number) for each in column), default=0)
        unit = max((len(each.unit) for each in column), default=0)
        cells = [f"{each.number:>{number}} {each.unit:<{unit}}" for each in column]
        if header:
            cells = [header[at], *(cell.rstrip() if not unit else cell for cell in cells)]
            cells = [f"{cell:>{max(map(len, cells))}}" for cell in cells]
        for line, cell in zip(lines, cells):
            line.append(cell)
    return "\n".join("  ".join(line).rstrip() for line in lines)
