# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Opens a cgroup's memory.* files, reads them as a whole, and parses them into items."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable
from typing import Optional

from .._descriptors import Descriptor, file_identity, opened_at
from .._items import (
    CATALOGUE,
    MEMORY_STAT,
    NUMA_STAT,
    PRESSURE,
    UNLIMITED,
    V1_EVENTS,
    V1_FILES,
    V1_ONLY_FILES,
)
from ..errors import StreamError
from .directory import Cgroup

# Larger than the memory.stat of any kernel (below 4 KiB up to Linux 7.3). read_whole() reads
# larger files in several chunks.
_CHUNK = 16384

_V1_UNLIMITED = UNLIMITED // mmap.PAGESIZE * mmap.PAGESIZE
_V1_KEYS = {item.v1: item.name for item in CATALOGUE.values() if item.v1}

_KEYED = ("memory.events", "memory.events.local", "memory.swap.events")


class CgroupFile:
    """A file of a cgroup, opened for reading. The last reference to it closes it, too."""

    def __init__(self, cgroup: Cgroup, name: str) -> None:
        self._descriptor = Descriptor(opened_at(name, os.O_RDONLY, cgroup.fd))
        self.fd, self._identity = self._descriptor.fd, self._descriptor.file_identity

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the file's descriptor."""
        return self._descriptor.is_lost

    def read(self) -> bytes:
        """The file's whole content now.

        Raises:
            OSError: EBADF if other code has closed the descriptor, and another file has its
                number now.
        """
        if file_identity(self.fd) != self._identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return read_whole(self.fd)

    def close(self) -> None:
        """Closes the file. Calling it again does nothing."""
        self._descriptor.close()


class PressureFile:
    """memory.pressure, which can be switched off. Switched on again, it is another file."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._directory = CgroupFile(cgroup, ".")
        self._cgroup = cgroup._replace(fd=self._directory.fd, owner=None)
        try:
            self._file: Optional[CgroupFile] = CgroupFile(self._cgroup, PRESSURE)
        except BaseException:
            self._directory.close()
            raise

    def read(self) -> bytes:
        """The file's whole content now; empty while it is switched off.

        Raises:
            OSError: ENODEV if the cgroup was removed.
        """
        if self._file is not None:
            try:
                return self._file.read()
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                    raise
            self._file.close()
            self._file = None
        try:
            self._file = CgroupFile(self._cgroup, PRESSURE)
            return self._file.read()
        except OSError as error:
            if not self._cgroup.has_file(MEMORY_STAT):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
            return b""

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the directory's descriptor."""
        return self._directory.is_lost

    def close(self) -> None:
        """Closes the file and the directory. Calling it again does nothing."""
        self._directory.close()
        if self._file is not None:
            self._file.close()


def read_whole(fd: int) -> bytes:
    """The whole content of an open file. The kernel writes it again for a read at offset 0."""
    data = os.pread(fd, _CHUNK, 0)
    if len(data) < _CHUNK:
        return data
    parts = [data]
    while data:
        data = os.pread(fd, _CHUNK, sum(map(len, parts)))
        parts.append(data)
    return b"".join(parts)


def read_at(dir_fd: int, name: str) -> bytes:
    """The whole content of a file, by its name in an open directory."""
    file = opened_at(name, os.O_RDONLY, dir_fd)
    try:
        return read_whole(file.fileno())
    finally:
        file.close()


def name_of(file: str, version: int) -> Optional[str]:
    """The name that the file of an item has in this version; None if it does not exist there."""
    if version == 2:
        return None if file in V1_ONLY_FILES else file
    return V1_FILES.get(file)


def stat_key(name: str, version: int) -> str:
    """The key of an item in memory.stat; "" if a hierarchy of this version has none."""
    item = CATALOGUE.get(name)
    return name if version == 2 or item is None else item.v1 or ""


