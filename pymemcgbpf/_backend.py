# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses where a reader's numbers come from, and makes that source.

A source has ``names`` and ``read() -> dict`` and ``close()``: the BPF one is here,
the text one in _memory_stat.py.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional, TypeVar, Union

from . import _btf, _cgroupfs, _fork, _kallsyms, _layout, _libbpf, _memory_stat, _program, _wire
from ._cgroupfs import Cgroup
from .errors import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    StreamError,
    UnknownItemError,
    errno_text,
)
from .items import CATALOGUE, CURRENT, KIB, PAGES, Item, close_names

BEST_FIRST = ("kfunc", "rfc", "core", "text")
AUTO = "auto"

_PROBE = {
    "kfunc": ("bpf_get_mem_cgroup", "Linux 7.0 and later"),
    "rfc": ("memcg_node_stat_fetch", "kernels with the first form of the memcg kfunc patch"),
}


Source = Union["BpfSource", _memory_stat.TextSource]


class Choice(NamedTuple):
    """What a reader reads from."""

    source: Source
    names: tuple[str, ...]
    backend: str
    why: str


def choose(cgroup: Cgroup, names: Optional[tuple[str, ...]], flush: bool, backend: str) -> Choice:
    """The best source that works here, or the one asked for.

    Raises:
        ValueError: no such backend.
        BackendUnavailableError: the one asked for cannot serve here.
        UnknownItemError, ItemUnavailableError, and what _cgroupfs raises.
    """
    if backend != AUTO and backend not in BEST_FIRST:
        known = ", ".join(repr(name) for name in (AUTO, *BEST_FIRST))
        raise ValueError(f"backend must be one of {known}, not {backend!r}")
    printed = _translated(cgroup, lambda: tuple(_memory_stat.keys(cgroup)))
    _check_known(names, printed)
    refusals: list[str] = []

    def text() -> Choice:
        source, offered = _text_source(cgroup, names, printed)
        return Choice(source, offered, "text", "; ".join(dict.fromkeys(refusals)))

    def bpf(name: str) -> Choice:
        source, offered = _bpf_source(cgroup, names, printed, flush, name)
        return Choice(source, offered, name, "; ".join(dict.fromkeys(refusals)))

    if backend == AUTO:
        for name in BEST_FIRST[:-1]:
            try:
                return _translated(cgroup, functools.partial(bpf, name))
            except _NO_BACKEND_WOULD_HELP:
                raise
            except MemcgError as error:
                refusals.append(f"{name}: {error}")
    elif backend != "text":
        return _translated(cgroup, functools.partial(bpf, backend))
    try:
        return _translated(cgroup, text)
    except ItemUnavailableError as error:
        if cgroup.version == 2 or not refusals:
            raise
        # v1's text shows but some items; BPF would have shown the others.
        raise ItemUnavailableError(
            "; ".join([str(error), *dict.fromkeys(refusals)]), items=error.items
        ) from error


_NO_BACKEND_WOULD_HELP = (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemoryControllerError,
    NotACgroupError,
)

_Made = TypeVar("_Made")


def _translated(cgroup: Cgroup, make: Callable[[], _Made]) -> _Made:
    """What *make* returns; its plain OSErrors as errors of ours."""
    try:
        return make()
    except OSError as error:
        clear = read_error(cgroup.path, cgroup.identity, error)
        if clear is error:
            raise
        raise clear from error


def _check_known(names: Optional[tuple[str, ...]], printed: Sequence[str]) -> None:
    known = dict.fromkeys((*printed, *CATALOGUE))
    for name in names or ():
        if name not in known:
            like = close_names(name, known)
            hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else ""
            raise UnknownItemError(f"no item is called {name!r}{hint}", item=name, suggestions=like)


def _unavailable(missing: Sequence[str], where: str) -> ItemUnavailableError:
    listed = ", ".join(map(repr, missing))
    return ItemUnavailableError(f"{where} does not have {listed}", items=missing)


def read_error(path: str, identity: _cgroupfs.Identity, error: OSError) -> MemcgError:
    """What a failure to open or read something of a cgroup's means."""
    if isinstance(error, MemcgError):
        if error.call == "bpf_iter_create" and error.errno == errno.EPERM:
            return BpfPermissionError(
                f"the kernel no longer lets this process read {path} through BPF: {error}",
                errno=error.errno,
                call=error.call,
            )
        return error
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return _cgroupfs.why_unreadable(path, identity)
    message = f"{path} cannot be read: {errno_text(error.errno or 0)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return CgroupPermissionError(message, errno=error.errno, call="read")
    return MemcgError(message, errno=error.errno, call="read")


