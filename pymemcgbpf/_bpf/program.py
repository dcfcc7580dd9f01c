# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The BPF object: constants set, loaded, attached. Who holds what, and what can fail."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sys
from typing import Any, NamedTuple, Optional

from .. import _signals
from .._descriptors import Descriptor, Owned, duplicate, opened_at
from ..errors import (
    BpfObjectError,
    MemcgError,
    errno_text,
    is_transient,
    shortage,
)
from . import btf as _btf
from . import capabilities as _capabilities
from . import reload as _reload
from .bindings import libbpf as _libbpf
from .bindings import libbpf_log as _libbpf_log
from .bindings import libbpf_maps as _libbpf_maps
from .bindings import libbpf_programs as _libbpf_programs
from .load_errors import load_error
from .terms import BACKEND_NUMBERS, FLUSH_KFUNC, FLUSH_RFC, u32

_HERE = os.path.dirname(__file__)
OBJECT_FILE = os.path.join(_HERE, "objects", "memcg_stats.bpf.o")
CORE_FILE = os.path.join(_HERE, "objects", "memcg_stats_core.bpf.o")  # the same, for core alone
TABLES_FILE = os.path.join(_HERE, "objects", "index_tables.bpf.o")  # COPY_TABLES, alone

# The programs of the objects, and their maps: which program uses which.
STREAM = "memcg_stream"
SHARE = "memcg_share"
RUN_ONE = "memcg_run_one"
RUN_TREE = "memcg_run_tree"
COPY_TABLES = "copy_tables"
ROWS, SCRATCHES = "rows", "scratches"
PROGRAMS: dict[str, tuple[str, ...]] = {
    STREAM: (),
    SHARE: (ROWS,),
    RUN_ONE: (SCRATCHES,),
    RUN_TREE: (ROWS, SCRATCHES),
    COPY_TABLES: (),
}


class MapSize(NamedTuple):
    """How large a map is made."""

    value_size: int
    entries: int


class Program:
    """One program of the object, loaded with its constants, and its maps with their sizes.

    Through libbpf the first time in a process. What libbpf finds out for that takes most of
    the time and depends on the kernel alone: so the next one of the name is loaded from what
    it made of the first (_reload.py). Closed when its last user lets go of it, or by
    :meth:`close`.

    Raises:
        BpfObjectError, BpfPermissionError, VerifierError, and what
        :func:`_libbpf.load` raises.
    """

    def __init__(
        self, name: str, constants: dict[str, bytes], rows: Optional[MapSize] = None
    ) -> None:
        self._lib = _libbpf.load()
        _capabilities.check()
        _check_spare_descriptors()
        self.key = 0
        if name in (RUN_ONE, RUN_TREE):
            # Whoever runs it says the key: the descriptor's number may be another program's.
            key = os.urandom(8)
            self.key = int.from_bytes(key, sys.byteorder)
            constants = {**constants, "program_key": key}
        loaded = _signals.held_back(lambda: _loaded(self._lib, name, constants, rows))
        self.constants = loaded.constants
        self._program = self._descriptor(loaded.program)
        self.fd = self._program.fd
        self._rows = None if loaded.rows is None else self._descriptor(loaded.rows)
        self._variables = loaded.variables

    def _descriptor(self, owned: Owned) -> Descriptor:
        return Descriptor(owned, functools.partial(_libbpf_programs.object_identity, self._lib))

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed its descriptor."""
        return self._program.is_lost

    def variable(self, name: str) -> bytes:
        """A global variable's bytes, as the program left them."""
        assert self._variables is not None, "only COPY_TABLES has variables to be read"
        offset, size = self._variables.places[name]
        # A mapping of our own: libbpf before 1.4 leaves its one as it was before load.
        fd, length = self._variables.memory.fileno(), self._variables.size
        with _libbpf_maps.map_memory(fd, length) as memory:
            return memory[offset : offset + size]

    def map_rows(self, rows: MapSize) -> mmap.mmap:
        """The map of rows, to be read."""
        assert self._rows is not None, "only a program with a map of rows is asked for it"
        size = rows.value_size * rows.entries
        return _libbpf_maps.map_memory(self._rows.fd, size)

    def run(self) -> int:
        """Runs a syscall program once; returns what it returned."""
        return _libbpf_programs.test_run(self._lib, self.fd)

    def attach(self, cgroup_fd: int, order: int) -> Link:
        """A link to a cgroup iterator that starts at an open cgroup directory."""
        owned = _libbpf_programs.link_iterator(self._lib, self.fd, cgroup_fd, order)
        return Link(self, self._lib, self._descriptor(owned))

    def close(self) -> None:
        """Unloads the program, once its links are closed. Calling it again does nothing."""
        self._program.close()
        if self._rows is not None:
            self._rows.close()


