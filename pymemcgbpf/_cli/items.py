# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the items that this kernel offers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .. import _functions
from .._items import Item, item_named
from . import command, parsers, readers, table

_COLUMNS = ("name", "unit", "kind", "file", "description")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.plain_parser(
        " items",
        "[PATH]",
        "List the items that this kernel offers, which other commands take as ITEM: name, unit, "
        "kind, file and description of each.",
        "A question mark follows the name of an item of a newer kernel that this version does not "
        "know; it can be read nevertheless. Exit status: 0 for success, 1 if the cgroup cannot be "
        "read, 2 for wrong usage.",
    )
    parser.add_argument("path", nargs="?", metavar="PATH", help=parsers.OWN_CGROUP)
    parsers.add_pid(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array of items")
    options = parser.parse_args(arguments)

    def text() -> str:
        items = _functions.list_items(readers.cgroup_of(options.path, options.pid))
        return (_as_json if options.json else _as_table)(items)

    return command.run(text)


def _as_json(items: Sequence[Item]) -> str:
    return json.dumps(
        [
            {**{column: getattr(item, column) for column in _COLUMNS}, "known": _is_known(item)}
            for item in items
        ],
        indent=2,
    )


def _as_table(items: Sequence[Item]) -> str:
    lines = [_COLUMNS, *map(_cells, items)]
    return table.join(*map(table.left, zip(*lines)))


def _cells(item: Item) -> tuple[str, ...]:
    mark = "" if _is_known(item) else "?"
    unit, kind = (f"{word}{mark}" for word in (item.unit, item.kind))
    return f"{item.name}{mark}", unit, kind, item.file, item.description


def _is_known(item: Item) -> bool:
    return item_named(item.name) is not None
