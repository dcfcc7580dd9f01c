# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Object files: a function gets other instructions, and a program is read to be loaded as it is.

libbpf's loader probes the kernel for some twenty features first, which takes several times as long
as to load a program. The objects that hold one program each need nothing of it: they have no CO-RE
relocations, and of the kernel's functions they use bpf_rdonly_cast() at most. All that must be
relocated in them is where the instructions refer to maps, to global variables, to that function,
and to the function whose instructions this package writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

from .._records import Record
from . import instructions as _code
from .bindings import libbpf_programs as _libbpf_programs
from .casts import FUNCTION as _CAST
from .reload import BSS, RODATA, MapKind, ReloadableProgram, Section

# The name of a program's section → BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SYSCALL.
_TYPES = {"raw_tp": 17, "syscall": 31}

_READ_ONLY, _MAPPABLE = 1 << 7, 1 << 10  # BPF_F_RDONLY_PROG, BPF_F_MMAPABLE

_MAPS, _TEXT = ".maps", ".text"
# Elf64_Ehdr: e_shoff, and from e_shentsize on. Elf64_Shdr, Elf64_Sym, Elf64_Rel. Little-endian, as
# "bpfel" is.
_HEADER, _HEADER_AT = struct.Struct("<Q10xHHH"), 40
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QII")
_TO_MAP, _CALL = 1, 10  # R_BPF_64_64, R_BPF_64_32
_NO_BITS = 8  # SHT_NOBITS
_OBJECT, _FUNCTION = 1, 2  # STT_OBJECT, STT_FUNC

_INSTRUCTION_SIZE = 8
# Within a struct bpf_insn of BPF_LD | BPF_IMM | BPF_DW, which is two instructions long: the two
# registers, and the two immediates.
_REGISTERS, _IMMEDIATE, _SECOND_IMMEDIATE = 1, 4, 12
_MAP_FD, _MAP_VALUE = 1 << 4, 2 << 4  # in src_reg: BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE


class _Symbol(Record):
    entry: int  # where it is in the file
    name: str
    kind: int
    binding: int  # 0 for a static function
    other: int  # not 0 for a hidden one
    section: str
    at: int
    size: int

    @property
    def is_function(self) -> bool:
        """Whether it is a function of this object, and not one of the kernel."""
        return self.kind == _FUNCTION and bool(self.section)


