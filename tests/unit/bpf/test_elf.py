# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The programs that are loaded without libbpf's loader, as they are read from their objects."""

from __future__ import annotations

import struct

import pytest

from pymemcgbpf._bpf import elf as _elf
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.reload import BSS, RODATA, ReloadableProgram, _descriptors

from ..fake_libbpf import DIR_RODATA, TABLES_BSS, TABLES_RODATA

MAPS = {
    _program.RUN_DIR: ({RODATA, _program.ANSWERS}, DIR_RODATA, {}),
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


@pytest.mark.parametrize("name", MAPS)
def test_there_is_nothing_else_to_relocate(name: str) -> None:
    code = read(name).code
    calls = [
        registers >> 4
        for operation, registers, _, _ in struct.iter_unpack("<BBhi", code)
        if operation == 0x85
    ]
    assert calls and not any(calls), "helpers are called, and neither functions nor kfuncs"


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
    assert not {*_program._PLAIN} - {*_program._ALONE}


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
