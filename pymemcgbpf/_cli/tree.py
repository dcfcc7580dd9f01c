# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints a tree of cgroups with some of their statistics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Optional

from .._items import CURRENT
from .._records import Record
from ..snapshot import Row, Snapshot
from . import branches, command, parsers, readers, rows
from .pinned import PinnedRows
from .units import formatter

_DEFAULT_ITEMS = (CURRENT, "anon", "file")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_words(arguments)

    def text() -> str:
        with readers.tree_reader(options, _DEFAULT_ITEMS, options.sort) as reader:
            snapshot = reader.read()
            readers.warn_if_text(reader, is_brief=options.json)
            is_pin = isinstance(reader, PinnedRows)
        if options.top is None:
            lines = list(_drawn(snapshot, options.sort, nameless=is_pin))
        else:
            by = options.sort or snapshot.item_names[0]
            lines = list(itertools.islice(_listed(snapshot, by, nameless=is_pin), options.top))
        if options.json:
            return rows.as_json((_path(snapshot, line), line.row) for line in lines)
        named = [(line.name, line.row) for line in lines]
        return rows.as_table(named, snapshot.item_names, formatter(options.bytes))

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
    parsers.add_bytes(parser)
    parsers.add_depth(parser)
    parsers.add_sort(
        parser,
        "sort siblings by this item, the largest first (default: by name; with --top, the first "
        "ITEM)",
    )
    parser.add_argument(
        "--top",
        type=parsers.integer("cgroups", least=1),
        metavar="N",
        help="show a list of the N largest cgroups instead of a tree, with their paths below the "
        "root. A cgroup's numbers include those of the cgroups below it",
    )
    return parser


class _TreeLine(Record):
    """A line of the output.

    Attributes:
        row: the cgroup.
        path: its path, relative to the root; None where a pin has no names.
        name: what a table calls it, after the lines of the drawing.
    """

    row: Row
    path: Optional[str]
    name: str


def _listed(snapshot: Snapshot, by: str, nameless: bool) -> Iterator[_TreeLine]:
    """All cgroups as a list, the largest first. Those that lack the item are the last.

    Args:
        snapshot: a walk in any order.
        by: the item that they are sorted by.
        nameless: whether cgroups without a path are shown.
    """
    named = ((row.relative_path, row) for row in snapshot)
    shown = [(path, row) for path, row in named if path is not None or nameless]
    for path, row in sorted(shown, key=lambda each: (-each[1].get(by, -1), each[0] or "")):
        name = snapshot.path if path == "." else path
        yield _TreeLine(row, path, name or rows.name_of(row))


def _drawn(snapshot: Snapshot, sort: Optional[str], nameless: bool) -> Iterator[_TreeLine]:
    """The cgroups as a tree, from top to bottom.

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

    for siblings in children.values():
        siblings.sort(key=largest_first)
    for (path, row), branch in branches.drawn(children, lambda named: named[1].id):
        below = path or None
        yield _TreeLine(row, below, branch + _name(snapshot, row, below))


def _path(snapshot: Snapshot, line: _TreeLine) -> Optional[str]:
    if line.path is None:
        return None
    return os.path.normpath(os.path.join(snapshot.path or "", line.path))


def _name(snapshot: Snapshot, row: Row, path: Optional[str]) -> str:
    if path is None:
        return rows.name_of(row)
    return snapshot.path or "" if path == "." else os.path.basename(path)
