# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The build of the BPF object: which compiler, and what happens without one."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path
from typing import Callable

import pytest
from setuptools.errors import ExecError

from bpf_src import build_object
from pymemcgbpf import MemcgError, _wire
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import casts as _casts
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import reload as _reload
from pymemcgbpf._bpf import terms as _terms

from ..c_values import c_values
from ..fake_libbpf import (
    BSS,
    DIR_RODATA,
    RODATA,
    TABLES_BSS,
    TABLES_RODATA,
    TREE_BSS,
    TREE_RODATA,
    WALK_BSS,
    WALK_RODATA,
)

Tool = Callable[..., Path]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts a program that only prints on a PATH that holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CLANG", raising=False)

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def says(version: str) -> str:
    return f'echo "{version}"' if version else "exit 1"


@pytest.mark.usefixtures("tool")
def test_no_clang_says_what_to_install() -> None:
    with pytest.raises(ExecError) as caught:
        build_object.find_clang()
    for part in ("clang 14 or later", "apt-get install clang llvm libbpf-dev", "none was found"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "version",
    ["Debian clang version 13.0.1-11+b2", "clang version 3.9.1", "gcc (Debian) 12.2.0", ""],
)
def test_a_clang_that_does_not_do_is_named(version: str, tool: Tool) -> None:
    path = tool("clang", says(version))
    with pytest.raises(ExecError) as caught:
        build_object.find_clang()
    assert str(path) in str(caught.value)
    assert (version or "not clang") in str(caught.value)
    assert "apt-get install clang" in str(caught.value)


@pytest.mark.parametrize(
    "version", ["Debian clang version 14.0.6", "clang version 21.1.0 (git)", "x clang version 14."]
)
def test_a_clang_that_does(version: str, tool: Tool) -> None:
    path = tool("clang", says(version))
    assert build_object.find_clang() == str(path)


def test_an_old_clang_beside_newer_ones(tool: Tool) -> None:
    tool("clang", says("clang version 13.0.0"))
    tool("clang-14", says("clang version 14.0.0"))
    newest = tool("clang-19", says("clang version 19.1.0"))
    assert build_object.find_clang() == str(newest)


