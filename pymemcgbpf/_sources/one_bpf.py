# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup through BPF: by a program that is run, or by the stream of an iterator."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Collection
from typing import Optional, Union

from .. import _options, _row_dicts, _wire
from .._bpf import btf as _btf
from .._bpf import program as _program
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import ITERATOR, RUN, RUN_DIR, Feature
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup.directory import Cgroup
from .._items import MEMORY_STAT
from ..errors import BpfObjectError, MemcgError, StreamError
from . import flush as _flush
from . import links as _links
from . import program_cache as _program_cache
from .one_run_dir import RunDirSource
from .one_text import TextSource
from .one_values import absent, another_reader_s, closed_run, present

_ONE_MORE = 8  # requests more bytes than expected, so that a longer stream is noticed


class StreamSource:
    """One cgroup, read through an iterator link.

    The link is created once. Each read creates a new iterator, because iterators cannot be rewound.
    """

    def __init__(self, cgroup: Cgroup, plan: ReadPlan, flush: bool) -> None:
        self.names = tuple(plan.terms)
        self._make = _row_dicts.maker(self.names)
        self._path, self._identity = cgroup.path, cgroup.identity
        count = len(self.names)
        self._size = _wire.header_size(count) + plan.row_size + _wire.TRAILER.size
        self._values = struct.Struct(f"={count}Q").unpack_from
        self._values_at = _wire.header_size(count) + _wire.ROW.size
        self._can_vanish = plan.has_pressure
        # The beginning of the stream identifies the items and the cgroup. The descriptor may belong
        # to another link by then.
        self._begins = plan.header(_options.SELF) + _wire.encode_id(cgroup.id)
        mode = _flush.mode_for(plan, flush, by_iterator=True)
        program = _program_cache.cached(_program.STREAM, plan, mode)
        self._link = _links.attach(program, cgroup, _options.SELF)
        self._new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        try:
            self._flush = _flush.before_reading(cgroup, plan, flush, mode)
            self._flush_reads = self._flush.reads
        except BaseException:
            self._link.close()
            raise

    def read(self) -> dict[str, int]:
        """The current values by name."""
        if self._flush_reads:
            self._flush.by_file()
        iterator = self._new_iterator()
        try:
            # A complete stream has exactly the expected length and ends with its trailer.
            fd = iterator.fileno()
            data = os.read(fd, self._size + _ONE_MORE)
            if len(data) != self._size:
                data += read_rest(fd)
        finally:
            iterator.close()
        if len(data) != self._size or not data.startswith(self._begins):
            raise self._explain(data)
        values = self._make(self._values(data, self._values_at))
        return present(values) if self._can_vanish else values

    def probe_missing(self) -> set[str]:
        """Reads once, and returns the items that this kernel does not keep."""
        return absent(self.names, self.read())

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        return self._link.is_lost or self._flush.is_lost

    def _explain(self, data: bytes) -> MemcgError:
        stream = _wire.decode(data)
        rows = stream.rows
        if len(rows) == 1:
            return another_reader_s()
        if rows:
            return StreamError(f"{len(rows)} rows of {len(data)} bytes instead of one")
        return _diagnosis.why_unreadable(self._path, self._identity)

    def close(self) -> None:
        """Detaches the link. Calling it again does nothing."""
        self._new_iterator.close()
        self._link.close()
        self._flush.close()


