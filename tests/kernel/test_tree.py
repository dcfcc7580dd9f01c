# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whole trees: every row against memory.stat, all orders, growth, and who shares a reader."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import (
    BpfPermissionError,
    CgroupRemovedError,
    ClosedError,
    Snapshot,
    StatsReader,
    TreeReader,
    TreeTooLargeError,
)

from ..open_files import open_files
from .cgroups import (
    LAG,
    Worker,
    cgroup,
    enable_memory,
    ended,
    fault_in,
    forked,
    give_up_rights,
    in_child,
    is_dying,
    may_call_bpf,
    memory_stat,
    remove,
)
from .forest import Forest, forest
from .oracle import V1_KEYS, by_text
from .surroundings import BEST_BACKEND, CAN_RUN, HIERARCHY, VERSION
from .ways import TEXT, TREE_BPF_WAYS, Way

ORDERS = ("self", "pre", "post", "up", "children")


@pytest.fixture(scope="module")
def big() -> Iterator[Forest]:
    """1,501 cgroups in three levels."""
    with forest(30, 49) as made:
        yield made


@pytest.fixture(scope="module")
def small() -> Iterator[Forest]:
    """31 cgroups in three levels."""
    with forest(5, 5) as made:
        yield made


# --- every number ---------------------------------------------------------------------


def test_every_item_of_1500_cgroups_is_exact(big: Forest) -> None:
    assert len(big.paths) == 1501
    snapshots: dict[Way, Snapshot] = {}
    before = {cgroup_id: by_text(path) for cgroup_id, path in big.paths.items()}
    for way in (*TREE_BPF_WAYS, TEXT):
        with way.tree(big.root) as tree:
            assert (tree.backend, tree.transport) == (
                way.backend,
                way.transport.replace("auto", "text"),
            )
            snapshots[way] = tree.read()
    after = {cgroup_id: by_text(path) for cgroup_id, path in big.paths.items()}
    names = list(before[big.root.stat().st_ino])
    for way, snapshot in snapshots.items():
        assert set(snapshot.ids) == big.paths.keys()
        compared = 0
        for row in snapshot:
            for name in names:
                if before[row.id][name] == after[row.id][name]:
                    assert row[name] == before[row.id][name], (way, big.paths[row.id], name)
                    compared += 1
        assert compared >= 0.98 * len(names) * len(big.paths), way
        if VERSION == 2:
            assert snapshot.item_names == tuple(names)
    assert len(names) >= (len(V1_KEYS) + 1 if VERSION == 1 else 35)


def test_each_leaf_has_its_own_memory(big: Forest, tree_way: Way) -> None:
    with tree_way.tree(big.root, ["shmem", "pgfault"]) as tree:
        rows = tree.read().by_id()
    assert len(set(big.shmem.values())) == 7 and len(big.shmem) == 600
    assert {each: rows[each]["shmem"] for each in big.shmem} == big.shmem


