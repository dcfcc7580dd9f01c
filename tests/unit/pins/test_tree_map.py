# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pinned trees are read by their maps; memory of this process stands for a map."""

from __future__ import annotations

import errno
import gc
import hashlib
import mmap
import os
import socket
import struct
import threading
import time
import tracemalloc
import weakref
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    PinnedReader,
    PinNotFoundError,
    PinPathError,
    Snapshot,
    StreamError,
    TreeTooLargeError,
    _wire,
)
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_map as _tree_map
from pymemcgbpf._pins import tree_walk as _tree_walk

from ...published_tree import PGSCAN, PublishedTree
from ..directories import said_to_be
from ..pin_files import TREE, TREE_NAMES, pinned_file, published, stream
from ..tree_rows import pack
from .conftest import MappedTrees


def read_tree(reader: PinnedReader) -> Snapshot:
    snapshot = reader.read()
    assert isinstance(snapshot, Snapshot)
    return snapshot


def many(count: int) -> tuple[bytes, list[bytes]]:
    """The rows and the names of a tree of this size."""
    rows = [_wire.RawRow(10 + at, 10 if at else 1, 2, 0, (at, 2 * at)) for at in range(count)]
    return pack(*rows), [b"cgroup-%d.service" % at for at in range(count)]


# --- what is read ---------------------------------------------------------------------


def test_a_tree_is_read_as_it_was_published(mapped: MappedTrees, tree: PublishedTree) -> None:
    tree.publish(pack(*TREE), TREE_NAMES, started_ns=time.monotonic_ns() - 2_000_000_000)
    path = mapped.add(tree)
    with PinnedReader(path) as reader:
        assert (reader.transport, reader.fallback_reason, reader.path) == ("map", "", str(path))
        assert (reader.order, reader.item_names) == ("pre", ("anon", "pgscan"))
        assert reader.interval == 1.0
        snapshot = read_tree(reader)
        assert [row.id for row in snapshot] == [10, 11, 12, 13]
        assert snapshot.column("anon").tolist() == [100, 101, 102, 103]
        assert snapshot.path == "/sys/fs/cgroup/root"
        assert snapshot.paths == (
            "/sys/fs/cgroup/root",
            "/sys/fs/cgroup/root/one.service",
            "/sys/fs/cgroup/root/two.slice",
            "/sys/fs/cgroup/root/two.slice/three.service",
        )
        assert snapshot.ids.readonly and snapshot.duration_ns == 1000
        assert 2 <= snapshot.age < 60
        assert snapshot.time == pytest.approx(time.time() - snapshot.age, abs=0.1)
        assert snapshot.max_depth is None


def test_a_snapshot_outlives_the_walk_and_the_reader(
    mapped: MappedTrees, tree: PublishedTree
) -> None:
    reader = PinnedReader(mapped.add(tree))
    snapshot = read_tree(reader)
    for value in range(5):
        tree.publish(pack(*(row._replace(values=(value, 0)) for row in TREE)), TREE_NAMES)
    assert snapshot.column("anon").tolist() == [100, 101, 102, 103]
    assert read_tree(reader).column("anon").tolist() == [4] * 4
    reader.close()
    assert len(snapshot.paths) == 4


