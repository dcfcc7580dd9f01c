# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Fixtures of the kernel tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Union

import pytest

import pymemcgbpf
from pymemcgbpf import StatsReader, TreeReader, _options
from pymemcgbpf._bpf import reload as _reload

from ..open_files import open_files
from .cgroups import Worker, busy_cgroup, cgroup, has_file
from .forest import Forest, forest
from .pins import Nobody, bpffs
from .published import maps_called, wait_until
from .surroundings import BACKENDS, BPF_BACKENDS, HAS_ITERATOR, VERSION
from .ways import (
    STAT_BEST_WAYS,
    STAT_BPF_WAYS,
    TEXT,
    TREE_BPF_WAYS,
    TREE_TRANSPORT_WAYS,
    Way,
)

# Fixtures without any value on some kernels.
WAYS = {
    "bpf_way": STAT_BPF_WAYS,
    "bpf_backend_way": STAT_BEST_WAYS,
    "tree_bpf_way": TREE_BPF_WAYS,
    "tree_bpf_transport_way": TREE_TRANSPORT_WAYS,
}

# Markers of tests that need what some kernels lack.
NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "needs_bpf": ("any BPF backend", lambda: bool(STAT_BPF_WAYS)),
    "needs_iterator": ("cgroup iterators, and so pins", lambda: HAS_ITERATOR),
    "needs_index_tables": ("tables of counters, from Linux 6.1 on", lambda: HAS_ITERATOR),
    "needs_peak": ("memory.peak", lambda: VERSION == 1 or has_file("memory.peak")),
    "needs_pressure_switch": ("cgroup.pressure", lambda: has_file("cgroup.pressure")),
}


def pytest_configure(config: pytest.Config) -> None:
    """Declares what tests can say that they need, and lets them forget readers: some do so on
    purpose, and a warning that is recorded or raised keeps the reader."""
    config.addinivalue_line("filterwarnings", "ignore:unclosed <:ResourceWarning")
    for name, (what, _) in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: left out without {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests of ways that this kernel does not have."""
    lacking = {name for name, ways in WAYS.items() if not ways}
    unmet = [name for name, (_, is_met) in NEEDS.items() if not is_met()]

    def is_possible(item: pytest.Item) -> bool:
        if lacking.intersection(getattr(item, "fixturenames", ())):
            return False
        return not any(item.get_closest_marker(name) for name in unmet)

    config.hook.pytest_deselected(items=[item for item in items if not is_possible(item)])
    items[:] = filter(is_possible, items)


def pytest_collection_finish() -> None:
    """Exempts what exists before the first test from garbage collection.

    These are a million objects of pytest's. To search them after each test would take half of the
    time in a guest.
    """
    gc.collect()
    gc.freeze()


def close_cached() -> None:
    """Does what clear_cache() does, but keeps the relocated instructions of programs.

    They hold nothing open. Without them the next load takes half a second in a guest.
    """
    kept = dict(_reload._kept)
    pymemcgbpf.clear_cache()
    _reload._kept.update(kept)


@pytest.fixture(autouse=True)
def _nothing_leaked() -> Iterator[None]:
    """Every test leaves as many open files as it found."""
    close_cached()
    before = open_files()
    yield
    close_cached()
    gc.collect()  # a caught exception holds the frames that it passed
    after = open_files()
    assert after == before, f"left open: {sorted(set(after.items()) - set(before.items()))}"


@pytest.fixture
def empty_cgroup() -> Iterator[Path]:
    """A cgroup with no process in it."""
    with cgroup() as path:
        yield path


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[Path, Worker]]:
    """A cgroup with memory of every kind, and the process that holds it."""
    with busy_cgroup() as both:
        yield both


@pytest.fixture(scope="module")
def quiet() -> Iterator[Forest]:
    """Cgroups whose numbers stay."""
    with forest(4, 6) as made:
        yield made


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A bpffs that every user may enter."""
    with bpffs() as made:
        yield made


@pytest.fixture
def pins(folder: Path) -> Iterator[Path]:
    """An empty directory in it, which must be empty again at the end. Nothing runs then."""
    timers = maps_called("memcg_timer")
    made = folder / "pins"
    made.mkdir()
    made.chmod(0o755)
    yield made
    left = sorted(made.rglob("*"), reverse=True)
    for path in left:
        path.rmdir() if path.is_dir() else path.unlink()
    made.rmdir()
    assert not left, "left in the bpffs"
    wait_until(lambda: maps_called("memcg_timer") <= timers)


@pytest.fixture(scope="module")
def nobody(folder: Path) -> Iterator[Nobody]:
    """A process of user nobody, which may only read files: it has no ctypes."""
    made = Nobody(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def caller(folder: Path) -> Iterator[Nobody]:
    """The same, but it may call bpf()."""
    made = Nobody(folder, calls=True)
    yield made
    made.close()


@pytest.fixture(params=BPF_BACKENDS)
def one_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend that this kernel has, made the only one."""
    monkeypatch.setattr(_options, "BACKENDS", (request.param, "text"))
    return str(request.param)


@pytest.fixture
def note_compared(
    record_property: Callable[[str, object], None],
) -> Callable[[Union[StatsReader, TreeReader], int], None]:
    """Records how many items of a reader a test found to equal the kernel's numbers exactly.

    The lab makes a table of it, and fails a guest if a backend has no such record.
    """

    def note(reader: Union[StatsReader, TreeReader], items: int) -> None:
        of_tree = isinstance(reader, TreeReader)
        record_property(
            "compared",
            {
                "reader": "tree" if of_tree else "stats",
                "backend": reader.backend,
                "transport": reader.transport,
                "order": reader.order if isinstance(reader, TreeReader) else "",
                "items": items,
            },
        )

    return note


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that this kernel has for one cgroup."""
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def tree_backend(request: pytest.FixtureRequest) -> str:
    """Every backend that this kernel has for a tree."""
    return str(request.param)


def _named(ways: list[Way]) -> list[object]:
    return [pytest.param(way, id="text" if way == TEXT else "-".join(way)) for way in ways]


@pytest.fixture(params=_named([*STAT_BPF_WAYS, TEXT]))
def way(request: pytest.FixtureRequest) -> Way:
    """Every way to read one cgroup that this kernel has."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named(STAT_BPF_WAYS))
def bpf_way(request: pytest.FixtureRequest) -> Way:
    """Every way through BPF to read one cgroup that this kernel has."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named(STAT_BEST_WAYS))
def bpf_backend_way(request: pytest.FixtureRequest) -> Way:
    """Every BPF backend that this kernel has, each with its best transport."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named([*TREE_BPF_WAYS, TEXT]))
def tree_way(request: pytest.FixtureRequest) -> Way:
    """Every way to read a tree that this kernel has."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named(TREE_BPF_WAYS))
def tree_bpf_way(request: pytest.FixtureRequest) -> Way:
    """Every way through BPF to read a tree that this kernel has."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named([*TREE_TRANSPORT_WAYS, TEXT]))
def tree_transport_way(request: pytest.FixtureRequest) -> Way:
    """Every transport of trees, with the best backend, and text: where numbers do not matter."""
    made: Way = request.param
    return made


@pytest.fixture(params=_named(TREE_TRANSPORT_WAYS))
def tree_bpf_transport_way(request: pytest.FixtureRequest) -> Way:
    """Every transport of trees through BPF, with the best backend."""
    made: Way = request.param
    return made
