# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A program loaded again from what libbpf made of it the first time."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import reload as _reload
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.program import SHARE, STREAM, MapSize, Program
from pymemcgbpf._descriptors import Owned

from ...open_files import open_files
from ..fake_libbpf import FakeLibbpf, installed

OF_MAPS = {".rodata": 41, ".bss": 42, "rows": 43, "scratches": 44, "names": 45, "answers": 46}
_MOVE, _LOAD_64, _EXIT = 0xB7, 0x18, 0x95


def instruction(code: int, registers: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, registers, 0, immediate)


def load_map(fd: int, kind: int = _reload._MAP_VALUE, offset: int = 0) -> bytes:
    return instruction(_LOAD_64, kind << 4 | 1, fd) + instruction(0, 0, offset)


# A number that is a map's descriptor by chance stays as it is.
CODE = (
    instruction(_MOVE, 0, 41)
    + load_map(41, offset=16)
    + load_map(43, _reload._MAP_FD)
    + instruction(_LOAD_64, 1, 43)
    + instruction(0)
    + load_map(41, offset=8)
    + instruction(_EXIT)
)


class Kernel(FakeLibbpf):
    """Loads programs from instructions, too, and keeps what it was given."""

    code = CODE
    attach_btf_id = 9
    attach_type = 28
    program_type = 26
    flags = _reload.SLEEPABLE
    lacks: tuple[str, ...] = ("answers",)

    def descriptor(self, name: str, *arguments: Any) -> Owned:
        return select.epoll.fromfd(self._call(name, *arguments))

    def start(self) -> None:
        self.buffer = ctypes.create_string_buffer(self.code)
        self.made: dict[int, list[Any]] = {}  # map's descriptor → name, size, entries, flags
        self.loaded: list[tuple[int, bytes, bytes]] = []
        self.frozen: list[int] = []
        self.values: dict[int, bytes] = {}

    def _call(self, name: str, *arguments: Any) -> Any:
        known = getattr(self, f"on_{name}", None)
        if name == "bpf_obj_get_info_by_fd" and not isinstance(arguments[1]._obj, _libbpf.ProgInfo):
            return self._tell(*arguments)  # whose descriptor it is can always be told
        if known is None or name in self.fails:
            return super()._call(name, *arguments)
        self.calls.append(name)
        return known(*arguments)

    def on_bpf_program__insn_cnt(self, program: Any) -> int:
        return len(self.code) // 8

    def on_bpf_program__insns(self, program: Any) -> int:
        return ctypes.addressof(self.buffer)

    def on_bpf_object__find_map_by_name(self, loaded: Any, name: bytes) -> Any:
        if name.decode() in self.lacks:
            call = "bpf_object__find_map_by_name"
            raise MemcgError("no such map", errno=errno.ENOENT, call=call)
        return {b".bss": self.bss, b".rodata": self.rodata}.get(name, name.decode())

    def on_bpf_program__type(self, program: Any) -> int:
        return self.program_type

    def on_bpf_program__expected_attach_type(self, program: Any) -> int:
        return self.attach_type

    def on_bpf_obj_get_info_by_fd(self, fd: int, info: Any, size: Any) -> int:
        assert size._obj.value == ctypes.sizeof(info._obj)
        info._obj.attach_btf_id = self.attach_btf_id
        return 0

    def _map_fd(self, bpf_map: Any) -> int:
        name = {id(self.rodata): ".rodata", id(self.bss): ".bss"}.get(id(bpf_map), bpf_map)
        if name == "scratches":
            raise MemcgError("not made", errno=errno.EINVAL, call="bpf_map__fd")
        return OF_MAPS[name]

    def on_bpf_map__value_size(self, bpf_map: Any) -> int:
        return 32 if bpf_map in ("rows", "answers") else len(bpf_map)

    def on_bpf_map__max_entries(self, bpf_map: Any) -> int:
        return 1

    def on_bpf_map__map_flags(self, bpf_map: Any) -> int:
        return 1024 if bpf_map in ("rows", "answers") else 128

    def on_bpf_map_create(
        self, kind: int, name: bytes, key: int, size: int, entries: int, options: Any
    ) -> int:
        assert (kind, key) == (2, 4)
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.made[fd] = [name.decode(), size, entries, options._obj.map_flags]
        return fd

    def on_bpf_map_update_elem(self, fd: int, key: bytes, value: bytes, flags: int) -> int:
        assert (key, flags) == (bytes(4), 0)
        self.values[fd] = value
        return 0

    def on_bpf_map_freeze(self, fd: int) -> int:
        assert fd in self.values
        self.frozen.append(fd)
        return 0

    def on_bpf_prog_load(
        self, kind: int, name: bytes, licence: bytes, code: bytes, count: int, options: Any
    ) -> int:
        given = options._obj
        assert len(code) == 8 * count
        assert given.expected_attach_type == self.attach_type
        assert given.attach_btf_id == self.attach_btf_id
        assert given.prog_flags == self.flags and licence == _reload.LICENCE.encode()
        self.loaded.append((kind, name, code))
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kernel]:
    object_file = tmp_path / "object"
    object_file.write_bytes(b"an object")
    monkeypatch.setattr(_program, "OBJECT_FILE", str(object_file))
    monkeypatch.setattr(_capabilities, "missing", list)
    with installed(monkeypatch, Kernel) as fake:
        assert isinstance(fake, Kernel)
        fake.start()
        # Those that are duplicated are open, at their numbers.
        duplicated = [
            fcntl.fcntl(fake.memory[name].fileno(), fcntl.F_DUPFD_CLOEXEC, OF_MAPS[name])
            for name in ("rows", "answers")
        ]
        assert duplicated == [OF_MAPS["rows"], OF_MAPS["answers"]]
        yield fake
        for fd in duplicated:
            os.close(fd)


