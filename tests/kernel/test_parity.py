# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Same numbers as memory.stat, on each backend, and how many were compared."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Union

import pytest

from pymemcgbpf import StatsReader, TreeReader, read_stats
from pymemcgbpf._items import CATALOGUE

from .cgroups import (
    ANON_BYTES,
    FILE_BYTES,
    LAG,
    SHMEM_BYTES,
    Worker,
    busy_cgroup,
    cgroup,
    enable_memory,
    memory_stat,
)
from .oracle import V1_KEYS, by_text
from .surroundings import HIERARCHY, VERSION
from .ways import Way

Busy = tuple[Path, Worker]
NoteCompared = Callable[[Union[StatsReader, TreeReader], int], None]

# Moves by itself: the per-cpu stocks of charges are drained at any time.
_SECONDS_TO_BE_QUIET = 30


def expected_count(path: Path) -> int:
    """How many items must be compared on this kernel."""
    return len(by_text(path)) if VERSION == 2 else len(V1_KEYS) + 1


def test_every_item_is_exact_when_the_cgroup_is_idle(
    busy: Busy, way: Way, note_compared: NoteCompared
) -> None:
    path, _ = busy
    deadline = time.monotonic() + _SECONDS_TO_BE_QUIET
    with way.stats(path) as reader:
        while True:
            before, values, after = by_text(path), reader.read(), by_text(path)
            compared = {name: (values.get(name), before[name]) for name in before}
            wrong = {name: pair for name, pair in compared.items() if pair[0] != pair[1]}
            if before == after and not wrong:
                break
            assert time.monotonic() < deadline, f"differ: {wrong}"
            time.sleep(0.05)
    assert len(compared) == expected_count(path)
    assert len(compared) >= (18 if VERSION == 1 else 35)
    note_compared(reader, len(compared))
    slack = LAG * mmap.PAGESIZE
    assert values["anon"] >= ANON_BYTES - slack
    assert values["file"] >= FILE_BYTES + SHMEM_BYTES - slack
    assert values["shmem"] >= SHMEM_BYTES - slack
    assert values["file_mapped"] >= FILE_BYTES - slack
    assert values["pgfault"] >= 500 - LAG  # fewer than pages: huge ones, and fault-around
    assert values["memory.current"] >= ANON_BYTES + FILE_BYTES
    if "slab" in values:
        assert values["slab"] == values["slab_reclaimable"] + values["slab_unreclaimable"] > 0


@pytest.fixture(scope="module")
def family() -> Iterator[tuple[Path, Path, Path]]:
    """A cgroup and two below it: the first with memory of every kind, the other with nothing."""
    with cgroup() as home:
        enable_memory(home)
        with busy_cgroup(home) as (child, _):
            (home / "empty").mkdir()
            yield home, child, home / "empty"


@pytest.mark.parametrize("order", ["self", "pre", "post", "up", "children"])
def test_every_item_of_every_row_is_exact_when_the_tree_is_idle(
    family: tuple[Path, Path, Path], tree_way: Way, order: str, note_compared: NoteCompared
) -> None:
    home, child, empty = family
    met = {
        "self": [child],
        "pre": [home, child, empty],
        "post": [child, empty, home],
        "up": [child, home],
        "children": [child, empty],
    }[order]
    deadline = time.monotonic() + _SECONDS_TO_BE_QUIET
    with tree_way.tree(child if order in ("self", "up") else home, order=order) as tree:
        while True:
            before = {path: by_text(path) for path in met}
            rows = [row for row in tree.read() if row.path != str(HIERARCHY)]
            after = {path: by_text(path) for path in met}
            assert [row.path for row in rows] == [str(path) for path in met]
            wrong = [
                (path.name, name, row.get(name), value)
                for path, row in zip(met, rows)
                for name, value in before[path].items()
                if row.get(name) != value
            ]
            if before == after and not wrong:
                break
            assert time.monotonic() < deadline, f"differ: {wrong}"
            time.sleep(0.05)
    counts = {len(before[path]) for path in met}
    assert counts == {expected_count(child)}
    note_compared(tree, min(counts))


def test_rising_counters_are_between_two_readings_of_the_file(busy: Busy, way: Way) -> None:
    path, worker = busy
    compared, rose = set(), set()
    with way.stats(path) as reader:
        for _ in range(30):
            before = by_text(path)
            worker.step()
            values = reader.read()
            worker.step()
            after = by_text(path)
            for name, value in values.items():
                if name in before and CATALOGUE[name].kind == "counter":
                    assert before[name] <= value <= after[name], name
                    compared.add(name)
                    if after[name] > before[name]:
                        rose.add(name)
    assert compared == {name for name in by_text(path) if CATALOGUE[name].kind == "counter"}
    assert "pgfault" in rose


def test_without_items_a_reader_has_memory_stat_in_its_order(busy: Busy, way: Way) -> None:
    path, _ = busy
    values = read_with(path, way)
    if VERSION == 2:
        assert list(values) == list(by_text(path))
    else:
        assert set(by_text(path)) <= set(values)


def test_every_key_of_memory_stat_is_an_item(busy: Busy, way: Way) -> None:
    """Of the hierarchy's root as well, whose file has keys of its own on some kernels."""
    for path in (busy[0], HIERARCHY):
        printed = set(memory_stat(path))
        if VERSION == 1:
            printed = {name for name, key in V1_KEYS.items() if key in printed}
        assert len(printed) >= (17 if VERSION == 1 else 35)
        assert printed - set(read_with(path, way)) == set()


def read_with(path: Path, way: Way) -> dict[str, int]:
    with way.stats(path) as reader:
        assert reader.backend == way.backend
        values = reader.read()
        assert reader.item_names == tuple(values)
        return values


def test_asked_for_items_come_in_the_order_asked_for(busy: Busy, way: Way) -> None:
    path, _ = busy
    names = ["pgfault", "memory.current", "anon", "shmem"]
    with way.stats(path, names) as reader:
        assert list(reader.read()) == names


def test_an_item_read_alone_equals_the_item_read_with_all(busy: Busy, bpf_backend_way: Way) -> None:
    path, _ = busy
    quiet = [name for name in by_text(path) if name != "memory.current"]
    with bpf_backend_way.stats(path, flush=False) as everything:
        for name in quiet:
            with bpf_backend_way.stats(path, [name], flush=False) as one:
                for _ in range(20):
                    before, alone, after = everything.read(), one.read(), everything.read()
                    if before == after:
                        break
                low, high = sorted((before[name], after[name]))
                assert list(alone) == [name]
                assert low <= alone[name] <= high


def test_read_stats_gives_what_a_reader_gives(busy: Busy) -> None:
    path, _ = busy
    names = ["anon", "shmem", "file_mapped"]
    with StatsReader(path, names) as reader:
        for _ in range(20):
            before, values, after = reader.read(), read_stats(path, names), reader.read()
            if before == after:
                break
        assert values == before
