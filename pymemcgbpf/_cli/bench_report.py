# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A report of the benchmark for people and for programs: tables and bar charts, or JSON."""

from __future__ import annotations

import json
import sys
import textwrap

from .._bench import rounds
from .._bench.benchmark import Report, ReportSection
from . import bench_words, table

WIDTH = 80

_TREE = "In the table of the tree, times are µs for one cgroup."
_PUBLISHED = (
    "This repeats an experiment. The kernel patch that lets BPF programs read memory cgroups was "
    "published with these times for a million reads of the root, in C: in its first form raw "
    "14.421 s and kfuncs 3.250 s, 4.4×; in the form of Linux 7.0 decoded 38.318 s and kfuncs "
    "2.789 s, 13.7×."
)


def as_text(report: Report) -> str:
    """The report for people."""
    block = _block()
    lines = [_filled(", ".join(report.machine.values())), ""]
    lines += [_filled(bench_words.INTRODUCTION, ""), _TREE, ""]
    for section in report.sections:
        lines += [times(section), "", chart(section, block), ""]
    lines += [bench_words.glossary(report, WIDTH), ""]
    lines += [_filled(f"unavailable here: {ways}: {why}") for ways, why in report.reasons().items()]
    share, samples, why = report.formatting
    what = "the kernel's formatting of text is this part of raw"
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
    lines += ["", _filled(_PUBLISHED, ""), "", _filled(bench_words.conclusion(report), "")]
    return "\n".join(lines)


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


def _filled(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
