# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One call, one cgroup: read_stats(), and the readers that it keeps."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Optional

from . import _fork
from ._cgroup import directory as _directory
from ._items import requested_names
from ._sources import choose as _choose
from .errors import CgroupRemovedError, ClosedError, MemcgError
from .reader import StatsReader

# The last readers of read_stats(). Each holds one link, and with it its cgroup.
_CACHED_READERS = 32
_readers: OrderedDict[object, StatsReader] = OrderedDict()
_readers_lock = _fork.renewed_lock(__name__, "_readers_lock")


def read_stats(
    cgroup_path: _directory.Path, items: Optional[Iterable[str]] = None, *, flush: bool = True
) -> dict[str, int]:
    """One cgroup's memory statistics, now::

        >>> read_stats("/sys/fs/cgroup/system.slice", ["anon", "file", "pgfault"])
        {'anon': 17727488, 'file': 708608, 'pgfault': 1613}

    The readers of the last 32 cgroups and choices of items are kept, so that a second
    call costs little more than :meth:`StatsReader.read`; :func:`clear_cache` empties them.

    Args:
        cgroup_path: the cgroup's directory.
        items: names of items and groups, as :class:`StatsReader` takes them.
        flush: True for values as fresh as those of memory.stat read at that moment.

    Returns:
        Item's name → value in its file's unit (bytes, a count, or µs).

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
            except MemcgError as error:
                if error.errno != errno.EBADF:
                    raise
                _forget_lost()
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


def _forget_lost() -> None:
    """Forgets all readers whose files somebody else has closed, as a daemon does: the next ones'
    files will have their numbers."""
    with _readers_lock:
        lost = [(key, reader) for key, reader in _readers.items() if reader._is_lost()]
    for key, reader in lost:
        _forget(key, reader)


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
    _choose.forget()
