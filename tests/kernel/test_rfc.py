# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Where the functions of the patch's first form are: beside the others, and with their numbers.

The other tests go every way that the kernel has, so by "rfc" too; this is what is only asked there.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pymemcgbpf import BackendUnavailableError, StatsReader, TreeReader

from .cgroups import MIB, Worker, cgroup, enable_memory, fault_in
from .oracle import by_text
from .surroundings import BPF_BACKENDS, HAS_RFC

Busy = tuple[Path, Worker]

if HAS_RFC:

    def test_auto_prefers_the_released_functions(empty_cgroup: Path) -> None:
        assert BPF_BACKENDS == ["kfunc", "rfc", "core"]
        with StatsReader(empty_cgroup) as reader, TreeReader(empty_cgroup) as tree:
            assert (reader.backend, tree.backend) == ("kfunc", "kfunc")

    def test_all_backends_have_every_number_of_memory_stat_at_once(busy: Busy) -> None:
        path, _ = busy
        readers = [StatsReader(path, backend=backend) for backend in BPF_BACKENDS]
        try:
            assert [reader.backend for reader in readers] == BPF_BACKENDS
            deadline = time.monotonic() + 30  # the stocks of charges are drained at any time
            while True:
                before = by_text(path)
                values = [reader.read() for reader in readers]
                after = by_text(path)
                if before == after and values == [before] * len(readers):
                    break
                assert time.monotonic() < deadline, (before, values, after)
                time.sleep(0.05)
        finally:
            for reader in readers:
                reader.close()
        # Node counters, the controller's own, and events: each of the three that fetch.
        assert min(before[name] for name in ("anon", "kernel", "pgfault")) > 0
        assert len(before) >= 70

    def test_the_flush_is_what_makes_a_child_s_pages_show(empty_cgroup: Path) -> None:
        """Nearly always: the kernel's own flush, every 2 seconds, can be just before or at work.

        While it is at work the kernel puts off ours, as it does memory.stat's.
        """
        charge, steps = 4 * MIB, 20
        enable_memory(empty_cgroup)
        stale = shown = 0
        with (
            StatsReader(empty_cgroup, ["anon"], backend="rfc") as fresh,
            StatsReader(empty_cgroup, ["anon"], backend="rfc", flush=False) as late,
            cgroup(empty_cgroup) as child,
            Worker(child, lambda: None, lambda: fault_in(charge)) as worker,
        ):
            for _ in range(steps):
                before = fresh.read()["anon"]
                worker.step()
                stale += late.read()["anon"] < before + charge
                shown += fresh.read()["anon"] >= before + charge
        assert stale >= steps / 2
        assert shown >= steps - 3

    def test_a_program_that_is_run_may_not_call_them(empty_cgroup: Path) -> None:
        with pytest.raises(BackendUnavailableError, match="to iterators only"):
            StatsReader(empty_cgroup, ["anon"], backend="rfc", transport="run")
        with pytest.raises(BackendUnavailableError, match="to iterators only"):
            TreeReader(empty_cgroup, ["anon"], backend="rfc", transport="run")
        with StatsReader(empty_cgroup, ["anon"], backend="rfc") as reader:
            assert (reader.transport, reader.read()) == ("stream", {"anon": 0})
        with TreeReader(empty_cgroup, ["anon"], backend="rfc") as tree:
            assert (tree.transport, len(tree.read())) == ("shared", 1)
