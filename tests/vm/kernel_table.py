# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Writes docs/kernels.md from the lab's JSON.

The command is ``python3 -m tests.vm.kernel_table FILE... --output FILE``. The page lists only what
a test in a guest has compared with the kernel's own files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import LabError
from .kernels import in_order
from .records import PASSED, Compared
from .report import BACKENDS, NOT_THERE
from .spec import ARCHITECTURES, NEWEST, WHOLE_MATRIX, parse_spec

TRANSPORTS = ("run", "stream", "shared")
ORDERS = ("self", "pre", "post", "up", "children")
Guest = Mapping[str, Any]

_HEAD = f"""\
# Kernels

This page lists the kernels on which the package was tested. They are Debian's cloud kernels, booted
in QEMU with the userland of a Debian release and the installed wheel. `make docs-kernels` writes
the page from the record that the commands below wrote; `make test-all` tests everything.

A number counts the items that a backend read and that a test found equal to `memory.stat` and
`memory.current` of the same cgroup, by each of the transports that follow it (`stream` belongs to
`StatsReader`, `shared` to `TreeReader`, and `run` to both). {NOT_THERE} means that the kernel does
not have the backend. The orders are those in which every row of a tree was equal, with every
backend and transport.

In these guests the memory controller is on cgroup v2. On cgroup v1 `make live` runs the same tests
on the developer's machine; the last run was on Linux 6.18 (x86-64).
"""


def load(files: Iterable[Path]) -> list[Guest]:
    """Read the records of guests. One in a later file replaces the one in an earlier file."""
    guests: dict[str, Guest] = {}
    for file in files:
        for guest in json.loads(file.read_text(encoding="utf-8")):
            if guest.get("origin"):
                guests[guest["label"]] = guest
    if not guests:
        raise LabError("the files have no record of a guest's tests: run make test-all")
    return sorted(guests.values(), key=_place)


def _place(guest: Guest) -> tuple[object, ...]:
    origin = guest["origin"]
    return (
        list(ARCHITECTURES).index(origin["architecture"]),
        # The seed kernel has no series, and comes last.
        in_order(origin["series"]) if origin["series"][0].isdigit() else (sys.maxsize,),
        origin["userland"],
    )


def document(guests: Sequence[Guest]) -> str:
    """Return the text of the page."""
    rows = [
        (
            *(_kernel(guest), _architecture(guest)),
            guest["origin"]["userland"],
            *(_backend(guest, backend) for backend in BACKENDS),
            *(_orders(guest), _tests(guest)),
        )
        for guest in guests
    ]
    header = (
        "Linux",
        "architecture",
        "userland",
        *(f"`{name}`" for name in BACKENDS),
        "orders",
        "tests",
    )
    parts = [_HEAD, _markdown(header, rows)]
    chosen = sorted({guest["select"] for guest in guests if guest["select"]}, key=len)
    if chosen:
        parts.append("Where only a part of the tests ran, it was chosen by pytest's `-k` with:\n")
        parts.append("".join(f"- `{select}`\n" for select in chosen))
    commands = dict.fromkeys(guest["command"] for guest in guests)
    parts.append("The commands that wrote the record:\n")
    parts.append("".join(f"- `{command}`\n" for command in commands))
    failed = [
        f"- {guest['label']}: {one['name']}\n" for guest in guests for one in _failures(guest)
    ]
    if failed:
        parts += ["## Failed\n", "".join(failed)]
    lacking = not_tested(guests)
    if lacking:
        parts.append(f"Not in the record, so not tested: {', '.join(lacking)}.\n")
    parts += ["## Packages\n", _packages(guests)]
    return "\n".join(parts)


def not_tested(guests: Sequence[Guest]) -> list[str]:
    """Return the guests of the matrix that are not in the record."""
    there = {guest["label"] for guest in guests}
    return [
        text for text in WHOLE_MATRIX if text not in there and parse_spec(text).series != NEWEST
    ]


def _kernel(guest: Guest) -> str:
    origin = guest["origin"]
    # The package version 6.1.176-1 contains the kernel's; uname shows other numbers after the dash.
    release: str = origin["packages"][origin["kernel_package"]].partition("-")[0]
    series = origin["series"]
    return release if series[0].isdigit() else f"{release} ({series})"


def _architecture(guest: Guest) -> str:
    return ARCHITECTURES[guest["origin"]["architecture"]].name


def _compared(guest: Guest) -> list[Compared]:
    return [Compared(**one) for one in guest["compared"]]


def _backend(guest: Guest, backend: str) -> str:
    ways = [one for one in _compared(guest) if one.backend == backend]
    if not ways:
        return "nothing compared" if backend in guest["backends"] else NOT_THERE
    least, most = min(one.items for one in ways), max(one.items for one in ways)
    number = str(least) if least == most else f"{least}–{most}"
    by = [name for name in TRANSPORTS if name in {one.transport for one in ways}]
    return f"{number}: {', '.join(by)}" if by else number


def _orders(guest: Guest) -> str:
    ways: dict[tuple[str, str], set[str]] = {}
    for one in _compared(guest):
        if one.reader == "tree":
            ways.setdefault((one.backend, one.transport), set()).add(one.order)
    in_all = set(ORDERS).intersection(*ways.values()) if ways else set()
    if in_all == set(ORDERS):
        return "all"
    return ", ".join(order for order in ORDERS if order in in_all) or "none"


def _failures(guest: Guest) -> list[Mapping[str, str]]:
    return [*(one for one in guest["tests"] if one["outcome"] != PASSED), *guest["troubles"]]


def _tests(guest: Guest) -> str:
    failed = len(_failures(guest))
    passed = len(guest["tests"]) - sum(one["outcome"] != PASSED for one in guest["tests"])
    words = f"{passed} passed" + (f", {failed} failed" if failed else "")
    return f"{words} (part)" if guest["select"] else words


def _packages(guests: Sequence[Guest]) -> str:
    kernels, userlands = {}, {}
    for guest in guests:
        origin = guest["origin"]
        version = origin["packages"][origin["kernel_package"]]
        kernels[f"`{origin['kernel_package']}`"] = version
        # The package python3 depends on the interpreter, for instance python3.13.
        python = "python" + ".".join(guest["python"].split(".")[:2])
        names = (python, "libbpf1", "libc6")
        userlands[origin["userland"], _architecture(guest)] = tuple(
            f"{name} {origin['packages'].get(name, NOT_THERE)}" for name in names
        )
    return "\n".join(
        (
            _markdown(("kernel", "version"), list(kernels.items())),
            _markdown(
                ("userland", "architecture", "Python", "libbpf", "C library"),
                [(*key, *names) for key, names in sorted(userlands.items())],
            ),
        )
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.kernel_table")
    parser.add_argument("records", type=Path, nargs="+", help="what the lab's --json wrote")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    try:
        text = document(load(options.records))
    except FileNotFoundError as error:
        print(f"{error.filename} does not exist: run make test-all", file=sys.stderr)
        return 2
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
