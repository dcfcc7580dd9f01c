# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Numbers and names for people: bytes in binary units, counts in groups of three digits."""

from __future__ import annotations

import unicodedata
from typing import Callable

from .._items import MICROSECONDS, UNLIMITED, is_limit, item_named
from .._records import Record


class FormattedValue(Record):
    """A number and its unit, which a table aligns separately."""

    number: str
    unit: str


Formatter = Callable[[str, int], FormattedValue]
"""What makes a cell of an item's name and value: human() or plain()."""

_NO_LIMIT = FormattedValue("max", "")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human(name: str, value: int) -> FormattedValue:
    """An item's value for people; the unit of a newer kernel's unknown item is not known."""
    item = item_named(name)
    if item is None or item.unit != "bytes":
        return FormattedValue(
            f"{value:,}", "µs" if item is not None and item.unit == MICROSECONDS else ""
        )
    if is_unset(name, value):
        return _NO_LIMIT
    size = float(value)
    for unit in _UNITS:
        # A size that would be printed as 1024.0 is printed in the next unit.
        if size < 1023.95 or unit == _UNITS[-1]:
            break
        size /= 1024
    return FormattedValue(f"{size:.1f}" if unit != "B" else f"{value}", unit)


def plain(name: str, value: int) -> FormattedValue:
    """An item's value as its file shows it: digits alone, or "max" for a limit that is not set."""
    return _NO_LIMIT if is_unset(name, value) else FormattedValue(str(value), "")


def is_unset(name: str, value: int) -> bool:
    """Whether an item's value says that it is a limit that is not set."""
    item = item_named(name)
    return value == UNLIMITED and item is not None and is_limit(item)


def formatter(in_bytes: bool) -> Formatter:
    """The one that the option --bytes asks for."""
    return plain if in_bytes else human


def per_second(name: str, rate: float) -> FormattedValue:
    """A counter's rate for people; that of stalled time is a percentage of the time."""
    item = item_named(name)
    if item is not None and item.unit == MICROSECONDS:
        return FormattedValue(f"{rate / 1e4:.1f}", "%")
    return FormattedValue(f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}", "")


def columns(text: str) -> int:
    """The number of columns that a text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def printable(name: str) -> str:
    """A cgroup's name, which may hold any bytes, as a terminal can show it."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in name)


def _escaped(letter: str) -> str:
    if letter in _NO_UTF_8:
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


# What os.fsdecode() makes of bytes that are not UTF-8.
_NO_UTF_8 = {chr(number) for number in range(0xDC80, 0xDD00)}