class Link:
    """An iterator link. Keeps its program loaded, and its cgroup from being freed."""

    def __init__(self, program: Program, lib: _libbpf.Libbpf, descriptor: Descriptor) -> None:
        self._program: Optional[Program] = program
        self._lib, self._descriptor = lib, descriptor
        self.fd = descriptor.fd

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed its descriptor."""
        return self._descriptor.is_lost

    def pin(self, path: str) -> None:
        """Gives it a name in a bpffs, which keeps it beyond this object and this process."""
        self._lib.bpf_obj_pin(self.fd, os.fsencode(path))

    def close(self) -> None:
        """Detaches, unless it is pinned. Calling it again does nothing."""
        self._descriptor.close()
        self._program = None


class _Variables(NamedTuple):
    """A program's global variables: the map that holds them, its size, and where each is."""

    memory: Owned
    size: int
    places: dict[str, tuple[int, int]]


class _Loaded(NamedTuple):
    """A loaded program.

    Attributes:
        program: its descriptor.
        rows: that of its map of rows, if it has one.
        constants: what it was loaded with.
        variables: of COPY_TABLES.
    """

    program: Owned
    rows: Optional[Owned]
    constants: bytes
    variables: Optional[_Variables] = None


def _loaded(
    lib: _libbpf.Libbpf, name: str, constants: dict[str, bytes], rows: Optional[MapSize]
) -> _Loaded:
    """Loads a program, as it was loaded before in this process or else through libbpf."""
    file = _file_of(name, constants)
    before = _reload.lookup(file, name)
    if before is not None:
        try:
            with _libbpf_log.silence():
                program, rows_map = before.load(lib, constants, rows)
            return _Loaded(program, rows_map, before.constants.with_values(constants))
        except MemcgError as error:
            if is_transient(error):
                raise load_error(error, file, "") from error
            # Else libbpf's loader is to try: it has words for what is wrong.
    try:
        return _libbpf_log.run_with_log(
            lambda log: _load_object(lib, file, name, constants, rows, log)
        )
    except MemcgError as error:
        if not any(words in error.log for words in _MAP_WAS_NOT_MADE):
            raise
        lib = _libbpf.load_private_copy()
        return _libbpf_log.run_with_log(
            lambda log: _load_object(lib, file, name, constants, rows, log)
        )


# What the kernel says, and an older libbpf, of a program whose map of constants libbpf did not
# make: it does not where the kernel has no such maps. All that this package serves do.
_MAP_WAS_NOT_MADE = ("is not pointing to valid bpf_map", "is referenced but wasn't created")


def _load_object(
    lib: _libbpf.Libbpf,
    file: str,
    name: str,
    constants: dict[str, bytes],
    rows: Optional[MapSize],
    log: list[str],
) -> _Loaded:
    """Loads a program through libbpf, of which nothing but the descriptors is kept: it would
    close them whatever they are then."""
    opened = _open(lib, file, log)
    try:
        return _Object(lib, opened).load(file, name, constants, rows)
    except MemcgError as error:
        raise load_error(error, file, "".join(log)) from error
    finally:
        lib.bpf_object__close(opened)


