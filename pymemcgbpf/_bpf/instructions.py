# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Encodes BPF instructions, for code that this package writes itself."""

from __future__ import annotations

import struct
import sys

# struct bpf_insn: the operation, two registers of 4 bits, an offset, and an immediate number.
_INSTRUCTION = struct.Struct("=BBhi")
EXIT, CALL = 0x95, 0x85
LOAD_64 = 0x18  # an immediate number of 64 bits, two instructions long
LOAD, LOAD_32, LOAD_BYTE, STORE = 0x79, 0x61, 0x71, 0x7B
ADD, MULTIPLY, DIVIDE, OR, SHIFT_LEFT, SHIFT_RIGHT, MOVE = 0x07, 0x27, 0x37, 0x47, 0x67, 0x77, 0xB7
JUMP, JUMP_IF_EQUAL, JUMP_IF_ABOVE, JUMP_IF_NOT, JUMP_IF_AT_LEAST = 0x05, 0x15, 0x25, 0x55, 0x75
BY_REGISTER = 0x08  # the operand is a register instead of the immediate number

STACK = 10
"""The register with the end of the stack."""

# The numbers of helper functions.
PROBE_READ_KERNEL = 113  # bpf_probe_read_kernel(to, size, from)
FIND_BY_NAME_KIND = 167  # bpf_btf_find_by_name_kind(name, size, kind, flags)
_KFUNC = 2  # BPF_PSEUDO_KFUNC_CALL, in the place of the second register: a kernel function's number


def encode(operation: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    """One instruction."""
    registers = to | source << 4 if sys.byteorder == "little" else to << 4 | source
    return _INSTRUCTION.pack(operation, registers, offset, number)


def with_number(operation: int, to: int, number: int) -> bytes:
    """An operation with a register and an immediate number."""
    return encode(operation, to, number=number)


def with_register(operation: int, to: int, source: int) -> bytes:
    """An operation with two registers."""
    return encode(operation | BY_REGISTER, to, source)


def load_number(to: int, number: int) -> bytes:
    """Loads a number of 64 bits."""
    low, high = struct.unpack("<ii", struct.pack("<Q", number))
    return encode(LOAD_64, to, number=low) + encode(0, number=high)


def call_kernel(function: int) -> bytes:
    """Calls a function of the kernel by its number in BTF."""
    return encode(CALL, source=_KFUNC, number=function)
