# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup through text: its files, parsed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Optional, Union

from .._cgroup.derived import Derived
from .._cgroup.directory import Cgroup
from .._cgroup.files import CgroupFile, PressureFile, StatLines, name_of, parse_items
from .._items import MEMORY_STAT, PRESSURE, file_of
from ..errors import ItemUnavailableError, StreamError


class TextSource:
    """Reads the items of one cgroup from its files, which stay open.

    The files must have all of *names*, or what these are computed from.
    """

    def __init__(self, cgroup: Cgroup, names: Iterable[str]) -> None:
        self._names = tuple(names)
        files: dict[str, list[str]] = {}
        self._derived = Derived(self._names, cgroup.version)
        for name in self._derived.shown:
            files.setdefault(file_of(name), []).append(name)
        self._files: list[_KeptFile] = []
        self._directory: Optional[CgroupFile] = None
        try:
            if self._derived.limits:
                self._directory = CgroupFile(cgroup, ".")
            for file, wanted in files.items():
                self._files.append(_KeptFile(cgroup, file, wanted))
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, int]:
        """The current values by name.

        Raises:
            StreamError: the files no longer have what they had.
        """
        if len(self._files) == 1 and self._derived.shown == self._names:
            (file,) = self._files
            return dict(zip(file.names, file.values()))
        found: dict[str, int] = {}
        for file in self._files:
            found.update(zip(file.names, file.values()))
        directory = self._directory
        if directory is not None and directory.is_lost:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._derived.begin()
        self._derived.add_to(found, -1 if directory is None else directory.fd)
        return {name: found[name] for name in self._names if name in found}

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of the files."""
        directory = self._directory
        if directory is not None and directory.is_lost:
            return True
        return any(file.is_lost for file in self._files)

    def probe_missing(self) -> set[str]:
        """Returns the empty set: the kernel keeps what the files show."""
        return set()

    def close(self) -> None:
        """Closes the files. Calling it again does nothing."""
        for file in self._files:
            file.close()
        if self._directory is not None:
            self._directory.close()


class _KeptFile:
    """One of the files, and the items that are wanted from it."""

    def __init__(self, cgroup: Cgroup, file: str, names: list[str]) -> None:
        self.names = names
        self.file, self._version = file, cgroup.version
        self._open: Union[CgroupFile, PressureFile]
        if file == PRESSURE:
            self._open = PressureFile(cgroup)
        else:
            self._open = CgroupFile(cgroup, name_of(file, cgroup.version) or file)
        self._lines = StatLines(names, cgroup.version)
        try:
            shown = parse_items(file, self._version, self._open.read())
        except BaseException:
            self.close()
            raise
        lost = [name for name in names if name not in shown]
        if lost:  # a remount can remove hugetlb
            self.close()
            raise ItemUnavailableError(f"{file} no longer has {', '.join(lost)}", item_names=lost)

    def values(self) -> list[int]:
        """The current values of the items; empty if pressure is switched off."""
        data = self._open.read()
        if self.file == MEMORY_STAT:
            return self._lines.values(data)
        if self.file == PRESSURE and not data:
            return []
        shown = parse_items(self.file, self._version, data)
        try:
            return [shown[name] for name in self.names]
        except KeyError as error:
            raise StreamError(f"{self.file} is not as expected: no {error}") from error

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed it."""
        return self._open.is_lost

    def close(self) -> None:
        """Closes the file. Calling it again does nothing."""
        self._open.close()
