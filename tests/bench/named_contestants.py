# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The contestants that do what users do with a walk: name the cgroups, and write metrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from pymemcgbpf import Snapshot, TreeReader, openmetrics
from pymemcgbpf._sources import tree_bpf as _tree_bpf
from tests.kernel.forest import Forest

from .errors import BenchError
from .names import BY_PATH, BY_PATH_CHANGED, BY_PATH_FIRST, COLUMNS, METRICS, NEW_READER, RATES
from .runner import timed, timed_after

_COUNTERS = ("pgfault", "pgmajfault", "pgscan")
_WALKS = 3  # before a read that is timed alone

Values = dict[str, int]
CGROUPS = "cgroups"


class Sample(NamedTuple):
    """A contestant without what all contestants of a section have in common.

    Attributes:
        name: the beginning of its row's name.
        batch: reads this many times; returns the nanoseconds that the reads took.
        values: reads once and returns the sums; None if nothing is compared.
        changes: whether it removes and makes cgroups.
    """

    name: str
    batch: Callable[[int], float]
    values: Optional[Callable[[], Values]]
    changes: bool = False


def by_path(snapshot: Snapshot) -> dict[Optional[str], Values]:
    """The path of each cgroup → its values."""
    return dict(zip(snapshot.paths, snapshot.dicts()))


def sums(rows: Iterable[Mapping[str, int]], names: Iterable[str]) -> Values:
    """The number of rows, and the sum of each item."""
    rows = list(rows)
    return {CGROUPS: len(rows), **{name: sum(row[name] for row in rows) for name in names}}


def samples(tree: TreeReader) -> Iterator[Sample]:
    """Every cgroup with its path, all names known."""
    names = tree.item_names

    def of_paths() -> dict[Optional[str], Values]:
        return by_path(tree.read(copy=False))

    def columns() -> dict[str, list[int]]:
        return tree.read(copy=False).to_columns(absent=0)

    def column_sums() -> Values:
        found = columns()
        return {CGROUPS: len(found["path"]), **{name: sum(found[name]) for name in names}}

    yield Sample(BY_PATH, timed(of_paths), lambda: sums(of_paths().values(), names))
    yield Sample(COLUMNS, timed(columns), column_sums)


def further_samples(
    tree: TreeReader, forest: Forest, make_reader: Callable[[Sequence[str]], TreeReader]
) -> Iterator[Sample]:
    """What has a goal of its own: metrics, rates, names that are not yet known, a changing tree.

    *make_reader* makes a reader of some items of the same tree.
    """
    source, names = tree._source, tree.item_names
    assert isinstance(source, _tree_bpf.MapSource)
    walker, paths = source._walker, source._paths
    assert walker is not None

    def of_paths() -> dict[Optional[str], Values]:
        return by_path(tree.read(copy=False))

    def path_sums() -> Values:
        return sums(of_paths().values(), names)

    def metrics() -> str:
        return openmetrics(tree.read(copy=False), format="prometheus")

    def of_new_reader() -> dict[Optional[str], Values]:
        with make_reader(names) as reader:
            return by_path(reader.read(copy=False))

    with make_reader(_COUNTERS) as reader:
        earlier, later = reader.read(), reader.read()

    def rates() -> list[list[Optional[float]]]:
        changes = later.since(earlier)
        return [changes.rates(item) for item in _COUNTERS]

    change, before = _changer(forest), tree.read()

    def warm_up() -> None:
        """Does what a read does, but with old names: so caches are as warm as for the others."""
        for _ in range(_WALKS):
            walker.walk()
        by_path(before)

    def forget() -> None:
        paths._forget()
        warm_up()

    def change_tree() -> None:
        change()
        warm_up()

    yield Sample(METRICS, timed(metrics), lambda: _metric_sums(metrics(), names))
    yield Sample(RATES, timed(rates), None)
    yield Sample(BY_PATH_FIRST, timed_after(forget, of_paths), path_sums)
    yield Sample(NEW_READER, timed(of_new_reader), lambda: sums(of_new_reader().values(), names))
    yield Sample(BY_PATH_CHANGED, timed_after(change_tree, of_paths), path_sums, changes=True)


def _metric_sums(text: str, names: Iterable[str]) -> Values:
    """The sum of each item's samples. Each item is a metric, and they are in the same order."""
    found: dict[str, list[int]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            found.setdefault(line.partition("{")[0], []).append(int(line.rpartition(" ")[2]))
    (count,) = {len(values) for values in found.values()}
    return {CGROUPS: count, **dict(zip(names, map(sum, found.values())))}


def _changer(forest: Forest) -> Callable[[], None]:
    """A function that replaces 1 % of the cgroups by new ones of the same names."""
    idle = [
        path
        for cgroup_id, path in forest.paths.items()
        if path.name.startswith("leaf-") and cgroup_id not in forest.shmem
    ]
    at_once = len(forest.paths) // 100
    if not 0 < at_once <= len(idle):
        raise BenchError(f"1 % of {len(forest.paths)} cgroups cannot be replaced")
    turn = itertools.cycle(idle)

    def change() -> None:
        for path in itertools.islice(turn, at_once):
            path.rmdir()
            path.mkdir()

    return change
