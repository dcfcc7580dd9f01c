# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Puts iterator links into a bpffs, for others to read."""

from __future__ import annotations

import errno
import math
import operator
import os
from collections.abc import Iterable
from typing import NamedTuple, NoReturn, Optional, SupportsIndex

from .. import _items, _options, _wire
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import NO_FLUSH
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import directory as _directory
from .._cgroup.directory import Cgroup
from .._lookup import Path
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
    is_transient,
)
from . import bpffs as _bpffs
from . import read as _read


def pin(
    cgroup_path: Path,
    pin_path: Path,
    items: Optional[Iterable[str]] = None,
    *,
    order: _options.Order = "self",
    flush: bool = True,
    mode: int = 0o444,
) -> None:
    """Makes a file in a bpffs that gives a cgroup's statistics to whoever may read it::

        >>> pin("/sys/fs/cgroup/system.slice", "/sys/fs/bpf/stats/system", ["anon", "file"])
        >>> with PinnedReader("/sys/fs/bpf/stats/system") as reader:  # any user, any process
        ...     reader.read()
        {'anon': 17727488, 'file': 708608}

    It stays until :func:`unpin`, or until the machine goes down, and needs no process. A
    reader needs no privilege, no libbpf and no BTF, and no sight of the cgroup: only
    permission to read the file, and to pass through the directories above it.

    What it costs, and whom: anybody who may read it can have the kernel walk these cgroups, and
    flush their statistics, as often as he likes, with the kernel's cgroup_mutex held meanwhile.
    He learns the numbers, the ids of the cgroups, and how they lie below each other; no names.
    Until it is unpinned, the kernel does not free the cgroup even if it is removed (a zombie).

    Args:
        cgroup_path: the directory of the cgroup, or of the walk's root.
        pin_path: where, in a bpffs. There must be nothing; directories above it that are not
            there are made, with mode 0755. A directory in which other users could put something
            else in its place is refused. (A name in a bpffs has no dots. Many systems mount
            /sys/fs/bpf for root alone: bind-mount what others may see, or mount another bpffs.)
        items: as of :class:`StatsReader`. Those that this version does not know, of a newer
            kernel, cannot be pinned: groups and None are without them.
        order: "self" for this cgroup alone; else a walk, as of :class:`TreeReader`.
        flush: True for values as fresh as those of memory.stat when they are read: the program
            flushes the walk's root once, or ("post", "up", "children") each cgroup it comes to.
            memory.pressure may be 2 s old all the same. Linux 6.16 to 6.19 offer BPF no flush.
        mode: the file's permissions. os.chmod() and os.chown() can change them, and its owner.

    Raises:
        PinExistsError, PinPathError, PinPermissionError: of *pin_path*.
        BackendUnavailableError: BPF cannot be had (a subclass says why), or not with the flush.
        TreeTooLargeError: the walk does not fit into the kernel's buffer of 8 pages:
            :func:`pin_tree` is for that.
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: of *cgroup_path*.
        UnknownItemError, ItemUnavailableError: of the items.
    """
    _options.check("order", order, _options.ORDERS)
    names = _items.requested_names(items)
    path, bits = _bpffs.absolute(pin_path), _mode(mode)
    _bpffs.check_free(path)
    cgroup = _directory.open_cgroup(cgroup_path)
    try:
        source = _chosen(cgroup, names, PinSourceFactory(order, bool(flush), True))
        made = _bpffs.PinTransaction()
        try:
            source.pin(made.above(path), bits, made)
        except BaseException as error:
            made.undo()
            _explain(path, error)
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
    """Pins a tree of any size, in several parts::

        >>> pin_tree("/sys/fs/cgroup", "/sys/fs/bpf/stats/tree", ["anon", "file"])
        >>> PinnedReader("/sys/fs/bpf/stats/tree").read()
        <Snapshot of '/sys/fs/cgroup': 5001 cgroups, 2 items>

    The kernel gives one pin's output a buffer of 8 pages, 32 KiB on most machines. So the
    directory has several pins, each of which walks the whole tree but writes its share of the
    cgroups alone; which share, is decided by a cgroup's id: it is in one and only one part,
    whatever is made and removed between the reads of two. The first part does the flush.

    All that :func:`pin` says holds here, too. A read takes as many walks as there are parts:
    pin the items that are needed, no more. Making it takes a few milliseconds a part.

    Args:
        cgroup_path, items, flush: as of :func:`pin`.
        directory: a directory in a bpffs, which must not be there: it is made, with mode 0755.
        mode: the permissions of the files in it.
        room: for how many cgroups; None for twice as many as there are now, and some more. A
            read that finds too many is a TreeTooLargeError.

    Raises:
        What :func:`pin` raises; TreeTooLargeError: so many items of so many cgroups would take
        more than 1,024 parts.
    """
    names = _items.requested_names(items)
    wanted = None if room is None else operator.index(room)
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
        most = _bpffs.MOST_PARTS
        count = parts_for(min(wanted, (most + 1) * fit), fit)
        if count > most:
            raise TreeTooLargeError(
                f"{len(source.names)} items of {wanted:,} cgroups would take more than "
                f"{most:,} parts: pin fewer items, or with less room=",
                rows=wanted,
            )
        made = _bpffs.PinTransaction()
        try:
            at = made.directory(made.above(path), 0o700)  # nobody reads what is not whole
            for number in range(count):
                part = _bpffs.Part(number, count)
                source = PinSource(cgroup, source.plan, walk, part)
                try:
                    source.pin(_bpffs.Place(at, part.name), bits, made)
                finally:
                    source.close()
            os.fchmod(at, _bpffs.DIRECTORY_MODE)
        except BaseException as error:
            made.undo()
            _explain(path, error)
        finally:
            made.close()
    finally:
        cgroup.close()


