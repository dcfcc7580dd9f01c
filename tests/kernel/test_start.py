# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a first reader takes in a fresh process, and a second one after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pymemcgbpf
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import reload as _reload
from pymemcgbpf._descriptors import Owned

from .cgroups import cgroup, in_child
from .ways import BY_DIRECTORY, Way

# The interpreter's own modules that the package needs count apart: most processes have them.
MEMORY = """
import collections.abc, contextlib, ctypes, errno, fcntl, functools, heapq, importlib, mmap, re
import struct, sys, threading, typing, weakref
def resident():
    with open("/proc/self/smaps_rollup") as lines:
        sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB\\n")}
        return [1024 * int(sizes[name]) for name in ("Rss", "Private_Dirty")]
before = resident()
from pymemcgbpf import StatsReader
path, backend, transport = sys.argv[1:]
reader = StatsReader(path, ["anon", "file", "pgfault"], backend=backend, transport=transport)
reader.read()
print(*(now - then for now, then in zip(resident(), before)))
"""


def test_a_reader_takes_little_memory(empty_cgroup: Path, bpf_way: Way) -> None:
    command = [sys.executable, "-c", MEMORY, str(empty_cgroup), *bpf_way]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    resident, private = map(int, ran.stdout.split())
    # The first has pages of files in it, too, libbpf's and the interpreter's: more of newer ones.
    assert private <= 4 << 20 and resident <= 6 << 20


def test_a_second_program_is_loaded_without_libbpf_s_loader(
    empty_cgroup: Path, bpf_way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    pymemcgbpf.clear_cache()
    items = ["anon", "file", "pgfault"]
    with bpf_way.stats(empty_cgroup, items):
        pass
    again: list[Owned] = []
    load = _libbpf_programs.load_program

    def load_again(*arguments: object) -> Owned:
        again.append(load(*arguments))  # type: ignore[arg-type]
        return again[-1]

    monkeypatch.setattr(_libbpf_programs, "load_program", load_again)
    monkeypatch.setattr(_program, "_load_object", None)
    with cgroup() as other, bpf_way.stats(other, ["pgfault", *items[:2]]) as reader:
        assert reader.read().keys() == set(items)
        os.fstat(again[0].fileno())
    again.clear()


def test_a_second_tree_program_is_loaded_without_libbpf_s_loader(
    empty_cgroup: Path, tree_bpf_transport_way: Way
) -> None:
    way = tree_bpf_transport_way
    first = way.tree(empty_cgroup, ["anon"])
    kept = dict(_reload._kept)
    with first, way.tree(empty_cgroup, ["pgfault", "anon"], max_rows=5) as again:
        assert again.read()[0].keys() == {"pgfault", "anon"}
        assert first.read()[0].id == again.read()[0].id
    assert _reload._kept == kept
    # The verifier needs the BTF of that program, which is not kept.
    assert kept or way == BY_DIRECTORY


def test_readers_work_after_the_library_was_replaced_by_a_copy(
    empty_cgroup: Path, bpf_way: Way
) -> None:
    def read() -> None:
        with bpf_way.stats(empty_cgroup, ["anon"]) as before:
            _libbpf.load_private_copy()
            pymemcgbpf.clear_cache()  # the next program is loaded by that one
            with bpf_way.stats(empty_cgroup, ["anon", "file"]) as now:
                assert now.read() == {"anon": 0, "file": 0}
                assert before.read() == {"anon": 0}

    assert in_child(read) == 0