def test_the_hierarchy_s_root_has_no_memory_current(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(HIERARCHY, ["memory.current", "anon"]) as tree:
        snapshot = tree.read()
    root = snapshot[0]
    assert (root.level, root.parent_id, list(root)) == (0, 0, ["anon"])
    found = snapshot.find(str(small.root))
    assert found is not None and found["memory.current"] >= sum(small.shmem.values())
    with tree_way.tree(HIERARCHY, order="self") as tree:
        assert "memory.current" not in tree.item_names


def test_new_pages_are_counted_at_once_in_every_ancestor(tree_way: Way) -> None:
    """One flush at the walk's root is one of every cgroup below. All but once: while the kernel's
    own flush is at work, it puts off ours and memory.stat's."""
    charge = 4 << 20
    shown = charge - LAG * mmap.PAGESIZE
    key = "anon" if VERSION == 2 else "total_rss"
    stale = []
    for order in ("pre", "post", "up") * 2:
        with cgroup() as root:
            enable_memory(root)
            leaf = root / "leaf"
            leaf.mkdir()
            start = leaf if order == "up" else root
            with (
                tree_way.tree(start, ["anon"], order=order) as tree,
                Worker(leaf, lambda: None, lambda: fault_in(charge)) as worker,
            ):
                worker.step()
                rows = tree.read().by_id()
                values = [rows[path.stat().st_ino]["anon"] for path in (leaf, root)]
                texts = [memory_stat(path)[key] for path in (leaf, root)]
                if min(*values, *texts) < shown:
                    stale.append((order, values, texts))
    assert len(stale) <= 1, stale


# --- which rows, in which order -------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_every_backend_and_transport_gives_the_same_rows(order: str, small: Forest) -> None:
    start = small.root / "group-1" if order in ("up", "self") else small.root
    seen = []
    for way in (*TREE_BPF_WAYS, TEXT):
        with way.tree(start, ["anon"], order=order) as tree:
            snapshot = tree.read()
            assert (tree.order, snapshot.order) == (order, order)
            seen.append([(row.id, row.parent_id, row.level, row.relative_path) for row in snapshot])
    assert all(each == seen[0] for each in seen[1:])
    assert len(seen) == len(TREE_BPF_WAYS) + 1


def test_pre_order_has_parents_before_their_children(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root) as tree:
        snapshot = tree.read()
    # Siblings in the order of their making.
    assert list(snapshot.ids) == list(small.paths)
    level = snapshot[0].level
    depths = [row.level - level for row in snapshot]
    assert depths == [0] + ([1] + [2] * 5) * 5


def test_post_order_has_children_before_their_parents(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root, order="post") as tree:
        ids = list(tree.read().ids)
    place = {cgroup_id: at for at, cgroup_id in enumerate(ids)}
    assert place.keys() == small.paths.keys()
    for cgroup_id in ids[:-1]:
        assert place[small.parent(cgroup_id)] > place[cgroup_id]
    assert small.paths[ids[-1]] == small.root


def test_the_order_up_has_the_ancestors(small: Forest, tree_way: Way) -> None:
    leaf = small.root / "group-1" / "leaf-3"
    with tree_way.tree(leaf, ["anon"], order="up") as tree:
        snapshot = tree.read()
    paths = [Path(row.path or "") for row in snapshot]
    assert paths[:3] == [leaf, leaf.parent, small.root]
    assert paths[-1] == HIERARCHY and len(paths) == len(leaf.relative_to(HIERARCHY).parts) + 1
    assert [row.relative_path for row in snapshot][:3] == [".", "..", "../.."]
    assert [row.level for row in snapshot] == list(range(len(paths) - 1, -1, -1))


def test_the_order_children_has_only_the_children(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root, ["anon"], order="children") as tree:
        snapshot = tree.read()
        assert [row.relative_path for row in snapshot] == [f"group-{at}" for at in range(5)]
        assert set(snapshot.parent_ids) == {small.root.stat().st_ino}
    leaf = small.root / "group-1" / "leaf-3"
    with tree_way.tree(leaf, ["anon"], order="children") as tree:
        assert list(tree.read()) == []


def test_the_order_self_has_only_the_root(small: Forest, tree_way: Way) -> None:
    leaf = small.root / "group-1" / "leaf-3"
    with tree_way.tree(leaf, order="self") as tree:
        (row,) = tree.read()
    assert (row.path, row["shmem"]) == (str(leaf), small.shmem[row.id])


if VERSION == 2:  # on v1 every cgroup of the hierarchy has the controller

    def test_a_cgroup_without_memory_stat_has_no_row(empty_cgroup: Path, tree_way: Way) -> None:
        enable_memory(empty_cgroup)
        (empty_cgroup / "with").mkdir()
        (empty_cgroup / "with" / "without").mkdir()
        with tree_way.tree(empty_cgroup) as tree:
            assert [row.relative_path for row in tree.read()] == [".", "with"]
            enable_memory(empty_cgroup / "with")
            assert [row.relative_path for row in tree.read()] == [".", "with", "with/without"]
            (empty_cgroup / "with" / "cgroup.subtree_control").write_text("-memory")
            assert [row.relative_path for row in tree.read()] == [".", "with"]

    def test_a_controller_that_another_one_needs_makes_no_row(tree_way: Way) -> None:
        """io takes memory along, without its files."""
        control = HIERARCHY / "cgroup.subtree_control"
        assert "io" in (HIERARCHY / "cgroup.controllers").read_text().split()
        had = "io" in control.read_text().split()
        control.write_text("+io")
        try:
            with cgroup() as path:
                (path / "cgroup.subtree_control").write_text("+io")
                (path / "hidden").mkdir()
                assert not (path / "hidden" / "memory.stat").exists()
                with tree_way.tree(path) as tree:
                    assert [row.relative_path for row in tree.read()] == ["."]
        finally:
            if not had:
                control.write_text("-io")


# --- how many -------------------------------------------------------------------------


def test_a_tree_that_outgrows_its_map_is_read_with_a_larger_one(
    empty_cgroup: Path, tree_transport_way: Way
) -> None:
    enable_memory(empty_cgroup)
    with tree_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        assert len(tree.read()) == 1
        for number in range(700):
            (empty_cgroup / str(number)).mkdir()
            if number in (10, 100, 300):
                assert len(tree.read()) == number + 2
        snapshot = tree.read()
        assert len(snapshot) == 701
        assert [row.relative_path for row in snapshot][1:] == [str(at) for at in range(700)]
        view = tree.read(copy=False)
        assert list(view.ids) == list(snapshot.ids)


def test_max_rows_limits_a_walk(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root, max_rows=31) as tree:
        assert len(tree.read()) == 31
        with cgroup(small.root):
            with pytest.raises(
                TreeTooLargeError, match=r"32 cgroups, more than max_rows=31"
            ) as caught:
                tree.read()
            assert (caught.value.rows, caught.value.max_rows) == (32, 31)
        assert len(tree.read()) == 31
    for max_rows in (1, 30):
        with pytest.raises(TreeTooLargeError), tree_way.tree(small.root, max_rows=max_rows) as tree:
            tree.read()
    with pytest.raises(TreeTooLargeError), TreeReader(small.root, max_rows=30) as tree:
        tree.read()


# --- what changes, and what does not --------------------------------------------------


def test_a_snapshot_never_changes(empty_cgroup: Path, tree_way: Way) -> None:
    shown = (1 << 20) - LAG * mmap.PAGESIZE
    with (
        tree_way.tree(empty_cgroup, ["anon"]) as tree,
        Worker(empty_cgroup, lambda: None, lambda: fault_in(1 << 20)) as worker,
    ):
        first, view = tree.read(), tree.read(copy=False)
        before, column = first[0]["anon"], first.column("anon")
        worker.step()
        second = tree.read()
        assert first[0]["anon"] == column[0] == before
        assert second[0]["anon"] >= before + shown
        with pytest.raises(ClosedError, match="copy=False"):
            view[0]["anon"]
        last = tree.read(copy=False)
    assert last[0]["anon"] >= before + shown, "it outlives the reader"
    assert first[0]["anon"] == before


def test_a_walk_lies_between_the_times_of_its_snapshot(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root) as tree:
        before = time.monotonic_ns()
        snapshot = tree.read()
        after = time.monotonic_ns()
    assert before <= snapshot.started_ns
    assert 0 < snapshot.duration_ns <= after - snapshot.started_ns


# --- who comes and goes ---------------------------------------------------------------


def test_a_removed_root_is_a_clear_error(tree_way: Way) -> None:
    for order in ORDERS:
        with cgroup() as path, tree_way.tree(path, ["anon"], order=order) as tree:
            tree.read()
            remove(path)
            for _ in range(2):
                with pytest.raises(CgroupRemovedError, match="was removed"):
                    tree.read()
            path.mkdir()
            with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
                tree.read()


if VERSION == 2:  # v1 does not tell

    def test_no_removed_cgroup_is_kept_but_the_root(tree_bpf_way: Way) -> None:
        with cgroup() as top:
            enable_memory(top)
            root = top / "root"
            root.mkdir()
            enable_memory(root)
            with tree_bpf_way.tree(root, ["anon"]) as tree:
                for number in range(20):
                    (root / str(number)).mkdir()
                snapshot = tree.read()
                assert len([row.path for row in snapshot if row.path]) == 21
                for number in range(20):
                    (root / str(number)).rmdir()
                assert is_dying(top, 0), "the reader keeps removed cgroups"
                remove(root)
                assert is_dying(top, int(tree_bpf_way.transport == "shared"))
                time.sleep(0.2)
                assert is_dying(top, int(tree_bpf_way.transport == "shared"))
            assert is_dying(top, 0)


# --- paths ----------------------------------------------------------------------------


def test_paths_follow_renames_and_removals(empty_cgroup: Path, tree_way: Way) -> None:
    enable_memory(empty_cgroup)
    path = empty_cgroup / "a"
    path.mkdir()
    with tree_way.tree(empty_cgroup, ["anon"]) as tree:
        old = tree.read()
        (row,) = [row for row in old if row.level > old[0].level]
        assert (row.path, row.exists(), old.find("a")) == (str(path), True, row)
        remove(path)
        assert (row.path, row.relative_path, row.exists()) == (str(path), "a", False)
        path.mkdir()
        assert not row.exists() and old.find(str(path)) == row
        new = tree.read()
        found = new.find("a")
        assert found is not None and found.path == str(path) and found.id > row.id
        assert list(new.by_path()) == [str(empty_cgroup), str(path)]
        assert list(old.by_path()) == [str(empty_cgroup), str(path)]
        (empty_cgroup / "b").mkdir()
        third = tree.read()
        remove(empty_cgroup / "b")
        assert [row.exists() for row in third] == [True, True, False]


def test_every_path_of_1500_cgroups_is_right(big: Forest, tree_bpf_way: Way) -> None:
    with tree_bpf_way.tree(big.root, ["anon"]) as tree:
        snapshot = tree.read()
    assert {row.id: Path(row.path or "") for row in snapshot} == big.paths
    assert len(snapshot.by_path()) == 1501


# --- who shares a reader --------------------------------------------------------------


def check(snapshot: Snapshot, made: Forest) -> None:
    """All rows, with the memory that their cgroups have."""
    assert list(snapshot.ids) == list(made.paths)
    values = dict(zip(snapshot.ids, snapshot.column("shmem")))
    assert {each: values[each] for each in made.shmem} == made.shmem


def test_threads_share_one_reader(small: Forest, tree_bpf_way: Way) -> None:
    errors: list[BaseException] = []
    with tree_bpf_way.tree(small.root, ["shmem", "pgfault"]) as tree:

        def read_on() -> None:
            try:
                for _ in range(100):
                    check(tree.read(), small)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_forked_child_and_its_parent_read_at_once(small: Forest, tree_way: Way) -> None:
    with tree_way.tree(small.root, ["shmem", "pgfault"]) as tree:
        view = tree.read(copy=False)
        ready, go = os.pipe()

        def child() -> None:
            for _ in range(100):
                check(tree.read(), small)
            os.write(go, b".")

        pid = forked(child)
        for _ in range(100):
            check(tree.read(), small)
        assert ended(pid) == 0
        assert os.read(ready, 1) == b"."
        os.close(ready)
        os.close(go)
        with pytest.raises(ClosedError):
            view[0]["shmem"]


def test_a_forked_child_s_rows_are_not_overwritten_by_its_parent(
    small: Forest, tree_way: Way
) -> None:
    with tree_way.tree(small.root, ["shmem"]) as tree:
        kept, view = tree.read(), tree.read(copy=False)
        row = view[1]

        def child() -> None:
            for use in (lambda: row["shmem"], lambda: view.ids, view.dicts):
                with pytest.raises(ClosedError, match="this process was forked since"):
                    use()
            check(kept, small)

        assert in_child(child) == 0
        check(view, small)


# --- rights given up ------------------------------------------------------------------

# Before Linux 5.19 the program that is loaded cannot be run, either.
WITHOUT = "(CAP_BPF and CAP_PERFMON|bpf_prog_test_run_opts: Operation not permitted)"
LOST = f"this process has lost the rights that its reader was made with: .*{WITHOUT}"


def check_turned_to_text(tree: TreeReader, why: str) -> None:
    assert (tree.backend, tree.transport) == ("text", "text")
    assert tree.fallback_reason.startswith(why) and re.search(
        f"{BEST_BACKEND}: {LOST}", tree.fallback_reason
    )


@pytest.mark.needs_bpf
def test_a_forked_child_without_privileges_reads_a_tree_as_text(
    small: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.root)
    before = open_files()
    with TreeReader(".", ["shmem", "pgfault"]) as tree:
        why = tree.fallback_reason
        values = tree.read().by_id()

        def child() -> None:
            os.chdir("/")
            give_up_rights()
            for _ in range(3):
                snapshot = tree.read()
                check(snapshot, small)
                assert snapshot.by_id() == values
                assert snapshot.item_names == tree.item_names == ("shmem", "pgfault")
            check_turned_to_text(tree, why)
            row = snapshot.find("group-1/leaf-1")
            assert row is not None and row.path == str(small.root / "group-1" / "leaf-1")
            tree.close()
            assert len(open_files()) <= len(before)

        assert in_child(child) == 0
        assert tree.backend == BEST_BACKEND, "the parent's goes on"
        check(tree.read(), small)


def test_a_forked_child_without_privileges_is_told_what_it_lacks(
    small: Forest, tree_bpf_transport_way: Way
) -> None:
    """What was asked for by name is not replaced; nor can text give all that BPF does on v1."""
    with (
        tree_bpf_transport_way.tree(small.root, ["shmem"]) as tree,
        TreeReader(small.root, ["shmem", "kernel_stack"]) as auto,
    ):

        def child() -> None:
            give_up_rights()
            for _ in range(2):
                with pytest.raises(BpfPermissionError, match="CAP_BPF and CAP_PERFMON"):
                    tree.read()
                if VERSION == 1:
                    says = r"lost the rights .*; as text: .*does not have 'kernel_stack'"
                    with pytest.raises(BpfPermissionError, match=says):
                        auto.read()
                else:
                    check(auto.read(), small)
            assert tree.backend == tree_bpf_transport_way.backend
            assert auto.backend == (BEST_BACKEND if VERSION == 1 else "text")

        assert in_child(child) == 0


@pytest.mark.needs_bpf
def test_a_tree_that_outgrows_its_map_in_a_process_without_privileges_is_read_as_text(
    empty_cgroup: Path,
) -> None:
    def child() -> None:
        with TreeReader(empty_cgroup, ["anon"]) as tree:
            why = tree.fallback_reason
            give_up_rights()
            assert len(tree.read()) == 1
            # Nothing is to be loaded.
            assert tree.backend == (BEST_BACKEND if may_call_bpf() else "text")
            os.write(go[1], b".")
            assert os.read(wait[0], 1) == b"."
            assert len(tree.read()) == 101
            check_turned_to_text(tree, why)

    enable_memory(empty_cgroup)
    go, wait = os.pipe(), os.pipe()
    try:
        pid = forked(child)
        assert os.read(go[0], 1) == b"."
        for number in range(100):
            (empty_cgroup / str(number)).mkdir()
        os.write(wait[1], b".")
        assert ended(pid) == 0
    finally:
        for fd in (*go, *wait):
            os.close(fd)


@pytest.mark.needs_bpf
def test_a_tree_that_outgrows_its_map_in_a_thread_without_privileges_is_read_as_text(
    empty_cgroup: Path,
) -> None:
    """Rights are each thread's own: it is this one that must have them."""
    read: list[Snapshot] = []

    def without_rights(tree: TreeReader) -> None:
        header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
        assert ctypes.CDLL(None).capset(header, bytes(24)) == 0
        read.append(tree.read())

    def child() -> None:
        with TreeReader(empty_cgroup, ["anon"]) as tree:
            why = tree.fallback_reason
            for number in range(100):
                (empty_cgroup / str(number)).mkdir()
            thread = threading.Thread(target=without_rights, args=(tree,))
            thread.start()
            thread.join()
            assert [len(snapshot) for snapshot in read] == [101]
            check_turned_to_text(tree, why)
        with TreeReader(empty_cgroup, ["anon"]) as tree:
            assert tree.backend == BEST_BACKEND

    enable_memory(empty_cgroup)
    assert in_child(child) == 0


# --- process 1 ------------------------------------------------------------------------

NEW_PID_NAMESPACE = 0x20000000


def first_process(work: Callable[[], None]) -> int:
    """Forks a child that runs *work* as process 1 of a new PID namespace, as all do after it."""
    assert ctypes.CDLL(None).unshare(NEW_PID_NAMESPACE) == 0

    def checked() -> None:
        assert os.getpid() == 1
        work()

    return forked(checked)


def test_a_forked_child_with_the_same_process_id_has_a_walk_of_its_own(
    empty_cgroup: Path, tree_bpf_transport_way: Way
) -> None:
    enable_memory(empty_cgroup)
    for name in "abc":
        (empty_cgroup / name).mkdir()
    wait, go = os.pipe(), os.pipe()

    def parent() -> None:
        with tree_bpf_transport_way.tree(empty_cgroup, ["anon"]) as tree:
            assert len(tree.read()) == 4

            def child() -> None:
                ids = tree.read(copy=False).ids
                before = ids.tolist()
                os.write(wait[1], b".")
                assert os.read(go[0], 1) == b"."
                assert ids.tolist() == before, "its parent's walk is in the same map"

            pid = first_process(child)
            assert os.read(wait[0], 1) == b"."
            remove(empty_cgroup / "a")
            assert len(tree.read()) == 3
            os.write(go[1], b".")
            assert ended(pid) == 0

    def apart() -> None:
        assert ended(first_process(parent)) == 0

    try:
        assert in_child(apart) == 0
    finally:
        for fd in (*wait, *go):
            os.close(fd)


def test_readers_leave_nothing_behind(small: Forest, tree_way: Way) -> None:
    for order in ORDERS:
        for _ in range(5):
            tree_way.tree(small.root, ["anon"], order=order).close()


if CAN_RUN:

    def test_from_a_cgroup_namespace_the_numbers_are_right(small: Forest) -> None:
        """Whether the kernel finds a cgroup outside of it by id or not."""
        leaf = small.root / "group-2" / "leaf-2"
        new_cgroup_namespace = 0x02000000

        def child() -> None:
            (small.root / "group-0" / "leaf-1" / "cgroup.procs").write_text("0")
            assert ctypes.CDLL(None).unshare(new_cgroup_namespace) == 0
            size = small.shmem[leaf.stat().st_ino]
            with StatsReader(leaf, ["shmem"]) as reader:
                assert (reader.backend, reader.read()) == (BEST_BACKEND, {"shmem": size})
            with TreeReader(leaf.parent, ["shmem"]) as tree:
                assert tree.backend == BEST_BACKEND
                found = tree.read().find("leaf-2")
                assert found is not None and found["shmem"] == size

        assert in_child(child) == 0
