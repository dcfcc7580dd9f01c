# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers of pinned trees wait for the next walk."""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import Any

import pytest

from pymemcgbpf import ClosedError, PinnedReader

from ...published_tree import PublishedTree
from ..pin_files import TREE, TREE_NAMES
from ..tree_rows import pack
from .conftest import MappedTrees


@pytest.fixture(params=["map", "stream"])
def reader(
    request: pytest.FixtureRequest, mapped: MappedTrees, tree: PublishedTree
) -> PinnedReader:
    """A reader of a tree that it has read."""
    made = PinnedReader(mapped.add(tree), transport=request.param)
    made.read()
    assert made.transport == request.param
    return made


class Looks:
    """Counts the looks of a reader, and calls a function before one of them."""

    def __init__(self, reader: PinnedReader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: list[float] = []
        self.before: dict[int, Any] = {}
        tree = reader._tree
        assert tree is not None
        look = tree.look

        def counted() -> Any:
            self.times.append(time.monotonic())
            self.before.get(len(self.times), lambda: None)()
            return look()

        monkeypatch.setattr(tree, "look", counted)

    @property
    def delays(self) -> list[float]:
        """The time between two looks."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:])]


def test_a_newer_walk_ends_a_wait(mapped: MappedTrees, tree: PublishedTree) -> None:
    reader = PinnedReader(mapped.add(tree))
    assert reader.wait(0), "nothing was read yet"
    reader.read()
    assert not reader.wait(0)
    tree.publish(pack(*TREE), TREE_NAMES)
    assert reader.wait(0) and reader.wait(), "until it is read"
    reader.read()
    publisher = threading.Timer(0.05, tree.publish, (pack(*TREE), TREE_NAMES))
    publisher.start()
    began = time.monotonic()
    assert reader.wait(30)
    assert 0.03 < time.monotonic() - began < 10
    publisher.join()


@pytest.mark.parametrize("timeout", [0, -5, 0.0, -math.inf])
def test_a_wait_of_no_time_looks_once(
    timeout: float, reader: PinnedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(reader, monkeypatch)
    assert reader.wait(timeout) is False
    assert len(looks.times) == 1


def test_a_timeout_ends_a_wait(reader: PinnedReader) -> None:
    began = time.monotonic()
    assert reader.wait(0.2) is False
    assert 0.2 <= time.monotonic() - began < 10


@pytest.mark.parametrize("timeout", [math.nan, True, "1"])
def test_what_is_no_timeout_is_refused(timeout: Any, reader: PinnedReader) -> None:
    with pytest.raises((TypeError, ValueError)):
        reader.wait(timeout)


def test_a_wait_looks_rarely(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the walk is due after 1, 2, 4 ms and so on, and at most every 50 ms."""
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    tree.set("due_ns", time.monotonic_ns() + 300_000_000)
    looks = Looks(reader, monkeypatch)
    assert not reader.wait(0.6)
    assert looks.delays[0] >= 0.29
    for delay, least in zip(looks.delays[1:], (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05)):
        assert delay >= least
    assert len(looks.times) <= 3 + 6 + 6


def test_a_wait_looks_at_least_eight_times_an_interval(
    mapped: MappedTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = PublishedTree(interval_ns=40_000_000)
    tree.publish(pack(*TREE), TREE_NAMES)
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    looks = Looks(reader, monkeypatch)
    assert not reader.wait(0.2)
    assert 10 < len(looks.times) < 50


def test_a_wait_until_a_distant_time_looks_now_and_then(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it sees that the tree was removed or replaced."""
    tree.set("due_ns", (1 << 64) - 1)
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    looks = Looks(reader, monkeypatch)
    looks.before[2] = lambda: tree.publish(pack(*TREE), TREE_NAMES)
    assert reader.wait(30)
    assert len(looks.times) == 2 and looks.delays[0] >= 0.4


def test_closing_ends_a_wait(reader: PinnedReader) -> None:
    closer = threading.Timer(0.05, reader.close)
    closer.start()
    began = time.monotonic()
    assert reader.wait() is False
    assert time.monotonic() - began < 10
    closer.join()
    with pytest.raises(ClosedError):
        reader.wait(0)


def test_a_signal_handler_may_close_a_waiting_reader(reader: PinnedReader) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: reader.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert reader.wait(30) is False
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_wait_leaves_nothing_behind(reader: PinnedReader) -> None:
    reader.wait(0.01)
    assert reader._wakers == set()


def test_two_threads_may_wait(mapped: MappedTrees, tree: PublishedTree) -> None:
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(reader.wait(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    tree.publish(pack(*TREE), TREE_NAMES)
    for thread in threads:
        thread.join()
    assert found == [True] * 3
