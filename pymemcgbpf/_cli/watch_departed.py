# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints the cgroups that are removed, one line each, as the option --departed of watch does."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from .. import _lookup
from .._options import TEXT
from .._pins import bpffs as _bpffs
from .._samples import Ticks
from ..departed import Departed, DepartedRow
from ..errors import BackendUnavailableError, CgroupRemovedError, MemcgError, is_transient
from . import command, output, readers
from .departed_reader import DEFAULT_ITEMS_READ, departed_reader
from .json_values import nullable
from .sample_lines import csv_line, utc

if TYPE_CHECKING:
    from .._tree_reader import TreeReader

INTERVAL = 0.25
"""The seconds from one read to the next, unless the user wants another interval."""


Wait = Callable[[float], Optional[BaseException]]


def lines(options: argparse.Namespace, wait: Wait) -> Iterator[str]:
    """The lines, as long as cgroups are removed.

    Args:
        options: the parsed arguments of watch.
        wait: waits so many seconds, and returns the exception with which the program shall end, if
            a signal has come.

    Raises:
        WrongUsageError: a PATH is a pin, or the files are to be read.
        MemcgError: removed cgroups cannot be seen here, or the last PATH was removed.
    """
    if options.backend == TEXT:
        raise command.WrongUsageError(
            "--departed cannot be combined with --backend text: files do not tell which cgroups "
            "were removed"
        )
    paths, named = readers.cgroups_and_items(options, readers.topmost_cgroup)
    items = named or DEFAULT_ITEMS_READ
    with contextlib.ExitStack() as stack:
        opened: list[TreeReader] = []
        for path in dict.fromkeys(map(_lookup.absolute, paths)):
            if _bpffs.leads_to_bpffs(path):
                raise command.WrongUsageError(
                    f"--departed cannot be used with a pin, and {path} is on a bpffs"
                )
            opened.append(departed_reader(path, items, options.backend, options.depth))
            stack.callback(opened[-1].close)
        names = tuple(dict.fromkeys(name for reader in opened for name in reader.item_names))
        reads = _reads(opened, options.interval or INTERVAL, wait)
        first = next(reads)  # which fails where removed cgroups cannot be seen
        if not options.json:
            yield csv_line("time", "path", *names)
        rows = itertools.chain(first, itertools.chain.from_iterable(reads))
        for row in itertools.islice(rows, options.count):
            yield _as_json(row) if options.json else _as_csv(row, names)


def _reads(opened: Sequence[TreeReader], seconds: float, wait: Wait) -> Iterator[list[DepartedRow]]:
    """The cgroups that were removed from one read of all readers to the next, in order.

    A reader whose cgroup can no longer be read is left out from then on. What ends the program
    is raised after one more read.

    Raises:
        MemcgError: the last one can no longer be read, or the process is short of something.
    """
    left, ticks = list(opened), Ticks(seconds)
    end: Optional[BaseException] = None
    while end is None:
        end = wait(ticks.delay())
        ticks.take()
        found: list[DepartedRow] = []
        failures: list[MemcgError] = []
        lost = 0
        for reader in tuple(left):
            departed: Optional[Departed] = None
            try:
                departed = _read(reader)
            except MemcgError as error:
                failures.append(error)
                if isinstance(error, CgroupRemovedError):
                    departed = error.departed
                left.remove(reader)
                reader.close()
            if departed is not None:
                found.extend(iter(departed))
                lost += departed.lost
        if found or not failures:
            yield sorted(found, key=lambda row: row.removed_ns)
        if lost:
            cgroups = "1 removed cgroup was" if lost == 1 else f"{lost} removed cgroups were"
            output.warn(
                f"{cgroups} not seen: there was no room for so many between two reads, which a "
                "shorter --interval helps"
            )
        for failure in failures:
            if is_transient(failure) or (not left and failure is failures[-1]):
                raise failure
            output.warn(str(failure))
    raise end


def _read(reader: TreeReader) -> Departed:
    departed = reader.read().departed
    if departed is None:
        raise BackendUnavailableError(
            f"cgroups that are removed below {reader.path} cannot be seen: {reader.fallback_reason}"
        )
    return departed


def _path(row: DepartedRow) -> str:
    """The absolute path; the id, where it is not known."""
    return f"cgroup {row.id}" if row.path is None else _lookup.utf_8(row.path)


def _as_json(row: DepartedRow) -> str:
    return json.dumps(
        {
            "time": utc(row.removed_time),
            "path": _path(row),
            "id": row.id,
            "parent_id": row.parent_id,
            "items": nullable(row),
        }
    )


def _as_csv(row: DepartedRow, names: Sequence[str]) -> str:
    return csv_line(utc(row.removed_time), _path(row), *(row.get(name, "") for name in names))
