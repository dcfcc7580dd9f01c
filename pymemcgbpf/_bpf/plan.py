# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a BPF program computes: the kernel's numbers that make up each item."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Optional

from .. import _items, _options, _wire
from .._items import Counters, Difference, Field, Item, LeastLimit, NodeCounter, Pressure
from .._records import Record
from ..errors import BackendUnavailableError
from . import btf as _btf
from . import counter_slots as _counter_slots
from . import terms as _terms
from .features import EVENTS_KFUNC


class PointerPath(Record):
    """A structure in the kernel's memory, and the pointers that lead to it.

    Attributes:
        start: where the path begins, struct mem_cgroup or struct cgroup; a ``START_*`` of terms.py.
        steps: the offsets of the pointers to follow.
        enabled_offset: the offset of a byte that is 0 while the structure is not in use; None if
            it has no such byte.
        offset: the offset of the structure in the one that the path has led to, if it is a part
            of that.
    """

    start: int
    steps: tuple[int, ...]
    enabled_offset: Optional[int] = None
    offset: int = 0


class Term(Record):
    """One number of the kernel. An item is the sum of its terms.

    Attributes:
        kind: a ``KIND_*`` of terms.py.
        at: the argument of a kfunc, or the offset of a word in *base*.
        unit: the factor from the number to the item's unit; negative if it is subtracted.
        base: the structure with the word; None for a kfunc.
    """

    kind: int
    at: int
    unit: int = 1
    base: Optional[PointerPath] = None


Terms = dict[str, tuple[Term, ...]]


def path_to(start: int, member: _btf.Member) -> PointerPath:
    """The path to a structure that is a member of the first one, or that such a member points to.

    Both forms exist of two structures: struct memcg_vmstats (behind a pointer since Linux 6.1,
    410f8e82689e) and struct psi_group (since 6.0, 5f69a6577bc3).
    """
    if member.is_pointer:
        return PointerPath(start, (member.offset,))
    return PointerPath(start, (), offset=member.offset)


def vmstats_path(types: _btf.KernelTypes) -> PointerPath:
    """The path to the counters of a cgroup, from which ``types.vmstats`` has the offsets."""
    return path_to(_terms.START_MEMCG, types.structs["mem_cgroup"]["vmstats"])


