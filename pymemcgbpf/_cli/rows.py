# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The rows of a tree for people and for programs: as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Optional

from .._lookup import utf_8
from ..snapshot import Row
from . import table
from .json_values import nullable
from .units import FormattedValue, Formatter, printable

_NO_VALUE = FormattedValue("-", "")


def name_of(row: Row) -> str:
    """The path of a row, relative to the walk's root; its id, where no path is known."""
    return row.relative_path or f"cgroup {row.id}"


def as_table(
    named: Sequence[tuple[str, Row]], items: Sequence[str], show: Formatter, corner: str = ""
) -> str:
    """A line for each row: what its first cell shows, then its items; *corner* is above."""
    names = table.left([corner, *(printable(name) for name, _ in named)])
    columns = (
        table.right([item, *table.values([_value(item, row, show) for _, row in named])])
        for item in items
    )
    return table.join(names, *columns)


def _value(item: str, row: Row, show: Formatter) -> FormattedValue:
    return show(item, row[item]) if item in row else _NO_VALUE


def as_json(placed: Iterable[tuple[Optional[str], Row]]) -> str:
    """A JSON array of rows, each with its cgroup's path, or None."""
    return json.dumps(
        [
            {
                "path": None if path is None else utf_8(path),
                "id": row.id,
                "parent_id": row.parent_id,
                "level": row.level,
                "items": nullable(row),
            }
            for path, row in placed
        ],
        indent=2,
    )
