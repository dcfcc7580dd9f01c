# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds out which items a cgroup's files show. No backend offers an item that they do not show.

The exception is memory.stat of cgroup v1, which shows only some of the items that the kernel
counts. BPF may offer the others, too (see :meth:`PresentItems.counted`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from .._items import CATALOGUE, DERIVED, MEMORY_STAT, ON_ROOT, file_of
from ..errors import is_transient
from .derived import inputs
from .directory import Cgroup
from .files import name_of, parse_items, read_at

# The kernel counts these per cgroup only on cgroup v2 (it checks cgroup_subsys_on_dfl), hugetlb
# only with a mount option, and swap only where memory.stat shows it (do_memsw_account()).
_NOT_ACCOUNTED_ON_V1 = ("hugetlb", "sock", "zswap", "zswapped", "zswap_incomp", "swap")


class PresentItems:
    """The items that a cgroup's files show. Each file is read when it is first needed.

    Args:
        cgroup: the cgroup.
        walks: whether the cgroups below are read, too. If so, a file that the hierarchy's root
            lacks is looked for in a child of the root.
    """

    def __init__(self, cgroup: Cgroup, walks: bool) -> None:
        self._cgroup, self._walks = cgroup, walks
        self._names: dict[str, tuple[str, ...]] = {}

    def names(self, file: str) -> tuple[str, ...]:
        """The items that a file shows, in the file's order; for "derived", those that can be
        computed from what the files show.

        Raises:
            OSError: the file cannot be read.
            StreamError: its content is not in this file's format.
        """
        if file not in self._names:
            self._names[file] = tuple(self._read(file))
        return self._names[file]

    def has(self, name: str) -> bool:
        """Whether the cgroup's files show an item."""
        return name in self.names(file_of(name))

    def counted(self, file: str) -> tuple[str, ...]:
        """The items of a file that the kernel counts here, which BPF may offer.

        On cgroup v2 they are those that the file shows. On cgroup v1, memory.stat shows fewer.
        """
        shown = self.names(file)
        if self._cgroup.version == 1 and file == MEMORY_STAT:
            return tuple(
                item.name
                for item in CATALOGUE.values()
                if item.file == file
                and (item.name not in _NOT_ACCOUNTED_ON_V1 or item.name in shown)
            )
        return shown

    def counts(self, name: str) -> bool:
        """Whether the kernel counts an item here."""
        return name in self.counted(file_of(name))

    def _read(self, file: str) -> Iterator[str]:
        cgroup = self._cgroup
        if file == DERIVED:
            items = (item for item in CATALOGUE.values() if item.file == file)
            return (item.name for item in items if all(map(self.has, inputs(item.name))))
        name = name_of(file, cgroup.version)
        if name is None:
            return iter(())
        if cgroup.is_root and file not in ON_ROOT:
            if not self._walks:
                return iter(())
            if cgroup.version == 2:
                return iter(self._below(file, name))
            # On cgroup v1 the root has the files of all cgroups.
        try:
            data = read_at(cgroup.fd, name)
        except OSError as error:
            # EOPNOTSUPP is memory.pressure's, if Linux 5.10 to 5.13 was booted with psi=0. Later
            # kernels have no such file then.
            if file == MEMORY_STAT or error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                raise
            return iter(())
        return iter(parse_items(file, cgroup.version, data))

    def _below(self, file: str, name: str) -> tuple[str, ...]:
        """The items that a child of the root shows, or all of the file's items if the root has no
        child with memory statistics."""
        with os.scandir(self._cgroup.fd) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                try:
                    os.stat(f"{entry.name}/{MEMORY_STAT}", dir_fd=self._cgroup.fd)
                    try:
                        data = read_at(self._cgroup.fd, f"{entry.name}/{name}")
                    except FileNotFoundError:
                        os.stat(f"{entry.name}/{MEMORY_STAT}", dir_fd=self._cgroup.fd)
                        return ()
                    return tuple(parse_items(file, self._cgroup.version, data))
                except OSError as error:  # without the memory controller, or just removed
                    if is_transient(error):
                        raise
        return tuple(item.name for item in CATALOGUE.values() if item.file == file)
