# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the statistics of a tree of cgroups for Prometheus."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence

from .. import _openmetrics
from ..errors import MemcgError
from . import command, output_file, parsers, readers
from .pinned import PinnedRows


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
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
    parsers.add_depth(parser)
    parser.add_argument(
        "--output",
        type=_file_name,
        metavar="FILE",
        help="write to FILE, which is replaced in one step once everything is written. It keeps "
        "its owner and permissions; a new file gets mode 0644; a symbolic link is refused "
        "(default: -, standard output)",
    )
    options = parser.parse_words(arguments)

    def texts() -> Iterator[str]:
        with readers.tree_reader(options) as reader:
            snapshot = reader.read()
        readers.warn_if_text(reader)
        if isinstance(reader, PinnedRows) and not any(snapshot.paths):
            raise MemcgError(
                f"{reader.path} has no names, and its cgroups are not visible here, so that there "
                "is nothing for the label cgroup: pin with names, or export where they are visible"
            )
        families = _openmetrics.families(snapshot, options.format)
        if options.output in (None, "-"):
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # both formats prescribe it
            yield from families
        else:
            data = "".join(f"{family}\n" for family in families).encode()
            output_file.replace(options.output, data)

    return command.run_each(texts)


def _file_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name of the file is empty")
    return text
