# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs the benchmark of ``pymemcgbpf bench``, and holds what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Callable, Optional

from .._cgroup import directory as _directory
from .._cgroup import mounts as _mounts
from .._records import Record
from . import contestants, formatting, rounds
from .machine import this_machine
from .rounds import Contestant

CONTROLS = {
    "raw": contestants.RAW,
    "decoded": contestants.DECODED,
    "opened": contestants.OPENED,
}
"""Column → the control that each way of reading one cgroup is compared with."""


class ReportSection(Record):
    """Contestants that are compared with each other.

    Attributes:
        title: what they read.
        contestants: in their order.
        controls: column → name of the contestant that all are compared with.
    """

    title: str
    contestants: list[Contestant]
    controls: dict[str, str]

    def times_faster(self) -> dict[str, dict[str, float]]:
        """Contestant's name → column → how many times faster it is than that control."""
        real = {one.name: one.microseconds("real") for one in self.contestants}
        return {
            name: {column: real[control] / time for column, control in self.controls.items()}
            for name, time in real.items()
        }


class Report(Record):
    """What the benchmark found.

    Attributes:
        machine: what it ran on, each part in words.
        sections: those of one cgroup, then the one of the tree.
        compared: how many values of the contestants were compared before anything was timed.
        absent: the ways to read that are unavailable here.
        formatting: the share of the kernel's formatting in the first control's time.
    """

    machine: dict[str, str]
    sections: list[ReportSection]
    compared: int
    absent: list[contestants.Absent]
    formatting: formatting.Formatting

    def reasons(self) -> dict[str, str]:
        """Names of unavailable ways, joined, → the reason that they have in common."""
        ways: dict[str, dict[str, None]] = {}
        for way, why in self.absent:
            ways.setdefault(why, {})[way] = None
        return {", ".join(those): why for why, those in ways.items()}


def run(
    path: Optional[str],
    seconds: float,
    iterations: Optional[int],
    progress: Callable[[str], None],
) -> Report:
    """Reads a cgroup, and the tree below it, in every way that works here.

    Args:
        path: the cgroup's directory; None for the topmost visible one.
        seconds: how long all contestants read, together.
        iterations: how often each contestant reads the cgroup, instead of the seconds.
        progress: called with what is being done.

    Raises:
        MemcgError: the cgroup cannot be read.
        OSError: its text can no longer be read.
    """
    if path is None:
        path = _mounts.hierarchy_root(_mounts.own_cgroup())
    cgroup = _directory.open_cgroup(path)
    absent: list[contestants.Absent] = []
    try:
        with ExitStack() as stack:
            sections = list(_sections(cgroup, absent, stack))
            compared = sum(contestants.compare(section.contestants) for section in sections)
            each = seconds / sum(len(section.contestants) for section in sections)
            for section in sections:
                reads = None if section is sections[-1] else iterations

                def tell(what: str, title: str = section.title) -> None:
                    progress(f"{title}: {what}")

                rounds.race(section.contestants, each, reads, tell)
            progress("share of the kernel's formatting")
            formatted = formatting.share(sections[0].contestants[0].read)
    finally:
        cgroup.close()
    machine = {**this_machine(), "cgroup": f"cgroup v{cgroup.version}", "path": cgroup.path}
    return Report(machine, sections, compared, absent, formatted)


def _sections(
    cgroup: _directory.Cgroup, absent: list[contestants.Absent], stack: ExitStack
) -> Iterator[ReportSection]:
    six = contestants.six_of(cgroup)
    for title, items in ((f"{len(six)} items", six), ("all of memory.stat", None)):
        who = [
            *contestants.controls(cgroup, items, stack),
            *contestants.readers(cgroup, items, absent, stack),
        ]
        yield ReportSection(title, who, CONTROLS)
    who = list(contestants.trees(cgroup, six, absent, stack))
    cgroups = f"{who[0].per} cgroup{'s' * (who[0].per != 1)}"
    yield ReportSection(f"{cgroups}, {len(six)} items", who, {"walked": contestants.WALKED})
