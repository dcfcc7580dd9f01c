# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup by `core` and `run`, which finds it by the reader's open directory.

Whatever becomes of the directory, its descriptor, the process and the CPU: the numbers are never
those of another cgroup.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import CgroupRemovedError, MemcgError, StatsReader

from .cgroups import MIB, cgroup, enable_memory, in_child, in_threads, processes
from .surroundings import IN_LAB, VERSION
from .swapped_directory import reads_under_swaps

SECONDS = 2.0
MAX_FILE = "memory.max" if VERSION == 2 else "memory.limit_in_bytes"
ITEMS = ["memory.max", "anon"]
_CLONE_NEWNS, _CLONE_NEWCGROUP = 0x00020000, 0x02000000


def limit(path: Path, size: int) -> None:
    (path / MAX_FILE).write_text(str(size))


def reader_of(path: Path) -> StatsReader:
    return StatsReader(path, ITEMS, flush=False, backend="core", transport="run")


@pytest.fixture
def pair() -> Iterator[tuple[Path, Path]]:
    """Two cgroups that their limits tell apart: 1 and 2 MiB."""
    with cgroup() as first, cgroup() as second:
        limit(first, MIB)
        limit(second, 2 * MIB)
        yield first, second


def test_a_descriptor_that_leads_elsewhere_is_noticed(pair: tuple[Path, Path]) -> None:
    right = {"memory.max": MIB, "anon": 0}

    def swap_under_reads() -> None:
        seen = reads_under_swaps(reader_of, pair, lambda reader: reader.read() == right)
        assert min(seen.values()) > 3, seen

    assert in_child(swap_under_reads) == 0


def test_cgroups_that_come_and_go_are_never_mixed_up() -> None:
    """Each reader has the numbers of the cgroup that it was made for, or says that it was removed,
    while others are made at the same paths."""
    with cgroup() as top:
        enable_memory(top)

        def churn(number: int) -> None:
            path, seen, removed = top / str(number), 0, 0
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                path.mkdir()
                size = (1 + seen % 500) * MIB
                limit(path, size)
                with reader_of(path) as reader:
                    remover = threading.Thread(target=path.rmdir)
                    for at in range(40):
                        if at == 5:
                            remover.start()
                        try:
                            assert reader.read() == {"memory.max": size, "anon": 0}
                            seen += 1
                        except CgroupRemovedError:
                            removed += 1
                    remover.join()
                    with pytest.raises(CgroupRemovedError):
                        reader.read()
            assert min(seen, removed) > (3 if IN_LAB else 50), (seen, removed)

        with processes(*(lambda number=number: churn(number) for number in range(3))):
            pass


def test_callers_on_one_cpu_do_not_get_each_other_s_answers(pair: tuple[Path, Path]) -> None:
    """All calls on a CPU write into one slot."""
    cpu = min(os.sched_getaffinity(0))
    first, second = (reader_of(path) for path in pair)

    def read_on() -> None:
        reads = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert first.read()["memory.max"] == MIB
            assert second.read()["memory.max"] == 2 * MIB
            reads += 1
        assert reads > 0

    def in_one_process() -> None:
        os.sched_setaffinity(0, {cpu})
        in_threads(3, read_on)

    with first, second, processes(*[in_one_process] * 4):
        pass


def test_a_process_with_another_root_reads_on(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with reader_of(pair[0]) as reader:

        def elsewhere() -> None:
            assert ctypes.CDLL(None).unshare(_CLONE_NEWNS | _CLONE_NEWCGROUP) == 0
            os.chroot(tmp_path)
            os.chdir("/")
            assert reader.read() == {"memory.max": MIB, "anon": 0}

        assert in_child(elsewhere) == 0


def test_an_inherited_directory_is_as_good(pair: tuple[Path, Path]) -> None:
    with reader_of(pair[0]) as reader, reader_of(pair[1]) as other:

        def child() -> None:
            assert reader.read()["memory.max"] == MIB
            os.close(reader._source._directory.fd)  # type: ignore[union-attr]
            with pytest.raises(MemcgError, match="closed by other code"):
                reader.read()
            assert other.read()["memory.max"] == 2 * MIB

        assert in_child(child) == 0
        assert reader.read()["memory.max"] == MIB