class Planner(Record):
    """Translates items into terms, for one backend on one kernel.

    Attributes:
        backend: "kfunc", "rfc" or "core".
        types: the kernel's types.
        layout: the slots of the counters, if they are known.
    """

    backend: str
    types: _btf.KernelTypes
    layout: Optional[_counter_slots.Layout]

    def terms_of(self, name: str) -> tuple[Term, ...]:
        """The terms of an item; empty if this kernel does not have it."""
        item = _items.item_named(name) or guessed(name, self.types.counters)
        return () if item is None else self.terms(item.source)

    def terms(self, source: _items.ItemSource) -> tuple[Term, ...]:
        """The terms of a source in the catalogue; empty if this kernel does not have it."""
        try:
            if isinstance(source, Counters):
                return () if self._is_unproved(source) else tuple(self._counters(source))
            if isinstance(source, NodeCounter):
                return self._on_node(source)
            if isinstance(source, Difference):
                return self._difference(source)
            if isinstance(source, LeastLimit):
                return (self._least_limit(source),)
            return (self._field(source) if isinstance(source, Field) else self._pressure(source),)
        except KeyError:  # this kernel has no such structure, member or enumerator
            return ()

    def lacks_proof(self, name: str) -> bool:
        """Whether an item is withheld because the order of the counters is not proved for it."""
        item = _items.item_named(name) or guessed(name, self.types.counters)
        return item is not None and self._is_unproved(item.source)

    def _is_unproved(self, source: _items.ItemSource) -> bool:
        if isinstance(source, Difference):
            return any(map(self.lacks_proof, (source.whole, source.part)))
        of = source.of if isinstance(source, NodeCounter) else source
        layout = self.layout
        if not isinstance(of, Counters) or (self.backend != "core" and of is source):
            return False
        if layout is None or not layout.rebuilt:
            return False
        found = [
            next((name for name in part if name in self.types.counters), None) for part in of.parts
        ]
        known = layout.slots.keys() | layout.not_kept
        return any(name is not None and name not in known for name in found)

    def _counters(self, source: Counters) -> Iterable[Term]:
        for alternatives in source.parts:
            for enumerator in alternatives:
                if enumerator not in self.types.counters:
                    continue
                enum, value = self.types.counters[enumerator]
                if self.backend != "core":
                    yield Term(_terms.KINDS[enum], value)  # the kernel applies the unit
                elif self.layout is not None and enumerator in self.layout.slots:
                    at, unit = 8 * self.layout.slots[enumerator], self._unit(enumerator, source)
                    if unit:
                        yield Term(_word_kind(enum), at, unit, vmstats_path(self.types))
                break

    def _unit(self, enumerator: str, source: Counters) -> int:
        """The factor from a counter to its item; 0 if it is unknown.

        NR_ANON_THPS is in huge pages before Linux 5.12 (69473e5de873), which brought NR_SWAPCACHE,
        too. Without swap no kernel has NR_SWAPCACHE or SWAP_RA, and nothing tells one unit from the
        other.
        """
        types = self.types
        known = types.uses_rstat or "NR_SWAPCACHE" in types.counters
        if enumerator != "NR_ANON_THPS" or known:
            return unit_of(source.scale)
        return types.huge_page_size if "SWAP_RA" in types.counters else 0

    def _on_node(self, source: NodeCounter) -> tuple[Term, ...]:
        """The counters of a node are in the same order as those of the whole cgroup."""
        if self.layout is None:
            return ()
        steps, start, length = self._node_array()
        steps = (self._member("mem_cgroup", "nodeinfo") + 8 * source.node, *steps)
        first = self.types.vmstats["state"].offset // 8
        for enumerator in source.of.parts[0]:
            enum, _ = self.types.counters.get(enumerator, ("", 0))
            slot = self.layout.slots.get(enumerator, first - 1) - first
            unit = self._unit(enumerator, source.of)
            if enum == "node_stat_item" and 0 <= slot < length and unit:
                base = PointerPath(_terms.START_MEMCG, steps)
                return (Term(_terms.KIND_SIGNED, start + 8 * slot, unit, base),)
        return ()

    def _node_array(self) -> tuple[tuple[int, ...], int, int]:
        """Where a node's counters are: the pointers to follow from struct mem_cgroup_per_node, the
        offset of the array, and the number of its elements."""
        per_node = self.types.structs["mem_cgroup_per_node"]
        if "lruvec_stat" in per_node:  # up to Linux 5.14, before 7e1c0d6f5820
            array = per_node["lruvec_stat"]
            return (), array.offset, array.length
        stats, array = per_node["lruvec_stats"], self.types.structs["lruvec_stats"]["state"]
        if stats.is_pointer:
            return (stats.offset,), array.offset, array.length
        return (), stats.offset + array.offset, array.length

    def _field(self, source: Field) -> Term:
        if self.backend == "kfunc":
            if source.path == ("memory", "usage"):
                return Term(_terms.KIND_USAGE, 0)
            if source.path == ("memory_events",) and EVENTS_KFUNC.is_in(self.types):
                return Term(_terms.KIND_MEMORY_EVENT, self.types.enumerators[source.enumerator])
        at = self._member("mem_cgroup", source.path[0])
        if len(source.path) > 1:
            at += self._member("page_counter", source.path[1])
        base = PointerPath(_terms.START_MEMCG, ())
        if source.enumerator:
            at += 8 * self.types.enumerators[source.enumerator]
            return Term(_terms.KIND_WORD, at, 1, base)
        if source.limit:
            return Term(_terms.KIND_LIMIT, at, 1, base)  # the program applies the unit
        return Term(_terms.KIND_WORD, at, unit_of(source.scale), base)

    def _difference(self, source: Difference) -> tuple[Term, ...]:
        whole, part = map(self.terms_of, (source.whole, source.part))
        subtracted = (term._replace(unit=-term.unit) for term in part)
        return (*whole, *subtracted) if whole and part else ()

    def _least_limit(self, source: LeastLimit) -> Term:
        """The walk to the root, for which constants() has the offsets in struct page_counter."""
        for member in ("max", "parent"):
            self._member("page_counter", member)
        return Term(_terms.KIND_LEAST_LIMIT, self._member("mem_cgroup", "memory"))

    def _pressure(self, source: Pressure) -> Term:
        group = self.types.structs["psi_group"]
        base = path_to(_terms.START_CGROUP, self.types.structs["cgroup"]["psi"])
        if "enabled" in group:  # since Linux 6.1, 34f26a15611a
            base = base._replace(enabled_offset=group["enabled"].offset)
        at = group["total"].offset + 8 * self.types.enumerators[source.enumerator]
        return Term(_terms.KIND_NANOSECONDS, at, 1, base)

    def _member(self, struct: str, member: str) -> int:
        return self.types.structs[struct][member].offset


