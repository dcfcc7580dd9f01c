# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses where a reader's numbers come from and how they travel, and makes that source."""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Sequence
from typing import Callable, Generic, NamedTuple, Optional, Protocol, TypeVar

from . import _btf, _cgroupfs, _kernel_layout, _memory_stat, _stat_sources
from ._cgroupfs import Cgroup
from ._recipe import Recipe, terms_of
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
    TreeTooLargeError,
    UnknownItemError,
    errno_text,
)
from .items import CATALOGUE, CURRENT, close_names

BEST_FIRST = ("kfunc", "rfc", "core", "text")
AUTO = "auto"

_PROBE = {
    "kfunc": ("bpf_get_mem_cgroup", "Linux 7.0 and later"),
    "rfc": ("memcg_node_stat_fetch", "kernels with the first form of the memcg kfunc patch"),
}


class Request(NamedTuple):
    """What a caller asked for."""

    names: Optional[tuple[str, ...]]
    flush: bool
    backend: str
    transport: str


class Source(Protocol):
    """What a reader reads from, by a method of its kind's own."""

    def absent(self) -> set[str]:
        """Reads once; the items that this kernel does not keep."""

    def close(self) -> None:
        """Lets go of all it holds."""


_Source = TypeVar("_Source", bound=Source)
_Made = TypeVar("_Made", bound=Source, covariant=True)


