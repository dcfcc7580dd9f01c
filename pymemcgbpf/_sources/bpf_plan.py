# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which of the wanted items a BPF backend can read on this kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Optional

from .. import _items
from .._bpf import btf as _btf
from .._bpf import counter_slots as _counter_slots
from .._bpf import plan as _plan
from .._bpf.plan import ReadPlan, Terms
from .._cgroup.directory import Cgroup
from .._items import MEMORY_STAT, NodeCounter
from ..errors import BackendUnavailableError, ItemUnavailableError
from . import slot_discovery as _slot_discovery
from .wanted_items import WantedItems, unavailable

_WHY_UNPROVED = (
    "its symbols do not show mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or "
    "kernel.kptr_restrict), and no value has distinguished it from its neighbours yet"
)
_WHY_NO_GUESS = "memory.stat does not confirm the counter of that name by a value other than 0"


class BpfPlanner:
    """Makes a plan of the wanted items for one backend after another.

    Attributes:
        lacked_proof: whether some backend may have an item, but could not prove which counter
            it is.
    """

    def __init__(self, cgroup: Cgroup, wanted: WantedItems, text_may_serve: bool) -> None:
        self._cgroup, self._wanted, self._text_may_serve = cgroup, wanted, text_may_serve
        self._types: Optional[_btf.KernelTypes] = None
        self.lacked_proof = False

    def plan(self, backend: str, types: _btf.KernelTypes) -> ReadPlan:
        """The plan for a backend.

        Raises:
            ItemUnavailableError: a required item is missing, or no item is left.
            BackendUnavailableError: it is not known where the kernel keeps its counters.
        """
        wanted, self._types = self._wanted, types
        names = wanted.expanded(wanted.shown.counted)
        wanted.check_required(wanted.shown.counts)
        planner = _plan.Planner(backend, types, self._layout(backend, types, names))
        terms = {name: planner.terms_of(name) for name in names}
        self._drop_wrong_guesses(backend, terms)
        missing = [name for name in wanted.required if not terms[name]]
        if self._text_may_serve:
            missing += [name for name in names if not terms[name] and self._text_has(name)]
        if missing:
            raise self._no_terms(list(dict.fromkeys(missing)), planner)
        kept = {name: part for name, part in terms.items() if part}
        return self.not_empty(ReadPlan(backend, kept, types.uses_rstat))

    def missing_as_text(self, names: Sequence[str]) -> list[str]:
        """The members of the wanted groups that BPF may have and that are not among those which
        text reads. There are some on cgroup v1 only."""
        wanted, types = self._wanted, self._types
        missing = [name for name in wanted.expanded(wanted.shown.counted) if name not in names]
        if types is None:  # no backend got so far
            return missing
        planner = _plan.Planner("kfunc", types, None)  # which needs no order of the counters
        return [name for name in missing if planner.terms_of(name)]

    def missing_through_bpf(self, names: Sequence[str]) -> list[str]:
        """The members of the wanted groups that text has on cgroup v1 and that are not among those
        which BPF reads."""
        if self._cgroup.version == 2:
            return []
        shown = self._wanted.shown.has
        among = self._wanted.expanded(self._wanted.shown.counted)
        return [name for name in among if name not in names and shown(name)]

    def not_empty(self, plan: ReadPlan) -> ReadPlan:
        """The same plan, if it has items.

        Raises:
            ItemUnavailableError: it has none. Another backend may have some.
        """
        if not plan.terms:
            asked = self._wanted.names or (MEMORY_STAT,)
            raise unavailable(asked, f"the {plan.backend} backend on {self._cgroup.path}")
        return plan

    def _text_has(self, name: str) -> bool:
        """Whether reading through BPF would lose a key that text has.

        On cgroup v1 the answer is always no: text has so few keys there that it would lose more.
        """
        in_stat = _items.file_of(name) == MEMORY_STAT
        return self._cgroup.version == 2 and in_stat and self._wanted.shown.has(name)

    def _no_terms(self, missing: list[str], planner: _plan.Planner) -> ItemUnavailableError:
        """Why a backend does not offer items that the kernel counts."""
        unproved = [name for name in missing if planner.lacks_proof(name)]
        guesses = [
            name
            for name in missing
            if name not in unproved
            and _items.item_named(name) is None
            and _plan.guessed(name, planner.types.counters)
        ]
        self.lacked_proof = self.lacked_proof or bool(unproved or guesses)
        listed = ", ".join(map(repr, unproved or guesses))
        if unproved:
            why = (
                f"this kernel's order of counters could not be proved for {listed}: {_WHY_UNPROVED}"
            )
        elif guesses:
            why = f"this version does not know {listed}: {_WHY_NO_GUESS}"
        else:
            return unavailable(missing, f"the {planner.backend} backend on this kernel")
        return ItemUnavailableError(why, item_names=missing)

    def _layout(
        self, backend: str, types: _btf.KernelTypes, names: Sequence[str]
    ) -> Optional[_counter_slots.Layout]:
        """The slots of the counters, if these items are read from them."""
        if backend == "core" and any(map(_plan.is_flushed, names)):
            return _slot_discovery.find(types, self._cgroup)
        items = map(_items.item_named, names)
        if any(item is not None and isinstance(item.source, NodeCounter) for item in items):
            with contextlib.suppress(BackendUnavailableError):
                return _slot_discovery.find(types, self._cgroup)
        return None

    def _drop_wrong_guesses(self, backend: str, terms: Terms) -> None:
        """Drops items whose counter is a guess, unless memory.stat confirms the guess by showing
        the counter's number under the item's name."""
        guesses = {
            name: parts
            for name, parts in terms.items()
            if parts and _items.item_named(name) is None
        }
        if not guesses:
            return
        right: set[str] = set()
        for agreeing in _slot_discovery.comparisons(self._cgroup, ReadPlan(backend, guesses)):
            right |= agreeing
            if right >= guesses.keys():
                return
        terms.update((name, ()) for name in guesses.keys() - right)
