# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints one cgroup's statistics again and again, a line a sample, for other programs."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Optional

from . import command


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = command.parser(
        " watch",
        "Print a cgroup's memory statistics again and again: a line a sample, as CSV or JSON, "
        "with the time (UTC).",
        "Samples are a multiple of the interval apart: one that is late does not delay those after "
        "it, and what is missed is left out. ",
        command.ONE_CGROUP,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.add_interval(parser, 1)
    parser.add_argument(
        "--count",
        type=command.integer("samples", least=1),
        metavar="N",
        help="end after so many samples (default: never)",
    )
    options = parser.parse_words(arguments)

    def lines() -> Iterator[str]:
        with command.stats_reader(options) as reader:
            if not options.json:
                command.warn_if_text(reader.backend, reader.fallback_reason)
                yield ",".join(("time", *reader.item_names))
            for _ in _ticks(options.interval, options.count):
                now, values = _now(), reader.read()
                if options.json:
                    yield json.dumps({"time": now, "items": values})
                else:
                    # Pressure can be switched off meanwhile: its field is empty then.
                    yield ",".join(
                        (now, *(str(values.get(name, "")) for name in reader.item_names))
                    )

    return command.run_each(lines)


def _ticks(interval: float, count: Optional[int]) -> Iterator[None]:
    """Waits for a multiple of the interval since the first; those that have passed are left out."""
    began, due = time.monotonic(), 0
    for _ in itertools.count() if count is None else range(count):
        passed = time.monotonic() - began
        if due * interval > passed:
            time.sleep(due * interval - passed)
        else:
            due = math.floor(passed / interval)
        yield
        due += 1


def _now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