class Maker(Protocol[_Made]):
    """A kind of source: _stat_sources.OneCgroup or _tree_sources.Tree."""

    @property
    def transports(self) -> tuple[str, ...]:
        """How the numbers can travel through BPF, the best first."""

    def shows_current(self, cgroup: Cgroup) -> bool:
        """Whether the number of memory in use is to be had."""

    def declines(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Why a transport that would work is not the best here; "" if it is."""

    def bpf(self, cgroup: Cgroup, recipe: Recipe, flush: bool, transport: str) -> _Made:
        """A source through BPF."""

    def text(self, cgroup: Cgroup, names: tuple[str, ...]) -> _Made:
        """A source through the cgroup's files."""


@dataclasses.dataclass(frozen=True)
class Choice(Generic[_Source]):
    """What a reader reads from."""

    source: _Source
    names: tuple[str, ...]
    backend: str
    transport: str
    why: str


def choose(cgroup: Cgroup, request: Request, maker: Maker[_Source]) -> Choice[_Source]:
    """The best source that works here, or the one asked for.

    Raises:
        ValueError: no such backend or transport.
        BackendUnavailableError: the one asked for cannot serve here.
        UnknownItemError, ItemUnavailableError, and what _cgroupfs raises.
    """
    _check_request(request, maker.transports)
    printed = _translated(cgroup, lambda: tuple(_memory_stat.keys(cgroup)))
    _check_known(request.names, printed)
    return _Choosing(cgroup, request, maker, printed).best()


def _check_request(request: Request, transports: Sequence[str]) -> None:
    for what, value, known in (
        ("backend", request.backend, (AUTO, *BEST_FIRST)),
        ("transport", request.transport, (AUTO, *transports)),
    ):
        if value not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(f"{what} must be one of {names}, not {value!r}")
    if request.backend == "text" and request.transport != AUTO:
        raise ValueError(f"the text backend has no transport {request.transport!r}")


def _why(refusals: list[tuple[str, MemcgError]]) -> str:
    """Which backends refused, and why: once for all that say the same."""
    names: dict[str, list[str]] = {}
    for name, error in refusals:
        names.setdefault(str(error), []).append(name)
    return "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())


_NO_BACKEND_WOULD_HELP = (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemoryControllerError,
    NotACgroupError,
    TreeTooLargeError,
)

_Result = TypeVar("_Result")


def _translated(cgroup: Cgroup, make: Callable[[], _Result]) -> _Result:
    """What *make* returns; its plain OSErrors as errors of ours."""
    try:
        return make()
    except ItemUnavailableError as error:
        if cgroup.has_lost_files:
            raise _cgroupfs.why_unreadable(cgroup.path, cgroup.identity) from error
        raise
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


class _Choosing(Generic[_Source]):
    """One choice: what was asked for, what is there, and what was refused so far."""

    def __init__(
        self, cgroup: Cgroup, request: Request, maker: Maker[_Source], printed: Sequence[str]
    ) -> None:
        self._cgroup, self._request, self._maker = cgroup, request, maker
        self._printed = printed
        self._refusals: list[tuple[str, MemcgError]] = []

    def best(self) -> Choice[_Source]:
        request = self._request
        if request.backend not in (AUTO, "text"):
            return _translated(self._cgroup, lambda: self._through_bpf(request.backend))
        if request.backend == AUTO:
            for backend in BEST_FIRST[:-1]:
                try:
                    return _translated(self._cgroup, lambda: self._through_bpf(backend))  # noqa: B023
                except _NO_BACKEND_WOULD_HELP:
                    raise
                except MemcgError as error:
                    self._refusals.append((backend, error))
            if request.transport != AUTO:
                raise BackendUnavailableError(_why(self._refusals))
        try:
            return _translated(self._cgroup, self._through_text)
        except ItemUnavailableError as error:
            # v1's text shows but some items; BPF, if it could be had, might show the others.
            nowhere = any(isinstance(other, ItemUnavailableError) for _, other in self._refusals)
            if self._cgroup.version == 2 or not self._refusals or nowhere:
                raise
            message = f"{error}; {_why(self._refusals)}"
            raise ItemUnavailableError(message, items=error.items) from error

    # --- text

    def _through_text(self) -> Choice[_Source]:
        names = tuple(self._printed)
        if self._maker.shows_current(self._cgroup):
            names += (CURRENT,)
        if self._request.names is not None:
            missing = [name for name in self._request.names if name not in names]
            if missing:
                raise _unavailable(missing, self._where())
            names = self._request.names
        source = self._maker.text(self._cgroup, names)
        return Choice(source, names, "text", "text", _why(self._refusals))

    def _where(self) -> str:
        if self._cgroup.is_root:
            return f"the root cgroup {self._cgroup.path} of this kernel"
        version = "" if self._cgroup.version == 2 else "cgroup v1 "
        return f"this kernel's {version}memory.stat"

    # --- BPF

    def _through_bpf(self, backend: str) -> Choice[_Source]:
        recipe = self._recipe(backend)
        wanted = self._request.transport
        transports = self._maker.transports if wanted == AUTO else (wanted,)
        refused: list[tuple[str, MemcgError]] = []
        for transport in transports:
            try:
                self._check_transport(backend, transport)
                source, names = self._kept(recipe, transport)
            except _NO_BACKEND_WOULD_HELP:
                raise
            except MemcgError as error:
                if transport == transports[-1]:
                    raise
                refused.append((transport, error))
            else:
                why = _why(self._refusals + refused)
                return Choice(source, names, backend, transport, why)
        raise AssertionError("no transport")

    def _recipe(self, backend: str) -> Recipe:
        """The items asked for, as far as this kernel has them."""
        types = _btf.kernel()
        if backend in _PROBE:
            function, where = _PROBE[backend]
            if function not in types.functions:
                raise BackendUnavailableError(f"this kernel has no {function} ({where})")
        if types.memory_cgrp_id is None:
            raise BackendUnavailableError("this kernel is built without the memory controller")
        layout = _kernel_layout.find(types, self._cgroup) if backend == "core" else None
        names = self._request.names
        if names is None:
            # v1's memory.stat does not show v2's lines, so there all that is kept is offered.
            wanted = (*self._printed, CURRENT) if self._cgroup.version == 2 else tuple(CATALOGUE)
        else:
            wanted = names
            hidden = [name for name in wanted if not self._is_shown(name)]
            if hidden:
                raise _unavailable(hidden, self._where())
        terms = {name: terms_of(name, types, layout) for name in wanted}
        kept = {name: terms[name] for name in wanted if terms[name] and self._is_shown(name)}
        if names is not None and len(kept) < len(names):
            missing = [name for name in names if name not in kept]
            raise _unavailable(missing, f"the {backend} backend on this kernel")
        return Recipe(backend, kept, layout)

    def _is_shown(self, name: str) -> bool:
        """Whether memory.stat, or the item's own file, has it: then it means the same."""
        if name == CURRENT:
            return self._maker.shows_current(self._cgroup)
        if self._cgroup.version == 2:
            return name in self._printed
        return name not in _NOT_ACCOUNTED_ON_V1

    def _check_transport(self, backend: str, transport: str) -> None:
        why = ""
        if transport == "run":
            types = _btf.kernel()
            lacking = sorted({"bpf_cgroup_from_id", "bpf_iter_css_new"} - types.functions)
            if lacking:
                why = f"this kernel has no {' and no '.join(lacking)} (Linux 6.7 and later)"
            elif self._cgroup.version == 1:
                why = "the kernel finds a cgroup by its id on cgroup v2 only"
            elif backend == "rfc":
                why = "the kernel offers the rfc functions to iterators only"
        if not why and self._request.transport == AUTO:
            why = self._maker.declines(self._cgroup, backend, self._request.flush, transport)
        if why:
            raise BackendUnavailableError(why)

    def _kept(self, recipe: Recipe, transport: str) -> tuple[_Source, tuple[str, ...]]:
        """A source that reads, and the items that it gives."""
        while True:
            source = self._maker.bpf(self._cgroup, recipe, self._request.flush, transport)
            try:
                absent = source.absent()
            except CgroupRemovedError as error:
                source.close()
                if self._is_going():
                    raise
                raise BackendUnavailableError(f"it does not find this cgroup ({error})") from error
            except BaseException:
                source.close()
                raise
            if not absent:
                return source, tuple(recipe.terms)
            source.close()
            if self._request.names is not None:
                missing = [name for name in recipe.terms if name in absent]
                raise _unavailable(missing, "this kernel")
            kept = {name: terms for name, terms in recipe.terms.items() if name not in absent}
            recipe = recipe._replace(terms=kept)

    def _is_going(self) -> bool:
        """Whether the cgroup is being removed: its files go a moment after its statistics."""
        for _ in range(_LOOKS):
            if self._cgroup.has_lost_files:
                return True
            time.sleep(_SECONDS_BETWEEN)
        return False


_LOOKS, _SECONDS_BETWEEN = 25, 0.01

# The kernel counts them per cgroup on v2 only (cgroup_subsys_on_dfl); hugetlb there by a
# mount option.
_NOT_ACCOUNTED_ON_V1 = ("hugetlb", "sock", "zswap", "zswapped", "zswap_incomp")


def forget() -> None:
    """Lets go of the kept programs, each unloaded when its last user is closed; and of
    the opinion that this kernel's counters cannot be found."""
    _stat_sources.forget_programs()
    _kernel_layout.forget()
