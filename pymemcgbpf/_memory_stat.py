# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The text backend: memory.stat as the kernel prints it, parsed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Optional

from ._cgroupfs import MEMORY_STAT, Cgroup
from .errors import StreamError
from .items import CATALOGUE, CURRENT

# More than any kernel prints (below 4 KiB up to 7.3); read on if it is not enough.
_CHUNK = 16384


def open_file(cgroup: Cgroup, name: str) -> int:
    """A file of the cgroup, opened for reading."""
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup.fd)


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
    fd = open_file(cgroup, MEMORY_STAT)
    try:
        printed = parse(read_whole(fd))
    finally:
        os.close(fd)
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
        self._stat_keys = [key_of[name] for name in names if name != CURRENT]
        self._wants_current = CURRENT in names
        self._stat_fd = -1
        self._current_fd = -1
        try:
            if self._stat_keys:
                self._stat_fd = open_file(cgroup, MEMORY_STAT)
            if self._wants_current:
                self._current_fd = open_file(cgroup, cgroup.current_file)
        except BaseException:
            self.close()
            raise
        # The kernel's lines never change their order while it runs, so the values
        # can be picked by place; the keys are compared all the same.
        self._layout: Optional[list[str]] = None
        self._places: list[int] = []

    def read(self) -> dict[str, int]:
        """Name → value, now."""
        values: list[int] = []
        if self._stat_fd >= 0:
            words = read_whole(self._stat_fd).decode("ascii", "replace").split()
            printed = words[::2]
            if printed != self._layout:
                parse(" ".join(words).encode())  # complains of what is no key and number
                self._places = [2 * printed.index(key) + 1 for key in self._stat_keys]
                self._layout = printed
            values = [int(words[place]) for place in self._places]
        if self._wants_current:
            values.insert(self._names.index(CURRENT), int(os.pread(self._current_fd, 32, 0)))
        return dict(zip(self._names, values))

    def close(self) -> None:
        """Closes the files. Twice is fine."""
        for name in ("_stat_fd", "_current_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)
