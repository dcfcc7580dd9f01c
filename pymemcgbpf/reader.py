# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The readers: of one cgroup, and of a tree of cgroups."""

from __future__ import annotations

import errno
import functools
import operator
import os
import threading
import time
from collections.abc import Iterable
from typing import Generic, NoReturn, Optional, SupportsIndex, TypeVar

from . import _fork, _lookup, _options, _wire
from ._cgroup import diagnosis as _diagnosis
from ._cgroup import directory as _directory
from ._closable import Closable
from ._items import requested_names
from ._samples import Samples
from ._sources import choose as _choose
from ._sources.one_bpf import StatSource, StatSourceFactory
from ._sources.tree_bpf import TreeSource, TreeSourceFactory
from .errors import (
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    ItemUnavailableError,
    MemcgError,
)
from .snapshot import Snapshot, Times

__all__ = ["StatsReader", "TreeReader"]

_Source = TypeVar("_Source", bound=_choose.Source)


class _Reader(Closable, Generic[_Source]):
    """What both readers share: a cgroup, the source that it is read from, and a lock."""

    def __init__(
        self,
        cgroup_path: _lookup.Path,
        request: _options.Request,
        factory: _choose.SourceFactory[_Source],
    ) -> None:
        cgroup = _directory.open_cgroup(cgroup_path)
        try:
            choice = _choose.choose(cgroup, request, factory)
        finally:
            cgroup.close()
        super().__init__(cgroup.path)
        self._request, self._factory = request, factory
        self._cgroup_id, self._identity = cgroup.id, cgroup.identity
        self._names, self._backend, self._fallback_reason = (
            choice.names,
            choice.backend,
            choice.fallback_reason,
        )
        self._transport = choice.transport
        self._source: Optional[_Source] = choice.source
        self._lock = threading.RLock()  # a signal handler may read, too
        _fork.renew_in_child(self)

    @property
    def path(self) -> str:
        """The cgroup's directory, as it was passed to the constructor."""
        return self._path

    @property
    def cgroup_id(self) -> int:
        """The kernel's 64-bit id of the cgroup, which is the inode number of its directory."""
        return self._cgroup_id

    def _is_at(self, path: str) -> bool:
        """Whether a path leads to the same cgroup."""
        return _lookup.identity(path) == self._identity

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items that are read, in the order of the result."""
        return self._names

    @property
    def backend(self) -> str:
        """The backend in use, where the numbers come from: "kfunc", "rfc", "core" or "text"."""
        return self._backend

    @property
    def transport(self) -> str:
        """The transport in use, how the numbers travel: "run", "stream", "shared" or "text"."""
        return self._transport

    @property
    def fallback_reason(self) -> str:
        """Why no faster backend or transport could be used; "" if there is none.

        A reader with ``backend="auto"`` changes to text in a process that loses the privileges to
        read on through BPF. :attr:`backend`, :attr:`transport` and this property change then.
        """
        return self._fallback_reason

    def _reads_text_next(self, error: MemcgError) -> bool:
        """Whether a reader with "auto" changes to text after an error.

        It does so if the process has lost privileges, and not after a transient shortage, because
        the change is for good.
        """
        return (
            isinstance(error, BpfPermissionError)
            and error.errno in (errno.EPERM, errno.EACCES)
            and self._request.backend == self._request.transport == _options.AUTO
            and self._backend != "text"
        )

    def _read_text_instead(self, error: MemcgError) -> None:
        """Replaces the source by one that reads the same items as text.

        Raises:
            BpfPermissionError: text lacks some of them, or may not be read either.
        """
        lost = f"this process has lost the rights that its reader was made with: {error}"
        request = self._request._replace(names=self._names, backend="text")
        try:
            choice = self._choose_again(request)
        except (ItemUnavailableError, CgroupPermissionError) as text_error:
            raise BpfPermissionError(
                f"{self._path} cannot be read any more: {lost}; as text: {text_error}",
                errno=error.errno,
                call=error.call,
                log=error.log,
            ) from text_error
        source, self._source = self._source, choice.source
        if source is None:  # a signal handler has closed this reader meanwhile
            self.close()
            raise self._closed()
        why = f"{self._backend}: {lost}"
        self._fallback_reason = f"{self._fallback_reason}; {why}" if self._fallback_reason else why
        self._backend, self._transport = choice.backend, choice.transport
        source.close()

    def _choose_again(self, request: _options.Request) -> _choose.Selection[_Source]:
        """Chooses a source for this reader's cgroup again."""
        raise NotImplementedError

    def close(self) -> None:
        """Releases the BPF program and closes all files. Calling it again does nothing.

        It waits for a read() that is in progress in another thread. Loops over :meth:`every` end.
        """
        with self._lock:
            source, self._source = self._source, None
            self._wake_all()
            if source is not None:
                source.close()

    def _is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        source = self._source
        return source is not None and source.is_lost

    def _raise_mapped(self, source: _Source, error: OSError) -> NoReturn:
        """Raises the exception that explains a failure to read."""
        if source.is_lost:
            raise MemcgError(
                f"a file descriptor of this reader of {self._path} was closed by other code: "
                "make another reader",
                errno=errno.EBADF,
                call="read",
            ) from error
        _diagnosis.raise_mapped(self._path, self._identity, error)

    def __repr__(self) -> str:
        state = "closed"
        if self._source is not None:
            state = self._backend
            if self._transport != self._backend:
                state += f"/{self._transport}"
        return f"<{type(self).__name__} {self._path!r} {state}, {len(self._names)} items>"


