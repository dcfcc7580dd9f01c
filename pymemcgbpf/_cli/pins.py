# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Lists the pins that exist, who refreshes them, and what that costs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from .._lookup import utf_8
from .._pins import tree_layout as _layout
from .._pins.find import FoundPin, FoundPins, list_pins
from .._records import Record
from ..errors import raise_if_short, raise_if_transient
from . import command, output, parsers, table
from .units import human, printable

TIMER_MAP = "memcg_timer"  # what the kernel calls the map of a tree that it refreshes


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.plain_parser(
        " pins",
        "[DIR]",
        "List the pins in all mounted bpffs: the path, which cgroup is shown, how many items, who "
        "refreshes the numbers and how often, how old they are, how long the last walk took, what "
        "share of a CPU the walks take, how many cgroups and how much memory there are, and "
        "whether all is well. Files that are not pins of this program are skipped.",
        "As root, it also asks the kernel whether it refreshes trees that are not in the list. "
        "Exit status: 0 for success, 1 for a failure, 2 for wrong usage.",
    )
    parser.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="list only what is here and below (default: all mounted bpffs)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON array of pins, with times in seconds and sizes in bytes",
    )
    options = parser.parse_args(arguments)

    def texts() -> Iterator[str]:
        found = list_pins(options.directory)
        if options.json:
            yield json.dumps([as_json(pin) for pin in found.pins], indent=2)
        elif found.pins:
            yield as_table(found.pins)
        for note in _notes(found, options):
            output.warn(note)

    return command.run_each(texts)


def _notes(found: FoundPins, options: Any) -> Iterator[str]:
    """What is said on stderr beside the list."""
    if not options.json:
        yield from (f"{pin.path}: {pin.state}: {pin.advice}" for pin in found.pins if pin.advice)
        if not found.pins:
            yield "there is no pin here"
    if found.unreadable:
        yield (
            f"this user may not read {found.unreadable} of the files and directories, which may "
            "be pins, too"
        )
    hidden = kernel_timers(found.pins).hidden if options.directory is None else []
    if hidden:
        yield hidden_text(hidden)


def hidden_text(hidden: Sequence[int]) -> str:
    """What it means that the kernel refreshes trees whose pins are not visible."""
    count = f"{len(hidden)} more tree{'s' * (len(hidden) != 1)}"
    return (
        f"the kernel refreshes {count}, by the map{'s' * (len(hidden) != 1)} with the id "
        f"{', '.join(map(str, hidden))}: pinned in a bpffs that is not visible here, or held open "
        "by a process"
    )


# --- what the kernel says


class Timers(Record):
    """What the kernel refreshes.

    Attributes:
        hidden: the ids of the timers' maps that do not belong to a pin in the list.
        unknown: why the kernel could not be asked; "" if it was.
    """

    hidden: list[int]
    unknown: str


def kernel_timers(pins: Sequence[FoundPin]) -> Timers:
    """Asks the kernel which pinned trees it refreshes, and looks which of them are in a list."""
    try:
        from .._pins import map_ids
    except Exception as error:  # see bindings.py
        raise_if_short(error, "the module that uses ctypes cannot be imported", "import")
        return Timers([], f"this Python has no working ctypes ({error})")
    try:
        running = [each.id for each in map_ids.kernel_maps() if each.name == TIMER_MAP]
    except OSError as error:
        raise_if_transient(error, "the kernel's maps cannot be listed", "bpf")
        return Timers([], f"the kernel may not be asked ({error.strerror})")
    shown = set()
    for pin in pins:
        if pin.refreshed_by == "kernel":
            try:
                found = map_ids.map_at(os.path.join(pin.path, _layout.TIMER))
            except OSError as error:  # its creation was interrupted, or it has just been removed
                raise_if_transient(error, f"{pin.path} cannot be opened", "bpf")
            else:
                shown.add(found.id)
    return Timers([each for each in running if each not in shown], "")


# --- for people and for programs

_HEADS = (
    *("pin", "cgroup", "kind", "items", "refreshed by", "every", "age"),
    *("last walk", "CPU", "cgroups", "memory", "state"),
)
_NUMBERS = {"items", "every", "age", "last walk", "CPU", "cgroups", "memory"}  # aligned right
_KINDS = {"cgroup": "one cgroup", "walk": "walk", "tree": "tree"}
_REFRESHERS = {"kernel": "kernel", "holder": "holder", "read": "each read"}


def as_table(pins: Sequence[FoundPin]) -> str:
    """A line for each pin."""
    rows = [_HEADS, *map(_cells, pins)]
    columns = ((table.right if cells[0] in _NUMBERS else table.left)(cells) for cells in zip(*rows))
    return table.join(*columns)


def _cells(pin: FoundPin) -> tuple[str, ...]:
    return (
        printable(pin.path),
        printable(cgroup_of(pin)),
        _KINDS[pin.kind],
        str(len(pin.item_names)),
        _REFRESHERS[pin.refreshed_by],
        "-" if pin.interval is None else f"{pin.interval:g} s",
        "-" if pin.age is None else f"{pin.age:.1f} s",
        "-" if pin.duration is None else duration(pin.duration),
        "-" if pin.share is None else percentage(pin.share),
        "-" if pin.cgroups is None else f"{pin.cgroups:,}",
        " ".join(human("memory.current", pin.memory)) if pin.memory else "-",
        pin.state,
    )


def cgroup_of(pin: FoundPin) -> str:
    """The path of the walk's root, or else its id."""
    if pin.cgroup is not None:
        return pin.cgroup
    return f"id {pin.root_id}" if pin.root_id else "-"


def duration(seconds: float) -> str:
    """A short time for people."""
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def percentage(share: float) -> str:
    """A part of one CPU for people."""
    return f"{share * 100:.2f} %" if share < 0.1 else f"{share * 100:.0f} %"


def as_json(pin: FoundPin) -> dict[str, Any]:
    """A pin as a JSON object."""
    found: dict[str, Any] = pin._asdict()
    found["path"] = utf_8(pin.path)
    found["cgroup"] = _text(pin.cgroup)
    found["items"] = list(found.pop("item_names"))
    return found


def _text(path: Optional[str]) -> Optional[str]:
    return None if path is None else utf_8(path)
