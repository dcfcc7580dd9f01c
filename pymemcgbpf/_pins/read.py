# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads pins and pinned trees. Works without libbpf, BTF and privileges, and without ctypes."""

from __future__ import annotations

import math
import os
import struct
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional, TypeVar, Union

from .. import _items, _options, _wire
from .._cgroup import mounts as _mounts
from .._cgroup import paths as _paths
from .._cgroup.walk_paths import Origin, WalkPaths
from .._closable import Closable
from .._lookup import Path
from .._records import Record
from .._samples import Samples
from ..errors import BackendUnavailableError, ClosedError, MemcgError, PinNotFoundError
from ..snapshot import Snapshot, Times
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import tree_layout as _layout
from . import tree_map as _tree_map
from . import tree_stream as _tree_stream
from .pin_stream import PinFile
from .tree_paths import NamedPaths, NamesKey
from .tree_walk import TreeLook, check_state

if TYPE_CHECKING:
    import socket as _socket

__all__ = ["PinnedReader"]

_Read = TypeVar("_Read")
_TreeSource = Union[_tree_map.MappedTree, _tree_map.HandedMap, _tree_stream.TreeStream]

# How long wait() sleeps once a walk is due, in seconds; at first, and at most.
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.001, 0.05
# How long it sleeps before: Python runs the handler of a signal that arrives just before a sleep
# after that sleep.
_LONGEST_WAIT = 0.5


