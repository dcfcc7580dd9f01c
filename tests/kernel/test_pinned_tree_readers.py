# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers of pinned trees: real maps that the test itself fills, and what may be in their place."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pymemcgbpf as memcg
from pymemcgbpf import PinnedReader, StreamError, _wire
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._pins import tree_layout as _layout

from ..open_files import open_files
from ..published_tree import PublishedTree, head_of
from .cgroups import SYS_BPF, cgroup
from .pins import Nobody
from .published import published, snapshot_of

pytestmark = pytest.mark.needs_iterator

MMAPABLE = 1 << 10
HASH, ARRAY = 1, 2  # enum bpf_map_type


@pytest.fixture
def tree_path(folder: Path) -> Iterator[Path]:
    """An empty directory in the bpffs, which is removed with what is in it."""
    made = folder / "tree"
    made.mkdir()
    made.chmod(0o755)
    yield made
    for path in made.iterdir():
        path.unlink()
    made.rmdir()


def numbers(count: int, number: int) -> tuple[bytes, list[bytes]]:
    """The rows and the names of a walk. Each row's second value is a checksum of the others."""
    rows = []
    for at in range(count):
        cgroup_id, parent = 10 + at, 10 if at else 1
        check = (cgroup_id * 2654435761 + number * 40503 + parent) % (1 << 61)
        rows.append(_wire.ROW.pack(cgroup_id, parent, 1 + bool(at), 0))
        rows.append(number.to_bytes(8, sys.byteorder) + check.to_bytes(8, sys.byteorder))
    return b"".join(rows), [b"%d-%d.service" % (number, at) for at in range(count)]


CHECK = """
def check(snapshot):
    (number,) = set(snapshot.column("anon"))
    checks = snapshot.column("pgscan")
    for row, (cgroup_id, parent, told) in enumerate(zip(snapshot.ids, snapshot.parent_ids, checks)):
        expected = (cgroup_id * 2654435761 + number * 40503 + parent) % (1 << 61)
        assert (cgroup_id, told) == (10 + row, expected), (row, cgroup_id, told, expected)
    last = len(snapshot) - 1
    if last:
        assert snapshot.paths[last] == f"/sys/fs/cgroup/root/{number}-{last}.service"
    return number, len(snapshot)
"""


