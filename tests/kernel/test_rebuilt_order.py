# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The order of counters rebuilt without the kernel's tables, on a real kernel.

The truth is the tables' where the kernel shows them; else, what is rebuilt by a package that
has forgotten nothing, which other tests compare with every file.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pymemcgbpf
from pymemcgbpf import ItemUnavailableError, StatsReader
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import counter_slots as _counter_slots
from pymemcgbpf._bpf.plan import Planner
from pymemcgbpf._cgroup import directory as _directory
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._items import CATALOGUE, MEMORY_STAT
from pymemcgbpf._sources import slot_discovery as _slot_discovery

from .cgroups import Worker
from .oracle import by_text
from .surroundings import HIERARCHY, IN_LAB, VERSION, symbols

# Before, an enumerator was the index itself.
pytestmark = pytest.mark.needs_index_tables

Busy = tuple[Path, Worker]
_SECONDS_TO_BE_QUIET = 30


@pytest.fixture
def top() -> Iterator[Cgroup]:
    cgroup = _directory.open_cgroup(HIERARCHY)
    yield cgroup
    cgroup.close()


def offered(layout: _counter_slots.Layout) -> dict[str, list[int]]:
    """Item of memory.stat → the offsets of its words; of those that a layout offers."""
    source = Planner("core", _btf.kernel(), layout)
    names = [item.name for item in CATALOGUE.values() if item.file == MEMORY_STAT]
    found = {name: [term.at for term in source.terms_of(name)] for name in names}
    return {name: places for name, places in found.items() if places}


def truth() -> _counter_slots.Layout:
    types = _btf.kernel()
    tables = _slot_discovery.from_kernel_tables(types)
    if tables is None:
        # Debian's kernels show their tables, but for the one of 6.1 for arm64.
        assert not (IN_LAB and platform.machine() == "x86_64")
        assert symbols("mem_cgroup_events_index") == set()
        cgroup = _directory.open_cgroup(HIERARCHY)
        try:
            tables = _slot_discovery._rebuilt_layout(types, cgroup)
        finally:
            cgroup.close()
    assert tables is not None
    return tables


@pytest.mark.usefixtures("busy")
def test_every_proved_slot_equals_the_kernel_s(top: Cgroup) -> None:
    tables = truth()
    layout = _slot_discovery._rebuilt_layout(_btf.kernel(), top)
    assert layout is not None
    assert layout.slots.items() <= tables.slots.items()
    assert layout.not_kept.isdisjoint(tables.slots)
    # Of released kernels everything is proved.
    assert offered(layout) == offered(tables)
    assert layout.unproved & tables.slots.keys() == set()


def test_no_item_is_wrong_if_the_package_forgets_a_counter(
    top: Cgroup, busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = _btf.kernel()
    right = offered(truth())
    orders = _counter_slots._STATE_ORDER, _counter_slots._EVENT_ORDER
    names = [name for order in orders for name, _ in order if name in types.counters]
    assert len(names) >= 40
    fewest = len(right)
    for name in dict.fromkeys(names):
        with monkeypatch.context() as patch:
            for which, order in zip(("_STATE_ORDER", "_EVENT_ORDER"), orders):
                patch.setattr(
                    _counter_slots, which, tuple(pair for pair in order if pair[0] != name)
                )
            layout = _slot_discovery._rebuilt_layout(types, top)
        if layout is not None:
            found = offered(layout)
            assert found.items() <= right.items(), name
            fewest = min(fewest, len(found))
    assert fewest >= 10, "some slots are proved each time nevertheless"


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel that does not show its tables."""
    monkeypatch.setattr(_slot_discovery, "from_kernel_tables", lambda types: None)
    monkeypatch.setattr(_slot_discovery, "_discovery", _slot_discovery.Discovery())
    pymemcgbpf.clear_cache()
    yield
    pymemcgbpf.clear_cache()


@pytest.mark.usefixtures("no_tables")
def test_every_item_is_exact_by_the_rebuilt_order(busy: Busy) -> None:
    path, _ = busy
    deadline = time.monotonic() + _SECONDS_TO_BE_QUIET
    with StatsReader(path, backend="core") as reader:
        while True:
            before, values, after = by_text(path), reader.read(), by_text(path)
            wrong = {name: value for name, value in before.items() if values.get(name) != value}
            if before == after and not wrong:
                break
            assert time.monotonic() < deadline, f"differ: {wrong}"
            time.sleep(0.05)
    assert len(values) >= (60 if VERSION == 1 else 48)


@pytest.mark.usefixtures("no_tables")
def test_an_unproved_slot_is_read_as_text_or_refused(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _counter_slots.state_is_direct(_btf.kernel()):
        return  # the order of state[] is the enumerators' own
    forgotten = ("NR_ACTIVE_FILE", _counter_slots._STATE_ORDER[3][1])
    order = tuple(pair for pair in _counter_slots._STATE_ORDER if pair != forgotten)
    monkeypatch.setattr(_counter_slots, "_STATE_ORDER", order)
    with pytest.raises(ItemUnavailableError, match="could not be proved for 'active_file'"):
        StatsReader(busy[0], ["active_file"], backend="core")
    with StatsReader(busy[0], backend="core") as reader:
        assert "active_file" not in reader.item_names
    with StatsReader(busy[0], ["active_file"]) as reader:
        if reader.backend == "text":
            assert "could not be proved for 'active_file'" in reader.fallback_reason
        assert reader.read()["active_file"] == by_text(busy[0])["active_file"]
