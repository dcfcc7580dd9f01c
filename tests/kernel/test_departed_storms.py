# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Removed cgroups while thousands are removed each second, and what their removal costs."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import TreeReader
from pymemcgbpf._sources import departures as _departures

from .cgroups import enable_memory, processes
from .published import counted_runs
from .surroundings import IN_LAB, VERSION
from .ways import Way

pytestmark = pytest.mark.needs_iterator

SECONDS = 5.0
# A tree of this shape is made and removed again and again.
BRANCHES, LEAVES = 2, 3
_NUMBER = struct.Struct("=Q")


def churn(parent: Path, deadline: float, log: Path) -> None:
    """Makes and removes cgroups, inner ones too, and writes down the ids of all that it removed."""
    removed = []
    while time.monotonic() < deadline:
        made = []
        for branch in range(BRANCHES):
            above = parent / f"branch-{branch}"
            above.mkdir()
            enable_memory(above)
            made.append(above)
            for leaf in range(LEAVES):
                made.append(above / f"leaf-{leaf}")
                made[-1].mkdir()
        removed += [path.stat().st_ino for path in made]
        for path in reversed(made):
            path.rmdir()
    log.write_bytes(b"".join(map(_NUMBER.pack, removed)))


def removed_ids(log: Path) -> list[int]:
    return [number for (number,) in _NUMBER.iter_unpack(log.read_bytes())]


@contextlib.contextmanager
def storms(root: Path, logs: list[Path], seconds: float) -> Iterator[float]:
    """A process for each log; the moment when they end."""
    deadline = time.monotonic() + seconds
    parents = [root / f"storm-{at}" for at in range(len(logs))]
    for parent in parents:
        parent.mkdir()
        enable_memory(parent)
    works = [
        lambda parent=parent, log=log: churn(parent, deadline, log)
        for parent, log in zip(parents, logs)
    ]
    with processes(*works):
        yield deadline


class Follower:
    """Reads a tree, and checks of each read what holds, whatever comes and goes."""

    def __init__(self, tree: TreeReader) -> None:
        self._tree = tree
        self._rows: set[int] = set()  # of the last read
        self.departed: list[int] = []
        self.gone: set[int] = set()
        self.lost = self.reads = self.both = 0

    def read(self) -> None:
        snapshot = self._tree.read()
        departed = snapshot.departed
        assert departed is not None
        rows, ids = set(snapshot.ids), list(departed.ids)
        assert not rows & self.gone, "a row of one that had departed before this read"
        if not departed.lost:
            assert self._rows - rows <= self.gone.union(ids), "in neither"
        times = list(departed.removed_ns)
        assert times == sorted(times)
        root = str(self._tree.path)
        for path, parent in zip(departed.paths, departed.parent_ids):
            assert path is not None and path.startswith(f"{root}/storm-") and parent
        self.both += len(rows.intersection(ids))
        self.departed += ids
        self.gone.update(ids)
        self.lost += departed.lost
        self._rows = rows
        self.reads += 1

    def check(self, removed: list[int]) -> None:
        """What must be so in the end, if these were removed while it looked."""
        assert len(self.departed) == len(self.gone), "one twice"
        assert self.gone <= set(removed)
        assert len(self.departed) + self.lost == len(removed)


def test_none_is_missed_and_none_is_seen_twice(
    empty_cgroup: Path, tree_bpf_way: Way, tmp_path: Path
) -> None:
    enable_memory(empty_cgroup)
    logs = [tmp_path / "0", tmp_path / "1"]
    items = ["memory.current", "pgfault"]
    with (
        tree_bpf_way.tree(empty_cgroup, items, departed=True) as tree,
        tree_bpf_way.tree(empty_cgroup, items, order="post", departed=True) as other,
        tree_bpf_way.tree(empty_cgroup, items, order="self", departed=True) as slow,
    ):
        followers = [Follower(each) for each in (tree, other)]
        late = Follower(slow)
        late.read()
        with storms(empty_cgroup, logs, SECONDS) as deadline:
            while time.monotonic() < deadline:
                for follower in followers:
                    follower.read()
                if time.monotonic() > deadline - 0.7 * SECONDS and late.reads == 1:
                    late.read()
        removed = [each for log in logs for each in removed_ids(log)]
        for follower in (*followers, late):
            follower.read()
            follower.check(removed)
    assert followers[0].lost == followers[1].lost == 0
    assert len(removed) > (100 if IN_LAB else 2000)
    print(
        f"{len(removed) / SECONDS:.0f} removals a second, {followers[0].reads} reads, "
        f"{followers[0].both} in both, {late.lost} lost by the slow one"
    )


