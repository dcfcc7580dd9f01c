# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Creates pinned trees, which the kernel or a process refreshes, and everybody reads."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Optional, SupportsIndex, Union

from .. import _fork, _items, _lookup, _options, _wire
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _cgroup_diagnosis
from .._cgroup import directory as _directory
from .._cgroup.directory import Cgroup
from .._cgroup.walk_paths import RootPath
from .._closable import Closable
from .._descriptors import file_identity
from .._lookup import Path
from .._records import Record
from .._sources import tree_bpf as _tree_bpf
from .._sources.tree_walkers import IteratorWalker
from .._tree_reader import TreeReader
from ..errors import (
    BackendUnavailableError,
    CgroupRemovedError,
    ClosedError,
    ItemUnavailableError,
    MemcgError,
    PinNotFoundError,
    is_transient,
)
from ..snapshot import Snapshot
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import remove as _remove
from . import transaction as _transaction
from . import tree_layout as _layout
from . import tree_programs as _programs
from .create import permissions
from .pin_source import PinSourceFactory, chosen, flush_mode, numberless

__all__ = ["PinnedTree", "pin_tree"]

LEAST_INTERVAL, MOST_INTERVAL = 0.001, 1_000_000
"""The allowed range of the interval, in seconds."""

_SHARE_OF_MEMORY = 64  # a map takes this part of the machine's memory at most
_SPARE_ROWS = 64
_FIRST_WALK_SECONDS, _SHORT_WAIT = 30.0, 0.001
_NO_TEXT = _layout.Text(b"", 0)


def pin_tree(
    cgroup_path: Path,
    pin_path: Path,
    items: Optional[Iterable[str]] = None,
    *,
    every: float = 1.0,
    flush: bool = True,
    order: _options.Order = "pre",
    max_depth: Optional[SupportsIndex] = None,
    names: bool = True,
    mode: int = 0o444,
    room: Optional[SupportsIndex] = None,
) -> PinnedTree:
    """Publishes the statistics of a tree of cgroups, refreshed at an interval, for any number of
    readers.

    Any user with read permission can read it with :class:`PinnedReader`, without privileges. A
    reader reads memory that all readers share, so it costs the kernel nothing, and readers see the
    cgroups' names::

        >>> tree = pin_tree("/sys/fs/cgroup", "/sys/fs/bpf/stats/all", ["memory.current", "anon"])
        >>> tree.refreshed_by
        'kernel'
        >>> with PinnedReader("/sys/fs/bpf/stats/all") as reader:  # any user, any process
        ...     reader.read()
        <Snapshot of '/sys/fs/cgroup': 5001 cgroups, 2 items>

    On cgroup v2 and Linux 6.12 or later, the kernel itself walks the tree, and no process stays.
    Elsewhere (on cgroup v1, on Linux 6.1 to 6.11, and with flush=True on Linux 6.16 to 6.19) the
    caller keeps the returned object, and calls its :meth:`PinnedTree.refresh` at the interval.

    The pin is a directory. It stays until :func:`unpin` removes it, the machine restarts, or the
    holder closes a tree that the kernel does not refresh. A process that is killed while it creates
    a pin may leave an incomplete one, which :func:`unpin` removes, too.

    Args:
        cgroup_path: The directory of the walk's root.
        pin_path: The path of the new directory, in a bpffs. What :func:`pin` says of paths holds
            here, too.
        items: As for :func:`pin`.
        every: The seconds from the beginning of one walk to that of the next, at least 0.001. The
            time between two walks is at least three times as long as a walk takes, so the walks
            never take more than a quarter of a CPU's time.
        flush: True for values that are as fresh as those of memory.stat at the time of the walk.
            False for values that may be 2 seconds older than the walk.
        order: "pre", "post" or "children", as for :class:`TreeReader`.
        max_depth: How many levels below the root have rows; None for all.
        names: Whether readers see the names of the cgroups and the path of the root. Without, they
            see ids, and paths only of what they can see in a cgroup file system of their own.
        mode: Who may read: the permissions of the files in the directory, of which only those to
            read matter.
        room: How many cgroups there is room for at least; names that are shorter than usual leave
            room for more. It is cut to 65,536, which is as many as the kernel can have. None for as
            many, or for fewer if that took more than 1/64 of the machine's memory, but never less
            than twice as many as there are now. If the tree has more, readers get
            TreeTooLargeError until it is smaller or pinned again.

    Returns:
        A :class:`PinnedTree`.

    Raises:
        PinExistsError, PinPathError, PinPermissionError: Nothing can be created at *pin_path*.
        BackendUnavailableError: BPF does not work here; a subclass says why.
        TreeTooLargeError: There is no room for the tree as it is now.
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: *cgroup_path* is not a cgroup with memory statistics.
        UnknownItemError, ItemUnavailableError: An item cannot be read here.
        TypeError, ValueError: An option is not one of those allowed.
    """
    _options.check("order", order, _layout.ORDERS)
    wanted = _items.requested_names(items)
    options = _Options(
        every=_interval(every),
        flush=_options.switch("flush", flush),
        order=order,
        max_depth=_depth(max_depth),
        names=_options.switch("names", names),
        mode=permissions(mode),
        room=_room_asked_for(room),
    )
    path = _bpffs.absolute(pin_path)
    _bpffs.check_free(path)
    cgroup = _directory.open_cgroup(cgroup_path)
    try:
        _programs.check_kernel()
        made = _by_kernel(cgroup, path, wanted, options)
        return _by_holder(cgroup, path, wanted, options, made) if isinstance(made, str) else made
    finally:
        cgroup.close()


