# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads pins: opens, reads and closes files. Works without libbpf, BTF, privileges and ctypes."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from typing import Callable, Optional, TypeVar, Union

from .. import _items, _options, _wire
from .._cgroup import mounts as _mounts
from .._cgroup import paths as _paths
from .._closable import Closable
from .._descriptors import Owned, opened_at
from .._lookup import Path
from .._records import Record
from .._samples import Samples
from ..errors import MemcgError, PinNotFoundError, StreamError
from ..snapshot import Snapshot, Times
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import parts as _parts

__all__ = ["PinnedReader"]

_T = TypeVar("_T")


# The size in bytes of the kernel's buffer, into which one walk must fit. A read() of fewer bytes
# ends the walk early.
BUFFER = 8 * mmap.PAGESIZE
_LARGEST_HEADER = _wire.header_size(_wire.MAX_ITEMS)


class PinnedReader(Closable):
    """Reads a pin that :func:`pin` created, or a tree that :func:`pin_tree` created::

        >>> with PinnedReader("/sys/fs/bpf/stats/system") as reader:
        ...     reader.read()
        {'anon': 17727488, 'file': 708608}

    Any user with read permission can read a pin; no privileges and no running process are needed.
    It also needs a mounted /proc, which tells it that the file is on a bpffs. It may be used from
    several threads, and in a child after fork(). No file is open between reads. If a pin is removed
    and created again with the same items and order, the reader continues with the new one.

    Args:
        pin_path: the path of the pin, or of the directory that pin_tree() created.

    Raises:
        PinNotFoundError: there is no pin, or it is being created or removed at this moment.
        PinPermissionError: this user may not read the pin.
        PinPathError: the path is not on a bpffs.
        StreamError: the file is not a pin of this package, or of a format version that this
            version does not know; or the tree has more parts than pin_tree() creates.
    """

    def __init__(self, pin_path: Path) -> None:
        super().__init__(os.fsdecode(pin_path))
        if not self._path:
            raise PinNotFoundError("'' cannot be a path")
        self._check = _OnBpffs()
        tree = self._opened_tree()
        self._in_parts = tree is not None
        if tree is None:
            self._head = read_head(self._path, check=self._check)
        else:
            try:
                self._head = read_head(self._parts(tree.fileno())[0], tree.fileno(), self._check)
            finally:
                tree.close()
        header = _wire.decode_header(self._head)
        self._items = _names(self._path, header)
        self._order = _options.ORDER_NAMES[header.order]
        self._values = struct.Struct(f"={len(self._items)}Q").unpack_from
        self._paths: Optional[_paths.PathsOfId] = None

    @property
    def path(self) -> str:
        """The pin's path, as it was given."""
        return self._path

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items read, in their order.

        An item that this version of the package does not know is named by its number: "#1234".
        """
        return self._items

    @property
    def order(self) -> str:
        """The order of the walk: "self" for one cgroup, "pre" for a pinned tree."""
        return self._order

    def read(self) -> Union[dict[str, int], Snapshot]:
        """Reads the values now, in the items' own units (bytes, counts or microseconds).

        Returns:
            For one cgroup (order "self"), a dict of names and values, as
            :meth:`StatsReader.read` returns it. For a walk, a :class:`Snapshot` with a row for
            each cgroup.

        The rows of a tree in parts are in pre-order, siblings by id. Rows whose parent has no row,
        because it was created or removed during the reads, come last. The rows' paths are those
        below the memory hierarchy that is mounted here, and None where the walk's root is not
        visible below any mount.

        Raises:
            CgroupRemovedError: the walk's root was removed, or has lost its memory controller.
            TreeTooLargeError: there are more cgroups than the pin can write.
            PinNotFoundError: the pin was removed, or is being removed.
            PinPermissionError: this user may no longer read the pin.
            PinPathError: another file system is at the path now.
            StreamError: the data is damaged, or another pin is at the path now.
            ClosedError: the reader is closed.
        """
        if self._wakers is None:
            raise self._closed()
        now, began = time.time_ns(), time.monotonic_ns()
        tree = self._opened_tree() if self._in_parts else None
        if tree is None:
            stream = self._take(self._path)
            if self._order == "self":
                return self._only_row(stream)
            rows = stream.rows
        else:
            try:  # by the open directory, because its path may lead to another tree by now
                rows = memoryview(self._take_parts(tree.fileno()))
            finally:
                tree.close()
        ended = time.monotonic_ns()
        if not rows and self._order != "children":
            raise _diagnosis.cgroup_removed(self._path)
        if tree is not None:
            rows = self._in_order(rows)
        words, width = rows.cast("Q"), _wire.row_size(len(self._items)) // 8
        paths = _paths.ListedPaths(self._paths_of(rows), words[::width], words[1::width], ended)
        return Snapshot(rows, self._items, self._order, Times(began, ended, now), paths)

    def every(self, seconds: float) -> Samples[Union[dict[str, int], Snapshot]]:
        """Reads at an interval, in a loop: ``for``, or ``async for``.

        :meth:`StatsReader.every` describes when it reads, what ends it, and its errors. In the
        loop there is what :meth:`read` returns.

        Args:
            seconds: The interval.
        """
        return Samples(self, self.read, seconds)

    def close(self) -> None:
        """Makes every further read() raise ClosedError, and ends loops over :meth:`every`. Calling
        it again does nothing."""
        self._wake_all()

    # ---

    def _opened_tree(self) -> Optional[Owned]:
        """The open directory of a tree in parts; None if the pin is a file."""
        try:
            tree = opened_at(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            return None
        except (OSError, ValueError) as error:
            raise _diagnosis.read_error(self._path, error) from error
        try:
            self._check(tree.fileno(), self._path)
        except BaseException:
            tree.close()
            raise
        return tree

    def _parts(self, tree: int) -> list[str]:
        """The paths of the parts in an open directory."""
        try:
            names = os.listdir(tree)
        except OSError as error:
            raise _diagnosis.read_error(self._path, error) from error
        parts = _parts.parts_of(names)
        if names and not parts:
            raise _diagnosis.no_parts(self._path)
        if not _parts.are_whole(parts):
            of = parts[0].of if parts else None
            raise _diagnosis.incomplete(self._path, len(parts), of)
        if len(parts) > _parts.MOST_PARTS:
            raise _diagnosis.too_many_parts(self._path, len(parts), _parts.MOST_PARTS)
        return [os.path.join(self._path, part.name) for part in parts]

    def _take_parts(self, tree: int) -> bytearray:
        """The rows of all parts, part by part."""
        rows = bytearray()
        for part in self._parts(tree):
            rows += self._take(part, tree).rows
        return rows

    def _take(self, path: str, tree: Optional[int] = None) -> _wire.RawStream:
        """The stream that one walk wrote."""
        data, full = _read(path, tree, read_walk, self._check)
        try:
            stream = _wire.split(data)
        except StreamError as error:
            raise _diagnosis.bad_stream(path, error) from error
        if not data.startswith(self._head):
            raise _diagnosis.replaced(path)
        if stream.end_ns is None:
            if not full:
                raise _diagnosis.cut_short(path, len(data))
            fit = capacity(len(stream.header.item_numbers))
            if tree is not None:
                raise _diagnosis.part_too_large(self._path, fit)
            raise _diagnosis.too_large(f"of {path}", fit, BUFFER)
        return stream

    def _only_row(self, stream: _wire.RawStream) -> dict[str, int]:
        rows = stream.rows
        if len(rows) != stream.header.row_size:
            if not rows:
                raise _diagnosis.cgroup_removed(self._path)
            raise _diagnosis.bad_rows(self._path, len(rows))
        values = self._values(rows, _wire.ROW.size)
        found = zip(self._items, values)
        if _wire.ABSENT in values:  # memory.pressure is switched off
            return {name: value for name, value in found if value != _wire.ABSENT}
        return dict(found)

    def _in_order(self, rows: memoryview) -> memoryview:
        """The rows of all parts, sorted so that parents come before their children."""
        size = _wire.row_size(len(self._items))
        words = rows.cast("Q")
        width = size // 8
        ids = words[::width].tolist()
        parents = words[1::width].tolist()
        places = dict(zip(ids, range(0, len(rows), size)))
        if len(places) != len(ids):
            raise _diagnosis.cgroup_in_two_parts(self._path)
        children: dict[int, list[int]] = {}
        for cgroup_id, parent in zip(ids, parents):
            children.setdefault(parent if parent in places else _NONE, []).append(cgroup_id)
        # A stack, so the next cgroup is the last. The walk's root is the topmost of the cgroups
        # whose parent has no row.
        waiting = sorted(children.get(_NONE, ()), reverse=True)
        if waiting:
            root = min(waiting, key=lambda one: _wire.level(words[places[one] // 8 + 2]))
            waiting.remove(root)
            waiting.append(root)
        ordered = bytearray()
        while waiting:
            cgroup_id = waiting.pop()
            at = places[cgroup_id]
            ordered += rows[at : at + size]
            below = children.get(cgroup_id)
            if below:
                waiting += sorted(below, reverse=True)
        if len(ordered) != len(rows):
            raise _diagnosis.cgroup_below_itself(self._path)
        return memoryview(ordered).toreadonly()

    def _paths_of(self, rows: memoryview) -> _paths.PathsOfId:
        """The paths below the walk's root, whose id is taken from its row."""
        size = _wire.row_size(len(self._items))
        at = {"children": 8, "post": len(rows) - size}.get(self._order, 0)
        root_id = struct.unpack_from("=Q", rows, at)[0] if rows else 0
        paths = self._paths
        if paths is None or paths.root_id != root_id:
            paths = self._paths = _paths.PathsOfId(root_id, _mounts.find_cgroup)
        return paths

    def __repr__(self) -> str:
        state = "closed" if self._wakers is None else self._order
        return f"<PinnedReader {self._path!r} {state}, {len(self._items)} items>"


