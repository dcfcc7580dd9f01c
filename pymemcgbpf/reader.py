# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers: of one cgroup, and of a tree of them."""

from __future__ import annotations

import errno
import operator
import os
import threading
import time
from collections.abc import Iterable
from typing import Generic, NoReturn, Optional, SupportsIndex, TypeVar

from . import _fork, _lookup, _options, _wire
from ._cgroup import diagnosis as _diagnosis
from ._cgroup import directory as _directory
from ._cgroup import paths as _paths
from ._closable import Closable
from ._items import requested_names
from ._sources import choose as _choose
from ._sources.one_bpf import StatSource, StatSourceFactory
from ._sources.tree_bpf import TreeSource, TreeSourceFactory
from .errors import (
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    ClosedError,
    ItemUnavailableError,
    MemcgError,
)
from .snapshot import Snapshot

__all__ = ["StatsReader", "TreeReader"]

_Source = TypeVar("_Source", bound=_choose.Source)


class _Reader(Closable, Generic[_Source]):
    """A cgroup, a source, and a lock around it: what both readers are made of."""

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
        self._request, self._factory = request, factory
        self._path = cgroup.path
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
        """The cgroup's directory, as it was given."""
        return self._path

    @property
    def cgroup_id(self) -> int:
        """The kernel's 64-bit id of the cgroup: its directory's inode number."""
        return self._cgroup_id

    def _is_at(self, path: str) -> bool:
        """Whether a path leads to this very cgroup."""
        return _lookup.identity(path) == self._identity

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items read, in their order."""
        return self._names

    @property
    def backend(self) -> str:
        """Where the numbers come from: "kfunc", "rfc", "core" or "text"."""
        return self._backend

    @property
    def transport(self) -> str:
        """How the numbers travel: "run", "stream", "shared" or "text"."""
        return self._transport

    @property
    def fallback_reason(self) -> str:
        """Why no better backend or transport serves here; "" where none is better.

        With "auto", this and the two above change in a process that loses the rights to read on
        through BPF: it reads text from then on.
        """
        return self._fallback_reason

    def _reads_text_next(self, error: MemcgError) -> bool:
        """Whether "auto" reads on as text after an error: if rights were lost, not if something is
        short for a moment, for it does so from then on."""
        return (
            isinstance(error, BpfPermissionError)
            and error.errno in (errno.EPERM, errno.EACCES)
            and self._request.backend == self._request.transport == _options.AUTO
            and self._backend != "text"
        )

    def _read_text_instead(self, error: MemcgError) -> None:
        """Puts text in the place of BPF, with the same items.

        Raises:
            BpfPermissionError: text does not have them all, or may not be read either.
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
        """What a request means for this reader's cgroup."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of the BPF program and all files. Twice is fine."""
        with self._lock:
            source, self._source = self._source, None
            if source is not None:
                source.close()

    def _is_lost(self) -> bool:
        """Whether somebody else has closed a descriptor of it."""
        source = self._source
        return source is not None and source.is_lost

    def _raise_mapped(self, source: _Source, error: OSError) -> NoReturn:
        """Raises what a failure to read means."""
        if source.is_lost:
            raise MemcgError(
                f"a file descriptor of this reader of {self._path} was closed, though not by it: "
                "make another reader",
                errno=errno.EBADF,
                call="read",
            ) from error
        _diagnosis.raise_mapped(self._path, self._identity, error)

    def _closed(self) -> ClosedError:
        return ClosedError(f"this reader of {self._path} is closed")

    def __repr__(self) -> str:
        state = "closed"
        if self._source is not None:
            state = self._backend
            if self._transport != self._backend:
                state += f"/{self._transport}"
        return f"<{type(self).__name__} {self._path!r} {state}, {len(self._names)} items>"


