# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A process that becomes a daemon closes every descriptor that it finds, ours too."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
from pathlib import Path
from typing import Callable, Union

import pytest

import pymemcgbpf
from pymemcgbpf import MemcgError, StatsReader, TreeReader, read_stats

from .cgroups import MIB, cgroup, in_child
from .surroundings import BEST_BACKEND, VERSION
from .ways import Way

ITEMS = ["anon", "file", "pgfault"]
MAX_FILE = "memory.max" if VERSION == 2 else "memory.limit_in_bytes"


def take_all_numbers() -> list[tuple[int, int]]:
    """Closes all descriptors but the standard ones, and gives their numbers to files of the
    application; returns those, with what tells each."""
    os.closerange(3, 4096)
    files = [os.memfd_create(f"application-{number}") for number in range(64)]
    assert files == list(range(3, 67))
    return [(fd, os.fstat(fd).st_ino) for fd in files]


def are_open(files: list[tuple[int, int]]) -> bool:
    return [os.fstat(fd).st_ino for fd, _ in files] == [inode for _, inode in files]


def refuses(read: Callable[[], object]) -> bool:
    with pytest.raises(MemcgError, match="make another reader") as caught:
        read()
    return caught.value.errno == errno.EBADF


def test_read_stats_recovers_and_closes_no_other_files(empty_cgroup: Path) -> None:
    def daemon() -> None:
        expected = read_stats(empty_cgroup, ITEMS)
        with_others = read_stats(empty_cgroup)
        files = take_all_numbers()
        assert read_stats(empty_cgroup, ITEMS) == expected
        assert read_stats(empty_cgroup).keys() == with_others.keys()
        pymemcgbpf.clear_cache()
        gc.collect()
        assert are_open(files)
        with StatsReader(empty_cgroup, ITEMS) as reader, TreeReader(empty_cgroup, ITEMS) as tree:
            assert (reader.backend, tree.backend) == (BEST_BACKEND, BEST_BACKEND)
            assert reader.read() == dict(tree.read()[0]) == expected

    assert in_child(daemon) == 0


def say_what_happened(make: Callable[[], Union[StatsReader, TreeReader]], is_closed: bool) -> None:
    """Makes a reader, becomes a daemon, and reads on."""
    reader = make()
    reader.read()  # in a child: a tree's program is its own
    files = take_all_numbers()
    assert refuses(reader.read)
    if is_closed:
        reader.close()
    del reader
    gc.collect()
    assert are_open(files)


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "forgotten"])
def test_a_reader_says_that_its_files_were_closed(
    empty_cgroup: Path, way: Way, is_closed: bool
) -> None:
    make = functools.partial(way.stats, empty_cgroup, ITEMS)
    assert in_child(lambda: say_what_happened(make, is_closed)) == 0


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "forgotten"])
def test_a_tree_reader_says_that_its_files_were_closed(
    empty_cgroup: Path, tree_way: Way, is_closed: bool
) -> None:
    make = functools.partial(tree_way.tree, empty_cgroup, ITEMS)
    assert in_child(lambda: say_what_happened(make, is_closed)) == 0


def test_no_reader_returns_the_numbers_of_another(way: Way) -> None:
    """The numbers of readers that were made before are those of new ones, of other cgroups."""

    def daemon() -> None:
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(cgroup()) for _ in range(4)]
            limits = [number * MIB for number in (1, 2, 3, 4)]
            for path, limit in zip(paths, limits):
                (path / MAX_FILE).write_text(str(limit))
            items = ["memory.max", "anon"]
            old = [way.stats(path, items) for path in paths]
            assert [reader.read()["memory.max"] for reader in old] == limits
            os.closerange(3, 4096)
            new = [way.stats(path, items) for path in reversed(paths)]
            for reader in old:
                assert refuses(reader.read)
            assert [reader.read()["memory.max"] for reader in new] == limits[::-1]
            for _ in range(2):
                assert [read_stats(path, items)["memory.max"] for path in paths] == limits
            os.closerange(3, 4096)
            for _ in range(2):
                assert [read_stats(path, items)["memory.max"] for path in paths] == limits

    assert in_child(daemon) == 0
