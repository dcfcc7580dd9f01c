# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pinned trees: who refreshes them, what readers see, and what readers cannot do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import mmap
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    PinExistsError,
    PinnedReader,
    PinNotFoundError,
    PinPathError,
    TreeReader,
    TreeTooLargeError,
    UnknownItemError,
    pin_tree,
    unpin,
)
from pymemcgbpf._options import PinTransport
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_programs as _programs
from pymemcgbpf._pins.transaction import PinTransaction

from .cgroups import cgroup, enable_memory, in_child, in_threads, processes
from .forest import Forest, storm
from .oracle import by_text, everything
from .pins import CAN_FLUSH, NOBODY, READ_ERROR, Nobody
from .published import (
    BY_KERNEL,
    counted_runs,
    maps_called,
    programs_run,
    progress,
    published,
    snapshot_of,
    wait_until,
)
from .surroundings import HIERARCHY, IN_LAB, VERSION

pytestmark = pytest.mark.needs_iterator

TRANSPORTS: tuple[PinTransport, ...] = ("map", "stream")
SECONDS = 8.0 if IN_LAB else 5.0


READ = """
with memcg.PinnedReader(sys.argv[1], transport=sys.argv[2]) as reader:
    snapshot = reader.read()
print(json.dumps([[row.id, row.parent_id, row.level, row.path, dict(row)] for row in snapshot]))
"""


# --- who refreshes it, and the numbers ------------------------------------------------


def test_the_kernel_refreshes_a_tree_where_it_can(quiet: Forest, pins: Path) -> None:
    for flush, by_kernel in ((True, BY_KERNEL and CAN_FLUSH), (False, BY_KERNEL)):
        with published(quiet.root, pins / "tree", ["shmem"], flush=flush) as tree:
            assert tree.refreshed_by == ("kernel" if by_kernel else "holder")
            names = {"map", "stream", "timer"} if by_kernel else {"map", "stream"}
            assert set(os.listdir(pins / "tree")) == names
            if VERSION == 1:
                assert "cgroup v2 only" in tree.reason
            elif by_kernel:
                assert tree.reason == ""
            else:
                assert ("no flush" if BY_KERNEL else "bpf_wq_start") in tree.reason


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_user_nobody_reads_the_numbers_of_memory_stat(
    transport: str,
    busy: tuple[Path, Any],
    pins: Path,
    nobody: Nobody,
    caller: Nobody,
    one_backend: str,
) -> None:
    """Every item of every row, after it has been quiet."""
    path, _ = busy
    compared = set()
    who = caller if transport == "map" else nobody
    with published(path.parent, pins / "tree", max_depth=1) as tree:
        for _ in range(3):
            before = by_text(path)
            if not CAN_FLUSH or VERSION == 1:
                time.sleep(2.5)
            wait_for_walks(pins / "tree", 2)
            rows = {row[3]: row[4] for row in who.run(READ, pins / "tree", transport)}
            values = rows[str(path)]
            after = by_text(path)
            for name, value in before.items():
                if value == after[name] and name in values:
                    assert values[name] == value, name
                    compared.add(name)
        expected = [name for name in by_text(path) if name not in ("sock", "hugetlb")]
        assert set(values) >= {name for name in expected if not name.startswith("zswap")}
        assert tree.item_names == tuple(rows[str(path)]) or "memory.pressure" in str(values)
    assert len(compared) >= (14 if VERSION == 1 else 45)


def test_every_row_has_the_numbers_of_all_files(
    quiet: Forest, pins: Path, one_backend: str
) -> None:
    """Of every item that the kernel has, after it has been quiet."""
    with published(quiet.root, pins / "tree", ["*"]), PinnedReader(pins / "tree") as reader:
        time.sleep(2.5)  # until the kernel has flushed by itself, where no program may
        before = {path: everything(path) for path in quiet.paths.values()}
        wait_for_walks(pins / "tree", 2)
        snapshot = snapshot_of(reader)
        after = {path: everything(path) for path in quiet.paths.values()}
    assert set(snapshot.ids) == quiet.paths.keys()
    compared: set[str] = set()
    for row in snapshot:
        path = quiet.paths[row.id]
        for name, value in row.items():
            if name in before[path] and before[path][name] == after[path][name]:
                assert value == before[path][name], (path, name)
                compared.add(name)
    missing = {
        name
        for path in quiet.paths.values()
        for name, value in after[path].items()
        if before[path][name] == value and not name.startswith(("hugetlb", "sock", "zswap"))
    } - compared
    assert len(compared) >= (20 if VERSION == 1 else 70)
    assert not {name for name in missing if name in snapshot.item_names}


