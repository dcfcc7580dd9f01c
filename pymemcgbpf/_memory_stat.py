# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The text backend: memory.stat as the kernel prints it, parsed."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import Optional

from ._cgroupfs import MEMORY_STAT, Cgroup, above_standard
from .errors import ItemUnavailableError, StreamError
from .items import CATALOGUE, CURRENT

# More than any kernel prints (below 4 KiB up to 7.3); read on if it is not enough.
_CHUNK = 16384


class CgroupFile:
    """A file of a cgroup, open for reading until it is closed or forgotten."""

    def __init__(self, cgroup: Cgroup, name: str) -> None:
        self.fd = above_standard(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup.fd))
        self._finalizer = weakref.finalize(self, os.close, self.fd)
        self._finalizer.atexit = False  # the kernel tidies up after a process

    def close(self) -> None:
        """Twice is fine."""
        self._finalizer()


def read_whole(fd: int) -> bytes:
    """All of a file that the kernel writes anew at offset 0."""
    data = os.pread(fd, _CHUNK, 0)
    if len(data) < _CHUNK:
        return data
    parts = [data]
    while data:
        data = os.pread(fd, _CHUNK, sum(map(len, parts)))
        parts.append(data)
    return b"".join(parts)


def parse(data: bytes) -> dict[str, int]:
    """memory.stat's lines, in their order.

    Raises:
        StreamError: a line is not a key and a number.
    """
    words = data.decode("ascii", "replace").split()
    try:
        parsed = dict(zip(words[::2], map(int, words[1::2])))
    except ValueError as error:
        raise StreamError(f"{MEMORY_STAT} is not as expected: {error}") from error
    if len(words) % 2:
        raise StreamError(f"{MEMORY_STAT} is not as expected: {words[-1]!r} has no value")
    return parsed


def keys(cgroup: Cgroup) -> dict[str, str]:
    """Item's name → memory.stat's key, of all that this kernel prints, in its order.

    On cgroup v1 the keys are others: the items that v1 shows too (as its total_*).
    """
    file = CgroupFile(cgroup, MEMORY_STAT)
    try:
        printed = parse(read_whole(file.fd))
    finally:
        file.close()
    if cgroup.version == 2:
        return {key: key for key in printed}
    return {item.name: item.v1 for item in CATALOGUE.values() if item.v1 in printed and item.v1}


class TextSource:
    """Reads one cgroup's items from its files, which stay open.

    *names* must all be keys of :func:`keys`, or "memory.current".
    """

    def __init__(self, cgroup: Cgroup, names: Iterable[str]) -> None:
        names = tuple(names)
        key_of = keys(cgroup)
        self._names = names
        lost = [name for name in names if name != CURRENT and name not in key_of]
        if lost:  # a remount can take hugetlb away
            raise ItemUnavailableError(f"memory.stat no longer has {', '.join(lost)}", items=lost)
        self._stat_keys = [key_of[name] for name in names if name != CURRENT]
        self._current_at = names.index(CURRENT) if CURRENT in names else -1
        self._stat = CgroupFile(cgroup, MEMORY_STAT) if self._stat_keys else None
        self._current = CgroupFile(cgroup, cgroup.current_file) if CURRENT in names else None
        # The lines change only when cgroup2 is mounted anew, so the values are picked by
        # place, and the keys compared.
        self._layout: Optional[list[str]] = None
        self._places: list[int] = []

    def read(self) -> dict[str, int]:
        """Name → value, now.

        Raises:
            StreamError: the files do not hold what they did.
        """
        try:
            values = self._stat_values(self._stat.fd) if self._stat is not None else []
            if self._current is not None:
                values.insert(self._current_at, int(os.pread(self._current.fd, 32, 0)))
        except (ValueError, IndexError) as error:
            raise StreamError(f"{MEMORY_STAT} is not as expected: {error}") from error
        return dict(zip(self._names, values))

    def absent(self) -> set[str]:
        """None: what memory.stat shows is kept."""
        return set()

    def _stat_values(self, fd: int) -> list[int]:
        words = read_whole(fd).decode("ascii", "replace").split()
        printed = words[::2]
        if printed != self._layout:
            self._places = [2 * printed.index(key) + 1 for key in self._stat_keys]
            self._layout = printed
        return [int(words[place]) for place in self._places]

    def close(self) -> None:
        """Closes the files. Twice is fine."""
        for file in (self._stat, self._current):
            if file is not None:
                file.close()
