# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Repeats the experiment of the kernel patch on this machine: text against numbers."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from .. import _unbuilt
from .._bench import contestants, formatting, rounds, tables
from .._bench.machine import this_machine
from .._bench.tables import Section
from .._cgroup import directory as _directory
from .._cgroup import mounts as _mounts
from ..errors import BpfObjectError, MemcgError
from . import command

_SECONDS = 40.0
_CONTROLS = {
    "raw": contestants.RAW,
    "decoded": contestants.DECODED,
    "opened": contestants.OPENED,
}
_LEGEND = (
    "µs a read, which is seconds a million. raw, decoded, opened: how many times faster than that "
    "control; the patch's first form was held against raw, its merged form against decoded; most "
    "programs read memory.stat as opened."
)
_TREE_LEGEND = "µs a cgroup. walked: how many times faster than that control."
_PUBLISHED = (
    "published with the patch (in C, the root, a million reads): raw 14.421 s, kfuncs 3.250 s, "
    "4.4×; in its merged form decoded 38.318 s, kfuncs 2.789 s, 13.7×"
)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = command.plain_parser(
        " bench",
        "[PATH]",
        "Repeat the experiment of the kernel patch here: read a cgroup's statistics again and "
        "again, as text (the control) and in every way that this package has; six items, and all; "
        "then the whole tree below it at once. All are compared before they are timed, and read "
        "in turns.",
        "real, user and sys are as of time(1). Without --iterations it takes about a minute at "
        "most. What part of the control's time the kernel spends on formatting is what perf, where "
        "it is installed and allowed, sees within seq_buf_printf and its kin. "
        "Exit status: 0; 1 where the cgroup could not be read; 2 for wrong usage.",
    )
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="a cgroup's directory (default: the root that is visible, as in the experiment)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--seconds",
        type=command.seconds,
        default=_SECONDS,
        metavar="N",
        help=f"how long all take together, about (default: {_SECONDS:.0f})",
    )
    parser.add_argument(
        "--iterations",
        type=command.integer("reads", least=1),
        metavar="N",
        help="read a cgroup so many times in each way instead: 1000000 as in the experiment "
        "(minutes); the tree's part keeps its time",
    )
    options = parser.parse_args(arguments)

    def text() -> str:
        unbuilt = _unbuilt()
        if unbuilt:
            raise BpfObjectError(f"nothing was timed: {unbuilt}", call="open")
        with _progress() as progress:
            try:
                report = _Report(options.path, options.seconds, options.iterations, progress)
            except MemcgError:
                raise
            except OSError as error:  # of the text, whose cgroup was removed meanwhile
                raise MemcgError(f"memory.stat can no longer be read: {error.strerror}") from error
        return report.as_json() if options.json else report.as_text(_block())

    return command.run(text)


class _Report:
    """All parts, run."""

    def __init__(
        self,
        path: Optional[str],
        seconds: float,
        iterations: Optional[int],
        progress: Callable[[str], None],
    ) -> None:
        if path is None:
            path = _mounts.hierarchy_root(_mounts.own_cgroup())
        cgroup = _directory.open_cgroup(path)
        self.absent: list[contestants.Absent] = []
        try:
            with contextlib.ExitStack() as stack:
                self.parts = self._parts(cgroup, stack)
                self.compared = sum(contestants.compare(part.contestants) for part in self.parts)
                each = seconds / sum(len(part.contestants) for part in self.parts)
                for part in self.parts:
                    reads = None if part is self.parts[-1] else iterations

                    def told(what: str, title: str = part.title) -> None:
                        progress(f"{title}: {what}")

                    rounds.race(part.contestants, each, reads, told)
                progress("which part of it is formatting")
                self.formatting = formatting.share(self.parts[0].contestants[0].read)
        finally:
            cgroup.close()
        self.machine = {
            **this_machine(),
            "cgroup": f"cgroup v{cgroup.version}",
            "path": cgroup.path,
        }

    def _parts(self, cgroup: _directory.Cgroup, stack: contextlib.ExitStack) -> list[Section]:
        six = contestants.six_of(cgroup)
        found = []
        for title, items in ((f"{len(six)} items", six), ("all of memory.stat", None)):
            who = [
                *contestants.controls(cgroup, items, stack),
                *contestants.readers(cgroup, items, self.absent, stack),
            ]
            found.append(Section(title, who, _CONTROLS))
        who = list(contestants.trees(cgroup, six, self.absent, stack))
        cgroups = f"{who[0].per} cgroup{'s' * (who[0].per != 1)}"
        found.append(Section(f"{cgroups}, {len(six)} items", who, {"walked": contestants.WALKED}))
        return found

    def reasons(self) -> dict[str, str]:
        """Why not → which ways, together; each way once."""
        ways: dict[str, dict[str, None]] = {}
        for way, why in self.absent:
            ways.setdefault(why, {})[way] = None
        return {", ".join(those): why for why, those in ways.items()}

    def as_text(self, block: str) -> str:
        """For people."""
        lines = [_filled(", ".join(self.machine.values())), ""]
        for part in self.parts:
            lines += [tables.table(part), "", tables.chart(part, block), ""]
            if part is self.parts[-2]:
                lines += [_filled(_LEGEND), ""]
        lines += [_TREE_LEGEND, ""]
        lines += [_filled(f"not here: {ways}: {why}") for ways, why in self.reasons().items()]
        share, samples, why = self.formatting
        what = "the share of the kernel's formatting in raw"
        if share is None:
            lines.append(_filled(f"{what} could not be told: {why}"))
        else:
            lines.append(f"{what}: {share:.0%} ({samples:,} samples by perf)")
        reads = [one.reads for part in self.parts[:-1] for one in part.contestants]
        lines.append(
            _filled(
                f"{self.compared} values and sums of memory.stat compared; {min(reads):,} to "
                f"{max(reads):,} reads of one cgroup in each way, in {rounds.ROUNDS} rounds"
            )
        )
        return "\n".join([*lines, _filled(_PUBLISHED)])

    def as_json(self) -> str:
        """For programs."""
        share, samples, why = self.formatting
        return json.dumps(
            {
                "machine": self.machine,
                "parts": [tables.as_objects(part) for part in self.parts],
                "values_compared": self.compared,
                "not_here": self.reasons(),
                "formatting": {"share": share, "samples": samples, "why": why},
            },
            indent=2,
        )


def _filled(text: str) -> str:
    return textwrap.fill(text, tables.WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _block() -> str:
    try:
        "█×".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"


_BETWEEN = 0.1  # seconds


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Says what goes on in a line on stderr, where that is a terminal; the line goes at the end."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    stream, due = sys.stderr, 0.0

    def say(what: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            stream.write(f"\r\x1b[K{what[: tables.WIDTH - 1]}")
            stream.flush()
            due = time.monotonic() + _BETWEEN

    try:
        yield say
    finally:
        stream.write("\r\x1b[K")
        stream.flush()
