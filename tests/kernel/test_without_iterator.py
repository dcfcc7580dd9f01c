# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Before Linux 6.1: what takes a cgroup iterator is refused, and all else is read all the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    Snapshot,
    StatsReader,
    TreeReader,
    openmetrics,
    pin,
    pin_tree,
    read_stats,
)

from .cgroups import cgroup, enable_memory
from .pins import bpffs
from .surroundings import HAS_ITERATOR
from .test_command import command
from .ways import BEST_STAT_WAY, BEST_TREE_WAY, STAT_BPF_WAYS

if not HAS_ITERATOR:

    def refuses(make: Any, *arguments: Any, **options: Any) -> None:
        """Asserts that it is an error of one line that names what the kernel lacks."""
        with pytest.raises(BackendUnavailableError) as caught:
            make(*arguments, **options)
        lacked = "BPF_CGROUP_ITER_SELF_ONLY|memcg_vmstats|bpf_loop"
        assert re.fullmatch(rf".*\b({lacked})\b.*", str(caught.value))

    @pytest.mark.parametrize("make", [pin, pin_tree])
    def test_pins_are_refused_and_leave_nothing(empty_cgroup: Path, make: Any) -> None:
        with bpffs() as folder:
            for flush in (True, False):
                refuses(make, empty_cgroup, folder / "new" / "pin", ["anon"], flush=flush)
            assert not os.listdir(folder)
            ran = command("pin", empty_cgroup, folder / "pin", "anon", "--no-flush")
            assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
            assert not os.listdir(folder)

    def test_what_iterates_is_refused(empty_cgroup: Path) -> None:
        refuses(StatsReader, empty_cgroup, ["anon"], transport="stream")
        refuses(StatsReader, empty_cgroup, ["anon"], backend="core", transport="stream")
        refuses(TreeReader, empty_cgroup, ["anon"], transport="shared")
        refuses(TreeReader, empty_cgroup, ["anon"], backend="core", transport="shared")

    def test_removed_cgroups_are_not_seen_by_departed(empty_cgroup: Path) -> None:
        with TreeReader(empty_cgroup, ["anon"], departed=True) as tree:
            assert tree.read().departed is None and len(tree.read()) == 1
            assert "departed: " in tree.fallback_reason
        if STAT_BPF_WAYS:
            refuses(TreeReader, empty_cgroup, ["anon"], backend="core", departed=True)

    def test_core_has_no_other_way_than_to_run(empty_cgroup: Path) -> None:
        if STAT_BPF_WAYS:
            with StatsReader(empty_cgroup, ["anon"], backend="core") as reader:
                assert (reader.transport, reader.read()) == ("run", {"anon": 0})
            with TreeReader(empty_cgroup, ["anon"], backend="core") as tree:
                assert (tree.transport, [*map(dict, tree.read())]) == ("run", [{"anon": 0}])
        else:
            refuses(StatsReader, empty_cgroup, ["anon"], backend="core")
            refuses(TreeReader, empty_cgroup, ["anon"], backend="core")

    def test_the_same_calls_read_all_there_is() -> None:
        with cgroup() as path:
            enable_memory(path)
            (path / "below").mkdir()
            assert read_stats(path, ["anon", "memory.max"])["anon"] == 0
            with StatsReader(path) as reader, TreeReader(path) as tree:
                assert (reader.backend, reader.transport) == BEST_STAT_WAY.shown
                assert (tree.backend, tree.transport) == BEST_TREE_WAY.shown
                assert "\n" not in tree.fallback_reason != ""
                snapshot = tree.read()
                assert isinstance(snapshot, Snapshot)
                assert [row.relative_path for row in snapshot] == [".", "below"]
                assert dict(snapshot[0]).keys() == reader.read().keys()
                assert "cgroup_memory_pgfault" in openmetrics(snapshot)