ROWS = {"rows": MapSize(value_size=48, entries=100)}


def test_libbpf_s_loader_is_asked_once(lib: Kernel) -> None:
    before = open_files()
    first = Program(SHARE, {"flush": _terms.u32(1)}, ROWS)
    assert lib.calls.count("bpf_object__load") == 1 and not lib.loaded
    second = Program(SHARE, {"flush": _terms.u32(2)}, ROWS)
    assert lib.calls.count("bpf_object__load") == 1 == lib.calls.count("bpf_object__open_mem")
    ((kind, name, _),) = lib.loaded
    assert (kind, name) == (lib.program_type, SHARE.encode())
    assert second.fd != first.fd
    assert len(open_files()) == len(before) + 4, "each has itself and its rows"
    first.close()
    second.close()
    assert open_files() == before


def test_the_new_maps_stand_in_the_instructions(lib: Kernel) -> None:
    Program(SHARE, {}, ROWS).close()
    program = Program(SHARE, {}, ROWS)
    fds = {name: fd for fd, (name, *_) in lib.made.items()}
    assert fds.keys() == {".rodata", "rows"}, "those that it uses"
    ((_, _, code),) = lib.loaded
    expected = CODE
    for old, new in ((load_map(41, offset=16), load_map(fds[".rodata"], offset=16)),):
        expected = expected.replace(old, new)
    expected = expected.replace(load_map(41, offset=8), load_map(fds[".rodata"], offset=8))
    expected = expected.replace(load_map(43, 1), load_map(fds["rows"], 1))
    assert code == expected != CODE
    program.close()


def test_the_constants_are_those_of_this_program_alone(lib: Kernel) -> None:
    Program(SHARE, {"nr_terms": _terms.u32(5)}, ROWS).close()
    program = Program(SHARE, {"flush": _terms.u32(2)}, ROWS)
    ((fd, value),) = lib.values.items()
    assert lib.frozen == [fd] and lib.made[fd][0] == ".rodata"
    assert value == program.constants
    assert len(value) == lib.made[fd][1] == len(lib.rodata)
    assert value[4:8] == _terms.u32(2), "flush is the second"
    assert value.count(0) == len(value) - 1, "nothing is left of the first's"
    program.close()


def test_the_map_of_rows_is_as_large_as_asked_for(lib: Kernel) -> None:
    Program(SHARE, {}, ROWS).close()
    sizes: dict[str, MapSize]
    for sizes, size in (({"rows": MapSize(56, 7)}, [56, 7]), ({}, [32, 1])):
        program = Program(SHARE, {}, sizes)
        assert [made[1:] for made in lib.made.values() if made[0] == "rows"][-1] == [*size, 1024]
        program.close()


