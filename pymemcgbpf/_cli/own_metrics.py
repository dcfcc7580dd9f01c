# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the program that writes metrics for Prometheus says of itself and of removed cgroups, before
the cgroups that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional

from .. import _openmetrics
from .._lookup import utf_8
from .._records import Record
from .._version import VERSION
from ..snapshot import Snapshot
from .departed_counts import DepartedCount


class OwnNumbers(Record):
    """What is known of the reads so far. What is None, or "", has no sample.

    Attributes:
        backend, transport: how the tree is read.
        duration_ns: how long the last walk took, in nanoseconds.
        time: when the last walk that worked began, in seconds since 1970. That of a pin is the walk
            of whoever refreshes it.
        cgroups: how many cgroups it has met.
        exported: how many of them have samples.
        walks, errors: how many walks there were, and how many of them have failed.
        departed_lost: how many removed cgroups were not seen.
    """

    backend: str = ""
    transport: str = ""
    duration_ns: Optional[int] = None
    time: Optional[float] = None
    cgroups: Optional[int] = None
    exported: Optional[int] = None
    walks: Optional[int] = None
    errors: Optional[int] = None
    departed_lost: Optional[int] = None


def with_cgroups(
    own: OwnNumbers,
    snapshot: Optional[Snapshot],
    form: _openmetrics.Format,
    file: Optional[str] = None,
    departed: Optional[Mapping[str, DepartedCount]] = None,
) -> bytes:
    """All metrics as a text in UTF-8.

    Args:
        own: what the program says of itself.
        snapshot: the cgroups that are shown; None for none.
        form: the format.
        file: the name of the file that the text is for, which becomes a label of the program's
            own metrics. A directory can have several such files, which are collected as one.
        departed: what has been removed below the cgroups that are shown, by their paths; None where
            that is not counted.

    Raises:
        MemcgError: as :func:`openmetrics`.
    """
    lines = [*_families(own, form, {} if file is None else {"file": utf_8(file)})]
    if snapshot is not None:
        if departed is not None:
            lines += _departed_families(snapshot, departed, form)
        lines += _openmetrics.families(snapshot, form)
    elif form == "openmetrics":
        lines.append(_openmetrics.END_OF_METRICS)
    return "\n".join([*lines, ""]).encode()


class _OwnMetric(Record):
    """One of the program's metrics.

    Attributes:
        name: without pymemcgbpf, and without a counter's "_total".
        about: its description.
        value: its number as text; None if it is not known.
        kind, unit: as of Metric.
        labels: by their names.
    """

    name: str
    about: str
    value: Optional[str]
    kind: str = "gauge"
    unit: str = ""
    labels: Mapping[str, str] = {}


def _families(own: OwnNumbers, form: _openmetrics.Format, more: Mapping[str, str]) -> Iterator[str]:
    for name, about, value, kind, unit, labels in _samples(own):
        if value is not None:
            metric = _openmetrics.Metric(f"pymemcgbpf_{name}", kind, unit, about, "")
            family = _openmetrics.family_of([("", metric)], form)
            pairs = [
                f'{label}="{_openmetrics.escaped(text)}"'
                for label, text in {**labels, **more}.items()
            ]
            shown = f"{{{','.join(pairs)}}}" if pairs else ""
            yield f"{family.head}\n{family.sample}{shown} {value}"


def _departed_families(
    snapshot: Snapshot, departed: Mapping[str, DepartedCount], form: _openmetrics.Format
) -> Iterator[str]:
    """What has been removed below each cgroup, with the same label as its other metrics."""
    starts = _openmetrics.starts_of(snapshot, [*departed])
    counts = [*departed.values()]
    for name, about, values in (
        (
            "cgroup_departed",
            "cgroups below this one that were removed, since pymemcgbpf was started",
            [count.cgroups for count in counts],
        ),
        (
            "cgroup_departed_oom_kills",
            "processes killed by any OOM killer in cgroups below this one that were removed, "
            "since pymemcgbpf was started",
            [count.oom_kills for count in counts],
        ),
    ):
        metric = _openmetrics.Metric(name, "counter", "", about, "")
        family = _openmetrics.family_of([("", metric)], form)
        samples = [f"{family.sample}{start}{value}" for start, value in zip(starts, values)]
        yield "\n".join([family.head, *samples])


def _samples(own: OwnNumbers) -> Iterator[_OwnMetric]:
    yield _OwnMetric("build_info", "the version of pymemcgbpf", "1", labels={"version": VERSION})
    yield _OwnMetric(
        "backend_info",
        "how the cgroups are read: through BPF, from a pin, or as text",
        "1" if own.backend else None,
        labels={"backend": own.backend, "transport": own.transport},
    )
    yield _OwnMetric(
        "walk_duration_seconds",
        "how long the last walk over all cgroups took",
        None if own.duration_ns is None else _decimal(own.duration_ns, 9),
        unit="seconds",
    )
    yield _OwnMetric(
        "walk_timestamp_seconds",
        "when the last walk that worked began, in seconds since 1970",
        None if own.time is None else _decimal(round(own.time * 1000), 3),
        unit="seconds",
    )
    yield _OwnMetric("cgroups", "cgroups that the last walk has met", _whole(own.cgroups))
    yield _OwnMetric("cgroups_exported", "cgroups that have samples here", _whole(own.exported))
    about = "walks since the program was started"
    yield _OwnMetric("walks", about, _whole(own.walks), "counter")
    yield _OwnMetric("walk_errors", "walks that have failed", _whole(own.errors), "counter")
    about = "removed cgroups that were not seen, as there were too many between two walks"
    yield _OwnMetric("departed_lost", about, _whole(own.departed_lost), "counter")


def _whole(number: Optional[int]) -> Optional[str]:
    return None if number is None else str(number)


def _decimal(number: int, places: int) -> str:
    """A number of thousandths, and so on, as a decimal fraction."""
    whole, part = divmod(number, 10**places)
    return f"{whole}.{part:0{places}}"
