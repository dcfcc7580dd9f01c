# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Creates pins: BPF iterator links in a bpffs, which other processes read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Optional, SupportsIndex

from .. import _items, _options, _wire
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import ITERATOR, NO_FLUSH, Feature
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _cgroup_diagnosis
from .._cgroup import directory as _directory
from .._cgroup.directory import Cgroup
from .._lookup import Path
from .._records import Record
from .._sources import choose as _choose
from .._sources import flush as _flush
from .._sources import links as _links
from .._sources import tree_bpf as _tree_bpf
from ..errors import (
    BackendUnavailableError,
    ItemUnavailableError,
    MemcgError,
    TreeTooLargeError,
    UnknownItemError,
)
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import parts as _parts
from . import read as _read
from . import transaction as _transaction


def pin(
    cgroup_path: Path,
    pin_path: Path,
    items: Optional[Iterable[str]] = None,
    *,
    order: _options.Order = "self",
    flush: bool = True,
    mode: int = 0o444,
) -> None:
    """Creates a file in a bpffs, a pin, from which a cgroup's statistics can be read.

    Any user with read permission can read it; no privileges and no running process are needed::

        >>> pin("/sys/fs/cgroup/system.slice", "/sys/fs/bpf/stats/system", ["anon", "file"])
        >>> with PinnedReader("/sys/fs/bpf/stats/system") as reader:  # any user, any process
        ...     reader.read()
        {'anon': 17727488, 'file': 708608}

    The pin stays until :func:`unpin` removes it or the machine restarts. A reader needs
    permission to read the file and to search the directories above it. It needs no libbpf and no
    BTF, and the cgroup need not be visible to it.

    Everybody who may read a pin can make the kernel walk these cgroups and flush their statistics
    as often as they like. The kernel holds its cgroup_mutex meanwhile. Readers learn the values,
    the ids of the cgroups and which cgroup is below which, but no names. While a pin exists, the
    kernel does not free its cgroup, even if the cgroup is removed.

    Args:
        cgroup_path: the directory of the cgroup, or of the walk's root.
        pin_path: the path of the new file, in a bpffs. Nothing may exist there. Missing
            directories above it are created with mode 0755. Names in a bpffs have no dots. A
            directory in which other users could replace the file is refused. Many systems let
            only root search /sys/fs/bpf: for other users, mount another bpffs, or bind-mount a
            directory of this one.
        items: as for :class:`StatsReader`. Items of a newer kernel that this version of the
            package does not know cannot be pinned; groups and None leave them out.
        order: "self" for this cgroup alone, or the order of a walk, as for :class:`TreeReader`.
        flush: True for values as fresh as those of memory.stat at each read: the program flushes
            the walk's root once, or, with "post", "up" and "children", each cgroup that it
            visits. False for values up to about 2 s old. Values of memory.pressure can be 2 s old
            either way. Linux 6.16 to 6.19 offer BPF no flush: use False there.
        mode: the file's permissions. os.chmod() can change them, and os.chown() the owner.

    Raises:
        PinExistsError, PinPathError, PinPermissionError: nothing can be created at *pin_path*.
        BackendUnavailableError: BPF does not work here (a subclass says why), or offers no flush.
        TreeTooLargeError: the walk does not fit into the kernel's buffer of 8 pages; use
            :func:`pin_tree`.
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: *cgroup_path* is not a cgroup with memory statistics.
        UnknownItemError, ItemUnavailableError: an item cannot be read here.
        ValueError: *order* or *mode* is not one of those allowed.
    """
    _options.check("order", order, _options.ORDERS)
    names = _items.requested_names(items)
    path, bits = _bpffs.absolute(pin_path), _mode(mode)
    _bpffs.check_free(path)
    cgroup = _directory.open_cgroup(cgroup_path)
    try:
        source = _chosen(cgroup, names, PinSourceFactory(order, bool(flush), True))
        made = _transaction.PinTransaction()
        try:
            source.pin(made.above(path), bits, made)
        except BaseException as error:
            made.undo()
            _diagnosis.raise_creation_error(path, error)
        finally:
            made.close()
            source.close()
    finally:
        cgroup.close()


