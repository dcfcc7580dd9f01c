# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads the map of a pinned tree, which is mapped into this process: no system call copies it.

The kernel goes on writing while a walk is read. Two walks have room, so a walk is whole if no
second one has begun by the time that it was copied: see :meth:`TreeMemory.walk`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable, Optional

from .._descriptors import Owned
from .._records import Record
from ..errors import (
    BackendUnavailableError,
    BpfPermissionError,
    MemcgError,
    StreamError,
    errno_text,
    raise_if_short,
    raise_if_transient,
)
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import tree_layout as _layout
from .tree_paths import NamesKey
from .tree_walk import TreeLook, TreeWalk, check_state, until_whole

MapWindow = Callable[[int, int], memoryview]
"""Maps a part of a map: the offset of its first byte, a multiple of the page's size, and its
size."""

_LINK = "anon_inode:bpf-map"
_ARRAY = 2  # enum bpf_map_type: BPF_MAP_TYPE_ARRAY
_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE


class _Unmapped(Exception):
    """More of the map is needed than is mapped."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start, self.end = start, end


class TreeMemory:
    """The mapped memory of one map. Threads may share it.

    Only what was needed so far is mapped. The rows are in the beginning of a half and the names in
    its end, so there are up to four parts beside the head.

    Args:
        pin: what tells the pin from one that replaces it.
        head: what never changes.
        memory: the first chunk.
    """

    def __init__(self, pin: object, head: _layout.Head, memory: memoryview) -> None:
        self.pin, self.head = pin, head
        self._memory = memory
        self._words = memory[: _layout.HEAD_SIZE & ~7].cast("Q")
        self._parts: list[tuple[int, int, memoryview]] = []  # each with its first and last byte

    def progress(self) -> _layout.Progress:
        """What the head says now."""
        return _layout.decode_progress(self._memory)

    def walk(self, number: int, known: Optional[NamesKey]) -> Optional[TreeWalk]:
        """The walk of a number; None if it was overwritten meanwhile.

        Raises:
            StreamError: the head contradicts itself.
            _Unmapped: the rows or the names are not mapped yet.
        """
        head, memory = self.head, self._memory
        division = head.geometry
        barrier()
        at = _layout.HALVES_AT + (number & 1) * _layout.HALF_SIZE
        found, started, ended, signature, nr_rows, text_chunks = _UNPACK_HALF(memory, at)
        at += _layout.HALF.size
        root_path = bytes(memory[at : at + _layout.PATH_SIZE])
        try:
            _layout.check_half(division, number, found, started, ended, nr_rows, text_chunks)
        except StreamError:
            if self._is_whole(number):
                raise
            return None
        at = division.half_at(number)
        rows = self._bytes(at, nr_rows * division.row_size)
        text, key = None, known
        if head.flags & _layout.HAS_NAMES and (
            known is None or known != (self.pin, signature, nr_rows, root_path)
        ):
            key = NamesKey(self.pin, signature, nr_rows, root_path)
            end = at + division.half_chunks * division.chunk_size
            size = text_chunks * division.chunk_size
            text = self._bytes(end - size, size)
        if not self._is_whole(number):
            return None
        names = None
        if text is not None:
            names = _layout.decode_text(_chunks(text, division.chunk_size), nr_rows)
        return TreeWalk(self.pin, head, number, started, ended, rows, key, names)

    def _is_whole(self, number: int) -> bool:
        """Whether what was copied before is of the walk of this number."""
        barrier()
        return self._words[_WRITING] < number + 2

    def _bytes(self, start: int, size: int) -> bytes:
        for first, last, memory in self._parts:
            if first <= start and start + size <= last:
                return bytes(memory[start - first : start - first + size])
        if not size:
            return b""
        raise _Unmapped(start, start + size)

    def extend(self, start: int, end: int, window: MapWindow) -> None:
        """Maps a part of the map, and replaces those that are in it."""
        page = mmap.PAGESIZE
        first, last = start // page * page, -(-end // page) * page
        memory = window(first, last - first)
        kept = [part for part in self._parts if part[0] < first or part[1] > last]
        self._parts = [*kept, (first, last, memory)]

    def extend_for(self, start: int, end: int, window: MapWindow) -> None:
        """Maps what was found missing, and a quarter more, in both halves alike."""
        division = self.head.geometry
        size = division.half_chunks * division.chunk_size
        starts = [division.half_at(number) for number in (0, 1)]
        base = max(at for at in starts if at <= start)
        more = (end - start) // 4 + division.chunk_size
        for at in starts:
            if start == base:  # rows
                self.extend(at, at + min(end - base + more, size), window)
            else:
                self.extend(at + max(start - base - more, 0), at + size, window)


_WRITING = _layout.PROGRESS_AT // 8
_UNPACK_HALF = _layout.HALF.unpack_from


def _chunks(text: bytes, chunk_size: int) -> list[memoryview]:
    """The chunks of names, the first one first: it is the last one in memory."""
    view = memoryview(text)
    return [view[at : at + chunk_size] for at in range(0, len(text), chunk_size)][::-1]


def barrier() -> None:
    """Orders all loads and stores before it and after it, also where the processor would not.

    Python has nothing else for that. What comes before the release of a lock is done by then, what
    comes after its acquisition is not done before, and the second acquisition is after the first
    release.
    """
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()


def memory_of(fd: int, pin: object, path: str) -> TreeMemory:
    """Maps the head of a map, and checks that it is the map of a pinned tree.

    Raises:
        StreamError: it is not.
        OSError: it cannot be mapped.
    """
    size_of = _map_size(fd, path)
    memory = map_window(fd, 0, -(-_layout.HEAD_SIZE // mmap.PAGESIZE) * mmap.PAGESIZE)
    try:
        head = _layout.decode_head(memory)
        division = head.geometry
        if size_of != (division.chunk_size, division.chunks):
            raise StreamError(
                f"damaged head of a pinned tree: {division.chunks} chunks of "
                f"{division.chunk_size} bytes, in a map of {size_of[1]} elements of {size_of[0]}"
            )
    except StreamError as error:
        raise _diagnosis.bad_stream(path, error) from error
    return TreeMemory(pin, head, memory)


def _map_size(fd: int, path: str) -> tuple[int, int]:
    """The size and the number of the elements of a map that can be mapped.

    Raises:
        StreamError: the descriptor is of another file, or of another kind of map. No other file
            is mapped, because its owner could truncate it, and kill this process thereby.
        OSError: the descriptor is not open, or there is no /proc.
    """
    os.fstat(fd)
    if os.readlink(f"/proc/self/fd/{fd}") != _LINK:
        raise _diagnosis.not_a_map(path)
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as lines:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    flags = int(fields.get("map_flags", "0"), 16)
    kind, key_size = int(fields.get("map_type", "0")), int(fields.get("key_size", "0"))
    size = int(fields.get("value_size", "0"))
    if (kind, key_size) != (_ARRAY, 4) or not flags & _MMAPABLE or size < _layout.HEAD_SIZE:
        raise _diagnosis.not_a_map(path)
    return size, int(fields.get("max_entries", "0"))


def map_window(fd: int, start: int, size: int) -> memoryview:
    """Maps a part of a map for reading. Where Python can, no descriptor is kept.

    Raises:
        OSError: the kernel refuses to map it.
    """
    if sys.version_info >= (3, 13):
        kind, access = mmap.MAP_SHARED, mmap.PROT_READ
        memory = mmap.mmap(fd, size, kind, access, offset=start, trackfd=False)  # novm: Python 3.13
        return memoryview(memory)
    calls = _map_calls()
    if calls is None:
        return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=start))
    return memoryview(calls.map_shared(fd, start, size))


def _map_calls() -> Any:
    """The module that uses ctypes; None where Python has none."""
    try:
        from . import map_calls
    except Exception as error:  # see bindings.py of _bpf
        raise_if_short(error, "the module that uses ctypes cannot be imported", "import")
        return None
    return map_calls


class OpenedMap(Record):
    """A map that was just opened.

    Attributes:
        owned: the owner of its descriptor.
        pin: what tells the pin from one that replaces it.
    """

    owned: Owned
    pin: tuple[int, ...]


class MappedTree:
    """The map of a pinned tree, by its path.

    Args:
        path: the path of the tree's directory.
        check: what checks that a file is on a bpffs.

    Raises:
        BackendUnavailableError: this process cannot map it; the message says why.
        MemcgError: a subclass: there is no such map.
    """

    transport = "map"

    def __init__(self, path: str, check: _bpffs.OnBpffs) -> None:
        self._path, self._check = path, check
        self._map = os.path.join(path, _layout.MAP)
        self._memory: Optional[TreeMemory] = self._mapped()

    def close(self) -> None:
        """Gives the memory back, as soon as nobody reads from it any more."""
        self._memory = None

    def look(self) -> TreeLook:
        """What the head says now."""
        memory = self._current()
        return TreeLook(memory.pin, memory.head, memory.progress())

    def read(self, known: Optional[NamesKey]) -> TreeWalk:
        """The walk that was published last.

        Args:
            known: the names that the reader has.

        Raises:
            MemcgError: a subclass, also as :func:`check_state` and :func:`until_whole`.
        """
        return until_whole(self._path, lambda: self._walk(known))

    def _walk(self, known: Optional[NamesKey]) -> Optional[TreeWalk]:
        memory = self._current()
        try:
            return _published(memory, self._path, self._map, known)
        except _Unmapped as needed:
            start, end = needed.start, needed.end
        self._extend(memory, start, end)
        return self._walk(known) if self._memory is memory else None

    def _extend(self, memory: TreeMemory, start: int, end: int) -> None:
        """Maps more of the map, if it is still there; else maps the one that is there now."""
        opened = open_map(self._path, self._check)
        try:
            fd = opened.owned.fileno()
            with _mapping(self._map):
                if opened.pin == memory.pin:
                    memory.extend_for(start, end, lambda start, size: map_window(fd, start, size))
                elif self._memory is not None:
                    self._memory = memory_of(fd, opened.pin, self._map)
        finally:
            opened.owned.close()

    def _current(self) -> TreeMemory:
        """The memory of the map that is at the path now."""
        memory = self._memory
        if memory is None:
            raise _diagnosis.closed(self._path)
        try:
            found = os.stat(self._map, follow_symlinks=False)
        except OSError as error:
            raise _diagnosis.read_error(self._map, error) from error
        if _pin_of(found) != memory.pin:
            memory = self._memory = self._mapped()
        return memory

    def _mapped(self) -> TreeMemory:
        opened = open_map(self._path, self._check)
        try:
            with _mapping(self._map):
                return memory_of(opened.owned.fileno(), opened.pin, self._map)
        finally:
            opened.owned.close()


class HandedMap:
    """The map of a pinned tree, by a descriptor that another process has handed over.

    All of it is mapped at once, because the descriptor may be closed then.

    Raises:
        StreamError: the descriptor is not that of a pinned tree's map.
        MemcgError: it cannot be mapped.
    """

    transport = "map"

    def __init__(self, fd: int, path: str) -> None:
        self._path = path
        try:
            memory = memory_of(fd, None, path)
            size = memory.head.geometry.size
            memory.extend(0, size, lambda start, length: map_window(fd, start, length))
        except MemcgError:
            raise
        except (OSError, OverflowError) as error:
            raise _diagnosis.unmappable(path, error) from error
        self._memory: Optional[TreeMemory] = memory

    def close(self) -> None:
        """As :meth:`MappedTree.close`."""
        self._memory = None

    def look(self) -> TreeLook:
        """As :meth:`MappedTree.look`."""
        memory = self._current()
        return TreeLook(None, memory.head, memory.progress())

    def read(self, known: Optional[NamesKey]) -> TreeWalk:
        """As :meth:`MappedTree.read`."""
        return until_whole(self._path, lambda: self._walk(known))

    def _walk(self, known: Optional[NamesKey]) -> Optional[TreeWalk]:
        return _published(self._current(), self._path, self._path, known)

    def _current(self) -> TreeMemory:
        memory = self._memory
        if memory is None:
            raise _diagnosis.closed(self._path)
        return memory


def _published(
    memory: TreeMemory, path: str, name: str, known: Optional[NamesKey]
) -> Optional[TreeWalk]:
    """The walk that was published last; None if it was overwritten meanwhile.

    Args:
        memory: the map.
        path: the path of the tree, for messages.
        name: that of the map.
        known: the names that the reader has.

    Raises:
        _Unmapped: more of the map is needed.
        MemcgError: a subclass.
    """
    progress = memory.progress()
    check_state(path, progress, memory.head)
    try:
        return memory.walk(progress.written, known)
    except StreamError as error:
        raise _diagnosis.bad_stream(name, error) from error


@contextlib.contextmanager
def _mapping(path: str) -> Iterator[None]:
    """Whatever fails while a map is mapped becomes one exception."""
    try:
        yield
    except MemcgError:
        raise
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be mapped", "mmap")
        raise _diagnosis.mapping_refused(path, error) from error


def _pin_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def open_map(path: str, check: _bpffs.OnBpffs) -> OpenedMap:
    """Opens the map in the directory of a pinned tree.

    Raises:
        PinNotFoundError: there is none.
        PinPathError: the directory is not on a bpffs.
        StreamError: it is a symbolic link, or another kind of file.
        BackendUnavailableError: this process cannot open it: it may not call bpf(2), or Python has
            no ctypes; BpfPermissionError if it may not.
        MemcgError: a shortage.
    """
    name = os.path.join(path, _layout.MAP)
    try:
        with _bpffs.opened_directory(path) as at:
            check(at, path)
            found = os.stat(_layout.MAP, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise _diagnosis.not_a_map(name)
            owned = _open_object(f"/proc/self/fd/{at}/{_layout.MAP}", name)
            again = os.stat(_layout.MAP, dir_fd=at, follow_symlinks=False)
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(name, error) from error
    if _pin_of(found) != _pin_of(again):
        raise _diagnosis.being_replaced(path)
    return OpenedMap(owned, _pin_of(found))


def _open_object(path: str, name: str) -> Owned:
    calls = _map_calls()
    if calls is None:
        raise BackendUnavailableError(f"{name} cannot be mapped: this Python has no working ctypes")
    try:
        found: Owned = calls.open_object(path)
        return found
    except FileNotFoundError:
        raise
    except OSError as error:
        raise_if_transient(error, f"{name} cannot be opened", "bpf")
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise BpfPermissionError(
                f"{name} cannot be mapped: this process may not open it through bpf(2) "
                f"({errno_text(error.errno)})",
                errno=error.errno,
                call="bpf",
            ) from error
        raise BackendUnavailableError(
            f"{name} cannot be mapped: bpf(2) cannot open it ({errno_text(error.errno or 0)})",
            errno=error.errno,
            call="bpf",
        ) from error
