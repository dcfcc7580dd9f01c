# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The BPF program behind a pin: an iterator link, made by the best backend that works."""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from .. import _items, _options, _wire
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import ITERATOR, NO_FLUSH, Feature
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _cgroup_diagnosis
from .._cgroup.directory import Cgroup
from .._records import Record
from .._sources import choose as _choose
from .._sources import flush as _flush
from .._sources import links as _links
from .._sources import tree_bpf as _tree_bpf
from ..errors import (
    BackendUnavailableError,
    ItemUnavailableError,
    MemcgError,
    UnknownItemError,
)
from . import diagnosis as _diagnosis
from . import pin_stream as _pin_stream
from . import transaction as _transaction


class PinSourceFactory(Record):
    """Makes the link that is pinned: a :class:`_choose.SourceFactory`.

    Attributes:
        order: the order of the walk.
        flush: whether the program flushes.
        whole: whether all rows must fit into one pin.
        transports: the transports to try.
    """

    order: _options.Order
    flush: bool
    whole: bool
    transports: tuple[str, ...] = ("stream",)

    @property
    def walks(self) -> bool:
        """Whether other cgroups are read, too."""
        return self.order != "self"

    def feature_of(self, backend: str, transport: str) -> Feature:
        """The feature of the kernel that a transport needs."""
        return ITERATOR

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """No combination is avoided."""
        return ""

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> PinSource:
        """Loads the program and attaches its link."""
        return PinSource(cgroup, plan, self)

    def text(
        self, cgroup: Cgroup, names: tuple[str, ...], lacking: Collection[str] = ()
    ) -> PinSource:
        """Raises, because only a BPF link can be pinned."""
        raise BackendUnavailableError("only BPF can be pinned")


class PinSource:
    """An iterator link that can be pinned."""

    def __init__(
        self,
        cgroup: Cgroup,
        plan: ReadPlan,
        walk: PinSourceFactory,
    ) -> None:
        self.plan = plan
        self.names = tuple(plan.terms)
        self._cgroup, self._walk = cgroup, walk
        mode = flush_mode(plan, walk.flush)
        order = _options.ORDERS[walk.order]
        constants = plan.constants(mode, order)
        order, more = _links.walk_order(order, cgroup)
        constants.update(more)
        if order not in (_options.SELF, _options.PRE):  # the first cgroup is not above the others
            constants["flush_each"] = _terms.u32(1)
        program = _program.Program(_program.STREAM, constants)
        self._link = _links.attach(program, cgroup, order)

    def probe_missing(self) -> set[str]:
        """Reads once; returns the items that this kernel does not keep, and those that have no
        number in the wire format."""
        absent = {name for name in self.names if _items.item_named(name) is None}
        new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        data, _ = _links.read_iterator(new_iterator, _pin_stream.read_walk)
        header, rows, end_ns = _wire.split(data)
        if end_ns is None and self._walk.whole:
            fit = _pin_stream.capacity(len(header.item_numbers))
            raise _diagnosis.too_large(f"from {self._cgroup.path}", fit, _pin_stream.BUFFER)
        if rows:
            row = _wire.decode_row(rows, 0, len(self.names))
            lacking = {name for name, value in zip(self.names, row.values) if value == _wire.ABSENT}
            if self._walk.walks:
                on_root = bool(row.flags & _wire.ROW_ROOT)
                lacking = {name for name in lacking if not _tree_bpf.is_optional(name, on_root)}
            absent |= lacking
        elif self._walk.order != "children":
            raise _cgroup_diagnosis.why_unreadable(self._cgroup.path, self._cgroup.identity)
        return absent

    def pin(self, place: _transaction.Place, mode: int, made: _transaction.PinTransaction) -> None:
        """Pins the link; the transaction records the new file."""
        made.file(place, self._link.pin, mode)

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed the link's descriptor."""
        return self._link.is_lost

    def close(self) -> None:
        """Closes the link, which stays if it is pinned. Calling it again does nothing."""
        self._link.close()


def flush_mode(plan: ReadPlan, flush: bool) -> int:
    """How the program of a pin flushes, a ``FLUSH_*`` of terms.py.

    Raises:
        BackendUnavailableError: a flush is wanted, and no BPF program may flush on this kernel.
    """
    mode = _flush.mode_for(plan, flush, by_iterator=True)
    if mode == _terms.FLUSH_NONE and flush and plan.needs_flush:
        raise BackendUnavailableError(
            f"{NO_FLUSH}, and no other process flushes for a pin: pin with flush=False "
            "(--no-flush), for values that are up to about 2 s old"
        )
    return mode


def chosen(cgroup: Cgroup, names: Optional[tuple[str, ...]], walk: PinSourceFactory) -> PinSource:
    """A link that the best working backend made.

    Raises:
        MemcgError: no backend works; it is the error that says most.
    """
    unknown = [
        name
        for name in names or ()
        if not _items.is_group(name) and _items.item_named(name) is None
    ]
    refusal: Optional[MemcgError] = None
    for backend in _options.BACKENDS[:-1]:
        request = _options.Request(names, walk.flush, backend, _options.AUTO)
        try:
            source = _choose.choose(cgroup, request, walk).source
        except MemcgError as error:
            if isinstance(error, UnknownItemError) or _choose.ends_the_choice(error):
                raise
            if isinstance(error, ItemUnavailableError) and unknown:
                raise numberless(unknown) from error
            # A kernel without one backend's functions says less than a failure of another backend.
            if (
                refusal is None
                or type(error) is not BackendUnavailableError
                or (type(refusal) is BackendUnavailableError)
            ):
                refusal = error
        else:
            return source
    assert refusal is not None
    raise refusal


def numberless(names: list[str]) -> ItemUnavailableError:
    """The error for items that a pin's format has no number for."""
    listed = ", ".join(map(repr, names))
    return ItemUnavailableError(
        f"{listed} cannot be pinned: this version of the package has no number for it in a pin's "
        "format; leave it out",
        item_names=names,
    )
