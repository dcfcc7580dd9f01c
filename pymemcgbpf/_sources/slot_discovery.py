# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the counters' slots on the running kernel: by its index tables, or by observation."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Optional

from .. import _fork, _items
from .._bpf import btf as _btf
from .._bpf import counter_slots as _counter_slots
from .._bpf import cpus as _cpus
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.features import CORE
from .._bpf.plan import ReadPlan, Term, Terms, guessed, unit_of, vmstats_path
from .._cgroup import directory as _directory
from .._cgroup import files as _files
from .._cgroup import mounts as _mounts
from .._cgroup.directory import Cgroup
from .._items import MEMORY_STAT, Counters
from ..errors import BackendUnavailableError, MemcgError, is_transient
from .one_bpf import open_for_words, open_without_flush


class Discovery:
    """What is known of this kernel's layout, and whether an earlier search has failed."""

    def __init__(self) -> None:
        self._found: Optional[_counter_slots.Layout] = None
        self._why_not = ""
        # Whether two searches have contradicted each other. Then neither is believed.
        self._contradicted = False
        self._search_again_at = 0.0  # CLOCK_MONOTONIC. A search takes tens of milliseconds.

    def find(self, types: _btf.KernelTypes, cgroup: Cgroup) -> _counter_slots.Layout:
        """See :func:`find`."""
        complete = self._found is not None and not self._found.unproved
        if not complete and time.monotonic() >= self._search_again_at:
            try:
                self._search(types, cgroup)
            except MemcgError as error:
                if self._found is None or is_transient(error):
                    raise
                # What was proved before remains true.
            if self._found is None or self._found.unproved:
                self._search_again_at = time.monotonic() + _SECONDS_BETWEEN
        if self._found is None:
            raise BackendUnavailableError(self._why_not)
        return self._found

    def _search(self, types: _btf.KernelTypes, cgroup: Cgroup) -> None:
        """Searches for the layout, or for the part of it that is not proved yet."""
        direct = _counter_slots.direct(types)
        if direct is not None:
            self._found = direct
            return
        if not CORE.is_in(types):
            self._why_not = "this kernel's struct memcg_vmstats is not known to this package"
            return
        if self._contradicted:
            return
        layout = from_kernel_tables(types) or _rebuilt_layout(types, cgroup)
        self._contradicted = not _agree(self._found, layout)
        self._found = None if self._contradicted else _united(self._found, layout)
        self._why_not = "" if self._found else _NOT_TO_BE_FOUND

    def forget_failure(self) -> None:
        """Clears the cached negative result: the next call of find() searches again."""
        self._search_again_at = 0.0


_SECONDS_BETWEEN = 60.0  # numbers that moved, or were 0, can prove more later
_lock = _fork.renewed_lock(__name__, "_lock")
_discovery = Discovery()


def find(types: _btf.KernelTypes, cgroup: Cgroup) -> _counter_slots.Layout:
    """This kernel's layout, which is found on the first call.

    What is not proved in a rebuilt layout is searched again from time to time, because counters do
    not stay 0.

    Raises:
        BackendUnavailableError: the layout could be neither found nor rebuilt.
    """
    with _lock:
        return _discovery.find(types, cgroup)


def forget_failure() -> None:
    """Clears the cached negative result."""
    _discovery.forget_failure()


def _agree(old: Optional[_counter_slots.Layout], new: Optional[_counter_slots.Layout]) -> bool:
    """Whether two layouts can both be right.

    A counter has one slot, and a slot has one counter. Some enumerators are other names of the same
    counter, so a slot may have several names within one layout.
    """
    if old is None or new is None or not new.rebuilt:
        return True
    if old.not_kept & new.slots.keys() or new.not_kept & old.slots.keys():
        return False
    for name, at in new.slots.items():
        if old.slots.get(name, at) != at:
            return False
        before = {other for other, place in old.slots.items() if place == at}
        now = {other for other, place in new.slots.items() if place == at}
        if before and not before & now:
            return False
    return True


def _united(
    old: Optional[_counter_slots.Layout], new: Optional[_counter_slots.Layout]
) -> Optional[_counter_slots.Layout]:
    """A layout with what either of two layouts proves."""
    if old is None or new is None or not new.rebuilt:
        return new or old
    slots = {**old.slots, **new.slots}
    not_kept = old.not_kept | new.not_kept
    return new._replace(
        slots=slots, not_kept=not_kept, unproved=new.unproved - slots.keys() - not_kept
    )


_NOT_TO_BE_FOUND = (
    "it is not known where this kernel keeps its counters: its symbols do not show "
    "mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or kernel.kptr_restrict), and no order "
    "of them could be proved from BTF and memory.stat"
)


