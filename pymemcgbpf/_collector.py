# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A tree of cgroups in the registry of another library: collector()."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, SupportsIndex, Union

from . import _fork, _lookup, _openmetrics, _options
from ._cgroup import mounts as _mounts
from ._closable import Closable
from ._items import UNLIMITED, members, requested_names
from ._pins import bpffs as _bpffs
from ._pins import find
from ._pins.read import PinnedReader
from ._records import Record
from ._selection import CgroupSelection
from .errors import ClosedError, MemcgError
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ._tree_reader import TreeReader

    _Reader = Union[TreeReader, PinnedReader]

_log = logging.getLogger("pymemcgbpf")


def collector(
    path_or_pin: Optional[_lookup.Path] = None,
    items: Optional[Iterable[str]] = None,
    *,
    match: Iterable[str] = (),
    exclude: Iterable[str] = (),
    leaves: bool = False,
    max_depth: Optional[SupportsIndex] = None,
    flush: bool = True,
    backend: _options.Backend = _options.AUTO,
) -> Collector:
    """A tree of cgroups for the registry of prometheus_client::

        >>> from prometheus_client import REGISTRY, generate_latest
        >>> REGISTRY.register(collector("/sys/fs/cgroup", ["anon"], match=["/system.slice/*"]))
        >>> print(generate_latest().decode())
        ...
        # HELP cgroup_memory_anon_bytes anonymous memory in use
        # TYPE cgroup_memory_anon_bytes gauge
        cgroup_memory_anon_bytes{cgroup="/system.slice/cron.service"} 421888.0
        ...

    The metrics are those of :func:`openmetrics`, with the same names and values. Each scrape walks
    once.

    Args:
        path_or_pin: The directory of the cgroup where the walk begins, or the path of a pin; None
            for the whole hierarchy that is visible here.
        items: The names of items and groups; None for the default of :class:`TreeReader`, or for
            all that the pin has.
        match, exclude: Shell patterns for the label "cgroup", in which ``*`` also matches ``/``. A
            cgroup has samples if its label matches one of *match*, or if *match* is empty, and
            matches none of *exclude*.
        leaves: Whether only those cgroups have samples below which the walk has no other. Their
            sum counts nothing twice.
        max_depth: How many levels below the root of the walk have samples; None for all. A pin has
            no more levels than it was created with.
        flush, backend: As for :class:`TreeReader`; a pin takes only the defaults.

    Returns:
        A :class:`Collector`.

    Raises:
        MemcgError: A subclass, as from :class:`TreeReader` or :class:`PinnedReader`: what is
            missing or mistyped now is reported now. Later failures are metrics.
        TypeError, ValueError: As from these; also *flush* or *backend* for a pin.
    """
    names = requested_names(items)
    selection = CgroupSelection(
        _patterns("match", match),
        _patterns("exclude", exclude),
        bool(leaves),
        _options.at_least(0, "max_depth", max_depth),
    )
    path: _lookup.Path = (
        _mounts.hierarchy_root(_mounts.own_cgroup()) if path_or_pin is None else path_or_pin
    )
    open_reader: Callable[[], _Reader]
    if _bpffs.leads_to_bpffs(os.fsdecode(path)):
        if not flush or backend != _options.AUTO:
            raise ValueError(
                "flush and backend cannot be chosen for a pin: who creates it chooses them"
            )
        open_reader = functools.partial(PinnedReader, path)
    else:
        open_reader = functools.partial(
            _tree_reader, path, names, flush=flush, backend=backend, max_depth=max_depth
        )
        names = None  # the reader has no others
    return Collector(os.fsdecode(path), open_reader, names, selection)


def _patterns(name: str, patterns: Iterable[str]) -> list[str]:
    """A list of patterns.

    Raises:
        TypeError: it is not one. A single str is refused, too: it is an iterable of its letters.
    """
    if isinstance(patterns, (str, bytes)):
        raise TypeError(f"{name} must be a list of patterns, not the single {patterns!r}")
    found = list(patterns)
    for pattern in found:
        if not isinstance(pattern, str):
            raise TypeError(f"{name} must be patterns (str), not {pattern!r}")
    return found


def _tree_reader(path: _lookup.Path, names: Optional[tuple[str, ...]], **options: Any) -> _Reader:
    # Who reads a pin need not import it.
    from ._tree_reader import TreeReader

    return TreeReader(path, names, **options)