def _word_kind(enum: str) -> int:
    return _terms.KIND_WORD if enum == "vm_event_item" else _terms.KIND_SIGNED


def unit_of(scale: str) -> int:
    """The factor from the unit of a counter to that of its item."""
    return {_items.PAGES: mmap.PAGESIZE, _items.KIB: 1024}.get(scale, 1)


def guessed(name: str, enumerators: Iterable[str]) -> Optional[Item]:
    """An item of a newer kernel, guessed from an enumerator of the same name; None if there is
    none.

    The unit follows from the kernel's habits: NR_ANON_MAPPED and MEMCG_SOCK are in pages, names
    that end in _B are in bytes and in _KB in KiB, and all others are counts.
    """
    upper = name.upper()
    for enumerator, scale in (
        (upper, _items.ONE),
        (f"NR_{upper}", _items.PAGES),
        (f"MEMCG_{upper}", _items.PAGES),
        (f"NR_{upper}_B", _items.ONE),
        (f"MEMCG_{upper}_B", _items.ONE),
        (f"NR_{upper}_KB", _items.KIB),
    ):
        if enumerator in enumerators:
            return _items.guess(name, enumerator, scale)
    return None


class ReadPlan(Record):
    """The items that a program reads through one backend.

    Attributes:
        backend: "kfunc", "rfc" or "core".
        terms: the terms of each item by its name, in the order of a row's values.
        uses_rstat: whether updates of counters may wait for a flush on this kernel.
        keeps_words: whether the words between those of the terms are wanted, too.
    """

    backend: str
    terms: Terms
    uses_rstat: bool = True
    keeps_words: bool = False

    @property
    def key(self) -> object:
        """A key that two plans have in common if the same program serves both."""
        return self.backend, tuple(self.terms.items()), self.keeps_words

    @property
    def row_size(self) -> int:
        """The size of a row in bytes."""
        return _wire.row_size(len(self.terms))

    @property
    def needs_flush(self) -> bool:
        """Whether it has items that a flush brings up to date."""
        return self.uses_rstat and any(map(is_flushed, self.terms))

    @property
    def has_pressure(self) -> bool:
        """Whether it has totals that reading memory.pressure brings up to date."""
        return any(name.startswith(_items.PRESSURE) for name in self.terms)

    def header(self, order: int) -> bytes:
        """The header of a stream."""
        return _wire.encode_header([_number(name) for name in self.terms], order)

    @property
    def nr_words(self) -> int:
        """The number of words that are copied from the kernel's structures."""
        return _words_in(self._blocks())

    def block_number(self, base: PointerPath) -> Optional[int]:
        """The number of the block of a structure; None if nothing of it is read."""
        return {path: at for at, path in enumerate(self._blocks())}.get(base)

    def words_in(self, base: PointerPath) -> dict[int, int]:
        """The words of a structure that are read: by their offset in it, the index among all words
        that are copied."""
        block = self._blocks().get(base)
        if block is None:
            return {}
        offsets = {term.at for item in self.terms.values() for term in item if term.base == base}
        return {at: block.word + (base.offset + at - block.offset) // 8 for at in sorted(offsets)}

    def _blocks(self) -> dict[PointerPath, _terms.Block]:
        return _blocks([term for item in self.terms.values() for term in item])

    def constants(self, flush_mode: int, order: int = _options.SELF) -> dict[str, bytes]:
        """The constants of a program that fills rows.

        Raises:
            BackendUnavailableError: there are more items than a program has room for.
        """
        return {
            **self.tables(),
            "backend": _terms.u32(_terms.BACKEND_NUMBERS[self.backend]),
            "flush": _terms.u32(flush_mode),
            "memory_cgrp_id": _terms.u32(_btf.kernel().memory_cgrp_id or 0),
            "header": self.header(order),
        }

    def encoded(self) -> tuple[list[_terms.Block], list[_terms.EncodedTerm]]:
        """The blocks that a program copies, and the terms that it sums.

        Raises:
            BackendUnavailableError: there are more items than a program has room for.
        """
        blocks = self._blocks()
        terms = [
            _wire_term(term, blocks, _flags(name, term, at == len(item) - 1))
            for name, item in self.terms.items()
            for at, term in enumerate(item)
        ]
        room = _wire.MAX_ITEMS, _terms.MAX_TERMS, _terms.MAX_BLOCKS, _terms.MAX_WORDS
        needed = len(self.terms), len(terms), len(blocks), _words_in(blocks)
        if any(a > b for a, b in zip(needed, room)):
            raise BackendUnavailableError(
                f"{len(self.terms)} items are too many for the BPF program"
            )
        return list(blocks.values()), terms

    def tables(self) -> dict[str, bytes]:
        """The constants that say how the items are computed.

        Raises:
            BackendUnavailableError: there are more items than a program has room for.
        """
        blocks, terms = self.encoded()
        return {
            **page_constants(),
            "nr_blocks": _terms.u32(len(blocks)),
            "blocks": _terms.encode_blocks(blocks),
            "nr_terms": _terms.u32(len(terms)),
            "terms": _terms.encode_terms(terms),
        }


def page_constants() -> dict[str, bytes]:
    """The constants of limits.bpf.h."""
    counter = _btf.kernel().structs.get("page_counter", {})
    return {
        "page_size": _terms.u32(mmap.PAGESIZE),
        "counter_max": _terms.u32(counter["max"].offset if "max" in counter else 0),
        "counter_parent": _terms.u32(counter["parent"].offset if "parent" in counter else 0),
    }


def is_flushed(name: str) -> bool:
    """Whether a flush brings an item up to date, on kernels that use rstat: it is counted."""
    item = _items.item_named(name)
    return item is None or isinstance(item.source, (Counters, Difference, NodeCounter))


def _number(name: str) -> int:
    item = _items.item_named(name)
    return 0 if item is None else item.number


def _flags(name: str, term: Term, last: bool) -> int:
    item = _items.item_named(name)
    flags = _terms.TERM_LAST if last else 0
    if _items.file_of(name) not in _items.ON_ROOT or _is_unused_on_root(term.base):
        flags |= _terms.TERM_NOT_ON_ROOT
    if last and item is not None and isinstance(item.source, Difference):
        flags |= _terms.TERM_AT_LEAST_0
    return flags


def _is_unused_on_root(base: Optional[PointerPath]) -> bool:
    """Whether it is the struct psi_group within the root's struct cgroup. The kernel uses another
    one for the root (psi_system), and this one stays 0. (Later kernels have no such structure for
    the root.)"""
    return base is not None and base.start == _terms.START_CGROUP and not base.steps


def _blocks(terms: Iterable[Term]) -> dict[PointerPath, _terms.Block]:
    """The block of each structure, which spans from the first word needed to the last."""
    spans: dict[PointerPath, tuple[int, int]] = {}
    for term in terms:
        if term.base is not None:
            first, end = spans.get(term.base, (term.at, term.at))
            spans[term.base] = min(first, term.at), max(end, term.at + 8)
    blocks = {}
    word = 0
    for base, (first, end) in spans.items():
        first_step, second_step = (*base.steps, 0, 0)[:2]
        enabled_offset = 0
        if base.enabled_offset is not None:
            enabled_offset = 1 + base.offset + base.enabled_offset
        blocks[base] = _terms.Block(
            start=base.start,
            nr_steps=len(base.steps),
            first_step=first_step,
            second_step=second_step,
            offset=base.offset + first,
            size=end - first,
            word=word,
            enabled_offset=enabled_offset,
        )
        word += (end - first) // 8
    return blocks


def _words_in(blocks: dict[PointerPath, _terms.Block]) -> int:
    return sum(block.size for block in blocks.values()) // 8


def _wire_term(
    term: Term, blocks: dict[PointerPath, _terms.Block], flags: int
) -> _terms.EncodedTerm:
    unit = term.unit % (1 << 64)
    if term.base is None:
        return _terms.EncodedTerm(term.kind, flags, 0, term.at, unit)
    block = blocks[term.base]
    word = block.word + (term.base.offset + term.at - block.offset) // 8
    return _terms.EncodedTerm(term.kind, flags, list(blocks).index(term.base), word, unit)