# enum index_tables_status of bpf_src/index_tables.h
COPIED, NOT_SHOWN, NOT_READ = 0, 1, 2


def from_kernel_tables(types: _btf.KernelTypes) -> Optional[_counter_slots.Layout]:
    """The layout according to the kernel's index tables; None if they cannot be seen."""
    stats_size, events_size = _counter_slots.table_sizes(types)
    if _counter_slots.state_is_direct(types):
        stats_size = 0
    for width in (4, 1):  # the older tables hold ints
        program = _program.Program(
            _program.COPY_TABLES,
            {
                "stats_index_size": _terms.u32(stats_size),
                "events_index_size": _terms.u32(width * events_size),
            },
        )
        try:
            status = program.run()
            if status == COPIED:
                return _counter_slots.from_tables(
                    types,
                    program.variable("stats_index")[:stats_size],
                    program.variable("events_index")[: width * events_size],
                )
            if status == NOT_SHOWN:
                return None
        finally:
            program.close()
    return None


def _rebuilt_layout(types: _btf.KernelTypes, cgroup: Cgroup) -> Optional[_counter_slots.Layout]:
    """The order as far as the numbers of the topmost visible cgroup prove it. There the fewest
    counters are 0."""
    try:
        top = _directory.open_cgroup(_mounts.hierarchy_root(cgroup.path))
    except MemcgError as error:
        if is_transient(error):
            raise
        top = _directory.open_cgroup(cgroup.path)  # this user may not read the topmost one
    try:
        file = _files.CgroupFile(top, MEMORY_STAT)
        try:
            keys = tuple(_files.parse(file.read()))
            printed = _printed(types, keys, top.version)
            return _counter_slots.rebuilt(types, printed, list(_observations(types, top, file)))
        finally:
            file.close()
    finally:
        top.close()


def _counter_of(types: _btf.KernelTypes, key: str, version: int) -> Optional[tuple[str, int]]:
    """The enumerator behind a key of memory.stat, and the factor to the unit of the key; None if
    there is no single one."""
    source: Optional[_items.ItemSource]
    if version == 1:
        source = _V1_COUNTERS.get(key)
    else:
        item = _items.CATALOGUE.get(key)
        event = _counter_slots.event_printed_as(types, key)
        if item is None and event is not None:
            return event, 1
        source = None if item is None else item.source
    if not isinstance(source, Counters) or len(source.parts) != 1:
        return None
    names = [name for name in source.parts[0] if name in types.counters]
    return (names[0], unit_of(source.scale)) if names else None


def _printed(
    types: _btf.KernelTypes, keys: tuple[str, ...], version: int
) -> _counter_slots.Printed:
    found = [_counter_of(types, key, version) for key in keys]
    counters = frozenset(pair[0] for pair in found if pair is not None)
    if version == 1:
        return _counter_slots.Printed(counters)
    events = [_counter_slots.event_printed_as(types, key) for key in keys]
    unknown = any(
        key not in _items.CATALOGUE and event is None and guessed(key, types.counters) is None
        for key, event in zip(keys, events)
    )
    return _counter_slots.Printed(counters, tuple(filter(None, events)), unknown)


_LOOKS, _MOST_LOOKS = 8, 40


def _observations(
    types: _btf.KernelTypes, cgroup: Cgroup, file: _files.CgroupFile
) -> Iterator[_counter_slots.Observation]:
    """Reads the counters several times, because the numbers move meanwhile.

    It ends when each number of the files was found in the kernel's memory at least once, or after
    :data:`_MOST_LOOKS` times.
    """
    not_met: Optional[set[str]] = None
    numbers = _KnownNumbers(types, cgroup, file)
    words = _WordReader(types, cgroup)
    try:
        after = numbers.read()
        for look in range(_MOST_LOOKS):
            before = after
            found = words.read()
            after = numbers.read()
            ranges = {
                name: _widened(before[name], after[name]) for name in before.keys() & after.keys()
            }
            yield _counter_slots.Observation(found, ranges)
            met = {
                name
                for name, (low, high) in ranges.items()
                if any(low <= value <= high for value in found.values())
            }
            not_met = (ranges.keys() if not_met is None else not_met) - met
            if look + 1 >= _LOOKS and not not_met:
                return
    finally:
        words.close()


