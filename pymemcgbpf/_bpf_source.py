# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The BPF source: one cgroup's items through an iterator link, and the programs behind."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections import OrderedDict
from typing import Optional

from . import _btf, _cgroupfs, _fork, _layout, _libbpf, _memory_stat, _program, _wire
from ._cgroupfs import Cgroup
from .errors import BackendUnavailableError, BpfPermissionError, MemcgError, StreamError
from .items import CATALOGUE, CURRENT, KIB, PAGES, Item


def terms_of(
    name: str, types: _btf.KernelTypes, layout: Optional[_layout.Layout]
) -> tuple[_program.Term, ...]:
    """The counters that an item is the sum of; none where this kernel has none."""
    item = CATALOGUE.get(name)
    if item is None:
        return ()
    if name == CURRENT:
        return (_program.Term(_program.KIND_USAGE, True, 0, 1),)
    found = []
    for alternatives in item.parts:
        for enumerator in alternatives:
            if enumerator not in types.counters:
                continue
            enum, value = types.counters[enumerator]
            if layout is None:
                found.append((_program.KINDS[enum], value))
            elif enumerator in layout.slots:
                found.append((_program.KINDS[enum], layout.slots[enumerator]))
            break
    unit = _unit(item) if layout is not None else 1  # the kfuncs apply it themselves
    return tuple(
        _program.Term(kind, at == len(found) - 1, index, unit)
        for at, (kind, index) in enumerate(found)
    )


def _unit(item: Item) -> int:
    return {PAGES: mmap.PAGESIZE, KIB: 1024}.get(item.scale, 1)


_ONE_MORE = 8  # bytes asked for beyond what is expected, so that more is seen


class BpfSource:
    """One cgroup, read through an iterator link that is made once.

    Each read is a new iterator: they cannot be rewound.
    """

    def __init__(
        self,
        cgroup: Cgroup,
        backend: str,
        terms: dict[str, tuple[_program.Term, ...]],
        flush: bool,
        layout: Optional[_layout.Layout],
    ) -> None:
        self.names = tuple(terms)
        self._path, self._identity = cgroup.path, cgroup.identity
        count = len(self.names)
        self._size = _wire.header_size(count) + _wire.row_size(count) + _wire.TRAILER.size
        self._values = struct.Struct(f"={count}Q").unpack_from
        self._values_at = _wire.header_size(count) + _wire.ROW.size
        mode = _flush_mode(backend) if flush else _program.FLUSH_NONE
        program = _cached_program(backend, mode, terms, layout)
        try:
            self._link = program.attach(cgroup.fd, _program.SELF)
        except MemcgError as error:
            raise _attach_error(cgroup, error) from error
        self._create, self._link_fd = _libbpf.iterator_creator(self._link.fd)
        self._flushing = None
        if flush and mode == _program.FLUSH_NONE:
            try:
                self._flushing = _flushing_file(cgroup)
            except BaseException:
                self._link.close()
                raise

    def read(self) -> dict[str, int]:
        """Name → value, now."""
        if self._flushing is not None:
            os.pread(self._flushing.fd, 1, 0)
        iterator = self._create(self._link_fd)
        if iterator < 0:
            raise _libbpf.failure(-iterator, "bpf_iter_create")
        try:
            # A whole stream is exactly as long as expected; its trailer is the end of file.
            data = os.read(iterator, self._size + _ONE_MORE)
            if len(data) != self._size:
                data += self._rest(iterator)
        finally:
            os.close(iterator)
        if len(data) != self._size:
            raise self._explain(data)
        return dict(zip(self.names, self._values(data, self._values_at)))

    def _rest(self, iterator: int) -> bytes:
        parts = []
        while part := os.read(iterator, 1 << 16):
            parts.append(part)
        return b"".join(parts)

    def _explain(self, data: bytes) -> MemcgError:
        rows = _wire.decode(data).rows
        if rows:
            return StreamError(f"{len(rows)} rows of {len(data)} bytes instead of one")
        return _cgroupfs.why_unreadable(self._path, self._identity)

    def close(self) -> None:
        """Detaches the link. Twice is fine."""
        self._link_fd.value = -1  # the number may soon be another file's
        self._link.close()
        if self._flushing is not None:
            self._flushing.close()


