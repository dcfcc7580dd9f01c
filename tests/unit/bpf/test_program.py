# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The BPF object: what can go wrong while it is opened, loaded and attached."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import BpfObjectError, BpfPermissionError, MemcgError, VerifierError, _options
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.program import NAMES, ROWS, SHARE, STREAM, MapSize, Program

from ...open_files import open_files
from ..fake_libbpf import FakeLibbpf, installed

Capable = Callable[[int], None]


@pytest.fixture(autouse=True)
def object_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "memcg_stats.bpf.o"
    path.write_bytes(b"an object")
    for file in ("OBJECT_FILE", "CORE_FILE"):
        monkeypatch.setattr(_program, file, str(path))
    alone = {name: tmp_path / os.path.basename(file) for name, file in _program._ALONE.items()}
    for each in alone.values():
        each.write_bytes(b"another object")
    monkeypatch.setattr(_program, "_ALONE", {name: str(each) for name, each in alone.items()})
    return path


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibbpf]:
    with installed(monkeypatch) as fake:
        yield fake


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> Capable:
    """Sets the effective capabilities. At first the process has all of them."""

    def set_to(effective: int) -> None:
        monkeypatch.setattr(_capabilities, "effective", lambda: effective)

    set_to((1 << 41) - 1)
    return set_to


# --- opening --------------------------------------------------------------------------


def test_a_missing_object_file(lib: FakeLibbpf, object_file: Path) -> None:
    object_file.unlink()
    with pytest.raises(BpfObjectError, match="cannot be read") as caught:
        Program(STREAM, {})
    assert str(object_file) in str(caught.value)
    assert "install pymemcgbpf again" in str(caught.value)
    assert (caught.value.errno, caught.value.call) == (errno.ENOENT, "open")
    assert "bpf_object__open_mem" not in lib.calls


@pytest.mark.parametrize("data", [b"", b"garbage" * 99, b"\x7fELF" + bytes(60)])
def test_a_damaged_object_file(data: bytes, object_file: Path) -> None:
    # The real libbpf: to open an object needs no privilege.
    object_file.write_bytes(data)
    with pytest.raises(BpfObjectError, match="is damaged") as caught:
        Program(STREAM, {})
    assert caught.value.call == "bpf_object__open_mem"
    assert caught.value.errno
    assert isinstance(caught.value.__cause__, MemcgError)


def test_the_error_for_a_damaged_object_has_libbpf_s_messages(object_file: Path) -> None:
    object_file.write_bytes(b"garbage" * 99)
    with pytest.raises(BpfObjectError) as caught:
        Program(STREAM, {})
    assert "libbpf: " in caught.value.log


@pytest.mark.parametrize(
    "function",
    [
        "bpf_object__find_program_by_name",
        "bpf_program__set_autoload",
        "bpf_object__find_map_by_name",
        "bpf_map__initial_value",
        "bpf_map__set_autocreate",
        "bpf_map__set_value_size",
        "bpf_map__set_max_entries",
        "bpf_object__btf",
    ],
)
def test_an_object_that_lacks_a_part_is_not_of_this_package(function: str, lib: FakeLibbpf) -> None:
    lib.fails[function] = errno.ENOENT
    with pytest.raises(BpfObjectError, match="not the one of this package") as caught:
        Program(SHARE, {"flush": _terms.u32(1)}, {ROWS: MapSize(48, 100)})
    assert caught.value.call == function
    assert lib.opened() == 0


def test_an_object_without_a_constant_is_not_of_this_package(lib: FakeLibbpf) -> None:
    with pytest.raises(BpfObjectError, match="not the one of this package"):
        Program(STREAM, {"a_constant_of_tomorrow": _terms.u32(1)})
    assert lib.opened() == 0


def test_a_constant_that_does_not_fit(lib: FakeLibbpf) -> None:
    with pytest.raises(BpfObjectError, match="flush holds 4 bytes, not 8"):
        Program(STREAM, {"flush": _terms.u64(1)})
    assert lib.opened() == 0


# --- loading --------------------------------------------------------------------------


def test_a_failed_load_is_explained_and_leaves_nothing_open(lib: FakeLibbpf) -> None:
    lib.fails["bpf_object__load"] = errno.EINVAL
    lib.says = "libbpf: what libbpf said\n"
    with pytest.raises(VerifierError, match="the kernel refused the BPF program") as caught:
        Program(STREAM, {})
    error = caught.value
    assert (error.errno, error.call, error.log) == (errno.EINVAL, "bpf_object__load", lib.says)
    assert isinstance(error.__cause__, MemcgError)
    assert lib.opened() == 0


