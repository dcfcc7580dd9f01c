# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Walks while cgroups are made and removed: whole rows, no row twice, nothing left open."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import Snapshot

from ..open_files import open_files
from .cgroups import in_child
from .forest import Forest, forest, storm
from .surroundings import IN_LAB
from .ways import TEXT, Way

SECONDS = 8.0
# In that time; a guest is some fifty times slower.
LEAST_WALKS = 1000 if IN_LAB else 10000


@pytest.fixture(scope="module")
def quiet() -> Iterator[Forest]:
    """Cgroups that stay, among those that come and go."""
    with forest(8, 6) as made:
        yield made


@contextlib.contextmanager
def storms(parents: list[Path], seconds: float) -> Iterator[None]:
    """Two processes that make and remove cgroups below these, for so long."""
    deadline = time.monotonic() + seconds
    pids = []
    for half in (parents[::2], parents[1::2]):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                storm(half, deadline)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    try:
        yield
    finally:
        ended = [os.waitpid(pid, 0)[1] for pid in pids]
        assert ended == [0, 0], "a storm failed"


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
            assert shmem[at] == 0, "nobody was ever in there"


@pytest.mark.parametrize("order", ["pre", "post"])
def test_walks_in_a_storm(order: str, quiet: Forest, tree_bpf_way: Way) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    walks = came_and_went = 0
    with tree_bpf_way.tree(quiet.root, ["pgfault", "shmem"], order=order) as tree:
        before = open_files()
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
        assert open_files() == before
    assert walks >= LEAST_WALKS / 2
    assert came_and_went >= walks / 50, "no storm was seen"


def test_text_walks_in_a_storm(quiet: Forest) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    walks = 0
    with TEXT.tree(quiet.root, ["shmem"]) as tree, storms([quiet.root, *groups], SECONDS / 2):
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            check(tree.read(), quiet, mutex_held=False)
            walks += 1
    assert walks >= LEAST_WALKS / 100


def test_paths_in_a_storm(quiet: Forest, tree_bpf_way: Way) -> None:
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


def test_readers_made_in_a_storm(quiet: Forest, tree_way: Way) -> None:
    """Beginning with the walk of the opening, on the cgroups that stay and that go."""

    def work() -> None:
        with storms([quiet.root], SECONDS / 4):
            end = time.monotonic() + SECONDS / 4
            while time.monotonic() < end:
                with tree_way.tree(quiet.root, ["shmem"]) as tree:
                    check(tree.read(), quiet, mutex_held=False)

    assert in_child(work) == 0
