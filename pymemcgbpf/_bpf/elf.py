# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF objects as ELF files, in which a function can be given other instructions before load."""

from __future__ import annotations

import struct
from typing import NamedTuple

# struct Elf64_Ehdr from e_shoff on, Elf64_Shdr and Elf64_Sym
_FILE_HEADER, _FILE_HEADER_AT = struct.Struct("=QI6H"), 40
_SECTION = struct.Struct("=IIQQQQIIQQ")
_SYMBOL = struct.Struct("=IBBHQQ")
_SYMBOL_TABLE = 2  # SHT_SYMTAB


class _Section(NamedTuple):
    """A struct Elf64_Shdr, and where it is in the file."""

    at: int
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def with_function(data: bytes, name: str, code: bytes) -> bytes:
    """An object with other instructions for one function, the last one of its section.

    The section moves to the end of the file, where it has room to grow.

    Raises:
        ValueError: the object has no such function, or others come after it.
    """
    try:
        return _with_function(data, name.encode(), code)
    except (struct.error, IndexError, StopIteration, ValueError) as error:
        raise ValueError(f"its function {name} cannot be replaced: {error}") from error


def _with_function(data: bytes, name: bytes, code: bytes) -> bytes:
    start, _, _, _, _, size, count, _ = _FILE_HEADER.unpack_from(data, _FILE_HEADER_AT)
    sections = [
        _Section(at, *_SECTION.unpack_from(data, at))
        for at in range(start, start + count * size, size)
    ]
    symbols = next(section for section in sections if section.type == _SYMBOL_TABLE)
    names = sections[symbols.link].offset
    for at in range(symbols.offset, symbols.offset + symbols.size, _SYMBOL.size):
        name_at, info, other, index, value, length = _SYMBOL.unpack_from(data, at)
        name_at += names
        if data[name_at : data.index(b"\0", name_at)] == name:
            break
    else:
        raise ValueError("there is none")
    section = sections[index]
    if value + length != section.size:
        raise ValueError("it is not the last one")
    result = bytearray(data)
    result += bytes(-len(result) % 8)
    moved = section._replace(offset=len(result), size=value + len(code))
    result += data[section.offset : section.offset + value] + code
    _SYMBOL.pack_into(result, at, name_at - names, info, other, index, value, len(code))
    _SECTION.pack_into(result, section.at, *moved[1:])
    return bytes(result)