# --- text -----------------------------------------------------------------------------


def _text_source(
    cgroup: Cgroup, names: Optional[tuple[str, ...]], printed: Sequence[str]
) -> tuple[_memory_stat.TextSource, tuple[str, ...]]:
    offered = (*printed, CURRENT) if cgroup.has_current else tuple(printed)
    if names is not None:
        missing = [name for name in names if name not in offered]
        if missing:
            raise _unavailable(missing, _where(cgroup))
        offered = names
    return _memory_stat.TextSource(cgroup, offered), offered


def _where(cgroup: Cgroup) -> str:
    if cgroup.is_root:
        return f"the root cgroup {cgroup.path} of this kernel"
    return "this kernel's " + ("memory.stat" if cgroup.version == 2 else "cgroup v1 memory.stat")


# --- BPF ------------------------------------------------------------------------------


def _bpf_source(
    cgroup: Cgroup,
    names: Optional[tuple[str, ...]],
    printed: Sequence[str],
    flush: bool,
    backend: str,
) -> tuple[BpfSource, tuple[str, ...]]:
    types = _btf.kernel()
    if backend in _PROBE:
        function, where = _PROBE[backend]
        if function not in types.functions:
            raise BackendUnavailableError(f"this kernel has no {function} ({where})")
    if types.memory_cgrp_id is None:
        raise BackendUnavailableError("this kernel is built without the memory controller")
    layout = _kernel_layout(types, cgroup) if backend == "core" else None
    wanted = names
    if wanted is None:
        # v1's memory.stat does not show v2's lines, so there all that is kept is offered.
        wanted = tuple(printed) if cgroup.version == 2 else tuple(CATALOGUE)
        if cgroup.version == 2:
            wanted += (CURRENT,)
    if names is not None:
        hidden = [name for name in names if not _is_shown(name, cgroup, printed)]
        if hidden:
            raise _unavailable(hidden, _where(cgroup))
    terms = {name: _terms(name, types, layout) for name in wanted}
    kept = [name for name in wanted if terms[name] and _is_shown(name, cgroup, printed)]
    if names is not None and len(kept) < len(names):
        raise _unavailable(
            [name for name in names if name not in kept], f"the {backend} backend on this kernel"
        )
    while True:
        source = BpfSource(cgroup, backend, {name: terms[name] for name in kept}, flush, layout)
        try:
            absent = {name for name, value in source.read().items() if value == _wire.ABSENT}
        except BaseException:
            source.close()
            raise
        if not absent:
            return source, tuple(kept)
        source.close()
        if names is not None:
            raise _unavailable([name for name in kept if name in absent], "this kernel")
        kept = [name for name in kept if name not in absent]


def _is_shown(name: str, cgroup: Cgroup, printed: Sequence[str]) -> bool:
    """Whether memory.stat, or the item's own file, has it: then it means the same."""
    if name == CURRENT:
        return cgroup.has_current
    if cgroup.version == 2:
        return name in printed
    return name not in _NOT_ACCOUNTED_ON_V1


# The kernel counts them per cgroup on v2 only (cgroup_subsys_on_dfl); hugetlb there by a
# mount option.
_NOT_ACCOUNTED_ON_V1 = ("hugetlb", "sock", "zswap", "zswapped", "zswap_incomp")


