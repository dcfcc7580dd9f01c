# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the statistics of a tree of cgroups for Prometheus."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence

from .. import _openmetrics
from .._samples import Ticks
from ..errors import MemcgError
from . import command, output_file, own_metrics, parsers, signals
from .walks import Failures, WalkResult, Walks


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_words(arguments)
    to_file = options.output not in (None, "-")
    if options.every is not None and not to_file:
        parser.error("--every needs --output FILE")

    def texts() -> Iterator[str]:
        goes_on = options.every is not None
        walks = Walks(options, refuse_stale=goes_on, count_departed=goes_on)
        with contextlib.closing(walks):
            if goes_on:
                _write_repeatedly(walks, options)
                return
            walk = walks.read()
        if to_file:
            _write(walk._replace(own=walk.own._replace(walks=None, errors=None)), options)
            return
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # both formats prescribe it
        assert walk.snapshot is not None
        yield from _openmetrics.families(walk.snapshot, options.format)

    return command.run_each(texts)


def _write_repeatedly(walks: Walks, options: argparse.Namespace) -> None:
    """Replaces the file at each interval until a signal ends this.

    Raises:
        MemcgError: the first walk has failed, or the file cannot be written the first time.
    """
    ticks, failures = Ticks(options.every), Failures()
    with signals.held_to_stop() as stopped:
        ticks.take()
        _write(walks.read(), options)
        while not stopped(ticks.delay()):
            ticks.take()
            walk = walks.take()
            error = walk.error
            if error is None:
                try:
                    _write(walk, options)
                except MemcgError as of_file:
                    error = of_file
            failures.note(error)


def _write(walk: WalkResult, options: argparse.Namespace) -> None:
    file = os.path.basename(options.output)
    data = own_metrics.with_cgroups(walk.own, walk.snapshot, options.format, file, walk.departed)
    output_file.replace(options.output, data)


def _parser() -> parsers.Parser:
    parser = parsers.reader_parser(
        " export",
        "Print the memory statistics of a tree of cgroups as metrics for Prometheus. The whole "
        'tree is read in one walk. The label "cgroup" is the cgroup\'s path as in '
        "/proc/PID/cgroup; bytes that are not UTF-8 are written as //xNN.",
        "A metric is called cgroup_memory_ITEM, with underscores instead of dots, and with its "
        "unit or _total at the end. sec_pagetables is called secondary_pagetables. Sizes are in "
        "bytes, stalled time is in seconds, and a limit that is not set is +Inf. ",
        path=f"{parsers.TOPMOST_CGROUP}{parsers.OR_PIN}",
        items=parsers.DEFAULT_ITEMS,
    )
    parser.add_argument(
        "--format",
        choices=_openmetrics.FORMATS,
        default="prometheus",
        help="prometheus: the text format, for node_exporter's textfile collector, the "
        "Pushgateway and promtool; openmetrics: OpenMetrics 1.0 (default: prometheus)",
    )
    parsers.add_selection(parser)
    parser.add_argument(
        "--output",
        type=_file_name,
        metavar="FILE",
        help="write to FILE, which is replaced in one step once everything is written. It keeps "
        "its owner and permissions; a new file gets mode 0644; a symbolic link is refused. FILE "
        "also gets metrics of the program itself, pymemcgbpf_NAME (default: -, standard output)",
    )
    parser.add_argument(
        "--every",
        type=parsers.seconds,
        metavar="SECONDS",
        help="with --output FILE: replace it at this interval, until SIGTERM or SIGINT. A walk "
        "that fails leaves it alone",
    )
    return parser


def _file_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name of the file is empty")
    return text
