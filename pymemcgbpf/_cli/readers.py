# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes the readers that a command's arguments ask for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

from .._cgroup import mounts as _mounts
from .._cgroup import systemd as _systemd
from .._items import CATALOGUE, close_names, is_group, item_named
from .._options import AUTO
from .._pins import bpffs as _bpffs
from ..errors import MemcgError, UnknownItemError, is_transient
from . import command, output

if TYPE_CHECKING:
    from .._stats_reader import StatsReader
    from .._tree_reader import TreeReader
    from .pinned import PinnedRows, PinnedValues

PATH_AND_PID = "PATH and --pid cannot be combined, as each names the cgroup"


def path_and_items(words: Sequence[str]) -> tuple[Optional[str], Optional[list[str]]]:
    """The path and the items among the words; None for what is not there."""
    if not words:
        return None, None
    first = words[0]
    if (item_named(first) or is_group(first)) and not os.path.isdir(first):
        return None, list(words)
    if os.sep not in first and not os.path.lexists(first) and not _systemd.is_unit_name(first):
        from .main import COMMANDS

        like = close_names(first, COMMANDS) or close_names(first, CATALOGUE)
        hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else ""
        message = f"{first!r} is neither a command, a path nor an item{hint or ' (see --help)'}"
        if first in COMMANDS:
            message = f"{first!r} is a command, which must come before all options"
        raise UnknownItemError(message, item=first, suggestions=like)
    return first, list(words[1:]) or None


def cgroup_of(path: Optional[str], pid: Optional[int]) -> Optional[str]:
    """The directory of the cgroup that PATH or --pid names; None if neither is given."""
    if pid is not None:
        if path is not None:
            command.refuse(PATH_AND_PID)
        return _mounts.cgroup_of(pid)
    if path is not None and _systemd.is_unit_name(path) and not os.path.isdir(path):
        return _systemd.unit_cgroup(path)
    return path


def is_pin(path: Optional[str]) -> bool:
    """Whether a path names a pin, because it, or the directory above that can be seen, is on a
    bpffs."""
    if path is None or "\0" in path:
        return False
    at = os.path.abspath(path)
    while True:
        try:
            return _bpffs.is_bpffs(at)
        except MemcgError as error:
            if is_transient(error):
                raise
            return False  # there is no /proc, without which no pin can be read
        except OSError:
            if at == os.path.dirname(at):
                return False
            at = os.path.dirname(at)


def stats_reader(options: argparse.Namespace) -> Union[StatsReader, PinnedValues]:
    """A reader of the cgroup that the arguments name, by default of this process's own; or of a
    pin."""
    path, items = path_and_items(options.words)
    directory = cgroup_of(path, options.pid)
    if directory is not None and is_pin(directory):
        from .pinned import Chosen, PinnedValues

        _check_pin_options(directory, options)
        return PinnedValues(directory, Chosen(items))
    from .._stats_reader import StatsReader

    return StatsReader(
        directory if directory is not None else _mounts.own_cgroup(),
        items,
        flush=not options.no_flush,
        backend=options.backend,
    )


def tree_reader(
    options: argparse.Namespace,
    default: Optional[Sequence[str]] = None,
    also: Optional[str] = None,
    *,
    own: bool = False,
) -> Union[TreeReader, PinnedRows]:
    """A reader of the tree that the arguments name, or of a pin.

    Args:
        options: the command's parsed arguments.
        default: the items, if the arguments name none.
        also: an item that is read as well.
        own: whether the default is the tree below this process's own cgroup, and not the whole
            visible hierarchy.
    """
    path, items = path_and_items(options.words)
    directory = cgroup_of(path, options.pid)
    if directory is not None and is_pin(directory):
        from .pinned import Chosen, PinnedRows

        _check_pin_options(directory, options)
        return PinnedRows(directory, Chosen(items, default, also), options.depth)
    from .._tree_reader import TreeReader

    if directory is None:
        directory = _mounts.own_cgroup()
        if not own:
            directory = _mounts.hierarchy_root(directory)
    chosen = items or default
    if chosen is not None:
        chosen = [*chosen, *([] if also is None else [also])]
    return TreeReader(
        directory,
        chosen,
        flush=not options.no_flush,
        backend=options.backend,
        max_depth=options.depth,
    )


def _check_pin_options(path: str, options: argparse.Namespace) -> None:
    """Refuses what only a cgroup can be read with: whoever makes a pin chooses that."""
    for option, is_given in (
        ("--backend", options.backend != AUTO),
        ("--no-flush", options.no_flush),
    ):
        if is_given:
            command.refuse(f"{option} cannot be used with a pin, and {path} is on a bpffs")


def warn_if_text(backend: str, reason: str) -> None:
    """Prints why a command fell back to text; nothing where text was asked for."""
    if backend == "text" and reason:
        output.warn(f"read as text instead of through BPF: {reason}")
