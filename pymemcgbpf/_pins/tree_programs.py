# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The map of a pinned tree, and the BPF programs that write it. See bpf_src/pinned_tree.h."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Optional, Union

from .. import _options, _wire
from .._bpf import btf as _btf
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_maps as _libbpf_maps
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import KERNEL_REFRESH, NEW_WORK, PUBLISH
from .._bpf.plan import ReadPlan
from .._cgroup.directory import Cgroup
from .._records import Record
from .._sources import links as _links
from ..errors import BackendUnavailableError, MemcgError, errno_text
from . import transaction as _transaction
from . import tree_layout as _layout

_TIMER_SIZE = 32  # of struct clock in bpf_src/pinned_tree.bpf.c
# Where the kernel allocates the timer, it may not wait for memory, and so it can fail by chance.
_ATTEMPTS, _PAUSE = 10, 0.01


class TreeMap:
    """The map of a pinned tree, with its iterator, whose output is the stream.

    Args:
        head: what never changes in the map.
        root_path: the path of the walk's root for readers; b"" if they shall not see names.
    """

    def __init__(self, head: _layout.Head, root_path: bytes) -> None:
        self.head = head
        geometry = head.geometry
        self.constants = {
            "chunk_size": _terms.u32(geometry.chunk_size),
            "half_chunks": _terms.u32(geometry.half_chunks),
            "rows_per_chunk": _terms.u32(geometry.rows_per_chunk),
        }
        size = _program.MapSize(geometry.chunk_size, geometry.chunks)
        self._program = _program.Program(
            _program.TREE_STREAM, self.constants, {_program.TREE: size}
        )
        with contextlib.ExitStack() as opened:
            opened.callback(self._program.close)
            self.size = self._program.size(_program.TREE)
            self._program.fill(_program.TREE, _layout.encode_head(head, root_path))
            self._program.freeze(_program.TREE)
            self._stream = self._program.attach_to_map(_program.TREE)
            opened.callback(self._stream.close)
            self._memory = self._program.map_beginning(_program.TREE, _layout.HEAD_SIZE)
            opened.pop_all()

    @property
    def progress(self) -> _layout.Progress:
        """What changes in the head with each walk."""
        return _layout.decode_progress(self._memory)

    def pin_stream(self, path: str) -> None:
        """Pins the iterator, so that the map can be read as a plain file."""
        self._stream.pin(path)

    def pin_map(self, path: str) -> None:
        """Pins the map."""
        self._program.pin_map(_program.TREE, path)

    def close(self) -> None:
        """Closes the descriptors. What is pinned stays. Calling it again does nothing."""
        self._stream.close()
        self._program.close()
        self._memory.close()


class KernelRefresh:
    """The program that makes the kernel walk a tree at an interval.

    Args:
        tree: the map that the kernel writes.
        plan: the items, and how they are read.
        flush: how the program flushes, a ``FLUSH_*`` of terms.py.
        cgroup: the root of the walk, on cgroup v2.
        max_level: cgroups of a higher level have no rows; None for all.
    """

    def __init__(
        self,
        tree: TreeMap,
        plan: ReadPlan,
        flush: int,
        cgroup: Cgroup,
        max_level: Optional[int],
    ) -> None:
        self._cgroup = cgroup
        head = tree.head
        order, more = head.order, {}
        if order == _options.CHILDREN:
            order, more = _options.PRE, {"children_of": _terms.u64(cgroup.id)}
        if max_level is not None:
            more["max_level"] = _terms.u32(min(max_level, _layout.NO_DEPTH))
        constants = {
            **plan.constants(flush, order),
            **tree.constants,
            **more,
            "root_id": _terms.u64(cgroup.id),
            "interval_ns": _terms.u64(head.interval_ns),
            "with_names": bytes([bool(head.flags & _layout.HAS_NAMES)]),
            "calls_loop": bytes([True]),
            "sets_by_impl": bytes([not NEW_WORK.is_in(_btf.kernel())]),
        }
        maps = {_program.TREE: tree.size, _program.TIMER: _program.MapSize(_TIMER_SIZE, 1)}
        self._program = _program.Program(_program.TREE_START, constants, maps)

    def pin_timer(self, path: str) -> None:
        """Pins the map with the timer, which then goes on when this process has ended."""
        self._program.pin_map(_program.TIMER, path)

    def start(self) -> None:
        """Starts the timer. The first walk begins at once. The timer runs until its map is closed
        here and not pinned, or no longer.

        Raises:
            MemcgError: the kernel refuses it.
        """
        link = _links.attach(self._program, self._cgroup, _options.SELF)
        try:
            new_iterator = _libbpf_programs.IteratorMaker(link.fd)
            for attempt in range(_ATTEMPTS):
                said = _links.read_iterator(new_iterator, lambda fd: os.read(fd, mmap.PAGESIZE))
                error = -struct.unpack("=q", said)[0] if said else errno.ENOENT
                if error != errno.ENOMEM:
                    break
                time.sleep(_PAUSE * attempt)
        finally:
            link.close()
        if error:
            raise MemcgError(
                f"the kernel does not start the timer of a pinned tree: {errno_text(error)}",
                errno=error,
                call="bpf_timer_start",
            )

    def close(self) -> None:
        """Closes the descriptors. What is pinned stays. Calling it again does nothing."""
        self._program.close()


