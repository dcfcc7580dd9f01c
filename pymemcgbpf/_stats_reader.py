# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The reader of one cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Optional

from . import _lookup, _options
from ._base_reader import Reader
from ._cgroup import diagnosis as _diagnosis
from ._cgroup import directory as _directory
from ._items import requested_names
from ._samples import Samples
from ._sources.one_bpf import StatSource, StatSourceFactory
from ._sources.one_run_dir import RunDirSource
from .errors import CgroupNotFoundError, CgroupPermissionError, MemcgError


class StatsReader(Reader[StatSource]):
    """Reads the memory statistics of one cgroup again and again.

    The constructor loads the BPF program, and every :meth:`read` reuses it::

        >>> with StatsReader("/sys/fs/cgroup/system.slice", ["anon", "pgfault"]) as reader:
        ...     reader.read()
        {'anon': 17727488, 'pgfault': 1613}

    Several threads may use one reader; a lock lets one read at a time. For parallel reads, give
    each thread its own reader. A child after fork() may use it, too.

    A process that gives up its privileges can continue to read. Where the kernel refuses that
    (before Linux 5.19), or a seccomp filter, a reader with ``backend="auto"`` reads text from then
    on, and :attr:`fallback_reason` says so. With the transport "stream", an open reader keeps the
    kernel from freeing a removed cgroup, so close readers that are no longer needed.

    Args:
        cgroup_path: The directory of the cgroup.
        items: The names of the items, in the order of the result. A name with a star is a group:
            "memory.events.*" stands for all items of that file, "workingset_*" for all items
            whose names begin so, and "*" for everything that :func:`list_items` lists. Group
            members that this kernel lacks are skipped. None stands for all of memory.stat, in
            its order, and "memory.current".
        flush: True for values as fresh as those of memory.stat, read at that moment. False for
            values that may be 2 seconds old, without the cost of the flush.
        backend: "kfunc", "rfc", "core", "text", or "auto" for the first of them that works here.
        transport: "run" (one system call), "stream" (the output of an iterator, Linux 6.1 or
            later), or "auto" for the faster of them that works here.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: The cgroup cannot be read.
        UnknownItemError: There is no item of this name.
        ItemUnavailableError: The item exists, but not here.
        BackendUnavailableError: The backend or transport that was asked for does not work here.
            A subclass says why, such as LibbpfNotFoundError or BpfPermissionError. With "auto",
            the reader uses text instead.
        TypeError: *items* is not a list of names, *flush* is not a bool, or the path is no path.
        ValueError: *items* is empty, or *backend* or *transport* has another value.
    """

    def __init__(
        self,
        cgroup_path: _lookup.Path,
        items: Optional[Iterable[str]] = None,
        *,
        flush: bool = True,
        backend: _options.Backend = _options.AUTO,
        transport: _options.StatsTransport = _options.AUTO,
    ) -> None:
        flush = _options.switch("flush", flush)
        request = _options.Request(requested_names(items), flush, backend, transport)
        super().__init__(cgroup_path, request, StatSourceFactory())
        # The working directory may change.
        self._whole_path = self._path
        if not os.path.isabs(self._path):
            self._whole_path = _lookup.resolved(self._path)

    def read(self) -> dict[str, int]:
        """Reads the current values.

        Returns:
            A dict from the name of each item to its value, in the order of :attr:`item_names`.
            The unit is bytes, a count or microseconds, as in the item's file. A limit that is not
            set is :data:`UNLIMITED`. The totals of memory.pressure are missing if pressure
            accounting was switched off for the cgroup after the reader was created, and members of
            groups are if the reader has changed to text, which lacks them.

        Raises:
            CgroupRemovedError: The cgroup was removed.
            BpfPermissionError: The process has lost the privileges to read on, and text cannot
                replace BPF.
            ClosedError: The reader is closed.
        """
        with self._lock:
            while True:
                source = self._source
                if source is None:
                    raise self._closed()
                try:
                    values = source.read()
                except OSError as error:
                    if self._source is None:
                        raise self._closed() from error
                    self._recover(source, error)
                else:
                    # If a signal handler has closed it meanwhile, they may be another file's.
                    if self._source is None:
                        raise self._closed()
                    return values

    def every(self, seconds: float) -> Samples[dict[str, int]]:
        """Reads at an interval, in a loop: ``for``, or ``async for``::

            >>> for values in reader.every(5):
            ...     print(values["anon"])
            17727488
            17731584

        The first read is immediate, the others are at multiples of the interval after it, however
        long the body of the loop takes. Reads that it was too late for are left out; then the next
        one is immediate. The loop ends when the reader is closed, also by another thread or by a
        signal handler. There may be several loops over one reader.

        With ``async for`` each read runs in a thread of the event loop's executor. If the task is
        cancelled meanwhile, it ends as soon as that read is over.

        Args:
            seconds: The interval.

        Returns:
            An iterator, which is an asynchronous iterator, too, over what :meth:`read` returns.
            Errors of read() pass through.

        Raises:
            TypeError: *seconds* is not a number, or is a bool.
            ValueError: *seconds* is not finite, or not above 0.
            ClosedError: The reader is closed already.
        """
        return Samples(self, self.read, seconds)

    def _recover(self, source: StatSource, error: OSError) -> None:
        """Changes to text if that helps; otherwise raises the exception that explains the error."""
        try:
            self._raise_mapped(source, error)
        except MemcgError as clear:
            if not self._reads_text_next(clear):
                raise
            self._read_text_instead(clear)
        finally:
            del error  # it holds this frame

    def _open_again(self) -> _directory.Cgroup:
        source = self._source  # which a signal handler may close
        if isinstance(source, RunDirSource):
            return source.root
        try:
            cgroup = _directory.open_cgroup(self._whole_path)
        except CgroupNotFoundError as error:
            if not _lookup.exists(os.path.join(os.path.dirname(self._whole_path), "cgroup.procs")):
                raise CgroupPermissionError(
                    f"{self._whole_path} is out of this process's sight"
                ) from error
            raise _diagnosis.why_unreadable(self._whole_path, self._identity) from error
        if cgroup.identity != self._identity:
            cgroup.close()
            raise _diagnosis.why_unreadable(self._whole_path, self._identity)
        return cgroup
