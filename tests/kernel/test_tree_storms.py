# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Walks while cgroups are made and removed: whole rows, no row twice, nothing left open."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import CgroupNotFoundError, CgroupRemovedError, Snapshot, TreeTooLargeError

from ..open_files import mapped_maps, open_files
from .cgroups import cgroup, enable_memory, fault_in, in_child, in_threads, processes
from .forest import Forest, forest, storm
from .surroundings import IN_LAB
from .ways import TEXT, Way

SECONDS = 8.0
# In that time; a guest is some fifty times slower.
LEAST_WALKS = 1000 if IN_LAB else 10000
# One suffices, unless the machine is busy with other things.
MOST_STORMS = 5


@pytest.fixture(scope="module")
def quiet() -> Iterator[Forest]:
    """Cgroups that stay, among those that come and go."""
    with forest(8, 6) as made:
        yield made


@contextlib.contextmanager
def storms(parents: list[Path], seconds: float) -> Iterator[None]:
    """Two processes that make and remove cgroups below these, for so long."""
    deadline = time.monotonic() + seconds
    with processes(lambda: storm(parents[::2], deadline), lambda: storm(parents[1::2], deadline)):
        yield


def check(snapshot: Snapshot, quiet: Forest, *, mutex_held: bool) -> None:
    """What holds of every walk, whatever comes and goes."""
    ids = list(snapshot.ids)
    parents = list(snapshot.parent_ids)
    place = {cgroup_id: at for at, cgroup_id in enumerate(ids)}
    assert len(place) == len(ids), "a cgroup twice"
    assert quiet.paths.keys() <= place.keys(), "a cgroup that stays is missing"
    root = quiet.root.stat().st_ino
    shmem = snapshot.column("shmem")
    rows = snapshot.by_id()
    for cgroup_id, parent_id in zip(ids, parents):
        at = place[cgroup_id]
        if cgroup_id != root:
            above = place.get(parent_id)
            if above is None:
                assert not mutex_held and cgroup_id not in quiet.paths, "no parent"
            else:
                assert (above < at) == (snapshot.order == "pre")
                assert rows[cgroup_id].level == rows[parent_id].level + 1
        if cgroup_id in quiet.shmem:
            assert shmem[at] == quiet.shmem[cgroup_id]
        elif cgroup_id not in quiet.paths:
            assert shmem[at] == 0, "no process was ever in it"


@pytest.mark.parametrize("order", ["pre", "post"])
def test_walks_are_right_while_cgroups_come_and_go(
    order: str, quiet: Forest, tree_bpf_way: Way
) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    walks = came_and_went = 0
    with tree_bpf_way.tree(quiet.root, ["pgfault", "shmem"], order=order) as tree:
        before = open_files()
        for _ in range(MOST_STORMS):
            with storms([quiet.root, *groups], SECONDS / 2):
                end = time.monotonic() + SECONDS / 2
                while time.monotonic() < end:
                    snapshot = tree.read(copy=walks % 2 == 0)
                    ids = set(snapshot.ids)
                    assert len(ids) == len(snapshot), "a cgroup twice"
                    assert quiet.paths.keys() <= ids, "a cgroup that stays is missing"
                    came_and_went += len(ids) > len(quiet.paths)
                    if walks % 10 == 0:
                        check(snapshot, quiet, mutex_held=tree_bpf_way.transport == "shared")
                    walks += 1
            if walks >= LEAST_WALKS / 2:
                break
        assert open_files() == before
    assert walks >= LEAST_WALKS / 2
    assert came_and_went >= walks / 50, "no storm was seen"


def test_text_walks_are_right_while_cgroups_come_and_go(quiet: Forest) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    walks = 0
    with TEXT.tree(quiet.root, ["shmem"]) as tree:
        for _ in range(MOST_STORMS):
            with storms([quiet.root, *groups], SECONDS / 2):
                end = time.monotonic() + SECONDS / 2
                while time.monotonic() < end:
                    check(tree.read(), quiet, mutex_held=False)
                    walks += 1
            if walks >= LEAST_WALKS / 100:
                break
    assert walks >= LEAST_WALKS / 100


def test_paths_are_right_while_cgroups_come_and_go(quiet: Forest, tree_bpf_way: Way) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    named = gone = 0
    with tree_bpf_way.tree(quiet.root, ["shmem"]) as tree, storms(groups, SECONDS / 4):
        end = time.monotonic() + SECONDS / 4
        while time.monotonic() < end:
            for row in tree.read():
                path = row.path
                if row.id in quiet.paths:
                    assert path == str(quiet.paths[row.id])
                elif path is None:
                    gone += 1
                else:
                    assert "/storm-" in path
                    named += 1
    assert named + gone > 0


def test_readers_are_made_while_cgroups_come_and_go(quiet: Forest, tree_way: Way) -> None:
    """Beginning with the walk of the opening, on the cgroups that stay and that go."""

    def work() -> None:
        with storms([quiet.root], SECONDS / 4):
            end = time.monotonic() + SECONDS / 4
            while time.monotonic() < end:
                with tree_way.tree(quiet.root, ["shmem"]) as tree:
                    check(tree.read(), quiet, mutex_held=False)

    assert in_child(work) == 0


# --- storms of other kinds ------------------------------------------------------------


def swell(parent: Path, most: int, deadline: float) -> None:
    """Makes cgroups below one until there are so many, removes them all, and so on."""
    while time.monotonic() < deadline:
        made = []
        for number in range(most):
            path = parent / f"swell-{number}"
            path.mkdir()
            made.append(path)
            if time.monotonic() > deadline:
                break
        for path in made:
            path.rmdir()


