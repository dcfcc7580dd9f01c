# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the statistics of a tree of cgroups for Prometheus."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from .._cgroup import mounts as _mounts
from .._items import BYTES, MICROSECONDS, NUMA_STAT, UNLIMITED, item_named, unknown
from ..snapshot import ABSENT, Snapshot
from . import command, output_file, parsers, readers
from .units import utf_8

_PROMETHEUS, _OPENMETRICS = "prometheus", "openmetrics"


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
        path=parsers.TOPMOST_CGROUP,
        items=parsers.DEFAULT_ITEMS,
    )
    parser.add_argument(
        "--format",
        choices=(_PROMETHEUS, _OPENMETRICS),
        default=_PROMETHEUS,
        help="prometheus: the text format, for node_exporter's textfile collector, the "
        "Pushgateway and promtool; openmetrics: OpenMetrics 1.0 (default: prometheus)",
    )
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
        readers.warn_if_text(reader.backend, reader.fallback_reason)
        readers.warn_of_hidden_cgroups(snapshot)
        families = _exposition(snapshot, _labels(snapshot, reader.path), options.format)
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


class _Metric(NamedTuple):
    """An item as Prometheus knows it.

    Attributes:
        family: the metric's name, without a counter's "_total".
        kind: "gauge", "counter", or "" for an unknown item.
        unit: "bytes", "seconds" or "".
        description: one line.
        labels: those that follow the cgroup's, such as `,node="0"`.
    """

    family: str
    kind: str
    unit: str
    description: str
    labels: str


def _metric(name: str) -> _Metric:
    item = item_named(name) or unknown(name)
    words, description, labels = name.removeprefix("memory."), item.description, ""
    base, _, node = words.rpartition(".N")
    if item.file == NUMA_STAT and node.isdecimal():
        words, labels = base, f',node="{node}"'
        description = description.partition(", on NUMA node")[0] + ", on a NUMA node"
    unit = {BYTES: "bytes", MICROSECONDS: "seconds"}.get(item.unit, "")
    words = re.sub("[^a-zA-Z0-9]", "_", words.removesuffix(".total"))
    words = words.replace(
        "sec_pagetables", "secondary_pagetables"
    )  # promtool takes "sec" for a unit
    family = "_".join(filter(None, ("cgroup_memory", words, unit)))
    return _Metric(family, item.kind, unit, description, labels)


def _exposition(snapshot: Snapshot, cgroups: Sequence[Optional[str]], form: str) -> Iterator[str]:
    """The lines of the output, one text for each metric."""
    families: dict[str, list[tuple[str, _Metric]]] = {}
    for name in snapshot.item_names:
        metric = _metric(name)
        families.setdefault(metric.family, []).append((name, metric))
    openmetrics = form == _OPENMETRICS
    for family, members in families.items():
        _, metric = members[0]
        sample = f"{family}_total" if metric.kind == "counter" else family
        head = family if openmetrics else sample
        lines = [
            f"# HELP {head} {_escaped(metric.description)}",
            f"# TYPE {head} {metric.kind or ('unknown' if openmetrics else 'untyped')}",
        ]
        if openmetrics and metric.unit:
            lines.append(f"# UNIT {head} {metric.unit}")
        for name, (_, _, unit, _, labels) in members:
            lines += (
                f'{sample}{{cgroup="{cgroup}"{labels}}} {_number(value, unit)}'
                for cgroup, value in zip(cgroups, snapshot.column(name))
                if cgroup is not None and value != ABSENT
            )
        yield "\n".join(lines)
    if openmetrics:
        yield "# EOF"


def _labels(snapshot: Snapshot, path: str) -> list[Optional[str]]:
    """The label of each row; None for a cgroup without a path, such as a removed one."""
    above = _mounts.path_in_hierarchy(path)
    paths = (row.relative_path for row in snapshot)
    # Outside of this process's cgroup namespace, paths begin with "/..", which normpath() omits.
    return [
        None if path is None else _escaped(utf_8(os.path.normpath(os.path.join(above, path))))
        for path in paths
    ]


def _number(value: int, unit: str) -> str:
    if unit == "bytes" and value == UNLIMITED:
        return "+Inf"
    if unit == "seconds":
        return f"{value // 1_000_000}.{value % 1_000_000:06}"
    return str(value)


def _escaped(text: str) -> str:
    """A text as labels and descriptions need it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