_SPARE_ROWS = 64


def _rows_now(cgroup: Cgroup, plan: ReadPlan) -> int:
    """How many cgroups a tree has: a walk counts them where the kernel does not say."""
    below = cgroup.descendants
    return _tree_bpf.count_rows(cgroup, plan) if below is None else 1 + below


def parts_for(room: int, fit: int) -> int:
    """How many parts there must be for so many cgroups, if so many fit into one.

    A cgroup's part is as good as drawn by lot: a part with m of them on average has more than
    m + 6 √m once in a hundred million times.
    """
    if room <= fit:
        return 1
    average = (math.sqrt(9 + fit) - 3) ** 2  # m + 6 √m = fit
    return math.ceil(room / average)


def _mode(mode: SupportsIndex) -> int:
    bits = operator.index(mode)
    if not 0 <= bits <= 0o777:
        raise ValueError(f"mode must be permissions, 0 to 0o777, not {bits:#o}")
    return bits


def _explain(path: str, error: BaseException) -> NoReturn:
    """Raises what a failure to make something in a bpffs means."""
    if isinstance(error, OSError):
        if error.errno == errno.EEXIST:
            raise _bpffs.exists(path) from error
        of_the_place = not isinstance(error, MemcgError) or error.call == "bpf_obj_pin"
        if of_the_place and error.errno in _bpffs.NOT_ALLOWED:
            raise _bpffs.not_allowed(path, error) from error
        if of_the_place and error.errno in _bpffs.NO_SUCH_PLACE:
            raise _bpffs.no_such_place(path, error) from error
        if not isinstance(error, MemcgError):
            message = f"{path} cannot be made: {os.strerror(error.errno or 0)}"
            raise MemcgError(message, errno=error.errno, call="bpffs") from error
    raise error


