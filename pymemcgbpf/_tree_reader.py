# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The reader of a tree of cgroups."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional, SupportsIndex

from . import _fork, _lookup, _options, _wire
from ._base_reader import Reader
from ._cgroup import directory as _directory
from ._cgroup.walk_paths import WalkPaths
from ._items import requested_names
from ._samples import Samples
from ._sources.tree_bpf import MapSource, TreeSource, TreeSourceFactory
from .errors import BackendUnavailableError, CgroupRemovedError, MemcgError, is_transient
from .snapshot import Snapshot, Times

if TYPE_CHECKING:
    from ._sources.departures import Departures, Records
    from .departed import Departed


class TreeReader(Reader[TreeSource]):
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
    with ``backend="auto"`` reads text from then on, and :attr:`fallback_reason` says so. Members
    of groups that text lacks, as on cgroup v1, are then absent from all rows. It raises
    BpfPermissionError instead if a backend or transport was asked for by name, or if text lacks
    an item that was.

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
        departed: Whether each snapshot also has the cgroups that were removed since the last read,
            in :attr:`Snapshot.departed`.

    With ``departed=True`` a program is attached to the kernel's tracepoint cgroup_rmdir as long as
    the reader is open. It writes down each cgroup that is removed below the root, down to
    *max_depth* and whatever the *order*, with the last numbers of all items, even if no read has
    ever met it. Each such cgroup is in the rows of a read, or in ``departed``, or in both of one
    read; it is in ``departed`` once. There is room for at least 10,000 cgroups between two reads,
    if their relative paths have 100 bytes on average; ``departed.lost`` counts those for which
    there was none. The numbers are those that the files would show; docs/trees.md names the few
    that can lag. This needs Linux 6.1 and another backend than "text"; elsewhere ``departed``
    is None with ``backend="auto"``, and :attr:`fallback_reason` says why. A read waits for
    cgroup_mutex, as rmdir(2) does. A forked child sees removals from its first read on.

    Raises:
        TreeTooLargeError: There are more cgroups than *max_rows*.
        BackendUnavailableError: A backend was named, and removed cgroups cannot be seen.
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
        departed: bool = False,
    ) -> None:
        _options.check("order", order, _options.ORDERS)
        depth = _options.at_least(0, "max_depth", max_depth)
        cap = _options.at_least(1, "max_rows", max_rows)
        flush = _options.switch("flush", flush)
        departed = _options.switch("departed", departed)
        request = _options.Request(requested_names(items), flush, backend, transport)
        self._order, self._max_depth = order, depth
        self._view: Optional[Snapshot] = None
        self._reading: Optional[int] = None  # _fork.generation of the process that is in read()
        self._departures: Optional[Departures] = None
        self._make_departed: Optional[type[Departed]] = None  # few readers need its module
        factory = TreeSourceFactory(order, cap, depth, departed=departed)
        super().__init__(cgroup_path, request, factory)
        self._row_size = _wire.row_size(len(self._names))
        if departed:
            try:
                self._see_departures()
            except BaseException:
                self.close()
                raise

    def _see_departures(self) -> None:
        """Sees removals from now on, or says why it cannot."""
        source, error = self._source, None
        if source is None:
            raise self._closed()
        if isinstance(source, MapSource):
            try:
                self._departures = source.departures()
                from .departed import Departed  # now: the process may change its root

                self._make_departed = Departed
                return
            except MemcgError as refusal:
                error = refusal
                if is_transient(error):
                    raise
        named = self._request.backend != _options.AUTO or self._request.transport != _options.AUTO
        if error is None:
            if not named:
                self._add_reason("departed: files do not tell which cgroups were removed")
                return
            raise BackendUnavailableError(
                "the text backend cannot tell which cgroups were removed",
                remedy='leave out departed=True, or use backend="auto"',
            )
        if named:
            raise error
        self._add_reason(f"departed: {error}")

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
        _options.switch("copy", copy)
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
                    except CgroupRemovedError as error:
                        error.departed = self._last_departed()
                        raise
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
        _options.switch("copy", copy)
        return Samples(self, functools.partial(self.read, copy=copy), seconds)

    def _open_again(self) -> _directory.Cgroup:
        source = self._source  # which a signal handler may close
        if source is None:
            raise self._closed()
        return source.root

    @staticmethod
    def _without(names: str) -> str:
        return f"let the process read once before it gives up its rights, or leave out {names}"

    def _taken(self) -> Optional[tuple[Departures, Records]]:
        """The cgroups that were removed since the last read, and where they were taken from. The
        walk was before."""
        while True:
            departures, source = self._departures, self._source
            if departures is None:
                return None
            if not isinstance(source, MapSource):
                if source is None:  # a signal handler has closed this reader
                    raise self._closed()
                self._departures = None  # this process has lost its rights
                departures.close()
                return None
            if not departures.is_of_this_process():
                self._renew(departures, source)
                continue
            try:
                found = departures.take()
            except (OSError, ValueError) as error:
                if self._source is None:
                    raise self._closed() from error
                if departures.is_of_this_process():
                    if not isinstance(error, OSError) or not departures.is_lost:
                        raise
                    raise self._lost() from error
            else:
                if departures.is_of_this_process():  # no signal handler has forked meanwhile
                    return departures, found

    def _renew(self, inherited: Departures, source: MapSource) -> None:
        """Sees removals from now on, in a forked child."""
        try:
            made = self._departures = inherited.again(source.root)
        except (OSError, ValueError) as error:
            if self._source is None:  # a signal handler has closed this reader
                raise self._closed() from error
            raise
        inherited.close()
        if self._source is None:
            self._departures = None
            made.close()
            raise self._closed()

    def _departed(self, found: Records, times: Times, paths: WalkPaths) -> Departed:
        assert self._make_departed is not None
        return self._make_departed(
            memoryview(found.rows),
            self._names,
            times,
            paths.below(found.paths),
            memoryview(found.removed_ns).cast("Q"),
            found.lost,
        )

    def _last_departed(self) -> Optional[Departed]:
        """The cgroups that were removed since the last read, when the root is removed, too."""
        now = time.monotonic_ns()
        with contextlib.suppress(MemcgError):  # there is a worse error already
            taken, source = self._taken(), self._source
            if taken is not None and isinstance(source, MapSource):
                departures, found = taken
                times = Times(now, now, time.time_ns())
                departed = self._departed(found, times, source.last_paths)
                departures.done(found)
                return departed
        return None

    def _is_lost(self) -> bool:
        departures = self._departures
        return super()._is_lost() or (departures is not None and departures.is_lost)

    def close(self) -> None:
        """Releases the BPF programs and closes all files. Calling it again does nothing.

        It waits for a read() that is in progress in another thread. Loops over :meth:`every` end.
        """
        with self._lock:
            departures, self._departures = self._departures, None
            if departures is not None:
                departures.close()
            super().close()

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
        taken, departed = self._taken(), None
        if taken is not None:
            departed = self._departed(taken[1], times, paths)
        snapshot = Snapshot(rows, self._names, self._order, times, paths, self._max_depth, departed)
        if not copy:
            self._view = snapshot
            _fork.expire_in_child(snapshot)
        if taken is not None:
            departures, found = taken
            departures.done(found)
        return snapshot
