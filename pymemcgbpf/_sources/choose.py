# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses where a reader's numbers come from and how they travel, and makes that source."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Callable, Generic, NamedTuple, Optional, Protocol, TypeVar

from .. import _items
from .._bpf import btf as _btf
from .._bpf import counter_slots as _counter_slots
from .._bpf import plan as _plan
from .._bpf.plan import ReadPlan, Terms
from .._cgroup.diagnosis import map_os_errors
from .._cgroup.directory import Cgroup
from .._cgroup.present_items import PresentItems
from .._items import CATALOGUE, CURRENT, MEMORY_STAT, NodeCounter, close_names
from .._options import AUTO, BACKENDS, Request, check
from ..errors import (
    BackendUnavailableError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    TreeTooLargeError,
    UnknownItemError,
    is_transient,
)
from . import one_bpf as _one_bpf
from . import slot_discovery as _slot_discovery

PROBE = {
    "kfunc": ("bpf_get_mem_cgroup", "Linux 7.0 and later"),
    "rfc": ("memcg_node_stat_fetch", "kernels with the first form of the memcg kfunc patch"),
}
"""Backend → a function that tells whether a kernel has it, and which kernels do."""

RUN_FUNCTIONS = frozenset(("bpf_cgroup_from_id", "bpf_iter_css_new"))
"""What the transport "run" finds cgroups by."""


class Source(Protocol):
    """What a reader reads from, by a method of its kind's own."""

    def probe_missing(self) -> set[str]:
        """Reads once; the items that this kernel does not keep."""

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed a descriptor of it."""

    def close(self) -> None:
        """Lets go of all it holds."""


_Source = TypeVar("_Source", bound=Source)
_Made = TypeVar("_Made", bound=Source, covariant=True)


class SourceFactory(Protocol[_Made]):
    """A kind of source: _one_bpf.StatSourceFactory or _tree_bpf.TreeSourceFactory."""

    @property
    def transports(self) -> tuple[str, ...]:
        """How the numbers can travel through BPF, the best first."""

    @property
    def walks(self) -> bool:
        """Whether other cgroups' numbers are read, too."""

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Why a transport that would work is not the best here; "" if it is."""

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> _Made:
        """A source through BPF."""

    def text(self, cgroup: Cgroup, names: tuple[str, ...]) -> _Made:
        """A source through the cgroup's files."""


class Selection(Generic[_Source]):
    """What a reader reads from. (No dataclass: their module takes 6 ms to import.)"""

    def __init__(
        self, source: _Source, names: tuple[str, ...], backend: str, transport: str, why: str
    ) -> None:
        self.source, self.names = source, names
        self.backend, self.transport, self.fallback_reason = backend, transport, why


def choose(cgroup: Cgroup, request: Request, factory: SourceFactory[_Source]) -> Selection[_Source]:
    """The best source that works here, or the one asked for.

    Raises:
        ValueError: no such backend or transport.
        BackendUnavailableError: the one asked for cannot serve here.
        UnknownItemError, ItemUnavailableError, and what _cgroup.diagnosis raises.
    """
    _check_request(request, factory.transports)
    shown = PresentItems(cgroup, factory.walks)
    map_os_errors(cgroup, lambda: _check_known(request.names, shown))
    return _Selector(cgroup, request, factory, shown).best()


def _check_request(request: Request, transports: Sequence[str]) -> None:
    check("backend", request.backend, (AUTO, *BACKENDS))
    check("transport", request.transport, (AUTO, *transports))
    if request.backend == "text" and request.transport != AUTO:
        raise ValueError(f"the text backend has no transport {request.transport!r}")


class _Refusal(NamedTuple):
    """Why something cannot serve. Not the error itself: its traceback would hold everything."""

    name: str
    why: str
    of_items: bool

    @classmethod
    def by(cls, name: str, error: MemcgError) -> _Refusal:
        return cls(name, str(error), isinstance(error, ItemUnavailableError))


def _why(refusals: list[_Refusal]) -> str:
    """Which backends refused, and why: once for all that say the same."""
    names: dict[str, list[str]] = {}
    for name, why, _ in refusals:
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())


FATAL_ERRORS = (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemoryControllerError,
    NotACgroupError,
    TreeTooLargeError,
)


def _check_known(names: Optional[tuple[str, ...]], shown: PresentItems) -> None:
    """Raises where nobody knows a name: neither the catalogue, nor the kernel's files."""
    known = dict.fromkeys((*shown.names(MEMORY_STAT), *CATALOGUE))
    for name in names or ():
        if _items.is_group(name):
            files = _items.files_of_group(name)
            if len(files) == 1 or any(_items.in_group(name, one) for one in known):
                continue
            printed = (one for file in files for one in shown.names(file))
            if not any(_items.in_group(name, one) for one in printed):
                raise UnknownItemError(f"no item is called like {name!r}", item=name)
        elif name not in known and not _items.item_named(name) and not shown.has(name):
            like = close_names(name, known)
            hint = f"; did you mean {' or '.join(map(repr, like))}?" if like else ""
            raise UnknownItemError(f"no item is called {name!r}{hint}", item=name, suggestions=like)


