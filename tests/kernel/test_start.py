# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a first reader takes in a fresh process, and a second one after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pymemcgbpf
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import casts as _casts
from pymemcgbpf._bpf import counter_slots as _counter_slots
from pymemcgbpf._bpf import elf as _elf
from pymemcgbpf._bpf import instructions as _code
from pymemcgbpf._bpf import item_code as _item_code
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import raw_btf as _raw_btf
from pymemcgbpf._bpf import reload as _reload
from pymemcgbpf._bpf.btf_types import FUNC
from pymemcgbpf._cgroup import directory as _directory
from pymemcgbpf._descriptors import Owned
from pymemcgbpf._sources import slot_discovery as _slot_discovery
from pymemcgbpf._sources.one_bpf import open_without_flush

from .cgroups import cgroup, enable_memory, in_child
from .forest import forest
from .ways import BY_DIRECTORY, TREE_BPF_WAYS, Way

# Where the types that are needed are among the first ones.
DIRECT = ("5.10.", "6.12.", "6.16.", "6.17.", "6.18.", "6.19.")


def test_the_bytes_of_btf_say_what_libbpf_says() -> None:
    data = _btf._vmlinux()
    assert data is not None
    lib = _libbpf.load()
    loaded = _btf._load_btf(lib, data)
    try:
        through_libbpf = _btf._facts(_btf.Types(lib, loaded))
    finally:
        lib.btf__free(loaded)
    assert through_libbpf.counters and through_libbpf.structs["task_struct"]
    loaded = lib.btf__load_vmlinux_btf()
    try:
        assert _btf._facts(_btf.Types(lib, loaded)) == through_libbpf
    finally:
        lib.btf__free(loaded)
    try:
        directly = _btf._facts(_raw_btf.RawTypes(data))
    except ValueError:
        assert not os.uname().release.startswith(DIRECT)
    else:
        assert directly == through_libbpf


ITEMS = _item_code.item_code([], [])


