# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The package's functions: read_stats(), clear_cache(), list_items(), unknown_keys() and
limit_share()."""

from __future__ import annotations

import contextlib
import errno
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Optional

from . import _fork, _options
from ._bpf import btf as _btf
from ._bpf.plan import guessed
from ._cgroup import diagnosis as _diagnosis
from ._cgroup import directory as _directory
from ._cgroup import mounts as _mounts
from ._cgroup.present_items import PresentItems
from ._items import (
    CATALOGUE,
    CURRENT,
    EFFECTIVE_LIMIT,
    FILES,
    MEMORY_STAT,
    Item,
    item_named,
    requested_names,
    share_of_limit,
    unknown,
)
from ._lookup import Path
from ._options import StatsTransport
from ._sources import choose as _choose
from ._stats_reader import StatsReader
from .errors import BackendUnavailableError, CgroupRemovedError, ClosedError, MemcgError
from .snapshot import Row

# The last readers of read_stats(). Each holds its cgroup's directory open.
_CACHED_READERS = 32
_readers: OrderedDict[object, StatsReader] = OrderedDict()
_readers_lock = _fork.renewed_lock(__name__, "_readers_lock")


def read_stats(
    cgroup_path: Optional[Path] = None,
    items: Optional[Iterable[str]] = None,
    *,
    flush: bool = True,
    transport: StatsTransport = "auto",
) -> dict[str, int]:
    """Reads the current memory statistics of one cgroup::

        >>> read_stats("/sys/fs/cgroup/system.slice", ["anon", "file", "pgfault"])
        {'anon': 17727488, 'file': 708608, 'pgfault': 1613}

    The readers of the last 32 combinations of arguments are kept, so a second call with the same
    arguments costs little more than :meth:`StatsReader.read`. :func:`clear_cache` closes them.

    Args:
        cgroup_path: The directory of the cgroup. None stands for the cgroup that the process is in
            at that moment, as :func:`own_cgroup` finds it. To ask the kernel where that is takes
            longer than the read itself, so in a loop use a :class:`StatsReader`.
        items: The names of items and groups, as in :class:`StatsReader`. None stands for all of
            memory.stat and "memory.current".
        flush: True for values as fresh as those of memory.stat, read at that moment. False for
            values that may be 2 seconds old.
        transport: "run", "stream", or "auto" for the faster of them that works here, as in
            :class:`StatsReader`.

    Returns:
        A dict from the name of each item to its value. The unit is bytes, a count or
        microseconds, as in the item's file. A limit that is not set is :data:`UNLIMITED`.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: The cgroup cannot be read.
        UnknownItemError: There is no item of this name.
        ItemUnavailableError: The item exists, but not here.
        BpfPermissionError: The process has lost the privileges to read on, and text cannot
            replace BPF.
        BackendUnavailableError: The transport that was asked for does not work here.
        TypeError: *items* is not a list of names, *flush* is not a bool, or the path is no path.
        ValueError: *items* is empty, or there is no such transport.
    """
    # A tuple can be a key as it is; other iterables are converted first.
    names = items if items is None or type(items) is tuple else requested_names(items)
    # Without a path, a reader is kept under what the kernel says of this process: so the mounts are
    # searched again only after the process was moved.
    membership = _mounts.own_membership() if cgroup_path is None else None
    place: object = cgroup_path
    if cgroup_path is None:
        place = (membership, _mounts.own_namespace())
    elif type(cgroup_path) is not str:
        place = _options.path("cgroup_path", cgroup_path)
    key = (place, names, _options.switch("flush", flush), transport)
    with _readers_lock:
        reader = _readers.get(key)
        if reader is not None:
            _readers.move_to_end(key)
    if reader is not None:
        if reader._is_at(reader.path):
            try:
                return reader.read()
            except (CgroupRemovedError, ClosedError):
                pass  # ClosedError: another thread has removed it from the cache
            except MemcgError as error:
                if error.errno != errno.EBADF:
                    raise
                _forget_lost()
        _forget(key, reader)
    if cgroup_path is None:
        cgroup_path = _mounts.cgroup_of_membership(membership)
    reader = StatsReader(cgroup_path, names, flush=flush, transport=transport)
    reader._need_not_be_closed()
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
    """Forgets all readers whose files other code has closed, as a program does that becomes a
    daemon: new files would get the same descriptor numbers."""
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
    """Closes the readers that :func:`read_stats` keeps, and unloads unused BPF programs.

    It also clears what was cached about this kernel's counters after a failed search. Readers that
    the caller has created stay open.
    """
    with _readers_lock:
        readers = list(_readers.values())
        _readers.clear()
    for reader in readers:
        reader.close()
    _choose.forget()


def list_items(cgroup_path: Optional[Path] = None) -> tuple[Item, ...]:
    """Lists the items that this kernel offers, file by file, in the order of the group ``"*"``::

        >>> item = list_items()[0]
        >>> item.name, item.unit, item.kind, item.file, item.description
        ('anon', 'bytes', 'gauge', 'memory.stat', 'anonymous memory in use')

    On cgroup v2 these are the lines of the cgroup's files, and in the end what can be derived from
    them, so this needs no BPF. The root of a hierarchy lacks some files; for it, they are the lines
    of a cgroup below it. On cgroup v1 the result depends on the backend that "auto" finds.

    Args:
        cgroup_path: The directory of the cgroup to look at. None stands for the process's own
            cgroup, or the nearest one above it that has a memory.stat.

    Returns:
        A tuple of :class:`Item`.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: The cgroup cannot be read.
    """
    with _directory.opened_or_own(cgroup_path) as cgroup:
        shown = PresentItems(cgroup, walks=True)
        names = _diagnosis.map_os_errors(
            cgroup, lambda: [name for file in FILES for name in shown.names(file)]
        )
    if cgroup.version == 1:
        with StatsReader(cgroup.path, [f"{MEMORY_STAT}.*"]) as reader:
            names = [*reader.item_names, *(name for name in names if name not in reader.item_names)]
    return tuple(map(_item, names))


def unknown_keys(cgroup_path: Optional[Path] = None) -> tuple[str, ...]:
    """Lists the keys of memory.stat that this version of the package does not know::

        >>> unknown_keys()
        ()

    Such keys are items all the same, and readers accept their names. They are read through BPF if
    the kernel has an enumerator of the same name whose values agree with memory.stat, and as text
    otherwise. On cgroup v1 the result is always empty.

    Args:
        cgroup_path: The directory of the cgroup to look at, as in :func:`list_items`.

    Returns:
        A tuple of keys, in the order of memory.stat.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: The cgroup cannot be read.
    """
    with _directory.opened_or_own(cgroup_path) as cgroup:
        if cgroup.version == 1:
            return ()
        shown = PresentItems(cgroup, walks=False)
        printed = _diagnosis.map_os_errors(cgroup, lambda: shown.names(MEMORY_STAT))
    return tuple(name for name in printed if name not in CATALOGUE)


def limit_share(values: Mapping[str, Optional[int]]) -> Optional[float]:
    """The share of its effective limit that a cgroup uses, from 0 to 1::

        >>> limit_share(read_stats(path, ["memory.current", "derived.effective_limit"]))
        0.875

    The effective limit can be that of an ancestor, which other cgroups below it use up, too. So the
    share may be small while the ancestor is at its limit.

    Args:
        values: A dict or a :class:`Row` with "memory.current" and "derived.effective_limit".

    Returns:
        memory.current divided by derived.effective_limit. It can be above 1 for a moment, after a
        limit was lowered. None if no limit is set, if the limit is 0, or if the cgroup does not
        have the two items, as the root of a hierarchy.

    Raises:
        KeyError: One of the items was not read.
    """
    return share_of_limit(_number(values, CURRENT), _number(values, EFFECTIVE_LIMIT))


def _number(values: Mapping[str, Optional[int]], name: str) -> Optional[int]:
    """An item's value; None if the cgroup does not have it."""
    if isinstance(values, Row) and name in values._snapshot.item_names:
        return values.get(name)
    if name not in values:
        raise KeyError(
            f"{name!r} was not read, and the share needs {CURRENT} and {EFFECTIVE_LIMIT}"
        )
    return values[name]


def _item(name: str) -> Item:
    known = item_named(name)
    if known is not None:
        return known
    with contextlib.suppress(BackendUnavailableError):
        guess = guessed(name, _btf.kernel().counters)
        if guess is not None:
            return guess
    return unknown(name)
