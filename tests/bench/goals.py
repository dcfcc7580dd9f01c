# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The ratios that the project has goals for, computed from one machine's results."""

from __future__ import annotations

from collections.abc import Iterator

from .names import (
    ALL,
    BY_PATH,
    BY_PATH_CHANGED,
    BY_PATH_FIRST,
    C_COPY,
    C_DECODED,
    C_ITERATOR,
    C_MAP,
    DICTS,
    METRICS,
    ONE,
    OPENED_EACH_TIME,
    OS_WALK,
    PINNED_READ,
    PINNED_TREE_READER,
    RATES,
    READER,
    RUN_READER,
    SIX,
    VIEW,
    by,
)
from .table import Report, find

# What a user does with a tree, and its largest ratio to the walk of an iterator, in C. (The walk by
# "run" is faster by now.)
_AT_MOST = ((BY_PATH, 4), (BY_PATH_FIRST, 8), (METRICS, 6))
_MOST_IF_CHANGED = 1.5  # to the same in a tree that did not change
# The goals of a StatsReader.
_ONE_GOALS = {
    (RUN_READER[False], SIX): (" (goal: at most 0.6)", " (goal: at least 8)"),
    (RUN_READER[False], ALL): ("", " (goal: at least 6)"),
}
_PINNED_AT_MOST = {"map": 0.5, "stream": 3}
_LEAST_GAIN = 60  # of {path: dict}, against Python over the files
_MOST_OF_RATES = 0.5  # µs per cgroup


def goals(report: Report) -> Iterator[str]:
    """One line for each ratio whose contestants are all in the report."""
    for items in (SIX, ALL):
        section = ONE.format(items)
        for readers in (RUN_READER, READER):
            found = {flush: find(report, section, readers[flush]) for flush in (False, True)}
            iterator = find(report, section, C_ITERATOR[False])
            opened = find(report, section, OPENED_EACH_TIME)
            decoded = find(report, section, C_DECODED)
            unflushed, flushed = found[False], found[True]
            if not (unflushed and flushed and opened):
                continue
            most, least = _ONE_GOALS.get((readers[False], items), ("", ""))
            floor, what = (iterator, "the C iterator") if iterator else (decoded, "C that decodes")
            assert floor is not None
            ratio = unflushed["best_us"] / floor["best_us"]
            yield (
                f"{section}, {readers[False]}: {ratio:.2f} × {what}{most if iterator else ''}; "
                f"{opened['best_us'] / unflushed['best_us']:.1f} × (with the flush "
                f"{opened['best_us'] / flushed['best_us']:.1f} ×) faster than memory.stat "
                f"opened each time{least}"
            )
    for section in dict.fromkeys(one["section"] for one in report["results"]):
        for transport in ("run", "shared"):
            way = by(transport)
            view = find(report, section, VIEW + way)
            dicts = find(report, section, DICTS + way)
            if view and dicts:
                yield (
                    f"{section}, TreeReader{way}: {view['ratio']:.2f} × the C walk; a dict of a "
                    f"row takes {dicts['best_us'] - view['best_us']:.2f} µs"
                )
            floor = find(report, section, C_COPY + way)
            if view and floor:
                yield (
                    f"{section}, {VIEW}{way}: {view['best_us'] / floor['best_us']:.2f} × a C walk "
                    "that only copies the counters (goal: at most 1.2)"
                )
            if section.endswith(f"{SIX}, each"):
                yield from _named(report, section, way)
        yield from _pinned(report, section)


def _pinned(report: Report, section: str) -> Iterator[str]:
    """The readers of a pinned tree, each with its goal."""
    tree = find(report, section, PINNED_TREE_READER)
    for transport, most in _PINNED_AT_MOST.items():
        found = find(report, section, PINNED_READ[transport])
        if found and tree:
            ratio = found["best_us"] / tree["best_us"]
            yield (
                f"{section}, {PINNED_READ[transport]}: {ratio:.3f} × {PINNED_TREE_READER} "
                f"(goal: at most {most})"
            )


def _named(report: Report, section: str, way: str) -> Iterator[str]:
    """What users do with a walk of 6 items, each with its goal."""
    what = "the iterator's walk"
    walk = find(report, section, C_MAP + by("shared"))
    if not walk:  # this kernel has no iterators
        walk, what = find(report, section, C_MAP + way), "the C walk"
    for row, most in _AT_MOST:
        found = find(report, section, row + way)
        if found and walk:
            ratio = found["best_us"] / walk["best_us"]
            yield f"{section}, {row}{way}: {ratio:.2f} × {what} (goal: at most {most})"
    found, base = (find(report, section, row + way) for row in (BY_PATH_CHANGED, BY_PATH))
    if found and base:
        ratio = found["best_us"] / base["best_us"]
        yield (
            f"{section}, {BY_PATH_CHANGED}{way}: {ratio:.2f} × that of an unchanged tree "
            f"(goal: at most {_MOST_IF_CHANGED})"
        )
    found, walked = find(report, section, BY_PATH + way), find(report, section, OS_WALK)
    if found and walked:
        yield (
            f"{section}, {BY_PATH}{way}: {walked['best_us'] / found['best_us']:.0f} × faster than "
            f"Python over the files (goal: at least {_LEAST_GAIN})"
        )
    rates = find(report, section, RATES + way)
    if rates:
        yield f"{section}, {RATES}{way}: {rates['best_us']:.2f} µs (goal: at most {_MOST_OF_RATES})"
