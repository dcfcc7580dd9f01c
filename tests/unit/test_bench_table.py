# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The table of the benchmark, made of invented times."""

from __future__ import annotations

import time
from typing import Optional

import pytest

from tests.bench import goals, runner, table
from tests.bench.names import (
    BY_PATH,
    BY_PATH_CHANGED,
    C_ITERATOR,
    C_MAP,
    METRICS,
    ONE,
    OPENED_EACH_TIME,
    OS_WALK,
    RATES,
    READER,
    SIX,
    TREE,
    by,
)
from tests.bench.table import Report

SECTION = ONE.format(SIX)
FLOOR = C_ITERATOR[False]


def report(
    label: str, times: dict[str, list[float]], section: str = SECTION, floor: str = FLOOR
) -> Report:
    """The report of a machine; *times* has the nanoseconds per read of each round, by name."""
    found = []
    for name, rounds in times.items():
        one = runner.Contestant(name, section, lambda _: 0.0, None, floor)
        one.rounds = rounds
        found.append(one)
    return {"label": label, "machine": "", "notes": [], "results": table.results(found)}


LIVE = report(
    "Linux 6.18, live",
    {
        FLOOR: [2000, 1000, 1500],
        READER[False]: [2900, 2500],
        READER[True]: [4000],
        OPENED_EACH_TIME: [20_000],
    },
)
LAB = report("Linux 7.3, lab", {FLOOR: [42_000], "another": [84_000]})


def test_a_ratio_is_of_the_best_round_to_the_floor_s_best_one() -> None:
    found = table.find(LIVE, SECTION, READER[False])
    assert found is not None
    assert (found["best_us"], found["median_us"], found["ratio"]) == (2.5, 2.7, 2.5)
    assert found["against"] == FLOOR and found["rounds_ns"] == [2900, 2500]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        (FLOOR, ["1.00", "1.00×", "42.00", "1.00×"]),
        (READER[False], ["2.50", "2.50×", "-"]),
        ("another", ["-", "84.00", "2.00×"]),
    ],
)
def test_machines_stand_beside_each_other_and_what_one_lacks_is_a_dash(
    name: str, cells: list[str]
) -> None:
    lines = table.table([LIVE, LAB]).splitlines()
    assert lines[0].split("  ")[-1] == "Linux 7.3, lab" and "Linux 6.18, live" in lines[0]
    assert lines[2] == SECTION
    (row,) = (line for line in lines if line.strip().startswith(f"{name}  "))
    assert row.split(name)[1].split() == cells
    columns = {len(line) for line in lines[3:] if line.endswith("×")}
    assert columns == {len(lines[0])} == {len(lines[1])}


@pytest.mark.parametrize(
    ("without", "line"),
    [
        (
            None,
            f"{SECTION}, {READER[False]}: 2.50 × the C iterator; 8.0 × (with the flush 5.0 ×) "
            "faster than memory.stat opened each time",
        ),
        (OPENED_EACH_TIME, None),
    ],
)
def test_the_goals_are_shown_if_all_their_results_exist(
    without: Optional[str], line: Optional[str]
) -> None:
    kept = [one for one in LIVE["results"] if one["name"] != without]
    partial: Report = {"label": "", "machine": "", "notes": [], "results": kept}
    assert list(goals.goals(partial)) == ([] if line is None else [line])


def test_a_goal_is_shown_with_what_was_measured() -> None:
    section, way = TREE.format(1001, SIX), by("shared")
    times: dict[str, list[float]] = {
        C_MAP + way: [500, 400],
        BY_PATH + way: [1000],
        BY_PATH_CHANGED + way: [1500],
        METRICS + way: [1400],
        RATES + way: [120],
        OS_WALK: [50_000],
    }
    found = goals.goals(report("", times, section, C_MAP + way))
    assert [line.removeprefix(f"{section}, ") for line in found] == [
        f"{BY_PATH}{way}: 2.50 × the iterator's walk (goal: at most 4)",
        f"{METRICS}{way}: 3.50 × the iterator's walk (goal: at most 6)",
        f"{BY_PATH_CHANGED}{way}: 1.50 × that of an unchanged tree (goal: at most 1.5)",
        f"{BY_PATH}{way}: 50 × faster than Python over the files (goal: at least 60)",
        f"{RATES}{way}: 0.12 µs (goal: at most 0.5)",
    ]
    assert not list(goals.goals(report("", times, TREE.format(1001, "all items"), C_MAP + way)))


def test_what_precedes_a_read_is_not_timed() -> None:
    done: list[str] = []

    def prepare() -> None:
        done.append("prepare")
        time.sleep(0.05)

    batch = runner.timed_after(prepare, lambda: done.append("read"))
    assert 0 < batch(3) < 50_000_000
    assert done == ["prepare", "read"] * 3
