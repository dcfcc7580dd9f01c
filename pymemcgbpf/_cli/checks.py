# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The checks of the command doctor: what each found, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from .._records import Record
from ..errors import MemcgError, is_transient
from . import table

OK, NO, UNKNOWN = "ok", "no", "could not tell"


class Check(Record):
    """The result of one check.

    Attributes:
        verdict: "ok", "no" or "could not tell".
        found: what was found.
        advice: what to do; "" if there is nothing to do or *found* says it already.
        check: the name of the check.
    """

    verdict: str
    found: str
    advice: str = ""
    check: str = ""


class CouldNotTellError(Exception):
    """Something that a check depends on is missing."""


def looked(name: str, look: Callable[[], Check]) -> Check:
    """The result of a check, also if it raises an error."""
    return _result(look)._replace(check=name)


def _result(look: Callable[[], Check]) -> Check:
    try:
        return look()
    except CouldNotTellError as error:
        return Check(UNKNOWN, str(error))
    except MemcgError as error:  # whose message says what to do
        return Check(UNKNOWN if is_transient(error) else NO, str(error))
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return Check(UNKNOWN, f"{what}{error.strerror}")


def as_line(check: Check, before: Sequence[Check]) -> str:
    """A line for people. What an earlier check has said already is not repeated."""
    same = [one.check for one in before if one[:3] == check[:3] and check.verdict != OK]
    said = f"see {same[0]}" if same else ": ".join(filter(None, (check.found, check.advice)))
    verdict, name = table.left([check.verdict], len(UNKNOWN)), table.left([check.check], 24)
    return table.join(verdict, name, [said]).replace("\n", " ")