def wait_for_walks(path: Path, number: int) -> None:
    """Waits until so many walks have begun and ended."""
    first = progress(path).walks
    wait_until(lambda: progress(path).walks >= first + number + 1)


@pytest.mark.parametrize("order", ["pre", "post", "children"])
@pytest.mark.parametrize("depth", [None, 0, 1])
def test_a_pinned_tree_equals_a_tree_reader_s(
    order: Any, depth: Any, quiet: Forest, pins: Path
) -> None:
    items = ["shmem", "pgfault", "memory.current"]
    options: dict[str, Any] = {"order": order, "max_depth": depth}
    with TreeReader(quiet.root, items, **options) as tree:
        expected = tree.read()
    with published(quiet.root, pins / "tree", items, **options):
        for transport in TRANSPORTS:
            with PinnedReader(pins / "tree", transport=transport) as reader:
                found = snapshot_of(reader)
                assert (reader.transport, reader.order) == (transport, order)
            assert (found.order, found.max_depth) == (order, depth)
            assert found.paths == expected.paths and found.path == str(quiet.root)
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.parent_ids.tolist() == expected.parent_ids.tolist()
            assert found.levels.tolist() == expected.levels.tolist()
            assert found.column("shmem").tolist() == expected.column("shmem").tolist()


def test_readers_find_rows_by_path_and_compare_walks(quiet: Forest, pins: Path) -> None:
    leaf = next(iter(quiet.shmem))
    with published(quiet.root, pins / "tree", ["shmem", "pgfault"]):
        with PinnedReader(pins / "tree") as reader:
            first = snapshot_of(reader)
            row = first.find(quiet.paths[leaf])
            assert row is not None and row["shmem"] == quiet.shmem[leaf] and row.exists()
            assert reader.wait(SECONDS)
            second = snapshot_of(reader)
        assert second.started_ns > first.started_ns and second.paths is first.paths
        changes = second.since(first)
        assert changes.seconds > 0 and (changes.rates("pgfault")[0] or 0) >= 0
        assert 0 <= second.age < SECONDS and abs(time.time() - second.time) < SECONDS


# --- without a process, and its end ---------------------------------------------------


def test_a_tree_outlives_the_process_that_pinned_it(quiet: Forest, pins: Path) -> None:
    leaf, size = next(iter(quiet.shmem.items()))

    def make() -> None:
        tree = pin_tree(quiet.root, pins / "tree", ["shmem"], every=0.05, flush=CAN_FLUSH)
        os.kill(os.getpid(), signal.SIGKILL)
        tree.close()

    assert os.WTERMSIG(killed(make)) == signal.SIGKILL
    with PinnedReader(pins / "tree") as reader:
        for _ in range(3):
            row = snapshot_of(reader).find(quiet.paths[leaf])
            assert row is not None and row["shmem"] == size
            assert reader.wait(0.5 if not BY_KERNEL else SECONDS) == BY_KERNEL
        if not BY_KERNEL:
            assert snapshot_of(reader).age > 1.0
        unpin(pins / "tree")
        with pytest.raises(PinNotFoundError):
            reader.read()


