# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks one pin: what it shows, who refreshes it, and in which ways it can be read here."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Callable, Optional

from .. import _options
from .._pins.find import FoundPin, describe
from .._pins.read import PinnedReader
from ..snapshot import Snapshot
from . import pins
from .checks import NO, OK, Check, CouldNotTellError, looked
from .units import human


def checks(path: Optional[str]) -> Iterator[Check]:
    """All checks of the pin at a path. The last one says how it is read."""
    assert path is not None, "a pin has a path"
    found: list[FoundPin] = []

    def pin() -> Check:
        found.append(describe(path))
        return _contents(found[0])

    def about(text: Callable[[FoundPin], Check]) -> Check:
        if not found:
            raise CouldNotTellError("this can only be seen of a pin that can be read")
        return text(found[0])

    yield looked("pin", pin)
    for name, text in (("cgroup", _cgroup), ("state", _state), ("cost", _cost)):
        yield looked(name, functools.partial(about, text))
    for transport in _TRANSPORTS if found and found[0].kind == "tree" else ():
        yield looked(f"read by {transport}", functools.partial(_reads, path, transport))
    yield looked("in use", functools.partial(_reads, path, "auto"))


_TRANSPORTS: tuple[_options.PinTransport, ...] = ("map", "stream")
_KINDS = {
    "cgroup": "one cgroup, which the kernel reads whenever the file is opened",
    "walk": "a walk, which the kernel makes whenever the file is opened",
    "tree": "a pinned tree",
}


def _contents(pin: FoundPin) -> Check:
    names = ", ".join(pin.item_names)
    many = f"{len(pin.item_names)} item{'s' * (len(pin.item_names) != 1)}"
    order = "" if pin.kind == "cgroup" else f", in the order {pin.order}"
    return Check(OK, f"{_KINDS[pin.kind]}{order}, with {many}: {names}")


def _cgroup(pin: FoundPin) -> Check:
    count = "" if pin.cgroups is None else f", {pin.cgroups:,} cgroup{'s' * (pin.cgroups != 1)}"
    return Check(OK, f"{pins.cgroup_of(pin)}{count}")


def _state(pin: FoundPin) -> Check:
    found: list[str] = [pin.state]
    if pin.kind == "tree":
        every = "" if pin.interval is None else f" every {pin.interval:g} s"
        by = "the kernel" if pin.refreshed_by == "kernel" else "the process that pinned it"
        found.append(f"refreshed by {by}{every}")
        if pin.age is not None:
            found.append(f"the last walk began {pin.age:,.1f} s ago")
    return Check(NO if pin.advice else OK, ", ".join(found), pin.advice)


def _cost(pin: FoundPin) -> Check:
    if pin.duration is None:
        raise CouldNotTellError("there was no walk")
    found = [f"a walk takes {pins.duration(pin.duration)}"]
    if pin.share is not None:
        found.append(f"all walks take {pins.percentage(pin.share)} of a CPU")
    if pin.memory:
        found.append(f"{' '.join(human('memory.current', pin.memory))} of memory")
    return Check(OK, ", ".join(found))


def _reads(path: str, transport: _options.PinTransport) -> Check:
    began = time.perf_counter()
    with PinnedReader(path, transport=transport) as reader:
        made = time.perf_counter()
        values = reader.read()
        ended = time.perf_counter()
        items = f"{len(reader.item_names)} items"
        if isinstance(values, Snapshot):
            items = f"{items} of {len(values)} cgroup{'s' * (len(values) != 1)}"
        way = f"{reader.transport}, " if transport == _options.AUTO else ""
        return Check(
            OK,
            f"{way}{items} in {(ended - made) * 1e6:,.0f} µs, after a reader was created "
            f"({(made - began) * 1e3:,.1f} ms)",
            reader.fallback_reason,
        )
