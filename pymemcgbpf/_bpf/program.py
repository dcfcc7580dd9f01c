# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF programs of this package: configured by constants, loaded, and attached to cgroups."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any, Callable, Optional

from .. import _signals
from .._descriptors import Descriptor, Owned, duplicate
from .._records import Record
from ..errors import (
    BpfObjectError,
    MemcgError,
    errno_text,
    is_transient,
    shortage,
)
from . import btf as _btf
from . import casts as _casts
from . import elf as _elf
from . import load_checks as _load_checks
from . import reload as _reload
from .bindings import libbpf as _libbpf
from .bindings import libbpf_log as _libbpf_log
from .bindings import libbpf_maps as _libbpf_maps
from .bindings import libbpf_programs as _libbpf_programs
from .load_errors import cannot_list_btf, load_error, refused_directly
from .terms import BACKEND_NUMBERS, FLUSH_KFUNC, FLUSH_RFC, u32

_HERE = os.path.dirname(__file__)
OBJECT_FILE = os.path.join(_HERE, "objects", "memcg_stats.bpf.o")
CORE_FILE = os.path.join(_HERE, "objects", "memcg_stats_core.bpf.o")  # names no kfunc, for core
RUN_DIR_FILE = os.path.join(_HERE, "objects", "run_dir.bpf.o")  # has RUN_DIR only
WALK_DIR_FILE = os.path.join(_HERE, "objects", "walk_dir.bpf.o")  # has WALK_DIR only
DEPARTURES_FILE = os.path.join(_HERE, "objects", "departures.bpf.o")  # has DEPARTED only
TABLES_FILE = os.path.join(_HERE, "objects", "index_tables.bpf.o")  # has COPY_TABLES only
TREE_FILE = os.path.join(_HERE, "objects", "pinned_tree.bpf.o")  # has the TREE_* programs
OBJECT_FILES = (
    OBJECT_FILE,
    CORE_FILE,
    RUN_DIR_FILE,
    WALK_DIR_FILE,
    DEPARTURES_FILE,
    TABLES_FILE,
    TREE_FILE,
)

# The programs of the objects, and the maps that each of them uses.
STREAM = "memcg_stream"
SHARE = "memcg_share"
RUN_ONE = "memcg_run_one"
RUN_TREE = "memcg_run_tree"
RUN_DIR = "memcg_run_dir"
WALK_DIR = "memcg_walk_dir"
DEPARTED = "memcg_departed"
COPY_TABLES = "copy_tables"
TREE_STREAM = "tree_stream"
TREE_PUBLISH = "tree_publish"
TREE_START = "tree_start"
ROWS, NAMES, SCRATCHES, ANSWERS = "rows", "names", "scratches", "answers"
DEPARTURES, NR_LOST, ANCHORS = "departures", "nr_lost", "anchors"
TREE, TIMER = "memcg_tree", "memcg_timer"
PROGRAMS: dict[str, tuple[str, ...]] = {
    STREAM: (),
    SHARE: (ROWS, NAMES),
    RUN_ONE: (SCRATCHES,),
    RUN_TREE: (ROWS, NAMES, SCRATCHES),
    RUN_DIR: (ANSWERS,),
    WALK_DIR: (ROWS, NAMES),
    DEPARTED: (DEPARTURES, NR_LOST, ANCHORS),
    COPY_TABLES: (),
    TREE_STREAM: (TREE,),
    TREE_PUBLISH: (TREE,),
    TREE_START: (TREE, TIMER),
}


# The programs that are alone in their object. They need nothing of libbpf's loader, for they have
# no CO-RE, and of the kernel's functions the cast at most.
_ALONE = {
    RUN_DIR: RUN_DIR_FILE,
    WALK_DIR: WALK_DIR_FILE,
    DEPARTED: DEPARTURES_FILE,
    COPY_TABLES: TABLES_FILE,
}
_OF_PINNED_TREES = (TREE_STREAM, TREE_PUBLISH, TREE_START)


class MapSize(Record):
    """The size of a map.

    Attributes:
        value_size: the bytes of an entry.
        entries: how many entries it has.
        fd: the descriptor of an existing map of this size that the program uses; None if the map
            is created with the program.
        type: its type, of enum bpf_map_type.
    """

    value_size: int
    entries: int
    fd: Optional[int] = None
    type: int = _reload.ARRAY


