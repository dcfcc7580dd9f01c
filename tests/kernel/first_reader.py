# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A program: makes the first reader of a process again and again, each time in a new process,
while one allocation after another fails.

Its process loads no libbpf, so each of its children asks the kernel's features anew.
"""

from __future__ import annotations

import sys

from pymemcgbpf import StatsReader

from .cgroups import ended, forked
from .failing_memory import FailingMemory

NOT_REACHED = 3


def main(path: str, backend: str, transport: str, start: int, step: int) -> int:
    """Returns 0 if it succeeded, or failed for want of memory, each time; prints how many
    allocations there are."""

    def make() -> None:
        with StatsReader(path, ["anon"]) as reader:
            assert (reader.backend, reader.transport) == (backend, transport), reader.why
            assert reader.read() == {"anon": 0}

    def first(number: int) -> None:
        reached = FailingMemory().reaches(number, make)
        make()
        if not reached:
            sys.exit(NOT_REACHED)

    number, failed = start, []
    while (status := ended(forked(lambda: first(number)))) != NOT_REACHED:
        if status:
            failed.append(number)
        number += step
    print(number, *failed)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], *map(int, sys.argv[4:])))  # type: ignore[misc]
