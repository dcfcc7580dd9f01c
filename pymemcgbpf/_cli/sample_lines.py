# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The parts of the lines that watch prints: times, and lines of CSV."""

from __future__ import annotations

import csv
import datetime
import io


def csv_line(*fields: object) -> str:
    """A line with these fields, of which a path may have any characters."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(fields)  # so it quotes both characters
    return line.getvalue()[:-2]


def utc(seconds: float) -> str:
    """A time in seconds since 1970, as ISO 8601 has it."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
