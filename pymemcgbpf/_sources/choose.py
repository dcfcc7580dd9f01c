# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses the backend and the transport of a reader, and opens the source that reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Generic, Optional, Protocol, TypeVar

from .._bpf import btf as _btf
from .._bpf import features as _features
from .._bpf.features import RUN, Feature
from .._bpf.plan import ReadPlan
from .._cgroup.diagnosis import map_os_errors
from .._cgroup.directory import Cgroup
from .._cgroup.present_items import PresentItems
from .._items import MEMORY_STAT
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
    is_transient,
)
from . import program_cache as _program_cache
from . import slot_discovery as _slot_discovery
from .bpf_plan import BpfPlanner
from .refusals import Refusal, fallback_reason, summary, unavailable_transport
from .wanted_items import WantedItems, unavailable


class Source(Protocol):
    """What a reader reads from. Each kind of source has its own method that reads."""

    def probe_missing(self) -> set[str]:
        """Reads once, and returns the names of the items that this kernel does not keep."""

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""

    def close(self) -> None:
        """Releases its programs and closes its files."""


_Source = TypeVar("_Source", bound=Source)
_Made = TypeVar("_Made", bound=Source, covariant=True)


class SourceFactory(Protocol[_Made]):
    """Opens sources of one kind: for one cgroup, for a tree, or for a pin."""

    @property
    def transports(self) -> tuple[str, ...]:
        """The BPF transports of this kind, the best first."""

    @property
    def walks(self) -> bool:
        """Whether it also reads other cgroups than the one that is named."""

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Why a transport that works is slower here than the next one; "" if it is not."""

    def feature_of(self, backend: str, transport: str) -> Feature:
        """The feature of the kernel that a transport needs."""

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> _Made:
        """Opens a source that reads through BPF."""

    def text(self, cgroup: Cgroup, names: tuple[str, ...], lacking: Collection[str] = ()) -> _Made:
        """Opens a source that reads the cgroup's files, which have all of *names* but *lacking*."""


class Selection(Generic[_Source]):
    """The source that was chosen for a reader, why no faster one was, and which members of the
    wanted groups another backend may have."""

    def __init__(
        self,
        source: _Source,
        names: tuple[str, ...],
        backend: str,
        transport: str,
        why: str,
        missing: str = "",
    ) -> None:
        self.source, self.names, self.missing = source, names, missing
        self.backend, self.transport = backend, transport
        self.fallback_reason = "; ".join(filter(None, (why, missing)))


def choose(cgroup: Cgroup, request: Request, factory: SourceFactory[_Source]) -> Selection[_Source]:
    """Opens the source that was asked for or, with "auto", the best one that works here.

    Raises:
        ValueError: there is no such backend or transport.
        BackendUnavailableError: the backend or transport that was asked for does not work here.
        UnknownItemError: there is no item of this name.
        ItemUnavailableError: the item exists, but not here.
        MemcgError: the cgroup cannot be read; a subclass says why.
    """
    _check_request(request, factory.transports)
    wanted = WantedItems(request.names, cgroup, PresentItems(cgroup, factory.walks))
    map_os_errors(cgroup, wanted.check_known)
    return _Selector(cgroup, request, factory, wanted).best()


def choose_text(
    cgroup: Cgroup,
    asked: Optional[tuple[str, ...]],
    names: tuple[str, ...],
    factory: SourceFactory[_Source],
) -> tuple[_Source, list[str]]:
    """Opens the files for a reader that cannot read on through BPF.

    Args:
        cgroup: the cgroup.
        asked: the names of items and groups that the reader was made with.
        names: the items that it reads, whose places stay.
        factory: opens the source.

    Returns:
        The source, and the items that the files lack. No cgroup has them from now on.

    Raises:
        ItemUnavailableError: the files lack an item that was asked for by its own name, or all.
        MemcgError: the cgroup cannot be read; a subclass says why.
    """
    wanted = WantedItems(asked, cgroup, PresentItems(cgroup, factory.walks))

    def opened() -> tuple[_Source, list[str]]:
        wanted.check_required(wanted.shown.has)
        lacking = [name for name in names if not wanted.shown.has(name)]
        if len(lacking) == len(names):
            raise unavailable(wanted.names or (MEMORY_STAT,), cgroup.path)
        return factory.text(cgroup, names, lacking), lacking

    return map_os_errors(cgroup, opened)


