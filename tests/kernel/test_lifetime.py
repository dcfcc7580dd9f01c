# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Links and files: what is held for how long, and what happens when a cgroup goes."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Union

import pytest

import pymemcgbpf
from pymemcgbpf import (
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupRemovedError,
    ClosedError,
    NotACgroupError,
    StatsReader,
    TreeReader,
    read_stats,
)

from ..open_files import open_files
from .cgroups import (
    LAG,
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    give_up_rights,
    in_child,
    in_threads,
    may_call_bpf,
    remove,
)
from .surroundings import BEST_BACKEND, HIERARCHY, IN_LAB
from .ways import BEST_STAT_WAY, Way

ITEMS = ["anon", "pgfault"]


def test_a_thousand_reads_leave_nothing_open(empty_cgroup: Path, way: Way) -> None:
    with way.stats(empty_cgroup, ITEMS) as reader:
        before = open_files()
        for _ in range(1000):
            reader.read()
        assert open_files() == before


# In a process of its own, where nothing else takes memory; thrice, as what leaks does so each time,
# and what the interpreter touches late it touches once.
READING = """
import gc, os, sys
from pymemcgbpf import StatsReader
def anonymous():
    with open("/proc/self/smaps_rollup") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line[:10] == "Anonymous:")
path, backend, transport, reads = sys.argv[1:]
with StatsReader(path, ["anon", "pgfault"], backend=backend, transport=transport) as reader:
    for _ in range(2000):
        reader.read()
    gc.collect()
    files, grown = os.listdir("/proc/self/fd"), []
    for _ in range(3):
        memory = anonymous()
        for _ in range(int(reads)):
            reader.read()
        gc.collect()
        grown.append(anonymous() - memory)
    print(min(grown), os.listdir("/proc/self/fd") == files)
"""
# Under emulation a read through BPF takes 0.1 ms, and one of text ten times as much.
READS = 10_000 if IN_LAB else 100_000


