# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Only the descriptor of a pinned tree's map is accepted; sending one needs a tree."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    MemcgError,
    PinnedReader,
    PinNotFoundError,
    Snapshot,
    StreamError,
)
from pymemcgbpf._pins import tree_map as _tree_map

from ...published_tree import PublishedTree
from ..pin_files import ROW, pinned_file, stream
from .conftest import MappedTrees


def test_a_descriptor_of_another_file_is_refused_and_not_mapped(
    tree: PublishedTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with a tree's bytes, too: its owner could truncate it while it is mapped."""
    monkeypatch.setattr(_tree_map, "map_window", None)
    path = tmp_path / "anon_inode:bpf-map"
    path.write_bytes(tree.memory)
    fds = [os.open(path, os.O_RDWR), os.open(tmp_path, os.O_RDONLY), *os.pipe()]
    fds.append(os.memfd_create("bpf-map"))
    os.write(fds[-1], tree.memory)
    try:
        for fd in fds:
            with pytest.raises(StreamError, match=f"^descriptor {fd} is not the map of a pinned"):
                PinnedReader.from_fd(fd)
            os.fstat(fd)  # it is still open
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("number", [-1, 1 << 20, 1 << 70])
def test_what_is_no_descriptor_is_an_error(number: int) -> None:
    with pytest.raises(MemcgError, match="cannot be mapped"):
        PinnedReader.from_fd(number)
    with pytest.raises(TypeError):
        PinnedReader.from_fd("3")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        PinnedReader.from_fd(True)


LINES = "pos:\t0\nflags:\t02\nmap_type:\t{}\nkey_size:\t{}\nvalue_size:\t{}\nmax_entries:\t7\n"


@pytest.mark.parametrize(
    ("kind", "key", "value", "flags", "is_one"),
    [
        (2, 4, 16120, 0x400, True),
        (2, 4, 16120, 0x480, True),
        (1, 4, 16120, 0x400, False),
        (6, 4, 16120, 0x400, False),
        (27, 0, 0, 0x400, False),
        (2, 8, 16120, 0x400, False),
        (2, 4, 16120, 0, False),
        (2, 4, 8, 0x400, False),
    ],
)
def test_the_kernel_s_word_on_a_map_decides(
    kind: int,
    key: int,
    value: int,
    flags: int,
    is_one: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = tmp_path / "fdinfo"
    told.write_text(LINES.format(kind, key, value) + f"map_flags:\t{flags:#x}\nfrozen:\t1\n")
    real_open = open
    monkeypatch.setattr(os, "readlink", lambda path: "anon_inode:bpf-map")
    monkeypatch.setattr("builtins.open", lambda path, **options: real_open(told, **options))
    with tempfile.TemporaryFile() as file:
        if is_one:
            assert _tree_map._map_size(file.fileno(), "it") == (value, 7)
        else:
            with pytest.raises(StreamError, match="it is not the map of a pinned tree"):
                _tree_map._map_size(file.fileno(), "it")


def test_without_proc_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "x")

    monkeypatch.setattr(os, "readlink", refuse)
    told = "cannot be mapped: No such file"
    with tempfile.TemporaryFile() as file, pytest.raises(MemcgError, match=told) as caught:
        PinnedReader.from_fd(file.fileno())
    assert type(caught.value) is MemcgError


# --- a reader of a descriptor, and who sends one ----------------------------------------


def test_a_map_is_sent_and_read(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PinnedReader(mapped.add(tree))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader.send_to(ours)
        data, (fd,), _, _ = socket.recv_fds(theirs, 16, 16)
        assert data == b"\0"
        mapped.register(fd, tree)
        mapped.windows.clear()
        other = PinnedReader.from_fd(fd)
        os.close(fd)
    assert mapped.windows[-1] == (0, len(tree.memory)), "all of it, because it is closed then"
    assert (other.path, other.transport, other.fallback_reason) == (f"descriptor {fd}", "map", "")
    assert (other.order, other.item_names, other.interval) == ("pre", ("anon", "pgscan"), 1.0)
    snapshot, expected = other.read(), reader.read()
    assert isinstance(snapshot, Snapshot) and isinstance(expected, Snapshot)
    assert (snapshot.ids, snapshot.paths) == (expected.ids, expected.paths)
    assert not other.wait(0)
    assert [each is not None for each in zip(other.every(0.001), range(2))] == [True] * 2
    tree.set("state", 4)
    with pytest.raises(PinNotFoundError, match="has closed it"):
        other.read()
    other.close()
    reader.close()


def test_only_a_reader_of_a_tree_by_its_path_sends_a_map(
    mapped: MappedTrees, tree: PublishedTree, bpffs: Path
) -> None:
    one = PinnedReader(pinned_file(bpffs / "one", stream([ROW])))
    path = mapped.add(tree)
    with open(path / "map", "rb") as file:
        mapped.register(file.fileno(), tree)
        handed = PinnedReader.from_fd(file.fileno())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for reader in (one, handed):
            with pytest.raises(BackendUnavailableError, match="cannot be sent"):
                reader.send_to(ours)
        by_stream = PinnedReader(path, transport="stream")
        by_stream.send_to(ours)
        _, fds, _, _ = socket.recv_fds(theirs, 16, 16)
        for fd in fds:
            os.close(fd)
        mapped.error = BackendUnavailableError("bpf(2) is refused")
        with pytest.raises(BackendUnavailableError, match="is refused"):
            by_stream.send_to(ours)


def test_a_map_that_cannot_be_sent_is_an_error(mapped: MappedTrees, tree: PublishedTree) -> None:
    path = mapped.add(tree)
    reader = PinnedReader(path)
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(MemcgError, match="cannot be sent over this socket") as caught:
            reader.send_to(ours)
        assert caught.value.errno == errno.EPIPE
    (path / "map").unlink()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(PinNotFoundError):
        reader.send_to(ours)


def test_a_head_that_lies_is_refused(
    mapped: MappedTrees, tree: PublishedTree, tmp_path: Path
) -> None:
    tree.memory[8:12] = bytes(4)
    with open(mapped.add(tree) / "map", "rb") as file:
        mapped.register(file.fileno(), tree)
        with pytest.raises(StreamError, match="damaged head"):
            PinnedReader.from_fd(file.fileno())


def test_a_map_that_cannot_be_mapped_is_an_error(
    mapped: MappedTrees, tree: PublishedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> memoryview:
        raise OSError(errno.ENOMEM, "x")

    path = mapped.add(tree)
    monkeypatch.setattr(_tree_map, "map_window", refuse)
    with pytest.raises(MemcgError, match="cannot be mapped") as caught:
        PinnedReader(path)
    assert caught.value.errno == errno.ENOMEM, "a shortage is no reason to read the stream"
