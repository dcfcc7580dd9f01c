# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The figures that the project has goals for, out of one machine's results."""

from __future__ import annotations

from collections.abc import Iterator

from .names import ALL, C_ITERATOR, DICTS, ONE, OPENED_ANEW, READER, RUN_READER, SIX, VIEW, by
from .table import Report, find


def goals(report: Report) -> Iterator[str]:
    """A line for each that can be told."""
    for items in (SIX, ALL):
        section = ONE.format(items)
        for readers in (RUN_READER, READER):
            found = {flush: find(report, section, readers[flush]) for flush in (False, True)}
            seed = find(report, section, C_ITERATOR[False])
            anew = find(report, section, OPENED_ANEW)
            quick, fresh = found[False], found[True]
            if quick and fresh and seed and anew:
                yield (
                    f"{section}, {readers[False]}: "
                    f"{quick['best_us'] / seed['best_us']:.2f} × the C iterator; "
                    f"{anew['best_us'] / quick['best_us']:.1f} × (with the flush "
                    f"{anew['best_us'] / fresh['best_us']:.1f} ×) faster than opened anew"
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