class RunSource:
    """One cgroup of cgroup v2, found by its id and read by one system call.

    It holds no reference to the cgroup. The values come back in a buffer of this source, so a
    forked child and other sources with the same program do not interfere.
    """

    def __init__(self, cgroup: Cgroup, plan: ReadPlan, flush: bool) -> None:
        self.names = tuple(plan.terms)
        self._make = _row_dicts.maker(self.names)
        self._path, self._identity = cgroup.path, cgroup.identity
        mode = _flush.mode_for(plan, flush, by_iterator=False)
        program = _program_cache.cached(_program.RUN_ONE, plan, mode)
        self._program: Optional[_program.Program] = program
        self._buffer = bytearray(_wire.CALL.size + plan.row_size)
        _wire.CALL.pack_into(self._buffer, 0, cgroup.id, program.key, _wire.NOT_RUN, 0)
        self._run = _libbpf_programs.runner(program.fd, self._buffer)
        self._values = struct.Struct(f"={len(self.names)}Q").unpack_from
        self._can_vanish = plan.has_pressure
        self._flush = _flush.before_reading(cgroup, plan, flush, mode)
        self._flush_reads = self._flush.reads

    def read(self) -> dict[str, int]:
        """The current values by name."""
        if self._flush_reads:
            self._flush.by_file()
        while True:
            error = self._run()
            if error:
                raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
            if self._buffer[_ANSWER] == _ONE_ROW:
                values = self._make(self._values(self._buffer, _VALUES_AT))
                return present(values) if self._can_vanish else values
            _, _, status, _ = _wire.CALL.unpack_from(self._buffer)
            if status == _wire.OTHER:
                raise another_reader_s()
            if status == _wire.GONE:
                raise _diagnosis.why_not_found(self._path, self._identity)
            if status != _wire.BUSY:
                raise _diagnosis.why_unreadable(self._path, self._identity)
            time.sleep(BUSY_SECONDS)

    def probe_missing(self) -> set[str]:
        """Reads once, and returns the items that this kernel does not keep."""
        return absent(self.names, self.read())

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        return (self._program is not None and self._program.is_lost) or self._flush.is_lost

    def close(self) -> None:
        """Releases the program. Calling it again does nothing."""
        self._run = closed_run  # another file may soon get the descriptor's number
        self._program = None
        self._flush.close()


# Offsets in the buffer: status and nr_rows of struct memcg_stats_call, and the values of the row.
_ANSWER = slice(_wire.CALL.size - 8, _wire.CALL.size)
_ONE_ROW = struct.pack("=II", _wire.DONE, 1)
_VALUES_AT = _wire.CALL.size + _wire.ROW.size

# How long to wait if other calls use all scratch buffers of the program. A call takes microseconds.
BUSY_SECONDS = 0.0001


def read_rest(iterator: int) -> bytes:
    """The rest of the output of an iterator."""
    parts = []
    while part := os.read(iterator, 1 << 16):
        parts.append(part)
    return b"".join(parts)


StatSource = Union[RunDirSource, RunSource, StreamSource, TextSource]


def open_without_flush(cgroup: Cgroup, plan: ReadPlan) -> Union[RunDirSource, StreamSource]:
    """Opens a source that does not flush, and whose program is quickly loaded."""
    found = open_for_words(cgroup, plan) if plan.backend == "core" else None
    return StreamSource(cgroup, plan, False) if found is None else found


def open_for_words(cgroup: Cgroup, plan: ReadPlan) -> Optional[RunDirSource]:
    """A source that shows the words that a plan copies; None if there is none here."""
    types = _btf.kernel()
    if not RUN_DIR.is_in(types):
        return None
    try:
        return RunDirSource(cgroup, plan, False)
    except BpfObjectError:
        # The reader will say so when it tries the transport "run". Until then iterators serve.
        if not ITERATOR.is_in(types):
            raise
        return None


class StatSourceFactory:
    """Opens the sources of a StatsReader."""

    transports: tuple[str, ...] = ("run", "stream")
    walks = False

    def feature_of(self, backend: str, transport: str) -> Feature:
        """The feature of the kernel that a transport needs."""
        if transport == "stream":
            return ITERATOR
        return RUN_DIR if backend == "core" else RUN

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """With "run", a flush by memory.stat costs more than an iterator that flushes itself."""
        if (
            transport == "run"
            and flush
            and (backend == "core" or not _flush.program_flushes(backend, by_iterator=False))
            and _flush.program_flushes(backend, by_iterator=True)
            and _flush.cheapest_file(cgroup) == MEMORY_STAT
        ):
            return "the flush would take the text of memory.stat"
        return ""

    def bpf(
        self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str
    ) -> Union[RunDirSource, RunSource, StreamSource]:
        """Opens a source that reads through BPF."""
        if transport == "stream":
            return StreamSource(cgroup, plan, flush)
        return (RunDirSource if plan.backend == "core" else RunSource)(cgroup, plan, flush)

    def text(
        self, cgroup: Cgroup, names: tuple[str, ...], lacking: Collection[str] = ()
    ) -> TextSource:
        """Opens a source that reads the cgroup's files, which have all of *names* but *lacking*."""
        return TextSource(cgroup, (name for name in names if name not in lacking))
