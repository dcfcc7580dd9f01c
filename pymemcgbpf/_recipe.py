# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a BPF program is to compute: which counters make up which item."""

from __future__ import annotations

import mmap
from typing import NamedTuple, Optional

from . import _btf, _layout, _program, _wire
from .errors import BackendUnavailableError
from .items import CATALOGUE, CURRENT, KIB, PAGES, Item

Terms = dict[str, tuple[_program.Term, ...]]


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


class Recipe(NamedTuple):
    """Items, from a backend.

    Attributes:
        backend: "kfunc", "rfc" or "core".
        terms: item's name → its counters, in the order of a row's values.
        layout: where the counters lie, for core only.
    """

    backend: str
    terms: Terms
    layout: Optional[_layout.Layout]

    @property
    def key(self) -> object:
        """What two recipes for the same program have in common."""
        slots = self.layout and tuple(self.layout.slots.items())
        return self.backend, tuple(self.terms.items()), slots

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        return _wire.row_size(len(self.terms))

    def constants(self, flush_mode: int, order: int = _program.SELF) -> dict[str, bytes]:
        """The constants of any program of the object that reads rows.

        Raises:
            BackendUnavailableError: there are more items than the program has room for.
        """
        flat = [term for item in self.terms.values() for term in item]
        if len(self.terms) > _wire.MAX_ITEMS or len(flat) > _wire.MAX_TERMS:
            raise BackendUnavailableError(
                f"{len(self.terms)} items are too many for the BPF program"
            )
        numbers = [CATALOGUE[name].number if name in CATALOGUE else 0 for name in self.terms]
        return {
            "backend": _program.u32(_program.BACKENDS[self.backend]),
            "flush": _program.u32(flush_mode),
            "memory_cgrp_id": _program.u32(_btf.kernel().memory_cgrp_id or 0),
            "page_size": _program.u32(mmap.PAGESIZE),
            "vmstats_size": _program.u32(self._vmstats_size()),
            "nr_terms": _program.u32(len(flat)),
            "terms": _program.encode_terms(flat),
            "header": _wire.encode_header(numbers, order),
        }

    def _vmstats_size(self) -> int:
        """How much of the kernel's counters is copied for these items: up to the last one."""
        if self.layout is None:
            return 0
        counters = [
            term.counter
            for item in self.terms.values()
            for term in item
            if term.kind != _program.KIND_USAGE
        ]
        return 8 * (max(counters) + 1) if counters else 0
