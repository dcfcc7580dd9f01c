# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints statistics repeatedly, one line for each sample of a cgroup, for other programs."""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Optional, Union

from .._lookup import utf_8
from ..snapshot import Snapshot
from . import command, parsers, readers
from .json_values import nullable
from .pinned import PinnedRows, PinnedValues

if TYPE_CHECKING:
    from .._stats_reader import StatsReader
    from .._tree_reader import TreeReader

    _Reader = Union[StatsReader, TreeReader, PinnedValues, PinnedRows]

_INTERVAL = 1.0  # in seconds


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.reader_parser(
        " watch",
        "Print the memory statistics of a cgroup repeatedly: one line for each sample, as CSV "
        "with a header, or as JSON. Each line has the time in UTC. Sizes are in bytes, stalled "
        "time is in microseconds.",
        "Samples are taken at multiples of the interval: a late sample does not delay the next "
        "ones, and missed samples are left out. No walk of a pinned tree is printed twice. ",
        path=f"{parsers.OWN_CGROUP}{parsers.OR_PIN}",
        items=parsers.DEFAULT_ITEMS,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parsers.add_depth(
        parser,
        "also print the cgroups up to N levels below, each with its path in a line of its own "
        "(default: the one cgroup, without a path)",
    )
    parsers.add_interval(parser, _INTERVAL)
    parser.add_argument(
        "--count",
        type=parsers.integer("samples", least=1),
        metavar="N",
        help="end after N samples (default: run until it is interrupted)",
    )
    options = parser.parse_words(arguments)

    def lines() -> Iterator[str]:
        with _reader(options) as reader:
            names, with_path = reader.item_names, options.depth is not None
            if not options.json:
                readers.warn_if_text(reader.backend, reader.fallback_reason)
                yield ",".join(("time", *(["path"] if with_path else []), *names))
            samples = _samples(reader, options.interval)
            for when, cgroups in itertools.islice(samples, options.count):
                now = _utc(when)
                for path, values in cgroups:
                    if options.json:
                        which = {"path": path} if with_path else {}
                        yield json.dumps({"time": now, **which, "items": nullable(values)})
                    else:
                        # Pressure can be switched off meanwhile; its field is then empty.
                        fields = (values.get(name, "") for name in names)
                        yield _csv(now, *([path] if with_path else []), *fields)

    return command.run_each(lines)


def _reader(options: argparse.Namespace) -> _Reader:
    if options.depth is None:
        return readers.stats_reader(options)
    return readers.tree_reader(options, own=True)


_Cgroups = Iterable[tuple[Optional[str], Mapping[str, int]]]


def _samples(reader: _Reader, seconds: Optional[float]) -> Iterator[tuple[float, _Cgroups]]:
    """The time of each sample, in seconds since 1970, and the path and the values of each cgroup.

    With a pin it is the time of the walk, else the time after the read.
    """
    if isinstance(reader, (PinnedValues, PinnedRows)):
        for found in reader.every(seconds, _INTERVAL):
            yield reader.time, _cgroups(found)
    else:
        for found in reader.every(seconds or _INTERVAL):
            yield time.time(), _cgroups(found)


def _cgroups(found: Union[dict[str, int], Snapshot]) -> _Cgroups:
    if not isinstance(found, Snapshot):
        return [(None, found)]
    # Where a pin has no names, its cgroups have ids at least.
    paths = (
        f"cgroup {cgroup_id}" if path is None else utf_8(path)
        for path, cgroup_id in zip(found.paths, found.ids)
    )
    return zip(paths, found)


def _csv(*fields: object) -> str:
    """A line with these fields, of which a path may have any characters."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(fields)  # so it quotes both characters
    return line.getvalue()[:-2]


def _utc(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