def _check_request(request: Request, transports: Sequence[str]) -> None:
    check("backend", request.backend, (AUTO, *BACKENDS))
    check("transport", request.transport, (AUTO, *transports))
    if request.backend == "text" and request.transport != AUTO:
        raise ValueError(f"the text backend has no transport {request.transport!r}")


FATAL_ERRORS = (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemoryControllerError,
    NotACgroupError,
    TreeTooLargeError,
)


def ends_the_choice(error: MemcgError) -> bool:
    """Whether an error ends the choice, so that no other backend or transport is tried.

    Either the cgroup itself is the reason, or the failure is transient and should not decide what a
    reader uses for as long as it lives.
    """
    return isinstance(error, FATAL_ERRORS) or is_transient(error)


class _Selector(Generic[_Source]):
    """One choice: the request, what is available, and the refusals so far."""

    def __init__(
        self, cgroup: Cgroup, request: Request, factory: SourceFactory[_Source], wanted: WantedItems
    ) -> None:
        self.cgroup, self.request, self.factory, self._wanted = cgroup, request, factory, wanted
        text_may_serve = request.backend == request.transport == AUTO
        self._planner = BpfPlanner(cgroup, wanted, text_may_serve)
        self._refusals: list[Refusal] = []
        # The feature that the kernel lacks for a backend or transport, by its name.
        self._missing_features: dict[str, Feature] = {}

    def best(self) -> Selection[_Source]:
        """Opens the source that was asked for, or the best one that works."""
        if self.request.backend == "text":
            return self._asked_for_text()
        if self.request.backend != AUTO:
            return self._open(self.request.backend)
        for backend in BACKENDS[:-1]:
            try:
                return self._open(backend)
            except MemcgError as error:
                if ends_the_choice(error):
                    raise
                self._refusals.append(self._refusal(backend, error))
        if self.request.transport != AUTO:
            raise unavailable_transport(self._refusals)
        try:
            return map_os_errors(self.cgroup, self._through_text)
        except ItemUnavailableError as error:
            # On cgroup v1 text has few items. BPF might have had more.
            refused = [refusal for refusal in self._refusals if refusal.item_names]
            fewest = min(refused, key=lambda refusal: len(refusal.item_names), default=None)
            if fewest is not None and len(fewest.item_names) < len(error.item_names):
                raise ItemUnavailableError(fewest.why, item_names=fewest.item_names) from error
            nowhere = bool(refused) and not self._planner.lacked_proof
            if self.cgroup.version == 2 or not self._refusals or nowhere:
                raise
            message = f"{error}; {summary(self._refusals)}"
            raise ItemUnavailableError(message, item_names=error.item_names) from error

    def _open(self, backend: str) -> Selection[_Source]:
        return map_os_errors(self.cgroup, lambda: BPF_OPENER.open(self, backend))

    def _refusal(self, name: str, error: MemcgError) -> Refusal:
        return Refusal.of(name, error, self._missing_features.get(name))

    def _asked_for_text(self) -> Selection[_Source]:
        try:
            return map_os_errors(self.cgroup, self._through_text)
        except ItemUnavailableError as error:
            counted = [name for name in error.item_names if self._wanted.shown.counts(name)]
            if not counted:
                raise
            message = f"{error}; BPF alone may have {', '.join(map(repr, counted))}"
            raise ItemUnavailableError(message, item_names=error.item_names) from error

    def _through_text(self) -> Selection[_Source]:
        names = self._wanted.expanded(self._wanted.shown.names)
        self._wanted.check_required(self._wanted.shown.has)
        source = self.factory.text(self.cgroup, names)
        missing = ""
        if self._refusals and (lost := self._planner.missing_as_text(names)):
            missing = (
                f"as text, up to {len(lost)} of {len(names) + len(lost)} items are missing "
                f"({first_of(lost)})"
            )
        return Selection(source, names, "text", "text", fallback_reason(self._refusals), missing)

    def through_bpf(self, backend: str) -> Selection[_Source]:
        """Opens the source of one backend, with the best transport that works."""
        types = _btf.kernel()
        self._check_backend(backend, types)
        plan = self._planner.plan(backend, types)
        wanted = self.request.transport
        avoided = self._avoided(plan) if wanted == AUTO else {}
        transports = (
            (*(each for each in self.factory.transports if each not in avoided), *avoided)
            if wanted == AUTO
            else (wanted,)
        )
        # Why one fails that the kernel has says more than that it lacks the next one.
        had = [each for each in transports if self.factory.feature_of(backend, each).is_in(types)]
        last = (had or transports)[-1]
        refusals: list[Refusal] = []
        for transport in transports:
            try:
                self._check_transport(plan, transport, types)
                source, names = self._open_supported(plan, transport)
            except MemcgError as error:
                if transport == last or ends_the_choice(error):
                    raise
                refusals.append(self._refusal(transport, error))
            else:
                avoided.pop(transport, None)
                why = fallback_reason([*self._refusals, *avoided.values(), *refusals])
                missing = ""
                if lost := self._planner.missing_through_bpf(names):
                    missing = f"{backend} does not have {len(lost)} of text's items"
                    missing = f"{missing} ({first_of(lost)})"
                return Selection(source, names, backend, transport, why, missing)
        raise AssertionError("no transport")

    def _avoided(self, plan: ReadPlan) -> dict[str, Refusal]:
        """The transports that are tried last, because others take less time, and why."""
        flush = self.request.flush and plan.needs_flush
        found = {}
        for transport in self.factory.transports:
            why = self.factory.reason_to_avoid(self.cgroup, plan.backend, flush, transport)
            if why:
                found[transport] = self._refusal(transport, BackendUnavailableError(why))
        return found

    def _check_backend(self, backend: str, types: _btf.KernelTypes) -> None:
        feature = _features.BACKENDS[backend]
        if feature.functions and not feature.is_in(types):
            self._missing_features[backend] = feature
            why = feature.explain(types)
            if self.request.backend != AUTO:
                why = f'{why}: use backend="auto" (--backend auto; {feature.without})'
            raise BackendUnavailableError(why)
        if types.memory_cgrp_id is None:
            raise BackendUnavailableError("this kernel is built without the memory controller")

    def _check_transport(self, plan: ReadPlan, transport: str, types: _btf.KernelTypes) -> None:
        backend, why = plan.backend, ""
        feature = self.factory.feature_of(backend, transport)
        if not feature.is_in(types):
            self._missing_features[transport] = feature
            why = feature.explain(types)
        elif feature is RUN and self.cgroup.version == 1:
            why = "the kernel finds a cgroup by its id on cgroup v2 only"
        elif feature is RUN and backend == "rfc":
            why = "the kernel offers the rfc functions to iterators only"
        if why:
            raise BackendUnavailableError(why)

    def _open_supported(self, plan: ReadPlan, transport: str) -> tuple[_Source, tuple[str, ...]]:
        """Opens a source without the items that this kernel lacks; returns it and its items."""
        while True:
            source = self.factory.bpf(self.cgroup, plan, self.request.flush, transport)
            try:
                absent = source.probe_missing()
            except BaseException:
                source.close()
                raise
            if not absent:
                return source, tuple(plan.terms)
            source.close()
            missing = [name for name in self._wanted.required if name in absent]
            if missing:
                raise unavailable(missing, "this kernel")
            kept = {name: terms for name, terms in plan.terms.items() if name not in absent}
            plan = self._planner.not_empty(plan._replace(terms=kept))


_MOST_LISTED = 3


def first_of(names: Sequence[str]) -> str:
    """The first of some names, for a message."""
    return ", ".join((*names[:_MOST_LISTED], *(["..."] if len(names) > _MOST_LISTED else [])))


class BpfOpener:
    """Opens sources that read through BPF. Tests replace the one in :data:`BPF_OPENER`."""

    def open(self, selector: _Selector[_Source], backend: str) -> Selection[_Source]:
        """Opens the source of one backend.

        Raises:
            MemcgError: the backend does not work here.
        """
        return selector.through_bpf(backend)


BPF_OPENER = BpfOpener()


def forget() -> None:
    """Unloads unused programs, and clears the cached negative result of the search for this
    kernel's counters."""
    _program_cache.clear()
    _slot_discovery.forget_failure()
