# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cgroups that are removed below one cgroup, which the kernel writes into a ring buffer."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import threading
from typing import Optional

from .. import _fork, _items, _wire
from .._bpf import btf as _btf
from .._bpf import departures as _departures
from .._bpf import program as _program
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import DEPARTED
from .._bpf.plan import Planner, ReadPlan, Terms, is_flushed
from .._cgroup.directory import Cgroup
from .._records import Record
from ..errors import BackendUnavailableError, BpfPermissionError, MemcgError
from . import one_values as _one_values
from . import slot_discovery as _slot_discovery
from .mutex_barrier import MutexBarrier

CGROUPS = 10_000
"""For how many removed cgroups there is room between two reads, if the relative path of each has
:data:`PATH_SIZE` bytes on average. Often there is room for more."""

PATH_SIZE = 100


class Records(Record):
    """Removed cgroups.

    Attributes:
        rows: their rows.
        removed_ns: when each was removed, as 64-bit words.
        paths: the path of each, relative to the root; None if it is not known.
        lost: how many others there were.
        end: where the next record will be in the ring buffer.
    """

    rows: bytes
    removed_ns: bytes
    paths: list[Optional[str]]
    lost: int
    end: int


class Departures:
    """Sees which cgroups are removed below one cgroup, from the moment when it is made.

    Args:
        cgroup: the cgroup, which is open.
        names: the names of the items that are read.
        plan: how the reader reads them.
        max_depth: how many levels below the cgroup; None for all.
        waits: whether :meth:`take` waits for removals that have begun, because the walk before it
            has not.

    Raises:
        BackendUnavailableError: this kernel cannot tell.
        MemcgError: the program cannot be loaded or attached; a subclass says why.
    """

    def __init__(
        self,
        cgroup: Cgroup,
        names: tuple[str, ...],
        plan: ReadPlan,
        max_depth: Optional[int],
        *,
        waits: bool,
    ) -> None:
        types = _btf.kernel()
        if not DEPARTED.is_in(types):
            raise BackendUnavailableError(DEPARTED.explain(types))
        self._arguments = names, plan, max_depth, waits
        self._link: Optional[_program.Link] = None
        # Where the next record is, and how many had no room so far. The kernel has the first one in
        # the page that it shares with this process, but so does a forked child.
        self._at = self._lost_before = 0
        self._generation = _fork.generation
        own = _plan_of(cgroup, names, plan, types)
        self._record = _Record(names, tuple(own.terms))
        self._room = _departures.Room.for_cgroups(CGROUPS, len(own.terms), PATH_SIZE)
        with contextlib.ExitStack() as made:
            self._program = _departures.load(own, cgroup.id, max_depth, self._room)
            made.callback(self._program.close)
            page, ring = mmap.PAGESIZE, _program.DEPARTURES
            # The kernel maps the records twice, one after the other, so that none is in two parts.
            memory = self._program.map_part(ring, 0, page, writable=True)
            made.callback(memory.close)
            # A store into it is one of a whole word, which the kernel reads meanwhile.
            self._consumer = memoryview(memory)[:8].cast("Q")
            made.callback(self._consumer.release)
            self._records = self._program.map_part(ring, page, page + 2 * self._room.size)
            made.callback(self._records.close)
            self._lost = self._program.map(_program.NR_LOST)
            made.callback(self._lost.close)
            self._barrier = MutexBarrier(cgroup) if waits else None
            if self._barrier is not None:
                made.callback(self._barrier.close)
            _fork.detach_in_child(self)
            self._link = _attached(self._program)
            made.callback(self._link.close)
            self._link_number = _libbpf_programs.ObjectNumber(self._link.fd)
            self._close = made.pop_all()

    def _detach_in_child(self) -> None:
        """Closes the child's descriptor of the link, so that nothing stays attached when the parent
        closes its own."""
        if self._link is not None:
            self._link.close()

    def is_of_this_process(self) -> bool:
        """Whether it was made by this process, and not by one that has forked it."""
        return self._generation == _fork.generation

    def again(self, cgroup: Cgroup) -> Departures:
        """Another one for a child, which sees removals from now on."""
        names, plan, max_depth, waits = self._arguments
        return Departures(cgroup, names, plan, max_depth, waits=waits)

    def take(self) -> Records:
        """The cgroups that were removed since :meth:`done` was called last.

        A cgroup that a walk before this call has not met any more, because its removal had begun,
        is among them.

        Raises:
            MemcgError: other code has closed a descriptor.
        """
        if self._link_number.is_lost():
            raise _one_values.another_reader_s()
        if self._barrier is not None:
            self._barrier.wait()
        places, end = self._written()
        (lost,) = _WORD(self._lost)
        records, read, size = self._records, self._record.read, self._record.size
        rows, removed, paths = [], [], []
        for place in places:
            when, flags, text_size, depth, nr_names, row = read(records, place)
            rows.append(self._record.without_counters(row) if flags else row)
            removed.append(when)
            text = records[place + size : place + size + text_size]
            paths.append(_path(text) if nr_names == depth else None)
        return Records(
            b"".join(map(self._record.widened, rows) if self._record.lacks else rows),
            struct.pack(f"={len(removed)}Q", *removed),
            paths,
            lost - self._lost_before,
            end,
        )

    def _written(self) -> tuple[list[int], int]:
        """Where the records are that are completely written, and where the next one will be."""
        records, (end,) = self._records, _WORD(self._records)
        at = self._at
        places: list[int] = []
        if at == end:
            return places, at
        mask, first, header = self._room.size - 1, mmap.PAGESIZE, _departures.RECORD_HEADER.size
        while at < end:
            place = first + (at & mask)
            (size,) = _SIZE(records, place)
            if size & _BUSY:
                break
            places.append(place)
            at += size + header + 7 & ~7
        # No CPU may have loaded from a record before it has loaded its size. Python has no such
        # instruction, but giving a lock back and taking it again contains it.
        fence = threading.Lock()
        fence.acquire()
        fence.release()
        fence.acquire()
        return places, at

    def done(self, taken: Records) -> None:
        """What was taken will not be taken again, and the kernel may use its room."""
        if self.is_of_this_process():
            self._at, self._lost_before = taken.end, self._lost_before + taken.lost
            with contextlib.suppress(ValueError):  # a signal handler has closed this
                self._consumer[0] = taken.end

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        link = self._link
        lost = self._program.is_lost or (link is not None and link.is_lost)
        return lost or (self._barrier is not None and self._barrier.is_lost)

    def close(self) -> None:
        """Detaches the program. Calling it again does nothing."""
        self._close.close()


