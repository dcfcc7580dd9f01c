# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The contestants that read one cgroup: the package, and what people use instead.

Each function makes the contestants of one section. *items* is None for all items. The stack
closes what the contestants keep open.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Optional

import pymemcgbpf
from pymemcgbpf._bench import control
from pymemcgbpf._bpf import cpus as _cpus
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.btf import Types
from pymemcgbpf._sources import flush as _flush
from pymemcgbpf._sources import one_bpf as _one_bpf
from pymemcgbpf._sources.one_run_dir import RunDirSource
from tests.kernel.oracle import V1_KEYS
from tests.kernel.surroundings import HAS_ITERATOR, VERSION
from tests.kernel.ways import STAT_BPF_WAYS

from .c_programs import Argument, CProgram, Programs
from .errors import BenchError
from .names import (
    C_DECODED,
    C_ITERATOR,
    C_RAW,
    C_RUN,
    CTYPES_CALLS,
    KEPT_OPEN,
    OPENED_EACH_TIME,
    READ_STATS,
    READER,
    RUN_READER,
    Items,
)
from .runner import Contestant, timed

FLOOR_OF_TEXT = C_ITERATOR[True] if HAS_ITERATOR else C_RUN[True]
"""What reading a file, which flushes, is compared with."""


def through_bpf(
    section: str, items: Items, flush: bool, path: Path, programs: Programs, stack: ExitStack
) -> Iterator[Contestant]:
    """The package, and C programs that run the same BPF programs."""

    def contestant(
        name: str,
        batch: Callable[[int], float],
        values: Optional[Callable[[], dict[str, int]]],
        floor: dict[bool, str],
    ) -> Contestant:
        return Contestant(name, section, batch, values, floor[flush])

    if HAS_ITERATOR:
        reader = stack.enter_context(
            pymemcgbpf.StatsReader(path, items, flush=flush, transport="stream")
        )
        source = source_of(reader)
        constants = programs.directory / f"constants-{len(reader.item_names)}-{flush}"
        constants.write_bytes(constants_of(source._link._program))
        c_program = stack.enter_context(
            CProgram(
                programs.executable("iterator"),
                _program.OBJECT_FILE,
                constants,
                path,
                *flushing_file(source._flush),
            )
        )
        yield contestant(
            C_ITERATOR[flush],
            c_program.batch,
            lambda: dict(zip(reader.item_names, c_program.values())),
            C_ITERATOR,
        )
        if not flush:
            yield contestant(CTYPES_CALLS, timed(_ctypes_calls(source)), None, C_ITERATOR)
        yield contestant(READER[flush], timed(reader.read), reader.read, C_ITERATOR)
    if any(way.transport == "run" for way in STAT_BPF_WAYS):
        running = stack.enter_context(
            pymemcgbpf.StatsReader(path, items, flush=flush, transport="run")
        )
        c_run = stack.enter_context(_c_run(running, path, programs, flush))
        yield contestant(
            C_RUN[flush],
            c_run.batch,
            lambda: dict(zip(running.item_names, c_run.values())),
            C_RUN,
        )
        yield contestant(RUN_READER[flush], timed(running.read), running.read, C_RUN)
    if flush:
        stack.callback(pymemcgbpf.clear_cache)
        text_path = str(path)

        def read_stats() -> dict[str, int]:
            return pymemcgbpf.read_stats(text_path, items)

        with pymemcgbpf.StatsReader(path, items) as used:
            floor = C_RUN if used.transport == "run" else C_ITERATOR
        yield contestant(READ_STATS, timed(read_stats), read_stats, floor)


def _c_run(
    running: pymemcgbpf.StatsReader, path: Path, programs: Programs, flush: bool
) -> CProgram:
    """The C program that does what a reader with the transport "run" does."""
    source, count = running._source, len(running.item_names)
    if not isinstance(source, (_one_bpf.RunSource, RunDirSource)):
        raise BenchError(f"{path} is not read by run here: {running.fallback_reason}")
    by_directory = isinstance(source, RunDirSource)
    file = _program.RUN_DIR_FILE if by_directory else _program.OBJECT_FILE
    constants = programs.directory / f"constants-{count}-{flush}-run"
    assert source._program is not None
    constants.write_bytes(constants_of(source._program, file))
    c_object = programs.directory / f"object-{count}-{flush}-run"
    c_object.write_bytes(_program.read_object_with(source._program.items, file))
    arguments: list[Argument] = [c_object, constants, path, str(count)]
    if isinstance(source, RunDirSource):
        arguments += [str(source._slot_size), str(_cpus.possible())]
    executable = programs.executable("run_dir" if by_directory else "run_one")
    return CProgram(executable, *arguments, *flushing_file(source._flush))


