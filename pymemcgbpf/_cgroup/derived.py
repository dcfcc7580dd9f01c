# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Computes the items that no file shows from those that files show."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .. import _lookup
from .._descriptors import file_identity, opened_at
from .._items import CATALOGUE, MAX, UNLIMITED, Difference, LeastLimit
from .diagnosis import Identity, is_gone
from .files import name_of, parse_items, read_at


def inputs(name: str) -> tuple[str, ...]:
    """The items of files that an item is computed from; empty if a file shows it."""
    source = CATALOGUE[name].source if name in CATALOGUE else None
    if isinstance(source, Difference):
        return source.whole, source.part
    return (source.limit,) if isinstance(source, LeastLimit) else ()


class Derived:
    """Those of the wanted items that no file shows.

    Attributes:
        shown: the items to read from files: the other wanted ones, and the inputs of differences.
        differences: the derived items that are differences.
        limits: the derived items that are the least limit on the way to the root.
    """

    def __init__(self, names: Iterable[str], version: int) -> None:
        names = tuple(names)
        sources = {name: CATALOGUE[name].source for name in names if inputs(name)}
        self.limits = [name for name, of in sources.items() if isinstance(of, LeastLimit)]
        self.differences = {name: of for name, of in sources.items() if isinstance(of, Difference)}
        shown = (name for name in names if name not in sources)
        parts = (part for pair in self.differences.values() for part in pair)
        self.shown = tuple(dict.fromkeys((*shown, *parts)))
        self._version, self._file = version, name_of(MAX, version) or MAX
        self._known: dict[Identity, int] = {}

    def begin(self) -> None:
        """Begins a new read, for which the limits of ancestors are read again."""
        self._known.clear()

    def add_to(self, values: dict[str, int], directory: int) -> None:
        """Adds the derived items of a cgroup to its values of :attr:`shown`.

        Raises:
            OSError: ENOENT or ENODEV if the cgroup was removed.
            StreamError: a file of a limit is not as expected.
        """
        for name, (whole, part) in self.differences.items():
            if whole in values and part in values:
                values[name] = max(values[whole] - values[part], 0)
        if self.limits:
            # The cgroup's own limit comes last: if it is there, none of the ancestors was removed.
            above = self._least_above(directory)
            values.update(dict.fromkeys(self.limits, min(above, self._limit(directory))))

    def _least_above(self, directory: int) -> int:
        """The least limit of the visible ancestors of a cgroup."""
        below = file_identity(directory)
        passed: list[tuple[Identity, int]] = []  # the nearest first
        least = UNLIMITED
        at = opened_at("..", os.O_PATH | os.O_DIRECTORY, directory)
        try:
            while True:
                identity = file_identity(at.fileno())
                if identity in self._known:
                    least = self._known[identity]
                    break
                is_cgroup = _lookup.exists("cgroup.procs", at.fileno())
                if identity[0] != below[0] or identity == below or not is_cgroup:
                    break  # above the mount, or the root directory of a process in a cgroup
                if self._version == 1 and self._is_flat(at.fileno()):
                    passed.append((identity, UNLIMITED))
                    break
                try:
                    passed.append((identity, self._limit(at.fileno())))
                except OSError as error:  # the root of a hierarchy has no limit on cgroup v2
                    if not is_gone(error):
                        raise
                with at as last:
                    at = opened_at("..", os.O_PATH | os.O_DIRECTORY, last.fileno())
                below = identity
        finally:
            at.close()
        for identity, limit in reversed(passed):
            least = self._known[identity] = min(least, limit)
        return least

    def _is_flat(self, directory: int) -> bool:
        """Whether the limits of a cgroup of v1 do not apply to its children, as before Linux 5.11
        without memory.use_hierarchy."""
        return (_lookup.contents("memory.use_hierarchy", directory) or "").strip() == "0"

    def _limit(self, directory: int) -> int:
        data = read_at(directory, self._file)
        return parse_items(MAX, self._version, data)[MAX]
