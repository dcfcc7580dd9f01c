# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints a tree of cgroups with some of their statistics."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Optional

from .._items import CURRENT
from .._records import Record
from ..snapshot import Row, Snapshot
from . import command, parsers, readers, rows
from .pinned import PinnedRows

_DEFAULT_ITEMS = (CURRENT, "anon", "file")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_words(arguments)

    def text() -> str:
        with readers.tree_reader(options, _DEFAULT_ITEMS, options.sort) as reader:
            snapshot = reader.read()
            if not options.json:
                readers.warn_if_text(reader.backend, reader.fallback_reason)
            is_pin = isinstance(reader, PinnedRows)
        lines = list(_lines(snapshot, options.sort, nameless=is_pin))
        return (_as_json if options.json else _as_table)(snapshot, lines)

    return command.run(text)


def _parser() -> parsers.Parser:
    parser = parsers.reader_parser(
        " tree",
        "Print a tree of cgroups, a line each, with some of their memory statistics. The whole "
        "tree is read in one walk.",
        "Cgroups without the memory controller are not shown. ",
        path=f"{parsers.TOPMOST_CGROUP}{parsers.OR_PIN}",
        items=" ".join(_DEFAULT_ITEMS),
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON array of cgroups, with sizes in bytes and stalled time in "
        "microseconds",
    )
    parsers.add_depth(parser)
    parsers.add_sort(parser, "sort siblings by this item, the largest first (default: by name)")
    return parser


class _Branch(Record):
    """A line of the output.

    Attributes:
        row: the cgroup.
        path: its path, relative to the root; None where a pin has no names.
        branch: the lines of the drawing that precede its name.
    """

    row: Row
    path: Optional[str]
    branch: str


def _lines(snapshot: Snapshot, sort: Optional[str], nameless: bool) -> Iterator[_Branch]:
    """The lines from top to bottom.

    Args:
        snapshot: a walk in any order.
        sort: the item that siblings are sorted by.
        nameless: whether cgroups without a path are shown.
    """
    ids = set(snapshot.ids)
    children: dict[Optional[int], list[tuple[str, Row]]] = {}
    for row in snapshot:
        path = row.relative_path
        if path is not None or nameless:
            parent = row.parent_id if row.parent_id in ids else None
            children.setdefault(parent, []).append((path or "", row))

    def largest_first(named: tuple[str, Row]) -> tuple[int, str, int]:
        path, row = named
        return (0 if sort is None else -row.get(sort, -1)), path, row.id

    fork, bar, corner = _drawing()
    # The lines still to come, the next one last, each with the drawing before its children.
    tops = sorted(children.pop(None, ()), key=largest_first, reverse=True)
    waiting = [(_Branch(row, path or None, ""), "") for path, row in tops]
    while waiting:
        line, margin = waiting.pop()
        yield line
        # pop(): a pin may claim anything, but what is below an id is shown once.
        below_it = children.pop(line.row.id, ())
        siblings = sorted(below_it, key=largest_first, reverse=True)
        for at, (path, row) in enumerate(siblings):
            branch, below = (fork, bar) if at else (corner, "   ")
            waiting.append((_Branch(row, path or None, margin + branch), margin + below))


def _drawing() -> tuple[str, str, str]:
    """The characters that draw the tree; ASCII where the output cannot show better ones."""
    try:
        "├─│└".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "|- ", "|  ", "`- "
    return "├─ ", "│  ", "└─ "


def _as_json(snapshot: Snapshot, lines: Sequence[_Branch]) -> str:
    return rows.as_json((_path(snapshot, line), line.row) for line in lines)


def _path(snapshot: Snapshot, line: _Branch) -> Optional[str]:
    if line.path is None:
        return None
    return os.path.normpath(os.path.join(snapshot.path or "", line.path))


def _as_table(snapshot: Snapshot, lines: Sequence[_Branch]) -> str:
    named = [(line.branch + _name(snapshot, line), line.row) for line in lines]
    return rows.as_table(named, snapshot.item_names)


def _name(snapshot: Snapshot, line: _Branch) -> str:
    if line.path is None:
        return rows.name_of(line.row)
    return snapshot.path or "" if line.path == "." else os.path.basename(line.path)
