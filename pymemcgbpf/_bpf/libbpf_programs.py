# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""BPF programs, links and iterators: loaded, run, created and identified."""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import struct
from collections.abc import Sequence
from ctypes import c_int, c_uint32, c_uint64
from typing import Any, Callable, Optional

from .._descriptors import Identity, Owned, owned
from .._records import Record
from . import libbpf as _libbpf

TRACE_ITER = 28  # enum bpf_attach_type: BPFTRACE_ITER


# --- programs -------------------------------------------------------------------------


class ProgramKind(Record):
    """What the kernel must be told to load a program, besides its instructions."""

    type: int
    expected_attach_type: int
    attach_btf_id: int


def program_kind(lib: _libbpf.Libbpf, program: Any) -> ProgramKind:
    """The kind of a program that is loaded, as libbpf and the kernel report it."""
    info = _libbpf.ProgInfo()
    size = c_uint32(ctypes.sizeof(info))
    fd = lib.bpf_program__fd(program)
    lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    return ProgramKind(
        lib.bpf_program__type(program),
        lib.bpf_program__expected_attach_type(program),
        info.attach_btf_id,
    )


def instructions(lib: _libbpf.Libbpf, program: Any) -> bytes:
    """A program's instructions. Once it is loaded, libbpf's relocations are applied to them."""
    count = lib.bpf_program__insn_cnt(program)
    return ctypes.string_at(lib.bpf_program__insns(program), 8 * count)


class FunctionTypes(Record):
    """The types of a program's functions.

    Attributes:
        btf: a BTF with these types.
        functions: a struct bpf_func_info for each function, in the order of the instructions: the
            index of its first instruction, and the number of its type.
    """

    btf: bytes
    functions: tuple[tuple[int, int], ...]


_FUNC_INFO = struct.Struct("=II")


def load_program(
    lib: _libbpf.Libbpf,
    name: str,
    licence: str,
    flags: int,
    kind: ProgramKind,
    code: bytes,
    types: Optional[FunctionTypes] = None,
) -> Owned:
    """Loads a program from its instructions, and returns the owner of its descriptor."""
    options = _libbpf.ProgLoadOpts(
        sz=ctypes.sizeof(_libbpf.ProgLoadOpts),
        expected_attach_type=kind.expected_attach_type,
        prog_flags=flags,
        attach_btf_id=kind.attach_btf_id,
    )
    if types is not None:
        btf = lib.descriptor("bpf_btf_load", types.btf, len(types.btf), None)
        functions = b"".join(_FUNC_INFO.pack(*each) for each in types.functions)
        memory = ctypes.create_string_buffer(functions, len(functions))
        options.prog_btf_fd = btf.fileno()
        options.func_info = ctypes.addressof(memory)
        options.func_info_cnt = len(types.functions)
        options.func_info_rec_size = _FUNC_INFO.size
    return lib.descriptor(
        "bpf_prog_load",
        kind.type,
        name.encode(),
        licence.encode(),
        code,
        len(code) // 8,
        ctypes.byref(options),
    )


def test_run(lib: _libbpf.Libbpf, program_fd: int) -> int:
    """Runs a syscall program once, without a context, and returns its return value."""
    options = _libbpf.TestRunOpts(sz=ctypes.sizeof(_libbpf.TestRunOpts))
    lib.bpf_prog_test_run_opts(program_fd, ctypes.byref(options))
    return int(options.retval)


def runner(program_fd: int, context: bytearray) -> Callable[[], int]:
    """A function that runs a syscall program, which reads and writes *context*. The function
    returns 0 or -errno."""
    # As long as this object lives, Python cannot move the bytearray.
    memory = (ctypes.c_char * len(context)).from_buffer(context)
    return _run_with(program_fd, _run_options(memory))


def _run_options(context: Any) -> Any:
    """The options of a run with a context, a ctypes object that lives as long as they do."""
    options = _libbpf.TestRunOpts(
        sz=ctypes.sizeof(_libbpf.TestRunOpts),
        ctx_in=ctypes.addressof(context),
        ctx_size_in=ctypes.sizeof(context),
    )
    options.memory = context
    return options


def _run_with(program_fd: int, options: _libbpf.TestRunOpts) -> Callable[[], int]:
    run = _libbpf.untyped("bpf_prog_test_run_opts")
    return functools.partial(run, c_int.from_param(program_fd), ctypes.byref(options))