class _Options(Record):
    """The options of :func:`pin_tree`, checked."""

    every: float
    flush: bool
    order: _options.Order
    max_depth: Optional[int]
    names: bool
    mode: int
    room: Optional[int]

    @property
    def interval_ns(self) -> int:
        """The interval in nanoseconds."""
        return round(self.every * 1e9)

    def head(self, names: Sequence[str], cgroup: Cgroup, rows: int, flags: int) -> _layout.Head:
        """The head of the map for a tree that has so many rows now."""
        if self.names:
            flags |= _layout.HAS_NAMES
        if self.flush:
            flags |= _layout.FLUSHES
        room = self.room
        if room is None:
            room = _room(len(names), self.names, rows)
        return _layout.Head(
            _layout.geometry(len(names), room, self.names),
            _options.ORDERS[self.order],
            self.max_depth,
            flags,
            room,
            cgroup.id,
            self.interval_ns,
            tuple(_number(name) for name in names),
        )


def _interval(every: float) -> float:
    _options.check_number("every", every)
    if not LEAST_INTERVAL <= every <= MOST_INTERVAL:
        raise ValueError(
            f"every must be from {LEAST_INTERVAL} to {MOST_INTERVAL:,} seconds, not {every!r}"
        )
    return float(every)


def _depth(max_depth: Optional[SupportsIndex]) -> Optional[int]:
    depth = _options.at_least(0, "max_depth", max_depth)
    return None if depth is None or depth >= _layout.NO_DEPTH else depth


def _room_asked_for(room: Optional[SupportsIndex]) -> Optional[int]:
    number = _options.at_least(1, "room", room)
    return None if number is None else min(number, _layout.MOST_ROWS)


def _number(name: str) -> int:
    item = _items.item_named(name)
    if item is None:
        raise numberless([name])
    return item.number


