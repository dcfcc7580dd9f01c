# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The ways in which a BPF program walks a tree and fills a map with rows."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import Callable, Union

from .. import _fork, _wire
from .._bpf import program as _program
from .._bpf import run_dir as _run_dir
from .._bpf import walk_dir as _walk_dir
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup.directory import Cgroup
from .._records import Record
from ..errors import BackendUnavailableError, MemcgError
from . import links as _links
from . import one_bpf as _one_bpf
from . import one_values as _one_values

MapSizes = dict[str, _program.MapSize]


class Setup(Record):
    """How the program of a walker is loaded.

    Attributes:
        order: the order in which the kernel walks, of enum bpf_cgroup_iter_order.
        constants: the program's constants.
        items: the instructions of its compute_items(), if it has that function.
    """

    order: int
    constants: dict[str, bytes]
    items: bytes = b""


class _MapWalker:
    """What all walkers have: a loaded program and its two maps, which this process has mapped."""

    def __init__(self, name: str, setup: Setup, maps: MapSizes) -> None:
        self._program = _program.Program(name, setup.constants, maps, setup.items)
        self.rows = self._program.map(_program.ROWS)
        self.names = self._program.map(_program.NAMES, writable=True)

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        return self._program.is_lost

    def close(self) -> None:
        """Releases the program. Calling it again does nothing."""
        self._program.close()
        _unmap(self.rows)
        _unmap(self.names)


class IteratorWalker(_MapWalker):
    """Walks by an iterator link. The kernel holds cgroup_mutex during the walk."""

    by_iterator = True
    can_flush = True
    counts_depth = False

    @staticmethod
    def setup(plan: ReadPlan, flush: int, order: int, cgroup: Cgroup) -> Setup:
        """How the program is loaded for an order of rows.

        Args:
            plan: what it reads.
            flush: how the program flushes, a ``FLUSH_*`` of terms.py.
            order: the order of the rows, of enum bpf_cgroup_iter_order.
            cgroup: the root of the walk.
        """
        order, more = _links.walk_order(order, cgroup)
        return Setup(order, {**plan.constants(flush, order), **more})

    def __init__(self, setup: Setup, maps: MapSizes, cgroup: Cgroup) -> None:
        super().__init__(_program.SHARE, setup, maps)
        self._link = _links.attach(self._program, cgroup, setup.order)
        self._new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        self._link_number = _libbpf_programs.ObjectNumber(self._link.fd)

    def walk(self) -> int:
        """Fills the maps, and returns the number of rows, even if not all of them fitted."""
        if self._link_number.is_lost():  # the other link would fill its own map
            raise _one_values.another_reader_s()
        data = _links.read_iterator(self._new_iterator, _read_header_and_trailer)
        return _wire.decode_trailer(data).nr_rows

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        return self._link.is_lost or super().is_lost

    def close(self) -> None:
        """Detaches the link. Calling it again does nothing."""
        self._new_iterator.close()
        self._link.close()
        super().close()


_HEADER_AND_TRAILER = _wire.header_size(_wire.MAX_ITEMS) + _wire.TRAILER.size


def _read_header_and_trailer(iterator: int) -> bytes:
    return os.read(iterator, _HEADER_AND_TRAILER)