@pytest.mark.parametrize(
    "words",
    ["fd 7 is not pointing to valid bpf_map", "BPF map '.rodata' is referenced but wasn't created"],
)
def test_a_library_that_takes_a_shortage_for_a_missing_feature_is_replaced(
    words: str, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[FakeLibbpf] = []

    def load_copy() -> FakeLibbpf:
        lib.fails.clear()
        loaded.append(lib)
        return lib

    monkeypatch.setattr(_libbpf, "load_private_copy", load_copy)
    lib.fails["bpf_object__load"] = errno.EINVAL
    lib.says = words
    Program(STREAM, {}).close()
    assert len(loaded) == 1
    lib.fails["bpf_object__load"] = errno.EINVAL
    lib.says = "something else"
    with pytest.raises(VerifierError):
        Program(SHARE, {})
    assert len(loaded) == 1


def test_the_object_is_closed_whatever_happens(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_libbpf, "poke", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        Program(STREAM, {"flush": _terms.u32(1)})
    assert lib.opened() == 0
    del caught  # its frames hold the program


# --- capabilities ---------------------------------------------------------------------


def test_the_capability_that_is_missing_is_named(lib: FakeLibbpf, capable: Capable) -> None:
    capable(1 << 38)  # CAP_PERFMON
    lib.fails["bpf_object__load"] = errno.EPERM
    with pytest.raises(BpfPermissionError) as caught:
        Program(STREAM, {})
    assert caught.value.remedy == "run as root, or grant CAP_BPF"
    assert caught.value.errno == errno.EPERM
    assert lib.calls == [], "the kernel need not be asked"


# --- file descriptors -----------------------------------------------------------------


def few_descriptors(monkeypatch: pytest.MonkeyPatch, number: int, spare: int) -> None:
    """Opening fails with an errno after so many times."""
    real = os.open
    left = [spare]

    def open_one(path: Any, *arguments: Any, **options: Any) -> int:
        if path == os.devnull:
            if not left[0]:
                raise OSError(number, os.strerror(number), path)
            left[0] -= 1
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_one)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("spare", [0, 27])
def test_too_few_descriptors_are_seen_before_libbpf_probes(
    spare: int, number: int, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_descriptors(monkeypatch, number, spare)
    before = open_files()
    with pytest.raises(MemcgError, match="up to 40 descriptors") as caught:
        Program(STREAM, {})
    assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    assert open_files() == before
    assert lib.calls == []


@pytest.mark.parametrize(("number", "spare"), [(errno.EMFILE, 28), (errno.ENOENT, 0)])
def test_a_program_is_loaded_if_descriptors_suffice_or_cannot_be_counted(
    number: int, spare: int, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_descriptors(monkeypatch, number, spare)
    before = open_files()
    program = Program(STREAM, {})
    assert open_files().keys() - before.keys() == {str(program.fd)}, "its own alone"
    program.close()
    assert open_files() == before


# --- loaded ---------------------------------------------------------------------------


def test_constants_are_written_before_load(lib: FakeLibbpf) -> None:
    program = Program(STREAM, {"nr_terms": _terms.u32(5), "events_index_size": _terms.u32(9)})
    assert lib.constant("nr_terms") == _terms.u32(5)
    assert lib.constant("events_index_size") == _terms.u32(9)
    assert lib.constant("backend") == bytes(4)
    assert lib.calls.index("bpf_map__initial_value") < lib.calls.index("bpf_object__load")
    program.close()


@pytest.mark.parametrize("name", _program.PROGRAMS)
def test_only_the_program_asked_for_is_loaded(name: str, lib: FakeLibbpf) -> None:
    program = Program(name, {})
    file = _program._own_file(name)
    beside = [each for each in _program.PROGRAMS if _program._own_file(each) == file]
    assert lib.autoload == {each: each == name for each in beside}
    assert (len(beside) == 1) == (name in _program._ALONE)
    program.close()


@pytest.mark.parametrize(("name", "maps"), _program.PROGRAMS.items())
def test_only_the_maps_of_that_program_are_made(
    name: str, maps: tuple[str, ...], lib: FakeLibbpf
) -> None:
    program = Program(name, {})
    assert lib.sizes == {}, "as they are in the object"
    if name == _program.COPY_TABLES:  # in an object without maps of its own
        assert lib.autocreate == {}
    elif name in _program._ALONE:
        assert lib.autocreate == dict.fromkeys(maps, True)
    elif name.startswith("tree_"):
        assert lib.autocreate == {name: name in maps for name in ("memcg_tree", "memcg_timer")}
    else:
        assert lib.autocreate == {name: name in maps for name in ("rows", "names", "scratches")}
        assert lib.calls.index("bpf_map__set_autocreate") < lib.calls.index("bpf_object__load")
    program.close()


def test_the_maps_are_made_as_large_as_asked_for(lib: FakeLibbpf) -> None:
    program = Program(SHARE, {}, {ROWS: MapSize(48, 1000), NAMES: MapSize(300, 1)})
    assert lib.sizes == {
        "rows": {"value_size": 48, "max_entries": 1000},
        "names": {"value_size": 300, "max_entries": 1},
    }
    assert lib.calls.index("bpf_map__set_max_entries") < lib.calls.index("bpf_object__load")
    program.close()


def test_a_program_can_use_the_map_of_another(lib: FakeLibbpf) -> None:
    first = Program(_program.TREE_STREAM, {}, {_program.TREE: MapSize(64, 3)})
    lib.sizes.clear()
    second = Program(_program.TREE_PUBLISH, {}, {_program.TREE: first.size(_program.TREE)})
    assert lib.reused == {"memcg_tree": first._maps["memcg_tree"].fd} and lib.sizes == {}
    assert lib.calls.index("bpf_map__reuse_fd") > lib.calls.index("bpf_object__load")
    assert lib.calls[::-1].index("bpf_object__load") < lib.calls[::-1].index("bpf_map__reuse_fd")
    second.close()
    first.close()


def test_a_map_is_mapped_once_for_all_users(lib: FakeLibbpf) -> None:
    program = Program(_program.RUN_DIR, {}, {_program.ANSWERS: MapSize(24, 3)})
    memory = program.shared_map(_program.ANSWERS)
    assert program.shared_map(_program.ANSWERS) is memory
    assert len(memory) == 72
    os.pwrite(lib.memory["answers"].fileno(), b"\x2a", 71)
    assert memory[71] == 42
    with pytest.raises(TypeError):
        memory[0] = 1
    unmapped = weakref.ref(memory)
    program.close()
    assert memory[71] == 42, "a reader may just look at it"
    del program, memory
    gc.collect()
    assert unmapped() is None


def test_a_program_that_is_run_is_loaded_with_its_key(lib: FakeLibbpf) -> None:
    keys = set()
    for _ in range(2):
        program = Program(_program.RUN_DIR, {}, {})
        assert lib.constant("program_key") == _terms.u64(program.key)
        keys.add(program.key)
        program.close()
    assert len(keys | {0}) == 3


def test_rows_are_mapped_whole_to_be_read(lib: FakeLibbpf) -> None:
    size = MapSize(value_size=48, entries=1000)
    program = Program(SHARE, {}, {ROWS: size})
    with program.map(ROWS) as memory:
        assert len(memory) == 48_000
        for at in (0, 47_999):  # what the kernel writes now is seen
            os.pwrite(lib.memory["rows"].fileno(), b"\x2a", at)
            assert memory[at] == 42
        with pytest.raises(TypeError):
            memory[0] = 1
    program.close()


def test_mapped_rows_can_be_closed_before_their_program(lib: FakeLibbpf) -> None:
    size = MapSize(value_size=32, entries=1)
    program = Program(SHARE, {}, {ROWS: size})
    memory = program.map(ROWS)
    memory.close()
    program.close()


def test_rows_with_a_view_outlive_their_program(lib: FakeLibbpf) -> None:
    size = MapSize(value_size=32, entries=1)
    program = Program(SHARE, {}, {ROWS: size})
    view = memoryview(program.map(ROWS))
    program.close()
    program.close()
    os.pwrite(lib.memory["rows"].fileno(), b"\x2a", 31)
    assert view[31] == 42
    unmapped = weakref.ref(view.obj)
    del view
    gc.collect()
    assert unmapped() is None, "it goes with the last view"


@pytest.mark.parametrize("returned", [0, 1])
def test_what_a_program_returned(returned: int, lib: FakeLibbpf) -> None:
    lib.returns = returned
    program = Program(_program.COPY_TABLES, {})
    assert program.run() == returned
    program.close()


@pytest.mark.parametrize("name", _program.PROGRAMS)
def test_that_program_is_the_one_that_is_used(name: str, lib: FakeLibbpf) -> None:
    program = Program(name, {})
    link = program.attach(9, _options.SELF)
    assert set(lib.used) == {name}
    assert lib.linked == [program.fd]
    link.close()
    program.close()


def test_nothing_but_descriptors_is_kept_of_an_object(lib: FakeLibbpf) -> None:
    # libbpf would close them, whatever has their numbers then.
    program = Program(SHARE, {}, {ROWS: MapSize(48, 100)})
    assert lib.opened() == 0
    os.fstat(program.fd)
    program.close()


def test_close_twice(lib: FakeLibbpf) -> None:
    before = open_files()
    program = Program(SHARE, {}, {ROWS: MapSize(48, 100)})
    assert len(open_files()) == len(before) + 2
    program.close()
    program.close()
    assert open_files() == before


def test_a_forgotten_program_is_closed(lib: FakeLibbpf) -> None:
    before = open_files()
    program = Program(SHARE, {}, {ROWS: MapSize(48, 100)})
    del program
    gc.collect()
    assert open_files() == before


def test_a_variable_is_what_the_program_left(lib: FakeLibbpf) -> None:
    lib.bss[1024 + 3] = b"\x2a"
    program = Program(_program.COPY_TABLES, {})
    assert program.variable("events_index")[3] == 42
    assert program.variable("stats_index") == bytes(1024)
    program.close()


def test_a_link_keeps_its_program(lib: FakeLibbpf) -> None:
    before = open_files()
    program = Program(STREAM, {})
    seen = weakref.ref(program)
    link = program.attach(9, _options.SELF)
    del program
    gc.collect()
    assert seen() is not None
    link.close()
    link.close()
    gc.collect()
    assert seen() is None
    assert open_files() == before


def test_a_forgotten_link_is_closed(lib: FakeLibbpf) -> None:
    before = open_files()
    link = Program(STREAM, {}).attach(9, _options.SELF)
    os.fstat(link.fd)
    del link
    gc.collect()
    assert open_files() == before


def replace(fd: int, path: Path) -> None:
    """What a daemon does that closes all files and opens others."""
    other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(other, fd, inheritable=False)
    os.close(other)


def test_a_lost_program_closes_no_other_s_file(lib: FakeLibbpf, object_file: Path) -> None:
    before = open_files()
    program = Program(SHARE, {}, {ROWS: MapSize(48, 100)})
    link = program.attach(9, _options.SELF)
    numbers = sorted(map(int, open_files().keys() - before.keys()))
    assert len(numbers) == 3 and {program.fd, link.fd} < set(numbers)
    assert (program.is_lost, link.is_lost) == (False, False)
    for number in numbers:
        replace(number, object_file)
    taken = open_files()
    assert (program.is_lost, link.is_lost) == (True, True)
    link.close()
    program.close()
    del link, program
    gc.collect()
    assert open_files() == taken
    for number in numbers:
        assert os.pread(number, 99, 0) == b"an object"
        os.close(number)


def test_the_memory_of_a_map_holds_no_descriptor(lib: FakeLibbpf) -> None:
    # Python's own would be the lowest number that is free, and closed whatever has it then.
    size = MapSize(48, 100)
    program = Program(SHARE, {}, {ROWS: size})
    before = open_files()
    memory = program.map(ROWS)
    assert open_files() == before
    with pytest.raises(MemcgError) as caught:
        _libbpf_maps.map_memory(-1, 4096)
    assert (caught.value.errno, caught.value.call) == (errno.EBADF, "mmap")
    memory.close()
    program.close()


def test_a_refusal_to_attach(lib: FakeLibbpf) -> None:
    lib.fails["bpf_link_create"] = errno.EINVAL
    program = Program(STREAM, {})
    before = open_files()
    with pytest.raises(MemcgError) as caught:
        program.attach(9, _options.SELF)
    assert (caught.value.errno, caught.value.call) == (errno.EINVAL, "bpf_link_create")
    assert open_files() == before
    program.close()


# --- which object ---------------------------------------------------------------------

CORE, KFUNC = (_terms.u32(_terms.BACKEND_NUMBERS[name]) for name in ("core", "kfunc"))


@pytest.mark.parametrize(
    ("name", "backend", "flush", "file"),
    [
        (STREAM, CORE, _terms.FLUSH_NONE, "CORE_FILE"),
        (STREAM, CORE, _terms.FLUSH_RSTAT, "CORE_FILE"),
        (_program.RUN_ONE, CORE, _terms.FLUSH_NONE, "CORE_FILE"),
        (STREAM, CORE, _terms.FLUSH_KFUNC, "OBJECT_FILE"),
        (STREAM, KFUNC, _terms.FLUSH_NONE, "OBJECT_FILE"),
    ],
)
def test_the_object_that_names_no_more_functions_than_needed(
    name: str, backend: bytes, flush: int, file: str
) -> None:
    constants = {"backend": backend, "flush": _terms.u32(flush)}
    assert _program._file_of(name, constants) is getattr(_program, file)


@pytest.mark.parametrize("backend", [CORE, KFUNC])
def test_a_program_with_an_object_of_its_own_is_loaded_from_that(backend: bytes) -> None:
    files = {name: _program._file_of(name, {"backend": backend}) for name in _program._ALONE}
    assert [*map(os.path.basename, files.values())] == [
        *("run_dir.bpf.o", "walk_dir.bpf.o", "departures.bpf.o", "index_tables.bpf.o")
    ]