class StatsReader(_Reader[StatSource]):
    """Reads one cgroup's memory statistics again and again, cheaply.

    What it needs is made here once, and reused by every :meth:`read`::

        >>> with StatsReader("/sys/fs/cgroup/system.slice", ["anon", "pgfault"]) as reader:
        ...     reader.read()
        {'anon': 17727488, 'pgfault': 1613}

    A reader may be used from several threads, and in a child after fork(). A process that gives
    up its privileges can continue to read. Where the kernel refuses that (before Linux 5.19), a
    reader with ``backend="auto"`` reads text from then on, and :attr:`fallback_reason` says so.
    With the transport "stream", an open reader keeps the kernel from freeing a removed cgroup:
    close it.

    Args:
        cgroup_path: the cgroup's directory.
        items: names of items, in the order wanted, and of groups of them: "memory.events.*"
            is all of a file, "workingset_*" all that begin so, "*" everything that
            :func:`list_items` lists. Group members that this kernel lacks are skipped. None
            stands for all of memory.stat, in its order, and "memory.current".
        flush: True for values as fresh as those of memory.stat read at that moment;
            False for values up to about 2 s old, without the cost of the flush.
        backend: "kfunc", "rfc", "core", "text", or "auto" for the first of them that
            works here.
        transport: "run" (one system call; cgroup v2, Linux 6.12 on), "stream" (an
            iterator's output), or "auto" for the first of them that works here.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError,
        MemoryControllerError, CgroupRemovedError: of the path.
        UnknownItemError, ItemUnavailableError: of the items.
        BackendUnavailableError: the backend or transport asked for cannot serve here (a
            subclass says why: LibbpfNotFoundError, BtfNotFoundError, BpfPermissionError …);
            never with "auto", which falls back to text.
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
        """The values now: item's name → value in its file's unit (bytes, a count, or microseconds).

        A limit that is not set is :data:`UNLIMITED`. Pressure that was switched off since is
        missing.

        Raises:
            CgroupRemovedError: the cgroup was removed since.
            BpfPermissionError: the process has lost the rights to read on, and text cannot serve.
            ClosedError: the reader is closed.
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

    def _recover(self, source: StatSource, error: OSError) -> None:
        """Reads text from now on, where that is the remedy; else raises what the error means."""
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


class TreeReader(_Reader[TreeSource]):
    """Reads the memory statistics of a whole tree of cgroups in one walk::

        >>> with TreeReader("/sys/fs/cgroup", ["anon", "pgscan"]) as tree:
        ...     snapshot = tree.read()
        >>> for cgroup in snapshot:
        ...     print(cgroup.path, cgroup["anon"])

    Cgroups without the memory controller (those that have no memory.stat) have no row.
    The constructor walks once. A reader holds a reference to the walk's root with the transport
    "shared", and to no other cgroup. It may be used from several threads.

    A child after fork() loads its own program when it first reads; any process loads another one
    when the rows no longer fit. If it has given up the privileges for that, a reader with
    ``backend="auto"`` reads text from then on, and :attr:`fallback_reason` says so. The error is
    a BpfPermissionError if a backend or transport was asked for by name, or if text does not have
    all of the items, as on cgroup v1.

    Args:
        cgroup_path: the directory of the walk's root.
        items, flush, backend: as of :class:`StatsReader`. The flush is one for the whole
            walk, at its root. ("memory.current" is missing in the row of a hierarchy's root.)
        order: "pre" (parents before their children, siblings oldest first), "post"
            (parents after their children), "up" (the root and its ancestors), "children"
            (those right below, without the root) or "self".
        transport: "run" (one system call that fills a map; cgroup v2, Linux 6.12 on),
            "shared" (an iterator fills the map, the kernel's cgroup_mutex held meanwhile),
            or "auto" for the first of them that works here.
        max_rows: the most cgroups that a walk may find; None for no limit.

    Raises:
        What :class:`StatsReader` raises; TreeTooLargeError.
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
        max_rows: Optional[SupportsIndex] = None,
    ) -> None:
        _options.check("order", order, _options.ORDERS)
        cap = None if max_rows is None else operator.index(max_rows)
        if cap is not None and cap < 1:
            raise ValueError(f"max_rows must be at least 1, not {cap}")
        request = _options.Request(requested_names(items), bool(flush), backend, transport)
        self._order = order
        self._view: Optional[Snapshot] = None
        self._reading: Optional[int] = None  # _fork.generation of the process that is in read()
        super().__init__(cgroup_path, request, TreeSourceFactory(order, cap))
        self._row_size = _wire.row_size(len(self._names))
        self._paths = _paths.Paths(self._path, self._identity)

    @property
    def order(self) -> str:
        """The order of the rows."""
        return self._order

    def read(self, *, copy: bool = True) -> Snapshot:
        """Walks the tree, and returns the rows.

        Args:
            copy: True for a snapshot of its own memory, which never changes (it costs a
                memcpy of the rows). False for a view of the memory that the kernel wrote
                into: it is good until the next read() of this reader, after which its rows
                raise ClosedError; columns that were taken from it show the new walk's
                numbers, or nothing that makes sense. In a child after fork() its rows raise
                ClosedError, too, as the parent may read again at any time; but columns that were
                taken before the fork cannot be revoked: do not use them there.

        Raises:
            CgroupRemovedError: the walk's root was removed.
            TreeTooLargeError: there are more cgroups than *max_rows*.
            BpfPermissionError: the process has lost the rights to read on, and text cannot serve.
            ClosedError: the reader is closed.
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
        began = time.monotonic_ns()
        try:
            memory, number = source.walk()
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
        snapshot = Snapshot(rows, self._names, self._order, began, ended, self._paths)
        if not copy:
            self._view = snapshot
            _fork.expire_in_child(snapshot)
        return snapshot