def _attach_error(cgroup: Cgroup, error: MemcgError) -> MemcgError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EBADF):
        return _cgroupfs.why_unreadable(cgroup.path, cgroup.identity)
    if error.errno in (errno.EPERM, errno.EACCES):
        return BpfPermissionError(
            f"the kernel does not let this process attach a BPF iterator: {error}",
            errno=error.errno,
            call=error.call,
            log=error.log,
        )
    return error


def _flush_mode(backend: str) -> int:
    functions = _btf.kernel().functions
    if backend == "rfc":
        return _program.FLUSH_RFC
    if "bpf_mem_cgroup_flush_stats" in functions:
        return _program.FLUSH_KFUNC
    if "cgroup_rstat_flush" in functions:
        return _program.FLUSH_RSTAT
    return _program.FLUSH_NONE  # Linux 6.16 to 6.19: by a file, see below


# Files whose reading flushes first, the cheapest first (mm/memcontrol.c: the show
# functions that call mem_cgroup_flush_stats).
_FLUSHING_FILES = {
    1: ("memory.numa_stat", "memory.stat"),
    2: ("memory.zswap.current", "memory.stat"),
}


def _flushing_file(cgroup: Cgroup) -> _memory_stat.CgroupFile:
    for name in _FLUSHING_FILES[cgroup.version]:
        try:
            return _memory_stat.CgroupFile(cgroup, name)
        except FileNotFoundError as error:
            missing = error
    raise missing


# Loading takes tens of milliseconds and one program serves any number of cgroups, so
# the last few are kept beyond their last reader.
_KEPT_PROGRAMS = 8
_programs: OrderedDict[object, _program.Program] = OrderedDict()
_programs_lock = _fork.renewed_lock(__name__, "_programs_lock")


def _cached_program(
    backend: str,
    flush_mode: int,
    terms: dict[str, tuple[_program.Term, ...]],
    layout: Optional[_layout.Layout],
) -> _program.Program:
    key = (backend, flush_mode, tuple(terms), layout and tuple(layout.slots.items()))
    with _programs_lock:
        program = _programs.get(key)
        if program is None:
            program = load_walk(backend, flush_mode, terms, layout)
            _programs[key] = program
            while len(_programs) > _KEPT_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return program


def forget_programs() -> None:
    """Lets go of the kept programs; each is unloaded when its last link is closed."""
    with _programs_lock:
        _programs.clear()


def load_walk(
    backend: str,
    flush_mode: int,
    terms: dict[str, tuple[_program.Term, ...]],
    layout: Optional[_layout.Layout],
) -> _program.Program:
    flat = [term for item in terms.values() for term in item]
    if len(terms) > _wire.MAX_ITEMS or len(flat) > _wire.MAX_TERMS:
        raise BackendUnavailableError(f"{len(terms)} items are too many for the BPF program")
    numbers = [CATALOGUE[name].number if name in CATALOGUE else 0 for name in terms]
    return _program.Program(
        _program.WALK,
        {
            "backend": _program.u32(_program.BACKENDS[backend]),
            "flush": _program.u32(flush_mode),
            "memory_cgrp_id": _program.u32(_btf.kernel().memory_cgrp_id or 0),
            "page_size": _program.u32(mmap.PAGESIZE),
            "vmstats_size": _program.u32(layout.size if layout else 0),
            "nr_terms": _program.u32(len(flat)),
            "terms": _program.encode_terms(flat),
            "header": _wire.encode_header(numbers, _program.SELF),
        },
    )
