# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Change over time: differences against those of the files, and reading at an interval."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import threading
from pathlib import Path

import pytest

from pymemcgbpf import CgroupRemovedError, ClosedError

from .cgroups import (
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    in_child,
    remove,
    right_without_a_flush,
)
from .oracle import by_text
from .surroundings import VERSION
from .ways import Way

PAGES = 16 * 33  # in whole portions: see cgroups.PORTION
SECONDS = 0.005


def faulting(path: Path) -> Worker:
    """A process in a cgroup that faults some pages at each step."""
    return Worker(path, lambda: None, lambda: fault_in(PAGES * mmap.PAGESIZE))


def faults(path: Path) -> int:
    return by_text(path)["pgfault"]


def test_differences_are_those_of_the_files(empty_cgroup: Path, tree_way: Way) -> None:
    enable_memory(empty_cgroup)
    busy, idle = empty_cgroup / "busy", empty_cgroup / "idle"
    busy.mkdir()
    idle.mkdir()
    with faulting(busy) as worker, tree_way.tree(empty_cgroup, ["anon", "pgfault"]) as tree:
        earlier, before = tree.read(), by_text(busy)
        worker.step()
        later, after = tree.read(), by_text(busy)
        changes = later.since(earlier)
        assert changes.seconds == (later.started_ns - earlier.started_ns) / 1e9
        assert changes.new == changes.gone == []
        risen = after["pgfault"] - before["pgfault"]
        assert risen >= PAGES
        assert changes.differences("pgfault") == [risen, risen, 0]
        assert changes.rates("pgfault") == [risen / changes.seconds] * 2 + [0]
        assert dict(changes[1]) == {
            "anon": after["anon"] - before["anon"],
            "pgfault": risen,
        }
        assert changes.to_columns(["pgfault"]) == {
            "path": [str(empty_cgroup), str(busy), str(idle)],
            "id": [path.stat().st_ino for path in (empty_cgroup, busy, idle)],
            "parent_id": [empty_cgroup.parent.stat().st_ino, *[empty_cgroup.stat().st_ino] * 2],
            "level": later.levels.tolist(),
            "pgfault": [risen, risen, 0],
        }


def test_a_cgroup_created_again_at_its_path_is_another(empty_cgroup: Path, tree_way: Way) -> None:
    enable_memory(empty_cgroup)
    path = empty_cgroup / "again"
    path.mkdir()
    with tree_way.tree(empty_cgroup, ["anon", "pgfault"]) as tree:
        with faulting(path) as worker:
            worker.step()
            worker.step()
            earlier = tree.read()
        remove(path)
        path.mkdir()
        with faulting(path) as worker:
            worker.step()
            later = tree.read()
            changes = later.since(earlier)

            def is_fresh() -> bool:
                """While others flush the hierarchy, the kernel puts off our flush."""
                nonlocal later, changes
                later = tree.read()
                changes = later.since(earlier)
                return changes[0]["pgfault"] >= changes[1]["pgfault"] >= PAGES

            assert right_without_a_flush(is_fresh)
            assert [row.id for row in changes.gone] == [earlier[1].id]
            assert [row.id for row in changes.new] == [later[1].id] == [path.stat().st_ino]
            assert earlier[1]["pgfault"] > later[1]["pgfault"] >= PAGES
            assert dict(changes[1]) == {"pgfault": faults(path)}
            assert changes[0]["pgfault"] >= changes[1]["pgfault"]


if VERSION == 2:

    def test_counters_restart_with_the_memory_controller(empty_cgroup: Path, tree_way: Way) -> None:
        enable_memory(empty_cgroup)
        path = empty_cgroup / "again"
        path.mkdir()
        with tree_way.tree(empty_cgroup, ["pgfault"]) as tree, faulting(path) as worker:
            worker.step()
            worker.step()
            earlier = tree.read()
            (empty_cgroup / "cgroup.subtree_control").write_text("-memory")
            without = tree.read()
            assert [row.id for row in without.since(earlier).gone] == [earlier[1].id]
            enable_memory(empty_cgroup)
            worker.step()
            later = tree.read()

            def is_fresh() -> bool:
                # The new counters may have to wait for the kernel's own flush, memory.stat's, too.
                nonlocal later
                later = tree.read()
                return later[1]["pgfault"] == faults(path) >= PAGES

            assert right_without_a_flush(is_fresh)
            changes = later.since(earlier)
            assert changes.new == changes.gone == []
            assert earlier[1]["pgfault"] > later[1]["pgfault"] >= PAGES
            assert changes[1]["pgfault"] == later[1]["pgfault"] == faults(path)
            assert [row.id for row in later.since(without).new] == [later[1].id]


def test_a_tree_is_read_at_an_interval(empty_cgroup: Path, tree_way: Way) -> None:
    with faulting(empty_cgroup) as worker, tree_way.tree(empty_cgroup, ["pgfault"]) as tree:
        before, rates = None, []
        for snapshot in itertools.islice(tree.every(SECONDS), 4):
            if before is not None:
                rates += snapshot.since(before).rates("pgfault")
            before = snapshot
            worker.step()
        assert len(rates) == 3 and all(rate is not None and rate > 0 for rate in rates)
        child = tree.every(SECONDS)
        next(child)

        def read_on() -> None:
            assert len(next(child)) == len(next(child)) == 1

        assert in_child(read_on) == 0
        assert len(next(child)) == 1


def test_one_cgroup_is_read_at_an_interval_until_a_thread_closes_the_reader(
    empty_cgroup: Path, way: Way
) -> None:
    reader = way.stats(empty_cgroup, ["pgfault"])
    found = []
    for values in reader.every(SECONDS):
        found.append(values["pgfault"])
        if len(found) == 3:
            thread = threading.Timer(2 * SECONDS, reader.close)
            thread.start()
    thread.join()
    assert len(found) >= 3
    with pytest.raises(ClosedError):
        reader.every(SECONDS)


def test_trees_are_read_at_an_interval_in_an_event_loop(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    tree = tree_transport_way.tree(empty_cgroup, ["pgfault"])

    counts = [0, 0, 0]

    async def sample(task: int) -> None:
        async for _ in tree.every(SECONDS):
            counts[task] += 1

    async def main() -> None:
        tasks = [asyncio.ensure_future(sample(task)) for task in range(len(counts))]
        while min(counts) < 2:
            await asyncio.sleep(SECONDS)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        tree.close()
        await asyncio.wait_for(asyncio.gather(*tasks[1:]), 60)

    asyncio.run(main())


def test_an_interval_loop_over_a_removed_root_is_an_error(tree_transport_way: Way) -> None:
    with cgroup() as path, tree_transport_way.tree(path, ["pgfault"]) as tree:
        samples = tree.every(SECONDS)
        assert len(next(samples)) == 1
        os.rmdir(path)
        with pytest.raises(CgroupRemovedError):
            next(samples)