_NONE = -1  # not the id of any cgroup


class _Read(Record):
    """What one walk wrote.

    Attributes:
        data: what the first read() returned; all of the output, if it fits into the buffer.
        full: whether the kernel's buffer was full before the end of the walk.
    """

    data: bytes
    full: bool


def read_walk(fd: int) -> _Read:
    """Reads one walk from an iterator that was just opened."""
    data = os.read(fd, BUFFER)
    end = len(data) - _wire.TRAILER.size
    if end >= 0 and _wire.TRAILER.unpack_from(data, end)[0] == _wire.END_MAGIC:
        return _Read(data, False)
    # The buffer was full: either the walk cannot be resumed (EOPNOTSUPP), or only its trailer did
    # not fit.
    try:
        return _Read(data, bool(data) and bool(os.read(fd, BUFFER)))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return _Read(data, True)


def _opened(path: str, tree: Optional[int]) -> Owned:
    """Opens a pin by its path, or a part of a tree by its name in the tree's open directory.

    O_NONBLOCK keeps open() from waiting, should the file be a FIFO.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK
    if tree is None:
        return opened_at(path, flags)
    return opened_at(os.path.basename(path), flags | os.O_NOFOLLOW, tree)


def _read(
    path: str, tree: Optional[int], read: Callable[[int], _T], check: Optional[_OnBpffs]
) -> _T:
    """Opens a pin, returns what a function reads from its descriptor, and closes it."""
    try:
        pin = _opened(path, tree)
        try:
            fd = pin.fileno()
            if check is not None:
                check(fd, path)
            return read(fd)
        finally:
            pin.close()
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


class _OnBpffs:
    """Raises unless an open file is on a bpffs.

    Files elsewhere are not read, because their owner decides what reading them does and how much
    it returns. The mount table can be long, so it is read once for each file system.
    """

    def __init__(self) -> None:
        self._device: Optional[int] = None

    def __call__(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        if status.st_dev == self._device:
            return
        if not _bpffs.is_on_bpffs(status, path):
            raise _diagnosis.no_pin(path)
        self._device = status.st_dev


def read_head(
    path: str, directory: Optional[int] = None, check: Optional[_OnBpffs] = None
) -> bytes:
    """The header of the stream at a path. The kernel walks no further than the first cgroup.

    With an open directory, only the last component of the path is used, as a name in it.

    Raises:
        StreamError: the file does not begin with a header of this package.
        PinNotFoundError, PinPermissionError.
        PinPathError: the file is not on a bpffs, if that is checked.
    """
    data = _read(path, directory, lambda fd: os.read(fd, _LARGEST_HEADER), check)
    try:
        header = _wire.decode_header(data)
    except StreamError as error:
        raise _diagnosis.bad_stream(path, error) from error
    return data[: header.size]


def _names(path: str, header: _wire.Header) -> tuple[str, ...]:
    found = [_items.item_numbered(number) for number in header.item_numbers]
    names = [
        item.name if item is not None else f"#{number}"
        for item, number in zip(found, header.item_numbers)
    ]
    if (
        len(set(names)) != len(names)
        or 0 in header.item_numbers
        or header.order not in _options.ORDER_NAMES
    ):
        raise _diagnosis.bad_header(path)
    return tuple(names)


def capacity(items: int) -> int:
    """The number of rows with so many items that fit into the kernel's buffer.

    The kernel never fills the buffer's last byte.
    """
    spare = BUFFER - 1 - _wire.header_size(items) - _wire.TRAILER.size
    return spare // _wire.row_size(items)