class Collector(Closable):
    """What :func:`collector` returns: an object for the method ``register`` of a registry.

    It may be used by several threads at once, and in a child after fork(), as with ``gunicorn
    --preload``. A registry can hold one of them, as two would have the same metrics.

    A scrape in which the walk fails, or in which a pinned tree turns out not to be refreshed any
    more, has no metrics of cgroups. So no old number looks like a new one, and the metrics of other
    collectors are not lost. These tell of it::

        pymemcgbpf_walk_success             1 if the walk succeeded, 0 if it failed
        pymemcgbpf_walk_timestamp_seconds   when it began, in seconds since 1970; for a pinned tree,
                                            when the walk that was read began
        pymemcgbpf_walk_duration_seconds    how long it took
        pymemcgbpf_backend_info             1; the labels "backend" and "transport" are those of the
                                            reader

    The reason is logged by the logger "pymemcgbpf", once until a walk succeeds. Each later scrape
    tries again, with a new reader if need be: when the cgroup or the pin exists again, it is read.
    That text is read instead of BPF is logged once, with the reason.
    """

    def __init__(
        self,
        path: str,
        open_reader: Callable[[], _Reader],
        names: Optional[tuple[str, ...]],
        selection: CgroupSelection,
    ) -> None:
        super().__init__(path)
        self._open_reader, self._names, self._selection = open_reader, names, selection
        self._lock = threading.RLock()
        self._has_failed = self._has_told = False
        self._reader: Optional[_Reader] = None
        self._reader, self._items = self._opened()
        _fork.renew_in_child(self)

    @property
    def path(self) -> str:
        """The path of the cgroup where the walk begins, or of the pin."""
        return self._path

    @property
    def fallback_reason(self) -> str:
        """Why the cgroups are not read in a faster way, as the readers have it; "" if there is no
        reason, and while no reader could be created."""
        reader = self._reader
        return "" if reader is None else reader.fallback_reason

    def describe(self) -> Iterator[Any]:
        """The metrics without samples: a registry asks for their names. Nothing is read."""
        families = (*_OWN, _BACKEND, *_openmetrics.families_of(self._items, "openmetrics"))
        return iter([MetricFamily(family, list) for family in families])

    def collect(self) -> Iterator[Any]:
        """Walks, and returns the metrics with their samples.

        Raises:
            ClosedError: it is closed: unregister it before.
        """
        try:
            snapshot = self._selection.apply(self._read())
            families = [*_families(snapshot, self._items)]
        except ClosedError:
            raise
        except MemcgError as error:
            if not self._has_failed:
                self._has_failed = True
                _log.warning("the cgroups of %s cannot be read: %s", self._path, error)
            return iter(_own(0.0))
        if self._has_failed:
            self._has_failed = False
            _log.info("the cgroups of %s can be read again", self._path)
        own = _own(1.0, snapshot.time, snapshot.duration_ns / 1e9)
        return iter([*own, *self._way(), *families])

    def _way(self) -> list[MetricFamily]:
        """The metric of how the cgroups are read. Logs once that it is as text."""
        reader = self._reader
        if reader is None:  # another thread has just closed it
            return []
        backend = "pin" if isinstance(reader, PinnedReader) else reader.backend
        if backend == "text" and reader.fallback_reason and not self._has_told:
            self._has_told = True
            _log.warning(
                "the cgroups of %s are read as text: %s", self._path, reader.fallback_reason
            )
        labels = {"backend": backend, "transport": reader.transport}
        return [MetricFamily(_BACKEND, [Sample(_BACKEND.sample, labels, 1.0)].copy)]

    def close(self) -> None:
        """Closes the reader. Calling it again does nothing."""
        self._wake_all()
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()

    def _read(self) -> Snapshot:
        """Walks, with a new reader if the last one cannot read any more."""
        with self._lock:
            self._check_open()
            reader = self._reader
            if reader is not None:
                try:
                    return self._walk(reader)
                except MemcgError as error:
                    self._check_open()  # a signal handler may have closed it
                    # Others are shortages of the moment, and a read that is interrupted by another.
                    if type(error) is MemcgError and error.errno != errno.EBADF:
                        raise
                self._reader = None
                reader.close()
            reader, self._items = self._opened()
            self._reader = reader
            if self._wakers is None:  # a signal handler may have closed it
                self.close()
            self._check_open()
            return self._walk(reader)

    def _check_open(self) -> None:
        if self._wakers is None:
            raise ClosedError(f"this collector of {self._path} is closed")

    def _opened(self) -> tuple[_Reader, tuple[str, ...]]:
        """A new reader, and the items that are shown."""
        reader = self._open_reader()
        reader._need_not_be_closed()  # who forgets the collector never had it
        try:
            if reader.order == "self":
                raise MemcgError(
                    f"{self._path} shows one cgroup and no tree: pin a tree, with pin_tree()"
                )
            if self._names is None:
                return reader, reader.item_names
            return reader, members(self._names, reader.item_names, self._path)
        except BaseException:
            reader.close()
            raise

    def _walk(self, reader: _Reader) -> Snapshot:
        snapshot = reader.read()
        assert isinstance(snapshot, Snapshot), "dicts come from the order self only"
        if len(snapshot) and not any(snapshot.paths):
            raise MemcgError(
                f"{self._path} has no names, and its cgroups are not visible here, so that there "
                "is nothing for the label cgroup: pin with names"
            )
        if isinstance(reader, PinnedReader):
            stale = find.staleness(snapshot, reader.interval)
            if stale and snapshot.age > find.FRESH:
                raise MemcgError(f"{self._path} is stale: {stale}")
        return snapshot

    def __repr__(self) -> str:
        state = "closed" if self._wakers is None else f"{len(self._items)} items"
        return f"<Collector {self._path!r} {state}>"


