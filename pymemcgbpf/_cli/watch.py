# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints statistics repeatedly, one line for each sample of a cgroup, for other programs."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Optional, Union

from .. import _lookup
from .._lookup import utf_8
from .._records import Record
from .._samples import Ticks
from ..errors import MemcgError, is_transient
from ..snapshot import Snapshot
from . import command, output, parsers, readers, signals, watch_departed
from .departed_reader import DEFAULT_ITEMS
from .json_values import nullable
from .pinned import PinnedRows, PinnedValues
from .sample_lines import csv_line, utc

if TYPE_CHECKING:
    from .._stats_reader import StatsReader
    from .._tree_reader import TreeReader

    _Reader = Union[StatsReader, TreeReader, PinnedValues, PinnedRows]

_INTERVAL = 1.0  # in seconds


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.reader_parser(
        " watch",
        "Print the memory statistics of cgroups repeatedly: one line for each sample of a cgroup, "
        "as CSV with a header, or as JSON. Each line has the time in UTC; with several PATHs, or "
        "with --depth, it also has the cgroup's path. Sizes are in bytes, stalled time is in "
        "microseconds.",
        "Samples are taken at multiples of the interval: a late sample does not delay the next "
        "ones, and missed samples are left out. No walk of a pinned tree is printed twice. Of "
        "several cgroups, one that is removed is announced on stderr, and the others go on. ",
        path=f"{parsers.OWN_CGROUP}{parsers.OR_PIN}; several of these come before the items",
        items=parsers.DEFAULT_ITEMS,
        several=True,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parsers.add_depth(
        parser,
        "also print the cgroups up to N levels below, each with its path in a line of its own "
        "(default: only the cgroups that are named)",
    )
    parsers.add_interval(parser, _INTERVAL)
    parser.add_argument(
        "--count",
        type=parsers.integer("samples", least=1),
        metavar="N",
        help="end after N samples, or removed cgroups (default: run until it is interrupted)",
    )
    parser.add_argument(
        "--departed",
        action="store_true",
        help="print the cgroups below PATH that are removed, each with the time of its removal "
        "and its last numbers, in place of samples (needs Linux 6.1 and BPF; default PATH: the "
        f"topmost cgroup that is visible; ITEMs: {' '.join(DEFAULT_ITEMS)}; interval: "
        f"{watch_departed.INTERVAL:g})",
    )
    options = parser.parse_words(arguments)
    if options.departed:
        with signals.end_after_a_wait() as wait:
            return command.run_each(lambda: watch_departed.lines(options, wait))

    def lines() -> Iterator[str]:
        paths, items = readers.cgroups_and_items(options)
        with contextlib.ExitStack() as stack:
            opened: list[_Reader] = []
            for path in dict.fromkeys(map(_lookup.absolute, paths)):
                opened.append(_reader(path, items, options))
                stack.callback(opened[-1].close)
            names = tuple(dict.fromkeys(name for reader in opened for name in reader.item_names))
            with_path = options.depth is not None or len(opened) > 1
            reasons = {(each.backend, each.fallback_reason): each for each in opened}
            for each in reasons.values():
                readers.warn_if_text(each, is_brief=options.json)
            if not options.json:
                yield ",".join(("time", *(["path"] if with_path else []), *names))
            several = len(opened) > 1
            samples = (_samples_of_several if several else _samples_of_one)(
                opened, options.interval
            )
            for cgroup in itertools.chain.from_iterable(itertools.islice(samples, options.count)):
                now = utc(cgroup.time)
                if options.json:
                    which = {"path": cgroup.path} if with_path else {}
                    yield json.dumps({"time": now, **which, "items": nullable(cgroup.values)})
                else:
                    # Pressure can be switched off meanwhile; its field is then empty.
                    fields = (cgroup.values.get(name, "") for name in names)
                    yield csv_line(now, *([cgroup.path] if with_path else []), *fields)

    return command.run_each(lines)


def _reader(path: str, items: Optional[Sequence[str]], options: argparse.Namespace) -> _Reader:
    make = readers.stats_reader_of if options.depth is None else readers.tree_reader_of
    return make(path, items, options)


class _Sample(Record):
    """One sample of one cgroup.

    Attributes:
        time: the seconds since 1970. With a pin it is the time of the walk, else the time after
            the read.
        path: the path of the cgroup; of a pin that shows one cgroup, that of the pin.
        values: the items that it has.
    """

    time: float
    path: str
    values: Mapping[str, int]


def _samples_of_one(
    opened: Sequence[_Reader], seconds: Optional[float]
) -> Iterator[Iterable[_Sample]]:
    """The samples of one reader. Those of a pin follow its walks."""
    (reader,) = opened
    if isinstance(reader, _PINS):
        for found in reader.every(seconds, _INTERVAL):
            yield _samples_in(found, reader, reader.time)
    else:
        for found in reader.every(seconds or _INTERVAL):
            yield _samples_in(found, reader, time.time())


def _samples_of_several(
    opened: Sequence[_Reader], seconds: Optional[float]
) -> Iterator[Iterable[_Sample]]:
    """The samples of several readers, at the same ticks of one clock.

    A reader whose cgroup or pin can no longer be read is left out from then on.

    Raises:
        MemcgError: the last one can no longer be read, or the process is short of something.
    """
    left, ticks = list(opened), Ticks(seconds or _interval_of(opened))
    while True:
        time.sleep(ticks.delay())
        ticks.take()
        found = []
        for reader in tuple(left):
            try:
                found.append((reader, _read(reader)))
            except MemcgError as error:
                if is_transient(error) or len(left) == 1:
                    raise
                output.warn(str(error))
                left.remove(reader)
                reader.close()
        now = time.time()
        new = [(reader, each) for reader, each in found if each is not None]
        if new:  # not if all are pins that were not refreshed since
            yield itertools.chain.from_iterable(
                _samples_in(each, reader, reader.time if isinstance(reader, _PINS) else now)
                for reader, each in new
            )


def _interval_of(opened: Sequence[_Reader]) -> float:
    """The interval of several readers, if none is given: the shortest at which one of them has
    something new, where a cgroup has at each second."""
    return min(
        (reader.interval if isinstance(reader, _PINS) else None) or _INTERVAL for reader in opened
    )


def _read(reader: _Reader) -> Union[dict[str, int], Snapshot, None]:
    """What a reader reads; None if it is of a pin, and that was read before."""
    return reader.read_new() if isinstance(reader, _PINS) else reader.read()


_PINS = (PinnedValues, PinnedRows)


def _samples_in(
    found: Union[dict[str, int], Snapshot], reader: _Reader, when: float
) -> Iterator[_Sample]:
    if not isinstance(found, Snapshot):
        yield _Sample(when, utf_8(reader.path), found)
        return
    for path, cgroup_id, row in zip(found.paths, found.ids, found):
        # Where a pin has no names, its cgroups have ids at least.
        yield _Sample(when, f"cgroup {cgroup_id}" if path is None else utf_8(path), row)
