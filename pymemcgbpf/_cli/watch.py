# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints one cgroup's statistics repeatedly, one line for each sample, for other programs."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator, Sequence

from . import command, parsers, readers


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.reader_parser(
        " watch",
        "Print the memory statistics of one cgroup repeatedly: one line for each sample, as CSV "
        "with a header, or as JSON. Each line has the time in UTC. Sizes are in bytes, stalled "
        "time is in microseconds.",
        "Samples are taken at multiples of the interval: a late sample does not delay the next "
        "ones, and missed samples are left out. ",
        path=parsers.OWN_CGROUP,
        items=parsers.DEFAULT_ITEMS,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parsers.add_interval(parser, 1)
    parser.add_argument(
        "--count",
        type=parsers.integer("samples", least=1),
        metavar="N",
        help="end after N samples (default: run until it is interrupted)",
    )
    options = parser.parse_words(arguments)

    def lines() -> Iterator[str]:
        with readers.stats_reader(options) as reader:
            if not options.json:
                readers.warn_if_text(reader.backend, reader.fallback_reason)
                yield ",".join(("time", *reader.item_names))
            for values in itertools.islice(reader.every(options.interval), options.count):
                now = _now()
                if options.json:
                    yield json.dumps({"time": now, "items": values})
                else:
                    # Pressure can be switched off meanwhile; its field is then empty.
                    yield ",".join(
                        (now, *(str(values.get(name, "")) for name in reader.item_names))
                    )

    return command.run_each(lines)


def _now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