# --- metrics, as prometheus_client has them


class Sample(Record):
    """What prometheus_client's Sample is: its fields, in their order."""

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp: Optional[float] = None
    exemplar: Optional[object] = None
    native_histogram: Optional[object] = None


# Sample(), many times as fast.
_new_sample: Callable[[Iterable[object]], Sample] = functools.partial(tuple.__new__, Sample)


class MetricFamily:
    """What prometheus_client's Metric is, as far as registries and expositions use it.

    Samples are made when they are asked for.

    Args:
        family: the metric.
        samples: makes the samples.
    """

    def __init__(self, family: _openmetrics.Family, samples: Callable[[], list[Sample]]) -> None:
        self.name, self.documentation = family.name, family.description
        self.type, self.unit = family.kind or "unknown", family.unit
        self._sample_name, self._make_samples = family.sample, samples
        self._samples: Optional[list[Sample]] = None

    @property
    def samples(self) -> list[Sample]:
        """The samples."""
        if self._samples is None:
            self._samples = self._make_samples()
        return self._samples

    def _restricted_metric(self, names: Iterable[str]) -> Optional[MetricFamily]:
        """This metric, if its samples have one of the names: for restricted registries."""
        return self if self._sample_name in names and self.samples else None

    def __repr__(self) -> str:
        return f"<MetricFamily {self.name} {self.type}>"


def _families(snapshot: Snapshot, names: tuple[str, ...]) -> Iterator[MetricFamily]:
    """The metrics of a snapshot."""
    shown = _openmetrics.rows_shown(snapshot.paths)
    labels = [{"cgroup": value} for value in _openmetrics.label_values(snapshot, shown)]
    for family in _openmetrics.families_of(names, "openmetrics"):
        yield MetricFamily(family, functools.partial(_samples, snapshot, family, shown, labels))


def _samples(
    snapshot: Snapshot,
    family: _openmetrics.Family,
    shown: Optional[list[bool]],
    labels: list[dict[str, str]],
) -> list[Sample]:
    """The samples of a metric."""
    found: list[Sample] = []
    for name, unit, more in family.members:
        marks, values = _openmetrics.present(snapshot, name, shown, labels)
        if more:  # it is of one NUMA node
            node = name.rpartition(".N")[2]
            marks = [{**label, "node": node} for label in marks]
        numbers: Iterable[float] = values
        if unit == "seconds":
            numbers = [value / 1e6 for value in values]
        elif unit == "bytes" and UNLIMITED in values:
            numbers = [math.inf if value == UNLIMITED else value for value in values]
        rest = itertools.repeat(None)
        fields = zip(itertools.repeat(family.sample), marks, numbers, rest, rest, rest)
        found += map(_new_sample, fields)
    return found


_OWN = tuple(
    _openmetrics.Family(f"pymemcgbpf_{name}", f"pymemcgbpf_{name}", "gauge", unit, text, "", ())
    for name, unit, text in (
        ("walk_success", "", "whether the walk for this scrape succeeded"),
        ("walk_timestamp_seconds", "seconds", "when the walk began, in seconds since 1970"),
        ("walk_duration_seconds", "seconds", "how long the walk took"),
    )
)


_BACKEND = _openmetrics.Family(
    "pymemcgbpf_backend_info",
    "pymemcgbpf_backend_info",
    "gauge",
    "",
    "how the cgroups are read: through BPF, from a pin, or as text",
    "",
    (),
)


def _own(*values: float) -> list[MetricFamily]:
    """The metrics of the walk itself, as far as they have values."""
    samples = [[Sample(family.sample, {}, value)] for family, value in zip(_OWN, values)]
    return [MetricFamily(family, each.copy) for family, each in zip(_OWN, samples)]