class PinSourceFactory(NamedTuple):
    """What is pinned, and a :class:`_choose.SourceFactory` of it.

    Attributes:
        order: of the walk.
        flush: whether the program is to flush.
        whole: whether all rows must fit.
        transports: how the numbers travel.
    """

    order: _options.Order
    flush: bool
    whole: bool
    transports: tuple[str, ...] = ("stream",)

    @property
    def walks(self) -> bool:
        """Whether other cgroups' numbers are read, too."""
        return self.order != "self"

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        """Nothing."""
        return ""

    def bpf(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> PinSource:
        """A link."""
        return PinSource(cgroup, plan, self)

    def text(self, cgroup: Cgroup, names: tuple[str, ...]) -> PinSource:
        """Text cannot be pinned."""
        raise BackendUnavailableError("only BPF can be pinned")


class PinSource:
    """An iterator link that can be pinned."""

    def __init__(
        self,
        cgroup: Cgroup,
        plan: ReadPlan,
        walk: PinSourceFactory,
        part: Optional[_bpffs.Part] = None,
    ) -> None:
        self.plan = plan
        self.names = tuple(plan.terms)
        self._cgroup, self._walk = cgroup, walk
        mode = _flush_mode(plan, walk.flush)
        order = _options.ORDERS[walk.order]
        constants = plan.constants(_terms.FLUSH_NONE if part and part.number else mode, order)
        order, more = _links.walk_order(order, cgroup)
        constants.update(more)
        if order not in (_options.SELF, _options.PRE):  # the first one does not contain the others
            constants["flush_each"] = _terms.u32(1)
        if part:
            constants["nr_parts"] = _terms.u32(part.of)
            constants["part"] = _terms.u32(part.number)
        program = _program.Program(_program.STREAM, constants)
        self._link = _links.attach(program, cgroup, order)

    def probe_missing(self) -> set[str]:
        """Reads once; the items that this kernel does not keep, and those without a number."""
        absent = {name for name in self.names if _items.item_named(name) is None}
        new_iterator = _libbpf_programs.IteratorMaker(self._link.fd)
        data, _ = _links.read_iterator(new_iterator, _read.read_walk)
        header, rows, end_ns = _wire.split(data)
        if end_ns is None and self._walk.whole:
            raise _read.too_large(f"from {self._cgroup.path}", len(header.item_numbers))
        if rows:
            row = _wire.decode_row(rows, 0, len(self.names))
            lacking = {name for name, value in zip(self.names, row.values) if value == _wire.ABSENT}
            if self._walk.walks:
                on_root = bool(row.flags & _wire.ROW_ROOT)
                lacking = {name for name in lacking if not _tree_bpf.is_optional(name, on_root)}
            absent |= lacking
        elif self._walk.order != "children":
            raise _diagnosis.why_unreadable(self._cgroup.path, self._cgroup.identity)
        return absent

    def pin(self, place: _bpffs.Place, mode: int, made: _bpffs.PinTransaction) -> None:
        """Pins it; what is made is taken note of."""
        made.file(place, self._link.pin, mode)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has closed its descriptor."""
        return self._link.is_lost

    def close(self) -> None:
        """Lets go of the link; if it is pinned, it stays. Twice is fine."""
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
    """A link through the best backend that works here.

    Raises:
        The error of one of them, if none does.
    """
    numberless = [
        name
        for name in names or ()
        if not _items.is_group(name) and _items.item_named(name) is None
    ]
    refusal: Optional[MemcgError] = None
    for backend in _options.BACKENDS:
        if backend == "text":
            break
        request = _options.Request(names, walk.flush, backend, _options.AUTO)
        try:
            source = _choose.choose(cgroup, request, walk).source
        except (*_choose.FATAL_ERRORS, UnknownItemError):
            raise
        except MemcgError as error:
            if is_transient(error):
                raise
            if isinstance(error, ItemUnavailableError) and numberless:
                raise _numberless(numberless) from error
            # That a backend is not of this kernel says less than what is wrong with another.
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
        f"{listed} cannot be pinned: this version of the package does not know it, and so has no "
        "number for it that a reader would understand",
        item_names=names,
    )
