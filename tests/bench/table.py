# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes one table of the contestants' times, with columns for each machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional, TypedDict

from .runner import Contestant


class Result(TypedDict):
    """One contestant's times, for one read of a cgroup, or for one cgroup of a walk."""

    section: str
    name: str
    best_us: float
    median_us: float
    ratio: float
    against: str
    rounds_ns: list[float]


class Report(TypedDict):
    """What was measured on one machine.

    *label* is the heading of its columns; *notes* are printed below the table.
    """

    label: str
    machine: str
    notes: list[str]
    results: list[Result]


def results(contestants: Sequence[Contestant]) -> list[Result]:
    """The contestants' times, with those of every round."""
    best = {(one.name, one.section): one.best for one in contestants}
    return [
        {
            "section": one.section,
            "name": one.name,
            "best_us": one.best,
            "median_us": one.median,
            "ratio": one.best / best[one.against, one.section],
            "against": one.against,
            "rounds_ns": one.rounds,
        }
        for one in contestants
    ]


def find(report: Report, section: str, name: str) -> Optional[Result]:
    """A contestant's result, or None if the report does not have it."""
    for one in report["results"]:
        if (one["section"], one["name"]) == (section, name):
            return one
    return None


_TIME, _RATIO = 9, 9


def table(reports: Sequence[Report]) -> str:
    """The table: a row for each contestant, grouped by what they read, and for each machine the
    time in microseconds and the ratio to the C program that the row is compared with."""
    return "\n".join(line.rstrip() for line in _lines(reports))


def _lines(reports: Sequence[Report]) -> Iterator[str]:
    sections: dict[str, dict[str, None]] = {}
    for report in reports:
        for one in report["results"]:
            sections.setdefault(one["section"], {})[one["name"]] = None
    width = 2 + max(len(name) for names in sections.values() for name in names)
    widths = [max(len(report["label"]) + 2, _TIME + _RATIO) for report in reports]
    labels = (f"{report['label']:>{each}}" for report, each in zip(reports, widths))
    yield " " * width + "".join(labels)
    yield " " * width + "".join(f"{'µs':>{each - _RATIO}}{'ratio':>{_RATIO}}" for each in widths)
    for section, names in sections.items():
        yield section
        for name in names:
            line = f"  {name:<{width - 2}}"
            for report, each in zip(reports, widths):
                found = find(report, section, name)
                line += f"{_cells(found):>{each}}"
            yield line


def _cells(found: Optional[Result]) -> str:
    if found is None:
        return f"{'-':>{_RATIO}}"
    return f"{found['best_us']:.2f}{found['ratio']:>{_RATIO - 1}.2f}×"
