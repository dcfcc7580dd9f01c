# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup read through a link or by a program that is run, and what can go wrong."""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    BpfObjectError,
    BpfPermissionError,
    CgroupRemovedError,
    MemcgError,
    StreamError,
    _options,
    _wire,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import features as _features
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import ReadPlan, Term, Terms
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._sources import one_bpf as _one_bpf
from pymemcgbpf._sources import program_cache as _program_cache
from pymemcgbpf._sources.one_bpf import RunSource, StatSourceFactory, StreamSource
from pymemcgbpf._sources.one_run_dir import RunDirSource

from ...open_files import open_files
from ..directories import make_v1, make_v2
from ..fake_libbpf import FakeIteratorMaker
from ..kernels import LINUX_5_15, LINUX_6_18

Opened = Callable[[Path], Cgroup]

NAMES = ("anon", "pgfault")
TERMS: Terms = {name: (Term(1, at),) for at, name in enumerate(NAMES)}


SOME_ID = 42


def whole_stream(*values: int, rows: int = 1) -> bytes:
    row = _wire.ROW.pack(SOME_ID, 1, 2, 0) + struct.pack("=2Q", *values)
    trailer = _wire.TRAILER.pack(_wire.END_MAGIC, rows, 0)
    return _wire.encode_header((1, 55), 1) + rows * row + trailer


class Loaded:
    """A program, as far as is looked at it."""

    fd, key = 6, 5
    is_lost = False


class Kernel:
    """A program that attaches, and an iterator that gives what the test says."""

    is_lost = False

    def __init__(self, folder: Path) -> None:
        self.output = whole_stream(4096, 3)
        self.piecewise = 0  # bytes per read, 0 for all at once
        self.attach_error: Any = None
        self.create_error = 0
        self.links = 0
        self.iterators = 0
        self.folder = folder
        self.fd = 5

    # The program:
    def attach(self, cgroup_fd: int, order: int) -> Any:
        self.cgroup_id = os.fstat(cgroup_fd).st_ino if cgroup_fd > 0 else 0
        assert (cgroup_fd > 0, order) == (True, _options.SELF)
        if self.attach_error is not None:
            raise self.attach_error
        self.links += 1
        return self

    # The link:
    def close(self) -> None:
        self.links -= 1

    # bpf_iter_create:
    def create(self, link_fd: int) -> int:
        if link_fd != self.fd:
            return -errno.EBADF
        if self.create_error:
            return -self.create_error
        self.iterators += 1
        # The row is of the cgroup that the link is of.
        row = _wire.header_size(2)
        if self.output[row:].startswith(_wire.encode_id(SOME_ID)):
            own = _wire.encode_id(self.cgroup_id)
            self.output = self.output[:row] + own + self.output[row + len(own) :]
        if self.piecewise:
            return self._pipe()
        (self.folder / "stream").write_bytes(self.output)
        return os.open(self.folder / "stream", os.O_RDONLY)

    def maker(self, link_fd: int) -> FakeIteratorMaker:
        return FakeIteratorMaker(self.create, link_fd)

    def _pipe(self) -> int:
        # A datagram socket keeps the pieces apart; its end is an empty one.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for at in range(0, len(self.output), self.piecewise):
            ours.send(self.output[at : at + self.piecewise])
        ours.close()
        return theirs.detach()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel(tmp_path)
    monkeypatch.setattr(_libbpf_programs, "IteratorMaker", fake.maker)
    monkeypatch.setattr(_program_cache, "cached", lambda *_: fake)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    return fake


RECIPE = ReadPlan("core", TERMS)


def source_of(cgroup: Cgroup, flush: bool = False) -> StreamSource:
    return StreamSource(cgroup, RECIPE, flush)


def test_a_whole_stream(kernel: Kernel, v2: Path, opened: Opened) -> None:
    source = source_of(opened(v2))
    assert list(source.read().items()) == [("anon", 4096), ("pgfault", 3)]
    kernel.output = whole_stream(1, (1 << 64) - 2)
    assert source.read() == {"anon": 1, "pgfault": (1 << 64) - 2}
    source.close()
    assert kernel.links == 0


