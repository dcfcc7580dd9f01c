# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which backend is chosen, and why no better one."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    ItemUnavailableError,
    StatsReader,
    VerifierError,
    _btf,
    _cgroupfs,
    _layout,
    _program,
    _shown,
)
from pymemcgbpf._backend import BEST_FIRST
from pymemcgbpf._kernel_layout import from_kernel_tables
from pymemcgbpf._recipe import Recipe, Term

from .surroundings import (
    BEST_BACKEND,
    BPF_BACKENDS,
    CAN_RUN,
    HAS_RFC,
    HIERARCHY,
    IN_LAB,
    RUN_BACKENDS,
    VERSION,
    symbols,
)


def test_auto_chooses_the_expected_backend(empty_cgroup: Path) -> None:
    with StatsReader(empty_cgroup, flush=False) as reader:
        assert reader.backend == BEST_BACKEND
        better = BEST_FIRST[: BEST_FIRST.index(BEST_BACKEND)]
        for name in better:
            assert f"{name}: this kernel has no " in reader.why
        assert reader.transport == ("run" if CAN_RUN else "stream")
        assert ("run: " in reader.why) == (not CAN_RUN)
        assert bool(reader.why) == bool(better or not CAN_RUN)


@pytest.mark.parametrize("name", ["kfunc", "rfc"])
def test_a_backend_that_is_not_here_raises_and_says_what_is_missing(
    empty_cgroup: Path, name: str
) -> None:
    if name in BPF_BACKENDS:
        with StatsReader(empty_cgroup, backend=name) as reader:
            assert (reader.backend, not reader.why) == (name, name in RUN_BACKENDS)
        return
    with pytest.raises(BackendUnavailableError, match=r"this kernel has no \w+ \(") as caught:
        StatsReader(empty_cgroup, backend=name)
    assert "\n" not in str(caught.value)


def test_a_verifier_refusal_keeps_the_log() -> None:
    # No released kernel has the first patch's functions, so calling one is refused; where they
    # are, so is a call from anything but an iterator.
    program = _program.RUN_ONE if HAS_RFC else _program.STREAM
    term = Term(_program.KINDS["node_stat_item"], 0)
    with pytest.raises(VerifierError) as caught:
        recipe = Recipe("rfc", {"anon": (term,)})
        _program.Program(program, recipe.constants(_program.FLUSH_NONE))
    assert caught.value.call == "bpf_object__load"
    assert program in caught.value.log
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the kernel refused the BPF program")


def test_the_root_cgroup_has_no_memory_current() -> None:
    with StatsReader(HIERARCHY) as reader:
        assert reader.backend == BEST_BACKEND
        assert "memory.current" not in reader.read()
    with pytest.raises(ItemUnavailableError, match=r"root cgroup .* 'memory\.current'") as caught:
        StatsReader(HIERARCHY, ["anon", "memory.current"], backend=BEST_BACKEND)
    assert caught.value.items == ("memory.current",)


def test_the_rebuilt_order_of_counters_is_the_kernels_own() -> None:
    """Where the kernel shows its index tables, the order rebuilt without them agrees."""
    types = _btf.kernel()
    cgroup = _cgroupfs.open_cgroup(HIERARCHY)
    try:
        printed = _shown.Shown(cgroup, False).names("memory.stat") if VERSION == 2 else ()
    finally:
        cgroup.close()
    layouts = _layout.rebuilt(types, printed)
    assert 1 <= len(layouts) <= 8
    tables = from_kernel_tables(types)
    if tables is None:
        # Debian's kernels show their tables, but for the one of 6.1 for arm64.
        assert not (IN_LAB and platform.machine() == "x86_64")
        assert symbols("mem_cgroup_events_index") == set()
        return
    # Some enumerators are other names of the same counter (NR_LRU_BASE).
    assert {slot for layout in layouts for slot in layout.slots.values()} == set(
        tables.slots.values()
    )
    agreeing = [layout for layout in layouts if layout.slots.items() <= tables.slots.items()]
    assert len(agreeing) == 1, _differences(layouts, tables)
    if VERSION == 2:
        assert len(layouts) == 1


def _differences(layouts: list[_layout.Layout], tables: _layout.Layout) -> str:
    def order(layout: _layout.Layout) -> list[str]:
        return sorted(layout.slots, key=layout.slots.__getitem__)

    return f"the kernel's: {order(tables)}; rebuilt: {[order(layout) for layout in layouts]}"