def _terms(
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
            program = _load_walk(backend, flush_mode, terms, layout)
            _programs[key] = program
            while len(_programs) > _KEPT_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return program


def forget() -> None:
    """Lets go of the kept programs, each unloaded when its last link is closed; and of
    the opinion that this kernel's counters cannot be found."""
    global _ask_again_at
    _ask_again_at = 0.0
    with _programs_lock:
        _programs.clear()


def _load_walk(
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


# --- core: where the counters lie ------------------------------------------------------

_layout_lock = _fork.renewed_lock(__name__, "_layout_lock")
_found_layout: Optional[_layout.Layout] = None
_no_layout = ""  # why there is none
_ask_again_at = 0.0  # CLOCK_MONOTONIC; asking costs tens of milliseconds
_SECONDS_BETWEEN = 60.0  # a check can fail because the numbers moved, or all were 0


def _kernel_layout(types: _btf.KernelTypes, cgroup: Cgroup) -> _layout.Layout:
    """This kernel's layout, found on the first call.

    Raises:
        BackendUnavailableError: neither found nor rebuilt.
    """
    global _found_layout, _no_layout, _ask_again_at
    with _layout_lock:
        if _found_layout is None and time.monotonic() >= _ask_again_at:
            _ask_again_at = time.monotonic() + _SECONDS_BETWEEN
            if {"state", "events"} <= types.vmstats.keys():
                _found_layout = _layout_from_tables(types) or _rebuilt_layout(types, cgroup)
                _no_layout = "" if _found_layout else _NOT_TO_BE_FOUND
            else:
                _no_layout = "this kernel's struct memcg_vmstats is not known to this package"
        if _found_layout is None:
            raise BackendUnavailableError(_no_layout or _NOT_TO_BE_FOUND)
        return _found_layout


_NOT_TO_BE_FOUND = (
    "where this kernel keeps its counters is not known: /proc/kallsyms does not show "
    "mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or kernel.kptr_restrict), and no order "
    "rebuilt from BTF, or more than one, agrees with memory.stat"
)


def _layout_from_tables(types: _btf.KernelTypes) -> Optional[_layout.Layout]:
    stats, events = _kallsyms.addresses("mem_cgroup_stats_index", "mem_cgroup_events_index")
    if not events or not (stats or _layout.state_is_direct(types)):
        return None
    stats_size, events_size = _layout.table_sizes(types)
    for width in (4, 1):  # the older tables hold ints
        program = _program.Program(
            _program.COPY_TABLES,
            {
                "stats_index_address": _program.u64(stats or 0),
                "events_index_address": _program.u64(events),
                "stats_index_size": _program.u32(stats_size),
                "events_index_size": _program.u32(width * events_size),
            },
        )
        try:
            if program.run() == 0:
                return _layout.from_tables(
                    types,
                    program.variable("stats_index")[:stats_size],
                    program.variable("events_index")[: width * events_size],
                )
        finally:
            program.close()
    return None


def _rebuilt_layout(types: _btf.KernelTypes, cgroup: Cgroup) -> Optional[_layout.Layout]:
    """The one rebuilt order whose numbers are memory.stat's own, if there is just one.

    Checked on the topmost cgroup that is visible, where the fewest counters are 0.
    """
    top = _cgroupfs.open_cgroup(_cgroupfs.hierarchy_root(cgroup.path))
    try:
        shown = tuple(_memory_stat.keys(top)) if top.version == 2 else ()
        fitting = [
            layout
            for layout in _layout.rebuilt(types, shown)
            if _gives_memory_stat(layout, types, top)
        ]
    finally:
        os.close(top.fd)
    return fitting[0] if len(fitting) == 1 else None


_ATTEMPTS = 20


def _gives_memory_stat(layout: _layout.Layout, types: _btf.KernelTypes, cgroup: Cgroup) -> bool:
    terms = {key: _terms(name, types, layout) for name, key in _memory_stat.keys(cgroup).items()}
    if cgroup.version == 1:
        for key, enumerator in _V1_ALSO.items():
            enum, _ = types.counters[enumerator]
            slot = layout.slots.get(enumerator)
            unit = mmap.PAGESIZE if enumerator == "MEMCG_SWAP" else 1
            if slot is not None:
                terms[key] = (_program.Term(_program.KINDS[enum], True, slot, unit),)
    terms = {key: parts for key, parts in terms.items() if parts}
    file = _memory_stat.CgroupFile(cgroup, _cgroupfs.MEMORY_STAT)
    try:
        bpf = BpfSource(cgroup, "core", terms, False, layout)
        try:
            for _ in range(_ATTEMPTS):  # the numbers move while they are compared
                before = _memory_stat.parse(_memory_stat.read_whole(file.fd))
                values = bpf.read()
                after = _memory_stat.parse(_memory_stat.read_whole(file.fd))
                if all(
                    key not in after
                    or min(before[key], after[key]) <= value <= max(before[key], after[key])
                    for key, value in values.items()
                ):
                    return True
        finally:
            bpf.close()
    finally:
        file.close()
    return False


# Keys of v1's memory.stat that are no items but help to tell one order from another.
_V1_ALSO = {
    "total_pgpgin": "PGPGIN",
    "total_pgpgout": "PGPGOUT",
    "total_swap": "MEMCG_SWAP",
}
