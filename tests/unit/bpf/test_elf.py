# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Objects in which a function gets other instructions, and programs read from their objects."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from bpf_src import build_object
from pymemcgbpf._bpf import elf as _elf
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.btf_types import FUNC
from pymemcgbpf._bpf.raw_btf import RawTypes
from pymemcgbpf._bpf.reload import BSS, RODATA, ReloadableProgram, _descriptors

from ..fake_libbpf import DIR_RODATA, TABLES_BSS, TABLES_RODATA, WALK_BSS, WALK_RODATA

MAPS = {
    _program.RUN_DIR: ({RODATA, _program.ANSWERS}, DIR_RODATA, {}),
    _program.WALK_DIR: (
        {RODATA, BSS, _program.ROWS, _program.NAMES},
        WALK_RODATA,
        WALK_BSS,
    ),
    _program.COPY_TABLES: ({RODATA, BSS}, TABLES_RODATA, TABLES_BSS),
}


def read(name: str) -> ReloadableProgram:
    return _elf.read_program(_program.read_object(_program._ALONE[name]), name)


@pytest.mark.parametrize("name", MAPS)
def test_a_program_is_read_with_its_maps_and_variables(name: str) -> None:
    maps, constants, variables = MAPS[name]
    program = read(name)
    assert program.name == name
    assert program.maps.keys() == maps
    assert {each: size for each, (_, size) in program.constants.places.items()} == constants
    assert {each: size for each, (_, size) in program.variables.items()} == variables
    assert program.maps[RODATA].value_size == len(program.constants.initial)
    assert all(
        at >= 0 and at + size <= len(program.constants.initial)
        for at, size in program.constants.places.values()
    )


@pytest.mark.parametrize("name", MAPS)
def test_every_use_of_a_map_is_marked_in_the_instructions(name: str) -> None:
    program = read(name)
    assert {at for at, _ in program.uses} == {at for at, _ in _descriptors(program.code)}
    assert len(program.uses) == len(dict(program.uses)) > 0
    for at, used in program.uses:
        offset = struct.unpack_from("<i", program.code, at + 8)[0]
        places = {RODATA: program.constants.places, BSS: program.variables}.get(used)
        if places is None:
            assert offset == 0
        else:
            assert any(begin <= offset < begin + size for begin, size in places.values())


def test_there_is_nothing_else_to_relocate() -> None:
    calls = {name: list(calls_of(read(name).code)) for name in MAPS}
    assert all(calls.values()), "helpers are called"
    own = {name: [target for target in targets if target] for name, targets in calls.items()}
    # The function for the items comes after the program, and so does the code that replaces it.
    program = len(read(_program.RUN_DIR).code) // 8 - 2
    assert own[_program.RUN_DIR] == [program] and not own[_program.COPY_TABLES]
    replaced = _elf.read_program(changed(dir_object()), _program.RUN_DIR).code
    assert [target for target in calls_of(replaced) if target] == [program]
    assert replaced[8 * program :] == CODE
    assert replaced[: 8 * program] == read(_program.RUN_DIR).code[: 8 * program]


@pytest.mark.parametrize("name", [_program.RUN_DIR, _program.WALK_DIR])
def test_a_call_of_the_cast_is_a_move_until_the_program_is_loaded(name: str) -> None:
    program = read(name)
    assert len(program.casts) > 10
    move = bytes.fromhex("bf10000000000000")  # r0 = r1
    assert {program.code[at : at + 8] for at in program.casts} == {move}
    assert not read(_program.COPY_TABLES).casts


def test_every_call_is_of_a_function_whose_type_is_told() -> None:
    assert [read(name).types for name in (_program.RUN_DIR, _program.COPY_TABLES)] == [None, None]
    program = read(_program.WALK_DIR)
    assert program.types is not None
    starts = [start for start, _ in program.types.functions]
    assert starts == sorted({*starts}) and starts[0] == 0
    called = {target for target in calls_of(program.code) if target}
    assert called == {*starts} - {0}, "the verifier refuses what nobody calls"
    types = RawTypes(bytearray(program.types.btf))
    for name in ("memcg_walk_dir", "take_step", "compute_items", "write_name"):
        assert types.has_function(name)
    # An object with other instructions for the items has the same functions.
    data = _program.read_object(_program.WALK_DIR_FILE)
    other = _elf.read_program(changed(data), _program.WALK_DIR)
    assert other.types == program.types


def test_btf_has_no_variables_and_no_sections_left() -> None:
    types = read(_program.WALK_DIR).types
    assert types is not None
    found = RawTypes(bytearray(types.btf))
    kinds = [found._type(number).kind for _, number in types.functions]
    assert set(kinds) == {FUNC}
    every = []
    with contextlib.suppress(LookupError, ValueError, struct.error):
        for number in range(1, 10000):
            every.append(found._type(number).kind)
    assert len(every) > max(number for _, number in types.functions)
    assert not {14, 15} & {*every}