_AS_COMPILED: Mapping[str, MapSize] = {}


class Program:
    """A loaded program, with its constants and its maps. The maps of *maps* get these sizes, and
    compute_items() of item_code.bpf.h, if the program has it, the instructions *items*.

    The first program of a name is loaded through libbpf. Most of that time goes into relocations,
    whose result depends on the kernel only, so later ones are loaded from that result (reload.py).
    A program is unloaded by :meth:`close`, or when the last reference to it is dropped.

    Raises:
        BpfObjectError, BpfPermissionError, VerifierError: the program cannot be loaded.
        LibbpfNotFoundError, LibbpfTooOldError: libbpf cannot be used.
    """

    def __init__(
        self,
        name: str,
        constants: dict[str, bytes],
        maps: Mapping[str, MapSize] = _AS_COMPILED,
        items: bytes = b"",
    ) -> None:
        self._lib = _libbpf.load()
        _load_checks.check()
        self.key = 0
        if name in (RUN_ONE, RUN_TREE, RUN_DIR, WALK_DIR, TREE_PUBLISH):
            # Callers pass the key, because the descriptor may belong to another program by then.
            key = os.urandom(8)
            self.key = int.from_bytes(key, sys.byteorder)
            constants = {**constants, "program_key": key}
        loaded = _signals.held_back(lambda: _loaded(self._lib, name, constants, maps, items))
        self.constants, self.items = loaded.constants, items
        self._program = self._descriptor(loaded.program)
        self.fd = self._program.fd
        self._sizes = maps
        self._maps = {name: self._descriptor(owned) for name, owned in loaded.maps.items()}
        self._shared: dict[str, mmap.mmap] = {}
        self._unpackers: dict[str, list[Callable[[], tuple[int, ...]]]] = {}
        self._variables = loaded.variables

    def _descriptor(self, owned: Owned) -> Descriptor:
        return Descriptor(owned, functools.partial(_libbpf_programs.object_identity, self._lib))

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed its file descriptor."""
        return self._program.is_lost

    def variable(self, name: str) -> bytes:
        """The bytes of a global variable, as the program has set them."""
        assert self._variables is not None, "only COPY_TABLES has variables that are read"
        offset, size = self._variables.places[name]
        # libbpf before 1.4 does not update its own mapping at load, so the map is mapped here.
        fd, length = self._variables.memory.fileno(), self._variables.size
        with _libbpf_maps.map_memory(fd, length) as memory:
            return memory[offset : offset + size]

    def map(self, name: str, writable: bool = False) -> mmap.mmap:
        """Maps one of the maps whose sizes the program was loaded with into this process."""
        size = self._sizes[name]
        return self.map_part(name, 0, size.value_size * size.entries, writable)

    def map_beginning(self, name: str, size: int) -> mmap.mmap:
        """Maps the first bytes of a map for reading."""
        return _libbpf_maps.map_memory(self._maps[name].fd, size)

    def map_part(self, name: str, start: int, size: int, writable: bool = False) -> mmap.mmap:
        """Maps some pages of a map."""
        return _libbpf_maps.map_memory(self._maps[name].fd, size, writable, start=start)

    def shared_map(self, name: str) -> mmap.mmap:
        """The same, for reading, by one mapping for all users of this object."""
        if name not in self._shared:
            self._shared[name] = self.map(name)
        return self._shared[name]

    def unpackers(self, name: str, layout: str) -> list[Callable[[], tuple[int, ...]]]:
        """For each entry of a map, a function that unpacks its beginning. All users of this object
        share them, so the layout is the same for all."""
        if name not in self._unpackers:
            size, unpack = self._sizes[name], struct.Struct(layout).unpack_from
            self._unpackers[name] = [
                functools.partial(unpack, self.shared_map(name), entry * size.value_size)
                for entry in range(size.entries)
            ]
        return self._unpackers[name]

    def freeze(self, name: str) -> None:
        """From now on only programs change a map, and no process that has a descriptor of it."""
        self._lib.bpf_map_freeze(self._maps[name].fd)

    def size(self, name: str) -> MapSize:
        """The size of one of the maps, with the descriptor, for another program that uses it."""
        return self._sizes[name]._replace(fd=self._maps[name].fd)

    def fill(self, name: str, value: bytes) -> None:
        """Sets the first entry of a map."""
        size = self._sizes[name].value_size
        fd = self._maps[name].fd
        self._lib.bpf_map_update_elem(fd, bytes(4), value.ljust(size, b"\0"), 0)

    def pin_map(self, name: str, path: str) -> None:
        """Pins a map in a bpffs, where it outlives this object and this process."""
        self._lib.bpf_obj_pin(self._maps[name].fd, os.fsencode(path))

    def run(self) -> int:
        """Runs a syscall program once, and returns its return value."""
        return _libbpf_programs.test_run(self._lib, self.fd)

    def attach(self, cgroup_fd: int, order: int) -> Link:
        """Attaches the program to a cgroup iterator that starts at an open cgroup directory."""
        owned = _libbpf_programs.link_iterator(self._lib, self.fd, cgroup_fd, order)
        return Link(self, self._lib, self._descriptor(owned))

    def attach_to_tracepoint(self, name: str) -> Link:
        """Attaches the program to a raw tracepoint: from now on the kernel calls it there."""
        owned = self._lib.descriptor("bpf_raw_tracepoint_open", name.encode(), self.fd)
        return Link(self, self._lib, self._descriptor(owned))

    def attach_to_map(self, name: str) -> Link:
        """Attaches the program to an iterator over the entries of one of its maps."""
        owned = _libbpf_programs.link_map_iterator(self._lib, self.fd, self._maps[name].fd)
        return Link(self, self._lib, self._descriptor(owned))

    def close(self) -> None:
        """Unloads the program when its links are closed, too. Calling it again does nothing."""
        self._program.close()
        for each in self._maps.values():
            each.close()


class Link:
    """An iterator link. It keeps its program loaded, and its cgroup or its map from being freed."""

    def __init__(self, program: Program, lib: _libbpf.Libbpf, descriptor: Descriptor) -> None:
        self._program: Optional[Program] = program
        self._lib, self._descriptor = lib, descriptor
        self.fd = descriptor.fd

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed its file descriptor."""
        return self._descriptor.is_lost

    def pin(self, path: str) -> None:
        """Pins the link in a bpffs, where it outlives this object and this process."""
        self._lib.bpf_obj_pin(self.fd, os.fsencode(path))

    def close(self) -> None:
        """Detaches the link, unless it is pinned. Calling it again does nothing."""
        self._descriptor.close()
        self._program = None


