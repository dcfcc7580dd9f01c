# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Snapshots as metrics for Prometheus: openmetrics()."""

from __future__ import annotations

import functools
import itertools
import re
import weakref
from collections.abc import Iterator, Sequence
from operator import add
from typing import Literal, Optional, TypeVar

from . import _options, _wire
from ._cgroup import mounts as _mounts
from ._items import BYTES, MICROSECONDS, NUMA_STAT, UNLIMITED, item_named, unknown
from ._records import Record
from .snapshot import Snapshot

_T = TypeVar("_T")

Format = Literal["openmetrics", "prometheus"]
FORMATS: tuple[Format, ...] = ("openmetrics", "prometheus")
END_OF_METRICS = "# EOF"  # the last line in OpenMetrics


def openmetrics(snapshot: Snapshot, *, format: Format = "openmetrics") -> str:
    """A snapshot as metrics for Prometheus, with a sample for each item of each cgroup::

        >>> print(openmetrics(snapshot))
        # HELP cgroup_memory_anon_bytes anonymous memory in use
        # TYPE cgroup_memory_anon_bytes gauge
        # UNIT cgroup_memory_anon_bytes bytes
        cgroup_memory_anon_bytes{cgroup="/system.slice"} 60297216
        cgroup_memory_anon_bytes{cgroup="/system.slice/cron.service"} 421888
        ...
        # EOF

    A metric is called cgroup_memory_ITEM, with underscores instead of dots, and with its unit or
    _total at the end. The label "cgroup" is the cgroup's path as in /proc/PID/cgroup; bytes that
    are not UTF-8 are written as ``//xNN``. Sizes are in bytes, stalled time is in seconds, and a
    limit that is not set is +Inf. Where a cgroup does not have an item, there is no sample, and a
    row whose :attr:`Row.path` is None has none at all.

    The labels are kept for the next snapshot of the same reader.

    Args:
        snapshot: The result of one walk. It may be a view that has not expired.
        format: "openmetrics" for OpenMetrics 1.0, whose media type is
            ``application/openmetrics-text; version=1.0.0; charset=utf-8``. "prometheus" for
            Prometheus' older text format, ``text/plain; version=0.0.4; charset=utf-8``.

    Returns:
        The text, which is to be encoded as UTF-8. Its last line ends with a newline.

    Raises:
        ClosedError: The snapshot was a view, which has expired.
        MemcgError: The process has no file descriptor or memory left to look up the paths.
        TypeError: *snapshot* is not a Snapshot.
        ValueError: *format* has another value.
    """
    if not isinstance(snapshot, Snapshot):
        kind = type(snapshot).__name__
        raise TypeError(
            f"metrics are made of a Snapshot, which read() returns, and not of a {kind}"
        )
    _options.check("format", format, FORMATS)
    return "\n".join([*families(snapshot, format), ""])


def families(snapshot: Snapshot, form: Format) -> Iterator[str]:
    """The lines of each metric, without the last newline; in OpenMetrics also those of the end."""
    labels = _labels(snapshot)
    for family in families_of(snapshot.item_names, form):
        lines = [family.head]
        for name, unit, more in family.members:
            starts, values = present(snapshot, name, labels.shown, labels.starts)
            if more:
                starts = [f"{start[: -len(_END)]}{more}{_END}" for start in starts]
            if unit == "seconds" or (unit == "bytes" and UNLIMITED in values):
                lines += [f"{start}{_number(value, unit)}" for start, value in zip(starts, values)]
            else:
                lines += map(add, starts, map(repr, values))
        yield f"\n{family.sample}".join(lines)
    if form == "openmetrics":
        yield END_OF_METRICS


def present(
    snapshot: Snapshot, name: str, shown: Optional[list[bool]], marks: list[_T]
) -> tuple[list[_T], list[int]]:
    """The values of an item in the rows that are shown and have it, and the marks of these rows.

    Args:
        snapshot, name: the snapshot and the item.
        shown: which rows are shown, as :func:`rows_shown` returns it.
        marks: what stands for each row that is shown.
    """
    values = snapshot._column(snapshot._places[name]).tolist()
    if shown is not None:
        values = list(itertools.compress(values, shown))
    if _wire.ABSENT in values:
        has_it = [value != _wire.ABSENT for value in values]
        marks = list(itertools.compress(marks, has_it))
        values = list(itertools.compress(values, has_it))
    return marks, values


def _number(value: int, unit: str) -> str:
    if unit == "bytes" and value == UNLIMITED:
        return "+Inf"
    if unit == "seconds":
        return f"{value // 1_000_000}.{value % 1_000_000:06}"
    return str(value)


