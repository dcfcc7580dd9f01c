# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The controls, without this package: memory.stat read as text and parsed in Python."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Callable

from .._items import MEMORY_STAT

Values = dict[str, int]

_WHOLE = 16384  # bytes; no kernel's memory.stat is longer


def not_decoded(fd: int) -> Callable[[], bytes]:
    """Reads an open memory.stat; the patch's first form was compared with this."""

    def read() -> bytes:
        return os.pread(fd, _WHOLE, 0)

    return read


def kept_open(fd: int, keys: Collection[str]) -> Callable[[], Values]:
    """Reads an open memory.stat and parses these keys, or all if there are none."""

    def read() -> Values:
        words = os.pread(fd, _WHOLE, 0).decode().split()
        if not keys:
            return dict(zip(words[::2], map(int, words[1::2])))
        values = dict(zip(words[::2], words[1::2]))
        return {key: int(values[key]) for key in keys}

    return read


def opened_each_time(path: str, keys: Collection[str]) -> Callable[[], Values]:
    """Opens memory.stat, parses it line by line, and closes it, as most programs do."""
    wanted = frozenset(keys)

    def read() -> Values:
        values = {}
        with open(path, encoding="ascii") as lines:
            for line in lines:
                key, value = line.split()
                if not wanted or key in wanted:
                    values[key] = int(value)
        return values

    return read


def walked(root: str, keys: Collection[str]) -> Callable[[], dict[str, Values]]:
    """The same for each directory of a tree: path → values, without removed cgroups."""
    wanted = frozenset(keys)

    def read() -> dict[str, Values]:
        found = {}
        for folder, _, files in os.walk(root):
            if MEMORY_STAT in files:
                values = {}
                try:
                    with open(os.path.join(folder, MEMORY_STAT), encoding="ascii") as lines:
                        for line in lines:
                            key, value = line.split()
                            if not wanted or key in wanted:
                                values[key] = int(value)
                except OSError:
                    continue  # the cgroup was removed
                found[folder] = values
        return found

    return read
