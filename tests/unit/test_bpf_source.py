# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup read through a link: what the iterator gives, and what can go wrong."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    BpfPermissionError,
    CgroupRemovedError,
    MemcgError,
    StreamError,
    _bpf_source,
    _btf,
    _libbpf,
    _program,
    _wire,
)
from pymemcgbpf._cgroupfs import Cgroup

from ..open_files import open_files
from .directories import make_v1, make_v2
from .kernels import LINUX_6_18

Opened = Callable[[Path], Cgroup]

NAMES = ("anon", "pgfault")
TERMS: dict[str, tuple[_program.Term, ...]] = {
    name: (_program.Term(1, True, at, 1),) for at, name in enumerate(NAMES)
}


def whole_stream(*values: int, rows: int = 1) -> bytes:
    row = _wire.ROW.pack(42, 1, 2, 0) + struct.pack("=2Q", *values)
    trailer = _wire.TRAILER.pack(_wire.END_MAGIC, rows, 0)
    return _wire.encode_header((1, 55), 1) + rows * row + trailer


class Kernel:
    """A program that attaches, and an iterator that gives what the test says."""

    def __init__(self, folder: Path) -> None:
        self.output = whole_stream(4096, 3)
        self.piecewise = 0  # bytes per read, 0 for all at once
        self.attach_error: Any = None
        self.create_error = 0
        self.links = 0
        self.flushes = 0
        self.folder = folder
        self.fd = 5

    # The program:
    def attach(self, cgroup_fd: int, order: int) -> Any:
        assert (cgroup_fd > 0, order) == (True, _program.SELF)
        if self.attach_error is not None:
            raise self.attach_error
        self.links += 1
        return self

    # The link:
    def close(self) -> None:
        self.links -= 1

    # bpf_iter_create:
    def create(self, link_fd: ctypes.c_int) -> int:
        if link_fd.value != self.fd:
            return -errno.EBADF
        if self.create_error:
            return -self.create_error
        if self.piecewise:
            return self._pipe()
        (self.folder / "stream").write_bytes(self.output)
        return os.open(self.folder / "stream", os.O_RDONLY)

    def creator(self, link_fd: int) -> Any:
        return self.create, ctypes.c_int(link_fd)

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
    monkeypatch.setattr(_libbpf, "iterator_creator", fake.creator)
    monkeypatch.setattr(_bpf_source, "_cached_program", lambda *_: fake)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    return fake


def source_of(cgroup: Cgroup, flush: bool = False) -> _bpf_source.BpfSource:
    return _bpf_source.BpfSource(cgroup, "core", TERMS, flush, None)


def test_a_whole_stream(kernel: Kernel, v2: Path, opened: Opened) -> None:
    source = source_of(opened(v2))
    assert list(source.read().items()) == [("anon", 4096), ("pgfault", 3)]
    kernel.output = whole_stream(1, (1 << 64) - 2)
    assert source.read() == {"anon": 1, "pgfault": (1 << 64) - 2}
    source.close()
    assert kernel.links == 0


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


@pytest.mark.parametrize("output", [whole_stream(0, 0, rows=0), whole_stream(0, 0, rows=0)[-16:]])
def test_no_row_means_removed(output: bytes, kernel: Kernel, v2: Path, opened: Opened) -> None:
    kernel.output = output
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
    kernel.attach_error = MemcgError("x", errno=number, call="bpf_program__attach_iter", log="y")
    with pytest.raises(MemcgError) as caught:
        source_of(opened(v2))
    assert isinstance(caught.value, kind)
    if kind is BpfPermissionError:
        assert (caught.value.errno, caught.value.log) == (number, "y")


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


def flushing_files(cgroup: Cgroup) -> tuple[_bpf_source.BpfSource, set[str]]:
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
        source, files = flushing_files(opened(path))
        assert files == {name}
        assert source.read() == {"anon": 4096, "pgfault": 3}
        source.close()
        source.close()


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


@pytest.mark.parametrize(
    ("backend", "functions", "mode"),
    [
        ("kfunc", {"bpf_mem_cgroup_flush_stats"}, _program.FLUSH_KFUNC),
        ("core", {"bpf_mem_cgroup_flush_stats", "cgroup_rstat_flush"}, _program.FLUSH_KFUNC),
        ("core", {"cgroup_rstat_flush"}, _program.FLUSH_RSTAT),
        ("core", set(), _program.FLUSH_NONE),
        ("rfc", {"cgroup_rstat_flush"}, _program.FLUSH_RFC),
    ],
)
def test_flush_mode(
    backend: str, functions: set[str], mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = LINUX_6_18.types()._replace(functions=frozenset(functions))
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    assert _bpf_source._flush_mode(backend) == mode