class StatsReader(_Reader[StatSource]):
    """Reads the memory statistics of one cgroup again and again.

    The constructor loads the BPF program, and every :meth:`read` reuses it::

        >>> with StatsReader("/sys/fs/cgroup/system.slice", ["anon", "pgfault"]) as reader:
        ...     reader.read()
        {'anon': 17727488, 'pgfault': 1613}

    Several threads may use one reader; a lock lets one read at a time. For parallel reads, give
    each thread its own reader. A child after fork() may use it, too.

    A process that gives up its privileges can continue to read. Where the kernel refuses that
    (before Linux 5.19), a reader with ``backend="auto"`` reads text from then on, and
    :attr:`fallback_reason` says so. With the transport "stream", an open reader keeps the kernel
    from freeing a removed cgroup, so close readers that are no longer needed.

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
        TypeError: *items* is not a list of names.
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
        request = _options.Request(requested_names(items), bool(flush), backend, transport)
        super().__init__(cgroup_path, request, StatSourceFactory())
        # The working directory may change.
        self._whole_path = self._path
        if not os.path.isabs(self._path):
            self._whole_path = os.path.realpath(self._path)

    def read(self) -> dict[str, int]:
        """Reads the current values.

        Returns:
            A dict from the name of each item to its value, in the order of :attr:`item_names`.
            The unit is bytes, a count or microseconds, as in the item's file. A limit that is not
            set is :data:`UNLIMITED`. The totals of memory.pressure are missing if pressure
            accounting was switched off for the cgroup after the reader was created.

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
                    return source.read()
                except OSError as error:
                    self._recover(source, error)

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
            TypeError: *seconds* is not a number.
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

    def _choose_again(self, request: _options.Request) -> _choose.Selection[StatSource]:
        try:
            cgroup = _directory.open_cgroup(self._whole_path)
        except CgroupNotFoundError as error:
            if not _lookup.exists(os.path.join(os.path.dirname(self._whole_path), "cgroup.procs")):
                raise CgroupPermissionError(
                    f"{self._whole_path} is out of this process's sight"
                ) from error
            raise _diagnosis.why_unreadable(self._whole_path, self._identity) from error
        try:
            if cgroup.identity != self._identity:
                raise _diagnosis.why_unreadable(self._whole_path, self._identity)
            return _choose.choose(cgroup, request, self._factory)
        finally:
            cgroup.close()


def _at_least(least: int, name: str, value: Optional[SupportsIndex]) -> Optional[int]:
    """The value of an argument as an integer; None if it is None."""
    number = None if value is None else operator.index(value)
    if number is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


