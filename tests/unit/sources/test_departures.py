# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The records of removed cgroups: taken from a ring buffer, which here is our own memory."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    TreeReader,
    _fork,
    _wire,
)
from pymemcgbpf._bpf.departures import Room
from pymemcgbpf._sources import departures as _departures
from pymemcgbpf._sources.departures import Departures, Records
from pymemcgbpf._sources.tree_bpf import MapSource

from ..tree_rows import FakeTree, Trees, pack

NAMES = ("anon", "pgscan")
SIZE = 4096


class Ring:
    """A ring buffer, and the kernel that writes into it."""

    def __init__(self, kept: Sequence[str] = NAMES, at: int = 0) -> None:
        page = mmap.PAGESIZE
        self.records, self.lost = mmap.mmap(-1, page + 2 * SIZE), bytearray(8)
        self.place = memoryview(bytearray(8)).cast("Q")
        self.end = at
        made: Any = object.__new__(Departures)
        self.departures = made
        made._records, made._lost, made._consumer = self.records, self.lost, self.place
        made._at, made._generation = at, _fork.generation
        made._record = _departures._Record(NAMES, tuple(kept))
        made._room = Room(SIZE)
        made._lost_before, made._barrier = 0, None
        made._link_number = self  # which says whether it is lost
        self.now_lost = False
        self.move(0)

    def is_lost(self) -> bool:
        return self.now_lost

    def move(self, size: int) -> None:
        self.end += size
        struct.pack_into("=Q", self.records, 0, self.end)

    def write(
        self,
        cgroup_id: int,
        path: Sequence[str] = ("a",),
        values: Sequence[int] = (5, 6),
        *,
        depth: Optional[int] = None,
        flags: int = 0,
        unsettled: int = 0,
    ) -> None:
        text = b"".join(os.fsencode(name) + b"\0" for name in reversed(path))
        row = pack(_wire.RawRow(cgroup_id, 1, 2, 0, tuple(values)))
        head = struct.pack(
            "=Q4H",
            1000 + cgroup_id,
            unsettled,
            len(text),
            len(path) if depth is None else depth,
            len(path),
        )
        data = head + row + text
        start = mmap.PAGESIZE + self.end % SIZE
        record = struct.pack("=II", len(data) | flags, 0) + data
        for at, byte in enumerate(record):  # the memory is there twice
            place = (self.end + at) % SIZE + mmap.PAGESIZE
            self.records[place] = self.records[place + SIZE] = byte
        assert self.records[start : start + len(record)] == record
        self.move((len(record) + 7) & ~7)

    def take(self) -> Records:
        found: Records = self.departures.take()
        self.departures.done(found)
        return found


def test_records_are_taken_in_order_and_once() -> None:
    ring = Ring()
    assert ring.take() == Records(b"", b"", [], 0, 0)
    ring.write(7, ("a", "b c"))
    ring.write(8, ("\udcff",), values=(9, 10))
    rows = pack(_wire.RawRow(7, 1, 2, 0, (5, 6)), _wire.RawRow(8, 1, 2, 0, (9, 10)))
    assert ring.take() == Records(
        rows, struct.pack("=2Q", 1007, 1008), ["a/b c", "\udcff"], 0, ring.end
    )
    assert ring.place[0] == ring.end
    assert ring.take() == Records(b"", b"", [], 0, ring.end)


def test_what_was_taken_stays_until_it_is_done() -> None:
    ring = Ring()
    ring.write(7)
    struct.pack_into("=Q", ring.lost, 0, 5)
    first = ring.departures.take()
    assert ring.place[0] == 0 and ring.departures.take() == first
    ring.departures.done(first)
    assert ring.place[0] == ring.end and ring.take() == Records(b"", b"", [], 0, ring.end)


def test_a_forked_child_leaves_the_parent_s_place_alone() -> None:
    ring = Ring()
    ring.write(7)
    found = ring.departures.take()
    ring.departures._generation -= 1
    ring.departures.done(found)
    assert ring.place[0] == 0 and ring.departures._at == 0