def _unavailable(missing: Sequence[str], where: str) -> ItemUnavailableError:
    listed = ", ".join(map(repr, missing))
    return ItemUnavailableError(f"{where} does not have {listed}", item_names=missing)


_WHY_UNPROVED = (
    "its symbols do not show mem_cgroup_events_index (no CONFIG_KALLSYMS_ALL, or "
    "kernel.kptr_restrict), and no number has told it from its neighbours yet"
)
_WHY_NO_GUESS = "memory.stat does not show the number, other than 0, of the counter called like it"


class _Selector(Generic[_Source]):
    """One choice: what was asked for, what is there, and what was refused so far."""

    def __init__(
        self, cgroup: Cgroup, request: Request, factory: SourceFactory[_Source], shown: PresentItems
    ) -> None:
        self._cgroup, self._request, self._factory = cgroup, request, factory
        self._shown = shown
        # The items that must be there; of groups, those that are to be had.
        self._required = [name for name in request.names or () if not _items.is_group(name)]
        self._refusals: list[_Refusal] = []
        self._lacked_proof = False  # of an item that a backend may well have

    def best(self) -> Selection[_Source]:
        request = self._request
        if request.backend not in (AUTO, "text"):
            return map_os_errors(self._cgroup, lambda: self._through_bpf(request.backend))
        if request.backend == AUTO:
            for backend in BACKENDS[:-1]:
                try:
                    return map_os_errors(self._cgroup, lambda: self._through_bpf(backend))  # noqa: B023
                except FATAL_ERRORS:
                    raise
                except MemcgError as error:
                    if is_transient(error):
                        raise  # it will pass, and so is no reason for a lasting choice
                    self._refusals.append(_Refusal.by(backend, error))
            if request.transport != AUTO:
                raise BackendUnavailableError(_why(self._refusals))
        try:
            return map_os_errors(self._cgroup, self._through_text)
        except ItemUnavailableError as error:
            # v1's text shows but some items; BPF, if it could be had, might show the others.
            nowhere = any(refusal.of_items for refusal in self._refusals) and not self._lacked_proof
            if self._cgroup.version == 2 or not self._refusals or nowhere:
                raise
            message = f"{error}; {_why(self._refusals)}"
            raise ItemUnavailableError(message, item_names=error.item_names) from error

    # --- text

    def _through_text(self) -> Selection[_Source]:
        names = self._wanted(self._shown.names)
        self._check_there([name for name in self._required if not self._shown.has(name)])
        source = self._factory.text(self._cgroup, names)
        return Selection(source, names, "text", "text", _why(self._refusals))

    # --- which items

    def _wanted(self, offered: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
        """The names asked for, with groups taken apart.

        Args:
            offered: a file's items.
        """
        if self._request.names is None:
            return (*offered(MEMORY_STAT), *offered(CURRENT))
        found: dict[str, None] = {}
        for name in self._request.names:
            members = [name]
            if _items.is_group(name):
                files = _items.files_of_group(name)
                among = [item for file in files for item in offered(file)]
                members = [item for item in among if _items.in_group(name, item)]
            found.update(dict.fromkeys(members))
        if not found:
            raise _unavailable(self._request.names, self._cgroup.path)
        return tuple(found)

    def _check_there(self, missing: Sequence[str]) -> None:
        if missing:
            raise _unavailable(missing, self._where(missing))

    def _where(self, missing: Sequence[str]) -> str:
        of_stat = all(_items.file_of(name) == MEMORY_STAT for name in missing)
        if of_stat and self._cgroup.version == 1:
            return "this kernel's cgroup v1 memory.stat"
        if self._cgroup.is_root:
            return f"the root cgroup {self._cgroup.path} of this kernel"
        return "this kernel's memory.stat" if of_stat else f"the cgroup {self._cgroup.path}"

    # --- BPF

    def _through_bpf(self, backend: str) -> Selection[_Source]:
        plan = self._read_plan(backend)
        wanted = self._request.transport
        transports = self._factory.transports if wanted == AUTO else (wanted,)
        refused: list[_Refusal] = []
        for transport in transports:
            try:
                self._check_transport(plan, transport)
                source, names = self._open_supported(plan, transport)
            except FATAL_ERRORS:
                raise
            except MemcgError as error:
                if is_transient(error) or transport == transports[-1]:
                    raise
                refused.append(_Refusal.by(transport, error))
            else:
                why = _why(self._refusals + refused)
                return Selection(source, names, backend, transport, why)
        raise AssertionError("no transport")

    def _read_plan(self, backend: str) -> ReadPlan:
        """The items asked for, as far as this kernel has them."""
        types = _btf.kernel()
        if backend in PROBE:
            function, where = PROBE[backend]
            if function not in types.functions:
                raise BackendUnavailableError(f"this kernel has no {function} ({where})")
        if types.memory_cgrp_id is None:
            raise BackendUnavailableError("this kernel is built without the memory controller")
        wanted = self._wanted(self._shown.counted)
        self._check_there([name for name in self._required if not self._shown.counts(name)])
        source = _plan.Planner(backend, types, self._layout(backend, types, wanted))
        terms = {name: source.terms_of(name) for name in wanted}
        self._check_guesses(backend, terms)
        missing = [name for name in self._required if not terms[name]]
        if self._request.backend == self._request.transport == AUTO:  # else text is not asked for
            missing += [name for name in wanted if not terms[name] and self._would_be_lost(name)]
        if missing:
            raise self._no_terms(list(dict.fromkeys(missing)), source)
        return self._of_some(
            ReadPlan(backend, {name: part for name, part in terms.items() if part})
        )

    def _of_some(self, plan: ReadPlan) -> ReadPlan:
        """The same, if anything is left of what was asked for: another backend may have it.

        Raises:
            ItemUnavailableError: it has no items.
        """
        if not plan.terms:
            asked = self._request.names or (MEMORY_STAT,)
            raise _unavailable(asked, f"the {plan.backend} backend on {self._cgroup.path}")
        return plan

    def _would_be_lost(self, name: str) -> bool:
        """Whether text has a key that a group, or all of memory.stat, would then be without. (Of
        v1's few keys text would lose more than it saves.)"""
        in_stat = _items.file_of(name) == MEMORY_STAT
        return self._cgroup.version == 2 and in_stat and self._shown.has(name)

    def _no_terms(self, missing: list[str], source: _plan.Planner) -> ItemUnavailableError:
        """Why a backend does not offer items that the kernel counts."""
        unproved = [name for name in missing if source.lacks_proof(name)]
        guesses = [
            name
            for name in missing
            if name not in unproved
            and _items.item_named(name) is None
            and _plan.guessed(name, source.types.counters)
        ]
        self._lacked_proof = self._lacked_proof or bool(unproved or guesses)
        for names, why in (
            (unproved, "this kernel's order of counters could not be proved for {}: {}"),
            (guesses, "this version does not know {}: {}"),
        ):
            if names:
                listed = ", ".join(map(repr, names))
                text = why.format(listed, _WHY_UNPROVED if names is unproved else _WHY_NO_GUESS)
                return ItemUnavailableError(text, item_names=missing)
        return _unavailable(missing, f"the {source.backend} backend on this kernel")

    def _layout(
        self, backend: str, types: _btf.KernelTypes, names: Sequence[str]
    ) -> Optional[_counter_slots.Layout]:
        """Where the counters lie, if these items take it from there."""
        if backend == "core" and any(map(_plan.is_flushed, names)):
            return _slot_discovery.find(types, self._cgroup)
        items = map(_items.item_named, names)
        if any(item is not None and isinstance(item.source, NodeCounter) for item in items):
            with contextlib.suppress(BackendUnavailableError):
                return _slot_discovery.find(types, self._cgroup)
        return None

    def _check_guesses(self, backend: str, terms: Terms) -> None:
        """Drops items of a newer kernel that are not proved, by the same number in memory.stat, to
        be the counters they are called like, in their unit."""
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

    def _check_transport(self, plan: ReadPlan, transport: str) -> None:
        backend, why = plan.backend, ""
        if transport == "run":
            types = _btf.kernel()
            lacking = sorted(RUN_FUNCTIONS - types.functions)
            if lacking:
                why = f"this kernel has no {' and no '.join(lacking)} (Linux 6.7 and later)"
            elif self._cgroup.version == 1:
                why = "the kernel finds a cgroup by its id on cgroup v2 only"
            elif backend == "rfc":
                why = "the kernel offers the rfc functions to iterators only"
        if not why and self._request.transport == AUTO:
            flush = self._request.flush and plan.needs_flush
            why = self._factory.reason_to_avoid(self._cgroup, backend, flush, transport)
        if why:
            raise BackendUnavailableError(why)

    def _open_supported(self, plan: ReadPlan, transport: str) -> tuple[_Source, tuple[str, ...]]:
        """A source that reads, and the items that it gives."""
        while True:
            source = self._factory.bpf(self._cgroup, plan, self._request.flush, transport)
            try:
                absent = source.probe_missing()
            except BaseException:
                source.close()
                raise
            if not absent:
                return source, tuple(plan.terms)
            source.close()
            missing = [name for name in self._required if name in absent]
            if missing:
                raise _unavailable(missing, "this kernel")
            kept = {name: terms for name, terms in plan.terms.items() if name not in absent}
            plan = self._of_some(plan._replace(terms=kept))


def forget() -> None:
    """Lets go of the kept programs, each unloaded when its last user is closed; and of
    the opinion that this kernel's counters cannot be found."""
    _one_bpf.forget_programs()
    _slot_discovery.forget()