class TreeReader(_Reader[TreeSource]):
    """Reads the memory statistics of a tree of cgroups in one walk::

        >>> with TreeReader("/sys/fs/cgroup/system.slice", ["anon", "pgscan"]) as tree:
        ...     snapshot = tree.read()
        >>> snapshot
        <Snapshot of '/sys/fs/cgroup/system.slice': 4 cgroups, 2 items>
        >>> snapshot.find("web.service")["anon"]
        58720256

    Cgroups without the memory controller, which have no memory.stat, have no row. The constructor
    walks once. With the transport "shared" a reader holds a reference to the root of the walk; it
    never holds one to any other cgroup.

    Several threads may use one reader; a lock lets one read at a time. For parallel reads, give
    each thread its own reader.

    A child after fork() loads its own program when it first reads, and any process loads a larger
    one when the rows no longer fit. If the process has given up the privileges for that, a reader
    with ``backend="auto"`` reads text from then on, and :attr:`fallback_reason` says so. It
    raises BpfPermissionError instead if a backend or transport was asked for by name, or if text
    lacks some of the items, as on cgroup v1.

    Args:
        cgroup_path: The directory of the cgroup where the walk begins, its root.
        items, flush, backend: As in :class:`StatsReader`. There is one flush for the whole walk,
            at its root. The row of a hierarchy's root has no "memory.current".
        order: "pre" (parents before their children, and siblings oldest first), "post" (parents
            after their children), "up" (the root of the walk and its ancestors), "children" (the
            children of the root, without the root itself) or "self" (the root alone).
        transport: "run" (a system call that fills a map, or a few of them in a large tree),
            "shared" (an iterator fills the map, and the kernel holds cgroup_mutex meanwhile), or
            "auto" for the first of them that works here.
        max_depth: How many levels below the root have rows: 0 for the root alone, 1 for the root
            and its children; None for all. With BPF, the program leaves out the others.
        max_rows: The largest number of cgroups that a walk may find; None for no limit.

    Raises:
        TreeTooLargeError: There are more cgroups than *max_rows*.
        OSError, TypeError, ValueError: As :class:`StatsReader`.
    """

    def __init__(
        self,
        cgroup_path: _lookup.Path,
        items: Optional[Iterable[str]] = None,
        *,
        order: _options.Order = "pre",
        flush: bool = True,
        backend: _options.Backend = _options.AUTO,
        transport: _options.TreeTransport = _options.AUTO,
        max_depth: Optional[SupportsIndex] = None,
        max_rows: Optional[SupportsIndex] = None,
    ) -> None:
        _options.check("order", order, _options.ORDERS)
        depth = _at_least(0, "max_depth", max_depth)
        cap = _at_least(1, "max_rows", max_rows)
        request = _options.Request(requested_names(items), bool(flush), backend, transport)
        self._order, self._max_depth = order, depth
        self._view: Optional[Snapshot] = None
        self._reading: Optional[int] = None  # _fork.generation of the process that is in read()
        super().__init__(cgroup_path, request, TreeSourceFactory(order, cap, depth))
        self._row_size = _wire.row_size(len(self._names))

    @property
    def order(self) -> str:
        """The order of the rows: "pre", "post", "up", "children" or "self"."""
        return self._order

    def read(self, *, copy: bool = True) -> Snapshot:
        """Walks the tree.

        Args:
            copy: True for a snapshot that never changes, which costs one copy of the rows. False
                for a view of the memory that the kernel wrote into. A view expires with the next
                read() of this reader, and in a child after fork(): its rows then raise
                ClosedError. Columns that were taken from it before cannot be revoked. They show
                the numbers of a later walk, or a mixture, so do not use them.

        Returns:
            A :class:`Snapshot` with a :class:`Row` for each cgroup.

        Raises:
            CgroupRemovedError: The root of the walk was removed.
            TreeTooLargeError: There are more cgroups than *max_rows*.
            BpfPermissionError: The process has lost the privileges to read on, and text cannot
                replace BPF.
            ClosedError: The reader is closed.
        """
        with self._lock:
            if self._source is None:
                raise self._closed()
            if self._reading == _fork.generation:
                raise MemcgError(
                    f"this reader of {self._path} is reading already: a signal handler that "
                    "interrupts a read needs a TreeReader of its own"
                )
            self._reading = _fork.generation
            try:
                while True:
                    try:
                        return self._read(copy)
                    except MemcgError as error:
                        if not self._reads_text_next(error):
                            raise
                        self._read_text_instead(error)
            finally:
                self._reading = None

    def every(self, seconds: float, *, copy: bool = True) -> Samples[Snapshot]:
        """Reads at an interval, in a loop: ``for``, or ``async for``::

            >>> before = None
            >>> for snapshot in tree.every(5):
            ...     if before is not None:
            ...         print(snapshot.since(before).rates("pgscan"))
            ...     before = snapshot

        :meth:`StatsReader.every` describes when it reads, what ends it, and its errors.

        Args:
            seconds: The interval.
            copy: As for :meth:`read`. Of a view, only the newest snapshot is valid.
        """
        return Samples(self, functools.partial(self.read, copy=copy), seconds)

    def _choose_again(self, request: _options.Request) -> _choose.Selection[TreeSource]:
        if self._source is None:  # a signal handler has closed it
            raise self._closed()
        return _choose.choose(self._source.root, request, self._factory)

    def _read(self, copy: bool) -> Snapshot:
        source = self._source
        if source is None:
            raise self._closed()
        view, self._view = self._view, None
        if view is not None:
            view._expire()
        now, began = time.time_ns(), time.monotonic_ns()
        try:
            memory, number, paths = source.walk()
            ended = time.monotonic_ns()
            rows = memoryview(memory)[: number * self._row_size]
        except (OSError, ValueError) as error:
            if self._source is None:  # a signal handler has closed it
                raise self._closed() from error
            if not isinstance(error, OSError):
                raise
            self._raise_mapped(source, error)
        if copy:
            rows = memoryview(bytes(rows))
        times = Times(began, ended, now)
        snapshot = Snapshot(rows, self._names, self._order, times, paths, self._max_depth)
        if not copy:
            self._view = snapshot
            _fork.expire_in_child(snapshot)
        return snapshot
