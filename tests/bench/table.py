# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Contestants' times as one aligned table."""

from __future__ import annotations

from collections.abc import Sequence

from .runner import Contestant


def ratios(contestants: Sequence[Contestant]) -> dict[tuple[str, str], float]:
    """(name, column) → times the best of the one it is compared with."""
    best = {(one.name, one.column): one.best for one in contestants}
    return {(one.name, one.column): one.best / best[one.against, one.column] for one in contestants}


def table(contestants: Sequence[Contestant], titles: dict[str, str]) -> str:
    """A row for each name, and for each column µs per read and the ratio.

    Args:
        titles: columns, in their order → what stands above them.
    """
    ratio = ratios(contestants)
    cells = {
        (one.name, one.column): (f"{one.best:.2f}", f"{ratio[one.name, one.column]:.2f}×")
        for one in contestants
    }
    rows = [["", *(cell for title in titles.values() for cell in (title, "ratio"))]]
    for name in dict.fromkeys(one.name for one in contestants):
        times = (cells.get((name, column), ("", "")) for column in titles)
        rows.append([name, *(cell for pair in times for cell in pair)])
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def results(contestants: Sequence[Contestant]) -> list[dict[str, object]]:
    """The same for JSON, every round included."""
    ratio = ratios(contestants)
    return [
        {
            "name": one.name,
            "column": one.column,
            "best_us": one.best,
            "median_us": one.median,
            "ratio": ratio[one.name, one.column],
            "against": one.against,
            "rounds_ns": one.rounds,
        }
        for one in contestants
    ]