def check_kernel() -> None:
    """Raises unless trees can be pinned on this kernel, whoever refreshes them.

    Raises:
        BackendUnavailableError: the kernel is too old, or has no BTF.
    """
    types = _btf.kernel()
    if not PUBLISH.is_in(types):
        raise BackendUnavailableError(PUBLISH.explain(types))


def why_not_by_kernel(cgroup: Cgroup) -> str:
    """Why the kernel cannot refresh a pinned tree of a cgroup; "" if it can."""
    if cgroup.version == 1:
        return "the kernel refreshes trees of cgroup v2 only"
    types = _btf.kernel()
    return "" if KERNEL_REFRESH.is_in(types) else KERNEL_REFRESH.explain(types)


class Walk(Record):
    """A walk of user space that is to be published.

    Attributes:
        rows: the rows, adjacent.
        nr_rows: their number.
        text: their names.
        root_path: the path of the root, or b"" without names.
        signature: the same if the rows are of the same cgroups with the same names.
        started_ns: CLOCK_MONOTONIC when the walk began.
        ended_ns: the same, when it ended.
    """

    rows: Union[memoryview, bytearray]
    nr_rows: int
    text: _layout.Text
    root_path: bytes
    signature: int
    started_ns: int
    ended_ns: int


class Publisher:
    """The program with which a process writes the map of a pinned tree."""

    def __init__(self, tree: TreeMap) -> None:
        self._tree = tree
        head = tree.head
        constants = {
            **tree.constants,
            "header": _wire.encode_header(head.item_numbers, head.order),
        }
        self._program = _program.Program(
            _program.TREE_PUBLISH, constants, {_program.TREE: tree.size}
        )
        self._call = bytearray(_layout.WALK.size)
        self._run = _libbpf_programs.runner(self._program.fd, self._call)

    def fits(self, walk: Walk) -> bool:
        """Whether the map has room for a walk."""
        geometry = self._tree.head.geometry
        return geometry.row_chunks(walk.nr_rows) + walk.text.chunks <= geometry.half_chunks

    def publish(self, walk: Walk, due_ns: int) -> None:
        """Publishes a walk that fits.

        Raises:
            MemcgError: the kernel was short of memory, or refuses it.
        """
        path = walk.root_path.ljust(_layout.PATH_SIZE, b"\0")
        # The addresses are valid as long as the objects are.
        addresses = [
            _libbpf_maps.address_of(each) if len(each) else 0
            for each in (walk.rows, walk.text.data, path)
        ]
        self._write(
            *addresses,
            walk.started_ns,
            walk.ended_ns,
            due_ns,
            walk.signature,
            walk.nr_rows,
            walk.text.chunks,
            _layout.ALIVE,
        )

    def tell(
        self, state: int, rows: int = 0, times: Iterable[int] = (0, 0), due_ns: int = 0
    ) -> None:
        """Changes the state without publishing a walk: TOO_LARGE with its rows, or that the tree or
        its holder is gone."""
        self._write(0, 0, 0, *times, due_ns, 0, rows, 0, state)

    def _write(self, *fields: int) -> None:
        _layout.WALK.pack_into(self._call, 0, self._program.key, *fields, _wire.NOT_RUN)
        error = self._run()
        if error:
            raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
        status = _layout.WALK.unpack_from(self._call)[-1]
        if status != _wire.DONE:
            raise MemcgError(f"a walk of a pinned tree could not be published (status {status})")

    def close(self) -> None:
        """Closes the descriptors. Calling it again does nothing."""
        self._program.close()


def pin_files(
    made: _transaction.PinTransaction,
    directory: int,
    tree: TreeMap,
    mode: int,
    refresh: Optional[KernelRefresh],
) -> tuple[str, ...]:
    """Pins everything, in an order in which whatever is there after a crash can be recognised: the
    stream first, the timer last. Returns the names of the files."""
    files = [
        (_layout.STREAM, tree.pin_stream, mode & 0o444),
        (_layout.MAP, tree.pin_map, map_mode(mode)),
    ]
    if refresh is not None:
        files.append((_layout.TIMER, refresh.pin_timer, 0o600))
    for name, pin, bits in files:
        made.file(_transaction.Place(directory, name), pin, bits)
    return tuple(name for name, _, _ in files)


def map_mode(mode: int) -> int:
    """The permissions of the map's file for those that may read.

    The kernel lets nobody map the map who may not write its file, too. That is no danger, because
    the map is frozen. But where every user may load BPF programs, their programs could write it: so
    only the owner may open it there.
    """
    mode &= 0o444 if not _everybody_may_load_programs() else 0o400
    return mode | mode >> 1


def _everybody_may_load_programs() -> bool:
    try:
        with open("/proc/sys/kernel/unprivileged_bpf_disabled", encoding="ascii") as file:
            return file.read().strip() == "0"
    except OSError:  # no program may be loaded, or nobody knows
        return False
