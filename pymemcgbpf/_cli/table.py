# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Aligned tables: the cells of a column are padded to one width, then columns are joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .units import FormattedValue, columns


def left(cells: Sequence[str], least: int = 0) -> list[str]:
    """The cells of one column, aligned left; *least* is the column's minimal width."""
    width = max(least, *map(columns, cells), 0)
    return [cell + " " * (width - columns(cell)) for cell in cells]


def right(cells: Sequence[str], least: int = 0) -> list[str]:
    """The cells of one column, aligned right; *least* is the column's minimal width."""
    width = max(least, *map(columns, cells), 0)
    return [" " * (width - columns(cell)) + cell for cell in cells]


def values(cells: Sequence[FormattedValue]) -> list[str]:
    """The cells of one column, with numbers aligned right and units aligned left."""
    numbers, units = right([cell.number for cell in cells]), left([cell.unit for cell in cells])
    if not any(units):
        return numbers
    return [f"{number} {unit}" for number, unit in zip(numbers, units)]


def join(*parts: Iterable[str]) -> str:
    """The lines of a table, from its columns."""
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*parts))