class _Variables(Record):
    """A program's global variables: the map that holds them, its size, and where each is."""

    memory: Owned
    size: int
    places: dict[str, tuple[int, int]]


class _Loaded(Record):
    """A loaded program.

    Attributes:
        program: the descriptor of the program.
        maps: the descriptors of the maps whose sizes were given, by name.
        constants: the bytes of its constants.
        variables: the global variables of COPY_TABLES; None for other programs.
    """

    program: Owned
    maps: dict[str, Owned]
    constants: bytes
    variables: Optional[_Variables] = None


def _loaded(
    lib: _libbpf.Libbpf,
    name: str,
    constants: dict[str, bytes],
    maps: Mapping[str, MapSize],
    items: bytes,
) -> _Loaded:
    """Loads a program: from the result of an earlier load if there is one, from an object that
    needs nothing of libbpf's loader, or through libbpf."""
    file = _file_of(name, constants)
    before = _reload.lookup(file, name, items) or _read_alone(file, name, items)
    refusal: Optional[MemcgError] = None
    if before is not None:
        try:
            return _load_directly(lib, before, constants, maps)
        except MemcgError as error:
            if is_transient(error):
                raise load_error(error, file, "") from error
            refusal = refused_directly(error)
            # libbpf tries next, because its messages explain what is wrong.
    try:
        return _libbpf_log.run_with_log(
            lambda log: _load_object(lib, file, name, constants, maps, items, log)
        )
    except MemcgError as error:
        if refusal is not None and cannot_list_btf(error.log):
            raise refusal from error  # libbpf has got no further
        if not any(words in error.log for words in _MAP_WAS_NOT_MADE):
            raise
        lib = _libbpf.load_private_copy()
        return _libbpf_log.run_with_log(
            lambda log: _load_object(lib, file, name, constants, maps, items, log)
        )


