# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes the readers that a command's arguments ask for."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from .. import _item_hints
from .._cgroup import mounts as _mounts
from .._cgroup import systemd as _systemd
from .._items import CATALOGUE, is_group, item_named
from .._options import AUTO
from .._pins import bpffs as _bpffs
from ..errors import UnknownItemError
from . import command, output

if TYPE_CHECKING:
    from .._stats_reader import StatsReader
    from .._tree_reader import TreeReader
    from .pinned import PinnedRows, PinnedValues

PATH_AND_PID = "PATH and --pid cannot be combined, as each names the cgroup"


def paths_and_items(words: Sequence[str]) -> tuple[list[str], Optional[list[str]]]:
    """The paths, which come first, and the items among the words; None for no items."""
    if not words:
        return [], None
    first = words[0]
    if _is_item(first) and not os.path.isdir(first):
        _check_items(words)
        return [], list(words)
    # In a directory that this user may not enter, even "." does not seem to exist.
    is_path = os.sep in first or first.startswith(".") or os.path.lexists(first)
    if not is_path and not _systemd.is_unit_name(first):
        raise _unknown(first)
    paths = [first, *itertools.takewhile(_is_path, words[1:])]
    items = list(words[len(paths) :])
    _check_items(items)
    return paths, items or None


def _is_item(word: str) -> bool:
    return item_named(word) is not None or is_group(word)


def _is_path(word: str) -> bool:
    """Whether a word after the first one is a path and not an item. Items may be unknown ones."""
    is_one = (
        os.sep in word or word.startswith(".") or os.path.isdir(word) or _systemd.is_unit_name(word)
    )
    return is_one and not _is_item(word)


def _check_items(words: Sequence[str]) -> None:
    late = next(filter(_is_path, words), None)
    if late is not None:
        command.refuse(f"{late} is a path, which must come before all items")


def cgroup_and_items(
    options: argparse.Namespace,
) -> tuple[Optional[str], Optional[list[str]]]:
    """The directory of the one cgroup, and the items, that the arguments name; None for neither."""
    paths, items = paths_and_items(options.words)
    if len(paths) > 1:
        command.refuse(
            f"this command takes one PATH, and there are {len(paths)}: {', '.join(paths)}; use "
            "watch for several cgroups, or tree for all below one"
        )
    return cgroup_of(paths[0] if paths else None, options.pid), items


def cgroups_and_items(
    options: argparse.Namespace, default: Optional[Callable[[], str]] = None
) -> tuple[list[str], Optional[list[str]]]:
    """The directories of the cgroups, and the items, that the arguments name; None for no items.

    Here the option --pid has a list of processes. Without PATH and --pid, the cgroup is what
    *default* returns: by default this process's own.
    """
    paths, items = paths_and_items(options.words)
    if paths and options.pid:
        command.refuse(PATH_AND_PID)
    named = [cgroup_of(path, None) for path in paths] + [
        cgroup_of(None, pid) for pid in options.pid
    ]
    return [path for path in named if path is not None] or [
        (default or _mounts.own_cgroup)()
    ], items


def topmost_cgroup() -> str:
    """The directory of the topmost cgroup that is visible."""
    return _mounts.hierarchy_root(_mounts.own_cgroup())


def _unknown(word: str) -> UnknownItemError:
    from .main import COMMANDS

    hint = (
        _item_hints.by_meaning(word)
        or _item_hints.by_spelling(word, COMMANDS)
        or _item_hints.by_spelling(word, CATALOGUE)
        or _item_hints.Hint(" (see --help)", ())
    )
    message = f"{word!r} is neither a command, a path nor an item{hint.remark}"
    if word in COMMANDS:
        message = f"{word!r} is a command, which must come before all options"
    return UnknownItemError(message, item=word, suggestions=hint.suggestions)


def cgroup_of(path: Optional[str], pid: Optional[int]) -> Optional[str]:
    """The directory of the cgroup that PATH or --pid names; None if neither is given."""
    if pid is not None:
        if path is not None:
            command.refuse(PATH_AND_PID)
        return _mounts.cgroup_of(pid)
    if path is not None and _systemd.is_unit_name(path) and not os.path.isdir(path):
        return _systemd.unit_cgroup(path)
    return path


def stats_reader(options: argparse.Namespace) -> Union[StatsReader, PinnedValues]:
    """A reader of the cgroup that the arguments name, by default of this process's own; or of a
    pin."""
    directory, items = cgroup_and_items(options)
    return stats_reader_of(directory or _mounts.own_cgroup(), items, options)


def stats_reader_of(
    directory: str, items: Optional[Sequence[str]], options: argparse.Namespace
) -> Union[StatsReader, PinnedValues]:
    """A reader of one cgroup, or of a pin.

    Args:
        directory: the path of either.
        items: None for all.
        options: the command's parsed arguments, with the options of a reader.
    """
    if _bpffs.leads_to_bpffs(directory):
        from .pinned import Chosen, PinnedValues

        _check_pin_options(directory, options)
        return PinnedValues(directory, Chosen(items))
    from .._stats_reader import StatsReader

    flush = not options.no_flush
    return StatsReader(directory, items, flush=flush, backend=options.backend)


def tree_reader(
    options: argparse.Namespace,
    default: Optional[Sequence[str]] = None,
    also: Optional[str] = None,
) -> Union[TreeReader, PinnedRows]:
    """A reader of the tree that the arguments name, by default of the whole visible hierarchy; or
    of a pin.

    Args:
        options: the command's parsed arguments.
        default: the items, if the arguments name none.
        also: an item that is read as well.
    """
    directory, items = tree_and_items(options)
    return tree_reader_of(directory, items, options, default, also)


def tree_and_items(options: argparse.Namespace) -> tuple[str, Optional[list[str]]]:
    """The root of the tree, and the items, that the arguments name; None for no items."""
    directory, items = cgroup_and_items(options)
    if directory is None:
        directory = topmost_cgroup()
    return directory, items


def tree_reader_of(
    directory: str,
    items: Optional[Sequence[str]],
    options: argparse.Namespace,
    default: Optional[Sequence[str]] = None,
    also: Optional[str] = None,
) -> Union[TreeReader, PinnedRows]:
    """A reader of one tree, or of a pin.

    Args:
        directory: the path of either.
        items: those that are named; None if none are.
        options: the command's parsed arguments, with the options of a reader, and the depth.
        default: as for tree_reader().
        also: as for tree_reader().
    """
    if _bpffs.leads_to_bpffs(directory):
        from .pinned import Chosen, PinnedRows

        _check_pin_options(directory, options)
        return PinnedRows(directory, Chosen(items, default, also), options.depth)
    from .._tree_reader import TreeReader

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
            raise command.WrongUsageError(
                f"{option} cannot be used with a pin, and {path} is on a bpffs"
            )


def warn_if_text(
    reader: Union[StatsReader, TreeReader, PinnedValues, PinnedRows], *, is_brief: bool = False
) -> None:
    """Prints why a command fell back to text; nothing where text was asked for.

    Which items are missing for that reason is printed even if *is_brief*, which leaves out the
    reason itself.
    """
    if reader.backend == "text" and reader.fallback_reason and not is_brief:
        output.warn(f"read as text instead of through BPF: {reader.fallback_reason}")
    elif reader._missing:
        output.warn(reader._missing)
