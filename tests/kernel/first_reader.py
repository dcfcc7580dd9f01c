# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A program: makes the first reader of a process again and again, each time in a new process,
while one allocation after another fails.

Its process loads no libbpf, so each of its children asks for the kernel's features again.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from pymemcgbpf import StatsReader

from .cgroups import ended, forked
from .failing_memory import FailingMemory

NOT_REACHED = 3


def main(path: str, backend: Any, transport: str, numbers: range) -> int:
    """Lets each of those allocations fail; prints the last that there was. Returns how often the
    outcome was neither a reader as usual nor an error for want of memory."""

    def make() -> None:
        with StatsReader(path, ["anon"]) as reader:
            assert (reader.backend, reader.transport) == (backend, transport), (
                reader.fallback_reason
            )
            assert reader.read() == {"anon": 0}

    def first(number: int) -> None:
        reached = FailingMemory().reaches(number, make)
        make()
        if not reached:
            os._exit(NOT_REACHED)

    failures = 0
    for number in numbers:
        status = ended(forked(functools.partial(first, number)))
        if status == NOT_REACHED:
            print(number)
            break
        failures += bool(status)
    return failures


if __name__ == "__main__":
    path, backend, transport, start, step = sys.argv[1:]
    sys.exit(main(path, backend, transport, range(int(start), 1 << 20, int(step))))