class ArgumentRunner:
    """Runs a raw tracepoint's program, each time with the same arguments.

    Attributes:
        run: a function that runs it and returns 0 or -errno.
        returned: its element 0 is what the program has returned.
    """

    def __init__(self, program_fd: int, arguments: Sequence[int]) -> None:
        self._options = options = _run_options((c_uint64 * len(arguments))(*arguments))
        at = _libbpf.TestRunOpts.retval.offset
        self.returned = memoryview(options).cast("B")[at : at + 4].cast("I")
        self.run = _run_with(program_fd, options)

    def close(self) -> None:
        """Makes further calls fail, whatever program has the descriptor's number by then: none
        takes so large a context. A call may have begun already that has not reached the kernel."""
        self._options.ctx_size_in = (1 << 32) - 1


# --- links and iterators --------------------------------------------------------------


def link_iterator(lib: _libbpf.Libbpf, program_fd: int, cgroup_fd: int, order: int) -> Owned:
    """Links a program to a cgroup iterator that starts at one cgroup, and returns the owner of the
    link's descriptor."""
    if cgroup_fd <= 0:  # For the kernel, descriptor 0 means the whole hierarchy.
        raise ValueError(f"cgroup_fd must be above 0, not {cgroup_fd}")
    return _link(lib, program_fd, _libbpf.IterLinkInfo(order=order, cgroup_fd=cgroup_fd))


def link_map_iterator(lib: _libbpf.Libbpf, program_fd: int, map_fd: int) -> Owned:
    """Links a program to an iterator over a map's elements, and returns the owner of the link's
    descriptor."""
    return _link(lib, program_fd, _libbpf.IterLinkInfo(map_fd=map_fd))


def _link(lib: _libbpf.Libbpf, program_fd: int, info: _libbpf.IterLinkInfo) -> Owned:
    options = _libbpf.LinkCreateOpts(
        sz=ctypes.sizeof(_libbpf.LinkCreateOpts),
        iter_info=ctypes.pointer(info),
        iter_info_len=ctypes.sizeof(info),
    )
    return lib.descriptor("bpf_link_create", program_fd, 0, TRACE_ITER, ctypes.byref(options))


class IteratorMaker:
    """bpf_iter_create() for one link, for the hot path."""

    def __init__(self, link_fd: int) -> None:
        self._link_fd = c_int(link_fd)
        create = _libbpf.unchecked_descriptor("bpf_iter_create")
        # One call of next() creates an iterator and its owner, without Python code in between.
        self._owners = owned(map(create, itertools.repeat(self._link_fd)))

    def __call__(self) -> Owned:
        """Creates an iterator, and returns the owner of its descriptor.

        Raises:
            MemcgError: the call failed.
        """
        try:
            return next(self._owners)
        except OverflowError:  # It failed; see Libbpf.descriptor().
            return _libbpf.load().descriptor("bpf_iter_create", self._link_fd)

    def close(self) -> None:
        """Makes further calls fail, since the link's number may soon belong to another file."""
        self._link_fd.value = -1


# --- identity -------------------------------------------------------------------------


def object_identity(lib: _libbpf.Libbpf, fd: int) -> Identity:
    """What tells a link, a map or a program apart from all others.

    Raises:
        MemcgError: the descriptor belongs to none of them.
    """
    info = _libbpf.ObjectInfo()
    size = c_uint32(ctypes.sizeof(info))
    lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    return info.type, info.id


class ObjectNumber:
    """The kernel's number of a link, a map or a program, to be checked often, on the hot path."""

    def __init__(self, fd: int) -> None:
        self._info = _libbpf.ObjectInfo()
        self._size = c_uint32(ctypes.sizeof(_libbpf.ObjectInfo))
        self._ask = functools.partial(
            _libbpf.unchecked("bpf_obj_get_info_by_fd"),
            c_int(fd),
            ctypes.pointer(self._info),
            ctypes.pointer(self._size),
        )
        self._number = self._now()

    def _now(self) -> Optional[int]:
        error = self._ask()
        if error in (-errno.EBADF, -errno.EBADFD, -errno.EINVAL):
            return -1
        return None if error else int(self._info.id)

    def is_lost(self) -> bool:
        """Whether the descriptor is closed or belongs to another object by now; False if the kernel
        does not tell."""
        return self._now() not in (self._number, None)