def _read_alone(file: str, name: str, items: bytes) -> Optional[_reload.ReloadableProgram]:
    """A program that needs nothing of libbpf's loader; None if it needs that."""
    if name not in _ALONE:
        return None
    data = _with_items(_reload.object_of(file, read_object), items, file)
    try:
        program = _elf.read_program(data, name)
    except ValueError:
        return None  # libbpf will say what is wrong
    _reload.remember(file, items, program)
    return program


def _load_directly(
    lib: _libbpf.Libbpf,
    program: _reload.ReloadableProgram,
    constants: dict[str, bytes],
    maps: Mapping[str, MapSize],
) -> _Loaded:
    """Loads a program without libbpf's loader."""
    bss = program.maps.get(_reload.BSS) if program.name == COPY_TABLES else None
    sizes = dict(maps)
    if bss is not None:
        sizes[_reload.BSS] = MapSize(bss.value_size, bss.entries)
    with _libbpf_log.silence():
        cast = _casts.kernel_cast() if program.casts else None
        function = cast.function if cast else 0
        owned, made = program.load(lib, constants, sizes, function)
    variables = None
    if bss is not None:
        memory = made.pop(_reload.BSS)
        variables = _Variables(memory, bss.value_size, dict(program.variables))
    return _Loaded(owned, made, program.constants.with_values(constants), variables)


# What the kernel or an older libbpf says if libbpf has not created the map of constants. It leaves
# the map out if it believes that the kernel has no such maps. All kernels from 5.10 on have them,
# so its probe must have failed for another reason.
_MAP_WAS_NOT_MADE = ("is not pointing to valid bpf_map", "is referenced but wasn't created")


def _load_object(
    lib: _libbpf.Libbpf,
    file: str,
    name: str,
    constants: dict[str, bytes],
    maps: Mapping[str, MapSize],
    items: bytes,
    log: list[str],
) -> _Loaded:
    """Loads a program through libbpf.

    The descriptors are duplicated, and libbpf's object is closed here: later it would close its
    descriptors' numbers even if other files had them by then.
    """
    opened = _open(lib, file, items, log)
    try:
        return _Object(lib, opened).load(file, name, constants, maps, items)
    except MemcgError as error:
        raise load_error(error, file, "".join(log)) from error
    finally:
        lib.bpf_object__close(opened)


class _Object:
    """A ``struct bpf_object`` that is opened but not yet loaded."""

    def __init__(self, lib: _libbpf.Libbpf, opened: Any) -> None:
        self._lib, self._object = lib, opened

    def load(
        self,
        file: str,
        name: str,
        constants: dict[str, bytes],
        maps: Mapping[str, MapSize],
        items: bytes,
    ) -> _Loaded:
        """Loads one of its programs."""
        lib = self._lib
        program = self._choose(name)
        initial, address = self._constants()
        data = initial.with_values(constants)
        _libbpf.poke(address, data)
        self._prepare_maps(name, maps)
        lib.bpf_object__load(self._object)
        owned = duplicate(lib.bpf_program__fd(program))
        if name == COPY_TABLES:  # it runs once, so it is not kept for another load
            return _Loaded(owned, {}, data, self._variables())
        if name not in (WALK_DIR, *_OF_PINNED_TREES):
            # Those need the types of their functions, which libbpf does not tell.
            with contextlib.suppress(MemcgError):
                kept = _reload.capture(lib, name, self._object, program, initial)
                _reload.remember(file, items, kept)
        loaded_maps = {each: duplicate(lib.bpf_map__fd(self._map(each))) for each in maps}
        return _Loaded(owned, loaded_maps, data)

    def _choose(self, name: str) -> Any:
        """Selects the program of this name; no other will be loaded."""
        lib = self._lib
        for other in PROGRAMS:
            if _own_file(other) == _own_file(name):  # both are in the same object
                program = lib.bpf_object__find_program_by_name(self._object, other.encode())
                lib.bpf_program__set_autoload(program, other == name)
                if other == name:
                    wanted = program
        return wanted

    def _constants(self) -> tuple[_reload.Section, int]:
        """The constants as compiled, and the address where libbpf keeps them until the load."""
        _, (address, size), places = self._section(".rodata")
        return _reload.Section(_libbpf.peek(address, size), places), address

    def _variables(self) -> _Variables:
        bpf_map, (_, size), places = self._section(".bss")
        return _Variables(duplicate(self._lib.bpf_map__fd(bpf_map)), size, places)

    def _map(self, name: str) -> Any:
        return self._lib.bpf_object__find_map_by_name(self._object, name.encode())

    def _prepare_maps(self, program: str, maps: Mapping[str, MapSize]) -> None:
        lib = self._lib
        used = PROGRAMS[program]
        for name in {
            each
            for other, theirs in PROGRAMS.items()
            if _own_file(other) == _own_file(program)
            for each in theirs
        }:
            bpf_map = self._map(name)
            lib.bpf_map__set_autocreate(bpf_map, name in used)
            existing = maps[name].fd if name in maps else None
            if existing is not None:
                lib.bpf_map__reuse_fd(bpf_map, existing)
            elif name in maps:
                lib.bpf_map__set_value_size(bpf_map, maps[name].value_size)
                lib.bpf_map__set_max_entries(bpf_map, maps[name].entries)

    def _section(self, name: str) -> tuple[Any, tuple[int, int], dict[str, tuple[int, int]]]:
        """A section of global variables: its map, the address and size of its initial value, and
        the offset and size of each variable."""
        bpf_map = self._map(name)
        types = _btf.Types(self._lib, self._lib.bpf_object__btf(self._object))
        return bpf_map, _libbpf_maps.initial_value(self._lib, bpf_map), types.variables(name)