def test_a_page_that_jumps_is_not_believed() -> None:
    ring = Ring()
    for number in range(3):
        ring.write(number)
        ring.take()
    ring.place[0] = 8  # a child has written it late
    ring.write(9, ("z",))
    assert ring.take().paths == ["z"]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(("memory.current", "anon"), (5, _wire.ABSENT)), (("anon",), (_wire.ABSENT, _wire.ABSENT))],
)
def test_counters_that_never_settled_are_absent(
    kept: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    ring = Ring()
    ring.departures._record = _departures._Record(("memory.current", "anon"), kept)
    ring.write(7, values=(5, 6)[: len(kept)], unsettled=1)
    assert ring.take().rows == pack(_wire.RawRow(7, 1, 2, 0, expected))


def test_a_record_that_goes_beyond_the_end() -> None:
    ring = Ring(at=10 * SIZE - 40)
    ring.write(7, ("long" * 30,))
    assert ring.take().paths == ["long" * 30]
    for number in range(200):
        ring.write(number, (str(number),))
        assert ring.take().paths == [str(number)]


def test_a_record_that_is_being_written_is_left_for_later() -> None:
    ring = Ring()
    ring.write(7)
    began = ring.end
    ring.write(8, flags=1 << 31)
    assert len(ring.take().paths) == 1 and ring.place[0] == began
    assert ring.take().paths == []
    (size,) = struct.unpack_from("=I", ring.records, mmap.PAGESIZE + began)
    struct.pack_into("=I", ring.records, mmap.PAGESIZE + began, size & ~(1 << 31))
    assert ring.take().removed_ns == struct.pack("=Q", 1008)


def test_a_path_with_a_name_that_is_missing_is_unknown() -> None:
    ring = Ring()
    ring.write(7, ("a", "b"), depth=3)
    ring.write(8, (), depth=1)
    assert ring.take().paths == [None, None]


def test_those_that_had_no_room_are_counted_once() -> None:
    ring = Ring()
    struct.pack_into("=Q", ring.lost, 0, 5)
    assert ring.take().lost == 5
    ring.write(7)
    struct.pack_into("=Q", ring.lost, 0, 7)
    found = ring.take()
    assert (found.lost, found.paths) == (2, ["a"])
    assert ring.take().lost == 0


@pytest.mark.parametrize(
    ("kept", "values", "expected"),
    [
        (("pgscan",), (6,), (_wire.ABSENT, 6)),
        (("anon",), (5,), (5, _wire.ABSENT)),
        ((), (), (_wire.ABSENT, _wire.ABSENT)),
    ],
)
def test_items_that_are_not_read_are_absent(
    kept: tuple[str, ...], values: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    ring = Ring(kept)
    ring.write(7, values=values)
    ring.write(8, values=values)
    assert ring.take().rows == pack(*(_wire.RawRow(at, 1, 2, 0, expected) for at in (7, 8)))


def test_a_lost_descriptor() -> None:
    ring = Ring()
    ring.now_lost = True
    with pytest.raises(MemcgError):
        ring.take()


class RefusingProgram:
    def __init__(self, number: int) -> None:
        self.number = number

    def attach_to_tracepoint(self, name: str) -> None:
        assert name == "cgroup_rmdir"
        raise MemcgError("it failed", errno=self.number, call="bpf_raw_tracepoint_open")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EPERM, BpfPermissionError, "does not let this process attach"),
        (errno.EACCES, BpfPermissionError, "does not let this process attach"),
        (errno.ENOENT, BackendUnavailableError, "this kernel has no tracepoint cgroup_rmdir"),
        (errno.ENOMEM, MemcgError, "it failed"),
    ],
)
def test_why_it_cannot_be_attached(number: int, kind: type[MemcgError], said: str) -> None:
    program: Any = RefusingProgram(number)
    with pytest.raises(MemcgError, match=said) as caught:
        _departures._attached(program)
    assert type(caught.value) is kind and caught.value.errno == number
    assert caught.value.call == "bpf_raw_tracepoint_open"


# --- readers


class Taker:
    """In place of Departures."""

    def __init__(self) -> None:
        self.found = Records(b"", b"", [], 0, 0)
        self.error: Optional[BaseException] = None
        self.is_lost = False
        self.closes = self.takes = self.dones = 0
        self.generation = _fork.generation

    def take(self) -> Records:
        self.takes += 1
        if self.error is not None:
            raise self.error
        return self.found

    def done(self, taken: Records) -> None:
        self.dones += 1
        self.found = Records(b"", b"", [], 0, 0)

    def is_of_this_process(self) -> bool:
        return self.generation == _fork.generation

    def again(self, cgroup: object) -> Taker:
        return Taker()

    def close(self) -> None:
        self.closes += 1


class SeeingTree(FakeTree, MapSource):
    """A fake tree that can see removals, or says why not."""

    refusal: Optional[MemcgError] = None
    is_lost = False

    @property
    def root(self) -> Any:  # type: ignore[override]
        return None

    @property
    def last_paths(self) -> Any:
        return self.paths

    def departures(self) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.taker = Taker()
        return self.taker


@pytest.fixture
def source() -> SeeingTree:
    return SeeingTree(mmap.mmap(-1, 4096), 0)


@pytest.fixture
def trees(source: SeeingTree, choose_with: Any) -> Trees:
    made = Trees(source)
    choose_with(made.choose)
    return made


def one(cgroup_id: int) -> Records:
    row = pack(_wire.RawRow(cgroup_id, 1, 2, 0, (5, 6)))
    return Records(row, struct.pack("=Q", 9), ["a/b"], 1, 64)