def test_threads_share_a_reader_of_a_growing_tree(
    quiet: Forest, tree_bpf_transport_way: Way
) -> None:
    """Far beyond the memory that the reader began with, and back."""
    most = 300
    seconds = SECONDS / 4
    sizes: list[int] = []
    unmapped = len(mapped_maps())
    with tree_bpf_transport_way.tree(quiet.root, ["pgfault", "shmem"]) as tree:
        tree.read()
        before, mapped = open_files(), len(mapped_maps())
        assert mapped > unmapped
        deadline = 0.0

        def read_on() -> None:
            while time.monotonic() < deadline:
                snapshot = tree.read()
                check(snapshot, quiet, mutex_held=tree_bpf_transport_way.transport == "shared")
                sizes.append(len(snapshot))

        for _ in range(MOST_STORMS):
            deadline = time.monotonic() + seconds
            with processes(lambda: swell(quiet.root, most, deadline)):  # noqa: B023
                in_threads(3, read_on)
            if max(sizes, default=0) > 2 * len(quiet.paths) and len(sizes) >= LEAST_WALKS / 100:
                break
        # Programs and maps come in the place of others, not beside them. (The first took
        # libbpf's loader, which holds and maps more than those that come after.)
        assert not Counter(open_files().values()) - Counter(before.values())
        assert len(mapped_maps()) <= mapped
        assert len(tree.read()) == len(quiet.paths)
    assert len(mapped_maps()) == unmapped
    assert len(sizes) >= LEAST_WALKS / 100
    assert max(sizes) > 2 * len(quiet.paths), "it did not swell"


def test_max_rows_holds_while_cgroups_come_and_go(
    quiet: Forest, tree_bpf_transport_way: Way
) -> None:
    cap = len(quiet.paths)
    fitted = refused = 0
    with tree_bpf_transport_way.tree(quiet.root, ["shmem"], max_rows=cap) as tree:
        for _ in range(MOST_STORMS):
            with storms([quiet.root], SECONDS / 8):
                end = time.monotonic() + SECONDS / 8
                while time.monotonic() < end:
                    try:
                        snapshot = tree.read()
                    except TreeTooLargeError as error:
                        assert error.rows is not None and error.rows > cap
                        refused += 1
                    else:
                        assert set(snapshot.ids) == quiet.paths.keys()
                        fitted += 1
            if fitted and refused:
                break
        assert len(tree.read()) == cap
    assert fitted > 0 and refused > 0


def test_readers_of_roots_that_come_and_go_end_with_clear_errors(tree_transport_way: Way) -> None:
    """A walk from a cgroup that is made and removed: its rows, or the documented errors."""
    outcomes: dict[str, int] = {}
    with cgroup() as parent:
        enable_memory(parent)
        path = parent / "root"

        def come_and_go() -> None:
            for life in itertools.cycle((0.0005, 0.005, 0.05, 0.2)):
                if time.monotonic() > deadline:
                    break
                path.mkdir()
                time.sleep(life)
                path.rmdir()

        deadline = time.monotonic() + SECONDS / 4
        with processes(come_and_go):
            while time.monotonic() < deadline:
                for order in ("self", "pre", "post", "up", "children"):
                    outcome = "read"
                    try:
                        with tree_transport_way.tree(path, ["anon"], order=order) as tree:
                            for _ in range(3):
                                snapshot = tree.read()
                                own = [row for row in snapshot if row.id == tree.cgroup_id]
                                assert len(own) == (order != "children")
                                assert all(row["anon"] == 0 for row in own)
                    except (CgroupNotFoundError, CgroupRemovedError) as error:
                        outcome = type(error).__name__
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert set(outcomes) <= {"read", "CgroupNotFoundError", "CgroupRemovedError"}
    assert sum(outcomes.values()) >= 10 and len(outcomes) >= 2, outcomes


def test_a_cgroup_removed_with_charged_memory_has_a_whole_row_or_none(
    quiet: Forest, tree_bpf_transport_way: Way
) -> None:
    """A row shows no more than was ever there, under the name of the cgroup it was in."""
    size = 16 * mmap.PAGESIZE
    home = next(iter(quiet.shmem))
    deadline = 0.0

    def live_and_die() -> None:
        while time.monotonic() < deadline:
            path = quiet.root / f"mortal-{os.getpid()}"
            path.mkdir()
            (path / "cgroup.procs").write_text("0")
            memory = fault_in(size, shared=True)
            (quiet.paths[home] / "cgroup.procs").write_text("0")
            memory.close()
            path.rmdir()

    mortals: set[int] = set()
    root = quiet.root.stat().st_ino
    names = ["shmem", "memory.current", "file_mapped"]

    def look(snapshot: Snapshot) -> None:
        ids = list(snapshot.ids)
        assert len(set(ids)) == len(ids) and quiet.paths.keys() <= set(ids)
        for row in snapshot:
            if row.id not in quiet.paths:
                mortals.add(row.id)
                assert (row.parent_id, row.level) == (root, snapshot[0].level + 1)
                assert list(row) == names
                assert 0 <= row["shmem"] <= size and 0 <= row["file_mapped"] <= size
                assert 0 <= row["memory.current"] <= 16 << 20

    walks = 0
    with tree_bpf_transport_way.tree(quiet.root, names) as tree:
        for _ in range(2 * MOST_STORMS):
            deadline = time.monotonic() + SECONDS / 8
            with processes(live_and_die):
                while time.monotonic() < deadline:
                    look(tree.read())
                    walks += 1
            if len(mortals) >= 3 and walks >= LEAST_WALKS / 50:
                break
    assert walks >= LEAST_WALKS / 50
    assert len(mortals) >= 3, "none was seen"
