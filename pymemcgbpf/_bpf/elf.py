# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads a program from an object file that needs nothing of libbpf's loader.

The objects that hold one program each have neither CO-RE relocations nor kernel functions. All that
must be relocated in them is where the instructions refer to maps and to global variables. libbpf's
loader probes the kernel for some twenty features first, which takes several times as long as to
load the program.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .bindings import libbpf_programs as _libbpf_programs
from .reload import BSS, RODATA, Array, ReloadableProgram, Section

# The name of a program's section → BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SYSCALL.
_TYPES = {"raw_tp": 17, "syscall": 31}

_READ_ONLY, _MAPPABLE = 1 << 7, 1 << 10  # BPF_F_RDONLY_PROG, BPF_F_MMAPABLE

_MAPS = ".maps"
# Elf64_Ehdr: from e_shoff on. Elf64_Shdr, Elf64_Sym, Elf64_Rel. Little-endian, as "bpfel" is.
_HEADER, _HEADER_AT = struct.Struct("<Q10xHHH"), 40
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QII")
_TO_MAP = 1  # R_BPF_64_64
_NO_BITS = 8  # SHT_NOBITS
_OBJECT, _FUNCTION = 1, 2  # STT_OBJECT, STT_FUNC

# Within a struct bpf_insn of BPF_LD | BPF_IMM | BPF_DW, which is two instructions long: the two
# registers, and the two immediates.
_REGISTERS, _IMMEDIATE, _SECOND_IMMEDIATE = 1, 4, 12
_MAP_FD, _MAP_VALUE = 1 << 4, 2 << 4  # in src_reg: BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE


class _Symbol(NamedTuple):
    name: str
    kind: int
    section: str
    at: int
    size: int


def read_program(data: bytes, name: str) -> ReloadableProgram:
    """Reads the program of an object that has no other program.

    Its maps, besides those of the global variables, are arrays that can be mapped and whose sizes
    are set before load.

    Raises:
        ValueError: it is no such object.
    """
    try:
        return _ElfFile(data).program(name)
    except (struct.error, LookupError) as error:
        raise ValueError(f"no object file with a program {name} alone: {error!r}") from error


class _ElfFile:
    """An object file."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no little-endian ELF file of 64 bits")
        self._data = data
        at, size, count, names = _HEADER.unpack_from(data, _HEADER_AT)
        headers = [_SECTION.unpack_from(data, at + size * each) for each in range(count)]
        name_at = headers[names][4]
        self._names = [self._string(name_at + header[0]) for header in headers]
        self._headers = dict(zip(self._names, headers))

    def program(self, name: str) -> ReloadableProgram:
        """Its program, ready to be loaded."""
        symbols = list(self._symbols())
        functions = {each.name: each.section for each in symbols if each.kind == _FUNCTION}
        if [*functions] != [name]:
            raise ValueError(f"it has not the program {name} alone, but {[*functions]}")
        section = functions[name]
        code = bytearray(self._bytes(section))
        uses = []
        for at, symbol in self._relocations(section, symbols):
            if symbol.section == _MAPS:
                code[at + _REGISTERS] |= _MAP_FD
                uses.append((at + _IMMEDIATE, symbol.name))
            elif symbol.section in (RODATA, BSS):
                code[at + _REGISTERS] |= _MAP_VALUE
                (addend,) = struct.unpack_from("<i", code, at + _IMMEDIATE)
                struct.pack_into("<i", code, at + _SECOND_IMMEDIATE, symbol.at + addend)
                uses.append((at + _IMMEDIATE, symbol.section))
            else:
                raise ValueError(f"it refers to {symbol.name or symbol.section}")
        constants, variables = (
            {
                each.name: (each.at, each.size)
                for each in symbols
                if (each.section, each.kind) == (wanted, _OBJECT)
            }
            for wanted in (RODATA, BSS)
        )
        initial = self._bytes(RODATA)
        arrays = {
            RODATA: Array(len(initial), 1, _READ_ONLY),
            BSS: Array(self._size(BSS), 1, _MAPPABLE),
        }
        return ReloadableProgram(
            name,
            _libbpf_programs.ProgramKind(_TYPES[section], 0, 0),
            bytes(code),
            tuple(uses),
            {each: arrays.get(each, Array(8, 1, _MAPPABLE)) for _, each in uses},
            Section(initial, constants),
            variables,
        )

    def _string(self, at: int) -> str:
        return self._data[at : self._data.index(b"\0", at)].decode()

    def _size(self, section: str) -> int:
        return int(self._headers[section][5]) if section in self._headers else 0

    def _bytes(self, section: str) -> bytes:
        _, kind, _, _, at, size, *_ = self._headers[section]
        if kind == _NO_BITS or at + size > len(self._data):
            raise ValueError(f"it has no {section}")
        return self._data[at : at + size]

    def _symbols(self) -> Iterator[_Symbol]:
        strings = self._headers[".strtab"][4]
        for name, info, _, section, at, size in _SYMBOL.iter_unpack(self._bytes(".symtab")):
            home = self._names[section] if section < len(self._names) else ""
            yield _Symbol(self._string(strings + name), info & 0xF, home, at, size)

    def _relocations(self, section: str, symbols: list[_Symbol]) -> Iterator[tuple[int, _Symbol]]:
        """Where the instructions of a section refer to a symbol, and to which."""
        for at, kind, symbol in _RELOCATION.iter_unpack(self._bytes(f".rel{section}")):
            if kind != _TO_MAP:
                raise ValueError(f"it has a relocation of the kind {kind}")
            yield at, symbols[symbol]
