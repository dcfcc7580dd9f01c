# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers of one cgroup's statistics."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from types import TracebackType
from typing import NoReturn, Optional

from . import _backend, _cgroupfs, _fork
from .errors import CgroupRemovedError, ClosedError
from .items import requested_names

__all__ = ["StatsReader", "clear_cache", "read_stats"]


class StatsReader:
    """Reads one cgroup's memory statistics again and again, cheaply.

    One iterator link is made here, and reused by every :meth:`read`::

        >>> with StatsReader("/sys/fs/cgroup/system.slice", ["anon", "pgfault"]) as reader:
        ...     reader.read()
        {'anon': 17727488, 'pgfault': 1613}

    May be used from several threads, and in a child after fork(). While it is open
    it keeps a removed cgroup's memory from being freed by the kernel: close it.

    Args:
        cgroup_path: the cgroup's directory.
        items: names of items, in the order wanted; None for all that this kernel has,
            in memory.stat's order, "memory.current" last.
        flush: True for values as fresh as those of memory.stat read at that moment;
            False for values up to about 2 s old, without the cost of the flush.
        backend: "kfunc", "rfc", "core", "text", or "auto" for the first of them that
            works here.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError,
        MemoryControllerError, CgroupRemovedError: of the path.
        UnknownItemError, ItemUnavailableError: of the items.
        BackendUnavailableError: the backend asked for cannot serve here (a subclass
            says why: LibbpfNotFoundError, BtfNotFoundError, BpfPermissionError …);
            never with "auto", which falls back to text.
    """

    def __init__(
        self,
        cgroup_path: _cgroupfs.Path,
        items: Optional[Iterable[str]] = None,
        *,
        flush: bool = True,
        backend: str = _backend.AUTO,
    ) -> None:
        names = requested_names(items)
        cgroup = _cgroupfs.open_cgroup(cgroup_path)
        try:
            choice = _backend.choose(cgroup, names, bool(flush), backend)
        finally:
            os.close(cgroup.fd)
        self._path = cgroup.path
        self._cgroup_id, self._identity = cgroup.id, cgroup.identity
        self._names, self._backend, self._why = choice.names, choice.backend, choice.why
        self._source: Optional[_backend.Source] = choice.source
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
        return _cgroupfs.identity(path) == self._identity

    @property
    def items(self) -> tuple[str, ...]:
        """The names that :meth:`read` returns, in its order."""
        return self._names

    @property
    def backend(self) -> str:
        """Where the numbers come from: "kfunc", "rfc", "core" or "text"."""
        return self._backend

    @property
    def why(self) -> str:
        """Why no better backend serves here; "" where none is better or it was chosen."""
        return self._why

    def read(self) -> dict[str, int]:
        """The values now: item's name → value in memory.stat's unit (bytes, or a count).

        Raises:
            CgroupRemovedError: the cgroup was removed since.
            ClosedError: the reader is closed.
        """
        with self._lock:
            source = self._source
            if source is None:
                raise ClosedError(f"this reader of {self._path} is closed")
            try:
                return source.read()
            except OSError as error:
                clear = _backend.read_error(self._path, self._identity, error)
                if clear is error:
                    raise
                raise clear from error

    def close(self) -> None:
        """Lets go of the link and all files. Twice is fine."""
        with self._lock:
            source, self._source = self._source, None
            if source is not None:
                source.close()

    def __enter__(self) -> StatsReader:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a StatsReader cannot be copied or pickled: make another")

    def __repr__(self) -> str:
        state = self._backend if self._source is not None else "closed"
        return f"<StatsReader {self._path!r} {state}, {len(self._names)} items>"


# The last readers of read_stats(). Each holds one link, and with it its cgroup.
_CACHED_READERS = 32
_readers: OrderedDict[object, StatsReader] = OrderedDict()
_readers_lock = _fork.renewed_lock(__name__, "_readers_lock")


def read_stats(
    cgroup_path: _cgroupfs.Path, items: Optional[Iterable[str]] = None, *, flush: bool = True
) -> dict[str, int]:
    """One cgroup's memory statistics, now::

        >>> read_stats("/sys/fs/cgroup/system.slice", ["anon", "file", "pgfault"])
        {'anon': 17727488, 'file': 708608, 'pgfault': 1613}

    The readers of the last 32 cgroups and choices of items are kept, so that a second
    call costs little more than :meth:`StatsReader.read`; :func:`clear_cache` empties them.

    Args:
        cgroup_path: the cgroup's directory.
        items: names of items, in the order wanted; None for all that this kernel has.
        flush: True for values as fresh as those of memory.stat read at that moment.

    Returns:
        Item's name → value in memory.stat's unit (bytes, or a count).

    Raises:
        What :class:`StatsReader` with ``backend="auto"`` raises.
    """
    # As given where it can be a key; other iterables are made tuples first.
    names = items if items is None or type(items) is tuple else requested_names(items)
    path = os.fsdecode(cgroup_path)
    key = (path, names, bool(flush))
    with _readers_lock:
        reader = _readers.get(key)
        if reader is not None:
            _readers.move_to_end(key)
    if reader is not None:
        if reader._is_at(path):
            try:
                return reader.read()
            except (CgroupRemovedError, ClosedError):
                pass  # ClosedError: put out of the cache by another thread
        _forget(key, reader)
    reader = StatsReader(path, names, flush=flush)
    try:
        values = reader.read()
    except BaseException:
        reader.close()
        raise
    _keep(key, reader)
    return values


def _forget(key: object, reader: StatsReader) -> None:
    with _readers_lock:
        if _readers.get(key) is reader:
            del _readers[key]
    reader.close()


def _keep(key: object, reader: StatsReader) -> None:
    with _readers_lock:
        put_out = [_readers.pop(key)] if key in _readers else []
        _readers[key] = reader
        while len(_readers) > _CACHED_READERS:
            put_out.append(_readers.popitem(last=False)[1])
    for old in put_out:
        old.close()


def clear_cache() -> None:
    """Closes what :func:`read_stats` keeps, and unloads the BPF programs nobody uses."""
    with _readers_lock:
        readers = list(_readers.values())
        _readers.clear()
    for reader in readers:
        reader.close()
    _backend.forget()
