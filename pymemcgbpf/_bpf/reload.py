# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Programs as libbpf has relocated them for the running kernel, kept to be loaded again.

libbpf reads the kernel's BTF, which has megabytes, and searches it for each structure and function
that a program names. This takes some 20 ms, and its result, the final instructions, is the same for
every load of the program. Only the constants, which are in a map, and the sizes of the maps differ.
So the instructions are kept, and loaded again with other maps.

The exception is a program that reaches bpf_loop(), for derived.effective_limit in a tree that
backend "kfunc" reads by "run": the kernel refuses a callback without its BTF, which is not kept,
and libbpf loads the program anew.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from typing import Any, Callable, Optional, Protocol

from .._descriptors import Owned
from .._records import Record
from ..errors import MemcgError
from . import instructions as _code
from .bindings import libbpf as _libbpf
from .bindings import libbpf_maps as _libbpf_maps
from .bindings import libbpf_programs as _libbpf_programs

# libbpf does not report these. Every program in bpf_src/ has this licence, and the sections
# "iter.s/cgroup" and "syscall" make a program sleepable.
LICENCE = "Dual BSD/GPL"
SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
_RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT

RODATA, BSS = ".rodata", ".bss"
_MAPS = (RODATA, BSS, "rows", "names", "scratches", "answers")


class Section(Record):
    """The constants of an object.

    Attributes:
        initial: the bytes of the section, as compiled.
        places: the offset and size of each constant, by name.
    """

    initial: bytes
    places: dict[str, tuple[int, int]]

    def with_values(self, constants: Mapping[str, bytes]) -> bytes:
        """The bytes with some constants set.

        Raises:
            MemcgError: there is no such constant, or the value is too large for it.
        """
        data = bytearray(self.initial)
        for name, value in constants.items():
            if name not in self.places:
                raise MemcgError(f"it has no {name}")
            offset, size = self.places[name]
            if len(value) > size:
                raise MemcgError(f"its {name} holds {size} bytes, not {len(value)}")
            data[offset : offset + len(value)] = value
        return bytes(data)


class Size(Protocol):
    """The size of a map, a program.MapSize."""

    @property
    def value_size(self) -> int:
        """The size of an entry in bytes."""

    @property
    def entries(self) -> int:
        """The number of entries."""

    @property
    def type(self) -> int:
        """Its type, of enum bpf_map_type."""


class Loaded(Record):
    """A loaded program, and the maps whose sizes were given, by name."""

    program: Owned
    maps: dict[str, Owned]


ARRAY, PERCPU_ARRAY, RING_BUFFER = 2, 6, 27  # of enum bpf_map_type


class MapKind(Record):
    """The attributes of a map in the object."""

    value_size: int
    entries: int
    flags: int
    type: int = ARRAY


class ReloadableProgram(Record):
    """A program that libbpf has loaded, or that needs nothing of libbpf's loader (elf.py).

    Attributes:
        name: its name.
        kind: what the kernel must be told to load it.
        code: its instructions.
        uses: where the instructions have the descriptor of a map, and the name of that map.
        maps: the maps that it uses, by name.
        constants: the section of constants.
        variables: the offset and size of each other global variable, by name, if they are known.
        types: the types of its functions; None if the kernel does not need them.
        casts: where it calls bpf_rdonly_cast(), if the kernel has that.
    """

    name: str
    kind: _libbpf_programs.ProgramKind
    code: bytes
    uses: tuple[tuple[int, str], ...]
    maps: dict[str, MapKind]
    constants: Section
    variables: Mapping[str, tuple[int, int]] = {}
    types: Optional[_libbpf_programs.FunctionTypes] = None
    casts: tuple[int, ...] = ()

    def load(
        self,
        lib: _libbpf.Libbpf,
        constants: Mapping[str, bytes],
        sizes: Mapping[str, Size],
        cast: int = 0,
    ) -> Loaded:
        """Loads the program with these constants, and with maps of these sizes. *cast* is the
        number of the kernel's bpf_rdonly_cast(), or 0."""
        data = self.constants.with_values(constants)
        made: dict[str, Owned] = {}
        for name, kind in self.maps.items():
            if name in sizes:
                size = sizes[name]
                flags = kind.flags if size.type == ARRAY else 0
                kind = MapKind(size.value_size, size.entries, flags, size.type)
            made[name] = _libbpf_maps.create_map(lib, name, *kind)
        if RODATA in made:
            _libbpf_maps.set_and_freeze(lib, made[RODATA].fileno(), data)
        code = bytearray(self.code)
        for at, name in self.uses:
            _IMMEDIATE.pack_into(code, at, made[name].fileno())
        if cast:
            call = _code.call_kernel(cast)
            for at in self.casts:
                code[at : at + len(call)] = call
        flags = 0 if self.kind.type == _RAW_TRACEPOINT else SLEEPABLE
        program = _libbpf_programs.load_program(
            lib, self.name, LICENCE, flags, self.kind, bytes(code), self.types
        )
        # The program holds references to its maps.
        return Loaded(program, {name: made[name] for name in sizes})


