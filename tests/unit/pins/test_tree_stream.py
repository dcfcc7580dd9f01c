# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pinned trees are read by their streams; ordinary files and FIFOs stand for them."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    CgroupRemovedError,
    MemcgError,
    PinnedReader,
    PinNotFoundError,
    PinPermissionError,
    Snapshot,
    StreamError,
    TreeTooLargeError,
)
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_stream as _tree_stream

from ...published_tree import PGSCAN, PublishedTree
from ..pin_files import TREE, TREE_NAMES, pinned_tree, published
from ..tree_rows import pack
from .test_tree_map import many

pytestmark = pytest.mark.usefixtures("on_bpffs")


def reader_of(path: Path) -> PinnedReader:
    return PinnedReader(path, transport="stream")


def read_tree(reader: PinnedReader) -> Snapshot:
    snapshot = reader.read()
    assert isinstance(snapshot, Snapshot)
    return snapshot


def of_size(count: int) -> PublishedTree:
    """A tree of this many cgroups."""
    tree = PublishedTree(room=count)
    tree.publish(*many(count))
    return tree


class Waits:
    """Has reads of a FIFO wait for its writer, which they do not do by themselves.

    Attributes:
        calls: how often something was read.
        read: how many bytes were read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.calls = 0
        real_read, real_readv, real_open = os.read, os.readv, os.open

        def open_it(path: Any, flags: int, *others: Any, **options: Any) -> int:
            return real_open(path, flags & ~os.O_NONBLOCK, *others, **options)

        def read(fd: int, size: int) -> bytes:
            data = real_read(fd, size)
            self.read, self.calls = self.read + len(data), self.calls + 1
            return data

        def readv(fd: int, parts: Any) -> int:
            count = real_readv(fd, parts)
            self.read, self.calls = self.read + count, self.calls + 1
            return count

        monkeypatch.setattr(os, "open", open_it)
        monkeypatch.setattr(os, "read", read)
        monkeypatch.setattr(os, "readv", readv)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pinned tree of four cgroups."""
    return pinned_tree(tmp_path / "tree", published())


# --- what is read ---------------------------------------------------------------------


def test_a_tree_is_read_as_it_was_published(path: Path) -> None:
    with reader_of(path) as reader:
        assert (reader.transport, reader.fallback_reason) == ("stream", "")
        assert (reader.order, reader.item_names, reader.interval) == ("pre", ("anon", "pgscan"), 1)
        snapshot = read_tree(reader)
    assert list(snapshot.ids) == [10, 11, 12, 13]
    assert snapshot.column("pgscan").tolist() == [0, 1, 2, 3]
    assert snapshot.paths[3] == "/sys/fs/cgroup/root/two.slice/three.service"
    assert snapshot.ids.readonly and 0 <= snapshot.age < 60


@pytest.mark.parametrize("count", [1, 402, 403, 404, 806, 3000])
def test_a_tree_of_any_size_is_read(count: int, tmp_path: Path) -> None:
    snapshot = read_tree(reader_of(pinned_tree(tmp_path / "tree", of_size(count))))
    assert snapshot.column("anon").tolist() == list(range(count))
    assert len(set(snapshot.paths)) == count