def _own_file(program: str) -> Optional[str]:
    """The object of a program that is in none of the two with all backends."""
    return TREE_FILE if program in _OF_PINNED_TREES else _ALONE.get(program)


def _file_of(program: str, constants: dict[str, bytes]) -> str:
    """The object file to load a program from.

    It is the one that names the fewest kernel functions, because libbpf searches for each of them.
    """
    own = _own_file(program)
    if own is not None:
        return own
    core = constants.get("backend") == u32(BACKEND_NUMBERS["core"])
    by_function = constants.get("flush") in (u32(FLUSH_KFUNC), u32(FLUSH_RFC))
    return CORE_FILE if core and not by_function else OBJECT_FILE


def read_object(file: Optional[str] = None) -> bytes:
    """The bytes of an installed BPF object; by default of the one that readers use.

    Raises:
        BpfObjectError: the file cannot be read.
    """
    file = OBJECT_FILE if file is None else file
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        if is_transient(error):
            raise shortage(f"the BPF object {file} cannot be read", error, "open") from error
        problem = f"the BPF object {file} cannot be read ({errno_text(error.errno or 0)})"
        remedy = "install pymemcgbpf again"
        package = os.path.dirname(os.path.dirname(os.path.dirname(file)))
        if os.path.exists(os.path.join(os.path.dirname(package), "setup.cfg")):
            problem = f"this source tree is not built: {problem}"
            remedy = (
                "build the source tree (pip install -e .), or use an installed pymemcgbpf in "
                "another directory"
            )
        raise BpfObjectError(problem, remedy=remedy, errno=error.errno, call="open") from error


def read_object_with(items: bytes, file: str) -> bytes:
    """The same, with instructions for compute_items() if there are any.

    Raises:
        BpfObjectError: the file cannot be read, or has no such function.
    """
    return _with_items(read_object(file), items, file)


def _with_items(data: bytes, items: bytes, file: str) -> bytes:
    try:
        return _elf.with_function(data, "compute_items", items) if items else data
    except ValueError as error:
        raise _damaged(file, error) from error


def _open(lib: _libbpf.Libbpf, file: str, items: bytes, log: list[str]) -> Any:
    data = read_object_with(items, file)
    try:
        return lib.bpf_object__open_mem(data, len(data), None)
    except MemcgError as error:
        raise _damaged(file, error, "".join(log)) from error


def _damaged(file: str, error: Exception, log: str = "") -> BpfObjectError:
    return BpfObjectError(
        f"the BPF object {file} is damaged ({error}): install pymemcgbpf again",
        errno=getattr(error, "errno", None),
        call=getattr(error, "call", ""),
        log=log,
    )
