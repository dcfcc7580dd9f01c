# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the cgroup of a systemd unit by the unit's name, without asking systemd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from .._lookup import exists
from ..errors import CgroupNotFoundError, MemcgError
from . import mounts as _mounts

_SLICE = ".slice"
_SUFFIXES = (_SLICE, ".service", ".scope", ".mount", ".socket", ".swap")  # what can have processes
_MOST_CGROUPS = 100_000  # that are searched
_MOST_NAMED = 10  # paths in an error message


def is_unit_name(word: str) -> bool:
    """Whether a word is the name of a unit that can have a cgroup, and not meant as an item."""
    is_item = word.startswith(("memory.", "."))
    return word.endswith(_SUFFIXES) and os.sep not in word and not is_item


def unit_cgroup(unit: str) -> str:
    """The directory of the cgroup of a unit in the memory controller's hierarchy.

    A unit where the system's manager has it comes before all others: a slice where its name says,
    another unit in the root slice or in system.slice. Otherwise the whole hierarchy is searched.

    Args:
        unit: the unit's name. It may also be written without systemd's escapes, such as "-" for
            "\\\\x2d".

    Raises:
        CgroupNotFoundError: no cgroup has this name.
        MemcgError: several cgroups have this name, or the hierarchy is too large to be searched.
    """
    tops = [mount_point for _, mount_point in _mounts.memory_mounts()]
    for top in tops:
        for place in _usual_places(unit):
            path = os.path.normpath(os.path.join(top, *place))
            if exists(os.path.join(path, "cgroup.procs")):
                return path
    found = list(_cgroups_named(unit, tops))
    exact = [path for path in found if unit in _names(path)]
    paths = exact or found
    if not paths:
        raise _not_found(unit, tops)
    if len(paths) > 1:
        more = len(paths) - _MOST_NAMED
        raise MemcgError(
            f"{unit!r} is the name of {len(paths)} cgroups",
            remedy=f"give the path of one, such as {', '.join(paths[:_MOST_NAMED])}"
            + (f" and {more} more" if more > 0 else ""),
        )
    return paths[0]


def _usual_places(unit: str) -> Iterator[Sequence[str]]:
    """The paths, from the hierarchy's root, where the system's manager has a unit."""
    if unit == f"-{_SLICE}":
        yield ()
    elif unit.endswith(_SLICE):  # a-b.slice is in a.slice
        words = unit[: -len(_SLICE)].split("-")
        yield ["-".join(words[: n + 1]) + _SLICE for n in range(len(words))]
    else:
        yield (unit,)
        yield "system.slice", unit


def _cgroups_named(unit: str, tops: Sequence[str]) -> Iterator[str]:
    """The directories of all cgroups that a unit of this name can have, the highest ones first."""
    seen = set()
    waiting = list(tops)
    for directory in waiting:  # the loop itself appends to the list
        for inode, path in _mounts.subdirectories(directory).items():
            if inode in seen:  # by another mount
                continue
            seen.add(inode)
            names = _names(path)
            if unit in names or unit in map(_unescaped, names):
                yield path
            else:
                waiting.append(path)
        if len(seen) > _MOST_CGROUPS:
            raise MemcgError(
                f"there are more than {_MOST_CGROUPS} cgroups, too many to search for {unit!r}",
                remedy="give the path of the cgroup",
            )


def _names(path: str) -> Sequence[str]:
    """The names of the unit that a directory can belong to.

    systemd begins the directory's name with "_" if the unit's own could be that of a file of the
    kernel, such as "memory.service" (cg_escape()).
    """
    name = os.path.basename(path)
    return (name, name[1:]) if name.startswith("_") else (name,)


def _unescaped(name: str) -> str:
    """A unit's name without systemd's escapes."""
    plain = re.sub(
        rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), os.fsencode(name)
    )
    return os.fsdecode(plain)


def _not_found(unit: str, tops: Sequence[str]) -> CgroupNotFoundError:
    message = f"{unit!r} is neither a directory nor a unit with a cgroup in {' or '.join(tops)}"
    if not tops:
        message = (
            f"{unit!r} is not a directory, and no cgroup file system with the memory controller is "
            "mounted in which its unit could have a cgroup"
        )
    elif not any(exists(os.path.join(top, "cgroup.controllers")) for top in tops):
        message += "; on cgroup v1 only a unit with MemoryAccounting=yes has one"
    return CgroupNotFoundError(message)