def test_each_read_takes_what_has_departed(v2: Path, trees: Trees, source: SeeingTree) -> None:
    with TreeReader(v2, departed=True) as tree:
        source.taker.found = one(7)
        departed = tree.read().departed
        assert departed is not None and departed.lost == 1
        assert [(row.id, row.path, dict(row)) for row in departed] == [
            (7, f"{v2}/a/b", {"anon": 5, "pgscan": 6})
        ]
        again = tree.read().departed
        assert again is not None and len(again) == 0 and again.lost == 0
        assert "departed" not in tree.fallback_reason
    assert source.taker.closes == 1


def test_what_has_departed_waits_for_a_read_that_succeeds(
    v2: Path, trees: Trees, source: SeeingTree
) -> None:
    with TreeReader(v2, departed=True) as tree:
        source.taker.found = one(7)
        source.error = MemcgError("it failed")
        with pytest.raises(MemcgError):
            tree.read()
        assert source.taker.takes == 0
        source.error = CgroupRemovedError("it was removed")
        with pytest.raises(CgroupRemovedError) as caught:
            tree.read()
        assert caught.value.departed is not None and list(caught.value.departed.ids) == [7]
        source.taker.error = MemcgError("a worse one")
        with pytest.raises(CgroupRemovedError) as caught:
            tree.read()
        assert caught.value.departed is None


def test_an_exception_of_a_signal_handler_loses_nothing(
    v2: Path, trees: Trees, source: SeeingTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimeUpError(Exception):
        pass

    def interrupted(*_: object) -> None:
        raise TimeUpError

    with TreeReader(v2, departed=True) as tree:
        source.taker.found = one(7)
        with monkeypatch.context() as patched:
            patched.setattr(tree, "_departed", interrupted)
            with pytest.raises(TimeUpError):
                tree.read()
        departed = tree.read().departed
        assert departed is not None and list(departed.ids) == [7]


def test_a_signal_handler_forks_while_they_are_taken(
    v2: Path, trees: Trees, source: SeeingTree
) -> None:
    """What goes on in the child."""

    class Forking(Taker):
        def take(self) -> Records:
            self.generation = -1
            if self.error is not None:
                raise self.error
            return one(7)

    with TreeReader(v2, departed=True) as tree:
        for error in (None, MemcgError("the numbers belong to another reader")):
            inherited = Forking()
            inherited.error = error
            tree._departures = inherited  # type: ignore[assignment]
            departed = tree.read().departed
            assert departed is not None and len(departed) == 0
            assert inherited.closes == 1 and inherited.dones == 0


def test_a_signal_handler_closes_a_child_s_reader(
    v2: Path, trees: Trees, source: SeeingTree
) -> None:
    tree = TreeReader(v2, departed=True)
    made = Taker()

    class Closing(Taker):
        def again(self, cgroup: object) -> Taker:
            tree.close()
            return made

    tree._departures = inherited = Closing()  # type: ignore[assignment]
    inherited.generation = -1
    with pytest.raises(ClosedError):
        tree.read()
    assert made.closes == 1 and tree._departures is None


def test_why_they_cannot_be_seen(v2: Path, trees: Trees, source: SeeingTree) -> None:
    source.refusal = BackendUnavailableError("this kernel has no tracepoint")
    with TreeReader(v2, departed=True) as tree:
        assert tree.fallback_reason == "because; departed: this kernel has no tracepoint"
        assert tree.read().departed is None
    with pytest.raises(BackendUnavailableError, match="this kernel has no tracepoint"):
        TreeReader(v2, departed=True, backend="core")
    source.refusal = MemcgError("memory is short", errno=errno.ENOMEM)
    with pytest.raises(MemcgError, match="memory is short"):
        TreeReader(v2, departed=True)
    assert source.closes == 3


@pytest.mark.parametrize("error", [ValueError("closed"), OSError(errno.EBADF, "closed")])
def test_a_signal_handler_closes_the_reader(
    error: Exception, v2: Path, trees: Trees, source: SeeingTree
) -> None:
    tree = TreeReader(v2, departed=True)

    class Closing(Taker):
        def take(self) -> Records:
            tree.close()
            raise error

    tree._departures = closing = Closing()  # type: ignore[assignment]
    with pytest.raises(ClosedError):
        tree.read()
    assert closing.closes == 1


def test_a_descriptor_that_other_code_has_closed(
    v2: Path, trees: Trees, source: SeeingTree
) -> None:
    with TreeReader(v2, departed=True) as tree:
        source.taker.error = MemcgError("bad", errno=errno.EBADF)
        with pytest.raises(MemcgError, match=r"^bad$"):
            tree.read()
        source.taker.is_lost = True
        assert tree._is_lost()
        with pytest.raises(MemcgError, match="closed by other code"):
            tree.read()


def test_a_forked_child_begins_anew(v2: Path, trees: Trees, source: SeeingTree) -> None:
    with TreeReader(v2, departed=True) as tree:
        inherited = source.taker
        inherited.found, inherited.generation = one(7), -1
        departed = tree.read().departed
        assert departed is not None and len(departed) == 0
        assert inherited.closes == 1 and inherited.takes == 0