@pytest.mark.parametrize("most", [1, 7, 16, 4096, 32768])
def test_what_one_read_returns_does_not_matter(
    most: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel returns as many whole pieces as fit into its buffer; a file, as much as asked."""
    if most > 16:
        path = pinned_tree(tmp_path / "tree", of_size(900))
    expected = read_tree(reader_of(path))
    real_read, real_readv = os.read, os.readv
    reader = reader_of(path)
    monkeypatch.setattr(os, "read", lambda fd, size: real_read(fd, min(size, most)))
    monkeypatch.setattr(os, "readv", lambda fd, parts: real_readv(fd, [parts[0][:most]]))
    snapshot = read_tree(reader)
    assert snapshot.ids == expected.ids and snapshot.paths == expected.paths


def test_a_read_takes_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(pinned_tree(tmp_path / "tree", of_size(5001)))
    waits = Waits(monkeypatch)
    reader.read()
    assert waits.calls <= 3


def test_names_are_decoded_only_if_they_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = published()
    path = pinned_tree(tmp_path / "tree", tree)
    reader = reader_of(path)
    first = read_tree(reader)
    (path / "stream").write_bytes(tree.stream())
    with monkeypatch.context() as patch:
        patch.setattr(_layout, "decode_text", None)
        assert read_tree(reader).paths is first.paths
    tree.publish(pack(*TREE), [*TREE_NAMES[:3], b"x"], signature=2)
    (path / "stream").write_bytes(tree.stream())
    assert read_tree(reader).paths[3] == "/sys/fs/cgroup/root/two.slice/x"


def test_a_look_reads_the_head_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(path)
    reader.read()
    waits = Waits(monkeypatch)
    assert reader.wait(0) is False
    assert (waits.calls, waits.read) == (1, _layout.HEAD_SIZE)


# --- walks that are published meanwhile -------------------------------------------------


@pytest.mark.parametrize("cut", ["a piece of the next walk", "no end", "another end", "a gap"])
def test_a_walk_that_is_published_meanwhile_is_read_again(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = of_size(900)
    whole = tree.stream()
    piece = _layout.PIECE.size + tree.division.chunk_size
    at = _layout.HEAD_SIZE + piece
    mixed = {
        "a piece of the next walk": whole[:at] + _layout.PIECE.pack(2, 2, 0) + whole[at + 16 :],
        "no end": whole[:-16] + _layout.PIECE.pack(1, 9, 16128),
        "another end": whole[:-16] + _layout.PIECE.pack(2, _layout.END, 0),
        "a gap": whole[:at] + whole[at + piece :],
    }[cut]
    path = pinned_tree(tmp_path / "tree", tree)
    reader = reader_of(path)
    (path / "stream").write_bytes(mixed)
    tries = []

    def sleep(_: float) -> None:
        tries.append(1)
        if len(tries) == 3:
            (path / "stream").write_bytes(whole)

    monkeypatch.setattr(time, "sleep", sleep)
    assert len(read_tree(reader)) == 900 and len(tries) == 3


def test_a_reader_that_is_always_too_slow_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(path)
    stream = (path / "stream").read_bytes()
    (path / "stream").write_bytes(stream[:-16] + _layout.PIECE.pack(2, _layout.END, 0))
    now = time.monotonic()
    passed: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: now + sum(passed))
    monkeypatch.setattr(time, "sleep", passed.append)
    with pytest.raises(MemcgError, match="refreshed faster") as caught:
        reader.read()
    assert caught.value.errno == errno.EAGAIN and len(passed) >= 10
    assert 4.99 <= sum(passed) < 5.1


# --- damaged and hostile streams --------------------------------------------------------


def test_a_stream_that_is_cut_short_is_refused(path: Path) -> None:
    whole = (path / "stream").read_bytes()
    reader = reader_of(path)
    lengths = [*range(0, _layout.HEAD_SIZE, 499), *range(_layout.HEAD_SIZE, len(whole), 997)]
    for length in (*lengths, _layout.HEAD_SIZE, len(whole) - 16, len(whole) - 1):
        (path / "stream").write_bytes(whole[:length])
        with pytest.raises(StreamError, match=r"not a pinned tree|cut short") as caught:
            reader.read()
        assert str(path / "stream") in str(caught.value)


def test_a_piece_of_an_impossible_size_is_refused(path: Path) -> None:
    whole = bytearray((path / "stream").read_bytes())
    reader = reader_of(path)
    first = _layout.HEAD_SIZE + 12
    last = len(whole) - 4
    text = first + _layout.PIECE.size + 16120
    for at, sizes in (
        (first, (0, 4 * 40 - 1, 16121, (1 << 32) - 1)),
        (text, (0, 7, 16121)),
        (last, (1, (1 << 32) - 1)),
    ):
        for size in sizes:
            damaged = bytearray(whole)
            struct.pack_into("=I", damaged, at, size)
            (path / "stream").write_bytes(damaged)
            with pytest.raises(StreamError, match="is said to have"):
                reader.read()


def test_a_head_that_lies_of_its_walk_is_refused(path: Path) -> None:
    whole = (path / "stream").read_bytes()
    reader = reader_of(path)
    at = _layout.HALVES_AT + _layout.HALF_SIZE
    good = _layout.HALF.unpack_from(whole, at)
    for place, value in ((2, 0), (4, 1 << 31), (4, 66_000), (5, 1 << 31), (5, 1000)):
        half, damaged = [*good], bytearray(whole)
        half[place] = value
        _layout.HALF.pack_into(damaged, at, *half)
        (path / "stream").write_bytes(damaged)
        with pytest.raises(StreamError, match="walk 1 is said to have"):
            reader.read()


def test_a_head_that_is_overwritten_while_it_is_copied_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = published()
    path = pinned_tree(tmp_path / "tree", tree)
    reader = reader_of(path)
    check = _layout.check_half
    calls = []

    def torn(*arguments: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            tree.publish(pack(*TREE), TREE_NAMES)
            tree.begin()
            (path / "stream").write_bytes(tree.stream())
            raise StreamError("it makes no sense")
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_layout, "check_half", torn)
    assert len(read_tree(reader)) == 4 and len(calls) == 2


def test_a_file_that_is_no_tree_is_refused(path: Path) -> None:
    for data in (b"", b"anon 7\n", bytes(20_000), b"\x7fELF" * 5000):
        (path / "stream").write_bytes(data)
        with pytest.raises(StreamError, match="not a pinned tree"):
            reader_of(path)


def fed(fifo: Path, first: bytes, then: bytes) -> threading.Thread:
    """A thread that writes into a FIFO, *then* again and again, until its reader closes it."""

    def write() -> None:
        fd = os.open(fifo, os.O_WRONLY)
        try:
            os.write(fd, first)
            while True:
                os.write(fd, then)
        except BrokenPipeError:
            pass
        finally:
            os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("what", ["zeros", "a stream without an end"])
def test_an_endless_file_takes_bounded_memory(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = of_size(2000)
    path = pinned_tree(tmp_path / "tree", tree)
    reader = reader_of(path)
    whole = tree.stream()
    first = bytes(1) if what == "zeros" else whole[:-16] + _layout.PIECE.pack(1, 9, 16128)
    (path / "stream").unlink()
    os.mkfifo(path / "stream")
    waits = Waits(monkeypatch)
    monkeypatch.setattr(_tree_stream, "until_whole", lambda path, read: read())
    thread = fed(path / "stream", first, bytes(1 << 16))
    tracemalloc.start()
    try:
        if what == "zeros":
            with pytest.raises(StreamError, match="not a pinned tree"):
                reader.read()
        else:
            with pytest.raises(AttributeError):  # None: another walk was published meanwhile
                reader.read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert waits.read <= len(whole) + (1 << 17) and peak < 3 * len(whole) + (1 << 18)


def test_a_fifo_without_a_writer_does_not_block(path: Path) -> None:
    reader = reader_of(path)
    (path / "stream").unlink()
    os.mkfifo(path / "stream")
    for use in (reader.read, reader.wait, lambda: reader_of(path)):
        with pytest.raises(StreamError, match="only 0 bytes"):
            use()
    with open(path / "stream", "r+b", buffering=0):  # a writer that writes nothing
        with pytest.raises(MemcgError, match="cannot be read") as caught:
            reader.read()
        assert caught.value.errno == errno.EAGAIN


def test_a_directory_in_the_place_of_the_stream_is_refused(path: Path) -> None:
    reader = reader_of(path)
    (path / "stream").unlink()
    (path / "stream").mkdir()
    for use in (reader.read, lambda: reader_of(path)):
        with pytest.raises(StreamError, match="is not a statistics stream"):
            use()


def test_a_link_in_the_place_of_the_stream_is_refused(path: Path) -> None:
    reader = reader_of(path)
    (path / "stream").rename(path / "elsewhere")
    (path / "stream").symlink_to(path / "elsewhere")
    for use in (reader.read, reader.wait, lambda: reader_of(path)):
        with pytest.raises(StreamError, match="is not a statistics stream: Too many levels"):
            use()


# --- states, removal, replacement -------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (_layout.NEW, PinNotFoundError),
        (_layout.REMOVED, CgroupRemovedError),
        (_layout.TOO_LARGE, TreeTooLargeError),
        (_layout.ENDED, PinNotFoundError),
        (99, StreamError),
    ],
)
def test_each_state_without_a_walk_is_an_error(
    state: int, kind: type[MemcgError], tmp_path: Path
) -> None:
    tree = published()
    path = pinned_tree(tmp_path / "tree", tree)
    reader = reader_of(path)
    tree.set("state", state)
    (path / "stream").write_bytes(tree.stream())
    for use in (reader.read, reader.wait):
        with pytest.raises(kind) as caught:
            use()
        assert type(caught.value) is kind and str(path) in str(caught.value)
    assert reader_of(path).order == "pre"


def test_a_removed_tree_is_not_found(path: Path) -> None:
    reader = reader_of(path)
    (path / "stream").unlink()
    for use in (reader.read, reader.wait, lambda: reader_of(path)):
        with pytest.raises(PinNotFoundError, match="was removed, or never created"):
            use()


def test_a_tree_that_may_not_be_read_is_a_permission_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(path)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "x")

    monkeypatch.setattr(os, "open", refuse)
    for use in (reader.read, reader.wait, lambda: reader_of(path)):
        with pytest.raises(PinPermissionError, match="may not read"):
            use()


def test_a_reader_continues_with_a_tree_that_is_pinned_again(path: Path) -> None:
    reader = reader_of(path)
    reader.read()
    other = of_size(3000)
    (path / "stream").rename(path / "old")
    (path / "stream").write_bytes(other.stream())
    assert reader.wait(0)
    assert len(read_tree(reader)) == 3000
    made = PublishedTree(items=(PGSCAN, 1))
    made.publish(pack(*TREE), TREE_NAMES)
    (path / "stream").write_bytes(made.stream())
    with pytest.raises(StreamError, match="another pin"):
        reader.read()


def test_a_tree_of_another_version_is_refused_by_name(path: Path) -> None:
    data = bytearray((path / "stream").read_bytes())
    struct.pack_into("=H", data, 4, 7)
    (path / "stream").write_bytes(data)
    with pytest.raises(StreamError, match="version 7; this pymemcgbpf reads version 1"):
        reader_of(path)