class PinnedReader(Closable):
    """Reads a pin that :func:`pin` created, or a tree that :func:`pin_tree` publishes::

        >>> with PinnedReader("/sys/fs/bpf/stats/system") as reader:
        ...     reader.read()
        {'anon': 17727488, 'file': 708608}
        >>> with PinnedReader("/sys/fs/bpf/stats/tree") as reader:
        ...     reader.read()
        <Snapshot of '/sys/fs/cgroup': 5001 cgroups, 2 items>

    Any user with permission can read a pin; no privileges are needed. A read of a pin() makes the
    kernel walk. A read of a tree is a copy of what was published last, and takes no time of the
    kernel; :attr:`Snapshot.age` is its age.

    It needs a mounted /proc, which tells it what the files are. It may be used from several
    threads, and in a child after fork(). No file is open between reads. If a pin is removed and
    created again with the same items and order, the reader continues with the new one.

    Args:
        pin_path: the path of the pin, or of the directory that pin_tree() created.
        transport: how a tree is read. "map" maps its memory into this process, for which bpf(2)
            must be allowed here. "stream" reads a plain file with the same contents, which takes
            the kernel a copy of them. "auto" takes the first that works. A pin() is always
            "stream".

    Raises:
        PinNotFoundError: there is no pin, or it is being created or removed at this moment.
        PinPermissionError: this user may not read the pin; or not yet, while a tree is being
            created.
        PinPathError: the path is not on a bpffs, or is one file of a tree.
        StreamError: it is not a pin of this package, or of a format version that this version
            does not know.
        BackendUnavailableError: "map" was asked for and does not work here; the message says why.
        ValueError: *transport* is not one of those.
    """

    def __init__(self, pin_path: Path, *, transport: _options.PinTransport = "auto") -> None:
        super().__init__(_options.path("pin_path", pin_path))
        if not self._path:
            raise PinNotFoundError("'' cannot be a path")
        _options.check("transport", transport, _options.PIN_TRANSPORTS)
        check, self._reason = _bpffs.OnBpffs(), ""
        self._may_fall_back = transport == "auto"
        self._tree: Optional[_TreeSource] = None
        self._file: Optional[PinFile] = None
        if not _is_directory(self._path, check):
            if transport == "map":
                raise BackendUnavailableError(
                    f"{self._path} is a pin of pin(), which cannot be mapped: only trees can"
                )
            above, name = os.path.split(self._path)
            if name in _layout.FILES and _bpffs.is_pinned_tree(above or "."):
                raise _diagnosis.file_of_tree(self._path, above or ".")
            self._file = PinFile(self._path, check)
            header = self._file.header
            self._begin(header.item_numbers, header.order)
            return
        if transport != "stream":
            try:
                self._tree = _tree_map.MappedTree(self._path, check)
            except BackendUnavailableError as error:
                if transport == "map":
                    raise
                self._reason = str(error)
            except PinNotFoundError:
                if transport == "auto":  # it says so if the directory is none of a tree
                    _tree_stream.TreeStream(self._path, check).look()
                raise
        if self._tree is None:
            self._tree = _tree_stream.TreeStream(self._path, check)
        self._begin_tree(self._tree)

    @classmethod
    def from_fd(cls, fd: int) -> PinnedReader:
        """A reader of a tree whose map's descriptor another process has handed over::

            >>> _, (fd,), _, _ = socket.recv_fds(connection, 1, 1)
            >>> reader = PinnedReader.from_fd(fd)
            >>> os.close(fd)

        :meth:`send_to` sends one. Neither bpf(2) nor a bpffs is needed here, so this works where
        seccomp forbids them. The whole map is mapped, and the descriptor is not used any more. No
        other is kept, except by a Python before 3.13 that has no ctypes.

        Such a reader does not see that the pin is removed: the numbers just get older.

        Raises:
            StreamError: the descriptor is not that of a pinned tree's map.
            MemcgError: the kernel refuses to map it, or it is not open.
        """
        number = _options.integer("fd", fd)
        reader = cls.__new__(cls)
        Closable.__init__(reader, f"descriptor {number}")
        reader._reason, reader._file, reader._may_fall_back = "", None, False
        reader._tree = _tree_map.HandedMap(number, reader._path)
        reader._begin_tree(reader._tree)
        return reader

    def _begin_tree(self, tree: _TreeSource) -> None:
        look = tree.look()
        self._head = look.head
        self._begin(look.head.item_numbers, look.head.order)

    def _begin(self, numbers: Sequence[int], order: int) -> None:
        self._numbers, self._order_number = tuple(numbers), order
        self._items = _items.names_numbered(numbers)
        self._order = _options.ORDER_NAMES[order]
        self._values = struct.Struct(f"={len(self._items)}Q").unpack_from
        self._origin = Origin()
        self._listed: Optional[_paths.PathsOfId] = None
        self._named: Optional[_Named] = None
        self._seen: Optional[tuple[object, int]] = None  # the pin and the walk read last
        self._is_to_be_closed()

    @property
    def path(self) -> str:
        """The pin's path, as it was given; "descriptor 5" after from_fd(5)."""
        return self._path

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items read, in their order.

        An item that this version of the package does not know is named by its number: "#1234".
        """
        return self._items

    @property
    def order(self) -> str:
        """The order of the walk: "self" for one cgroup, "pre" for most pinned trees."""
        return self._order

    @property
    def transport(self) -> str:
        """How it is read: "map" or "stream"."""
        return "stream" if self._tree is None else self._tree.transport

    @property
    def fallback_reason(self) -> str:
        """Why the tree is not read as "map"; "" if it is, if "stream" was asked for, and for
        a pin().

        A reader with "auto" changes to "stream" in a process that loses the right to map what it
        needs, as when a tree has grown. :attr:`transport` and this property change then."""
        return self._reason

    @property
    def interval(self) -> Optional[float]:
        """The seconds between the beginnings of two walks of a tree.

        None for a pin(), whose reads walk, and for a tree that is refreshed at no interval.
        """
        if self._tree is None or not self._head.interval_ns:
            return None
        return self._head.interval_ns / 1e9

    def read(self) -> Union[dict[str, int], Snapshot]:
        """Reads the values, in the items' own units (bytes, counts or microseconds).

        Returns:
            For one cgroup (order "self"), a dict of names and values, as
            :meth:`StatsReader.read` returns it. For a walk, a :class:`Snapshot` with a row for
            each cgroup.

        Values of a pin() are those of now. Values of a tree are those of the last walk, all of one
        walk. If two walks begin while one is copied, the read is repeated, 10 times and for 5
        seconds at least.

        The rows' paths are those that the walk itself found, if the tree was pinned with names.
        Otherwise they are those below the memory hierarchy that is mounted here, and None where
        the walk's root is not visible below any mount.

        Raises:
            CgroupRemovedError: the walk's root was removed, or has lost its memory controller.
            TreeTooLargeError: there are more cgroups than there is room for in the pin. ``rows``
                is their number for a tree, and the number that fits for a pin().
            PinNotFoundError: the pin was removed; or the first walk is not over yet.
            PinPermissionError: this user may no longer read the pin.
            PinPathError: another file system is at the path now.
            StreamError: the data is damaged, or another pin is at the path now.
            MemcgError: with the errno EAGAIN, this reader is too slow for the interval.
            ClosedError: the reader is closed.
        """
        if self._wakers is None:
            raise self._closed()
        if self._tree is not None:
            return self._of_tree(self._snapshot_of)
        assert self._file is not None, "it is a tree otherwise"
        now, began = time.time_ns(), time.monotonic_ns()
        rows = self._file.read()
        if self._order == "self":
            return self._only_row(rows)
        ended = time.monotonic_ns()
        if not rows and self._order != "children":
            raise _diagnosis.cgroup_removed(self._path)
        size = _wire.row_size(len(self._items))
        # The walk's root is the parent of its children, and otherwise has a row of its own.
        at = {"children": 8, "post": len(rows) - size}.get(self._order, 0)
        root_id = struct.unpack_from("=Q", rows, at)[0] if rows else 0
        paths = self._listed_paths(root_id, rows, ended)
        return Snapshot(rows, self._items, self._order, Times(began, ended, now), paths)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until a walk of a tree is published that is newer than the last :meth:`read`::

            >>> while reader.wait():
            ...     publish(reader.read())

        It sleeps until the next walk is due, with a look every half a second, then looks again
        after 1, 2, 4 ms and so on, up to 50 ms or an eighth of the interval, whichever is shorter.
        So it takes a few looks at an interval, and more only while a walk is late. As "map", a look
        is one stat(); as "stream", it reads the head of the file.

        Args:
            timeout: how many seconds it waits at most. None for as long as it takes, which is for
                ever if nobody refreshes the tree any more.

        Returns:
            True if there is a newer walk, and at once for a pin(). False after *timeout*, and if
            the reader is closed meanwhile.

        Raises:
            ClosedError: the reader is closed already.
            TypeError, ValueError: *timeout* is not a number.
            MemcgError: a subclass, as for :meth:`read`.
        """
        end = None if timeout is None else time.monotonic() + _seconds(timeout)
        if self._wakers is None:
            raise self._closed()
        if self._tree is None:
            return True
        # A bare lock, because close() may be called by a signal handler.
        closed = threading.Lock()
        closed.acquire()
        try:
            if not self._wake_at_close(closed.release):
                return False
            sleep = _SHORTEST_SLEEP
            while True:
                try:
                    look = self._of_tree(self._looked)
                except ClosedError:
                    return False
                if self._seen != (look.pin, look.progress.written):
                    return True
                delay = (look.progress.due_ns - time.monotonic_ns()) / 1e9
                if delay <= 0:
                    delay, sleep = sleep, 2 * sleep
                    interval = look.head.interval_ns / 1e9 or math.inf
                    delay = max(min(delay, _LONGEST_SLEEP, interval / 8), _SHORTEST_SLEEP)
                if end is not None:
                    left = end - time.monotonic()
                    if left <= 0:
                        return False
                    delay = min(delay, left)
                if closed.acquire(timeout=min(delay, _LONGEST_WAIT)):
                    return False
        finally:
            self._do_not_wake(closed.release)

    def every(self, seconds: float) -> Samples[Union[dict[str, int], Snapshot]]:
        """Reads at an interval, in a loop: ``for``, or ``async for``.

        :meth:`StatsReader.every` describes when it reads, what ends it, and its errors. In the
        loop there is what :meth:`read` returns. :meth:`wait` follows a tree's own interval.

        Args:
            seconds: The interval.
        """
        return Samples(self, self.read, seconds)

    def send_to(self, socket: _socket.socket) -> None:
        """Sends the descriptor of a tree's map over a Unix socket, with one byte that is 0.

        A process that may not call bpf(2), or that does not see the bpffs, can read the tree then:
        :meth:`from_fd`. It learns no more than by this reader, and can change nothing, unless it
        may load BPF programs: those could write the map.

        Args:
            socket: a connected socket of the family AF_UNIX.

        Raises:
            BackendUnavailableError: this reader has no map: it is one of a pin(), is made of
                a descriptor itself, or may not open the map here.
            PinNotFoundError: the pin was removed.
            MemcgError: it cannot be sent.
            ClosedError: the reader is closed.
            TypeError: *socket* is no socket.
        """
        import socket as _socket

        if not isinstance(socket, _socket.socket):
            raise TypeError(f"socket must be a socket, not {socket!r}")
        if self._wakers is None:
            raise self._closed()
        if self._tree is None or isinstance(self._tree, _tree_map.HandedMap):
            raise BackendUnavailableError(
                f"{self._path} cannot be sent: only a reader of a tree, by its path, can open its "
                "map again"
            )
        owned = _tree_map.open_map(self._path, _bpffs.OnBpffs()).owned
        try:
            _tree_map.memory_of(owned.fileno(), None, self._path)  # a tree's map, nothing else
            _socket.send_fds(socket, [b"\0"], [owned.fileno()])
        except MemcgError:
            raise
        except OSError as error:
            raise _diagnosis.not_sent(self._path, error) from error
        finally:
            owned.close()

    def close(self) -> None:
        """Unmaps what is mapped, makes every further read() raise ClosedError, and ends loops over
        :meth:`every` and :meth:`wait`. Calling it again does nothing."""
        self._wake_all()
        if self._tree is not None:
            self._tree.close()

    # ---

    def _of_tree(self, read: Callable[[_TreeSource], _Read]) -> _Read:
        """What a function reads from the tree.

        With "auto", the stream takes the place of the map if this process has lost the right to
        map more of it, or to map the one that is there now.
        """
        tree = self._tree
        assert tree is not None, "it is a tree"
        try:
            return read(tree)
        except BackendUnavailableError as error:
            if not self._may_fall_back or not isinstance(tree, _tree_map.MappedTree):
                raise
            stream = _tree_stream.TreeStream(self._path, _bpffs.OnBpffs())
            found = read(stream)
            self._tree, self._reason = stream, str(error)
            tree.close()
            return found

    def _looked(self, tree: _TreeSource) -> TreeLook:
        """What the head of the tree says, if there is a walk to read."""
        look = tree.look()
        check_state(self._path, look.progress, look.head)
        return look

    def _snapshot_of(self, tree: _TreeSource) -> Snapshot:
        named = self._named
        walk = tree.read(None if named is None else named.key)
        head, rows = walk.head, memoryview(walk.rows)
        if head is not self._head:
            self._continue_with(head)
        if not rows and self._order != "children":
            raise _diagnosis.cgroup_removed(self._path)
        paths: WalkPaths
        if walk.key is None or not head.flags & _layout.HAS_NAMES:
            paths = self._listed_paths(head.root_id, rows, walk.ended_ns)
        elif walk.names is None and named is not None:
            paths = named.paths
        else:
            root_path, names = walk.key.root_path, walk.names or []
            paths = NamedPaths(self._origin, head, root_path, walk.rows, names)
            self._named = _Named(walk.key, paths)
        began = walk.started_ns
        times = Times(began, walk.ended_ns, time.time_ns() - (time.monotonic_ns() - began))
        self._seen = walk.pin, walk.number
        return Snapshot(rows, self._items, self._order, times, paths, head.max_depth)

    def _continue_with(self, head: _layout.Head) -> None:
        """Takes another head, of the pin that is at the path now.

        Raises:
            StreamError: its items or its order are others.
        """
        if (head.item_numbers, head.order) != (self._numbers, self._order_number):
            raise _diagnosis.replaced(self._path)
        if head.root_id != self._head.root_id:
            self._origin = Origin()
        self._head = head

    def _only_row(self, rows: memoryview) -> dict[str, int]:
        if len(rows) != _wire.row_size(len(self._items)):
            if not rows:
                raise _diagnosis.cgroup_removed(self._path)
            raise _diagnosis.bad_rows(self._path, len(rows))
        values = self._values(rows, _wire.ROW.size)
        found = zip(self._items, values)
        if _wire.ABSENT in values:  # memory.pressure is switched off
            return {name: value for name, value in found if value != _wire.ABSENT}
        return dict(found)

    def _listed_paths(self, root_id: int, rows: memoryview, seen_ns: int) -> _paths.ListedPaths:
        """The paths below the walk's root, which are found by listing directories."""
        words, width = rows.cast("Q"), _wire.row_size(len(self._items)) // 8
        listed = self._listed
        if listed is None or listed.root_id != root_id:
            listed = self._listed = _paths.PathsOfId(root_id, _mounts.find_cgroup)
        return _paths.ListedPaths(listed, words[::width], words[1::width], seen_ns)

    def __repr__(self) -> str:
        state = "closed" if self._wakers is None else self._order
        return f"<PinnedReader {self._path!r} {state}, {len(self._items)} items>"


class _Named(Record):
    """Paths, and the key of the names that they were made from."""

    key: NamesKey
    paths: NamedPaths


def _is_directory(path: str, check: _bpffs.OnBpffs) -> bool:
    """Whether a pin is the directory of a tree, and not a file."""
    try:
        with _bpffs.opened_directory(path) as at:
            check(at, path)
            return True
    except MemcgError:
        raise
    except NotADirectoryError:
        return False
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def _seconds(timeout: float) -> float:
    """A timeout, as a number that clocks can take."""
    _options.check_number("timeout", timeout)
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds, not nan")
    return float(min(max(timeout, 0), threading.TIMEOUT_MAX))
