# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What this kernel offers: items(), and unknown_keys()."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Optional

from ._bpf import btf as _btf
from ._bpf.plan import guessed
from ._cgroup import directory as _directory
from ._cgroup.present_items import Shown
from ._items import CATALOGUE, FILES, MEMORY_STAT, Item, item_named, unknown
from ._sources import choose as _choose
from .errors import BackendUnavailableError
from .reader import StatsReader


def items(cgroup_path: Optional[_directory.Path] = None) -> tuple[Item, ...]:
    """The items that this kernel offers, file by file, as the group ``"*"`` has them::

        >>> item = items()[0]
        >>> item.name, item.unit, item.kind, item.file, item.description
        ('anon', 'bytes', 'gauge', 'memory.stat', 'anonymous memory in use')

    On cgroup v2 these are the lines of the cgroup's files (for a hierarchy's root, which
    lacks some of them, of a cgroup below it), so nothing is needed that reading them does
    not need. On cgroup v1 they depend on the backend that "auto" finds.

    Args:
        cgroup_path: where to look; None for the process's own cgroup, or the nearest
            above it that has a memory.stat.

    Raises:
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError,
        MemoryControllerError, CgroupRemovedError: of the path.
    """
    with opened(cgroup_path) as cgroup:
        shown = Shown(cgroup, walks=True)
        names = _choose.translated(
            cgroup, lambda: [name for file in FILES for name in shown.names(file)]
        )
    if cgroup.version == 1:
        with StatsReader(cgroup.path, [f"{MEMORY_STAT}.*"]) as reader:
            names = [*reader.items, *(name for name in names if name not in reader.items)]
    return tuple(map(_item, names))


def unknown_keys(cgroup_path: Optional[_directory.Path] = None) -> tuple[str, ...]:
    """The keys of this kernel's memory.stat that this version of the package does not know::

        >>> unknown_keys()
        ()

    They are items nevertheless, under these names: through BPF where the kernel has an
    enumerator of the name and its values are memory.stat's own, else through text. None on
    cgroup v1.

    Args and Raises: as :func:`items`.
    """
    with opened(cgroup_path) as cgroup:
        if cgroup.version == 1:
            return ()
        shown = Shown(cgroup, walks=False)
        printed = _choose.translated(cgroup, lambda: shown.names(MEMORY_STAT))
    return tuple(name for name in printed if name not in CATALOGUE)


@contextlib.contextmanager
def opened(path: Optional[_directory.Path]) -> Iterator[_directory.Cgroup]:
    """A cgroup; without a path the process's own, or the nearest above with a memory.stat."""
    cgroup = _directory.open_cgroup(_nearest(_directory.own_cgroup()) if path is None else path)
    try:
        yield cgroup
    finally:
        cgroup.close()


def _nearest(path: str) -> str:
    """The cgroup, or the nearest above it, that has a memory.stat; itself if there is none."""
    at = _directory.resolved(path)
    while not _directory.exists(os.path.join(at, MEMORY_STAT)):
        above = os.path.dirname(at)
        if not _directory.exists(os.path.join(above, "cgroup.procs")):
            return path
        at = above
    return at


def _item(name: str) -> Item:
    known = item_named(name)
    if known is not None:
        return known
    with contextlib.suppress(BackendUnavailableError):
        guess = guessed(name, _btf.kernel().counters)
        if guess is not None:
            return guess
    return unknown(name)
