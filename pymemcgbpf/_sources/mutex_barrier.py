# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Waits until the kernel has done with changes of the tree of cgroups that have begun."""

from __future__ import annotations

import contextlib
import functools
import os

from .. import _options
from .._bpf import function_numbers as _function_numbers
from .._bpf import instructions as _code
from .._bpf import load_checks as _load_checks
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.load_errors import load_error
from .._cgroup.directory import Cgroup
from .._descriptors import Descriptor
from ..errors import BackendUnavailableError, MemcgError
from . import links as _links

_TRACING = 26  # BPF_PROG_TYPE_TRACING
_FUNCTION = "bpf_iter_cgroup"


class MutexBarrier:
    """Waits for whoever holds cgroup_mutex, such as an rmdir(2) of a cgroup that has begun.

    The kernel takes cgroup_mutex when a cgroup iterator begins. The program of this one does
    nothing.

    Args:
        cgroup: any cgroup, to which a reference is held.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        lib = _libbpf.load()
        _load_checks.check()
        identity = functools.partial(_libbpf_programs.object_identity, lib)
        with contextlib.ExitStack() as made:
            try:
                number = _function_numbers.number_of(_FUNCTION)
                if not number:
                    raise BackendUnavailableError(f"this kernel has no {_FUNCTION}()")
                program = _function_numbers.load_code(
                    lib,
                    "memcg_barrier",
                    _TRACING,
                    _code.with_number(_code.MOVE, 0, 0) + _code.encode(_code.EXIT),
                    attach_type=_libbpf_programs.TRACE_ITER,
                    attach_to=number,
                )
            except BackendUnavailableError:
                raise
            except MemcgError as error:
                raise load_error(error, "", "") from error
            made.callback(program.close)
            owned = _links.explained(
                cgroup,
                lambda: _libbpf_programs.link_iterator(
                    lib, program.fileno(), cgroup.fd, _options.SELF
                ),
            )
            self._link = Descriptor(owned, identity)
            self._new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)

    def wait(self) -> None:
        """Takes the mutex once. Releases the GIL."""
        _links.read_iterator(self._new_iterator, _read)

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed its file descriptor."""
        return self._link.is_lost

    def close(self) -> None:
        """Detaches the link. Calling it again does nothing."""
        self._new_iterator.close()
        self._link.close()


def _read(iterator: int) -> bytes:
    return os.read(iterator, 1)