def test_many_at_once_and_a_reader_that_comes_late(
    empty_cgroup: Path, tree_bpf_way: Way, tmp_path: Path
) -> None:
    """As many as there is room for."""
    enable_memory(empty_cgroup)
    number = 300 if IN_LAB else _departures.CGROUPS
    halves = [empty_cgroup / f"storm-{at}" for at in range(2)]
    for half in halves:
        half.mkdir()
        enable_memory(half)
        for at in range(number // 2):
            (half / f"{at}").mkdir()
    removed = [path.stat().st_ino for half in halves for path in half.iterdir() if path.is_dir()]
    items = ["memory.current", "pgfault"]
    with (
        tree_bpf_way.tree(empty_cgroup, items, departed=True) as tree,
        tree_bpf_way.tree(empty_cgroup, items, departed=True) as late,
    ):
        followers = Follower(tree), Follower(late)
        for follower in followers:
            follower.read()
        began = time.monotonic()
        latest = began + 300

        def remove(half: Path) -> None:
            for at in range(number // 2):
                (half / f"{at}").rmdir()

        with processes(lambda: remove(halves[0]), lambda: remove(halves[1])):
            while followers[0].lost + len(followers[0].departed) < number:
                assert time.monotonic() < latest, "some are missed"
                followers[0].read()
        seconds = time.monotonic() - began
        followers[1].read()
        for follower in followers:
            follower.check(removed)
            assert follower.lost == 0
    print(f"{number / seconds:.0f} removals a second, {followers[0].reads} reads")


def test_a_reader_that_is_too_slow_counts_the_others(
    empty_cgroup: Path, tree_bpf_way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_departures, "CGROUPS", 20)
    enable_memory(empty_cgroup)
    log = tmp_path / "0"
    with tree_bpf_way.tree(empty_cgroup, ["pgfault"], order="self", departed=True) as tree:
        follower = Follower(tree)
        seconds, pause = (8.0, 2.5) if IN_LAB else (2.0, 0.2)
        with storms(empty_cgroup, [log], seconds) as deadline:
            while time.monotonic() < deadline:
                time.sleep(pause)
                follower.read()
        follower.read()
        follower.check(removed_ids(log))
        assert follower.lost and follower.departed


if not IN_LAB:  # emulated machines have other times

    def spent(tree: TreeReader) -> tuple[int, int]:
        """The time that the program has taken, in nanoseconds, and how often it has run."""
        departures = tree._departures
        assert departures is not None
        text = Path(f"/proc/self/fdinfo/{departures._program.fd}").read_text()
        fields = dict(line.split(":") for line in text.splitlines())
        return int(fields["run_time_ns"]), int(fields["run_cnt"])

    def nanoseconds(tree: TreeReader, parent: Path) -> float:
        """How long the program takes when a child of a cgroup is removed: the least of many means,
        because other tasks and interrupts take time, too."""
        means = []
        for _ in range(60):
            before = spent(tree)
            for at in range(10):
                (parent / f"{at}").mkdir()
                (parent / f"{at}").rmdir()
            time_taken, runs = (now - then for now, then in zip(spent(tree), before))
            means.append(time_taken / runs)
            tree.read()
        return min(means)

    @pytest.mark.parametrize(
        "items",
        [
            ["memory.peak", "memory.events.oom_kill"],
            ["memory.current", "memory.peak", "anon", "file", "pgfault", "memory.events.oom_kill"],
            ["*"],
        ],
        ids=["2 items", "6 items", "all items"],
    )
    def test_rmdir_takes_little_longer(items: list[str], empty_cgroup: Path) -> None:
        for name in ("here", "elsewhere"):
            (empty_cgroup / name).mkdir()
            if VERSION == 2:
                enable_memory(empty_cgroup / name)
        here, elsewhere = empty_cgroup / "here", empty_cgroup / "elsewhere"
        with counted_runs(), TreeReader(here, items, departed=True) as tree:
            below, beside = nanoseconds(tree, here), nanoseconds(tree, elsewhere)
        print(f"{below:.0f} ns below the root, {beside:.0f} ns elsewhere, {os.cpu_count()} CPUs")
        # Twice what it takes here, as another machine may be slower.
        assert below < (3500 if "*" not in items else 8000) and beside < 1000