def test_paths_are_made_once_while_the_tree_is_the_same(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = _layout.decode_text

    def counted(chunks: Any, nr_rows: int) -> list[bytes]:
        decoded.append(nr_rows)
        return decode(chunks, nr_rows)

    monkeypatch.setattr(_layout, "decode_text", counted)
    reader = PinnedReader(mapped.add(tree))
    first = read_tree(reader)
    tree.publish(pack(*TREE), TREE_NAMES)
    again = read_tree(reader)
    assert again.paths is first.paths and decoded == [4]
    names = [*TREE_NAMES[:3], b"renamed"]
    tree.publish(pack(*TREE), names, signature=2)
    assert read_tree(reader).paths[3] == "/sys/fs/cgroup/root/two.slice/renamed"
    tree.publish(pack(*TREE[:3]), names[:3], signature=2)
    assert len(read_tree(reader).paths) == 3
    tree.publish(pack(*TREE[:3]), names[:3], signature=2, root_path=b"/moved")
    assert read_tree(reader).paths[1] == "/moved/one.service"
    assert decoded == [4, 4, 3, 3]
    assert first.paths[3] == "/sys/fs/cgroup/root/two.slice/three.service"


def test_a_tree_without_names_has_the_paths_that_are_visible_here(
    mapped: MappedTrees, tmp_path: Path
) -> None:
    tree = PublishedTree(flags=0)
    tree.publish(pack(*TREE))
    snapshot = read_tree(PinnedReader(mapped.add(tree)))
    assert (snapshot.path, snapshot.paths) == (None, (None,) * 4)


def test_the_interval_is_none_where_there_is_none(mapped: MappedTrees) -> None:
    tree = PublishedTree(interval_ns=0)
    tree.publish(pack(*TREE), TREE_NAMES)
    assert PinnedReader(mapped.add(tree)).interval is None


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_order_and_the_depth_are_the_tree_s(order: int, mapped: MappedTrees) -> None:
    tree = PublishedTree(order=order, max_depth=3)
    rows, names = {
        2: (TREE, TREE_NAMES),
        3: (TREE[::-1], TREE_NAMES[::-1]),
        5: (TREE[1:3], TREE_NAMES[1:3]),
    }[order]
    tree.publish(pack(*rows), names)
    snapshot = read_tree(PinnedReader(mapped.add(tree)))
    assert (snapshot.order, snapshot.max_depth) == (
        {2: "pre", 3: "post", 5: "children"}[order],
        3,
    )
    assert snapshot.by_path()["/sys/fs/cgroup/root/two.slice"].id == 12


def test_children_may_be_none_but_a_tree_has_a_root(mapped: MappedTrees) -> None:
    children = PublishedTree(order=5)
    children.publish(b"")
    assert len(read_tree(PinnedReader(mapped.add(children, "children")))) == 0
    tree = PublishedTree()
    tree.publish(b"")
    with pytest.raises(CgroupRemovedError):
        PinnedReader(mapped.add(tree)).read()


def test_an_item_of_a_newer_version_is_named_by_its_number(mapped: MappedTrees) -> None:
    tree = PublishedTree(items=(30000, PGSCAN))
    tree.publish(pack(*TREE), TREE_NAMES)
    reader = PinnedReader(mapped.add(tree))
    assert reader.item_names == ("#30000", "pgscan")
    assert read_tree(reader)[0]["#30000"] == 100


# --- what is mapped -------------------------------------------------------------------


def test_only_what_is_used_of_a_map_is_mapped(mapped: MappedTrees) -> None:
    tree = PublishedTree(room=20_000)
    tree.publish(*many(40))
    reader = PinnedReader(mapped.add(tree))
    assert mapped.windows == [(0, 12288)]
    reader.read()
    assert sum(size for _, size in mapped.windows) < 8 * 36864 < tree.division.size / 5
    opened = mapped.opened
    for count in (40, 41, 42):
        tree.publish(*many(count), signature=count)
        assert len(read_tree(reader)) == count
    assert mapped.opened == opened, "there is room for some more in each half"


def test_more_is_mapped_when_the_tree_grows(mapped: MappedTrees) -> None:
    tree = PublishedTree(room=20_000)
    tree.publish(*many(1))
    reader = PinnedReader(mapped.add(tree))
    for count in (1, 30, 500, 5, 20_000, 7, 12_345):
        tree.publish(*many(count), signature=count)
        snapshot = read_tree(reader)
        assert len(snapshot) == count and snapshot[-1]["anon"] == count - 1
        assert snapshot.paths[-1] == (
            f"/sys/fs/cgroup/root/cgroup-{count - 1}.service" if count > 1 else snapshot.path
        )
    assert isinstance(reader._tree, _tree_map.MappedTree) and reader._tree._memory is not None
    assert len(reader._tree._memory._parts) == 4
    opened = mapped.opened
    tree.publish(*many(20_000), signature=1)
    reader.read()
    assert mapped.opened == opened


def test_a_read_takes_the_memory_of_its_rows(mapped: MappedTrees) -> None:
    tree = PublishedTree(room=5001)
    rows, names = many(5001)
    tree.publish(rows, names)
    reader = PinnedReader(mapped.add(tree))
    read_tree(reader)
    tracemalloc.start()
    try:
        snapshot = read_tree(reader)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(snapshot) == 5001
    assert kept < len(rows) + 4096 and peak < len(rows) + 16384


# --- walks that are written meanwhile --------------------------------------------------


class Interrupted:
    """Calls a function when a reader has copied the rows and has not yet looked whether they are
    whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
        self.times = 0
        is_whole = _tree_map.TreeMemory._is_whole

        def after(memory: _tree_map.TreeMemory, number: int) -> bool:
            self.times += 1
            then()
            return is_whole(memory, number)

        monkeypatch.setattr(_tree_map.TreeMemory, "_is_whole", after)


def test_a_walk_that_is_begun_meanwhile_harms_nothing(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    interrupted = Interrupted(monkeypatch, lambda: tree.begin() if interrupted.times == 1 else None)
    assert read_tree(reader).column("anon").tolist() == [100, 101, 102, 103]
    assert interrupted.times == 1


def test_a_walk_that_is_overwritten_meanwhile_is_read_again(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PinnedReader(mapped.add(tree))
    reader.read()

    def publish_two() -> None:
        if interrupted.times <= 3:
            tree.publish(pack(*(row._replace(values=(1, 1)) for row in TREE)), TREE_NAMES)
            tree.begin()
            tree.memory[tree.division.half_at(tree.number) :][:100] = bytes(100)
            tree.write(pack(*(row._replace(values=(2, 2)) for row in TREE)), TREE_NAMES)
            tree.end()

    interrupted = Interrupted(monkeypatch, publish_two)
    assert read_tree(reader).column("anon").tolist() == [2] * 4
    assert interrupted.times == 4


def test_a_head_that_is_overwritten_while_it_is_read_is_no_error(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes no sense because it was overwritten is read again, and not reported."""
    reader = PinnedReader(mapped.add(tree))
    calls = []

    def check(*arguments: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            tree.publish(pack(*TREE), TREE_NAMES)
            tree.begin()
            raise StreamError("it makes no sense")

    monkeypatch.setattr(_layout, "check_half", check)
    assert len(read_tree(reader)) == 4 and len(calls) > 1


def test_a_reader_that_is_always_too_slow_says_so(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)

    def publish_two() -> None:
        tree.publish(pack(*TREE), TREE_NAMES)
        tree.begin()
        tree.end()

    with monkeypatch.context() as patch:
        patch.setattr(_tree_walk, "_LEAST_SECONDS", 0.5)
        interrupted = Interrupted(patch, publish_two)
        began = time.monotonic()
        with pytest.raises(MemcgError, match="refreshed faster than this process") as caught:
            reader.read()
        assert 0.5 <= time.monotonic() - began < 30
    assert caught.value.errno == errno.EAGAIN and str(path) in str(caught.value)
    assert interrupted.times >= 10
    tree.publish(pack(*TREE), TREE_NAMES)
    assert len(read_tree(reader)) == 4


def test_a_reader_that_was_stopped_for_long_tries_again(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was stopped for longer than a read may take."""
    reader = PinnedReader(mapped.add(tree))
    stopped: list[float] = []

    def stop() -> None:
        if len(stopped) < 5:
            stopped.append(10.0)
            tree.publish(pack(*TREE), TREE_NAMES)
            tree.publish(pack(*TREE), TREE_NAMES)

    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(stopped))
    Interrupted(monkeypatch, stop)
    assert len(read_tree(reader)) == 4 and len(stopped) == 5


def test_a_head_that_always_says_it_is_written_to_costs_some_time(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tree_walk, "_LEAST_SECONDS", 0.1)
    reader = PinnedReader(mapped.add(tree))
    tree.word(0, 9)
    with pytest.raises(MemcgError, match="refreshed faster"):
        reader.read()


def test_under_a_writer_at_one_khz_nothing_is_torn(mapped: MappedTrees) -> None:
    """Each row has a checksum of its walk's number and of the row's."""
    tree = PublishedTree(room=600)

    def value(number: int, at: int) -> int:
        digest = hashlib.blake2b(struct.pack("=QQ", number, at), digest_size=8).digest()
        return int(struct.unpack("=Q", digest)[0]) >> 1

    walks = []
    for number in range(1, 21):
        count = 100 + 25 * number
        rows = pack(
            *(
                _wire.RawRow(10 + at, 10 if at else 1, 2, 0, (number, value(number, at)))
                for at in range(count)
            )
        )
        walks.append((rows, [b"%d-%d" % (number, at) for at in range(count)], number))
    tree.publish(walks[0][0], walks[0][1], signature=1)
    reader = PinnedReader(mapped.add(tree))
    done = threading.Event()

    def write_on() -> None:
        at = 0
        while not done.is_set():
            at += 1
            rows, names, number = walks[at % len(walks)]
            tree.publish(rows, names, signature=number)
            time.sleep(0.001)

    failures: list[str] = []
    seen: set[int] = set()

    def read_on() -> None:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            snapshot = read_tree(reader)
            (number,) = set(snapshot.column("anon"))
            seen.add(number)
            if len(snapshot) != 100 + 25 * number:
                failures.append(f"{len(snapshot)} rows of {number}")
            if any(each != value(number, at) for at, each in enumerate(snapshot.column("pgscan"))):
                failures.append(f"torn values of {number}")
            if snapshot.paths[-1] != f"/sys/fs/cgroup/root/{number}-{len(snapshot) - 1}":
                failures.append(f"{snapshot.paths[-1]} of {number}")

    writer = threading.Thread(target=write_on)
    readers = [threading.Thread(target=read_on) for _ in range(3)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    assert not failures and len(seen) > 5


# --- the states of a tree --------------------------------------------------------------


def test_a_tree_before_its_first_walk_is_not_found(
    mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    for state, written in ((_layout.NEW, 0), (_layout.ALIVE, 0)):
        tree.set("state", state)
        tree.set("written", written)
        for use in (reader.read, reader.wait):
            with pytest.raises(PinNotFoundError, match="no walk is published yet") as caught:
                use()
            assert str(path) in str(caught.value)
    assert PinnedReader(path).order == "pre"


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        (_layout.REMOVED, CgroupRemovedError, "unpin it"),
        (_layout.TOO_LARGE, TreeTooLargeError, r"again with more room= \(pin --tree --room\)"),
        (_layout.ENDED, PinNotFoundError, "has closed it"),
        (17, StreamError, "its state is 17"),
    ],
)
def test_each_state_without_a_walk_is_an_error(
    state: int, kind: type[MemcgError], said: str, mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    reader.read()
    tree.set("state", state)
    tree.set("needed", 12_345)
    for use in (reader.read, reader.wait):
        with pytest.raises(kind, match=said) as caught:
            use()
        assert type(caught.value) is kind and str(path) in str(caught.value)
        if isinstance(caught.value, TreeTooLargeError):
            assert (caught.value.rows, caught.value.max_rows) == (12_345, 64)
            assert "12,345" in str(caught.value)
    tree.publish(pack(*TREE), TREE_NAMES)
    assert len(read_tree(reader)) == 4


# --- removed and replaced --------------------------------------------------------------


def test_a_removed_tree_is_not_found(mapped: MappedTrees, tree: PublishedTree) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    (path / "map").unlink()
    for use in (reader.read, reader.wait, lambda: PinnedReader(path)):
        with pytest.raises(PinNotFoundError, match="was removed, or never created"):
            use()
    (path / "stream").unlink()
    path.rmdir()
    with pytest.raises(PinNotFoundError, match="was removed, or never created"):
        PinnedReader(path)


def test_a_directory_of_other_files_is_not_a_tree(
    mapped: MappedTrees, tree: PublishedTree, bpffs: Path
) -> None:
    path = bpffs / "directory"
    path.mkdir()
    with pytest.raises(PinNotFoundError):
        PinnedReader(path)
    pinned_file(path / "stream", b"anon 7\n")
    with pytest.raises(StreamError, match="not a pinned tree"):
        PinnedReader(path)
    pinned_file(path / "stream", tree.stream())
    with pytest.raises(PinNotFoundError, match="/map: it was removed, or never created"):
        PinnedReader(path)


def replaced(mapped: MappedTrees, path: Path, tree: PublishedTree) -> None:
    """Unpins a tree and pins another one in its place."""
    (path / "map").rename(path.parent / "old")
    mapped.add(tree, path.name)


def test_a_reader_continues_with_a_tree_that_is_pinned_again(
    mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    first = read_tree(reader)
    other = PublishedTree(room=3000, max_depth=5, interval_ns=5_000_000_000)
    other.publish(*many(3000))
    replaced(mapped, path, other)
    assert reader.wait(0), "walk 1 of another tree is newer than walk 1 of this one"
    snapshot = read_tree(reader)
    assert (len(snapshot), snapshot.max_depth, reader.interval) == (3000, 5, 5.0)
    assert len(first.paths) == 4
    third = PublishedTree(room=3000)
    third.publish(many(3000)[0], [b"other-%d" % at for at in range(3000)])
    (path.parent / "old").unlink()
    replaced(mapped, path, third)
    assert read_tree(reader).paths[7] == "/sys/fs/cgroup/root/other-7", "its signature says nothing"


@pytest.mark.parametrize("other", [{"items": (PGSCAN, 1)}, {"order": 3}])
def test_a_reader_refuses_a_tree_with_other_items_in_its_place(
    other: dict[str, Any], mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    made = PublishedTree(**other)
    made.publish(pack(*TREE), TREE_NAMES)
    replaced(mapped, path, made)
    for _ in range(2):
        with pytest.raises(StreamError, match=r"another pin.*new PinnedReader"):
            reader.read()


def test_a_map_that_is_replaced_while_it_is_opened_is_not_found(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mapped.add(tree)
    open_object = _tree_map._open_object

    def opened(name: str, told: str) -> Any:
        found = open_object(name, told)
        replaced(mapped, path, tree)
        return found

    monkeypatch.setattr(_tree_map, "_open_object", opened)
    with pytest.raises(PinNotFoundError, match="being created or unpinned"):
        PinnedReader(path)


def test_a_tree_that_is_replaced_while_more_of_it_is_mapped_is_read_from_its_beginning(
    mapped: MappedTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, other = PublishedTree(room=5000), PublishedTree(room=3000)
    tree.publish(*many(10))
    other.publish(*many(3000))
    path = mapped.add(tree)
    reader = PinnedReader(path)
    reader.read()
    tree.publish(*many(5000), signature=2)
    open_map = _tree_map.open_map

    def opened(*arguments: Any) -> _tree_map.OpenedMap:
        if not (path.parent / "old").exists():
            replaced(mapped, path, other)
        return open_map(*arguments)

    monkeypatch.setattr(_tree_map, "open_map", opened)
    assert len(read_tree(reader)) == 3000


# --- hostile trees ---------------------------------------------------------------------


def test_a_map_of_another_size_than_its_head_says_is_refused(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mapped.add(tree)
    for size in ((16120, 9), (16096, 9), (1 << 31, 1), (12288, 1)):
        monkeypatch.setattr(_tree_map, "_map_size", lambda fd, path, size=size: size)
        with pytest.raises(StreamError, match=r"in a map of .* elements") as caught:
            PinnedReader(path)
        assert str(path / "map") in str(caught.value)


def test_a_head_that_lies_of_its_walk_is_refused(mapped: MappedTrees, tree: PublishedTree) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    at = _layout.HALVES_AT + _layout.HALF_SIZE
    good = _layout.HALF.unpack_from(tree.memory, at)
    for place, value in ((0, 3), (2, 0), (4, 1 << 31), (4, 66_000), (5, 1 << 31), (5, 1000)):
        half = [*good]
        half[place] = value
        _layout.HALF.pack_into(tree.memory, at, *half)
        with pytest.raises(StreamError, match="walk 1 is said to have") as caught:
            reader.read()
        assert str(path / "map") in str(caught.value)
    half = [*good]
    half[4] = 3
    _layout.HALF.pack_into(tree.memory, at, *half)
    with pytest.raises(StreamError, match="4 names of 3 rows"):
        reader.read()
    _layout.HALF.pack_into(tree.memory, at, *good)
    assert len(read_tree(reader)) == 4


def test_a_fifo_a_directory_and_a_link_in_the_place_of_the_map_are_refused(
    mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    for make in (
        lambda at: os.mkfifo(at),
        lambda at: at.mkdir(),
        lambda at: at.symlink_to(path / "stream"),
        lambda at: at.symlink_to("nowhere"),
    ):
        place = path / "map"
        place.rename(path.parent / f"away-{time.monotonic_ns()}")
        make(place)
        for use in (reader.read, lambda: PinnedReader(path)):
            with pytest.raises(StreamError, match="is not the map of a pinned tree"):
                use()


def test_files_on_another_file_system_are_refused(
    mapped: MappedTrees, tree: PublishedTree, tmp_path: Path
) -> None:
    path = mapped.add(tree)
    path.rename(tmp_path / "elsewhere")
    for transport in ("auto", "map", "stream"):
        with pytest.raises(PinPathError, match="is not on a bpffs"):
            PinnedReader(tmp_path / "elsewhere", transport=transport)


# --- what is refused to this process ---------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        BpfPermissionError("bpf(2) is refused"),
        BackendUnavailableError("there is no ctypes"),
    ],
)
def test_a_reader_that_cannot_map_reads_the_stream_and_says_why(
    error: MemcgError, mapped: MappedTrees, tree: PublishedTree
) -> None:
    path = mapped.add(tree)
    mapped.error = error
    reader = PinnedReader(path)
    assert (reader.transport, reader.fallback_reason) == ("stream", str(error))
    assert read_tree(reader).paths[1] == "/sys/fs/cgroup/root/one.service"
    assert PinnedReader(path, transport="stream").fallback_reason == ""
    with pytest.raises(type(error), match=str(error).replace("(", ".").replace(")", ".")):
        PinnedReader(path, transport="map")


def test_a_reader_that_may_not_map_more_reads_the_stream_from_then_on(mapped: MappedTrees) -> None:
    tree = PublishedTree(room=20_000)
    tree.publish(*many(1))
    path = mapped.add(tree)
    reader, strict = PinnedReader(path), PinnedReader(path, transport="map")
    assert (len(read_tree(reader)), reader.transport) == (1, "map")
    mapped.error = BpfPermissionError("a filter forbids bpf(2) now", errno=errno.EPERM)
    tree.publish(*many(10_000), signature=2)
    (path / "stream").write_bytes(tree.stream())
    assert len(read_tree(reader)) == 10_000
    assert (reader.transport, reader.fallback_reason) == ("stream", "a filter forbids bpf(2) now")
    assert len(read_tree(reader)) == 10_000
    with pytest.raises(BpfPermissionError):
        strict.read()


def test_a_map_that_may_be_opened_and_not_mapped_is_read_as_a_stream(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mapped.add(tree)

    def refuse(fd: int, start: int, size: int) -> memoryview:
        raise OSError(errno.EACCES, "x")

    monkeypatch.setattr(_tree_map, "map_window", refuse)
    with pytest.raises(BackendUnavailableError, match="Permission denied"):
        PinnedReader(path, transport="map")
    reader = PinnedReader(path)
    assert reader.transport == "stream" and "cannot be mapped" in reader.fallback_reason
    assert len(read_tree(reader)) == len(TREE)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPERM, BpfPermissionError),
        (errno.EACCES, BpfPermissionError),
        (errno.ENOSYS, BackendUnavailableError),
        (errno.EMFILE, MemcgError),
        (errno.ENOMEM, MemcgError),
        (errno.ENOENT, PinNotFoundError),
    ],
)
def test_a_failure_of_bpf_is_a_typed_error(
    number: int, kind: type[MemcgError], bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Calls:
        @staticmethod
        def open_object(path: str) -> None:
            raise OSError(number, os.strerror(number))

    (bpffs / "map").touch()
    monkeypatch.setattr(_tree_map, "_map_calls", lambda: Calls)
    with pytest.raises(kind) as caught:
        PinnedReader(bpffs, transport="map")
    assert (type(caught.value), caught.value.errno) == (kind, number)
    assert str(bpffs / "map") in str(caught.value)


def test_without_ctypes_the_reason_says_so(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mapped.add(tree)
    monkeypatch.undo()
    said_to_be(monkeypatch, path)
    monkeypatch.setattr(_tree_map, "_map_calls", lambda: None)
    with PinnedReader(path) as reader:
        assert reader.transport == "stream"
        assert "this Python has no working ctypes" in reader.fallback_reason


@pytest.mark.parametrize("name", ["map", "stream", "timer"])
def test_one_file_of_a_tree_is_no_pin(name: str, mapped: MappedTrees, tree: PublishedTree) -> None:
    path = mapped.add(tree)
    (path / "timer").touch()
    with pytest.raises(PinPathError, match=f"part of a pinned tree: read {path}"):
        PinnedReader(path / name)


def test_a_pin_of_one_walk_is_a_stream(bpffs: Path) -> None:
    path = pinned_file(bpffs / "one", stream([TREE[0]]))
    reader = PinnedReader(path)
    assert (reader.transport, reader.fallback_reason, reader.interval) == ("stream", "", None)
    assert reader.wait() and reader.wait(0)
    with pytest.raises(BackendUnavailableError, match="cannot be mapped: only trees can"):
        PinnedReader(path, transport="map")
    with pytest.raises(ValueError, match="transport must be one of"):
        PinnedReader(path, transport="shared")  # type: ignore[arg-type]


# --- closing, threads and children -----------------------------------------------------


def test_a_closed_reader_reads_and_sends_nothing(mapped: MappedTrees, tree: PublishedTree) -> None:
    with PinnedReader(mapped.add(tree)) as reader:
        pass
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for use in (reader.read, reader.wait, lambda: reader.send_to(ours)):
            with pytest.raises(ClosedError):
                use()


def test_a_closed_reader_keeps_nothing_mapped(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped_now: list[weakref.ref[mmap.mmap]] = []

    def window(fd: int, start: int, size: int) -> memoryview:
        memory = mmap.mmap(-1, size)
        memory[:] = tree.memory[start : start + size]
        mapped_now.append(weakref.ref(memory))
        return memoryview(memory)

    path = mapped.add(tree)
    monkeypatch.setattr(_tree_map, "map_window", window)
    gc.disable()
    try:
        reader = PinnedReader(path)
        snapshot = read_tree(reader)
        reader.close()
        assert len(mapped_now) == 5 and [each() for each in mapped_now] == [None] * 5
    finally:
        gc.enable()
    assert len(snapshot.paths) == 4


def test_closing_a_reader_while_it_reads_is_a_closed_error(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PinnedReader(mapped.add(tree))
    reader.read()
    tree.word(0, 9)  # so the first try fails
    monkeypatch.setattr(time, "sleep", lambda _: reader.close())
    with pytest.raises(ClosedError):
        reader.read()


def test_a_child_reads_on(mapped: MappedTrees) -> None:
    tree = published()
    reader = PinnedReader(mapped.add(tree))
    snapshot = read_tree(reader)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if len(read_tree(reader)) == 4 and len(snapshot.paths) == 4 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