def calls_of(code: bytes) -> Iterator[Optional[int]]:
    """For each call, the index of the instruction that is called; None for a helper's."""
    for at, (operation, registers, _, number) in enumerate(struct.iter_unpack("<BBhi", code)):
        if operation == 0x85:
            assert registers >> 4 in (0, 1), "a kernel function"
            yield at + 1 + number if registers >> 4 else None


def test_the_initial_constants_are_those_of_the_source() -> None:
    program = read(_program.COPY_TABLES)
    offset, size = program.constants.places["stats_index_name"]
    assert program.constants.initial[offset : offset + size] == b"mem_cgroup_stats_index\0"


@pytest.mark.parametrize("file", [_program.OBJECT_FILE, _program.CORE_FILE])
def test_objects_that_need_libbpf_s_loader_are_refused(file: str) -> None:
    data = _program.read_object(file)
    for name in (_program.STREAM, _program.SHARE, _program.RUN_ONE, _program.RUN_TREE):
        with pytest.raises(ValueError):
            _elf.read_program(data, name)
    for name in _program._ALONE:
        assert read(name).name == name


def test_what_is_no_such_object_is_a_value_error() -> None:
    data = _program.read_object(_program.RUN_DIR_FILE)
    for wrong in (b"", b"\x7fELF\x02\x02" + data[6:], data[:64], data[:-1000]):
        with pytest.raises(ValueError, match=r"ELF|object"):
            _elf.read_program(wrong, _program.RUN_DIR)
    with pytest.raises(ValueError, match="alone"):
        _elf.read_program(data, "another")


@pytest.mark.parametrize("length", range(0, 2000, 97))
def test_an_object_that_is_cut_off(length: int) -> None:
    data = _program.read_object(_program.RUN_DIR_FILE)
    with pytest.raises(ValueError):
        _elf.read_program(data[: len(data) - 1 - length], _program.RUN_DIR)


# --- a function gets other instructions -------------------------------------------------

CODE = bytes.fromhex("b700000007000000b7010000080000009500000000000000")


def dir_object() -> bytes:
    return _program.read_object(_program.RUN_DIR_FILE)


def listing(data: bytes, folder: Path) -> dict[str, list[str]]:
    """The instructions of each section, as llvm-objdump prints them."""
    path = folder / "object.o"
    path.write_bytes(data)
    strip = build_object.find_strip(build_object.find_clang())
    tool = strip.replace("llvm-strip", "llvm-objdump")  # a versioned name, or in a versioned folder
    command = [tool, "-d", "-r", "--no-show-raw-insn", "--no-leading-addr", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\b0x(\d)\b", r"\1", text).replace("w0 = 0", "r0 = 0")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("Disassembly of section "):
            lines = found[line.split()[-1].rstrip(":")] = []
        elif line.strip() and found:
            lines.append(line.strip())
    return found


def test_a_function_gets_other_instructions_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    data = dir_object()
    before, after = (listing(each, tmp_path) for each in (data, changed(data)))
    assert before.pop(".text") == ["<compute_items>:", "r0 = 0", "exit"]
    assert after.pop(".text") == ["<compute_items>:", "r0 = 7", "r1 = 8", "exit"]
    assert before == after and "raw_tp" in before


def changed(data: bytes) -> bytes:
    return _elf.with_function(data, "compute_items", CODE)


def test_it_can_be_changed_again(tmp_path: Path) -> None:
    data = dir_object()
    assert listing(changed(changed(data)), tmp_path) == listing(changed(data), tmp_path)


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (
            lambda data: data.replace(b"\0compute_items\0", b"\0compute_itemz\0"),
            "not enough values",
        ),
        (lambda data: data[:100], ""),
        (lambda data: b"", "ELF"),
        (lambda data: data[: len(data) // 2], ""),
    ],
    ids=["other name", "a beginning", "empty", "half"],
)
def test_a_damaged_object_is_one_error(damaged: object, why: str) -> None:
    data = dir_object()
    assert callable(damaged)
    with pytest.raises(ValueError, match=f"compute_items cannot be replaced: .*{why}"):
        changed(damaged(data))


def test_a_function_that_others_follow_is_refused() -> None:
    file = os.path.basename(_program.OBJECT_FILE)
    other = _program.read_object(_program.OBJECT_FILE)
    name = next(name for name in ("fill_row", "has_row", "write_name") if name.encode() in other)
    with pytest.raises(ValueError, match=f"{name} cannot be replaced: .*not the last one"):
        _elf.with_function(other, name, CODE)
    assert file == "memcg_stats.bpf.o"


def test_no_object_loses_its_last_function() -> None:
    # compute_items() has to be the last one in its section: see COMPUTE_ITEMS.
    for file in (_program.RUN_DIR_FILE, _program.WALK_DIR_FILE):
        assert changed(_program.read_object(file))
