# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What came of it: a table, a bar chart in plain text, and the same for JSON."""

from __future__ import annotations

from typing import NamedTuple

from .rounds import Contestant

WIDTH = 80


class Section(NamedTuple):
    """Contestants that are compared with each other.

    Attributes:
        title: what they read.
        contestants: in their order.
        controls: what all are compared with: a column's name → a contestant's.
    """

    title: str
    contestants: list[Contestant]
    controls: dict[str, str]


def ratios(part: Section) -> dict[str, dict[str, float]]:
    """Contestant's name → control's column → how many times faster it is than that."""
    real = {one.name: one.microseconds("real") for one in part.contestants}
    return {
        name: {column: real[control] / time for column, control in part.controls.items()}
        for name, time in real.items()
    }


def table(part: Section) -> str:
    """A row for each contestant: real, user and sys in µs, and how many times faster."""
    ratio = ratios(part)
    rows = [[part.title, "real", "user", "sys", *part.controls]]
    for one in part.contestants:
        times = (f"{one.microseconds(what):.2f}" for what in ("real", "user", "system"))
        faster = (f"{times:.1f}×" for times in ratio[one.name].values())
        rows.append([one.name, *times, *faster])
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def chart(part: Section, block: str) -> str:
    """A bar for each contestant's real time; the longest fills the line.

    Args:
        block: what bars are made of, one column wide.
    """
    real = {one.name: one.microseconds("real") for one in part.contestants}
    most, width = max(real.values()), max(map(len, real))
    longest = WIDTH - width - len(f"   {most:.2f}")
    lines = []
    for name, time in real.items():
        bar = block * max(1, round(longest * time / most))
        lines.append(f"{name:<{width}}  {bar} {time:.2f}")
    return "\n".join(lines)


def as_objects(part: Section) -> dict[str, object]:
    """The same for JSON, every round included."""
    ratio = ratios(part)
    return {
        "part": part.title,
        "results": [
            {
                "name": one.name,
                "reads": one.reads,
                "real_us": one.microseconds("real"),
                "user_us": one.microseconds("user"),
                "sys_us": one.microseconds("system"),
                "times_faster": ratio[one.name],
                "rounds": [batch._asdict() for batch in one.batches],
            }
            for one in part.contestants
        ],
    }
