# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the lab's results: tables, every failure with its name, and a last line with counts."""

from __future__ import annotations

from collections.abc import Sequence

from .records import ERROR, FAILED, SKIPPED, GuestResult

_HEADER = ("guest", "kernel", "userland", "tests", "passed", "failed", "skipped", "time")
BACKENDS = ("kfunc", "rfc", "core", "text")
NOT_THERE = "–"


def progress(guest: GuestResult) -> str:
    """Return the line that is printed when a guest has ended."""
    state = "ok" if guest.ok else f"FAILED ({len(guest.failures)})"
    return f"{guest.label}: {guest.kernel}: {guest.passed} passed, {state}, {guest.seconds:.0f} s"


def table(guests: Sequence[GuestResult]) -> str:
    """Return the table of all guests."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for guest in guests:
        rows.append(
            (
                guest.label,
                guest.kernel,
                f"Python {guest.python}, libbpf {guest.libbpf}",
                "part" if guest.select else "all",
                str(guest.passed),
                str(guest.count(FAILED, ERROR) + len(guest.troubles)),
                str(guest.count(SKIPPED)),
                f"{guest.seconds:.0f} s",
            )
        )
    return _aligned(rows, 4)


def matrix(guests: Sequence[GuestResult]) -> str:
    """Return the table of how many items were compared for each backend, or "" without any."""
    if not any(guest.backends or guest.compared for guest in guests):
        return ""
    rows: list[tuple[str, ...]] = [("guest", "kernel", *BACKENDS)]
    for guest in guests:
        cells = (
            str(guest.items_compared(backend))
            if backend in guest.backends or guest.items_compared(backend)
            else NOT_THERE
            for backend in BACKENDS
        )
        rows.append((guest.label, guest.kernel, *cells))
    title = "Items compared with memory.stat, all exact, by each transport of a backend:"
    return f"{title}\n\n{_aligned(rows, 2)}"


def _aligned(rows: Sequence[tuple[str, ...]], to_the_left: int) -> str:
    """Return a table. The first row is the header; *to_the_left* columns are flush left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < to_the_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def failures(guests: Sequence[GuestResult]) -> str:
    """Return the name and text of every failure."""
    blocks = []
    for guest in guests:
        for failure in guest.failures:
            text = failure.text.rstrip() or "no reason given"
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            blocks.append(f"{failure.outcome.upper()} {guest.label} {failure.name}\n{indented}\n")
    return "\n".join(blocks)


def last_line(guests: Sequence[GuestResult]) -> str:
    """Return how many tests of all guests passed and failed."""
    passed = sum(guest.passed for guest in guests)
    failed = sum(len(guest.failures) for guest in guests)
    return f"{passed} passed, {failed} failed"


def all_passed(guests: Sequence[GuestResult], asked: int) -> bool:
    """Tell whether every guest that was asked for has a result, ran tests and passed them."""
    return len(guests) == asked > 0 and all(guest.ok for guest in guests)
