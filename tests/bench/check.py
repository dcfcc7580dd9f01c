# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks, before anything is timed, that all contestants read the same numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pymemcgbpf
from tests.kernel.oracle import by_text

from .errors import BenchError
from .runner import Contestant

# The cgroup is idle, but numbers read without a flush may be 2 s old, and writeback continues.
_ATTEMPTS = 20
_PAUSE = 0.25  # seconds


def same_numbers(contestants: Sequence[Contestant], path: Path) -> int:
    """Compares all values with memory.stat and StatsReader; returns how many were compared.

    Raises:
        BenchError: a value is not between those that were read before and after it.
    """
    with pymemcgbpf.StatsReader(path) as reader:

        def truth() -> dict[str, int]:
            return {**reader.read(), **by_text(path)}

        for _ in range(_ATTEMPTS):
            before = truth()
            found = [(one, one.values()) for one in contestants if one.values is not None]
            after = truth()
            wrong = [
                f"{one.name} ({one.section}): {name} is {value}, not {before[name]} … {after[name]}"
                for one, values in found
                for name, value in values.items()
                if not min(before[name], after[name]) <= value <= max(before[name], after[name])
            ]
            if not wrong and all(values for _, values in found):
                return sum(len(values) for _, values in found)
            time.sleep(_PAUSE)
    raise BenchError("\n".join(wrong or ["a contestant gave no values"]))
