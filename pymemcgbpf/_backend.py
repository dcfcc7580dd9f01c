# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses where a reader's numbers come from, and makes that source.

A source has ``read() -> dict`` and ``close()``: see _bpf_source.py and _memory_stat.py.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional, TypeVar, Union

from . import _bpf_source, _btf, _cgroupfs, _kernel_layout, _memory_stat, _wire
from ._bpf_source import BpfSource, terms_of
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


Source = Union[BpfSource, _memory_stat.TextSource]


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
    refusals: list[tuple[str, MemcgError]] = []

    def text() -> Choice:
        source, offered = _through_text(cgroup, names, printed)
        return Choice(source, offered, "text", _why(refusals))

    def bpf(name: str) -> Choice:
        source, offered = _through_bpf(cgroup, names, printed, flush, name)
        return Choice(source, offered, name, _why(refusals))

    if backend == AUTO:
        for name in BEST_FIRST[:-1]:
            try:
                return _translated(cgroup, functools.partial(bpf, name))
            except _NO_BACKEND_WOULD_HELP:
                raise
            except MemcgError as error:
                refusals.append((name, error))
    elif backend != "text":
        return _translated(cgroup, functools.partial(bpf, backend))
    try:
        return _translated(cgroup, text)
    except ItemUnavailableError as error:
        # v1's text shows but some items; BPF, if it could be had, might show the others.
        nowhere = any(isinstance(refusal, ItemUnavailableError) for _, refusal in refusals)
        if cgroup.version == 2 or not refusals or nowhere:
            raise
        raise ItemUnavailableError(f"{error}; {_why(refusals)}", items=error.items) from error


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
)

_Made = TypeVar("_Made")


def _translated(cgroup: Cgroup, make: Callable[[], _Made]) -> _Made:
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


# --- text -----------------------------------------------------------------------------


def _through_text(
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


def _through_bpf(
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
    layout = _kernel_layout.find(types, cgroup) if backend == "core" else None
    wanted = names
    if wanted is None:
        # v1's memory.stat does not show v2's lines, so there all that is kept is offered.
        wanted = (*printed, CURRENT) if cgroup.version == 2 else tuple(CATALOGUE)
    else:
        hidden = [name for name in wanted if not _is_shown(name, cgroup, printed)]
        if hidden:
            raise _unavailable(hidden, _where(cgroup))
    terms = {name: terms_of(name, types, layout) for name in wanted}
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


def forget() -> None:
    """Lets go of the kept programs, each unloaded when its last link is closed; and of
    the opinion that this kernel's counters cannot be found."""
    _bpf_source.forget_programs()
    _kernel_layout.forget()