def with_function(data: bytes, name: str, code: bytes) -> bytes:
    """An object with other instructions for one function, the last one of its section.

    The section moves to the end of the file, where it has room to grow.

    Raises:
        ValueError: the object has no such function, or others come after it.
    """
    try:
        return _ElfFile(data).with_function(name, code)
    except (struct.error, LookupError, ValueError) as error:
        raise ValueError(f"its function {name} cannot be replaced: {error}") from error


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
        entries = range(at, at + size * count, size)
        headers = [_SECTION.unpack_from(data, entry) for entry in entries]
        name_at = headers[names][4]
        self._names = [self._string(name_at + header[0]) for header in headers]
        self._headers = dict(zip(self._names, headers))
        self._entries = dict(zip(self._names, entries))

    def with_function(self, name: str, code: bytes) -> bytes:
        """The file with other instructions for a function."""
        (symbol,) = (each for each in self._symbols() if each.name == name)
        section = self._bytes(symbol.section)
        if symbol.at + symbol.size != len(section):
            raise ValueError("it is not the last one of its section")
        result = bytearray(self._data)
        result += bytes(-len(result) % 8)
        header = [*self._headers[symbol.section]]
        header[4:6] = len(result), symbol.at + len(code)
        _SECTION.pack_into(result, self._entries[symbol.section], *header)
        result += section[: symbol.at] + code
        entry = [*_SYMBOL.unpack_from(result, symbol.entry)]
        _SYMBOL.pack_into(result, symbol.entry, *entry[:-1], len(code))
        return bytes(result)

    def program(self, name: str) -> ReloadableProgram:
        """Its program, ready to be loaded."""
        symbols = list(self._symbols())
        functions = {each.name: each.section for each in symbols if each.is_function}
        programs = [each for each, section in functions.items() if section != _TEXT]
        if programs != [name]:
            raise ValueError(f"it has not the program {name} alone, but {programs}")
        section = functions[name]
        sections = [section, *([_TEXT] if _TEXT in self._headers else [])]
        code, uses, casts = self._linked(sections, symbols)
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
            RODATA: MapKind(len(initial), 1, _READ_ONLY),
            BSS: MapKind(self._size(BSS), 1, _MAPPABLE),
        }
        return ReloadableProgram(
            name,
            _libbpf_programs.ProgramKind(_TYPES[section], 0, 0),
            code,
            uses,
            {each: arrays.get(each, MapKind(8, 1, _MAPPABLE)) for _, each in uses},
            Section(initial, constants),
            variables,
            self._function_types(section, symbols),
            casts,
        )

    def _linked(
        self, sections: list[str], symbols: list[_Symbol]
    ) -> tuple[bytes, tuple[tuple[int, str], ...], tuple[int, ...]]:
        """The instructions of some sections, one after the other, where they use which map, and
        where the calls of bpf_rdonly_cast() are."""
        starts, code = {}, bytearray()
        for section in sections:
            starts[section] = len(code)
            code += self._bytes(section)
        uses, casts = [], []
        for section in sections:
            for at, kind, symbol in self._relocations(section, symbols):
                at += starts[section]
                if kind == _TO_MAP and symbol.section == _MAPS:
                    code[at + _REGISTERS] |= _MAP_FD
                    uses.append((at + _IMMEDIATE, symbol.name))
                elif kind == _TO_MAP and symbol.section in (RODATA, BSS):
                    code[at + _REGISTERS] |= _MAP_VALUE
                    (addend,) = struct.unpack_from("<i", code, at + _IMMEDIATE)
                    struct.pack_into("<i", code, at + _SECOND_IMMEDIATE, symbol.at + addend)
                    uses.append((at + _IMMEDIATE, symbol.section))
                elif kind == _CALL and symbol.section in starts:
                    # A call says how many instructions it goes on from the next one. Here it counts
                    # from the symbol.
                    (number,) = struct.unpack_from("<i", code, at + _IMMEDIATE)
                    target = starts[symbol.section] + symbol.at
                    number += (target - at) // _INSTRUCTION_SIZE
                    struct.pack_into("<i", code, at + _IMMEDIATE, number)
                elif kind == _CALL and symbol.name == _CAST:
                    # Without it, its first argument is its result.
                    code[at : at + _INSTRUCTION_SIZE] = _code.with_register(_code.MOVE, 0, 1)
                    casts.append(at)
                else:
                    what = symbol.name or symbol.section
                    raise ValueError(f"it refers to {what} by a relocation of kind {kind}")
        return bytes(code), tuple(uses), tuple(casts)

    def _function_types(
        self, section: str, symbols: list[_Symbol]
    ) -> Optional[_libbpf_programs.FunctionTypes]:
        """The types of the functions, as far as the kernel needs them: it verifies a function that
        is not static by itself, by its type. A hidden function counts as static."""
        functions = sorted(
            ((each.section != section, each.at), each.name, each.other, each.binding)
            for each in symbols
            if each.is_function
        )
        visible = [name for _, name, other, binding in functions if binding and not other]
        if len(visible) < 2:
            return None
        length = len(self._bytes(section))
        btf, numbers = _plain_btf(bytearray(self._bytes(".BTF")), {*visible})
        return _libbpf_programs.FunctionTypes(
            btf,
            tuple(
                ((length * behind + at) // _INSTRUCTION_SIZE, numbers[name])
                for (behind, at), name, _, _ in functions
            ),
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
        strings, start = self._headers[".strtab"][4], self._headers[".symtab"][4]
        for number, each in enumerate(_SYMBOL.iter_unpack(self._bytes(".symtab"))):
            name, info, other, section, at, size = each
            home = self._names[section] if section < len(self._names) else ""
            entry = start + number * _SYMBOL.size
            text = self._string(strings + name)
            yield _Symbol(entry, text, info & 0xF, info >> 4, other, home, at, size)

    def _relocations(
        self, section: str, symbols: list[_Symbol]
    ) -> Iterator[tuple[int, int, _Symbol]]:
        """Where the instructions of a section refer to a symbol, in which way, and to which."""
        if f".rel{section}" not in self._headers:
            return
        for at, kind, symbol in _RELOCATION.iter_unpack(self._bytes(f".rel{section}")):
            yield at, kind, symbols[symbol]


# struct btf_header; struct btf_type: the offset of the name, the kind and more, the size or a type
_BTF_HEADER, _BTF_TYPE = struct.Struct("<HBB5I"), struct.Struct("<III")
# How many bytes follow a type of each kind, and how many for each of its members.
_INT, _POINTER, _STRUCT, _FUNC, _VAR, _DATASEC = 1, 2, 4, 12, 14, 15
_EXTERN = 2  # BTF_FUNC_EXTERN
_MORE = {_INT: 4, 3: 12, _VAR: 4, 17: 4}
_EACH = {_STRUCT: 12, 5: 12, 6: 8, 13: 8, _DATASEC: 12, 19: 12}


def _plain_btf(btf: bytearray, visible: set[str]) -> tuple[bytes, dict[str, int]]:
    """BTF as the kernel takes it, and the numbers of the functions' types.

    The compiler does not know where variables will be. So a variable becomes an integer of a byte,
    and a section of variables a structure of such ones. Functions that are not *visible* become
    static. Functions of the kernel, whose arguments have no names here, become pointers to nothing.
    """
    _, _, _, header, types, size, names, _ = _BTF_HEADER.unpack_from(btf)
    at, end, names = header + types, header + types + size, header + names
    functions: dict[str, int] = {}
    kernel_s: set[int] = set()
    number = integer = 0
    while at < end:
        number += 1
        name, info, other = _BTF_TYPE.unpack_from(btf, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        members = at + _BTF_TYPE.size
        if kind == _FUNC and count == _EXTERN:
            _BTF_TYPE.pack_into(btf, at, 0, _POINTER << 24, 0)
            kernel_s.add(number)
        elif kind == _FUNC:
            text = btf[names + name : btf.index(b"\0", names + name)].decode()
            functions[text] = number
            _BTF_TYPE.pack_into(btf, at, name, _FUNC << 24 | (text in visible), other)
        elif kind == _VAR:
            _BTF_TYPE.pack_into(btf, at, name, _INT << 24, 1)
            struct.pack_into("<I", btf, members, 8)  # bits
            integer = number
        elif kind == _DATASEC:
            _BTF_TYPE.pack_into(btf, at, 0, _STRUCT << 24 | count, 1)
            for each in range(members, members + 12 * count, 12):
                (variable,) = struct.unpack_from("<I", btf, each)
                if variable in kernel_s:
                    variable = integer
                struct.pack_into("<III", btf, each, 0, variable, 0)
        at = members + _MORE.get(kind, 0) + _EACH.get(kind, 0) * count
    return bytes(btf), functions