def parse(data: bytes) -> dict[str, int]:
    """The keys and numbers of a file such as memory.stat, in the file's order.

    Raises:
        StreamError: a line is not a key and a number.
    """
    keys, values = _keys_and_values(data)
    try:
        return dict(zip(keys, map(int, values)))
    except ValueError as error:
        raise StreamError(f"{MEMORY_STAT} is not as expected: {error}") from error


def _keys_and_values(data: bytes) -> tuple[list[str], list[str]]:
    words = data.decode("ascii", "replace").split()
    if len(words) % 2:
        raise StreamError(f"{MEMORY_STAT} is not as expected: {words[-1]!r} has no value")
    return words[::2], words[1::2]


class StatLines:
    """Picks some items' values out of memory.stat by their positions.

    The lines of memory.stat change only when cgroup2 is mounted again with other options, so the
    keys are compared with those of the last read, and looked up only if they differ.

    Args:
        names: the items.
        version: the version of the hierarchy, 1 or 2.
        absent: the value of an item that has no line; None if a missing line is a StreamError.
    """

    def __init__(self, names: Iterable[str], version: int, absent: Optional[int] = None) -> None:
        self._keys = [stat_key(name, version) for name in names]
        self._absent = absent
        self._layout: tuple[list[str], list[int]] = ([], [])

    def values(self, data: bytes) -> list[int]:
        """The values of the items, in the items' order.

        Raises:
            StreamError: the data is not in the format of memory.stat, or lacks an item.
        """
        printed, values = _keys_and_values(data)
        try:
            known, places = self._layout
            if printed != known:
                places = self._places(printed)
                self._layout = printed, places
            if self._absent is not None:
                values.append(str(self._absent))  # at position -1
            return [int(values[place]) for place in places]
        except (ValueError, IndexError) as error:
            raise StreamError(f"{MEMORY_STAT} is not as expected: {error}") from error

    def _places(self, printed: list[str]) -> list[int]:
        if self._absent is None:
            return [printed.index(key) for key in self._keys]
        return [printed.index(key) if key in printed else -1 for key in self._keys]


def parse_items(file: str, version: int, data: bytes) -> dict[str, int]:
    """The names and values of all items that a file shows, in the file's order.

    Args:
        file: the file of the items, as :attr:`Item.file` has it.
        version: the version of the hierarchy that the data is from, 1 or 2.
        data: the file's content.

    Raises:
        StreamError: the data is not in this file's format.
    """
    if file == MEMORY_STAT:
        parsed = parse(data)
        if version == 2:
            return parsed
        # cgroup v1 prints its lines in another order than the catalogue's, which is cgroup v2's.
        shown = {_V1_KEYS[key]: value for key, value in parsed.items() if key in _V1_KEYS}
        return {name: shown[name] for name in CATALOGUE if name in shown}
    try:
        if file in _KEYED:
            shown = parse(data)
            keys = shown if version == 2 else (key for key in V1_EVENTS if key in shown)
            return {f"{file}.{key}": shown[key] for key in keys}
        lines = data.decode("ascii", "replace").splitlines()
        if file == NUMA_STAT:
            return dict(_nodes(lines))
        if file == PRESSURE:
            return dict(map(_total, lines))
        (line,) = lines
        return {file: _limit(line, version)}
    except (ValueError, KeyError) as error:
        raise StreamError(f"{file} is not as expected: {error}") from error


def _limit(text: str, version: int) -> int:
    if text == "max":
        return UNLIMITED
    value = int(text)
    return UNLIMITED if version == 1 and value == _V1_UNLIMITED else value


def _nodes(lines: list[str]) -> list[tuple[str, int]]:
    found = []
    for line in lines:
        key, *nodes = line.split()
        for node, value in (pair.split("=") for pair in nodes):
            found.append((f"{NUMA_STAT}.{key}.{node}", int(value)))
    return found


def _total(line: str) -> tuple[str, int]:
    key, *pairs = line.split()
    return f"{PRESSURE}.{key}.total", int(dict(pair.split("=") for pair in pairs)["total"])
