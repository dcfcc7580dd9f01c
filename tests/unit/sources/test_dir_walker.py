# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The walk by a program that finds its root by the open directory, called until it is over."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    MemcgError,
    _fork,
    _options,
    _wire,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import item_code as _item_code
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import run_dir as _run_dir
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf import walk_dir as _walk_dir
from pymemcgbpf._bpf.plan import PointerPath, ReadPlan, Term
from pymemcgbpf._bpf.program import MapSize
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._sources import flush as _flush
from pymemcgbpf._sources.tree_bpf import MapSource, TreeSourceFactory
from pymemcgbpf._sources.tree_walkers import FORKED, DirWalker, Setup

from ...open_files import open_files
from ..directories import make_v2
from ..kernels import LINUX_6_18, LINUX_7_3

Opened = Callable[[Path], Cgroup]

BASE = PointerPath(_terms.START_MEMCG, (880,))
PLAN = ReadPlan("core", {"anon": (Term(_terms.KIND_SIGNED, 112, 4096, BASE),)})
ROOM = {_program.ROWS: MapSize(PLAN.row_size, 10), _program.NAMES: MapSize(300, 1)}
MORE, FAILED = _walk_dir.MORE, _run_dir.FAILED
KEY = 1 << 63


class FakeProgram:
    """Stands in for _program.Program and _libbpf_programs.ArgumentRunner.

    Attributes:
        answers: what each call returns: a negative errno, or the program's own result.
        asked: whether each call began a walk or went on with it (0 or 1).
    """

    fd, key = 33, KEY

    def __init__(self) -> None:
        self.answers: list[int] = [1]
        self.asked: list[int] = []
        self.loaded: list[tuple[str, Any, Any, bytes]] = []
        self.is_lost, self.closes = False, 0
        self.arguments: list[tuple[int, ...]] = []

    def load(
        self, name: str, constants: dict[str, bytes], maps: dict[str, MapSize], items: bytes
    ) -> FakeProgram:
        self.loaded.append((name, constants, maps, items))
        return self

    def map(self, name: str, writable: bool = False) -> mmap.mmap:
        assert writable is (name == _program.NAMES)
        size: MapSize = self.loaded[-1][2][name]
        return mmap.mmap(-1, size.value_size * size.entries)

    def close(self) -> None:
        self.closes += 1

    def runner(self, program_fd: int, arguments: Sequence[int]) -> Any:
        assert program_fd == self.fd
        self.arguments.append(tuple(arguments))
        return Runner(self, arguments[-1])


class Runner:
    def __init__(self, program: FakeProgram, resumes: int) -> None:
        self._program, self._resumes = program, resumes
        self.returned = [77]  # not to be looked at before a call

    def run(self) -> int:
        program = self._program
        program.asked.append(self._resumes)
        answer = program.answers.pop(0) if len(program.answers) > 1 else program.answers[0]
        if answer < 0:
            return answer
        self.returned[0] = answer
        return 0


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    fake = FakeProgram()
    monkeypatch.setattr(_program, "Program", fake.load)
    monkeypatch.setattr(_libbpf_programs, "ArgumentRunner", fake.runner)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    return fake


@pytest.fixture
def walker(program: FakeProgram, v2: Path, opened: Opened) -> Iterator[DirWalker]:
    made = DirWalker(Setup(_options.POST, {"nr_items": b"1234"}), ROOM, opened(v2))
    yield made
    made.close()
    made.close()


