# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the statistics of a tree of cgroups for Prometheus."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from .._cgroup import mounts as _mounts
from .._items import BYTES, MICROSECONDS, NUMA_STAT, UNLIMITED, item_named, unknown
from ..snapshot import ABSENT, Snapshot
from . import command, output_file
from .units import utf_8

_PROMETHEUS, _OPENMETRICS = "prometheus", "openmetrics"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = command.parser(
        " export",
        "Print the memory statistics of a tree of cgroups as metrics for Prometheus, read in one "
        'walk; the label "cgroup" is a cgroup\'s path, as /proc/PID/cgroup has it (bytes that are '
        "no UTF-8 as //xNN).",
        "An item is called cgroup_memory_ITEM there, with _ for dots, and its unit or _total at "
        "the end; sec_pagetables is secondary_pagetables, and no limit +Inf. ",
        "the root's directory (default: the topmost that is visible), and the items or groups of "
        "them (default: memory.stat's and memory.current)",
    )
    parser.add_argument(
        "--format",
        choices=(_PROMETHEUS, _OPENMETRICS),
        default=_PROMETHEUS,
        help="prometheus (default): the text format, as node_exporter's textfile collector and "
        "the Pushgateway take it, and promtool; openmetrics: OpenMetrics 1.0",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write to this file, which is replaced at once when all is written, and keeps its "
        "owner and permissions; a new one has mode 0644, and a symbolic link is refused (default, "
        "or -: print)",
    )
    options = parser.parse_words(arguments)

    def texts() -> Iterator[str]:
        with command.tree_reader(options) as reader:
            snapshot = reader.read()
        command.warn_if_text(reader.backend, reader.fallback_reason)
        command.say_if_unseen(snapshot)
        families = _exposition(snapshot, _labels(snapshot, reader.path), options.format)
        if options.output in (None, "-"):
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # both formats are that
            yield from families
        else:
            data = "".join(f"{family}\n" for family in families).encode()
            output_file.replace(options.output, data)

    return command.run_each(texts)


class _Metric(NamedTuple):
    """What an item is called there.

    Attributes:
        family: the metric's name, but a counter's "_total".
        kind: "gauge", "counter", or "" where nothing is known.
        unit: "bytes", "seconds" or "".
        description: one line.
        labels: beside the cgroup's: `,node="0"`.
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
    words = words.replace("sec_pagetables", "secondary_pagetables")  # "sec" is taken for a unit
    family = "_".join(filter(None, ("cgroup_memory", words, unit)))
    return _Metric(family, item.kind, unit, description, labels)


def _exposition(snapshot: Snapshot, cgroups: Sequence[Optional[str]], form: str) -> Iterator[str]:
    """The lines, a text a family."""
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
    """The label of each row; None for a cgroup that has no path (any more)."""
    root = os.path.realpath(path)
    above = os.path.relpath(root, _mounts.hierarchy_root(root))
    paths = (row.relative_path for row in snapshot)
    return [
        None if path is None else _escaped(utf_8(os.path.normpath(os.path.join("/", above, path))))
        for path in paths
    ]


def _number(value: int, unit: str) -> str:
    if unit == "bytes" and value == UNLIMITED:
        return "+Inf"
    if unit == "seconds":
        return f"{value // 1_000_000}.{value % 1_000_000:06}"
    return str(value)


def _escaped(text: str) -> str:
    """For a label or a description."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
