# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Who flushes pending updates before a read: the BPF program, or a file whose reading flushes."""

from __future__ import annotations

import errno
import os
from typing import Optional

from .._bpf import btf as _btf
from .._bpf import terms as _terms
from .._bpf.features import KFUNC_FLUSH, RSTAT_FLUSH
from .._bpf.plan import ReadPlan
from .._cgroup import directory as _directory
from .._cgroup import files as _files
from .._cgroup import mounts as _mounts
from .._cgroup.directory import Cgroup
from .._items import MEMORY_STAT
from ..errors import is_transient

# Files whose reading flushes and costs less than that of memory.stat, by the cgroup version. (In
# mm/memcontrol.c their show functions call mem_cgroup_flush_stats().) Not every kernel has them.
_FIRST = {1: "memory.numa_stat", 2: "memory.zswap.current"}


class Flush:
    """A way to flush. It owns the files that it reads.

    Attributes:
        mode: how the program flushes, a ``FLUSH_*`` of terms.py.
        files: the files that user space reads for a flush; often none.
        pressure: the file that user space reads to update the totals of stalled time, if they are
            wanted.
    """

    def __init__(
        self,
        mode: int,
        files: tuple[_files.CgroupFile, ...] = (),
        pressure: Optional[_files.PressureFile] = None,
    ) -> None:
        self.mode, self.files, self.pressure = mode, files, pressure

    def by_file(self) -> None:
        """Does the part of user space. Releases the GIL."""
        for file in self.files:
            # Each of them begins with a letter or a digit.
            if not os.pread(file.fd, 1, 0).isalnum() and file.is_lost:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.pressure is not None:
            try:
                self.pressure.read()
            except OSError as error:  # the cgroup was removed; the read that follows will report it
                if is_transient(error):
                    raise

    @property
    def reads(self) -> bool:
        """Whether user space has a part in the flush."""
        return bool(self.files) or self.pressure is not None

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of the files."""
        pressure = self.pressure is not None and self.pressure.is_lost
        return pressure or any(file.is_lost for file in self.files)

    def close(self) -> None:
        """Closes the files. Calling it again does nothing."""
        for file in self.files:
            file.close()
        if self.pressure is not None:
            self.pressure.close()


NO_FLUSH = Flush(_terms.FLUSH_NONE)


def mode_of(backend: str, *, by_iterator: bool) -> int:
    """How the program of an iterator, or a syscall program, can flush on this kernel."""
    types = _btf.kernel()
    if backend == "rfc" and by_iterator:
        return _terms.FLUSH_RFC
    if KFUNC_FLUSH.is_in(types):
        return _terms.FLUSH_KFUNC
    if RSTAT_FLUSH.is_in(types) and by_iterator:
        return _terms.FLUSH_RSTAT
    return _terms.FLUSH_NONE


def program_flushes(backend: str, *, by_iterator: bool) -> bool:
    """Whether the program of an iterator, or a syscall program, can flush on this kernel."""
    return mode_of(backend, by_iterator=by_iterator) != _terms.FLUSH_NONE


def mode_for(plan: ReadPlan, flush: bool, *, by_iterator: bool) -> int:
    """How the program of a plan flushes, if a flush is wanted and needed."""
    if not (flush and plan.needs_flush):
        return _terms.FLUSH_NONE
    return mode_of(plan.backend, by_iterator=by_iterator)


def before_reading(cgroup: Cgroup, plan: ReadPlan, flush: bool, mode: int) -> Flush:
    """The flush before one cgroup is read by a program that flushes in this mode."""
    found = within(mode, cgroup) if flush and plan.needs_flush else NO_FLUSH
    if not (flush and plan.has_pressure):
        return found
    try:
        return Flush(found.mode, found.files, _files.PressureFile(cgroup))
    except BaseException:
        found.close()
        raise


def before_walking(
    cgroup: Cgroup,
    plan: ReadPlan,
    flush: bool,
    order: str,
    *,
    by_iterator: bool,
    by_program: bool = True,
) -> Flush:
    """The flush before a tree is walked.

    A program flushes one cgroup and its descendants, namely the root of the walk. The program of an
    iterator can do so only if the root is the first cgroup that it meets. *by_program* is whether
    the program can flush at all.
    """
    if not (flush and plan.needs_flush):
        return NO_FLUSH
    if order == "up":
        return ancestors(cgroup)
    if not by_program or (by_iterator and order not in ("self", "pre")):
        return by_file(cgroup)
    return within(mode_of(plan.backend, by_iterator=by_iterator), cgroup)


def within(mode: int, cgroup: Cgroup) -> Flush:
    """A flush of a cgroup and its descendants: by the program if it can, or by a file."""
    return Flush(mode) if mode != _terms.FLUSH_NONE else by_file(cgroup)


def by_file(cgroup: Cgroup) -> Flush:
    """A flush of a cgroup and its descendants, by one of its files."""
    return Flush(_terms.FLUSH_NONE, (_files.CgroupFile(cgroup, cheapest_file(cgroup)),))


def cheapest_file(cgroup: Cgroup) -> str:
    """The cheapest file whose reading flushes."""
    first = _FIRST[cgroup.version]
    return first if cgroup.has_file(first) else MEMORY_STAT


def ancestors(cgroup: Cgroup) -> Flush:
    """A flush of a cgroup and its ancestors, by a file of the topmost visible one."""
    top = _directory.open_cgroup(_mounts.hierarchy_root(cgroup.path))
    try:
        return by_file(top)
    finally:
        top.close()