def killed(work: Any) -> int:
    """Runs something in a child, and returns the child's status."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(99)
    return os.waitpid(child, 0)[1]


class _Step:
    """Kills this process at the n-th step of making a pin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
        self.steps, self._last = 0, last
        for kind, name in (
            (PinTransaction, "directory"),
            (PinTransaction, "file"),
            (_programs.KernelRefresh, "start"),
            (_programs.Publisher, "publish"),
        ):
            monkeypatch.setattr(kind, name, self._counting(getattr(kind, name)))
        monkeypatch.setattr(os, "fchmod", self._counting(os.fchmod))
        monkeypatch.setattr(os, "chmod", self._counting(os.chmod))

    def _counting(self, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.steps += 1
            if self.steps == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def test_a_maker_that_is_killed_leaves_nothing_that_unpin_does_not_remove(
    quiet: Forest, pins: Path
) -> None:
    timers, trees = maps_called("memcg_timer"), maps_called("memcg_tree")

    def make(last: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            step = _Step(patch, last)
            pin_tree(quiet.root, pins / "tree", ["shmem"], every=0.01, flush=CAN_FLUSH)
            os._exit(100 + (step.steps < last))

    at = 0
    while True:
        at += 1
        status = killed(functools.partial(make, at))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 101
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        found = set(os.listdir(pins / "tree")) if (pins / "tree").exists() else set()
        assert found <= set(_layout.FILES) and (not found or _layout.STREAM in found)
        wait_for_maps("memcg_timer", timers + (_layout.TIMER in found))
        if (pins / "tree").exists():
            unpin(pins / "tree")
        assert os.listdir(pins) == []
        wait_for_maps("memcg_timer", timers)
        wait_for_maps("memcg_tree", trees)
    assert at > (9 if BY_KERNEL else 6)
    unpin(pins / "tree")


def wait_for_maps(name: str, most: int) -> None:
    """Waits until the kernel has no more maps of a name; it frees them a little later."""
    wait_until(lambda: maps_called(name) <= most)


def test_unpin_ends_the_walks_at_once(quiet: Forest, pins: Path) -> None:
    tree = pin_tree(quiet.root, pins / "tree", ["shmem"], every=0.005, flush=CAN_FLUSH)
    with mapped_head(pins / "tree") as head:
        if tree.refreshed_by == "holder":
            tree.refresh()
            assert _layout.decode_progress(head).walks == 2
            tree.close()
            assert not (pins / "tree").exists()
            assert _layout.decode_progress(head).state == _layout.ENDED
            return
        wait_until(lambda: _layout.decode_progress(head).walks > 5)
        unpin(pins / "tree")
        time.sleep(0.05)  # a walk that had begun
        walks = _layout.decode_progress(head).walks
        time.sleep(0.5)
        assert _layout.decode_progress(head).walks == walks


@contextlib.contextmanager
def mapped_head(path: Path) -> Iterator[mmap.mmap]:
    """The head in the map of a pinned tree."""
    fd = opened_map(path / _layout.MAP)
    try:
        memory = mmap.mmap(fd, _layout.HEAD_SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(fd)
    yield memory
    memory.close()


def opened_map(path: Path) -> int:
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    fd = int(lib.bpf_obj_get(os.fsencode(path)))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def test_a_removed_root_ends_it(pins: Path, nobody: Nobody) -> None:
    with cgroup() as root:
        enable_memory(root)
        (root / "below").mkdir()
        with published(root, pins / "tree", ["anon"], every=0.02) as tree:
            with PinnedReader(pins / "tree") as reader:
                assert len(snapshot_of(reader)) == 2
                (root / "below").rmdir()
                root.rmdir()
                wait_until(lambda: progress(pins / "tree").state == _layout.REMOVED)
                with pytest.raises(CgroupRemovedError, match=str(pins / "tree")):
                    reader.read()
                walks = progress(pins / "tree").walks
                time.sleep(0.2)
                if tree.refreshed_by == "kernel":
                    assert progress(pins / "tree").walks == walks
            assert nobody.run(READ_ERROR, pins / "tree")[0] == "CgroupRemovedError"


def test_a_holder_refreshes_until_it_closes(quiet: Forest, pins: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_programs, "why_not_by_kernel", lambda cgroup: "the test says so")
        tree = pin_tree(quiet.root, pins / "tree", ["shmem"], every=9.0)
    assert (tree.refreshed_by, tree.reason) == ("holder", "the test says so")
    with PinnedReader(pins / "tree") as reader:
        first = snapshot_of(reader)
        assert not reader.wait(0.2)
        tree.refresh()
        assert reader.wait(0) and snapshot_of(reader).started_ns > first.started_ns

        def child() -> None:
            with pytest.raises(MemcgError, match="created it"):
                tree.refresh()
            tree.close()

        assert in_child(child) == 0
        assert snapshot_of(reader).paths == first.paths
        tree.close()
        tree.close()
        with pytest.raises(PinNotFoundError):
            reader.read()
    assert not (pins / "tree").exists()
    with pytest.raises(MemcgError, match="closed"):
        tree.refresh()


# --- size -----------------------------------------------------------------------------


def test_a_tree_that_grows_is_whole_at_the_next_walk(
    empty_cgroup: Path, pins: Path, caller: Nobody
) -> None:
    enable_memory(empty_cgroup)
    many = 800 if IN_LAB else 4000
    made = [empty_cgroup / f"child-with-a-name-that-is-not-short-{at:05}" for at in range(many)]
    with published(empty_cgroup, pins / "tree"):
        with PinnedReader(pins / "tree") as reader:
            assert len(snapshot_of(reader)) == 1
            for child in made:
                child.mkdir()
            wait_for_walks(pins / "tree", 2)
            snapshot = snapshot_of(reader)
            assert set(snapshot.paths) == {str(empty_cgroup), *map(str, made)}
        rows = caller.run(READ, pins / "tree", "map")
        assert {row[3] for row in rows} == set(snapshot.paths)
        for child in made:
            child.rmdir()


def test_a_tree_without_room_is_an_error_until_it_has_room_again(
    empty_cgroup: Path, pins: Path, nobody: Nobody
) -> None:
    enable_memory(empty_cgroup)
    made = [empty_cgroup / f"child-{at}" for at in range(700)]
    with pytest.raises(TreeTooLargeError) as caught:
        for child in made:
            child.mkdir()
        pin_tree(empty_cgroup, pins / "tree", ["anon"], flush=False, room=100)
    assert caught.value.rows == 701 and os.listdir(pins) == []
    for child in made[50:]:
        child.rmdir()
    with (
        published(empty_cgroup, pins / "tree", ["anon"], flush=False, room=100),
        PinnedReader(pins / "tree") as reader,
    ):
        assert len(snapshot_of(reader)) == 51
        for child in made[50:]:
            child.mkdir()
        wait_for_walks(pins / "tree", 1)
        with pytest.raises(TreeTooLargeError, match="room") as caught:
            reader.read()
        assert caught.value.rows == 701
        kind, message = nobody.run(READ_ERROR, pins / "tree")
        assert kind == "TreeTooLargeError" and "701" in message
        for child in made[50:]:
            child.rmdir()
        wait_for_walks(pins / "tree", 1)
        assert len(snapshot_of(reader)) == 51
    for child in made[:50]:
        child.rmdir()


def test_the_room_is_bounded_by_the_machine_s_memory(quiet: Forest, pins: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for items in (["anon"], None):
        with published(quiet.root, pins / "tree", items):
            with (pins / "tree" / "stream").open("rb", buffering=0) as stream:
                head = _layout.decode_head(stream.read(_layout.HEAD_SIZE) or b"")
            assert head.geometry.size <= 1.01 * memory / 64 and 2 * 29 < head.room <= 65536
            assert head.room == 65536 or head.geometry.size > 0.9 * memory / 64


# --- time -----------------------------------------------------------------------------


if BY_KERNEL:  # a holder refreshes when it wants to

    def test_walks_keep_their_interval(quiet: Forest, pins: Path) -> None:
        with published(quiet.root, pins / "tree", ["shmem"], every=0.2):
            wait_for_walks(pins / "tree", 1)
            first, began = progress(pins / "tree"), time.monotonic()
            time.sleep(SECONDS / 2)
            last, ended = progress(pins / "tree"), time.monotonic()
            walks = (ended - began) / 0.2
            assert 0.5 * walks - 2 <= last.walks - first.walks <= walks + 2
            assert last.due_ns > first.due_ns

    def test_an_interval_below_the_duration_of_a_walk_slows_itself(
        empty_cgroup: Path, pins: Path
    ) -> None:
        enable_memory(empty_cgroup)
        made = [empty_cgroup / str(at) for at in range(1000)]
        for child in made:
            child.mkdir()
        with published(empty_cgroup, pins / "tree", every=0.001):
            before, began = progress(pins / "tree"), time.monotonic_ns()
            time.sleep(SECONDS / 2)
            after, ended = progress(pins / "tree"), time.monotonic_ns()
            assert after.walks > before.walks
            assert after.walks_ns - before.walks_ns < 0.3 * (ended - began)
        for child in made:
            child.rmdir()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_readers_do_not_make_the_kernel_walk(transport: Any, quiet: Forest, pins: Path) -> None:
    """Ten readers read often beside one walk each second. The kernel counts what programs run."""
    with published(quiet.root, pins / "tree", ["shmem"], every=1.0) as tree, counted_runs():
        wait_for_walks(pins / "tree", 1)
        if tree.refreshed_by == "holder":
            tree.close()  # so that no walk is among what is counted
            tree = pin_tree(quiet.root, pins / "tree", ["shmem"], flush=CAN_FLUSH)
        before, began = progress(pins / "tree"), time.monotonic()
        runs, reads = programs_run(), []

        def read_on() -> None:
            with PinnedReader(pins / "tree", transport=transport) as reader:
                while time.monotonic() < began + SECONDS:
                    assert len(snapshot_of(reader)) == len(quiet.paths)
                    reads.append(1)
                    time.sleep(0.02)

        in_threads(10, read_on)
        ran = {name: count - runs.get(name, 0) for name, count in programs_run().items()}
        after = progress(pins / "tree")
        assert after.walks - before.walks <= time.monotonic() - began + 2
        assert len(reads) > 10 * (after.walks - before.walks)
        assert {name for name, count in ran.items() if count} <= {"tree_stream"}
        # By stream, the program only copies: it is called for each chunk of the map.
        with (pins / "tree" / "stream").open("rb", buffering=0) as stream:
            chunks = _layout.decode_head(stream.read(_layout.HEAD_SIZE) or b"").geometry.chunks
        most = 2 * (len(reads) + 10) * (chunks + 2) if transport == "stream" else 20
        assert ran.get("tree_stream", 0) <= most
        tree.close()


def test_a_reader_waits_for_the_next_walk(quiet: Forest, pins: Path) -> None:
    with published(quiet.root, pins / "tree", ["shmem"], every=0.3):
        for transport in TRANSPORTS:
            with PinnedReader(pins / "tree", transport=transport) as reader:
                assert reader.wait(0), "nothing was read yet"
                seen = [snapshot_of(reader).started_ns]
                for _ in range(4):
                    used = time.process_time() if not IN_LAB else 0.0
                    assert reader.wait(SECONDS)
                    assert time.process_time() - used < 0.1 or IN_LAB
                    seen.append(snapshot_of(reader).started_ns)
                assert seen == sorted(set(seen))
                latest = snapshot_of(reader).started_ns
                newer = reader.wait(0.001)
                assert newer == (snapshot_of(reader).started_ns > latest) or newer is False


# --- what readers can and cannot do ---------------------------------------------------

TRY_TO_WRITE = """
import ctypes, errno, mmap, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
def bpf(command, attributes):
    memory = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall(number, command, memory, 128)
    return result if result >= 0 else -ctypes.get_errno()
def address(data):
    kept.append(ctypes.create_string_buffer(data, max(len(data), 1)))
    return ctypes.addressof(kept[-1])
kept = []
GET, LOOKUP, UPDATE, DELETE, LOAD, PIN, FREEZE, LINK = 7, 1, 2, 3, 5, 6, 22, 28
path = sys.argv[1]
fd = bpf(GET, struct.pack("=QII", address(path.encode() + b"/map\\0"), 0, 0))
assert fd > 0, fd
size = int(sys.argv[2])
found = {}
key, value = address(bytes(4)), address(bytes(size))
found["update"] = bpf(UPDATE, struct.pack("=IIQQQ", fd, 0, key, value, 0))
found["delete"] = bpf(DELETE, struct.pack("=IIQQ", fd, 0, key, 0))
found["freeze"] = bpf(FREEZE, struct.pack("=I", fd))
def mapping(what, flags):
    try:
        mmap.mmap(fd, 4096, flags, what)
    except OSError as error:
        return -error.errno
    return 0
found["map"] = mapping(mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
readable = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
class Buffer(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("rest", ctypes.c_char * 128)]
buffer = Buffer()
ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(readable), ctypes.byref(buffer), 0)
found["protect"] = 0 if libc.mprotect(buffer.address, 4096, 3) == 0 else -ctypes.get_errno()
# r0 = 0; exit. As a socket filter, the one kind of program that needed no privilege once.
code = struct.pack("=BBhi", 0xb7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
head = struct.pack("=IIQQIIQII", 1, 2, address(code), address(b"GPL\\0"), 0, 0, 0, 0, 0)
found["load"] = bpf(LOAD, head)
for name in ("map", "stream"):
    for flags in ((os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)):
        try:
            other = os.open(path + "/" + name, flags)
            os.write(other, b"x")
            found[name + str(flags)] = 0
        except OSError as error:
            found[name + str(flags)] = -error.errno
timer = bpf(GET, struct.pack("=QII", address(path.encode() + b"/timer\\0"), 0, 0))
found["timer"] = timer if timer < 0 else 0
for change in (lambda: os.chmod(path + "/map", 0o777), lambda: os.unlink(path + "/map"),
               lambda: os.rename(path, path + "2"), lambda: os.rmdir(path)):
    try:
        change()
        found[str(len(found))] = 0
    except OSError as error:
        found[str(len(found))] = -error.errno
print(json.dumps(found))
"""


def test_readers_can_change_nothing(quiet: Forest, pins: Path, caller: Nobody) -> None:
    with published(quiet.root, pins / "tree", ["shmem"]):
        with (pins / "tree" / "stream").open("rb", buffering=0) as stream:
            head = _layout.decode_head(stream.read(_layout.HEAD_SIZE) or b"")
        found = caller.run(TRY_TO_WRITE, pins / "tree", head.geometry.chunk_size)
        assert all(result < 0 for result in found.values()), found
        assert found["update"] == found["map"] == -errno.EPERM
        assert found["protect"] == -errno.EACCES
        assert found["load"] in (-errno.EPERM, -errno.EACCES)
        rows = caller.run(READ, pins / "tree", "map")
        assert {row[0]: row[4]["shmem"] for row in rows if row[0] in quiet.shmem} == quiet.shmem


def test_where_everybody_may_load_programs_only_the_owner_maps(
    quiet: Forest, pins: Path, caller: Nobody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_programs, "_everybody_may_load_programs", lambda: True)
    with published(quiet.root, pins / "tree", ["shmem"]):
        assert stat.S_IMODE((pins / "tree" / "map").stat().st_mode) == 0o600
        code = "reader = memcg.PinnedReader(sys.argv[1]); print(json.dumps([reader.transport, "
        code += "reader.fallback_reason, len(reader.read())]))"
        transport, why, rows = caller.run(code, pins / "tree")
        assert (transport, rows) == ("stream", len(quiet.paths)) and why
        with PinnedReader(pins / "tree") as reader:
            assert reader.transport == "map"


def test_a_tree_has_the_mode_that_was_asked_for(quiet: Forest, pins: Path, nobody: Nobody) -> None:
    umask = os.umask(0o077)
    try:
        with published(quiet.root, pins / "a" / "tree", ["anon"], mode=0o440):
            found = {each.name: mode_of(each) for each in (pins / "a" / "tree").iterdir()}
            found.pop("timer", 0)
            assert found == {"map": 0o660, "stream": 0o440}
            assert mode_of(pins / "a") == mode_of(pins / "a" / "tree") == 0o755
            kind, message = nobody.run(READ_ERROR, pins / "a" / "tree")
            assert kind == "PinPermissionError" and str(pins / "a" / "tree") in message
            # Its owner's choice, too.
            os.chown(pins / "a" / "tree" / "stream", NOBODY, -1)
            assert len(nobody.run(READ, pins / "a" / "tree", "stream")) == len(quiet.paths)
    finally:
        os.umask(umask)
    (pins / "a").rmdir()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_names_readers_see_none(quiet: Forest, pins: Path, nobody: Nobody) -> None:
    with published(quiet.root, pins / "tree", ["shmem"], names=False):
        data = (pins / "tree" / "stream").read_bytes()
        assert b"leaf-" not in data and os.fsencode(quiet.root.name) not in data
        rows = nobody.run(READ, pins / "tree", "stream", hide=HIERARCHY)
        assert {row[3] for row in rows} == {None} and {row[0] for row in rows} == set(quiet.paths)
        rows = nobody.run(READ, pins / "tree", "stream")
        assert {row[0]: row[3] for row in rows} == {at: str(at_) for at, at_ in quiet.paths.items()}
    with published(quiet.root, pins / "tree", ["shmem"]):
        assert b"leaf-" in (pins / "tree" / "stream").read_bytes()
        rows = nobody.run(READ, pins / "tree", "stream", hide=HIERARCHY)
        assert {row[0]: row[3] for row in rows} == {at: str(at_) for at, at_ in quiet.paths.items()}


def test_rows_tell_nothing_of_the_kernel_s_addresses(quiet: Forest, pins: Path) -> None:
    """On cgroup v1 the flags of a walk's rows depend on the addresses of names."""
    with published(quiet.root, pins / "tree", ["shmem"]), PinnedReader(pins / "tree") as reader:
        snapshot = snapshot_of(reader)
    flags = memoryview(snapshot._bytes).cast("I")[5 :: 2 * snapshot._width].tolist()
    assert set(flags) == {0}


# --- what is refused, and leaves nothing behind ---------------------------------------


def test_a_tree_is_pinned_once(quiet: Forest, pins: Path) -> None:
    outcomes: list[str] = []

    def make() -> None:
        try:
            with published(quiet.root, pins / "tree", ["anon"], every=1.0):
                outcomes.append("made")
                barrier.wait()
        except PinExistsError:
            outcomes.append("exists")
            barrier.wait()

    barrier = threading.Barrier(4)
    in_threads(4, make)
    assert sorted(outcomes) == ["exists"] * 3 + ["made"]


def test_a_tree_that_cannot_be_pinned_leaves_nothing(quiet: Forest, pins: Path) -> None:
    for items, kind in (
        (["annon"], UnknownItemError),
        (["memory.numa_stat.anon.N77"], ItemUnavailableError),
    ):
        with pytest.raises(kind):
            pin_tree(quiet.root, pins / "new" / "tree", items, flush=False)
    with pytest.raises(PinPathError, match="dot"):
        pin_tree(quiet.root, pins / "new" / "system.slice", ["anon"], flush=False)
    for path in ("/tmp/pin", HIERARCHY / "new" / "pin"):
        with pytest.raises(PinPathError, match="mount -t bpf bpf /sys/fs/bpf"):
            pin_tree(quiet.root, path, ["anon"], flush=False)
    assert os.listdir(pins) == []


def test_an_interrupted_maker_leaves_nothing(quiet: Forest, pins: Path) -> None:
    fchmod, seen = os.fchmod, []

    def interrupt(fd: int, mode: int) -> None:
        fchmod(fd, mode)
        seen.append(mode)
        if mode == 0o755 and len(seen) > 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fchmod", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pin_tree(quiet.root, pins / "tree", ["anon"], flush=False)
    assert seen == [0o700, 0o755] and os.listdir(pins) == []


# --- storms ---------------------------------------------------------------------------

STORM = """
import time
quiet = {int(key): value for key, value in json.loads(sys.argv[2]).items()}
stop = float(sys.argv[3])
reader, reads, most, seen = memcg.PinnedReader(sys.argv[1], transport=sys.argv[4]), 0, 0, set()
while time.monotonic() < stop:
    try:
        snapshot = reader.read()
    except memcg.MemcgError as error:
        if error.errno != 11:  # EAGAIN: too slow for so many walks
            raise
        continue
    ids = list(snapshot.ids)
    place = {cgroup_id: at for at, cgroup_id in enumerate(ids)}
    assert len(place) == len(ids), "a cgroup twice"
    assert quiet.keys() <= place.keys(), "a cgroup that stays is missing"
    for at, above in enumerate(snapshot.parent_ids):
        assert not at or place[above] < at
    shmem = snapshot.column("shmem")
    for cgroup_id, value in quiet.items():
        assert shmem[place[cgroup_id]] == value
    for at, cgroup_id in enumerate(ids):
        assert cgroup_id in quiet or shmem[at] == 0, "a torn row"
    for path, cgroup_id in zip(snapshot.paths, ids):
        assert path is not None and ("storm" in path or cgroup_id in quiet)
    seen.add(snapshot.started_ns)
    reads, most = reads + 1, max(most, len(ids))
print(json.dumps([reads, most, len(seen)]))
"""


def test_trees_are_read_right_while_cgroups_come_and_go(
    quiet: Forest, pins: Path, nobody: Nobody, caller: Nobody
) -> None:
    """The kernel walks a thousand times a second."""
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    stay = json.dumps({at: quiet.shmem.get(at, None) for at in quiet.paths})
    with TreeReader(quiet.root, ["shmem"]) as tree:
        rows = tree.read().by_id()
    stay = json.dumps({at: rows[at]["shmem"] for at in quiet.paths})
    with published(quiet.root, pins / "tree", ["pgfault", "shmem"], every=0.001):
        deadline = time.monotonic() + (28 if IN_LAB else 10)  # for a Python to begin
        with processes(
            lambda: storm([quiet.root, *groups[::2]], deadline),
            lambda: storm(groups[1::2], deadline),
        ):
            readers = [
                who.start(STORM, pins / "tree", stay, deadline, transport)
                for who, transport in ((caller, "map"), (caller, "map"), (nobody, "stream"))
            ]
            found = [Nobody.end(reader) for reader in readers]
    assert all(reads >= (5 if IN_LAB else 50) for reads, _, _ in found), found
    assert max(most for _, most, _ in found) > len(quiet.paths), "no storm was seen"
    assert min(seen for _, _, seen in found) > 1


def test_pins_come_and_go_while_they_are_read(quiet: Forest, pins: Path) -> None:
    over = threading.Event()
    errors: list[BaseException] = []

    def read_on() -> None:
        while not over.is_set():
            try:
                with PinnedReader(pins / "tree") as reader:
                    for _ in range(5):
                        assert len(snapshot_of(reader)) == len(quiet.paths)
            except PinNotFoundError:
                pass
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3 if IN_LAB else 15):
            with published(quiet.root, pins / "tree", ["shmem"], every=0.01):
                time.sleep(0.02)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []


# --- other readers --------------------------------------------------------------------

if not IN_LAB:  # where there is no compiler

    @pytest.mark.parametrize("transport", TRANSPORTS)
    @pytest.mark.parametrize("items", [["shmem", "pgfault"], None])
    def test_a_reader_in_c(
        transport: str, items: Any, quiet: Forest, pins: Path, tmp_path: Path
    ) -> None:
        source = Path(__file__).resolve().parents[1] / "wire" / "read_tree.c"
        compiler = shutil.which("gcc") or shutil.which("clang")
        assert compiler is not None
        flags = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *flags, "-o", tmp_path / "read", source], check=True)
        with published(quiet.root, pins / "tree", items, every=1.0) as tree:
            ran = subprocess.run(
                [tmp_path / "read", transport, pins / "tree"],
                check=True,
                capture_output=True,
                text=True,
            )
            with PinnedReader(pins / "tree") as reader:
                snapshot = snapshot_of(reader)
        numbers, root, *lines = ran.stdout.splitlines()
        assert len(numbers.split()) == 1 + len(tree.item_names)
        assert root == f"root {quiet.root}"
        at = 4 + tree.item_names.index("shmem")
        found = [(*map(int, (one := line.split())[:3]), one[3], int(one[at])) for line in lines]
        assert found == [
            (row.id, row.parent_id, row.level, os.path.basename(row.path or ""), row["shmem"])
            for row in snapshot
        ]
