# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A report of the benchmark for people and for programs: tables and bar charts, or JSON."""

from __future__ import annotations

import json
import sys
import textwrap

from .._bench import rounds
from .._bench.benchmark import Report, ReportSection
from . import table

WIDTH = 80

_LEGEND = (
    "Times are µs for one read, which is seconds for a million. raw, decoded, opened: how many "
    "times faster than that control. The patch's first form was compared with raw, its merged form "
    "with decoded; most programs read memory.stat as opened."
)
_TREE_LEGEND = "Times are µs for one cgroup. walked: how many times faster than that control."
_PUBLISHED = (
    "published with the patch (in C, the root, a million reads): raw 14.421 s, kfuncs 3.250 s, "
    "4.4×; in its merged form decoded 38.318 s, kfuncs 2.789 s, 13.7×"
)


def as_text(report: Report) -> str:
    """The report for people."""
    block = _block()
    lines = [_filled(", ".join(report.machine.values())), ""]
    for section in report.sections:
        lines += [times(section), "", chart(section, block), ""]
        if section is report.sections[-2]:
            lines += [_filled(_LEGEND), ""]
    lines += [_TREE_LEGEND, ""]
    lines += [_filled(f"unavailable here: {ways}: {why}") for ways, why in report.reasons().items()]
    share, samples, why = report.formatting
    what = "share of the kernel's formatting in raw"
    if share is None:
        lines.append(_filled(f"{what}: unknown, because {why}"))
    else:
        lines.append(f"{what}: {share:.0%} ({samples:,} samples by perf)")
    reads = [one.reads for section in report.sections[:-1] for one in section.contestants]
    lines.append(
        _filled(
            f"{report.compared} values and sums of memory.stat compared; {min(reads):,} to "
            f"{max(reads):,} reads of one cgroup in each way, in {rounds.ROUNDS} rounds"
        )
    )
    return "\n".join([*lines, _filled(_PUBLISHED)])


def as_json(report: Report) -> str:
    """The report for programs, with every round."""
    return json.dumps(
        {
            "machine": report.machine,
            "parts": [_as_object(section) for section in report.sections],
            "values_compared": report.compared,
            "not_here": report.reasons(),
            "formatting": report.formatting._asdict(),
        },
        indent=2,
    )


def _as_object(section: ReportSection) -> dict[str, object]:
    faster = section.times_faster()
    return {
        "part": section.title,
        "results": [
            {
                "name": one.name,
                "reads": one.reads,
                "real_us": one.microseconds("real"),
                "user_us": one.microseconds("user"),
                "sys_us": one.microseconds("system"),
                "times_faster": faster[one.name],
                "rounds": [batch._asdict() for batch in one.batches],
            }
            for one in section.contestants
        ],
    }


def times(section: ReportSection) -> str:
    """A table with a row for each contestant: real, user and sys in µs, and how much faster."""
    faster = section.times_faster()
    rows = [[section.title, "real", "user", "sys", *section.controls]]
    for one in section.contestants:
        cells = (f"{one.microseconds(what):.2f}" for what in ("real", "user", "system"))
        rows.append([one.name, *cells, *(f"{ratio:.1f}×" for ratio in faster[one.name].values())])
    names, *columns = zip(*rows)
    return table.join(table.left(names), *map(table.right, columns))


def chart(section: ReportSection, block: str) -> str:
    """A bar for each contestant's real time; the longest fills the line.

    Args:
        block: the character that bars are made of.
    """
    real = {one.name: one.microseconds("real") for one in section.contestants}
    most, names = max(real.values()), table.left(list(real))
    longest = WIDTH - len(names[0]) - len(f"   {most:.2f}")
    bars = (f"{block * max(1, round(longest * time / most))} {time:.2f}" for time in real.values())
    return table.join(names, bars)


def _block() -> str:
    """What bars are made of, as the output can show it."""
    try:
        "█×".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
