# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Explains the benchmark's report to people: its words, and what follows from its numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .._bench import contestants
from .._bench.benchmark import Report, ReportSection
from . import table

INTRODUCTION = (
    "How long one read of memory statistics takes, in µs (seconds for a million reads). real: the "
    "time that passes; user, sys: CPU time in the program and in the kernel. The other columns: "
    "how many times as fast as that control, so 2.0× takes half its time. A control reads "
    "memory.stat without this package."
)

_MEANINGS = {
    "raw": "the control that keeps memory.stat open and reads it without parsing it, which is "
    "mostly the kernel's own work",
    "decoded": "the control that keeps memory.stat open, reads it and parses it",
    "opened": "the control that opens, reads, parses and closes memory.stat for each read, as most "
    "programs do",
    "walked": "the control that does this in every directory of the tree",
    "StatsReader": "this package's reader of one cgroup, made once and then used again and again",
    "read_stats()": "this package's function, which finds such a reader again at each call",
    "TreeReader": "this package's reader of all cgroups of a tree in one walk",
    "kfunc": "a BPF program calls functions that Linux 7.0 and later has for it (kfuncs)",
    "rfc": "the same by the functions of the kernel patch's first form, a request for comments; no "
    "released kernel has them",
    "core": "a BPF program reads the counters in the kernel's memory (Linux 5.10 and later; CO-RE)",
    "text": "this package without BPF: it parses the files",
    "run": "the program is run by one system call",
    "shared": "an iterator writes the rows of a tree into memory that this process has mapped",
    "stream": "the output of an iterator is read like a file",
    "flush=False": "the kernel does not add its pending updates first: up to 2 s old",
    "copy=False": "the rows are not copied, and expire at the next read",
    "dicts": "each cgroup's items as a dict; {path: dict}: by the cgroup's path",
}
_COLUMNS = ("raw", "decoded", "opened", "walked")


def glossary(report: Report, width: int) -> str:
    """A line or two for each word that is in the report."""
    shown = " ".join(one.name for section in report.sections for one in section.contestants)
    shown = " ".join((shown, *(each.way for each in report.absent), *_COLUMNS))
    words = {word: meaning for word, meaning in _MEANINGS.items() if word in shown}
    indent = 2 + len(table.left(list(words))[0]) + 2
    lines = (
        textwrap.fill(
            f"  {word:<{indent - 4}}  {meaning}",
            width,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
        for word, meaning in words.items()
    )
    return "\n".join(("The words:", *lines))


def conclusion(report: Report) -> str:
    """What the numbers mean for a program."""
    first, tree = report.sections[0], report.sections[-1]
    sentences = [
        f"In short: for {first.title} of one cgroup, what most programs do (opened) takes "
        f"{_time(first, contestants.OPENED)} µs, and {', or '.join(_stats_readers(first))}.",
        f"For a tree, it takes {_time(tree, contestants.WALKED)} µs a cgroup, and "
        f"{_compared(tree, _default(tree, 'TreeReader'), 'walked')}.",
    ]
    if _default(first, "StatsReader").endswith("text"):
        sentences.append("BPF is not used here: pymemcgbpf doctor says what can be done.")
    sentences.append(
        "A program need not choose: the fastest way that works is the default. It should keep its "
        "reader for all reads, read many cgroups by one TreeReader, and pass flush=False if "
        "numbers may be 2 s old."
    )
    return " ".join(sentences)


def _stats_readers(section: ReportSection) -> Iterator[str]:
    default = _default(section, "StatsReader")
    yield _compared(section, default, "opened")
    unflushed = f"{default}, flush=False"
    if unflushed in section.times_faster():
        yield f"{_time(section, unflushed)} µs with flush=False"


def _default(section: ReportSection, reader: str) -> str:
    """The fastest kind of way, which is the default: the first one in the section's order."""
    names = [one.name for one in section.contestants if one.name.startswith(f"{reader}, ")]
    return next(name for name in names if "copy=" not in name)


def _compared(section: ReportSection, name: str, control: str) -> str:
    ratio = section.times_faster()[name][control]
    return f"{name} {_time(section, name)} µs, which is {ratio:.1f} times as fast"


def _time(section: ReportSection, name: str) -> str:
    (found,) = (one for one in section.contestants if one.name == name)
    return f"{found.microseconds('real'):.2f}"