def test_a_raw_tracepoint_s_program_is_loaded_again_as_one_that_does_not_sleep(
    lib: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "run_dir.bpf.o"
    own.write_bytes(b"an object of its own")
    monkeypatch.setitem(_program._ALONE, _program.RUN_DIR, str(own))
    lib.code = load_map(41) + load_map(46, _reload._MAP_FD) + instruction(_EXIT)
    lib.attach_btf_id = lib.attach_type = lib.flags = 0
    lib.program_type, lib.lacks = _reload._RAW_TRACEPOINT, (".bss", "rows", "names", "scratches")
    lib.start()
    before = open_files()
    for entries in (2, 4):
        program = Program(_program.RUN_DIR, {}, {"answers": MapSize(40, entries)})
        assert len(open_files()) == len(before) + 2, "itself and its answers"
        program.close()
    assert lib.calls.count("bpf_object__load") == 1
    ((kind, name, _),) = lib.loaded
    assert (kind, name) == (_reload._RAW_TRACEPOINT, _program.RUN_DIR.encode())
    assert [made for made in lib.made.values() if made[0] == "answers"] == [
        ["answers", 40, 4, 1024]
    ]
    assert open_files() == before


@pytest.mark.parametrize(
    ("code", "btf_id", "attach_type"),
    [
        pytest.param(CODE, 0, 28, id="no attach target"),
        pytest.param(CODE + load_map(77), 9, 28, id="an unknown map"),
    ],
)
def test_a_program_that_cannot_be_loaded_again_is_loaded_by_libbpf(
    code: bytes, btf_id: int, attach_type: int, lib: Kernel
) -> None:
    lib.code, lib.attach_btf_id, lib.attach_type = code, btf_id, attach_type
    lib.start()
    for _ in range(2):
        Program(SHARE, {}, ROWS).close()
    assert lib.calls.count("bpf_object__load") == 2 and not lib.loaded


@pytest.mark.parametrize(
    "function", ["bpf_obj_get_info_by_fd", "bpf_program__insns", "bpf_map_create", "bpf_prog_load"]
)
def test_what_fails_is_left_to_libbpf(function: str, lib: Kernel) -> None:
    before = open_files()
    lib.fails[function] = errno.EINVAL
    for _ in range(2):
        Program(SHARE, {}, ROWS).close()
    assert lib.calls.count("bpf_object__load") == 2
    assert open_files() == before


def test_libbpf_s_words_are_heard_when_both_fail(lib: Kernel) -> None:
    Program(SHARE, {}, ROWS).close()
    lib.fails = {"bpf_prog_load": errno.EACCES, "bpf_object__load": errno.EACCES}
    lib.says = "libbpf: prog: -- BEGIN PROG LOAD LOG --\nR1 is wrong\n-- END PROG LOAD LOG --\n"
    before = open_files()
    with pytest.raises(MemcgError, match="R1 is wrong"):
        Program(SHARE, {}, ROWS)
    assert open_files() == before


def test_an_interrupt_leaves_nothing_open(lib: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    Program(SHARE, {}, ROWS).close()
    before = open_files()
    monkeypatch.setattr(_libbpf_programs, "load_program", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Program(SHARE, {}, ROWS)
    gc.collect()  # what was made goes with the frames that made it
    assert open_files() == before


def test_each_program_and_each_object_is_kept_for_itself(
    lib: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Program(SHARE, {}, ROWS).close()
    Program(STREAM, {}).close()
    assert lib.calls.count("bpf_object__load") == 2
    other = tmp_path / "other"
    other.write_bytes(b"another object")
    monkeypatch.setattr(_program, "OBJECT_FILE", str(other))
    Program(STREAM, {}).close()
    assert lib.calls.count("bpf_object__load") == 3
    _reload.forget()
    Program(STREAM, {}).close()
    assert lib.calls.count("bpf_object__load") == 4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("nonsense", b"1", "has no nonsense"), ("flush", bytes(8), "holds 4 bytes, not 8")],
)
def test_a_constant_that_does_not_fit(name: str, value: bytes, said: Optional[str]) -> None:
    section = _reload.Section(bytes(8), {"flush": (4, 4)})
    assert section.with_values({"flush": b"\1\2"}) == b"\0\0\0\0\1\2\0\0"
    with pytest.raises(MemcgError, match=said):
        section.with_values({name: value})