@pytest.mark.parametrize(
    ("name", "items"),
    [(_program.RUN_DIR, b""), (_program.RUN_DIR, ITEMS), (_program.COPY_TABLES, b"")],
)
def test_a_program_read_from_its_object_is_as_libbpf_prepares_it(
    name: str, items: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == _program.COPY_TABLES and _counter_slots.direct(_btf.kernel()) is not None:
        return  # It has no tables, and before Linux 5.14 no programs of this type.
    file = _program._ALONE[name]
    monkeypatch.setattr(_program, "PROGRAMS", {name: _program.PROGRAMS[name]})
    lib = _libbpf.load()
    opened = _program._open(lib, file, items, [])
    try:
        of_libbpf = _program._Object(lib, opened)
        program = of_libbpf._choose(name)
        initial, _ = of_libbpf._constants()
        sizes = {each: _program.MapSize(64, 2) for each in _program.PROGRAMS[name]}
        of_libbpf._prepare_maps(name, sizes)
        lib.bpf_object__load(opened)
        theirs = _reload.capture(lib, name, opened, program, initial)
    finally:
        lib.bpf_object__close(opened)
    assert theirs is not None
    ours = _elf.read_program(_program.read_object_with(items, file), name)
    assert (ours.kind, ours.uses, ours.constants) == (theirs.kind, theirs.uses, theirs.constants)
    casts = ours.casts
    assert without_descriptors(ours, casts) == without_descriptors(theirs, casts)
    cast = _casts.kernel_cast()
    if cast is not None:
        call = _code.call_kernel(cast.function)
        assert all(theirs.code[at : at + len(call)] == call for at in casts)
    assert ours.maps.keys() == theirs.maps.keys()
    for each in ours.maps.keys() & {_reload.RODATA, _reload.BSS}:
        assert ours.maps[each].value_size == theirs.maps[each].value_size
    for each in ours.maps.keys() - {_reload.RODATA}:
        assert ours.maps[each].flags == theirs.maps[each].flags


def without_descriptors(program: _reload.ReloadableProgram, casts: tuple[int, ...]) -> bytes:
    """The instructions, but for descriptors and for calls of the cast."""
    code = bytearray(program.code)
    for at, _ in program.uses:
        code[at : at + 4] = bytes(4)
    for at in casts:
        code[at : at + 8] = bytes(8)
    return bytes(code)


def test_the_first_read_needs_none_of_libbpf_s_loader(
    empty_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pymemcgbpf.clear_cache()
    monkeypatch.setattr(_program, "_load_object", None)
    with pymemcgbpf.StatsReader(empty_cgroup, ["anon"], backend="core", transport="run") as reader:
        assert reader.read() == {"anon": 0}


def test_words_are_those_that_items_of_them_would_be(empty_cgroup: Path) -> None:
    types = _btf.kernel()
    cgroup = _directory.open_cgroup(empty_cgroup)
    try:
        words = _slot_discovery._WordReader(types, cgroup)
        assert words._source is not None
        plan = words._plan(types, words._indexes[:: 1 + len(words._indexes) // 500])
        items = open_without_flush(cgroup, plan)
        try:
            expected = {int(at): value for at, value in items.read().items()}
            found = words.read()
            assert {at: found[at] for at in expected} == expected
            assert len(found) == sum(types.vmstats[each].length for each in ("state", "events"))
        finally:
            items.close()
            words.close()
    finally:
        cgroup.close()


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
    if (
        way == BY_DIRECTORY
    ):  # its program is made from the bytes of its object for each choice of items
        assert _reload._objects and _reload._kept.keys() == kept.keys()
    else:
        assert _reload._kept == kept != {}


def test_a_tree_by_directory_is_read_after_its_package_has_gone(
    empty_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon may change its root, and a package be upgraded or removed."""
    if BY_DIRECTORY not in TREE_BPF_WAYS:
        return
    enable_memory(empty_cgroup)
    with BY_DIRECTORY.tree(empty_cgroup, ["anon"]) as tree:
        assert len(tree.read()) == 1
        monkeypatch.setattr(_program, "read_object", None)
        for number in range(100):
            (empty_cgroup / str(number)).mkdir()
        assert len(tree.read()) == 101, "it has grown out of its map"
        assert in_child(lambda: None if len(tree.read()) == 101 else os._exit(3)) == 0
        with BY_DIRECTORY.tree(empty_cgroup, ["pgfault"]) as other:
            assert len(other.read()) == 101


def test_a_tree_by_directory_counts_its_depth_without_another_walk(
    empty_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if BY_DIRECTORY not in TREE_BPF_WAYS:
        return
    enable_memory(empty_cgroup)
    (empty_cgroup / "a").mkdir()
    enable_memory(empty_cgroup / "a")
    (empty_cgroup / "a" / "b").mkdir()
    with BY_DIRECTORY.tree(empty_cgroup, ["anon"]) as tree:
        assert len(tree.read()) == 3
    loaded: list[str] = []
    load = _libbpf_programs.load_program

    def load_and_count(lib: Any, name: str, *more: Any) -> Owned:
        loaded.append(name)
        return load(lib, name, *more)

    monkeypatch.setattr(_libbpf_programs, "load_program", load_and_count)
    with BY_DIRECTORY.tree(empty_cgroup, ["anon"], max_depth=1) as tree:
        assert [row.path for row in tree.read()] == [str(empty_cgroup), str(empty_cgroup / "a")]
    assert loaded == [_program.WALK_DIR]


def test_the_cast_is_found_where_the_kernel_has_it() -> None:
    lib = _libbpf.load()
    btf = lib.btf__load_vmlinux_btf()
    try:
        number = _btf.Types(lib, btf)._find(_casts.FUNCTION, FUNC)
    finally:
        lib.btf__free(btf)
    cast = _casts.kernel_cast()
    words = _btf.kernel().words_type
    assert cast == (_casts.Cast(number, words) if number and words else None)


def test_without_the_cast_the_numbers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if BY_DIRECTORY not in TREE_BPF_WAYS:
        return

    def read(root: Path) -> list[object]:
        pymemcgbpf.clear_cache()
        found: list[object] = []
        for items in (["anon", "file", "memory.current"], None):
            with BY_DIRECTORY.stats(root, items) as one, BY_DIRECTORY.tree(root, items) as tree:
                found += [one.read(), {str(row.path): dict(row) for row in tree.read()}]
        return found

    def are_the_same(root: Path) -> bool:
        found = read(root)
        assert any(found[0].values())  # type: ignore[attr-defined]
        with monkeypatch.context() as without:
            without.setattr(_casts, "kernel_cast", lambda: None)
            return read(root) == found

    # The kernel's own memory moves a little meanwhile.
    with forest(3, 4) as quiet:
        assert any(are_the_same(quiet.root) for _ in range(20))
    pymemcgbpf.clear_cache()


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