def escaped(text: str) -> str:
    """A text as labels and descriptions need it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# --- metrics


class Metric(Record):
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


def _metric(name: str) -> Metric:
    item = item_named(name) or unknown(name)
    words, description, labels = name.removeprefix("memory."), item.description, ""
    base, _, node = words.rpartition(".N")
    if item.file == NUMA_STAT and node.isdecimal():
        words, labels = base, f',node="{node}"'
        description = description.partition(", on NUMA node")[0] + ", on a NUMA node"
    unit = {BYTES: "bytes", MICROSECONDS: "seconds"}.get(item.unit, "")
    words = re.sub("[^a-zA-Z0-9]", "_", words.removesuffix(".total").removesuffix("_in_bytes"))
    words = words.replace(
        "sec_pagetables", "secondary_pagetables"
    )  # promtool takes "sec" for a unit
    family = "_".join(filter(None, ("cgroup_memory", words, unit)))
    return Metric(family, item.kind, unit, description, labels)


class Family(Record):
    """The items of one metric.

    Attributes:
        name: the metric's name in OpenMetrics, without a counter's "_total".
        sample: the name of the metric's samples.
        kind, unit, description: as of each item.
        head: the lines above the samples.
        members: the name, the unit and the further labels of each item.
    """

    name: str
    sample: str
    kind: str
    unit: str
    description: str
    head: str
    members: tuple[tuple[str, str, str], ...]


@functools.lru_cache(maxsize=32)  # a reader's snapshots all have the same
def families_of(names: tuple[str, ...], form: Format) -> tuple[Family, ...]:
    """The metrics of items."""
    found: dict[str, list[tuple[str, Metric]]] = {}
    for name in names:
        metric = _metric(name)
        found.setdefault(metric.family, []).append((name, metric))
    return tuple(family_of(members, form) for members in found.values())


def family_of(members: list[tuple[str, Metric]], form: Format) -> Family:
    """The metric of these items, each with what is known of it."""
    is_openmetrics = form == "openmetrics"
    family, kind, unit, description, _ = members[0][1]
    sample = f"{family}_total" if kind == "counter" else family
    name = family if is_openmetrics else sample
    head = [
        f"# HELP {name} {escaped(description)}",
        f"# TYPE {name} {kind or ('unknown' if is_openmetrics else 'untyped')}",
    ]
    if is_openmetrics and unit:
        head.append(f"# UNIT {name} {unit}")
    return Family(
        family,
        sample,
        kind,
        unit,
        description,
        "\n".join(head),
        tuple((item, metric.unit, metric.labels) for item, metric in members),
    )


# --- labels

_END = "} "


class _Labels(Record):
    """The labels of a snapshot's rows.

    Attributes:
        paths: the paths that they were made of.
        root: the path of the walk's root, and that which /proc/PID/cgroup has for it.
        by_path: each path with its label, such as '{cgroup="/system.slice"} '.
        starts: the labels in the rows' order.
        shown: whether a row has a label; None if all have.
    """

    paths: tuple[Optional[str], ...]
    root: tuple[str, str]
    by_path: dict[str, str]
    starts: list[str]
    shown: Optional[list[bool]]


# The labels of each reader's last snapshot, by WalkPaths.origin.
_last_labels: weakref.WeakKeyDictionary[object, _Labels] = weakref.WeakKeyDictionary()


def _labels(snapshot: Snapshot) -> _Labels:
    paths, directory = snapshot.paths, snapshot.path
    last = _last_labels.get(snapshot._paths.origin)
    if last is not None and last.paths is paths and last.root[0] == directory:
        return last
    root = _root_of(snapshot)
    known = last.by_path if last is not None and last.root == root else {}
    new = [path for path in paths if path is not None and path not in known]
    known = {**known, **dict(zip(new, _starts(new, *root)))}
    by_path = {path: known[path] for path in paths if path is not None}
    starts, shown = list(by_path.values()), rows_shown(paths)
    if shown is not None:
        starts = [by_path[path] for path in itertools.compress(paths, shown) if path is not None]
    labels = _Labels(paths, root, by_path, starts, shown)
    _last_labels[snapshot._paths.origin] = labels
    return labels


def starts_of(snapshot: Snapshot, paths: Sequence[str]) -> list[str]:
    """The labels of some cgroups of a snapshot, by their absolute paths, such as
    '{cgroup="/system.slice"} '."""
    known = _labels(snapshot).by_path
    return [known[path] for path in paths]


def rows_shown(paths: Sequence[Optional[str]]) -> Optional[list[bool]]:
    """Whether each row has samples; None if all have.

    Two cgroups can have had one path during the walk, one after the other. No two samples may have
    the same labels, so only the later one is shown.
    """
    latest = {path: row for row, path in enumerate(paths) if path is not None}
    if len(latest) == len(paths):
        return None
    return [path is not None and latest[path] == row for row, path in enumerate(paths)]


def label_values(snapshot: Snapshot, shown: Optional[list[bool]]) -> list[str]:
    """The value of the label "cgroup" of each row that is shown."""
    paths = snapshot.paths if shown is None else itertools.compress(snapshot.paths, shown)
    return _mounts.label_paths([path for path in paths if path is not None], *_root_of(snapshot))


def _root_of(snapshot: Snapshot) -> tuple[str, str]:
    """The path of the walk's root, and that which its label has."""
    directory = snapshot.path
    return ("", "") if directory is None else (directory, _mounts.label_path(directory))


def _starts(paths: list[str], root: str, root_label: str) -> list[str]:
    """The labels of paths."""
    if not paths:
        return []
    # Escaping all at once is faster. No path has a NUL.
    shown = escaped("\0".join(_mounts.label_paths(paths, root, root_label))).split("\0")
    return [f'{{cgroup="{path}"{_END}' for path in shown]
