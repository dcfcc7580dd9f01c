# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Where the kernel can be told to (the lab's guest "seed"), one allocation after another fails in
each operation. The outcome is the right number, or an error that says what lacked; and afterwards
all is as before.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import StatsReader, TreeReader, pin, read_stats, unpin
from pymemcgbpf._sources import program_cache as _program_cache

from .cgroups import cgroup, enable_memory
from .failing_memory import FAIL_NTH, SETTINGS, FailingMemory
from .pins import bpffs
from .ways import BEST_STAT_WAY, BEST_TREE_WAY, Way

STATS, TREE = BEST_STAT_WAY.shown, BEST_TREE_WAY.shown


if FAIL_NTH.exists():

    @pytest.fixture(scope="module", autouse=True)
    def _every_kind_of_allocation() -> None:
        for name, settings in SETTINGS.items():
            for file, value in settings.items():
                Path("/sys/kernel/debug", name, file).write_text(value)

    @pytest.fixture
    def memory() -> Iterator[FailingMemory]:
        failing = FailingMemory()
        yield failing
        failing.close()

    @pytest.fixture
    def tree() -> Iterator[Path]:
        """A cgroup with three below it."""
        with cgroup() as top:
            enable_memory(top)
            with cgroup(top), cgroup(top), cgroup(top):
                yield top

    def test_reads(memory: FailingMemory, tree: Path, way: Way) -> None:
        with way.stats(tree, ["anon", "memory.current"]) as reader:
            expected = reader.read()

            def read() -> None:
                assert reader.read() == expected

            assert memory.sweep(read) >= 1

    def test_walks(memory: FailingMemory, tree: Path, tree_way: Way) -> None:
        with tree_way.tree(tree, ["anon"]) as reader:

            def read() -> None:
                assert [dict(row) for row in reader.read()] == [{"anon": 0}] * 4

            assert memory.sweep(read) >= 1

    def test_readers_are_made_as_ever(memory: FailingMemory, tree: Path) -> None:
        def make() -> None:
            with StatsReader(tree, ["anon", "memory.current"]) as reader:
                assert (reader.backend, reader.transport) == STATS, reader.fallback_reason
                assert reader.read().keys() == {"anon", "memory.current"}

        # So a program is loaded again each time.
        assert memory.sweep(make, prepare=_program_cache._programs.clear, step=3) > 100

    def test_readers_of_trees_are_made_as_ever(memory: FailingMemory, tree: Path) -> None:
        def make() -> None:
            with TreeReader(tree, ["anon"]) as reader:
                assert (reader.backend, reader.transport) == TREE, reader.fallback_reason
                assert len(reader.read()) == 4

        assert memory.sweep(make, step=3) > 100

    def test_a_map_that_grows(memory: FailingMemory, tree: Path) -> None:
        number, reached = 1, True
        while reached:
            with (
                TreeReader(tree, ["anon"], order="children") as reader,
                contextlib.ExitStack() as more,
            ):
                for _ in range(24):
                    more.enter_context(cgroup(tree))

                def grow(reader: TreeReader = reader) -> None:
                    assert len(reader.read()) == 27

                reached = memory.reaches(number, grow)
                grow()
                assert (reader.backend, reader.transport) == TREE
            number += 5
        assert number > 20

    def test_read_stats(memory: FailingMemory, tree: Path) -> None:
        def read() -> None:
            assert read_stats(tree, ["anon"]) == {"anon": 0}

        assert memory.sweep(read) >= 1

    def test_pins(memory: FailingMemory, tree: Path) -> None:
        with bpffs() as folder:
            place = folder / "pin"

            def make() -> None:
                pin(tree, place, ["anon"])

            def make_room() -> None:
                if place.exists():
                    unpin(place)

            assert memory.sweep(make, prepare=make_room, step=3) > 100
            unpin(place)

    @pytest.mark.parametrize("start", range(1, 58, 15))
    def test_a_process_s_first_reader(tree: Path, start: int) -> None:
        # What libbpf finds out about the kernel it asks once for each process.
        command = [sys.executable, "-m", "tests.kernel.first_reader", str(tree), *STATS]
        ran = subprocess.run([*command, str(start), "58"], capture_output=True, text=True)
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-4000:]}"
        assert int(ran.stdout) > 300
