# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The ratios that the project has goals for, computed from one machine's results."""

from __future__ import annotations

from collections.abc import Iterator

from .names import (
    ALL,
    C_ITERATOR,
    COPY,
    DICTS,
    ONE,
    OPENED_EACH_TIME,
    RATES,
    READER,
    RUN_READER,
    SIX,
    VIEW,
    by,
)
from .table import Report, find


def goals(report: Report) -> Iterator[str]:
    """One line for each ratio whose contestants are all in the report."""
    for items in (SIX, ALL):
        section = ONE.format(items)
        for readers in (RUN_READER, READER):
            found = {flush: find(report, section, readers[flush]) for flush in (False, True)}
            iterator = find(report, section, C_ITERATOR[False])
            opened = find(report, section, OPENED_EACH_TIME)
            unflushed, flushed = found[False], found[True]
            if unflushed and flushed and iterator and opened:
                yield (
                    f"{section}, {readers[False]}: "
                    f"{unflushed['best_us'] / iterator['best_us']:.2f} × the C iterator; "
                    f"{opened['best_us'] / unflushed['best_us']:.1f} × (with the flush "
                    f"{opened['best_us'] / flushed['best_us']:.1f} ×) faster than memory.stat "
                    "opened each time"
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
            copied = find(report, section, COPY + way)
            rates = find(report, section, RATES + way)
            if copied and rates:
                yield (
                    f"{section}, TreeReader{way}: since() and the rates of 3 items take "
                    f"{rates['best_us'] - copied['best_us']:.2f} µs"
                )
