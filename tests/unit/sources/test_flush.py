# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""How pending updates are brought in: which program's way, or which file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._sources import flush as _flush

from ..directories import make_v1, make_v2
from ..kernels import LINUX_6_18

Opened = Callable[[Path], Cgroup]
KFUNC, RSTAT = "bpf_mem_cgroup_flush_stats", "cgroup_rstat_flush"


@pytest.mark.parametrize(
    ("backend", "functions", "iterator", "program"),
    [
        ("kfunc", {KFUNC}, _terms.FLUSH_KFUNC, _terms.FLUSH_KFUNC),
        ("core", {KFUNC, RSTAT}, _terms.FLUSH_KFUNC, _terms.FLUSH_KFUNC),
        ("core", {RSTAT}, _terms.FLUSH_RSTAT, _terms.FLUSH_NONE),
        ("core", set(), _terms.FLUSH_NONE, _terms.FLUSH_NONE),
        ("rfc", {RSTAT}, _terms.FLUSH_RFC, _terms.FLUSH_NONE),
        ("rfc", {KFUNC}, _terms.FLUSH_RFC, _terms.FLUSH_KFUNC),
    ],
)
def test_mode(
    backend: str,
    functions: set[str],
    iterator: int,
    program: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = LINUX_6_18.types()._replace(functions=frozenset(functions))
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    assert _flush.mode_of(backend, by_iterator=True) == iterator
    assert _flush.mode_of(backend, by_iterator=False) == program


def file_of(flush: _flush.Flush) -> str:
    """The file that is read, as a path."""
    (file,) = flush.files
    return os.readlink(f"/proc/self/fd/{file.fd}")


def test_a_program_that_flushes_needs_no_file(v2: Path, opened: Opened) -> None:
    flush = _flush.within(_terms.FLUSH_KFUNC, opened(v2))
    assert (flush.mode, flush.files, flush.pressure) == (_terms.FLUSH_KFUNC, (), None)


def test_else_the_cheapest_file_does(tmp_path: Path, opened: Opened) -> None:
    plain, zswap, old = (tmp_path / name for name in ("plain", "zswap", "v1"))
    make_v2(plain)
    make_v2(zswap)
    (zswap / "memory.zswap.current").write_text("0\n")
    make_v1(old)
    (old / "memory.numa_stat").write_text("total=1\n")
    for path, name in (
        (plain, "memory.stat"),
        (zswap, "memory.zswap.current"),
        (old, "memory.numa_stat"),
    ):
        flush = _flush.within(_terms.FLUSH_NONE, opened(path))
        assert (flush.mode, file_of(flush)) == (_terms.FLUSH_NONE, str(path / name))
        flush.by_file()
        flush.close()
        flush.close()


def test_above_a_cgroup_the_topmost_flushes(tmp_path: Path, opened: Opened) -> None:
    root = make_v2(tmp_path / "root", kind=None)
    below = make_v2(make_v2(root / "a") / "b")
    flush = _flush.ancestors(opened(below))
    assert file_of(flush) == str(root / "memory.stat")
    flush.close()


def test_no_flush_reads_nothing() -> None:
    _flush.NO_FLUSH.by_file()
    _flush.NO_FLUSH.close()
    assert (_flush.NO_FLUSH.mode, _flush.NO_FLUSH.reads) == (_terms.FLUSH_NONE, False)