# The programs by object file and name, each with its instructions for the items.
_kept: dict[tuple[str, str], tuple[bytes, ReloadableProgram]] = {}


def lookup(file: str, name: str, items: bytes) -> Optional[ReloadableProgram]:
    """The program of this name from an object file, with these instructions for the items; None if
    it was not kept."""
    kept = _kept.get((file, name))
    return kept[1] if kept is not None and kept[0] == items else None


def remember(file: str, items: bytes, program: Optional[ReloadableProgram]) -> None:
    """Keeps a program, in place of one with other instructions for the items; None is ignored."""
    if program is not None:
        _kept[file, program.name] = items, program


# Objects by their files: a daemon may have changed its root since, or the package been upgraded.
_objects: dict[str, bytes] = {}


def object_of(file: str, read: Callable[[str], bytes]) -> bytes:
    """The bytes of an object file, which is read once."""
    if file not in _objects:
        _objects[file] = read(file)
    return _objects[file]


def forget() -> None:
    """Drops all kept programs and objects."""
    _kept.clear()
    _objects.clear()


def capture(
    lib: _libbpf.Libbpf, name: str, loaded: Any, program: Any, constants: Section
) -> Optional[ReloadableProgram]:
    """A program as libbpf has loaded it; None if it cannot be loaded again.

    Args:
        lib: the library.
        name: the name of the program.
        loaded: the ``struct bpf_object``.
        program: the ``struct bpf_program``.
        constants: the section of constants, as compiled.
    """
    kind = _libbpf_programs.program_kind(lib, program)
    if kind.expected_attach_type and not kind.attach_btf_id:
        return None
    code = _libbpf_programs.instructions(lib, program)
    used = {fd for _, fd in _descriptors(code)}
    names, maps = {}, {}
    for map_name in _MAPS:
        fd = -1
        with contextlib.suppress(MemcgError):  # the object has no such map, or does not use it
            bpf_map = lib.bpf_object__find_map_by_name(loaded, map_name.encode())
            fd = int(lib.bpf_map__fd(bpf_map))
        if fd in used:
            names[fd] = map_name
            maps[map_name] = MapKind(
                lib.bpf_map__value_size(bpf_map),
                lib.bpf_map__max_entries(bpf_map),
                lib.bpf_map__map_flags(bpf_map),
            )
    if used != names.keys():
        return None
    uses = tuple((at, names[fd]) for at, fd in _descriptors(code))
    return ReloadableProgram(name, kind, code, uses, maps, constants)


# struct bpf_insn: code, the two registers, offset, immediate
_INSTRUCTION = struct.Struct("=BBhi")
_IMMEDIATE, _IMMEDIATE_AT = struct.Struct("=i"), 4
_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW, two instructions long
_MAP_FD, _MAP_VALUE = 1, 2  # in src_reg: BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE


def _descriptors(code: bytes) -> list[tuple[int, int]]:
    """The offset of each map descriptor in the instructions, and the descriptor."""
    return [
        (_INSTRUCTION.size * at + _IMMEDIATE_AT, immediate)
        for at, (operation, registers, _, immediate) in enumerate(_INSTRUCTION.iter_unpack(code))
        if operation == _LOAD_64 and registers >> 4 in (_MAP_FD, _MAP_VALUE)
    ]