ANOTHERS = {
    "another cgroup's": _wire.encode_header((1, 55), 1) + _wire.ROW.pack(7, 1, 2, 0),
    "other items": _wire.encode_header((1, 56), 1) + _wire.ROW.pack(SOME_ID, 1, 2, 0),
}


@pytest.mark.parametrize("begins", ANOTHERS.values(), ids=ANOTHERS)
def test_a_stream_that_is_another_reader_s(
    begins: bytes, kernel: Kernel, v2: Path, opened: Opened
) -> None:
    source = source_of(opened(v2))
    kernel.output = begins + whole_stream(4096, 3)[len(begins) :]
    with pytest.raises(MemcgError, match="belong to another reader") as caught:
        source.read()
    assert caught.value.errno == errno.EBADF
    source.close()


@pytest.mark.parametrize("bytes_a_read", [1, 7, 64, 80])
def test_a_stream_in_pieces(bytes_a_read: int, kernel: Kernel, v2: Path, opened: Opened) -> None:
    kernel.piecewise = bytes_a_read
    source = source_of(opened(v2))
    assert source.read() == {"anon": 4096, "pgfault": 3}
    source.close()


@pytest.mark.parametrize(
    "length", [0, 1, 8, 16, 24, 40, 63, 64, 71], ids=lambda length: f"{length} bytes"
)
def test_a_stream_cut_short(length: int, kernel: Kernel, v2: Path, opened: Opened) -> None:
    kernel.output = kernel.output[:length]
    source = source_of(opened(v2))
    before = open_files()
    with pytest.raises(StreamError):
        source.read()
    assert open_files() == before, "the iterator stays open"
    source.close()


@pytest.mark.parametrize("rows", [2, 3])
def test_too_many_rows(rows: int, kernel: Kernel, v2: Path, opened: Opened) -> None:
    kernel.output = whole_stream(1, 2, rows=rows)
    source = source_of(opened(v2))
    with pytest.raises(StreamError, match=f"{rows} rows"):
        source.read()
    source.close()


def test_no_row_means_removed(kernel: Kernel, v2: Path, opened: Opened) -> None:
    kernel.output = whole_stream(0, 0, rows=0)
    source = source_of(opened(v2))
    with pytest.raises(CgroupRemovedError):
        source.read()
    source.close()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, CgroupRemovedError),
        (errno.ENODEV, CgroupRemovedError),
        (errno.EBADF, CgroupRemovedError),
        (errno.EPERM, BpfPermissionError),
        (errno.EINVAL, MemcgError),
    ],
)
def test_a_refusal_to_attach(
    number: int, kind: type[MemcgError], kernel: Kernel, v2: Path, opened: Opened
) -> None:
    kernel.attach_error = MemcgError("x", errno=number, call="bpf_link_create", log="y")
    with pytest.raises(MemcgError) as caught:
        source_of(opened(v2))
    assert type(caught.value) is kind
    if kind is BpfPermissionError:
        assert (caught.value.errno, caught.value.log) == (number, "y")


def test_an_iterator_may_have_the_descriptor_0(
    kernel: Kernel, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where standard input is closed.
    source = source_of(opened(v2))
    source.read()  # the output is of that cgroup then
    files = SimpleNamespace(read=lambda fd, size: {0: kernel.output}[fd])
    closed: list[int] = []
    iterator = SimpleNamespace(fileno=lambda: 0, close=lambda: closed.append(0))
    with monkeypatch.context() as patch:
        patch.setattr(source, "_new_iterator", lambda: iterator)
        patch.setattr(_one_bpf, "os", files)
        assert source.read() == {"anon": 4096, "pgfault": 3}
    assert closed == [0]
    source.close()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.EMFILE])
def test_a_refusal_to_create_an_iterator(
    number: int, kernel: Kernel, v2: Path, opened: Opened
) -> None:
    source = source_of(opened(v2))
    kernel.create_error = number
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert (caught.value.errno, caught.value.call) == (number, "bpf_iter_create")
    source.close()


def test_a_closed_source_does_not_use_the_descriptor_s_number(
    kernel: Kernel, v2: Path, opened: Opened
) -> None:
    source = source_of(opened(v2))
    source.close()
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert caught.value.errno == errno.EBADF