def test_many_reads_do_not_grow_memory_or_descriptors(empty_cgroup: Path, way: Way) -> None:
    reads = READS if way.backend != "text" else READS // 10
    command = [sys.executable, "-c", READING, str(empty_cgroup), *way, str(reads)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    grown, same_files = ran.stdout.split()
    assert int(grown) <= 65536 and same_files == "True"


def test_readers_leave_nothing_behind(empty_cgroup: Path, way: Way) -> None:
    with way.stats(empty_cgroup, ITEMS):
        before = open_files()
        for _ in range(100):
            way.stats(empty_cgroup, ITEMS).close()
        assert open_files() == before


def test_a_reader_without_references_closes_itself(empty_cgroup: Path, way: Way) -> None:
    before = open_files()
    reader = way.stats(empty_cgroup, [*ITEMS, "memory.current"])
    assert open_files() != before
    del reader
    pymemcgbpf.clear_cache()
    gc.collect()
    assert open_files() == before


def left_without_garbage_collection(make: Callable[[], Union[StatsReader, TreeReader]]) -> int:
    """How many more files are open after readers were made and forgotten."""
    make().close()  # its program is kept
    before = open_files()
    gc.disable()
    try:
        for _ in range(3):
            make().read()
        pymemcgbpf.clear_cache()
        return len(open_files()) - len(before)
    finally:
        gc.enable()


def test_a_reader_without_references_needs_no_garbage_collection(
    empty_cgroup: Path, way: Way
) -> None:
    assert left_without_garbage_collection(lambda: way.stats(empty_cgroup, ["anon"])) <= 0
    assert left_without_garbage_collection(lambda: StatsReader(empty_cgroup, ["anon"])) <= 0


def test_a_tree_reader_without_references_needs_no_garbage_collection(
    empty_cgroup: Path, tree_way: Way
) -> None:
    assert left_without_garbage_collection(lambda: tree_way.tree(empty_cgroup, ["anon"])) <= 0


def test_many_cgroups_share_one_loaded_program(empty_cgroup: Path, bpf_way: Way) -> None:
    def programs() -> int:
        return sum("bpf-prog" in kind for kind in open_files().values())

    with (
        bpf_way.stats(empty_cgroup, ITEMS),
        cgroup() as other,
    ):
        before = programs()
        with bpf_way.stats(other, ITEMS):
            assert programs() == before > 0


def test_closing_twice_is_allowed_and_reading_after_it_is_an_error(
    empty_cgroup: Path, way: Way
) -> None:
    reader = way.stats(empty_cgroup, ITEMS)
    reader.close()
    reader.close()
    with pytest.raises(ClosedError, match="closed"):
        reader.read()
    assert reader.item_names == tuple(ITEMS)
    assert reader.backend == way.backend


def test_a_removed_cgroup_is_a_clear_error(way: Way) -> None:
    with cgroup() as path:
        reader = way.stats(path, ITEMS)
        reader.read()
        remove(path)
        for _ in range(3):
            with pytest.raises(CgroupRemovedError, match="was removed"):
                reader.read()
        reader.close()


def test_a_cgroup_made_again_at_the_same_path_is_another_one(way: Way) -> None:
    with cgroup() as path:
        reader = way.stats(path, ITEMS)
        old = reader.cgroup_id
        remove(path)
        path.mkdir()
        with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
            reader.read()
        reader.close()
        with way.stats(path, ITEMS) as new:
            assert new.cgroup_id != old
            assert new.read()["anon"] == 0


def test_read_stats_follows_the_path() -> None:
    with cgroup() as path:
        with Worker(path, lambda: fault_in(1 << 20)):
            assert read_stats(path, ["anon"])["anon"] >= (1 << 20) - LAG * mmap.PAGESIZE
        remove(path)
        with pytest.raises(CgroupNotFoundError):
            read_stats(path, ["anon"])
        path.mkdir()
        assert read_stats(path, ["anon"]) == {"anon": 0}
        # Removed and made again between two calls.
        remove(path)
        path.mkdir()
        assert read_stats(path, ["anon"]) == {"anon": 0}


def test_an_equal_inode_number_on_another_file_system_is_another_cgroup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert os.stat("/sys").st_ino == os.stat(HIERARCHY).st_ino
    monkeypatch.chdir(HIERARCHY)
    assert read_stats(".", ["anon"])["anon"] > 0
    monkeypatch.chdir("/sys")
    with pytest.raises(NotACgroupError):
        read_stats(".", ["anon"])


def test_read_stats_serves_more_cgroups_than_its_cache_holds(empty_cgroup: Path) -> None:
    def links() -> int:
        return sum("bpf_link" in kind for kind in open_files().values())

    before = links()
    enable_memory(empty_cgroup)
    children = [empty_cgroup / str(number) for number in range(40)]
    for child in children:
        child.mkdir()
        assert read_stats(child, ITEMS, flush=False) == {"anon": 0, "pgfault": 0}
    kept = 32 if BEST_STAT_WAY.transport == "stream" else 0
    assert links() - before == kept, "a program that is run has no link"
    for child in children:
        assert read_stats(child, ITEMS, flush=False)["anon"] == 0
    pymemcgbpf.clear_cache()
    assert links() == before


def test_readers_open_while_cgroups_come_and_go(way: Way) -> None:
    """mkdir and rmdir against opening and reading: the documented errors and no others."""
    with cgroup() as parent:
        enable_memory(parent)
        path = parent / "child"
        stop = threading.Event()

        def storm() -> None:
            while not stop.is_set():
                path.mkdir()
                time.sleep(0.0005)
                remove(path)

        thread = threading.Thread(target=storm)
        thread.start()
        outcomes: dict[str, int] = {}
        try:
            deadline = time.monotonic() + 60
            while sum(outcomes.values()) < 300 and time.monotonic() < deadline:
                outcome = "read"
                try:
                    with way.stats(path, ITEMS) as reader:
                        assert reader.backend == way.backend
                        values = reader.read()
                        assert list(values) == ITEMS
                except (CgroupNotFoundError, CgroupRemovedError) as error:
                    outcome = type(error).__name__
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        finally:
            stop.set()
            thread.join()
        assert sum(outcomes.values()) == 300, outcomes
        assert set(outcomes) <= {"read", "CgroupNotFoundError", "CgroupRemovedError"}


def test_threads_share_one_reader(empty_cgroup: Path, way: Way) -> None:
    # Not anon: khugepaged makes it grow behind our back.
    with (
        Worker(empty_cgroup, lambda: fault_in(1 << 20, shared=True)),
        way.stats(empty_cgroup, ["pgfault", "shmem"]) as reader,
    ):
        expected = reader.read()

        def work() -> None:
            for _ in range(300):
                assert reader.read() == expected

        in_threads(4, work)


def test_threads_share_read_stats() -> None:
    with cgroup() as one, cgroup() as two:

        def work() -> None:
            for _ in range(100):
                for path in (one, two):
                    assert read_stats(path, ITEMS) == {"anon": 0, "pgfault": 0}

        in_threads(4, work)


def test_a_close_ends_the_reads_of_other_threads(empty_cgroup: Path, way: Way) -> None:
    for _ in range(5):
        reader = way.stats(empty_cgroup, ITEMS)
        started = threading.Barrier(4)

        def work(reader: StatsReader = reader, started: threading.Barrier = started) -> None:
            started.wait()
            with pytest.raises(ClosedError):
                while True:
                    assert reader.read() == {"anon": 0, "pgfault": 0}

        def close(reader: StatsReader = reader, started: threading.Barrier = started) -> None:
            started.wait()
            time.sleep(0.01)
            reader.close()

        closer = threading.Thread(target=close)
        closer.start()
        in_threads(3, work)
        closer.join()


def test_a_signal_handler_may_read_too(empty_cgroup: Path, way: Way) -> None:
    expected = {"anon": 0, "pgfault": 0}
    inside: list[dict[str, int]] = []
    with way.stats(empty_cgroup, ITEMS) as reader:
        before = signal.signal(signal.SIGALRM, lambda *_: inside.append(reader.read()))
        try:
            deadline = time.monotonic() + 30
            while len(inside) < 100 and time.monotonic() < deadline:
                # Not periodic: a slow handler would interrupt itself endlessly.
                so_far = len(inside)
                signal.setitimer(signal.ITIMER_REAL, 0.00001 * (1 + so_far))
                while len(inside) == so_far and time.monotonic() < deadline:
                    assert reader.read() == expected
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert len(inside) >= 100
    assert all(values == expected for values in inside)


class Interrupted(BaseException):
    """What a signal handler raises, as KeyboardInterrupt is."""


STEPS = 20 if IN_LAB else 60


def test_an_interrupt_during_a_load_is_not_lost(
    empty_cgroup: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    def work() -> None:
        signal.signal(signal.SIGALRM, interrupt)
        interrupted = 0
        for step in range(STEPS):
            pymemcgbpf.clear_cache()
            try:
                # Set off somewhere during the load, or a little after.
                signal.setitimer(signal.ITIMER_REAL, lasts * (1 + step) * 1.5 / STEPS)
                with StatsReader(empty_cgroup, ITEMS, backend=BEST_BACKEND):
                    time.sleep(60)
            except Interrupted:
                interrupted += 1
        assert interrupted == STEPS

    StatsReader(empty_cgroup, ITEMS, backend=BEST_BACKEND).close()
    pymemcgbpf.clear_cache()
    begun = time.monotonic()
    StatsReader(empty_cgroup, ITEMS, backend=BEST_BACKEND).close()
    lasts = time.monotonic() - begun
    # In a child: an exception between any two steps of Python may leave a file open.
    assert in_child(work) == 0
    assert capfd.readouterr().err == ""


def test_a_child_after_fork_reads_and_closes_its_own(empty_cgroup: Path, way: Way) -> None:
    with way.stats(empty_cgroup, ITEMS) as reader:
        stop = threading.Event()

        def read_on() -> None:
            while not stop.is_set():
                reader.read()

        # Another thread is likely to hold the reader's lock at the moment of the fork.
        thread = threading.Thread(target=read_on)
        thread.start()

        def child() -> None:
            assert reader.read() == {"anon": 0, "pgfault": 0}
            reader.close()
            assert read_stats(empty_cgroup, ITEMS) == {"anon": 0, "pgfault": 0}

        try:
            for _ in range(10):
                assert in_child(child) == 0
        finally:
            stop.set()
            thread.join()
        assert reader.read() == {"anon": 0, "pgfault": 0}


def test_a_forked_child_without_privileges_can_read_on(empty_cgroup: Path, way: Way) -> None:
    """Nothing is to be loaded: what the reader has open is enough, where the kernel lets it call
    bpf()."""
    expected = {"anon": 0, "pgfault": 0}
    with way.stats(empty_cgroup, ITEMS) as reader, StatsReader(empty_cgroup, ITEMS) as auto:
        backend = auto.backend

        def child() -> None:
            give_up_rights()
            may_read_on = may_call_bpf()
            for _ in range(3):
                assert auto.read() == expected
                if may_read_on or way.backend == "text":
                    assert reader.read() == expected
                else:
                    with pytest.raises(BpfPermissionError):
                        reader.read()
            assert reader.backend == way.backend
            assert auto.backend == (backend if may_read_on else "text")
            assert read_stats(empty_cgroup, ITEMS) == expected

        assert in_child(child) == 0