def test_clang_of_the_environment_is_honoured(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("clang", says("clang version 19.0.0"))
    mine = tool("my-clang", says("clang version 15.0.0"))
    for value in ("my-clang", str(mine)):
        monkeypatch.setenv("CLANG", value)
        assert build_object.find_clang() == str(mine)


@pytest.mark.parametrize("value", ["old-clang", "/nowhere/clang"])
def test_a_chosen_clang_that_does_not_do_is_not_replaced(
    value: str, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("clang", says("clang version 19.0.0"))
    tool("old-clang", says("clang version 13.0.0"))
    monkeypatch.setenv("CLANG", value)
    with pytest.raises(ExecError, match="clang 14 or later"):
        build_object.find_clang()


def test_an_empty_choice_is_none(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tool("clang", says("clang version 19.0.0"))
    monkeypatch.setenv("CLANG", "")
    assert build_object.find_clang() == str(path)


def test_no_strip_says_what_to_install(tool: Tool) -> None:
    clang = tool("clang", says("llvm-strip"))
    with pytest.raises(ExecError, match=r"llvm-strip is needed.*apt-get install clang llvm"):
        build_object.find_strip(str(clang))


FAILS = """case "$1" in
--version) echo "clang version 14.0.0";;
--print-prog-name=*) echo llvm-strip;;
*) while [ $# -gt 1 ]; do [ "$1" = -o ] && echo half > "$2"; shift; done
   echo "memcg_stats.bpf.c:7:1: error: {error}" >&2; exit 1;;
esac"""
COMPILES = FAILS.replace("exit 1", "exit 0")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("use of undeclared identifier", False),
        ("'bpf/bpf_helpers.h' file not found", True),
        ("'asm/types.h' file not found", True),
    ],
)
def test_a_compile_failure_shows_clang_s_text(
    error: str, hint: bool, tool: Tool, tmp_path: Path
) -> None:
    tool("clang", FAILS.format(error=error))
    tool("llvm-strip", "exit 0")
    target = tmp_path / "out" / "memcg_stats.bpf.o"
    with pytest.raises(ExecError) as caught:
        build_object.compile_object(target)
    assert f"error: {error}" in str(caught.value)
    assert ("headers" in str(caught.value)) is hint
    assert list(target.parent.iterdir()) == [], "a half-written object"


def test_a_failure_leaves_the_object_before(tool: Tool, tmp_path: Path) -> None:
    tool("clang", FAILS.format(error="x"))
    tool("llvm-strip", "exit 0")
    target = tmp_path / "memcg_stats.bpf.o"
    target.write_bytes(b"before")
    with pytest.raises(ExecError):
        build_object.compile_object(target)
    assert target.read_bytes() == b"before"
    assert not target.with_suffix(".tmp").exists()


def test_a_strip_failure_leaves_nothing(tool: Tool, tmp_path: Path) -> None:
    tool("clang", COMPILES.format(error="none"))
    tool("llvm-strip", 'echo "llvm-strip: cannot" >&2; exit 1')
    target = tmp_path / "out" / "memcg_stats.bpf.o"
    with pytest.raises(ExecError, match="llvm-strip"):
        build_object.compile_object(target)
    assert list(target.parent.iterdir()) == []


# --- the real one ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects of this tree, compiled by the real clang."""
    folder = tmp_path_factory.mktemp("objects")
    build_object.compile_objects(folder)
    return folder


@pytest.fixture(params=["memcg_stats.bpf.o", "memcg_stats_core.bpf.o"])
def built(folder: Path, request: pytest.FixtureRequest) -> Path:
    return folder / str(request.param)


KERNEL_FUNCTIONS = {
    name
    for source in build_object.SOURCES.glob("*.bpf.[ch]")
    for name in re.findall(r"^extern [^(]*?(\w+)\(", source.read_text(), re.MULTILINE)
}


class Opened:
    """What is in an object."""

    def __init__(self, path: Path) -> None:
        lib = _libbpf.load()
        data = path.read_bytes()
        self.functions = {name for name in KERNEL_FUNCTIONS if b"\0%b\0" % name.encode() in data}
        opened = lib.bpf_object__open_mem(data, len(data), None)
        try:
            types = _btf.Types(lib, lib.bpf_object__btf(opened))
            self.places = types.variables(".rodata")
            self.constants = {name: size for name, (_, size) in types.variables(".rodata").items()}
            self.results = {name: size for name, (_, size) in types.variables(".bss").items()}
            self.programs = set()
            for name, maps in _program.PROGRAMS.items():
                try:
                    lib.bpf_object__find_program_by_name(opened, name.encode())
                except MemcgError:
                    continue
                self.programs.add(name)
                for each in maps:
                    assert lib.bpf_object__find_map_by_name(opened, each.encode())
            rodata = lib.bpf_object__find_map_by_name(opened, b".rodata")
            address, size = _libbpf_maps.initial_value(lib, rodata)
            assert address and size >= sum(self.constants.values())
            assert _libbpf.peek(address, size).count(0) < size, "page_size has a default"
        finally:
            lib.bpf_object__close(opened)


def test_the_objects_are_all_and_alone(folder: Path) -> None:
    files = _program.OBJECT_FILES
    assert {path.name for path in folder.iterdir()} == set(map(os.path.basename, files))
    assert set(build_object.OBJECTS) == set(map(os.path.basename, files))


def test_the_object_is_small(built: Path) -> None:
    assert 1024 < built.stat().st_size < 160 * 1024


def test_the_object_is_stripped_and_names_no_folder_of_this_machine(built: Path) -> None:
    data = built.read_bytes()
    assert b".BTF" in data and b".debug_info" not in data


def test_the_object_has_every_constant_that_the_package_sets(built: Path) -> None:
    opened = Opened(built)
    assert opened.programs == {
        name for name in _program.PROGRAMS if _program._own_file(name) is None
    }
    assert (opened.constants, opened.results) == (RODATA, BSS), "the fake is not as the object is"
    constants = opened.constants
    words = ("backend", "flush", "memory_cgrp_id", "page_size", "nr_blocks", "nr_terms")
    assert {name: constants[name] for name in words} == dict.fromkeys(words, 4)
    assert constants["terms"] == _terms.TERM.size * _terms.MAX_TERMS
    assert constants["blocks"] == _terms.BLOCK.size * _terms.MAX_BLOCKS
    assert constants["header"] == _wire.HEADER.size + 2 * _wire.MAX_ITEMS
    assert constants["children_of"] == 8


def test_the_kernel_keeps_a_program_s_name_whole() -> None:
    # BPF_OBJ_NAME_LEN is 16, with the 0 at the end. A longer name would be refused or cut.
    assert max(map(len, _program.PROGRAMS)) <= 15


def test_a_program_is_loaded_again_with_the_licence_and_the_flags_of_the_object(
    built: Path,
) -> None:
    data = built.read_bytes()
    assert b"%b\0" % _reload.LICENCE.encode() in data
    # By these names libbpf knows that the programs are sleepable.
    sections = re.findall(rb"\0(iter[.\w]*/cgroup|syscall)(?=\0)", data)
    assert set(sections) == {b"iter.s/cgroup", b"syscall"}
    assert c_values(["<linux/bpf.h>"], ["BPF_F_SLEEPABLE"])["BPF_F_SLEEPABLE"] == _reload.SLEEPABLE


def test_the_object_for_core_names_no_function_of_the_other_backends(folder: Path) -> None:
    objects = [Opened(folder / name) for name in ("memcg_stats.bpf.o", "memcg_stats_core.bpf.o")]
    assert objects[0].places == objects[1].places
    whole, core = (each.functions for each in objects)
    others = {name for name in whole if "memcg" in name or "mem_cgroup" in name}
    works = {name for name in KERNEL_FUNCTIONS if name.startswith("bpf_wq_")}
    assert len(others) == 11 and whole == KERNEL_FUNCTIONS - {_casts.FUNCTION} - works
    assert core == whole - others
    assert "cgroup_rstat_flush" in core


def test_the_object_with_the_index_tables(folder: Path) -> None:
    opened = Opened(folder / "index_tables.bpf.o")
    assert opened.programs == {_program.COPY_TABLES}
    assert opened.functions == set(), "libbpf would read the kernel's BTF"
    assert (opened.constants, opened.results) == (TABLES_RODATA, TABLES_BSS)
    # Room for the widest table that is copied: an int for each vm event.
    assert opened.results["stats_index"] == opened.results["events_index"] >= 4 * 160


def test_the_object_that_reads_by_an_open_directory(folder: Path) -> None:
    path = folder / os.path.basename(_program.RUN_DIR_FILE)
    opened = Opened(path)
    assert opened.programs == {_program.RUN_DIR}
    assert opened.functions == {_casts.FUNCTION}
    assert (opened.constants, opened.results) == (DIR_RODATA, {})
    data = path.read_bytes()
    assert b"%b\0" % _reload.LICENCE.encode() in data
    assert b"\0raw_tp\0" in data and b".debug_info" not in data
    kind = "BPF_PROG_TYPE_RAW_TRACEPOINT"
    assert c_values(["<linux/bpf.h>"], [kind])[kind] == _reload._RAW_TRACEPOINT


def test_the_object_that_walks_from_an_open_directory(folder: Path) -> None:
    path = folder / os.path.basename(_program.WALK_DIR_FILE)
    opened = Opened(path)
    assert opened.programs == {_program.WALK_DIR}
    assert opened.functions == {_casts.FUNCTION}
    assert (opened.constants, opened.results) == (WALK_RODATA, WALK_BSS)
    data = path.read_bytes()
    assert b"%b\0" % _reload.LICENCE.encode() in data
    assert b"\0raw_tp\0" in data and b".debug_info" not in data


def test_the_object_that_publishes_trees(folder: Path) -> None:
    opened = Opened(folder / os.path.basename(_program.TREE_FILE))
    assert opened.programs == {
        _program.TREE_STREAM,
        _program.TREE_PUBLISH,
        _program.TREE_START,
    }
    assert opened.functions == KERNEL_FUNCTIONS - {_casts.FUNCTION}
    assert (opened.constants, opened.results) == (TREE_RODATA, TREE_BSS)


def test_the_object_is_for_this_byte_order(built: Path) -> None:
    assert built.read_bytes()[5] == {"<": 1, ">": 2}["<" if _little() else ">"]


def _little() -> bool:
    return struct.pack("=H", 1) == b"\1\0" and ctypes.sizeof(ctypes.c_void_p) == 8


def test_the_include_folder_is_this_machine_s() -> None:
    for flag in build_object.include_flags():
        assert os.path.isdir(flag[2:])