def flushing_files(cgroup: Cgroup) -> tuple[StreamSource, set[str]]:
    before = set(open_files().values())
    source = source_of(cgroup, flush=True)
    return source, {os.path.basename(each) for each in set(open_files().values()) - before}


def test_where_bpf_cannot_flush_the_cheapest_file_does(
    kernel: Kernel, tmp_path: Path, opened: Opened
) -> None:
    # Linux 6.16 to 6.19.
    plain, zswap = make_v2(tmp_path / "plain"), make_v2(tmp_path / "zswap")
    (zswap / "memory.zswap.current").write_text("0\n")
    old = make_v1(tmp_path / "v1")
    (old / "memory.numa_stat").write_text("total=1\n")
    for path, name in (
        (plain, "memory.stat"),
        (zswap, "memory.zswap.current"),
        (old, "memory.numa_stat"),
    ):
        kernel.output = whole_stream(4096, 3)
        source, files = flushing_files(opened(path))
        assert files == {name}
        assert source.read() == {"anon": 4096, "pgfault": 3}
        source.close()
        source.close()


def test_iterators_serve_where_the_object_of_run_is_missing(
    kernel: Kernel, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise BpfObjectError("run_dir.bpf.o cannot be read")

    cgroup = opened(v2)
    monkeypatch.setattr(_one_bpf, "RunDirSource", refuse)
    source = _one_bpf.open_without_flush(cgroup, RECIPE)
    assert source.read() == {"anon": 4096, "pgfault": 3}
    source.close()
    assert _one_bpf.open_for_words(cgroup, RECIPE) is None
    monkeypatch.setattr(_btf, "kernel", LINUX_5_15.types)  # which has no iterator of cgroups
    for opens in (_one_bpf.open_without_flush, _one_bpf.open_for_words):
        with pytest.raises(BpfObjectError, match="run_dir"):
            opens(cgroup, RECIPE)


def test_without_flush_no_file_is_read(kernel: Kernel, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = source_of(cgroup, flush=False)
    assert open_files() == before
    source.close()


def test_where_no_file_can_be_opened_the_link_goes(
    kernel: Kernel, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    (v2 / "memory.stat").unlink()
    with pytest.raises(FileNotFoundError):
        source_of(cgroup, flush=True)
    assert kernel.links == 0


# --- run ------------------------------------------------------------------------------


class Runs:
    """A program that is run: what it answers, one call after the other."""

    is_lost = False

    def __init__(self) -> None:
        self.answers: list[tuple[int, int, tuple[int, ...]]] = []  # status, rows, values
        self.error = 0
        self.asked: list[int] = []  # the ids
        self.fd, self.key = 6, 1 << 63

    def runner(self, program_fd: int, context: bytearray) -> Callable[[], int]:
        assert program_fd == self.fd

        def run() -> int:
            cgroup_id, key, _, _ = _wire.CALL.unpack_from(context)
            assert key == self.key
            self.asked.append(cgroup_id)
            if self.error:
                return -self.error
            status, rows, values = self.answers.pop(0)
            _wire.CALL.pack_into(context, 0, cgroup_id, key, status, rows)
            if rows:
                _wire.ROW.pack_into(context, _wire.CALL.size, cgroup_id, 1, 2, 0)
                struct.pack_into(
                    f"={len(values)}Q", context, len(context) - 8 * len(values), *values
                )
            return 0

        return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setattr(_libbpf_programs, "runner", fake.runner)
    monkeypatch.setattr(_program_cache, "cached", lambda *_: fake)
    monkeypatch.setattr(_one_bpf, "BUSY_SECONDS", 0)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    return fake


def test_one_call_gives_one_row(runs: Runs, v2: Path, opened: Opened) -> None:
    source = RunSource(opened(v2), RECIPE, False)
    runs.answers = [(_wire.DONE, 1, (4096, 3)), (_wire.DONE, 1, (0, (1 << 64) - 2))]
    assert list(source.read().items()) == [("anon", 4096), ("pgfault", 3)]
    assert source.read() == {"anon": 0, "pgfault": (1 << 64) - 2}
    assert runs.asked == [v2.stat().st_ino] * 2
    source.close()
    source.close()


def test_what_a_run_finds_absent(runs: Runs, v2: Path, opened: Opened) -> None:
    runs.answers = [(_wire.DONE, 1, (4096, _wire.ABSENT)), (_wire.DONE, 1, (0, _wire.ABSENT - 1))]
    source = RunSource(opened(v2), RECIPE, False)
    assert source.probe_missing() == {"pgfault"}
    assert source.probe_missing() == set()


def test_what_a_stream_finds_absent(kernel: Kernel, v2: Path, opened: Opened) -> None:
    source = source_of(opened(v2))
    kernel.output = whole_stream(_wire.ABSENT, _wire.ABSENT - 1)
    assert source.probe_missing() == {"anon"}
    kernel.output = whole_stream(0, 0)
    assert source.probe_missing() == set(), "0 is a measurement"
    source.close()


def test_a_run_of_another_program(runs: Runs, v2: Path, opened: Opened) -> None:
    source = RunSource(opened(v2), RECIPE, False)
    runs.answers = [(_wire.OTHER, 0, ())]
    with pytest.raises(MemcgError, match="belong to another reader") as caught:
        source.read()
    assert caught.value.errno == errno.EBADF
    source.close()


def test_a_busy_program_is_run_again(runs: Runs, v2: Path, opened: Opened) -> None:
    runs.answers = [(_wire.BUSY, 0, ())] * 3 + [(_wire.DONE, 1, (1, 2))]
    assert RunSource(opened(v2), RECIPE, False).read() == {"anon": 1, "pgfault": 2}
    assert len(runs.asked) == 4


def test_a_program_that_is_busy_for_long_is_waited_for(
    runs: Runs, v2: Path, opened: Opened
) -> None:
    # More calls than scratches, on CPUs that have other work: no recursion bounds that.
    busy = 5 * sys.getrecursionlimit()
    runs.answers = [(_wire.BUSY, 0, ())] * busy + [(_wire.DONE, 1, (1, 2))]
    assert RunSource(opened(v2), RECIPE, False).read() == {"anon": 1, "pgfault": 2}
    assert len(runs.asked) == busy + 1


def test_a_busy_program_is_given_time(
    runs: Runs, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(_one_bpf, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(_one_bpf, "BUSY_SECONDS", 0.5)
    runs.answers = [(_wire.BUSY, 0, ())] * 2 + [(_wire.DONE, 1, (1, 2))]
    RunSource(opened(v2), RECIPE, False).read()
    assert waited == [0.5, 0.5]


def test_an_error_after_a_busy_answer_is_raised(runs: Runs, v2: Path, opened: Opened) -> None:
    source = RunSource(opened(v2), RECIPE, False)
    runs.answers = [(_wire.BUSY, 0, ()), (_wire.GONE, 0, ())]
    (v2 / "memory.stat").unlink()
    with pytest.raises(CgroupRemovedError):
        source.read()


@pytest.mark.parametrize("answer", [(_wire.GONE, 0), (_wire.DONE, 0)])
def test_a_run_without_a_row_means_removed(
    answer: tuple[int, int], runs: Runs, v2: Path, opened: Opened
) -> None:
    source = RunSource(opened(v2), RECIPE, False)
    # A row of before is still in the buffer.
    runs.answers = [(_wire.DONE, 1, (1, 2)), (*answer, ())]
    source.read()
    (v2 / "memory.stat").unlink()
    with pytest.raises(CgroupRemovedError):
        source.read()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.EFAULT])
def test_a_refusal_to_run(number: int, runs: Runs, v2: Path, opened: Opened) -> None:
    source = RunSource(opened(v2), RECIPE, False)
    runs.error = number
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert (caught.value.errno, caught.value.call) == (number, "bpf_prog_test_run_opts")
    runs.error, runs.answers = 0, [(_wire.DONE, 1, (1, 2))]
    assert source.read() == {"anon": 1, "pgfault": 2}, "the next one is another"


def test_a_closed_run_source_does_not_use_the_descriptor_s_number(
    runs: Runs, v2: Path, opened: Opened
) -> None:
    # A signal handler can close it in the midst of a read.
    source = RunSource(opened(v2), RECIPE, False)
    source.close()
    runs.answers = [(_wire.DONE, 1, (1, 2))]
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert (caught.value.errno, runs.asked) == (errno.EBADF, [])


def test_a_closed_run_source_lets_go_of_its_program(
    v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> None:
    program = Loaded()
    seen = weakref.ref(program)
    programs = [program]
    monkeypatch.setattr(_program_cache, "cached", lambda *_: programs.pop())
    del program
    source = RunSource(opened(v2), RECIPE, False)
    gc.collect()
    assert seen() is not None
    source.close()
    gc.collect()
    assert seen() is None


def test_a_source_of_any_cgroup_the_root_too(runs: Runs, tmp_path: Path, opened: Opened) -> None:
    # A root's row has no parent; who it is, is not asked of it.
    source = RunSource(opened(make_v2(tmp_path / "root", kind=None)), RECIPE, False)
    runs.answers = [(_wire.DONE, 1, (5, 6))]
    assert source.read() == {"anon": 5, "pgfault": 6}


def test_sources_of_one_program_have_buffers_of_their_own(
    runs: Runs, tmp_path: Path, opened: Opened
) -> None:
    paths = [make_v2(tmp_path / name) for name in ("a", "b")]
    first, second = (RunSource(opened(path), RECIPE, False) for path in paths)
    runs.answers = [(_wire.DONE, 1, (1, 2)), (_wire.DONE, 1, (3, 4))]
    assert (first.read(), second.read()) == ({"anon": 1, "pgfault": 2}, {"anon": 3, "pgfault": 4})
    assert runs.asked == [path.stat().st_ino for path in paths]


# --- both -----------------------------------------------------------------------------


@pytest.fixture(params=[StreamSource, RunSource], ids=["stream", "run"])
def kind(
    request: pytest.FixtureRequest, kernel: Kernel, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A kind of source, and what it reads from in the program's place."""
    fake = kernel if request.param is StreamSource else runs
    monkeypatch.setattr(_program_cache, "cached", lambda *_: fake)
    runs.answers = [(_wire.DONE, 1, (4096, 3))] * 2
    found: Callable[..., Any] = request.param
    return found


def test_what_the_program_cannot_flush_is_flushed_by_file_before_each_read(
    kind: Callable[..., Any],
    kernel: Kernel,
    runs: Runs,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = kind(opened(v2), RECIPE, True)
    flushed: list[str] = []
    pread = os.pread

    def watched(fd: int, size: int, at: int) -> bytes:
        assert len(runs.asked) + kernel.iterators == len(flushed), "before the read"
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", watched)
    for times in (1, 2):
        assert source.read() == {"anon": 4096, "pgfault": 3}
        assert flushed == [str(v2 / "memory.stat")] * times
    source.close()


def test_close_lets_go_of_the_flushing_file(
    kind: Callable[..., Any], v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = kind(cgroup, RECIPE, True)
    assert open_files() != before
    source.close()
    assert open_files() == before
    source.close()


def test_a_source_is_lost_with_any_of_its_descriptors(
    kind: Callable[..., Any], kernel: Kernel, runs: Runs, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = kind(cgroup, RECIPE, True)
    assert not source.is_lost
    fake = kernel if kind is StreamSource else runs
    fake.is_lost = True
    assert source.is_lost
    fake.is_lost = False
    assert not source.is_lost
    (flushing,) = open_files().keys() - before.keys()
    os.dup2(cgroup.fd, int(flushing), inheritable=False)
    assert source.is_lost
    source.close()
    assert open_files().keys() - before.keys() == {flushing}, "it is another's"
    os.close(int(flushing))


# --- which transport ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "transport", "flush", "functions", "zswap", "declined"),
    [
        ("kfunc", "run", True, {"cgroup_rstat_flush"}, False, True),
        ("kfunc", "run", True, {"cgroup_rstat_flush"}, True, False),
        ("kfunc", "run", False, {"cgroup_rstat_flush"}, False, False),
        ("kfunc", "run", True, {"bpf_mem_cgroup_flush_stats"}, False, False),
        ("kfunc", "run", True, set(), False, False),
        ("kfunc", "stream", True, {"cgroup_rstat_flush"}, False, False),
        # A raw tracepoint's program does not sleep, so it flushes nowhere.
        ("core", "run", True, {"cgroup_rstat_flush"}, False, True),
        ("core", "run", True, {"cgroup_rstat_flush"}, True, False),
        ("core", "run", False, {"cgroup_rstat_flush"}, False, False),
        ("core", "run", True, {"bpf_mem_cgroup_flush_stats"}, False, True),
        ("core", "run", True, {"bpf_mem_cgroup_flush_stats"}, True, False),
        ("core", "run", False, {"bpf_mem_cgroup_flush_stats"}, False, False),
        ("core", "run", True, set(), False, False),
        ("core", "stream", True, {"cgroup_rstat_flush"}, False, False),
    ],
)
def test_run_is_avoided_if_its_flush_costs_more_than_a_stream(
    backend: str,
    transport: str,
    flush: bool,
    functions: set[str],
    zswap: bool,
    declined: bool,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = LINUX_6_18.types()._replace(functions=frozenset(functions))
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    if zswap:
        (v2 / "memory.zswap.current").write_text("0\n")
    assert (
        bool(StatSourceFactory().reason_to_avoid(opened(v2), backend, flush, transport)) is declined
    )


def test_run_is_not_avoided_for_an_iterator_that_the_kernel_does_not_have(
    v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_5_15.types)  # which has cgroup_rstat_flush()
    assert StatSourceFactory().reason_to_avoid(opened(v2), "core", True, "run") == ""


@pytest.mark.parametrize(
    ("backend", "transport", "kind", "feature"),
    [
        ("kfunc", "run", RunSource, _features.RUN),
        ("kfunc", "stream", StreamSource, _features.ITERATOR),
        ("rfc", "stream", StreamSource, _features.ITERATOR),
        ("core", "run", RunDirSource, _features.RUN_DIR),
        ("core", "stream", StreamSource, _features.ITERATOR),
    ],
)
def test_a_transport_is_a_kind_of_source(
    backend: str,
    transport: str,
    kind: type,
    feature: _features.Feature,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(kind, "__init__", lambda _, *arguments: asked.append(arguments))
    cgroup, plan = opened(v2), ReadPlan(backend, TERMS)
    factory = StatSourceFactory()
    assert type(factory.bpf(cgroup, plan, True, transport)) is kind
    assert asked == [(cgroup, plan, True)]
    assert factory.feature_of(backend, transport) is feature


@pytest.mark.parametrize(
    ("kind", "program", "functions", "mode"),
    [
        (StreamSource, _program.STREAM, {"cgroup_rstat_flush"}, _terms.FLUSH_RSTAT),
        (RunSource, _program.RUN_ONE, {"cgroup_rstat_flush"}, _terms.FLUSH_NONE),
        (StreamSource, _program.STREAM, {"bpf_mem_cgroup_flush_stats"}, _terms.FLUSH_KFUNC),
        (RunSource, _program.RUN_ONE, {"bpf_mem_cgroup_flush_stats"}, _terms.FLUSH_KFUNC),
    ],
)
@pytest.mark.parametrize("flush", [True, False])
def test_which_program_is_used(
    flush: bool,
    kind: Callable[..., Any],
    program: str,
    functions: set[str],
    mode: int,
    kernel: Kernel,
    runs: Runs,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []
    fake = kernel if kind is StreamSource else runs

    def cached(*arguments: object) -> object:
        asked.append(arguments)
        return fake

    types = LINUX_6_18.types()._replace(functions=frozenset(functions))
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    monkeypatch.setattr(_program_cache, "cached", cached)
    before = open_files()
    source = kind(opened(v2), RECIPE, flush)
    assert asked == [(program, RECIPE, mode if flush else _terms.FLUSH_NONE)]
    files = [name for fd, name in open_files().items() if before.get(fd) != name]
    reads_a_file = flush and mode == _terms.FLUSH_NONE
    assert files.count(str(v2 / "memory.stat")) == reads_a_file
    source.close()


# --- the programs that are kept -------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the programs loaded."""
    loaded: list[str] = []

    def load(name: str, constants: dict[str, bytes]) -> object:
        loaded.append(name)
        return Loaded()

    monkeypatch.setattr(_program, "Program", load)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    _program_cache.clear()
    yield loaded
    _program_cache.clear()


def test_a_program_is_loaded_once(loads: list[str]) -> None:
    first = _program_cache.cached(_program.STREAM, RECIPE, 0)
    assert _program_cache.cached(_program.STREAM, ReadPlan("core", {**TERMS}), 0) is first
    assert loads == [_program.STREAM]


def test_a_lost_program_is_loaded_again(loads: list[str]) -> None:
    # By a process that became a daemon, and closed all that it found.
    first: Any = _program_cache.cached(_program.STREAM, RECIPE, 0)
    first.is_lost = True
    second = _program_cache.cached(_program.STREAM, RECIPE, 0)
    assert second is not first
    assert _program_cache.cached(_program.STREAM, RECIPE, 0) is second
    assert loads == [_program.STREAM] * 2


def test_programs_that_differ_are_told_apart(loads: list[str]) -> None:
    other_counter = {**TERMS, "anon": (Term(1, 9),)}
    different = [
        (_program.STREAM, RECIPE, 0),
        (_program.RUN_ONE, RECIPE, 0),
        (_program.STREAM, RECIPE, 1),
        (_program.STREAM, ReadPlan("kfunc", TERMS), 0),
        (_program.STREAM, ReadPlan("core", other_counter), 0),
        (_program.STREAM, ReadPlan("core", dict(reversed(TERMS.items()))), 0),
    ]
    programs = [_program_cache.cached(*each) for each in different]
    assert len(set(map(id, programs))) == len(different)


def test_only_the_last_programs_are_kept(loads: list[str]) -> None:
    for mode in range(_program_cache._KEPT_PROGRAMS + 1):
        _program_cache.cached(_program.STREAM, RECIPE, mode)
    _program_cache.cached(_program.STREAM, RECIPE, 1)
    assert len(loads) == _program_cache._KEPT_PROGRAMS + 1
    _program_cache.cached(_program.STREAM, RECIPE, 0)
    assert len(loads) == _program_cache._KEPT_PROGRAMS + 2
    assert len(_program_cache._programs) == _program_cache._KEPT_PROGRAMS == 8


def test_the_program_that_was_used_last_is_kept_longest(loads: list[str]) -> None:
    for mode in range(_program_cache._KEPT_PROGRAMS):
        _program_cache.cached(_program.STREAM, RECIPE, mode)
    for mode in (0, 99, 0):  # the second put 1 out
        _program_cache.cached(_program.STREAM, RECIPE, mode)
    assert len(loads) == _program_cache._KEPT_PROGRAMS + 1
    _program_cache.cached(_program.STREAM, RECIPE, 1)
    assert len(loads) == _program_cache._KEPT_PROGRAMS + 2


def test_a_program_that_fails_to_load_is_not_kept(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise MemcgError("no")

    with monkeypatch.context() as patch:
        patch.setattr(_program, "Program", refuse)
        with pytest.raises(MemcgError):
            _program_cache.cached(_program.STREAM, RECIPE, 0)
    _program_cache.cached(_program.STREAM, RECIPE, 0)
    assert loads == [_program.STREAM]


def test_forgotten_programs_stay_with_their_users_and_are_loaded_again(loads: list[str]) -> None:
    first = _program_cache.cached(_program.STREAM, RECIPE, 0)
    seen = weakref.ref(first)
    _program_cache.clear()
    _program_cache.clear()
    gc.collect()
    assert seen() is not None, "it has a user"
    assert _program_cache.cached(_program.STREAM, RECIPE, 0) is not first
    del first
    gc.collect()
    assert seen() is None


def test_a_program_is_loaded_with_its_recipe_s_constants(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(_program, "Program", lambda *arguments: given.extend(arguments))
    _program_cache.cached(_program.RUN_ONE, RECIPE, _terms.FLUSH_KFUNC)
    assert given == [_program.RUN_ONE, RECIPE.constants(_terms.FLUSH_KFUNC)]
