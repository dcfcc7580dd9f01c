# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The options that readers and pins share: their types, their allowed values and their check."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import Final, Literal, Optional, SupportsIndex

from ._lookup import Path
from ._records import Record

Order = Literal["self", "pre", "post", "up", "children"]
Backend = Literal["auto", "kfunc", "rfc", "core", "text"]
StatsTransport = Literal["auto", "run", "stream"]
TreeTransport = Literal["auto", "run", "shared"]
PinTransport = Literal["auto", "map", "stream"]

AUTO: Final = "auto"
TEXT: Final = "text"
BACKENDS: tuple[Backend, ...] = ("kfunc", "rfc", "core", TEXT)  # the best first

PIN_TRANSPORTS: tuple[PinTransport, ...] = ("auto", "map", "stream")

# enum bpf_cgroup_iter_order
SELF, PRE, POST, UP, CHILDREN = 1, 2, 3, 4, 5
ORDERS: dict[Order, int] = {"self": SELF, "pre": PRE, "post": POST, "up": UP, "children": CHILDREN}
ORDER_NAMES: dict[int, Order] = {number: name for name, number in ORDERS.items()}


class Request(Record):
    """What a caller asked for.

    Attributes:
        names: the names of items and groups; None for all of memory.stat and memory.current.
        flush: whether pending updates are flushed before a read.
        backend: one of :data:`BACKENDS`, or :data:`AUTO`.
        transport: one of the transports of the kind of reader, or :data:`AUTO`.
    """

    names: Optional[tuple[str, ...]]
    flush: bool
    backend: str
    transport: str


def check(option: str, value: object, allowed: Iterable[str]) -> None:
    """Checks the value of an option.

    Raises:
        ValueError: the value is not allowed; the message lists those that are.
    """
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"{option} must be one of {known}, not {value!r}")


def integer(name: str, value: SupportsIndex) -> int:
    """The value of an argument as an integer.

    Raises:
        TypeError: the value is not an integer. A bool is none, too: who passes one has mistaken
            the argument for a switch.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise _wrong(name, "an integer", value)
    return operator.index(value)


def at_least(least: int, name: str, value: Optional[SupportsIndex]) -> Optional[int]:
    """The value of an argument as an integer; None if it is None.

    Raises:
        TypeError, ValueError: the value is not an integer, or is too small.
    """
    number = None if value is None else integer(name, value)
    if number is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def check_number(name: str, value: object) -> None:
    """Raises a TypeError if the value of an argument is not a number, or is a bool."""
    is_number = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    if isinstance(value, bool) or not is_number:
        raise _wrong(name, "a number", value)


def switch(name: str, value: bool) -> bool:
    """The value of an argument that is True or False.

    Raises:
        TypeError: the value is something else. A text such as "no" would stand for True.
    """
    if value is not True and value is not False:
        raise _wrong(name, "True or False", value)
    return value


def path(name: str, value: Path) -> str:
    """The value of an argument as the text of a path.

    Raises:
        TypeError: the value is no path.
    """
    try:
        return os.fsdecode(value)
    except TypeError:
        raise _wrong(name, "a path (str, bytes or os.PathLike)", value) from None


def _wrong(name: str, what: str, value: object) -> TypeError:
    given = f"the bool {value}" if isinstance(value, bool) else repr(value)
    return TypeError(f"{name} must be {what}, not {given}")