def _room(items: int, names: bool, rows: int) -> int:
    """How many cgroups to reserve room for."""
    most = _layout.MOST_ROWS
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE_OF_MEMORY
    size = _layout.geometry(items, most, names).size
    return max(min(most, most * memory // size), min(2 * rows + _SPARE_ROWS, most))


# --- by the kernel


def _by_kernel(
    cgroup: Cgroup, path: str, names: Optional[tuple[str, ...]], options: _Options
) -> Union[PinnedTree, str]:
    """A tree that the kernel refreshes, or why it cannot."""
    why_not = _programs.why_not_by_kernel(cgroup)
    if why_not:
        return why_not
    try:
        source = chosen(cgroup, names, PinSourceFactory(options.order, options.flush, False))
        source.close()
        plan = source.plan
        flush = flush_mode(plan, options.flush)
        rows = _tree_bpf.estimate_rows(cgroup, options.order, options.max_depth)
        head = options.head(source.names, cgroup, rows, _layout.BY_KERNEL)
        tree = _map_of(head, _root_path(cgroup, options))
    except (BackendUnavailableError, ItemUnavailableError) as error:
        return str(error)  # a process may do without: it may flush by a file, and read text
    refresh: Optional[_programs.KernelRefresh] = None
    try:
        max_level = _max_level(cgroup, plan, options)
        try:
            refresh = _programs.KernelRefresh(tree, plan, flush, cgroup, max_level)
        except BackendUnavailableError as error:
            return str(error)
        try:
            refresh.start()
        except MemcgError as error:
            if error.call != "bpf_timer_start" or is_transient(error):
                raise
            return str(error)
        _wait_for_first_walk(cgroup, tree)
        with _pinning(path) as made:
            _pin(made, path, tree, options.mode, refresh)
            return PinnedTree(path, source.names, options.every)
    finally:
        if refresh is not None:
            refresh.close()
        tree.close()


@contextlib.contextmanager
def _pinning(path: str) -> Iterator[_transaction.PinTransaction]:
    """What is created at a path is removed again if anything fails."""
    made = _transaction.PinTransaction()
    try:
        yield made
    except BaseException as error:
        made.undo()
        _diagnosis.raise_creation_error(path, error)
    finally:
        made.close()


def _pin(
    made: _transaction.PinTransaction,
    path: str,
    tree: _programs.TreeMap,
    mode: int,
    refresh: Optional[_programs.KernelRefresh],
) -> tuple[int, int]:
    """Pins everything in a new directory, and returns the directory's device and inode number.

    There is something to read already. Others may enter the directory when it is complete.

    Raises:
        PinNotFoundError: another process has unpinned it meanwhile.
    """
    directory = made.directory(made.above(path), 0o700)
    names = _programs.pin_files(made, directory, tree, mode, refresh)
    if set(os.listdir(directory)) != set(names):
        raise _diagnosis.unpinned(path)
    os.fchmod(directory, _transaction.DIRECTORY_MODE)
    return file_identity(directory)


def _map_of(head: _layout.Head, root_path: bytes) -> _programs.TreeMap:
    """The map of a tree.

    Raises:
        MemcgError: there is not enough memory for it, or it cannot be made.
    """
    try:
        return _programs.TreeMap(head, root_path)
    except MemcgError as error:
        if error.errno != errno.ENOMEM:
            raise
        size = head.geometry.size / (1 << 20)
        raise MemcgError(
            f"there is no memory for a map of {size:.1f} MiB, which has room for {head.room:,} "
            "cgroups: pin fewer items, or with less room= (--room), or raise the memory limit of "
            f"this process's cgroup ({error})",
            errno=error.errno,
            call=error.call,
            log=error.log,
        ) from error


def _max_level(cgroup: Cgroup, plan: ReadPlan, options: _Options) -> Optional[int]:
    depth = options.max_depth
    if options.order == "children":
        depth = 1 if depth is None else min(depth, 1)
    return None if depth is None else depth + _tree_bpf.level_of(cgroup, plan, IteratorWalker)


def _root_path(cgroup: Cgroup, options: _Options) -> bytes:
    return _encoded(RootPath(cgroup).path) if options.names else b""


def _encoded(root_path: Optional[str]) -> bytes:
    """A root's path for readers; b"" if it is unknown, or longer than a path can be."""
    path = os.fsencode(root_path or "")
    return path if len(path) < _layout.PATH_SIZE else b""


def _wait_for_first_walk(cgroup: Cgroup, tree: _programs.TreeMap) -> None:
    give_up = time.monotonic() + _FIRST_WALK_SECONDS
    while True:
        progress = tree.progress
        if progress.written:
            return
        if progress.state == _layout.REMOVED:
            raise _cgroup_diagnosis.why_unreadable(cgroup.path, cgroup.identity)
        if progress.state == _layout.TOO_LARGE:
            raise _diagnosis.tree_too_large(cgroup.path, progress.needed, tree.head.room)
        if time.monotonic() >= give_up:
            raise MemcgError(
                f"the kernel has not walked the tree below {cgroup.path} within "
                f"{_FIRST_WALK_SECONDS:.0f} s",
                errno=errno.ETIMEDOUT,
                call="bpf_timer_start",
            )
        time.sleep(_SHORT_WAIT)


# --- by a process


def _by_holder(
    cgroup: Cgroup,
    path: str,
    names: Optional[tuple[str, ...]],
    options: _Options,
    why_not_by_kernel: str,
) -> PinnedTree:
    """A tree that this process refreshes."""
    with contextlib.ExitStack() as stack:
        reader = _reader(cgroup, names, options)
        stack.callback(reader.close)
        rows = len(reader.read(copy=False))
        flags = _layout.CAN_RENAME if cgroup.version == 1 else 0
        head = options.head(reader.item_names, cgroup, rows, flags)
        tree = _map_of(head, _root_path(cgroup, options))
        stack.callback(tree.close)
        publisher = _programs.Publisher(tree)
        stack.callback(publisher.close)
        holder = _Holder(reader, tree, publisher, options)
        holder.refresh()
        with _pinning(path) as made:
            holder.directory = _pin(made, path, tree, options.mode, None)
            pinned = PinnedTree(path, reader.item_names, options.every, why_not_by_kernel, holder)
            holder.opened = stack.pop_all()
            reader._need_not_be_closed()  # the tree does it
            return pinned


def _reader(cgroup: Cgroup, names: Optional[tuple[str, ...]], options: _Options) -> TreeReader:
    """A reader of the tree, without items that have no number.

    Raises:
        ItemUnavailableError: one of these was asked for by its name, or there are no others.
    """
    reader = TreeReader(
        cgroup.path, names, order=options.order, flush=options.flush, max_depth=options.max_depth
    )
    unknown = [name for name in reader.item_names if _items.item_named(name) is None]
    if not unknown:
        return reader
    known = tuple(name for name in reader.item_names if name not in unknown)
    reader.close()
    if not known or not set(unknown).isdisjoint(names or ()):
        raise numberless(unknown)
    return _reader(cgroup, known, options)


class _Holder:
    """Walks a tree, and publishes the walks.

    Attributes:
        directory: the device and inode number of the pin.
        opened: what close() closes.
    """

    def __init__(
        self,
        reader: TreeReader,
        tree: _programs.TreeMap,
        publisher: _programs.Publisher,
        options: _Options,
    ) -> None:
        self._reader, self._tree, self._options = reader, tree, options
        self._publisher = publisher
        self._paths: Optional[tuple[Optional[str], ...]] = None
        self._text = _NO_TEXT
        self._signature = secrets.randbits(64)
        self.directory: Optional[tuple[int, int]] = None
        self.opened = contextlib.ExitStack()
        self._is_over = False  # the root was removed, which readers are told

    def refresh(self) -> None:
        """Walks the tree and publishes the walk."""
        started_ns = time.monotonic_ns()
        due_ns = started_ns + self._options.interval_ns
        try:
            snapshot = self._reader.read(copy=False)
        except CgroupRemovedError:
            self._publisher.tell(_layout.REMOVED)
            self._is_over = True
            raise
        walk = self._walk(snapshot)
        if not self._publisher.fits(walk):
            times = (walk.started_ns, walk.ended_ns)
            self._publisher.tell(_layout.TOO_LARGE, walk.nr_rows, times, due_ns)
            room = self._tree.head.room
            raise _diagnosis.tree_too_large(self._reader.path, walk.nr_rows, room)
        self._publisher.publish(walk, due_ns)

    def _walk(self, snapshot: Snapshot) -> _programs.Walk:
        paths = snapshot.paths
        if paths is not self._paths:
            if self._options.names:
                found = [os.fsencode(os.path.basename(path or "")) for path in paths]
                self._text = _layout.encode_text(found, self._tree.head.geometry.chunk_size)
            self._signature = (self._signature + 1) % (1 << 64)
            self._paths = paths
        started_ns = snapshot.started_ns
        return _programs.Walk(
            self._rows(snapshot),
            len(snapshot),
            self._text,
            _encoded(snapshot.path) if self._options.names else b"",
            self._signature,
            started_ns,
            started_ns + snapshot.duration_ns,
        )

    def _rows(self, snapshot: Snapshot) -> Union[memoryview, bytearray]:
        """The rows for readers, who are not to learn the kernel's addresses, on which the hashes of
        names depend."""
        if not self._tree.head.flags & _layout.CAN_RENAME:
            return snapshot._bytes
        rows = bytearray(snapshot._bytes)
        words, width = memoryview(rows).cast("Q"), snapshot._width
        levels = [word & _wire.LEVEL_AND_ROOT for word in words[2::width].tolist()]
        words[2::width] = memoryview(array("Q", levels))
        return rows

    def close(self, end: bool) -> None:
        """Closes everything. With *end*, readers are told that nobody refreshes the tree."""
        try:
            if end and not self._is_over:
                self._publisher.tell(_layout.ENDED)
        finally:
            self.opened.close()


class PinnedTree(Closable):
    """A tree that :func:`pin_tree` has published.

    If the kernel refreshes it, the object says what was created, and need not be kept. Otherwise
    this process has to call :meth:`refresh`, once for each interval, until it closes the object::

        >>> with pin_tree("/sys/fs/cgroup/memory", "/sys/fs/bpf/stats/all", ["anon"]) as tree:
        ...     while tree.refreshed_by == "holder":
        ...         tree.refresh()
        ...         time.sleep(tree.interval)

    It may be used from several threads. A child after fork() cannot refresh it, and closing it
    there removes nothing.
    """

    def __init__(
        self,
        path: str,
        names: tuple[str, ...],
        interval: float,
        reason: str = "",
        holder: Optional[_Holder] = None,
    ) -> None:
        super().__init__(path)
        self._names, self._interval, self._reason = names, interval, reason
        self._holder = holder
        self._is_refreshing = False
        self._refreshed_by: Literal["kernel", "holder"] = "holder" if holder else "kernel"
        self._lock = threading.RLock()
        self._owner = _fork.generation
        _fork.renew_in_child(self)
        if holder is not None:
            self._is_to_be_closed()

    @property
    def path(self) -> str:
        """The absolute path of the pin."""
        return self._path

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items, in the order of a row's values."""
        return self._names

    @property
    def interval(self) -> float:
        """The seconds from the beginning of one walk to that of the next."""
        return self._interval

    @property
    def refreshed_by(self) -> Literal["kernel", "holder"]:
        """Who refreshes it: "kernel", or "holder" for this process, by :meth:`refresh`."""
        return self._refreshed_by

    @property
    def reason(self) -> str:
        """Why the kernel does not refresh it; "" if it does."""
        return self._reason

    def refresh(self) -> None:
        """Walks the tree and publishes the walk. It does nothing if the kernel refreshes the tree.

        Raises:
            PinNotFoundError: The pin was removed, so nobody could read what is published.
            CgroupRemovedError: The root of the walk was removed. Readers get the same error.
            TreeTooLargeError: There is no room for all cgroups. Readers get the same error, until
                a later walk fits.
            ClosedError: The object is closed, or belongs to the parent process.
            MemcgError: The tree cannot be read; a subclass says why, as for
                :meth:`TreeReader.read`.
        """
        with self._lock:
            if self._refreshed_by == "kernel":
                return
            holder = self._holder
            if holder is None:
                raise self._closed()
            if self._owner != _fork.generation:
                raise ClosedError(
                    f"the pinned tree at {self._path} is refreshed by the process that created it"
                )
            if self._is_refreshing:
                raise MemcgError(
                    f"the pinned tree at {self._path} is being refreshed: a signal handler that "
                    "interrupts a refresh cannot refresh it, too"
                )
            if not self._is_there(holder):
                raise _diagnosis.unpinned(self._path)
            try:
                self._is_refreshing = True
                holder.refresh()
            except (MemcgError, ValueError) as error:
                if self._holder is None:  # a signal handler has closed it
                    raise self._closed() from error
                raise
            finally:
                self._is_refreshing = False

    def _is_there(self, holder: _Holder) -> bool:
        """Whether the pin is still at its path."""
        return _lookup.identity(self._path) == holder.directory

    def _closed(self) -> ClosedError:
        return ClosedError(f"this pinned tree at {self._path} is closed")

    def close(self) -> None:
        """Removes the pin, unless the kernel refreshes it: it stays then. Calling it again does
        nothing."""
        with self._lock:
            holder, self._holder = self._holder, None
            self._need_not_be_closed()
            if holder is None:
                return
            is_ours = self._owner == _fork.generation
            try:
                holder.close(end=is_ours)
            finally:
                if is_ours and self._is_there(holder):
                    with contextlib.suppress(PinNotFoundError):
                        _remove.unpin(self._path)

    def __repr__(self) -> str:
        return f"<PinnedTree {self._path!r} by {self._refreshed_by}, {len(self._names)} items>"