@contextlib.contextmanager
def filled(
    path: Path, room: int = 64, counts: tuple[int, ...] = (5,), **options: Any
) -> Iterator[PublishedTree]:
    """A tree whose map this process fills; one walk is published. It is pinned as *path*/map."""
    lib = _libbpf.load()
    division = _layout.geometry(2, room)
    made = _libbpf_maps.create_map(
        lib, "t_tree", division.chunk_size, division.chunks, MMAPABLE, ARRAY
    )
    page = os.sysconf("SC_PAGE_SIZE")
    memory = _libbpf_maps.map_memory(made.fileno(), -(-division.size // page) * page, True)
    try:
        view = memoryview(memory)
        tree = PublishedTree(view, room=room, **options)
        tree.publish(*numbers(counts[0], 1), signature=1)
        pin_map(lib, made.fileno(), path / "map")
        yield tree
        tree.memory = memoryview(b"")
        view.release()
    finally:
        made.close()


def pin_map(lib: _libbpf.Libbpf, fd: int, path: Path) -> None:
    """Pins a map as trees do."""
    lib.bpf_obj_pin(fd, os.fsencode(path))
    path.chmod(0o666)


# --- by the mapping -------------------------------------------------------------------

READ = (
    CHECK
    + """
with memcg.PinnedReader(sys.argv[1], transport="map") as reader:
    before = os.listdir("/proc/self/fd")
    found = [check(reader.read()) for _ in range(3)]
    assert os.listdir("/proc/self/fd") == before
    print(json.dumps([found, reader.transport, reader.fallback_reason, reader.interval]))
"""
)


def test_user_nobody_maps_a_tree(tree_path: Path, caller: Nobody) -> None:
    for count in (1, 5, 500, 20_000):
        with filled(tree_path, room=count, counts=(count,)):
            found = caller.run(READ, tree_path)
            assert found == [[[1, count]] * 3, "map", "", 1.0]
        (tree_path / "map").unlink()


def test_a_tree_that_grows_and_shrinks_is_mapped_further(tree_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(CHECK, scope)
    with filled(tree_path, room=30_000) as tree:
        with PinnedReader(tree_path) as reader:
            before = open_files()
            for number, count in enumerate((5, 300, 7, 30_000, 2, 12_345), 2):
                tree.publish(*numbers(count, number), signature=number)
                assert scope["check"](snapshot_of(reader)) == (number, count)
            assert open_files() == before
            mapped = _mapped_bytes()
        assert _mapped_bytes() < mapped


def _mapped_bytes() -> int:
    """How much of BPF maps this process maps."""
    total = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith("bpf-map"):
            start, _, end = line.split(" ")[0].partition("-")
            total += int(end, 16) - int(start, 16)
    return total


def test_little_of_a_large_map_is_mapped(tree_path: Path) -> None:
    with filled(tree_path, room=_layout.MOST_ROWS) as tree:
        own = _mapped_bytes()
        with PinnedReader(tree_path) as reader:
            snapshot_of(reader)
            assert 0 < _mapped_bytes() - own < 1 << 18 < tree.division.size // 20


# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET
NAMESPACES = 0x00020000 | 0x7E000000


def test_a_tree_is_read_in_other_namespaces(tree_path: Path) -> None:
    """Of mounts, processes, users, cgroups, names, IPC and the network."""
    package = Path(memcg.__file__).resolve().parent.parent
    # The child of the process that has called unshare() is in all of them.
    begin = (
        "import ctypes, json, os, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        f"assert ctypes.CDLL(None).unshare({NAMESPACES}) == 0\n"
        "child = os.fork()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "assert os.getpid() == 1 and os.getuid() == 65534\n"
        "import pymemcgbpf as memcg\n"
    )
    command = [sys.executable, "-I", "-c", begin + READ, str(package)]
    with filled(tree_path):
        ran = subprocess.run([*command, str(tree_path)], capture_output=True, text=True, cwd="/")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [[[1, 5]] * 3, "map", "", 1.0]


READ_ON = (
    CHECK
    + """
import time
seen, slow = set(), 0
reader = memcg.PinnedReader(sys.argv[1], transport="map")
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        seen.add(check(reader.read())[0])
    except memcg.MemcgError as error:
        assert error.errno == 11, error
        slow += 1
print(json.dumps([len(seen), slow]))
"""
)


def test_nothing_is_torn_under_a_writer_at_one_khz_and_with_a_stopped_reader(
    tree_path: Path, caller: Nobody
) -> None:
    chance = random.Random(5)
    walks = [(number, numbers(50 + 17 * number, number)) for number in range(1, 31)]
    with filled(tree_path, room=600) as tree:
        reader = caller.start(READ_ON, tree_path, 4)
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        over = threading.Event()

        def write_on() -> None:
            at = 0
            while not over.is_set():
                number, (rows, names) = walks[at % len(walks)]
                tree.publish(rows, names, signature=1000 + number)
                time.sleep(0.001)
                at += 1

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            while reader.poll() is None:
                reader.send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.001, 0.02))
                reader.send_signal(signal.SIGCONT)
                time.sleep(chance.uniform(0.0, 0.01))
            seen, _ = caller.end(reader)
        finally:
            over.set()
            writer.join()
            reader.kill()
            reader.wait()
    assert seen > 10


# --- by a descriptor ------------------------------------------------------------------

RECEIVE = (
    CHECK
    + """
import socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[2])
    data, (fd,), _, _ = socket.recv_fds(connection, 16, 16)
    assert data == b"\\0"
    reader = memcg.PinnedReader.from_fd(fd)
    os.close(fd)
    kept = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{each}")]
    found = [check(reader.read())]
    connection.send(b"more")
    assert reader.wait(30)
    found.append(check(reader.read()))
    print(json.dumps([found, reader.transport, "anon_inode:bpf-map" in kept]))
"""
)


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A Unix socket to which everybody may connect."""
    with tempfile.TemporaryDirectory(prefix="pymemcgbpf-socket-") as folder:
        os.chmod(folder, 0o755)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.join(folder, "socket"))
            os.chmod(made.getsockname(), 0o777)
            made.listen()
            made.settimeout(60)
            yield made


@pytest.mark.parametrize("may_call", [False, True])
def test_a_map_that_is_handed_over_is_read(
    may_call: bool, tree_path: Path, nobody: Nobody, caller: Nobody
) -> None:
    """Without bpf(), without ctypes and without the bpffs."""
    with filled(tree_path, room=3000) as tree, listening() as server:
        before = open_files()
        who = caller if may_call else nobody
        process = who.start(RECEIVE, tree_path, server.getsockname(), hide=tree_path)
        with server.accept()[0] as connection, PinnedReader(tree_path) as reader:
            reader.send_to(connection)
            connection.settimeout(60)
            if connection.recv(4) == b"more":
                tree.publish(*numbers(2500, 7), signature=7)
            found, transport, is_kept = who.end(process)
        assert open_files() == before
    assert (found, transport) == ([[1, 5], [7, 2500]], "map")
    if may_call or sys.version_info >= (3, 13):
        assert not is_kept


SECCOMP = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def refuse(number):
    filters = b"".join(struct.pack("=HBBI", *each) for each in (
        (0x20, 0, 0, 0),                 # load the number of the call
        (0x15, 0, 1, number),            # another one: skip the next
        (0x06, 0, 0, 0x00050000 | 1),    # EPERM
        (0x06, 0, 0, 0x7fff0000),        # allow
    ))
    memory = ctypes.create_string_buffer(filters)
    program = struct.pack("@HP", 4, ctypes.addressof(memory))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
refuse(int(sys.argv[2]))
"""
READ_BOTH = """
def errors(read):
    try:
        read()
    except memcg.MemcgError as error:
        return [type(error).__name__, str(error)]
reader = memcg.PinnedReader(sys.argv[1])
snapshot = reader.read()
print(json.dumps([
    reader.transport, reader.fallback_reason, len(snapshot), snapshot.path,
    errors(lambda: memcg.PinnedReader(sys.argv[1], transport="map")),
]))
"""


def test_where_seccomp_refuses_bpf_the_stream_is_read(folder: Path, caller: Nobody) -> None:
    """As Docker's profile does for processes without privileges."""
    number = SYS_BPF[os.uname().machine]
    with cgroup() as root, published(root, folder / "real", ["anon"]):
        found = caller.run(SECCOMP + READ_BOTH, folder / "real", number)
    transport, reason, count, path, (kind, text) = found
    assert (transport, count, path) == ("stream", 1, os.path.realpath(root))
    assert "may not open it through bpf(2) (Operation not permitted (1))" in reason
    assert (kind, text) == ("BpfPermissionError", reason)


def test_without_ctypes_the_stream_is_read(folder: Path, nobody: Nobody) -> None:
    with cgroup() as root, published(root, folder / "real", ["anon"]):
        found = nobody.run(READ_BOTH, folder / "real")
    transport, reason, count, path, (kind, text) = found
    assert (transport, count, path) == ("stream", 1, os.path.realpath(root))
    assert "this Python has no working ctypes" in reason
    assert (kind, text) == ("BackendUnavailableError", reason)


# --- hostile maps ---------------------------------------------------------------------


def other_map(
    lib: _libbpf.Libbpf, kind: int, key: int, value: int, flags: int, entries: int
) -> Any:
    """A map of any kind."""
    options = _libbpf.MapCreateOpts(map_flags=flags)
    options.sz = ctypes.sizeof(options)
    return lib.descriptor(
        "bpf_map_create", kind, b"t_other", key, value, entries, ctypes.byref(options)
    )


DIVISION = _layout.geometry(2, 64)


@pytest.mark.parametrize(
    ("kind", "key", "value", "flags", "entries"),
    [
        pytest.param(HASH, 4, DIVISION.chunk_size, 0, 3, id="a hash table"),
        pytest.param(ARRAY, 4, DIVISION.chunk_size, 0, 3, id="an array that cannot be mapped"),
        pytest.param(ARRAY, 4, 8, MMAPABLE, 3, id="an array of small elements"),
        pytest.param(ARRAY, 4, DIVISION.chunk_size, MMAPABLE, 3, id="an array of zeros"),
        pytest.param(ARRAY, 4, 1 << 20, MMAPABLE, 16, id="a large array of zeros"),
    ],
)
def test_another_map_is_refused(
    kind: int, key: int, value: int, flags: int, entries: int, tree_path: Path
) -> None:
    lib = _libbpf.load()
    made = other_map(lib, kind, key, value, flags, entries)
    try:
        pin_map(lib, made.fileno(), tree_path / "map")
        before = open_files()
        with pytest.raises(StreamError, match=r"not (the map of )?a pinned tree"):
            PinnedReader(tree_path)
        with pytest.raises(StreamError, match=r"not (the map of )?a pinned tree"):
            PinnedReader.from_fd(made.fileno())
        assert open_files() == before and os.fstat(made.fileno())
    finally:
        made.close()


def test_another_object_of_bpf_is_refused(tree_path: Path) -> None:
    with cgroup() as root:
        memcg.pin(root, tree_path / "map", ["anon"], flush=False)
        before = open_files()
        with pytest.raises(StreamError, match="is not the map of a pinned tree"):
            PinnedReader(tree_path)
        assert open_files() == before


@pytest.mark.parametrize("room", [1, 63 * 402, 65_536])
def test_a_head_of_another_map_is_refused(room: int, tree_path: Path) -> None:
    """It claims more, or less, than the map has. What it claims is not mapped."""
    with filled(tree_path, room=64 * 402) as tree:
        mapped = _mapped_bytes()
        head = head_of(_layout.geometry(2, room), room=room)
        tree.memory[: len(head)] = head
        with pytest.raises(StreamError, match=r"in a map of \d+ elements"):
            PinnedReader(tree_path)
        assert _mapped_bytes() == mapped


def test_a_head_that_begins_to_lie_is_refused(tree_path: Path) -> None:
    with filled(tree_path) as tree, PinnedReader(tree_path) as reader:
        snapshot_of(reader)
        at = _layout.HALVES_AT + _layout.HALF_SIZE
        for rows, text in ((65_537, 0), ((1 << 32) - 1, 0), (5, 1 << 31), (403, 2)):
            half = [*_layout.HALF.unpack_from(tree.memory, at)]
            half[4:] = [rows, text]
            _layout.HALF.pack_into(tree.memory, at, *half)
            with pytest.raises(StreamError, match="walk 1 is said to have"):
                reader.read()
        tree.memory[: _layout.HEAD_SIZE] = bytes(_layout.HEAD_SIZE)
        with pytest.raises(memcg.PinNotFoundError, match="no walk is published yet"):
            reader.read()


def test_a_link_to_a_map_is_refused(tree_path: Path, folder: Path) -> None:
    with filled(tree_path):
        (tree_path / "map").rename(folder / "real_map")
        try:
            (tree_path / "map").symlink_to(folder / "real_map")
            with pytest.raises(StreamError, match="is not the map of a pinned tree"):
                PinnedReader(tree_path)
        finally:
            (folder / "real_map").unlink()


# --- removed and pinned again ---------------------------------------------------------


def test_a_reader_follows_a_tree_that_is_pinned_again(tree_path: Path) -> None:
    with filled(tree_path):
        reader = PinnedReader(tree_path)
        assert len(snapshot_of(reader)) == 5 and not reader.wait(0)
        (tree_path / "map").unlink()
        for use in (reader.read, reader.wait):
            with pytest.raises(memcg.PinNotFoundError):
                use()
    with filled(tree_path, room=5000, counts=(4000,)):
        assert reader.wait(0) and len(snapshot_of(reader)) == 4000
    reader.close()