def _widened(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The possible range of a number that was read twice. It may have moved up and down between."""
    low, high = min(one[0], other[0]), max(one[1], other[1])
    moved = abs(one[0] - other[0])
    return max(0, low - moved), high + moved


class _KnownNumbers:
    """The counters according to the files of a cgroup."""

    def __init__(self, types: _btf.KernelTypes, cgroup: Cgroup, file: _files.CgroupFile) -> None:
        self._cgroup, self._file = cgroup, file
        self._counter_of = functools.cache(lambda key: _counter_of(types, key, cgroup.version))
        self._has_kmem = cgroup.version == 1 and _KMEM in types.counters
        self._doubt = _CAUTION * _most_pending() if self._has_kmem else 0

    def read(self) -> dict[str, tuple[int, int]]:
        """The least and the greatest possible value of each counter now, by enumerator."""
        known = {}
        for key, value in _files.parse(self._file.read()).items():
            counter = self._counter_of(key)
            if counter is not None:
                name, unit = counter
                known[name] = value // unit, value // unit
        if self._has_kmem:
            try:
                text = _files.read_at(self._cgroup.fd, "memory.kmem.usage_in_bytes")
            except OSError as error:
                if is_transient(error):
                    raise
                return known
            pages = int(text) // unit_of(_items.PAGES)
            known[_KMEM] = max(0, pages - self._doubt), pages + self._doubt
        return known


_KMEM = "MEMCG_KMEM"


def _most_pending() -> int:
    """How many pages a counter may lag behind the charges.

    The kernel does not flush for fewer than 64 updates per CPU, and each CPU has up to 64 updates
    that do not count for this limit (MEMCG_CHARGE_BATCH, memcg_rstat_updated()).
    """
    return 2 * 64 * _cpus.possible()


# A safety factor: a lag of three times as many pages has been observed.
_CAUTION = 16


class _WordReader:
    """Reads all words of a cgroup's arrays of counters."""

    def __init__(self, types: _btf.KernelTypes, cgroup: Cgroup) -> None:
        members = [types.vmstats[array] for array in ("state", "events")]
        state, events = (
            range(member.offset // 8, member.offset // 8 + member.length) for member in members
        )
        self._indexes, self._signed = (*state, *events), frozenset(state)
        self._first = min(self._indexes)
        # The words between are copied with these two. The verifier takes some milliseconds for a
        # program that computes an item of each.
        ends = (self._first, max(self._indexes))
        self._source = open_for_words(cgroup, self._plan(types, ends))
        if self._source is None:
            self._values = open_without_flush(cgroup, self._plan(types, self._indexes))

    def _plan(self, types: _btf.KernelTypes, indexes: Sequence[int]) -> ReadPlan:
        base = vmstats_path(types)
        terms: Terms = {}
        for at in indexes:
            kind = _terms.KIND_SIGNED if at in self._signed else _terms.KIND_WORD
            terms[str(at)] = (Term(kind, 8 * at, 1, base),)
        return ReadPlan("core", terms, keeps_words=True)

    def read(self) -> dict[int, int]:
        """The current words by their index. A negative one is 0, as the kernel shows it."""
        if self._source is None:
            return {int(at): value for at, value in self._values.read().items()}
        words = self._source.read_words()
        found = {at: words[at - self._first] for at in self._indexes}
        for at in self._signed:
            if found[at] >= _NEGATIVE:
                found[at] = 0
        return found

    def close(self) -> None:
        """Closes its source."""
        (self._source or self._values).close()


_NEGATIVE = 1 << 63


_ATTEMPTS = 20


def comparisons(cgroup: Cgroup, plan: ReadPlan) -> Iterator[set[str]]:
    """Compares a plan with memory.stat several times, because the numbers move meanwhile.

    Each result is the set of the keys that have the same value in both. With the backend "core" the
    unit is a guess as well, and 0 cannot confirm a unit, so it does not count. The kernel's own
    functions apply the unit themselves.
    """
    zero_will_do = plan.backend != "core"
    file = _files.CgroupFile(cgroup, MEMORY_STAT)
    try:
        bpf = open_without_flush(cgroup, plan)
        try:
            for _ in range(_ATTEMPTS):
                before = _files.parse(file.read())
                values = bpf.read()
                after = _files.parse(file.read())
                yield {
                    key
                    for key, value in values.items()
                    if (value or zero_will_do) and before.get(key) == value == after.get(key)
                }
        finally:
            bpf.close()
    finally:
        file.close()


# The counters behind the keys of memory.stat on cgroup v1. Some of them are no items.
_V1_COUNTERS: dict[str, _items.ItemSource] = {
    **{item.v1: item.source for item in _items.CATALOGUE.values() if item.v1},
    "total_pgpgin": Counters((("PGPGIN",),), "one"),
    "total_pgpgout": Counters((("PGPGOUT",),), "one"),
}