class _Object:
    """A ``struct bpf_object`` that is open, not yet loaded."""

    def __init__(self, lib: _libbpf.Libbpf, opened: Any) -> None:
        self._lib, self._object = lib, opened

    def load(
        self, file: str, name: str, constants: dict[str, bytes], rows: Optional[MapSize]
    ) -> _Loaded:
        """Loads one of its programs."""
        lib = self._lib
        program = self._choose(name)
        initial, address = self._constants()
        data = initial.with_values(constants)
        _libbpf.poke(address, data)
        self._prepare_maps(name, rows)
        lib.bpf_object__load(self._object)
        owned = duplicate(lib.bpf_program__fd(program))
        if name == COPY_TABLES:  # which runs once, and is asked for its variables
            return _Loaded(owned, None, data, self._variables())
        with contextlib.suppress(MemcgError):
            _reload.remember(file, _reload.capture(lib, name, self._object, program, initial))
        rows_map = duplicate(lib.bpf_map__fd(self._map(ROWS))) if ROWS in PROGRAMS[name] else None
        return _Loaded(owned, rows_map, data)

    def _choose(self, name: str) -> Any:
        """The program of that name; no other will be loaded."""
        lib = self._lib
        for other in PROGRAMS:
            if (other == COPY_TABLES) == (name == COPY_TABLES):  # it is in this object
                program = lib.bpf_object__find_program_by_name(self._object, other.encode())
                lib.bpf_program__set_autoload(program, other == name)
                if other == name:
                    wanted = program
        return wanted

    def _constants(self) -> tuple[_reload.Section, int]:
        """The constants as they were compiled, and where they are to be set."""
        _, (address, size), places = self._section(".rodata")
        return _reload.Section(_libbpf.peek(address, size), places), address

    def _variables(self) -> _Variables:
        bpf_map, (_, size), places = self._section(".bss")
        return _Variables(duplicate(self._lib.bpf_map__fd(bpf_map)), size, places)

    def _map(self, name: str) -> Any:
        return self._lib.bpf_object__find_map_by_name(self._object, name.encode())

    def _prepare_maps(self, program: str, rows: Optional[MapSize]) -> None:
        lib = self._lib
        for name in (ROWS, SCRATCHES) if program != COPY_TABLES else ():
            bpf_map = self._map(name)
            lib.bpf_map__set_autocreate(bpf_map, name in PROGRAMS[program])
            if name == ROWS and rows is not None:
                lib.bpf_map__set_value_size(bpf_map, rows.value_size)
                lib.bpf_map__set_max_entries(bpf_map, rows.entries)

    def _section(self, name: str) -> tuple[Any, tuple[int, int], dict[str, tuple[int, int]]]:
        """A section of global variables: its map, where libbpf has its initial value
        (address, size), and variable's name → (offset, size)."""
        bpf_map = self._map(name)
        types = _btf.Types(self._lib, self._lib.bpf_object__btf(self._object))
        return bpf_map, _libbpf_maps.initial_value(self._lib, bpf_map), types.variables(name)


_DESCRIPTORS = 28  # what a reader takes while it is made (24 with libbpf 1.1)


def _check_spare_descriptors() -> None:
    """libbpf probes the kernel's features once per process: a probe that fails for want of
    file descriptors would count as a "no" for ever."""
    try:
        taken = [opened_at(os.devnull, os.O_RDONLY) for _ in range(_DESCRIPTORS)]
    except OSError as error:
        if not is_transient(error):
            return  # there is no /dev/null: nothing is known
        raise shortage(
            f"a BPF program cannot be loaded, which takes {_DESCRIPTORS} file descriptors for a "
            "moment (ulimit -n)",
            error,
            "open",
        ) from error
    for each in taken:
        each.close()


def _file_of(program: str, constants: dict[str, bytes]) -> str:
    """The object to load a program from: the one that names no more kernel functions than it
    needs, as each is looked for."""
    if program == COPY_TABLES:
        return TABLES_FILE
    core = constants.get("backend") == u32(BACKEND_NUMBERS["core"])
    by_function = constants.get("flush") in (u32(FLUSH_KFUNC), u32(FLUSH_RFC))
    return CORE_FILE if core and not by_function else OBJECT_FILE


def read_object(file: Optional[str] = None) -> bytes:
    """A BPF object, as it was installed; the one of the readers, if no other is named.

    Raises:
        BpfObjectError: there is none.
    """
    file = OBJECT_FILE if file is None else file
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        if is_transient(error):
            raise shortage(f"the BPF object {file} cannot be read", error, "open") from error
        what_to_do = "install pymemcgbpf again"
        package = os.path.dirname(os.path.dirname(os.path.dirname(file)))
        if os.path.exists(os.path.join(os.path.dirname(package), "setup.cfg")):
            what_to_do = (
                "this is the source tree, which holds none until it is built: use an installed "
                "pymemcgbpf from another directory, or pip install -e here"
            )
        raise BpfObjectError(
            f"the BPF object {file} cannot be read ({errno_text(error.errno or 0)}): {what_to_do}",
            errno=error.errno,
            call="open",
        ) from error


def _open(lib: _libbpf.Libbpf, file: str, log: list[str]) -> Any:
    data = read_object(file)
    try:
        return lib.bpf_object__open_mem(data, len(data), None)
    except MemcgError as error:
        raise BpfObjectError(
            f"the BPF object {file} is damaged ({error}): install pymemcgbpf again",
            errno=error.errno,
            call=error.call,
            log="".join(log),
        ) from error
