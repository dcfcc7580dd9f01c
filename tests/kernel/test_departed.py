# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Removed cgroups: which of them a reader sees, and with which numbers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    ClosedError,
    Departed,
    MemcgError,
    Snapshot,
    TreeReader,
)
from pymemcgbpf._sources import departures as _departures

from .cgroups import (
    MIB,
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    forked,
    give_up_rights,
    in_child,
    in_threads,
    right_without_a_flush,
)
from .oracle import everything
from .published import wait_until
from .surroundings import HIERARCHY, IN_LAB, VERSION
from .test_oom_kills import KILLS, kill_one
from .ways import Way

PEAK = ["memory.peak"] if VERSION == 1 or (Path(HIERARCHY) / "memory.peak").exists() else []
ITEMS = ["memory.current", "anon", "pgfault", KILLS]


def make(path: Path) -> Path:
    """Makes a cgroup whose children have the memory controller."""
    path.mkdir()
    enable_memory(path)
    return path


def departed_of(snapshot: Snapshot) -> Departed:
    assert snapshot.departed is not None
    return snapshot.departed


def names_of(departed: Departed) -> list[Optional[str]]:
    return [row.relative_path for row in departed]


pytestmark = pytest.mark.needs_iterator


def test_what_was_removed_is_seen_once_in_order(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    inner = make(empty_cgroup / "inner")
    leaf = make(inner / "leaf")
    ids = [path.stat().st_ino for path in (leaf, inner)]
    with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
        assert (len(departed_of(tree.read())), departed_of(tree.read()).lost) == (0, 0)
        began, began_at = time.monotonic_ns(), time.time()
        levels = {row.id: row.level for row in tree.read()}
        leaf.rmdir()
        inner.rmdir()
        snapshot = tree.read()
        departed = departed_of(snapshot)
        ended, ended_at = time.monotonic_ns(), time.time()
        assert list(departed.ids) == ids and len(snapshot) == 1
        assert list(departed.parent_ids) == [ids[1], empty_cgroup.stat().st_ino]
        assert {row.id: row.level for row in departed} == {each: levels[each] for each in ids}
        assert departed.paths == (str(leaf), str(inner))
        assert names_of(departed) == ["inner/leaf", "inner"]
        assert began <= departed[0].removed_ns <= departed[1].removed_ns <= ended
        assert [*departed.removed_ns] == [row.removed_ns for row in departed]
        for at, seconds in enumerate(departed.removed_times):
            assert began_at - 1 <= departed[at].removed_time == seconds <= ended_at + 1
        assert departed.lost == 0 and departed.order == "removed"
        assert not any(row.exists() for row in departed)
        assert departed.item_names == snapshot.item_names == tuple(ITEMS)
        assert len(departed_of(tree.read())) == 0


def test_one_that_no_read_has_ever_met(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
        above = make(empty_cgroup / "above")
        path = above / "short"
        path.mkdir()
        cgroup_id = path.stat().st_ino
        kill_one(path)
        path.rmdir()
        above.rmdir()
        row, _ = departed_of(tree.read())
        assert (row.id, row.path, row[KILLS]) == (cgroup_id, str(path), 1)


@pytest.mark.parametrize("order", ["self", "children", "post", "up"])
def test_the_order_of_the_walk_does_not_matter(
    order: str, empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    enable_memory(empty_cgroup)
    make(empty_cgroup / "a").joinpath("b").mkdir()
    with tree_bpf_way.tree(empty_cgroup, ITEMS, order=order, departed=True) as tree:
        (empty_cgroup / "a" / "b").rmdir()
        (empty_cgroup / "a").rmdir()
        assert names_of(departed_of(tree.read())) == ["a/b", "a"]


def test_max_depth_and_other_cgroups(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    root = make(empty_cgroup / "root")
    make(make(root / "a") / "b").joinpath("c").mkdir()
    (empty_cgroup / "other").mkdir()
    with (
        tree_bpf_way.tree(root, ITEMS, max_depth=2, departed=True) as two,
        tree_bpf_way.tree(root, ITEMS, max_depth=0, departed=True) as none,
    ):
        (empty_cgroup / "other").rmdir()
        (root / "a" / "b" / "c").rmdir()
        (root / "a" / "b").rmdir()
        (root / "a").rmdir()
        assert names_of(departed_of(two.read())) == ["a/b", "a"]
        assert names_of(departed_of(none.read())) == []


if VERSION == 2:

    def test_without_the_memory_controller(empty_cgroup: Path, tree_bpf_way: Way) -> None:
        for name in ("before", "with", "after"):
            (empty_cgroup / name).mkdir()
        with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
            (empty_cgroup / "before").rmdir()  # it has no memory.stat yet
            enable_memory(empty_cgroup)
            (empty_cgroup / "with").rmdir()
            (empty_cgroup / "cgroup.subtree_control").write_text("-memory")
            (empty_cgroup / "after").rmdir()  # it has none any more
            assert names_of(departed_of(tree.read())) == ["with"]

else:

    def test_a_renamed_parent(empty_cgroup: Path, tree_bpf_way: Way) -> None:
        (empty_cgroup / "old" / "leaf").mkdir(parents=True)
        with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
            (empty_cgroup / "old").rename(empty_cgroup / "new")
            (empty_cgroup / "new" / "leaf").rmdir()
            assert names_of(departed_of(tree.read())) == ["new/leaf"]

    def test_cgroups_of_other_hierarchies(empty_cgroup: Path, tree_bpf_way: Way) -> None:
        others = [path for path in HIERARCHY.parent.iterdir() if (path / "cgroup.procs").exists()]
        with tree_bpf_way.tree(HIERARCHY, ITEMS, departed=True) as tree:
            for path in others:
                if not path.samefile(HIERARCHY):
                    (path / empty_cgroup.name).mkdir()
                    (path / empty_cgroup.name).rmdir()
            (empty_cgroup / "own").mkdir()
            (empty_cgroup / "own").rmdir()
            mine = [name for name in names_of(departed_of(tree.read())) if name]
            assert [name for name in mine if empty_cgroup.name in name] == [
                f"{empty_cgroup.name}/own"
            ]


def test_long_and_odd_names(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    path, made = empty_cgroup, []
    for name in ("a" * 255, "b" * 254, "\udcff\udc80", "d e'\"", "ü" * 127, "f" * 255, "g" * 255):
        path = make(path / name)
        made.append(path)
    assert len(os.fsencode(path)) > 1024  # the kernel's tracepoint shows no more
    with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
        for each in reversed(made):
            each.rmdir()
        assert departed_of(tree.read()).paths == tuple(map(str, reversed(made)))


def test_a_path_that_is_too_long_is_unknown(empty_cgroup: Path) -> None:
    """Longer ones than open() takes."""
    enable_memory(empty_cgroup)
    fds = [os.open(empty_cgroup, os.O_RDONLY)]
    name = "x" * 255
    try:
        with TreeReader(empty_cgroup, ITEMS, departed=True) as tree:
            try:
                for _ in range(18):
                    os.mkdir(name, dir_fd=fds[-1])
                    fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
                    if VERSION == 2:
                        control = os.open("cgroup.subtree_control", os.O_WRONLY, dir_fd=fds[-1])
                        os.write(control, b"+memory")
                        os.close(control)
            finally:
                while len(fds) > 1:
                    os.close(fds.pop())
                    os.rmdir(name, dir_fd=fds[-1])
            departed = departed_of(tree.read())
    finally:
        os.close(fds[0])
    lengths = [row.relative_path and len(row.relative_path) for row in departed]
    assert lengths == [None, *(256 * n - 1 for n in range(17, 0, -1))]


def test_the_root_of_the_hierarchy(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    """It lacks items that those below it have."""
    with tree_bpf_way.tree(HIERARCHY, [*ITEMS, *PEAK], order="self", departed=True) as tree:
        path = empty_cgroup / "below"
        enable_memory(empty_cgroup)
        path.mkdir()
        cgroup_id = path.stat().st_ino
        path.rmdir()
        snapshot = tree.read()
        assert not set(PEAK) & snapshot[0].keys()
        row = departed_of(snapshot).by_id()[cgroup_id]
        assert row.path == str(path) and row.keys() == {*ITEMS, *PEAK}


# --- numbers


def touch(path: Path, pages: int, cpu: int) -> None:
    """Has a process on one CPU fault some pages in a cgroup, and end."""

    def work() -> None:
        os.sched_setaffinity(0, {cpu})
        (path / "cgroup.procs").write_text("0")
        fault_in(pages * 4096)

    assert in_child(work) == 0


def test_the_items_of_removed_cgroups_can_be_missing_in_the_root(
    empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    """The root of the hierarchy alone has no events."""
    enable_memory(empty_cgroup)
    with tree_bpf_way.tree(HIERARCHY, [KILLS], order="self", departed=True) as tree:
        (row,) = tree.read()
        assert KILLS not in row
        (empty_cgroup / "gone").mkdir()
        (empty_cgroup / "gone").rmdir()
        found = {row.path: row.get(KILLS) for row in departed_of(tree.read())}
    assert found[str(empty_cgroup / "gone")] == 0


def remove_when_empty(path: Path) -> None:
    for _ in range(1000):
        try:
            return path.rmdir()
        except OSError:  # the process is still on its way out
            time.sleep(0.001)
    raise AssertionError(f"{path} stays busy")


def test_pending_updates_are_in_the_numbers(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    """What a parent without processes has counted in the end is what its children had counted."""
    enable_memory(empty_cgroup)
    cpus = sorted(os.sched_getaffinity(0))
    with tree_bpf_way.tree(
        empty_cgroup, ["pgfault", "pgmajfault", "pgactivate"], order="self", departed=True
    ) as tree:
        for number in range(12):
            path = empty_cgroup / f"{number}"
            path.mkdir()
            for cpu in cpus:
                touch(path, 3 + 10 * number, cpu)
            remove_when_empty(path)
        departed = departed_of(tree.read())
        assert len(departed) == 12
        counted = {name: sum(departed.column(name)) for name in departed.item_names}
        assert counted["pgfault"] > sum(3 + 10 * number for number in range(12)) * len(cpus)

        def is_equal() -> bool:
            (row,) = tree.read()
            return dict(row) == counted

        assert right_without_a_flush(is_equal), counted


def test_pending_updates_of_children_that_went_before(
    empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    """A parent has all that those below had counted, though nobody has flushed since."""
    enable_memory(empty_cgroup)
    cpus = sorted(os.sched_getaffinity(0))
    with tree_bpf_way.tree(
        empty_cgroup, ["pgfault", "pgactivate"], order="self", flush=False, departed=True
    ) as tree:
        for number in range(5):
            top = make(empty_cgroup / "top")
            inner = [make(top / f"{at}") for at in range(3)]
            leaves = [path / f"leaf-{at}" for path in inner for at in range(2)]
            for leaf in leaves:
                leaf.mkdir()
                for cpu in cpus:
                    touch(leaf, 2 + number, cpu)
            for path in (*leaves, *inner, top):
                remove_when_empty(path)
            rows = {row.path: row for row in departed_of(tree.read())}
            assert len(rows) == 10
            counted = sum(rows[str(leaf)]["pgfault"] for leaf in leaves)
            assert counted >= len(leaves) * len(cpus) * (2 + number)
            assert rows[str(top)]["pgfault"] == counted
            assert sum(rows[str(path)]["pgfault"] for path in inner) == counted


def test_all_numbers_are_those_of_the_files(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    """Of a cgroup that was quiet for some seconds, in which a process was killed for memory."""
    enable_memory(empty_cgroup)
    path = empty_cgroup / "one"
    path.mkdir()
    with tree_bpf_way.tree(empty_cgroup, ["*"], departed=True) as tree:
        kill_one(path)
        with Worker(path, lambda: fault_in(2 * MIB, shared=True)):
            pass
        tree.read()
        time.sleep(2.5)  # until the kernel has flushed and added up the pressure
        by_reader = dict(tree.read().by_path()[str(path)])
        shown = everything(path)
        remove_when_empty(path)
        (row,) = departed_of(tree.read())
    last = dict(row)
    missing = by_reader.keys() - last.keys()
    assert not missing or tree_bpf_way.backend != "core", missing
    assert last.keys() <= by_reader.keys() and len(last) >= len(by_reader) - 3
    different = {
        name: (value, by_reader[name], shown.get(name))
        for name, value in last.items()
        if value != by_reader[name] and value != shown.get(name)
    }
    # rmdir(2) itself takes memory, and frees some.
    moving = {"memory.current", "derived.working_set", "kernel", "percpu", "slab"}
    moving |= {"slab_reclaimable", "slab_unreclaimable", "sock"}
    assert {name for name in different if name not in moving} == set(), different
    assert row[KILLS] == 1 and (not PEAK or row["memory.peak"] == shown["memory.peak"])


# --- lifetime


def test_after_the_root_is_removed(tree_bpf_way: Way) -> None:
    with cgroup() as above:
        enable_memory(above)
        root = make(above / "root")
        (root / "leaf").mkdir()
        with tree_bpf_way.tree(root, ITEMS, departed=True) as tree:
            (root / "leaf").rmdir()
            root.rmdir()
            with pytest.raises(CgroupRemovedError) as caught:
                tree.read()
            assert caught.value.departed is not None
            assert names_of(caught.value.departed) == ["leaf"]
            with pytest.raises(CgroupRemovedError) as caught:
                tree.read()
            assert caught.value.departed is not None and len(caught.value.departed) == 0


def attached(pid: int) -> int:
    """How many descriptors of a process keep something attached to a tracepoint."""
    found = 0
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            found += "raw_tracepoint" in each.read_text()
        except OSError:
            continue
    return found


def test_nothing_stays_attached(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    before = attached(os.getpid())
    tree = tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True)
    assert attached(os.getpid()) == before + 1
    child = forked(signal.pause)
    try:
        wait_until(lambda: attached(child) == 0)  # whatever becomes of the parent
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    (empty_cgroup / "a").mkdir()
    (empty_cgroup / "a").rmdir()
    assert names_of(departed_of(tree.read())) == ["a"]  # the parent's is not closed
    tree.close()
    assert attached(os.getpid()) == before
    with pytest.raises(ClosedError):
        tree.read()
    forgotten = tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True)
    assert attached(os.getpid()) == before + 1
    del forgotten
    assert attached(os.getpid()) == before


def test_a_child_sees_what_is_removed_from_its_first_read_on(
    empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    enable_memory(empty_cgroup)
    with tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True) as tree:
        for name in ("early", "late"):
            (empty_cgroup / name).mkdir()
        (empty_cgroup / "early").rmdir()

        def child() -> None:
            assert names_of(departed_of(tree.read())) == []
            (empty_cgroup / "late").rmdir()
            assert names_of(departed_of(tree.read())) == ["late"]
            tree.close()

        assert in_child(child) == 0
        assert names_of(departed_of(tree.read())) == ["early", "late"]


def test_threads_share_a_reader(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    number = 100 if IN_LAB else 500
    seen: list[Optional[str]] = []
    with tree_bpf_way.tree(empty_cgroup, ITEMS, order="self", departed=True) as tree:
        done = False

        def look() -> None:
            while not done:
                seen.extend(names_of(departed_of(tree.read())))

        def storm() -> None:
            nonlocal done
            try:
                for at in range(number):
                    (empty_cgroup / f"{at}").mkdir()
                    (empty_cgroup / f"{at}").rmdir()
            finally:
                done = True

        works = iter([look, look, storm])
        in_threads(3, lambda: next(works)())
        seen.extend(names_of(departed_of(tree.read())))
    assert sorted(map(str, seen)) == sorted(map(str, range(number)))


def test_a_signal_handler_closes_it(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)
    tree = tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True)
    before = signal.signal(signal.SIGALRM, lambda *_: tree.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(ClosedError):
            while True:
                tree.read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        tree.close()


def test_other_code_closes_its_descriptors(empty_cgroup: Path, tree_bpf_way: Way) -> None:
    enable_memory(empty_cgroup)

    def daemon() -> None:
        tree = tree_bpf_way.tree(empty_cgroup, ITEMS, departed=True)
        departures = tree._departures
        assert departures is not None and departures._link is not None
        os.close(departures._link.fd)
        with pytest.raises(MemcgError, match="closed by other code"):
            tree.read()
        tree.close()

    assert in_child(daemon) == 0


# --- where it is not possible


def test_as_text() -> None:
    with pytest.raises(BackendUnavailableError, match='"auto"'):
        TreeReader(HIERARCHY, ["anon"], backend="text", departed=True)


def test_without_rights(empty_cgroup: Path) -> None:
    def read_as_nobody() -> None:
        give_up_rights()
        with TreeReader(empty_cgroup, ["anon"], departed=True) as tree:
            assert tree.backend == "text" and tree.read().departed is None
            assert "departed: " in tree.fallback_reason

    assert in_child(read_as_nobody) == 0


def test_rights_that_are_lost(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)

    def lose() -> None:
        with TreeReader(empty_cgroup, ["anon"], departed=True) as tree:
            assert tree.read().departed is not None
            give_up_rights()
            (empty_cgroup / "x").exists()
            snapshot = tree.read()
            if tree.backend == "text":
                assert snapshot.departed is None and attached(os.getpid()) == 0

    assert in_child(lose) == 0


def test_more_than_there_is_room_for(
    empty_cgroup: Path, tree_bpf_way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_departures, "CGROUPS", 100)
    enable_memory(empty_cgroup)
    with tree_bpf_way.tree(empty_cgroup, ITEMS, order="self", departed=True) as tree:
        for wanted in (600, 0, 50):
            for at in range(wanted):
                (empty_cgroup / f"{at}").mkdir()
                (empty_cgroup / f"{at}").rmdir()
            departed = departed_of(tree.read())
            assert names_of(departed) == [str(at) for at in range(len(departed))]
            assert len(departed) + departed.lost == wanted
            assert len(departed) >= min(wanted, 100) and (departed.lost > 0) == (wanted == 600)
