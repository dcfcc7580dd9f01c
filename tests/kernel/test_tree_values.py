# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the rows say: every item of a busy cgroup, how fresh, and nothing of what is gone."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from .cgroups import (
    ANON_BYTES,
    EXACT_MIB,
    FILE_BYTES,
    LAG,
    MIB,
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    is_dying,
    is_fresh_at_once,
    memory_stat,
    right_without_a_flush,
)
from .oracle import V1_KEYS, by_text
from .surroundings import HIERARCHY, VERSION, symbols
from .ways import Way

Busy = tuple[Path, Worker]

ORDERS = ("self", "pre", "post", "up", "children")
ANON = "anon" if VERSION == 2 else "total_rss"
CHARGE = 8 * MIB  # far above the threshold under which the kernel puts a flush off
# What the kernel may put off flushing: 64 pages for each CPU. And the workers' own stacks.
SLACK = (64 * (os.cpu_count() or 1) + 64) * mmap.PAGESIZE


@pytest.mark.parametrize("order", ["self", "pre"])
def test_every_item_of_a_busy_cgroup_is_exact(busy: Busy, tree_way: Way, order: str) -> None:
    path, _ = busy
    deadline = time.monotonic() + 30
    with tree_way.tree(path, order=order) as tree:
        while True:
            before, snapshot, after = by_text(path), tree.read(), by_text(path)
            (row,) = snapshot
            compared = {name: (row.get(name), before[name]) for name in before}
            wrong = {name: pair for name, pair in compared.items() if pair[0] != pair[1]}
            if before == after and not wrong:
                break
            assert time.monotonic() < deadline, f"differ: {wrong}"
            time.sleep(0.05)
    assert len(compared) == (len(by_text(path)) if VERSION == 2 else len(V1_KEYS) + 1)
    assert len(compared) >= (18 if VERSION == 1 else 35)
    assert row["anon"] >= ANON_BYTES - LAG * mmap.PAGESIZE
    assert row["file_mapped"] >= FILE_BYTES - LAG * mmap.PAGESIZE
    for name in snapshot.item_names:
        assert list(snapshot.column(name)) == [row[name]]


def test_a_column_says_where_an_item_is_absent(empty_cgroup: Path, tree_way: Way) -> None:
    with tree_way.tree(empty_cgroup, ["memory.current", "anon"], order="up") as tree:
        snapshot = tree.read()
    *below, root = snapshot.to_columns()["memory.current"]
    assert root is None and None not in below and len(below) >= 1
    with pytest.raises(KeyError, match=f"the cgroup {HIERARCHY} has no memory.current"):
        snapshot.column("memory.current")
    assert snapshot.column("memory.current", absent=7).tolist() == [*below, 7]
    assert list(snapshot.ids) == [empty_cgroup.stat().st_ino, HIERARCHY.stat().st_ino]
    assert list(snapshot.parent_ids) == [HIERARCHY.stat().st_ino, 0]
    assert len(snapshot.column("anon")) == 2


@pytest.mark.parametrize("order", ORDERS)
def test_each_row_is_as_fresh_as_a_later_memory_stat(tree_transport_way: Way, order: str) -> None:
    """This holds in every order and for every kind of flush, as nothing else reads before."""
    with cgroup() as root:
        enable_memory(root)
        leaves = [root / name for name in ("a", "b")]
        for leaf in leaves:
            leaf.mkdir()
        start = leaves[0] if order in ("self", "up") else root
        paths = {
            "self": {"."},
            "pre": {".", "a", "b"},
            "post": {".", "a", "b"},
            "up": {".", "..", "../.."},
            "children": {"a", "b"},
        }
        with (
            tree_transport_way.tree(start, ["anon", "pgfault"], order=order) as tree,
            Worker(leaves[0], lambda: None, lambda: fault_in(CHARGE)) as first,
            Worker(leaves[1], lambda: None, lambda: fault_in(CHARGE)) as second,
        ):

            def charge(step: int) -> bool:
                first.step()
                second.step()
                rows = {row.relative_path: dict(row) for row in tree.read()}
                assert rows.keys() == paths[order]
                if order == "up":
                    del rows["../.."]  # the hierarchy's: others are at work there
                fresh = True
                for relative, values in rows.items():
                    text = memory_stat(start / str(relative))
                    held = 2 if (start / str(relative)).resolve() == root else 1
                    fresh &= values["anon"] >= 0.9 * held * step * CHARGE
                    fresh &= abs(values["anon"] - text[ANON]) <= SLACK
                    assert values["pgfault"] <= text["pgfault" if VERSION == 2 else "total_pgfault"]
                return fresh

            assert is_fresh_at_once(charge)


def test_without_flush_a_tree_is_right_within_seconds(
    empty_cgroup: Path, tree_bpf_transport_way: Way
) -> None:
    with (
        tree_bpf_transport_way.tree(empty_cgroup, ["anon"], flush=False) as tree,
        Worker(empty_cgroup, lambda: None, lambda: fault_in(CHARGE)) as worker,
    ):
        worker.step()
        assert right_without_a_flush(lambda: tree.read()[0]["anon"] >= CHARGE * 0.9)


def test_a_removed_cgroup_whose_memory_is_still_charged_has_no_row(tree_way: Way) -> None:
    """The kernel keeps such a cgroup; its parent counts the memory on."""
    with cgroup() as root:
        enable_memory(root)
        removed, kept = root / "removed", root / "kept"
        removed.mkdir()
        kept.mkdir()

        def charge_and_leave() -> object:
            memory = fault_in(EXACT_MIB, shared=True)
            (kept / "cgroup.procs").write_text("0")
            return memory

        with Worker(removed, charge_and_leave):
            removed.rmdir()
            with tree_way.tree(root, ["shmem"]) as tree:
                snapshot = tree.read()
                assert [row.relative_path for row in snapshot] == [".", "kept"]
                assert list(snapshot.column("shmem")) == [EXACT_MIB, 0]
            with tree_way.tree(root, ["shmem"], order="children") as tree:
                assert [row.relative_path for row in tree.read()] == ["kept"]
            if VERSION == 2:
                # A kernel that hands its pages to the parent (7.3) need not keep it.
                hands_over = bool(symbols("lru_reparent_memcg"))
                assert is_dying(root, 0 if hands_over else 1)


if VERSION == 2:

    def test_threaded_cgroups_have_no_row(empty_cgroup: Path, tree_transport_way: Way) -> None:
        threaded = empty_cgroup / "threaded"
        threaded.mkdir()
        (threaded / "cgroup.type").write_text("threaded")
        (threaded / "below").mkdir()
        with tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
            assert [row.relative_path for row in tree.read()] == ["."]
        with tree_transport_way.tree(empty_cgroup, ["anon"], order="children") as tree:
            assert list(tree.read()) == []