def through_text(
    section: str, items: Items, path: Path, programs: Programs, stack: ExitStack
) -> Iterator[Contestant]:
    """Readers of memory.stat. Reading it flushes. On cgroup v1 it has fewer items, other keys."""
    file = str(path / "memory.stat")
    with open(file, encoding="ascii") as lines:
        printed = [line.split()[0] for line in lines]
    keys = [_key(name) for name in items] if items is not None else None
    if not set(keys or ()) <= set(printed):
        raise BenchError(f"{file} does not have all of {keys}")
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)

    def contestant(
        name: str, batch: Callable[[int], float], read: Optional[Callable[[], dict[str, int]]]
    ) -> Contestant:
        values = None if read is None else lambda: _by_name(read())
        return Contestant(name, section, batch, values, FLOOR_OF_TEXT)

    kept_open = control.kept_open(fd, keys or ())
    yield contestant(KEPT_OPEN, timed(kept_open), kept_open)
    opened_each_time = control.opened_each_time(file, keys or ())
    yield contestant(OPENED_EACH_TIME, timed(opened_each_time), opened_each_time)
    program = programs.executable("memory_stat")
    raw = stack.enter_context(CProgram(program, file, "raw"))
    yield contestant(C_RAW, raw.batch, None)
    decoding = stack.enter_context(CProgram(program, file, "decode", *(keys or ())))
    yield contestant(
        C_DECODED,
        decoding.batch,
        lambda: dict(zip(keys or printed, decoding.values())),
    )


def _key(name: str) -> str:
    """The item's key in memory.stat."""
    return V1_KEYS[name] if VERSION == 1 else name


def _by_name(values: dict[str, int]) -> dict[str, int]:
    """The values of memory.stat with the names of items as keys."""
    if VERSION == 2:
        return values
    return {name: values[key] for name, key in V1_KEYS.items() if key in values}


# --- private parts of the package ---


def source_of(reader: pymemcgbpf.StatsReader) -> _one_bpf.StreamSource:
    """The source of a reader with the transport "stream"."""
    source = reader._source
    if not isinstance(source, _one_bpf.StreamSource):
        raise BenchError(f"{reader.path} is not read by stream here: {reader.fallback_reason}")
    return source


def constants_of(program: Optional[_program.Program], file: str = _program.OBJECT_FILE) -> bytes:
    """The read-only constants of a reader's loaded program, for a C program.

    A C program calls it without its key, and has no map of names.
    """
    assert program is not None
    constants = bytearray(program.constants)
    places = _places(file)
    for name in {"program_key", "nr_names_fit"} & places.keys():
        at, size = places[name]
        constants[at : at + size] = bytes(size)
    return bytes(constants)


@functools.cache
def _places(file: str) -> dict[str, tuple[int, int]]:
    """The offset and size of each constant of one of the package's objects."""
    lib = _libbpf.load()
    data = _program.read_object(file)
    opened = lib.bpf_object__open_mem(data, len(data), None)
    try:
        return Types(lib, lib.bpf_object__btf(opened)).variables(".rodata")
    finally:
        lib.bpf_object__close(opened)


def flushing_file(flush: _flush.Flush) -> Iterator[str]:
    """The path of the file that a source reads in order to flush, if there is one."""
    for file in flush.files:
        yield os.readlink(f"/proc/self/fd/{file.fd}")


def _ctypes_calls(source: _one_bpf.StreamSource) -> Callable[[], object]:
    create, link, size = _libbpf.load().bpf_iter_create, source._link.fd, source._size

    def read() -> None:
        iterator = create(link)
        os.read(iterator, size)
        os.close(iterator)

    return read


def with_constants(path: Path, constants: dict[str, bytes]) -> bytes:
    """The read-only constants of an object of this folder, with some of them set."""
    lib = _libbpf.load()
    data = path.read_bytes()
    opened = lib.bpf_object__open_mem(data, len(data), None)
    try:
        bpf_map = lib.bpf_object__find_map_by_name(opened, b".rodata")
        address, size = _libbpf_maps.initial_value(lib, bpf_map)
        places = Types(lib, lib.bpf_object__btf(opened)).variables(".rodata")
        for name, value in constants.items():
            _libbpf.poke(address + places[name][0], value)
        return _libbpf.peek(address, size)
    finally:
        lib.bpf_object__close(opened)