def pin_tree(
    cgroup_path: Path,
    directory: Path,
    items: Optional[Iterable[str]] = None,
    *,
    flush: bool = True,
    mode: int = 0o444,
    room: Optional[SupportsIndex] = None,
) -> None:
    """Pins a tree of any size, in several parts.

    The parts are the files of one directory, which :class:`PinnedReader` reads as one tree::

        >>> pin_tree("/sys/fs/cgroup", "/sys/fs/bpf/stats/tree", ["anon", "file"])
        >>> PinnedReader("/sys/fs/bpf/stats/tree").read()
        <Snapshot of '/sys/fs/cgroup': 5001 cgroups, 2 items>

    The kernel gives one pin a buffer of 8 pages for its output, which is 32 KiB on most machines.
    Each part therefore walks the whole tree, but writes only its share of the cgroups. A cgroup's
    id decides which part has it, so it is in exactly one part, even if cgroups are created and
    removed while the parts are read. Only the first part flushes.

    Otherwise a pinned tree behaves as :func:`pin` describes. A read takes one walk for each part,
    so pin only the items that are needed. Creating a part takes a few milliseconds.

    Args:
        cgroup_path, items, flush: as for :func:`pin`.
        directory: the path of the new directory, in a bpffs. Nothing may exist there. It is
            created with mode 0755.
        mode: the permissions of the files in it.
        room: the number of cgroups to reserve space for. None for twice as many as exist now,
            and 64 more. Reading more than fit raises TreeTooLargeError.

    Raises:
        TreeTooLargeError: so many items of so many cgroups would take more than 1,024 parts.
        ValueError: *room* is below 1, or *mode* is not a file's permissions.
        MemcgError: a subclass, as for :func:`pin`.
    """
    names = _items.requested_names(items)
    wanted = None if room is None else _options.integer("room", room)
    if wanted is not None and wanted < 1:
        raise ValueError(f"room must be at least 1, not {wanted}")
    path, bits = _bpffs.absolute(directory), _mode(mode)
    _bpffs.check_free(path)
    cgroup = _directory.open_cgroup(cgroup_path)
    try:
        walk = PinSourceFactory("pre", bool(flush), False)
        source = _chosen(cgroup, names, walk)
        source.close()
        if wanted is None:
            wanted = 2 * _rows_now(cgroup, source.plan) + _SPARE_ROWS
        fit = _read.capacity(len(source.names))
        most = _parts.MOST_PARTS
        count = parts_for(min(wanted, (most + 1) * fit), fit)
        if count > most:
            raise TreeTooLargeError(
                f"{len(source.names)} items of {wanted:,} cgroups would take more than "
                f"{most:,} parts: pin fewer items, or with less room=",
                rows=wanted,
            )
        made = _transaction.PinTransaction()
        try:
            at = made.directory(made.above(path), 0o700)  # nobody reads an incomplete tree
            for number in range(count):
                part = _parts.Part(number, count)
                source = PinSource(cgroup, source.plan, walk, part)
                try:
                    source.pin(_transaction.Place(at, part.name), bits, made)
                finally:
                    source.close()
            os.fchmod(at, _transaction.DIRECTORY_MODE)
        except BaseException as error:
            made.undo()
            _diagnosis.raise_creation_error(path, error)
        finally:
            made.close()
    finally:
        cgroup.close()


_SPARE_ROWS = 64


def _rows_now(cgroup: Cgroup, plan: ReadPlan) -> int:
    """The number of cgroups in a tree. If the kernel does not say, a walk counts them."""
    below = cgroup.descendants
    return _tree_bpf.count_rows(cgroup, plan) if below is None else 1 + below


def parts_for(room: int, fit: int) -> int:
    """The number of parts that *room* cgroups need if *fit* of them fit into one part.

    The ids spread the cgroups over the parts as if at random: a part with m of them on average
    has more than m + 6 √m in one of a hundred million cases.
    """
    if room <= fit:
        return 1
    average = (math.sqrt(9 + fit) - 3) ** 2  # m + 6 √m = fit
    return math.ceil(room / average)


def _mode(mode: SupportsIndex) -> int:
    bits = _options.integer("mode", mode)
    if not 0 <= bits <= 0o777:
        raise ValueError(f"mode must be permissions, 0 to 0o777, not {bits:#o}")
    return bits


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

    def text(self, cgroup: Cgroup, names: tuple[str, ...]) -> PinSource:
        """Raises, because only a BPF link can be pinned."""
        raise BackendUnavailableError("only BPF can be pinned")


class PinSource:
    """An iterator link that can be pinned."""

    def __init__(
        self,
        cgroup: Cgroup,
        plan: ReadPlan,
        walk: PinSourceFactory,
        part: Optional[_parts.Part] = None,
    ) -> None:
        self.plan = plan
        self.names = tuple(plan.terms)
        self._cgroup, self._walk = cgroup, walk
        mode = _flush_mode(plan, walk.flush)
        order = _options.ORDERS[walk.order]
        constants = plan.constants(_terms.FLUSH_NONE if part and part.number else mode, order)
        order, more = _links.walk_order(order, cgroup)
        constants.update(more)
        if order not in (_options.SELF, _options.PRE):  # the first cgroup is not above the others
            constants["flush_each"] = _terms.u32(1)
        if part:
            constants["nr_parts"] = _terms.u32(part.of)
            constants["part"] = _terms.u32(part.number)
        program = _program.Program(_program.STREAM, constants)
        self._link = _links.attach(program, cgroup, order)

    def probe_missing(self) -> set[str]:
        """Reads once; returns the items that this kernel does not keep, and those that have no
        number in the wire format."""
        absent = {name for name in self.names if _items.item_named(name) is None}
        new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        data, _ = _links.read_iterator(new_iterator, _read.read_walk)
        header, rows, end_ns = _wire.split(data)
        if end_ns is None and self._walk.whole:
            fit = _read.capacity(len(header.item_numbers))
            raise _diagnosis.too_large(f"from {self._cgroup.path}", fit, _read.BUFFER)
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


def _flush_mode(plan: ReadPlan, flush: bool) -> int:
    mode = _flush.mode_for(plan, flush, by_iterator=True)
    if mode == _terms.FLUSH_NONE and flush and plan.needs_flush:
        raise BackendUnavailableError(
            f"{NO_FLUSH}, and no other process flushes for a pin: pin with flush=False "
            "(--no-flush), for values that are up to about 2 s old"
        )
    return mode


def _chosen(cgroup: Cgroup, names: Optional[tuple[str, ...]], walk: PinSourceFactory) -> PinSource:
    """A link that the best working backend made.

    Raises:
        MemcgError: no backend works; it is the error that says most.
    """
    numberless = [
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
            if isinstance(error, ItemUnavailableError) and numberless:
                raise _numberless(numberless) from error
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


def _numberless(names: list[str]) -> ItemUnavailableError:
    listed = ", ".join(map(repr, names))
    return ItemUnavailableError(
        f"{listed} cannot be pinned: this version of the package has no number for it in a pin's "
        "format; leave it out",
        item_names=names,
    )
