# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The ways to read that are compared: memory.stat as text, and this package's own ways.

Each function takes a stack, which closes whatever the contestants hold open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Optional, Union

from .. import _functions, _options
from .._cgroup import files as _files
from .._cgroup.directory import Cgroup
from .._cgroup.present_items import PresentItems
from .._items import MEMORY_STAT
from .._records import Record
from .._sources.one_bpf import StatSourceFactory
from .._sources.tree_bpf import TreeSourceFactory
from ..errors import MemcgError, StreamError
from ..reader import StatsReader, TreeReader
from . import control
from .rounds import Contestant

SIX = ("anon", "file", "shmem", "file_mapped", "pgfault", "pgmajfault")
"""Items that every memory.stat has, also on cgroup v1."""

RAW = "control: kept open, not decoded"
DECODED = "control: kept open, decoded"
OPENED = "control: opened, decoded, closed"
WALKED = "control: os.walk, opened, decoded"

Values = dict[str, int]
Items = Optional[tuple[str, ...]]


class Absent(Record):
    """A way to read that does not work here, and why."""

    way: str
    why: str


def six_of(cgroup: Cgroup) -> tuple[str, ...]:
    """The six items, or those of them that this memory.stat has; a real kernel has all."""
    shown = PresentItems(cgroup, False).names(MEMORY_STAT)
    return tuple(name for name in SIX if name in shown)


def controls(cgroup: Cgroup, items: Items, stack: ExitStack) -> Iterator[Contestant]:
    """memory.stat as text: as the patch's two forms and most programs read it."""
    file = os.path.join(cgroup.path, MEMORY_STAT)
    names = _by_key(cgroup, items or ())
    shown = names or _by_key(cgroup, PresentItems(cgroup, False).names(MEMORY_STAT))
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)

    raw, decoded = control.not_decoded(fd), control.kept_open(fd, names)
    opened = control.opened_each_time(file, names)

    def named(values: Values) -> Values:
        return {name: values[key] for key, name in shown.items()}

    yield Contestant(RAW, raw)
    yield Contestant(DECODED, decoded, lambda: named(decoded()))
    yield Contestant(OPENED, opened, lambda: named(opened()))


def _by_key(cgroup: Cgroup, items: Iterable[str]) -> dict[str, str]:
    """memory.stat's key → the item."""
    return {_files.stat_key(name, cgroup.version): name for name in items}


def readers(
    cgroup: Cgroup, items: Items, absent: list[Absent], stack: ExitStack
) -> Iterator[Contestant]:
    """StatsReader with each backend and transport, with and without the flush; read_stats()."""
    path = cgroup.path
    for backend, transport in ways(StatSourceFactory()):
        way = f"{backend}/{transport}"
        for flush in (True, False):
            try:
                reader = StatsReader(path, items, flush=flush, backend=backend, transport=transport)
            except MemcgError as error:
                absent.append(Absent(way, str(error)))
                break
            stack.enter_context(reader)
            name = f"StatsReader, {way}{'' if flush else ', flush=False'}"
            yield Contestant(name, reader.read, reader.read)
    text = stack.enter_context(StatsReader(path, items, backend="text"))
    yield Contestant("StatsReader, text", text.read, text.read)
    stack.callback(_functions.clear_cache)

    def function() -> Values:
        return _functions.read_stats(path, items)

    yield Contestant(f"read_stats(), {_used(path, items)}", function, function)


def _used(path: str, items: Items) -> str:
    with StatsReader(path, items) as reader:
        return (
            reader.backend if reader.backend == "text" else f"{reader.backend}/{reader.transport}"
        )


def trees(
    cgroup: Cgroup, items: tuple[str, ...], absent: list[Absent], stack: ExitStack
) -> Iterator[Contestant]:
    """All cgroups of the tree at once; times are divided by their number."""
    text = stack.enter_context(TreeReader(cgroup.path, items, backend="text"))
    count = len(text.read())

    names = _by_key(cgroup, items)
    walked = control.walked(cgroup.path, names)
    yield Contestant(WALKED, walked, lambda: _sums(walked().values(), names), count)
    for backend, transport in ways(TreeSourceFactory("pre", None)):
        way = f"{backend}/{transport}"
        try:
            tree = TreeReader(cgroup.path, items, backend=backend, transport=transport)
        except MemcgError as error:
            absent.append(Absent(way, str(error)))
            continue
        stack.enter_context(tree)
        yield from _one_tree(way, tree, count)
    yield from _one_tree("text", text, count)


def _one_tree(way: str, tree: TreeReader, count: int) -> Iterator[Contestant]:
    def view() -> object:
        return tree.read(copy=False)

    def dicts() -> object:
        return tree.read(copy=False).dicts()

    def by_path() -> object:
        snapshot = tree.read(copy=False)
        return dict(zip(snapshot.paths, snapshot.dicts()))

    def sums() -> Values:
        return _sums(tree.read().dicts(absent=0), names)

    names = {name: name for name in tree.item_names}
    yield Contestant(f"TreeReader, {way}, copy=False", view, sums, count)
    yield Contestant(f"TreeReader, {way}", tree.read, per=count)
    yield Contestant(f"TreeReader, {way}, dicts", dicts, per=count)
    yield Contestant(f"TreeReader, {way}, {{path: dict}}", by_path, per=count)


def _sums(rows: Collection[Values], names: dict[str, str]) -> Values:
    """The number of cgroups, and each item's sum; *names* maps the keys of rows to items."""
    sums = {name: sum(row.get(key, 0) for row in rows) for key, name in names.items()}
    return {"cgroups": len(rows), **sums}


def ways(
    maker: Union[StatSourceFactory, TreeSourceFactory],
) -> Iterator[tuple[_options.Backend, Any]]:
    """Each backend with each transport, the fastest first."""
    for backend in _options.BACKENDS[:-1]:
        for transport in maker.transports:
            yield backend, transport


_ATTEMPTS = 40
_PAUSE = 0.1  # seconds


def compare(contestants: Sequence[Contestant]) -> int:
    """Compares all contestants' values before anything is timed; returns how many were compared.

    The numbers change meanwhile, so each value must at least once lie between the values that
    the first contestant reads before and after it.

    Raises:
        StreamError: a value never did.
    """
    comparing = [one for one in contestants if one.values is not None]
    open_: dict[tuple[str, str], str] = {}
    compared: set[tuple[str, str]] = set()
    for attempt in range(_ATTEMPTS):
        for one in comparing[1:]:
            before, values, after = (_values(each) for each in (comparing[0], one, comparing[0]))
            for name in values.keys() & before.keys() & after.keys():
                low, high = sorted((before[name], after[name]))
                if low <= values[name] <= high:
                    compared.add((one.name, name))
                elif (one.name, name) not in compared:
                    open_[one.name, name] = f"{values[name]}, not {low} to {high}"
        if not open_.keys() - compared:
            return len(compared)
        if attempt < _ATTEMPTS - 1:
            time.sleep(_PAUSE)
    (way, name) = min(open_.keys() - compared)
    raise StreamError(f"{way}: {name} is {open_[way, name]}: nothing was timed")


def _values(contestant: Contestant) -> Values:
    assert contestant.values is not None
    return contestant.values()
