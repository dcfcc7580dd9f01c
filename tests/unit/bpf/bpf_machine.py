# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A machine that runs the BPF instructions of _bpf/item_code.py, on memory that a test makes.

It knows no function but bpf_probe_read_kernel() and bpf_rdonly_cast(), and no jumps back.
"""

from __future__ import annotations

import struct
import sys

from pymemcgbpf._bpf.casts import Cast

MASK = (1 << 64) - 1
STACK_SIZE = 512
_INSTRUCTION = struct.Struct("=BBhi")
_CLASS, _ALU_64, _JUMP, _FROM_REGISTER = 0x07, 0x07, 0x05, 0x08
_LOAD_64, _LOAD, _LOAD_BYTE, _STORE, _CALL, _EXIT = 0x18, 0x79, 0x71, 0x7B, 0x85, 0x95
_PROBE_READ_KERNEL = 113
CAST = Cast(7001, 7002)
"""The kernel's cast. It makes an address one from which a load gives 0 if nothing is there."""
_CASTED = 1 << 62  # what such an address is marked with
_UNSET = None


class Memory:
    """Regions of memory by their addresses. Reading anywhere else fails, as in the kernel."""

    def __init__(self) -> None:
        self._regions: dict[int, bytearray] = {}

    def add(self, address: int, data: bytes) -> None:
        self._regions[address] = bytearray(data)

    def region(self, address: int, size: int) -> tuple[bytearray, int]:
        """The region with these bytes, and the offset in it.

        Raises:
            LookupError: there is none.
        """
        for start, data in self._regions.items():
            if start <= address and address + size <= start + len(data):
                return data, address - start
        raise LookupError(f"no memory at {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        data, at = self.region(address, size)
        return bytes(data[at : at + size])

    def read_or_zeros(self, address: int, size: int) -> bytes:
        try:
            return self.read(address, size)
        except LookupError:
            return bytes(size)

    def write(self, address: int, value: bytes) -> None:
        data, at = self.region(address, len(value))
        data[at : at + len(value)] = value


def run(code: bytes, arguments: list[int], kernel: Memory, own: Memory) -> int:
    """Runs a function from its instructions, and returns its result.

    Args:
        code: the instructions.
        arguments: the values of R1 and the following registers.
        kernel: the memory that bpf_probe_read_kernel(), and loads after a cast, read.
        own: the memory that the function itself may read and write, besides its stack.
    """
    stack = 1 << 40
    own.add(stack, bytes(STACK_SIZE))
    registers: list[int | None] = [_UNSET, *arguments]
    registers += [_UNSET] * (10 - len(registers)) + [stack + STACK_SIZE]

    def value_of(register: int) -> int:
        value = registers[register]
        assert value is not None, f"R{register} is read before it is set"
        return value

    at = 0
    instructions = list(_INSTRUCTION.iter_unpack(code))
    while True:
        operation, pair, offset, number = instructions[at]
        at += 1
        to, source = (pair & 15, pair >> 4) if sys.byteorder == "little" else (pair >> 4, pair & 15)
        if operation == _EXIT:
            assert at == len(instructions), "instructions that nothing reaches are refused"
            return value_of(0)
        if operation == _LOAD_64:
            _, _, _, high = instructions[at]
            at += 1
            registers[to] = number & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32
        elif operation in (_LOAD, _LOAD_BYTE):
            address, size = value_of(source) + offset, 8 if operation == _LOAD else 1
            if address & _CASTED:
                assert offset == 0, "what follows a word may be outside of the type"
                data = kernel.read_or_zeros(address - _CASTED, size)
            else:
                data = own.read(address, size)
            registers[to] = int.from_bytes(data, sys.byteorder)
        elif operation == _STORE:
            own.write(value_of(to) + offset, value_of(source).to_bytes(8, sys.byteorder))
        elif operation == _CALL and source:
            assert (source, number, value_of(2)) == (2, CAST.function, CAST.type)
            registers[:6] = [value_of(1) % _CASTED | _CASTED, *[_UNSET] * 5]
        elif operation == _CALL:
            assert number == _PROBE_READ_KERNEL
            size = value_of(2)
            try:
                data, result = kernel.read(value_of(3), size), 0
            except LookupError:
                data, result = bytes(size), -14 & MASK
            own.write(value_of(1), data)
            registers[:6] = [result, *[_UNSET] * 5]
        elif operation & _CLASS == _JUMP:
            assert offset >= 0, "a jump back may be a loop"
            operand = value_of(source) if operation & _FROM_REGISTER else number
            if operation == _JUMP or _compared(operation & 0xF0, value_of(to), operand):
                at += offset
        else:
            assert operation & _CLASS == _ALU_64, f"unknown instruction {operation:#x}"
            operand = value_of(source) if operation & _FROM_REGISTER else number & MASK
            before = operand if operation & 0xF0 == 0xB0 else value_of(to)
            registers[to] = _computed(operation & 0xF0, before, operand) & MASK


def _compared(operation: int, value: int, operand: int) -> bool:
    if operation == 0x10:
        return value == operand & MASK
    if operation == 0x20:
        return value > operand & MASK
    if operation == 0x50:
        return value != operand & MASK
    assert operation == 0x70, f"unknown comparison {operation:#x}"
    return _signed(value) >= _signed(operand & MASK)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _computed(operation: int, value: int, operand: int) -> int:
    if operation == 0x00:
        return value + operand
    if operation == 0x20:
        return value * operand
    if operation == 0x30:
        return value // operand
    if operation == 0x40:
        return value | operand
    if operation == 0x50:
        return value & operand
    if operation == 0x60:
        return value << operand
    if operation == 0xA0:
        return value ^ operand
    if operation == 0xB0:
        return operand
    assert operation == 0xC0, f"unknown operation {operation:#x}"
    return _signed(value) >> operand