class RunWalker(_MapWalker):
    """Walks by running a program, under RCU. It holds no reference to any cgroup."""

    by_iterator = False
    can_flush = True
    counts_depth = False
    setup = staticmethod(IteratorWalker.setup)

    def __init__(self, setup: Setup, maps: MapSizes, cgroup: Cgroup) -> None:
        constants = {**setup.constants, "calls_loop": bytes([True])}
        super().__init__(_program.RUN_TREE, setup._replace(constants=constants), maps)
        program = self._program
        self._path, self._identity = cgroup.path, cgroup.identity
        self._call = bytearray(_wire.CALL.size)
        _wire.CALL.pack_into(self._call, 0, cgroup.id, program.key, _wire.NOT_RUN, 0)
        self._run = _libbpf_programs.runner(program.fd, self._call)

    def walk(self) -> int:
        """Fills the maps, and returns the number of rows, even if not all of them fitted."""
        while True:
            error = self._run()
            if error:
                raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
            _, _, status, count = _wire.CALL.unpack_from(self._call)
            if status == _wire.DONE:
                return int(count)
            if status == _wire.GONE:
                raise _diagnosis.why_not_found(self._path, self._identity)
            if status == _wire.OTHER:
                raise _one_values.another_reader_s()
            if status != _wire.BUSY:
                raise MemcgError(f"the kernel's cgroup walk failed (status {status})")
            time.sleep(_one_bpf.BUSY_SECONDS)

    def close(self) -> None:
        """Releases the program. Calling it again does nothing."""
        self._run = _one_values.closed_run
        super().close()


MAX_LEVELS = 1024
"""How many levels the program of DirWalker can remember, that of the root among them."""

FORKED = -1
"""What walk() returns instead of a number of rows in a child that a signal handler has forked."""


class DirWalker(_MapWalker):
    """Walks by running a program that finds the walk's root by its open directory, under RCU.

    It holds no reference to any cgroup. A call of the program walks for a millisecond, because no
    other task runs on its CPU meanwhile.
    """

    by_iterator = False
    can_flush = False
    counts_depth = True  # from the root of the walk, and not of the hierarchy

    @staticmethod
    def setup(plan: ReadPlan, flush: int, order: int, cgroup: Cgroup) -> Setup:
        """See :meth:`IteratorWalker.setup`."""
        return Setup(order, *_walk_dir.computing(plan, order))

    def __init__(self, setup: Setup, maps: MapSizes, cgroup: Cgroup) -> None:
        super().__init__(_program.WALK_DIR, setup, maps)
        program = self._program
        self._path, self._identity = cgroup.path, cgroup.identity
        arguments = (cgroup.fd, cgroup.id, program.key)
        begin = _libbpf_programs.ArgumentRunner(program.fd, (*arguments, 0))
        resume = _libbpf_programs.ArgumentRunner(program.fd, (*arguments, 1))
        self._begin: Callable[[], int] = begin.run
        self._resume: Callable[[], int] = resume.run
        self._begun, self._resumed = begin.returned, resume.returned

    def walk(self) -> int:
        """Fills the maps, and returns the number of rows, even if not all of them fitted.

        FORKED stands for a walk that goes on in the parent: a signal handler has forked.
        """
        generation = _fork.generation
        error, returned = self._begin(), self._begun
        while True:
            if error:
                raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
            result = returned[0]
            if result < _walk_dir.MORE:
                return result
            if result != _walk_dir.MORE:
                raise self._explain(result - _run_dir.FAILED)
            if _fork.generation != generation:
                return FORKED
            error, returned = self._resume(), self._resumed

    def _explain(self, status: int) -> MemcgError:
        if status == _wire.OTHER:
            return _one_values.another_reader_s()
        if status == _wire.NOT_OPEN:
            return _diagnosis.why_not_open(self._path, self._identity)
        if status == _wire.TOO_DEEP:
            return BackendUnavailableError(
                f"the tree goes more than {MAX_LEVELS - 1} levels below {self._path}, which is as "
                "deep as the transport run can walk; shared and text walk all of it, and a "
                f"max_depth of {MAX_LEVELS - 1} or less leaves out the others"
            )
        return MemcgError(f"the walk of the cgroups failed (status {status})")

    def close(self) -> None:
        """Releases the program. Calling it again does nothing."""
        self._begin = self._resume = _one_values.closed_run
        super().close()


Walker = Union[IteratorWalker, RunWalker, DirWalker]


def _unmap(memory: mmap.mmap) -> None:
    with contextlib.suppress(
        BufferError
    ):  # a view still uses it; it is unmapped with the last view
        memory.close()