def _attached(program: _program.Program) -> _program.Link:
    """Attaches the program.

    Raises:
        BpfPermissionError: the process may not attach it.
        BackendUnavailableError: the kernel has no such tracepoint.
    """
    try:
        return program.attach_to_tracepoint(_departures.TRACEPOINT)
    except MemcgError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            kind: type[MemcgError] = BpfPermissionError
            why = "the kernel does not let this process attach a program to the tracepoint"
        elif error.errno == errno.ENOENT:
            kind, why = BackendUnavailableError, "this kernel has no tracepoint"
        else:
            raise
        raise kind(
            f"{why} {_departures.TRACEPOINT}: {error}",
            errno=error.errno,
            call=error.call,
            log=error.log,
        ) from error


class _Record:
    """A record before its names.

    Args:
        names: the names of the items of a row.
        kept: those that the program reads, in the same order. The others are absent.
    """

    def __init__(self, names: tuple[str, ...], kept: tuple[str, ...]) -> None:
        header, head = _departures.RECORD_HEADER.size, _departures.HEAD.format[1:]
        record = struct.Struct(f"={header}x{head}{_wire.row_size(len(kept))}s")
        self.size, self.read = record.size, record.unpack_from
        self.lacks = len(kept) < len(names)
        self._places = [_place(kept.index(name)) if name in kept else None for name in names]
        self._counted = [_place(at) for at, name in enumerate(kept) if is_flushed(name)]

    def widened(self, row: bytes) -> bytes:
        """A row with all items."""
        values = [_wire.ABSENT_BYTES if place is None else row[place] for place in self._places]
        return b"".join((row[: _wire.ROW.size], *values))

    def without_counters(self, row: bytes) -> bytes:
        """A row whose counters could not be added up, because flushes moved them all the while."""
        data = bytearray(row)
        for place in self._counted:
            data[place] = _wire.ABSENT_BYTES
        return bytes(data)


def _place(at: int) -> slice:
    """Where a value is in a row."""
    start = _wire.ROW.size + 8 * at
    return slice(start, start + 8)


_WORD, _SIZE = struct.Struct("=Q").unpack_from, struct.Struct("=I").unpack_from
_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT: the record is being written


def _path(text: bytes) -> str:
    """The path from the names of a cgroup and of those above it."""
    return "/".join(reversed(os.fsdecode(text[:-1]).split("\0")))


def _plan_of(
    cgroup: Cgroup, names: tuple[str, ...], plan: ReadPlan, types: _btf.KernelTypes
) -> ReadPlan:
    """How the program reads the items: as the backend "core". An item that core cannot read is
    absent."""
    if plan.backend == "core":
        return plan
    layout = None
    if any(map(is_flushed, names)):
        with contextlib.suppress(BackendUnavailableError):
            layout = _slot_discovery.find(types, cgroup)
    planner = Planner("core", types, layout)
    terms: Terms = {}
    for name in names:
        # That a name which this package does not know means a certain counter is a guess.
        known = _items.item_named(name) is not None
        found = planner.terms_of(name) if known else ()
        if found:
            terms[name] = found
    return ReadPlan("core", terms, types.uses_rstat)
