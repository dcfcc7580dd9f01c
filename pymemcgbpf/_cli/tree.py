# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints a tree of cgroups with some of their statistics."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from .._items import CURRENT
from ..snapshot import Row, Snapshot
from . import command
from .units import FormattedValue, columns, human, padded, printable, utf_8

_DEFAULT_ITEMS = (CURRENT, "anon", "file")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_words(arguments)

    def text() -> str:
        with command.tree_reader(options, _DEFAULT_ITEMS, options.sort) as reader:
            snapshot = reader.read()
            if not options.json:
                command.warn_if_text(reader.backend, reader.fallback_reason)
        command.say_if_unseen(snapshot)
        lines = list(_lines(snapshot, options.depth, options.sort))
        return (_as_json if options.json else _as_table)(snapshot, lines)

    return command.run(text)


def _parser() -> command.Parser:
    parser = command.parser(
        " tree",
        "Print a tree of cgroups with some of their memory statistics, read in one walk.",
        "Cgroups without the memory controller are not shown. ",
        "the root's directory (default: the topmost that is visible), and the items to print "
        f"(default: {' '.join(_DEFAULT_ITEMS)})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    command.add_depth(parser)
    command.add_sort(parser, "siblings by this item, the largest first (else by name)")
    return parser


class _Branch(NamedTuple):
    """A line of the output.

    Attributes:
        row: the cgroup.
        path: its path, relative to the root.
        branch: what is drawn before its name.
    """

    row: Row
    path: str
    branch: str


def _lines(snapshot: Snapshot, depth: Optional[int], sort: Optional[str]) -> Iterator[_Branch]:
    """From top to bottom. A cgroup that has no path (any more) is left out."""
    root = snapshot[0]
    deepest = None if depth is None else root.level + depth
    children: dict[int, list[tuple[str, Row]]] = {}
    for row in snapshot[1:]:
        if deepest is None or row.level <= deepest:
            path = row.relative_path
            if path is not None:
                children.setdefault(row.parent_id, []).append((path, row))

    def largest_first(named: tuple[str, Row]) -> tuple[int, str]:
        path, row = named
        return (0 if sort is None else -row.get(sort, -1)), path

    fork, bar, corner = _drawing()
    # Those still to come, the next one last, each with what is drawn before its children.
    waiting = [(_Branch(root, ".", ""), "")]
    while waiting:
        line, margin = waiting.pop()
        yield line
        siblings = sorted(children.get(line.row.id, ()), key=largest_first, reverse=True)
        for at, (path, row) in enumerate(siblings):
            branch, below = (fork, bar) if at else (corner, "   ")
            waiting.append((_Branch(row, path, margin + branch), margin + below))


def _drawing() -> tuple[str, str, str]:
    """What the tree is drawn with, as the terminal can show it."""
    try:
        "├─│└".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "|- ", "|  ", "`- "
    return "├─ ", "│  ", "└─ "


def _as_json(snapshot: Snapshot, lines: Sequence[_Branch]) -> str:
    return json.dumps(
        [
            {
                "path": utf_8(os.path.normpath(os.path.join(snapshot.path or "", line.path))),
                "id": line.row.id,
                "parent_id": line.row.parent_id,
                "level": line.row.level,
                "items": dict(line.row),
            }
            for line in lines
        ],
        indent=2,
    )


def _as_table(snapshot: Snapshot, lines: Sequence[_Branch]) -> str:
    names = [line.branch + printable(_name(snapshot, line)) for line in lines]
    width = max(map(columns, names))
    items = [_column(item, lines) for item in snapshot.item_names]
    header = "".join(
        f"  {item:>{len(cells[0])}}" for item, cells in zip(snapshot.item_names, items)
    )
    table = [" " * width + header]
    for at, name in enumerate(names):
        table.append(padded(name, width) + "".join(f"  {cells[at]}" for cells in items))
    return "\n".join(line.rstrip() for line in table)


def _name(snapshot: Snapshot, line: _Branch) -> str:
    return snapshot.path or "" if line.path == "." else os.path.basename(line.path)


def _column(item: str, lines: Sequence[_Branch]) -> list[str]:
    """The cells below an item's name: numbers and units aligned, all of one width."""
    shown = [human(item, row[item]) if item in row else _NONE for row, _, _ in lines]
    number = max(len(each.number) for each in shown)
    unit = max(len(each.unit) for each in shown)
    cells = [f"{each.number:>{number}} {each.unit:<{unit}}" for each in shown]
    if not unit:
        cells = [cell[:-1] for cell in cells]
    width = max(len(item), len(cells[0]))
    return [f"{cell:>{width}}" for cell in cells]


_NONE = FormattedValue("-", "")
