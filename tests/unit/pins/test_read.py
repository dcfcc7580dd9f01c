# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins are read; ordinary files with the bytes of a pin stand for them."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    CgroupPermissionError,
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    PinnedReader,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    Snapshot,
    StreamError,
    TreeTooLargeError,
    _options,
    _wire,
)
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup import paths as _paths
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._pins import pin_stream as _pin_stream

from ...published_tree import ANON, PGSCAN
from ..directories import said_to_be
from ..pin_files import ROW, TREE, pinned_file, pinned_tree, published, stream

pytestmark = pytest.mark.usefixtures("on_bpffs")


def read_tree(reader: PinnedReader) -> Snapshot:
    snapshot = reader.read()
    assert isinstance(snapshot, Snapshot)
    return snapshot


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A pin of one cgroup."""
    return pinned_file(tmp_path / "one", stream([ROW]))


# --- what is wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a statistics stream"),
        (b"anon 4096\nfile 0\nand so on\n", "not a statistics stream"),
        (b"\x7fELF" + bytes(100), "not a statistics stream"),
        (struct.pack("=IH", _wire.MAGIC, 2) + bytes(50), "version 2.*reads version 1"),
        (stream([ROW])[:20], "damaged"),
        (stream([ROW], items=(ANON, ANON)), "makes no sense"),
        (stream([ROW], items=(ANON, 0)), "makes no sense"),
        (stream([ROW], order=0), "makes no sense"),
        (stream([ROW], order=6), "makes no sense"),
    ],
)
def test_a_file_that_is_not_a_pin_of_this_package_is_refused(
    data: bytes, said: str, tmp_path: Path
) -> None:
    path = pinned_file(tmp_path / "it", data)
    with pytest.raises(StreamError, match=said) as caught:
        PinnedReader(path)
    assert str(path) in str(caught.value)


def test_a_stream_that_is_cut_short_or_damaged_is_refused(one: Path) -> None:
    whole = one.read_bytes()
    head = _wire.header_size(2)
    reader = PinnedReader(one)
    for length in range(len(whole)):
        one.write_bytes(whole[:length])
        with pytest.raises(StreamError) as caught:
            reader.read()
        assert str(one) in str(caught.value)
    for at in range(len(whole) - 16, len(whole) - 8):  # the trailer's magic and count
        one.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(StreamError):
            reader.read()
    for rows in (2, 3):
        one.write_bytes(stream([ROW] * rows))
        with pytest.raises(StreamError, match="instead of one row"):
            reader.read()
    one.write_bytes(whole[:head] + whole[head + 1 :])
    with pytest.raises(StreamError):
        reader.read()


def test_an_item_of_a_newer_version_is_named_by_its_number(tmp_path: Path) -> None:
    path = pinned_file(tmp_path / "it", stream([ROW], items=(ANON, 30000)))
    assert PinnedReader(path).read() == {"anon": 4096, "#30000": 3}


def test_a_reader_refuses_a_pin_with_other_items_in_its_place(one: Path) -> None:
    reader = PinnedReader(one)
    for data in (stream([ROW], items=(PGSCAN, ANON)), stream([ROW], order=2)):
        one.write_bytes(data)
        with pytest.raises(StreamError, match=r"another pin.*new PinnedReader"):
            reader.read()
    one.write_bytes(stream([ROW._replace(cgroup_id=77, values=(1, 2))]))
    assert reader.read() == {"anon": 1, "pgscan": 2}


def test_files_on_another_file_system_are_refused(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = pinned_tree(tmp_path / "tree", published())
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(one)
    said_to_be(monkeypatch, tmp_path / "bpf")
    for path in (one, tree, tmp_path / "fifo", tmp_path / "link", tmp_path):
        with pytest.raises(PinPathError, match="is not on a bpffs, so it is not a pin") as caught:
            PinnedReader(path)
        assert str(path) in str(caught.value)


def test_the_mount_table_is_read_once_for_each_file_system(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = pinned_tree(tmp_path / "tree", published())
    readers = [PinnedReader(one), PinnedReader(tree, transport="stream")]
    asked = []

    def is_on_bpffs(status: os.stat_result, path: str) -> bool:
        asked.append(path)
        return False

    monkeypatch.setattr(_bpffs, "is_on_bpffs", is_on_bpffs)
    for reader in readers:
        reader.read()
    assert asked == [], "the mount table is read once a file system"
    real_fstat = os.fstat

    def elsewhere(fd: int) -> os.stat_result:
        found = list(real_fstat(fd))
        found[2] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", elsewhere)
    for reader in readers:
        with pytest.raises(PinPathError):
            reader.read()
    assert asked == [str(one), str(tree / "stream")]


def test_an_unreadable_mount_table_is_an_error(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "x")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MemcgError, match="cannot be told, because /proc/self/mountinfo") as caught:
        PinnedReader(one)
    assert type(caught.value) is MemcgError


def test_a_path_without_a_pin_is_not_found(one: Path, tmp_path: Path) -> None:
    for path in ("none", "none/deep", "one/below", "a\0b"):
        with pytest.raises(PinNotFoundError):
            PinnedReader(tmp_path / path if "\0" not in path else path)
    reader = PinnedReader(one)
    one.unlink()
    with pytest.raises(PinNotFoundError, match="was removed, or never created") as caught:
        reader.read()
    assert isinstance(caught.value, FileNotFoundError) and caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, PinPermissionError),
        (errno.EIO, StreamError),
        (errno.EMFILE, MemcgError),
    ],
)
def test_a_failure_to_open_is_a_typed_error_with_the_path(
    number: int, kind: type[MemcgError], one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PinnedReader(one)

    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for read in (reader.read, lambda: PinnedReader(one)):
            with pytest.raises(kind) as caught:
                read()
            assert (type(caught.value), caught.value.errno) == (kind, number)
            assert str(one) in str(caught.value)
    assert reader.read() == {"anon": 4096, "pgscan": 3}


def test_a_stream_without_rows_is_of_a_removed_cgroup(tmp_path: Path) -> None:
    for order in (1, 2, 3, 4):
        path = pinned_file(tmp_path / "it", stream([], order))
        with pytest.raises(CgroupRemovedError, match="unpin it"):
            PinnedReader(path).read()
    reader = PinnedReader(pinned_file(tmp_path / "it", stream([], 5)))
    assert (reader.order, reader.item_names, list(read_tree(reader))) == (
        "children",
        reader.item_names,
        [],
    )


def test_a_closed_reader_reads_nothing_and_no_reader_can_be_pickled(one: Path) -> None:
    with PinnedReader(one) as reader:
        assert "self, 2 items" in repr(reader)
    reader.close()
    assert "closed" in repr(reader)
    with pytest.raises(ClosedError):
        reader.read()
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(reader)


# --- walks that are too large ---------------------------------------------------------


def kernel_that_says(*answers: Any) -> Any:
    """A fake of os.read() on an iterator."""
    waiting = list(answers)

    def read(fd: int, size: int) -> bytes:
        assert (fd, size) == (99, _pin_stream.BUFFER)
        answer = waiting.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, "x")
        assert isinstance(answer, bytes)
        return answer

    return read


@pytest.mark.parametrize(
    ("answers", "full"),
    [
        pytest.param([stream(TREE, 2)], False, id="whole"),
        pytest.param([stream(TREE, 2)[:-16], errno.EOPNOTSUPP], True, id="not resumed"),
        pytest.param([stream(TREE, 2)[:-16], stream([], 2)], True, id="the trailer did not fit"),
        pytest.param([stream(TREE, 2)[:-16], b""], False, id="a file cut short"),
        pytest.param([b""], False, id="nothing"),
    ],
)
def test_a_full_buffer_is_recognised(
    answers: list[Any], full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "read", kernel_that_says(*answers))
    assert _pin_stream.read_walk(99) == (answers[0], full)


def test_another_failure_is_not_taken_for_a_full_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "read", kernel_that_says(stream(TREE, 2)[:-16], errno.ENOMEM))
    with pytest.raises(OSError) as caught:
        _pin_stream.read_walk(99)
    assert caught.value.errno == errno.ENOMEM


def test_the_error_for_too_large_a_walk_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = PinnedReader(pinned_file(tmp_path / "walk", stream(TREE, 2)))
    cut = stream(TREE, 2)[:-16]
    monkeypatch.setattr(_pin_stream, "read_walk", lambda fd: _pin_stream.PinOutput(cut, True))
    with pytest.raises(TreeTooLargeError, match=r"publish the tree with pin_tree\(\)") as caught:
        walk.read()
    fit = _pin_stream.capacity(2)
    assert (caught.value.rows, caught.value.max_rows) == (fit, fit)
    assert f"which takes {fit} cgroups" in str(caught.value)
    rows = TREE * fit
    assert len(stream(rows[:fit], 2)) < _pin_stream.BUFFER <= len(stream(rows[: fit + 1], 2))


# --- values and paths -----------------------------------------------------------------


def test_a_pin_of_one_cgroup_is_read_as_a_dict(one: Path) -> None:
    with PinnedReader(os.fsencode(one)) as reader:
        assert (reader.path, reader.order) == (str(one), "self")
        assert reader.item_names == ("anon", "pgscan")
        assert reader.read() == {"anon": 4096, "pgscan": 3}
        one.write_bytes(stream([ROW._replace(values=(1, _wire.ABSENT))]))
        assert reader.read() == {"anon": 1}


@pytest.mark.parametrize(
    ("order", "rows", "root"),
    [
        (2, TREE, 10),
        (3, [TREE[1], TREE[3], TREE[2], TREE[0]], 10),
        (4, [TREE[3], TREE[2], TREE[0]], 13),
        (5, TREE[1:3], 10),
    ],
)
def test_a_walk_is_read_as_a_snapshot_in_its_order(
    order: int, rows: list[_wire.RawRow], root: int, tmp_path: Path
) -> None:
    reader = PinnedReader(pinned_file(tmp_path / "it", stream(rows, order)))
    snapshot = read_tree(reader)
    assert snapshot.order == reader.order == _options.ORDER_NAMES[order]
    assert list(snapshot.ids) == [row.cgroup_id for row in rows]
    assert [row["pgscan"] for row in snapshot] == [row.values[1] for row in rows]
    assert isinstance(snapshot._paths, _paths.ListedPaths)
    assert snapshot._paths._of_id.root_id == root


@pytest.fixture
def cgroups(tmp_path: Path) -> dict[str, Path]:
    """Directories that stand for cgroups."""
    paths = {name: tmp_path / "cgroup" / name for name in (".", "a", "a/b", "a/b/c", "d")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return paths


def of_directories(cgroups: dict[str, Path], *names: str) -> bytes:
    rows = [
        _wire.RawRow(path.stat().st_ino, path.parent.stat().st_ino, len(path.parts), 0, (1, 2))
        for path in map(cgroups.__getitem__, names)
    ]
    return stream(rows, 2)


def test_paths_are_found_below_the_mount(
    cgroups: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(cgroups["."]))])
    pin = pinned_file(tmp_path / "it", of_directories(cgroups, "a", "a/b", "a/b/c"))
    snapshot = read_tree(PinnedReader(pin))
    assert snapshot.path == str(cgroups["a"])
    assert [row.path for row in snapshot] == [str(cgroups[x]) for x in ("a", "a/b", "a/b/c")]
    assert [row.relative_path for row in snapshot] == [".", "b", "b/c"]
    assert list(snapshot.by_path()) == [str(cgroups[name]) for name in ("a", "a/b", "a/b/c")]
    found = snapshot.find("b/c")
    assert found is not None and found.id == cgroups["a/b/c"].stat().st_ino
    cgroups["a/b/c"].rmdir()
    assert [row.exists() for row in snapshot] == [True, True, False]
    # The mount's own directory.
    pinned_file(pin, of_directories(cgroups, ".", "d"))
    snapshot = read_tree(PinnedReader(pin))
    assert [row.path for row in snapshot] == [str(cgroups["."]), str(cgroups["d"])]


def test_paths_are_none_where_the_root_is_not_visible(
    cgroups: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def mounts() -> list[tuple[str, str]]:
        asked.append(1)
        return [("/", str(tmp_path / "none")), ("/", str(cgroups["d"]))]

    monkeypatch.setattr(_mounts, "memory_mounts", mounts)
    pin = pinned_file(tmp_path / "it", of_directories(cgroups, "a", "a/b"))
    reader = PinnedReader(pin)
    for _ in range(3):
        snapshot = read_tree(reader)
        assert (snapshot.path, snapshot.find("b"), snapshot.by_path()) == (None, None, {})
        assert [(row.path, row.relative_path) for row in snapshot] == [(None, None)] * 2
        with pytest.raises(CgroupPermissionError):
            snapshot[0].exists()
        assert repr(snapshot) == "<Snapshot: 2 cgroups, 2 items>"
    assert len(asked) == 1, "a look takes long: not at every read"


def test_threads_share_a_reader(one: Path, tmp_path: Path) -> None:
    tree = PinnedReader(pinned_tree(tmp_path / "tree", published()), transport="stream")
    reader = PinnedReader(one)
    failures = []

    def read_on() -> None:
        for _ in range(200):
            if reader.read() != {"anon": 4096, "pgscan": 3} or len(read_tree(tree)) != 4:
                failures.append(1)

    threads = [threading.Thread(target=read_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- another language -----------------------------------------------------------------


def damaged(at: int, kind: str, number: int) -> bytes:
    """A stream with another number at an offset."""
    data = bytearray(stream(TREE, 2))
    struct.pack_into(f"={kind}", data, at % len(data), number)
    return bytes(data)


def test_a_reader_in_c_reads_the_same(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "wire" / "read_pin.c"
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "this test needs gcc or clang"
    program = tmp_path / "read_pin"
    flags = ["-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run([compiler, *flags, "-o", program, source], check=True)

    def run(*paths: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *paths], capture_output=True, text=True)

    files = [
        pinned_file(tmp_path / name, stream(rows, 2))
        for name, rows in (("first", TREE[:3]), ("second", TREE[3:]))
    ]
    ran = run(*files)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line for line in ran.stdout.splitlines() if line != f"items {ANON} {PGSCAN}"]
    expected = [
        f"{row.id} {row.parent_id} {row.level} {row['anon']} {row['pgscan']}"
        for file in files
        for row in read_tree(PinnedReader(file))
    ]
    assert sorted(lines) == sorted(expected) and len(lines) == 4
    for data, said in (
        (stream(TREE, 2)[:-16], "cut short"),
        (stream(TREE, 2)[:-1], "cut short"),
        (b"anon 7\n", "no statistics"),
        (damaged(4, "H", 2), "no statistics"),
        (damaged(6, "H", 0), "damaged"),
        (damaged(6, "H", 17), "damaged"),
        (damaged(8, "I", 0), "damaged"),
        (damaged(8, "I", 24), "damaged"),
        (damaged(12, "H", 60000), "damaged"),
        (damaged(-12, "I", 5), "cut short"),
        (damaged(-12, "I", 1 << 31), "cut short"),
    ):
        ran = run(pinned_file(tmp_path / "it", data))
        assert ran.returncode == 1 and said in ran.stderr
    with open("/dev/full", "wb") as full:
        assert subprocess.run([program, *files], stdout=full).returncode == 1
    assert run(tmp_path / "none").returncode == 1
