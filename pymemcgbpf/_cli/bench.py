# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Repeats the experiment of the kernel patch on this machine: text against numbers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Callable

from .. import _unbuilt
from .._bench import benchmark
from ..errors import BpfObjectError, MemcgError
from . import bench_report, command, parsers, readers

_SECONDS = 40.0


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.plain_parser(
        " bench",
        "[PATH]",
        "Measure how long it takes on this machine to read a cgroup's statistics: in the ways of a "
        "program without this package, which parses memory.stat (the controls), and in every way "
        "that this package offers. Six items are read, then all items, then the whole tree below "
        "the cgroup. The results are compared before anything is timed, and the ways of reading "
        "take turns. Prints tables and bar charts of the time for one read in microseconds, what "
        "each word in them means, and what a program gains.",
        "This repeats the experiment that was published with the kernel patch which lets BPF "
        "programs read memory cgroups (Linux 7.0). "
        "If perf is installed and allowed, it also shows which part of the control's time the "
        "kernel spends on formatting text. Exit status: 0 for success, 1 if the cgroup cannot be "
        "read, 2 for wrong usage.",
    )
    parser.add_argument("path", nargs="?", metavar="PATH", help=parsers.TOPMOST_CGROUP)
    parsers.add_pid(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--seconds",
        type=parsers.seconds,
        default=_SECONDS,
        metavar="N",
        help=f"about how many seconds all ways of reading take together (default: {_SECONDS:.0f})",
    )
    parser.add_argument(
        "--iterations",
        type=parsers.integer("reads", least=1),
        metavar="N",
        help="read the cgroup N times in each way, however long that takes; the published "
        "experiment had 1000000, which takes minutes (default: as many as --seconds allows). The "
        "tree is read as long as without this option",
    )
    options = parser.parse_args(arguments)

    def text() -> str:
        unbuilt = _unbuilt()
        if unbuilt:
            raise BpfObjectError(f"nothing was timed: {unbuilt}", call="open")
        path = readers.cgroup_of(options.path, options.pid)
        with _progress() as progress:
            try:
                report = benchmark.run(path, options.seconds, options.iterations, progress)
            except MemcgError:
                raise
            except OSError as error:  # raised for the text of a cgroup that was removed meanwhile
                raise MemcgError(f"memory.stat can no longer be read: {error.strerror}") from error
        return (bench_report.as_json if options.json else bench_report.as_text)(report)

    return command.run(text)


_BETWEEN = 0.1  # seconds


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows what is being done in one line of stderr, if that is a terminal; erases it at last."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    stream, due = sys.stderr, 0.0

    def show(what: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            stream.write(f"\r\x1b[K{what[: bench_report.WIDTH - 1]}")
            stream.flush()
            due = time.monotonic() + _BETWEEN

    try:
        yield show
    finally:
        stream.write("\r\x1b[K")
        stream.flush()