def test_what_is_loaded_and_asked(
    program: FakeProgram, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = opened(v2)
    setup = DirWalker.setup(PLAN, 0, _options.CHILDREN, cgroup)
    assert setup.order == _options.CHILDREN, "the program walks in this order on every kernel"
    assert setup.constants == _walk_dir.computing(PLAN, _options.CHILDREN)[0]
    assert setup.items == _item_code.item_code(*PLAN.encoded())
    walker = DirWalker(setup, ROOM, cgroup)
    assert program.loaded == [(_program.WALK_DIR, setup.constants, ROOM, setup.items)]
    inode = v2.stat().st_ino
    assert program.arguments == [(cgroup.fd, inode, KEY, 0), (cgroup.fd, inode, KEY, 1)]
    assert (len(walker.rows), len(walker.names)) == (10 * PLAN.row_size, 300)
    walker.close()
    assert walker.rows.closed and walker.names.closed


@pytest.mark.parametrize("rows", [0, 1, 11, MORE - 1])
@pytest.mark.parametrize("pieces", [0, 1, 5])
def test_it_is_called_until_the_walk_is_over(
    rows: int, pieces: int, walker: DirWalker, program: FakeProgram
) -> None:
    for _ in range(2):
        program.answers = [*(MORE for _ in range(pieces)), rows]
        program.asked.clear()
        assert walker.walk() == rows
        assert program.asked == [0, *(1 for _ in range(pieces))]


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_call_that_fails_ends_the_walk(
    pieces: int, walker: DirWalker, program: FakeProgram
) -> None:
    program.answers = [*(MORE for _ in range(pieces)), -errno.EPERM, 3]
    with pytest.raises(MemcgError) as caught:
        walker.walk()
    assert (caught.value.errno, caught.value.call) == (errno.EPERM, "bpf_prog_test_run_opts")
    program.asked.clear()
    assert walker.walk() == 3
    assert program.asked == [0], "from the beginning"


def test_a_root_that_is_not_found(walker: DirWalker, program: FakeProgram, v2: Path) -> None:
    program.answers = [FAILED | _wire.NOT_OPEN]
    with pytest.raises(BackendUnavailableError, match="by its open directory"):
        walker.walk()
    shutil.rmtree(v2)
    with pytest.raises(CgroupRemovedError):
        walker.walk()
    make_v2(v2)
    with pytest.raises(CgroupRemovedError):
        walker.walk()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (_wire.OTHER, MemcgError, "another reader"),
        (_wire.TOO_DEEP, BackendUnavailableError, "1023 levels .*shared.* max_depth of 1023"),
        (_wire.UNREADABLE, MemcgError, rf"status {_wire.UNREADABLE}\b"),
        (77, MemcgError, r"status 77\b"),
    ],
)
@pytest.mark.parametrize("pieces", [0, 2])
def test_why_a_walk_failed(
    pieces: int,
    status: int,
    kind: type[MemcgError],
    says: str,
    walker: DirWalker,
    program: FakeProgram,
) -> None:
    program.answers = [*(MORE for _ in range(pieces)), FAILED | status]
    with pytest.raises(MemcgError, match=says) as caught:
        walker.walk()
    assert type(caught.value) is kind


def test_a_closed_walker_runs_no_other_program(walker: DirWalker, program: FakeProgram) -> None:
    assert not walker.is_lost
    program.is_lost = True
    assert walker.is_lost
    walker.close()
    assert program.closes == 1
    with pytest.raises(MemcgError):
        walker.walk()
    assert program.asked == []


@pytest.mark.parametrize("order", ["self", "pre", "post", "up", "children"])
def test_a_file_flushes_since_the_program_cannot(
    order: Any, program: FakeProgram, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_7_3.types)  # whose other programs can
    cgroup = opened(v2)
    before = open_files()
    source = MapSource(cgroup, PLAN, True, DirWalker, TreeSourceFactory(order, None))
    new = [path for fd, path in open_files().items() if fd not in before]
    assert sorted(new) == [str(v2), str(v2 / "memory.stat")]
    assert source._flush.mode == 0
    source.close()
    assert open_files() == before


def test_the_directory_is_the_source_s_own(
    program: FakeProgram, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flush, "before_walking", lambda *_, **__: _flush.NO_FLUSH)
    cgroup = opened(v2)
    source = MapSource(cgroup, PLAN, False, DirWalker, TreeSourceFactory("pre", None))
    fd = program.arguments[0][0]
    assert fd != cgroup.fd
    assert os.fstat(fd).st_ino == v2.stat().st_ino
    source.close()


def test_a_child_of_a_signal_handler_does_not_go_on_with_its_parent_s_walk(
    walker: DirWalker, program: FakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.answers = [MORE, 3]
    resume = walker._resume

    def begin_in_a_child() -> int:
        error = program_begin()
        monkeypatch.setattr(_fork, "generation", _fork.generation + 1)
        return error

    program_begin, walker._begin = walker._begin, begin_in_a_child
    assert walker.walk() == FORKED
    assert program.asked == [0], "the rest of the walk is the parent's"
    walker._begin = program_begin
    program.answers = [MORE, 3]
    assert walker.walk() == 3 and walker._resume is resume
