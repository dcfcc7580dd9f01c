# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The numbers of the kernel's functions in its BTF, and programs that are written here.

The kernel finds a function in a millisecond. In the bytes of its BTF the functions come last.
"""

from __future__ import annotations

import sys

from .._descriptors import Owned
from . import instructions as _code
from .bindings import libbpf as _libbpf
from .bindings import libbpf_programs as _libbpf_programs
from .reload import LICENCE, SLEEPABLE

_SYSCALL = 31  # BPF_PROG_TYPE_SYSCALL
_BTF_KIND_FUNC = 12


def number_of(function: str) -> int:
    """The number of a function of the kernel; 0 if there is none.

    Raises:
        MemcgError: the program that finds it cannot be loaded or run.
    """
    lib = _libbpf.load()
    finder = load_code(lib, "find_function", _SYSCALL, _finder(function), flags=SLEEPABLE)
    try:
        return _libbpf_programs.test_run(lib, finder.fileno())
    finally:
        finder.close()


def load_code(
    lib: _libbpf.Libbpf,
    name: str,
    program_type: int,
    code: bytes,
    *,
    attach_type: int = 0,
    attach_to: int = 0,
    flags: int = 0,
) -> Owned:
    """Loads a program of a few instructions, without maps, and returns the owner of its descriptor.

    Args:
        lib: the library.
        name: the name of the program.
        program_type: of enum bpf_prog_type.
        code: the instructions.
        attach_type: of enum bpf_attach_type, where the type needs it.
        attach_to: the number of the function that it is attached to, likewise.
        flags: ``BPF_F_*``.
    """
    kind = _libbpf_programs.ProgramKind(program_type, attach_type, attach_to)
    return _libbpf_programs.load_program(lib, name, LICENCE, flags, kind, code)


def _finder(function: str) -> bytes:
    """A program that returns the number of the function, or 0."""
    name = function.encode() + b"\0"
    words = [
        int.from_bytes(name[at : at + 8].ljust(8, b"\0"), sys.byteorder)
        for at in range(0, len(name), 8)
    ]
    code = []
    for at, word in enumerate(words):
        code += [
            _code.load_number(1, word),
            _code.encode(_code.STORE, _code.STACK, 1, 8 * (at - len(words))),
        ]
    code += [
        _code.with_register(_code.MOVE, 1, _code.STACK),
        _code.with_number(_code.ADD, 1, -8 * len(words)),
        _code.with_number(_code.MOVE, 2, len(name)),
        _code.with_number(_code.MOVE, 3, _BTF_KIND_FUNC),
        _code.with_number(_code.MOVE, 4, 0),
        _code.encode(_code.CALL, number=_code.FIND_BY_NAME_KIND),
        # The result is a negative errno, or a number of the kernel's BTF, or one of a module's with
        # a descriptor of that in the upper half.
        _code.with_register(_code.MOVE, 1, 0),
        _code.with_number(_code.SHIFT_RIGHT, 1, 31),
        _code.encode(_code.JUMP_IF_EQUAL, 1, offset=1, number=0),
        _code.with_number(_code.MOVE, 0, 0),
        _code.encode(_code.EXIT),
    ]
    return b"".join(code)
