# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Trees by `core` and `run`, whose walk begins at the reader's open directory.

Whatever becomes of the directory, its descriptor and the process: the rows are never those of
another tree.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import CgroupRemovedError, MemcgError, TreeReader

from .cgroups import cgroup, enable_memory, in_child, in_threads
from .surroundings import IN_LAB, RUN_BACKENDS
from .swapped_directory import reads_under_swaps
from .test_walk_in_pieces import Pieces, pieces  # noqa: F401  # a fixture
from .ways import BY_DIRECTORY

SECONDS = 2.0
CHILDREN = 12
_CLONE_NEWNS, _CLONE_NEWCGROUP = 0x00020000, 0x02000000

if "core" not in RUN_BACKENDS:
    pytest.skip("this kernel runs no such program", allow_module_level=True)


def reader_of(path: Path) -> TreeReader:
    return BY_DIRECTORY.tree(path, ["anon"], flush=False)


def ids_below(path: Path) -> list[int]:
    """The ids that a walk finds."""
    return [path.stat().st_ino, *((path / str(at)).stat().st_ino for at in range(CHILDREN))]


@pytest.fixture
def pair() -> Iterator[tuple[Path, Path]]:
    """Two trees of the same form."""
    with cgroup() as first, cgroup() as second:
        for path in (first, second):
            enable_memory(path)
            for at in range(CHILDREN):
                (path / str(at)).mkdir()
        yield first, second


@pytest.mark.parametrize("steps", [2, 64])
def test_a_descriptor_that_leads_elsewhere_is_noticed(
    pair: tuple[Path, Path],
    pieces: Pieces,  # noqa: F811
    steps: int,
) -> None:
    first = pair[0]
    expected = ids_below(first)
    pieces(steps)

    def swap_under_walks() -> None:
        seen = reads_under_swaps(reader_of, pair, lambda tree: list(tree.read().ids) == expected)
        assert min(seen.values()) > (0 if IN_LAB else 3), seen

    assert in_child(swap_under_walks) == 0


def test_a_root_that_is_made_again_is_another(pair: tuple[Path, Path]) -> None:
    path = pair[0] / "0"
    with reader_of(path) as tree:
        assert len(tree.read()) == 1
        path.rmdir()
        path.mkdir()
        for _ in range(3):
            with pytest.raises(CgroupRemovedError):
                tree.read()
        with reader_of(path) as again:
            assert list(again.read().ids) == [path.stat().st_ino]


def test_readers_in_many_threads_walk_their_own_trees(pair: tuple[Path, Path]) -> None:
    def walk() -> None:
        own = pair[threading.get_ident() % 2]
        expected = ids_below(own)
        end = time.monotonic() + SECONDS / 2
        with reader_of(own) as tree:
            while time.monotonic() < end:
                assert list(tree.read().ids) == expected

    in_threads(6, walk)


def test_a_process_with_another_root_reads_on(pair: tuple[Path, Path], tmp_path: Path) -> None:
    expected = ids_below(pair[0])
    with reader_of(pair[0]) as tree:

        def elsewhere() -> None:
            assert list(tree.read().ids) == expected, "it has loaded a program of its own"
            assert ctypes.CDLL(None).unshare(_CLONE_NEWNS | _CLONE_NEWCGROUP) == 0
            os.chroot(tmp_path)
            os.chdir("/")
            for _ in range(3):
                assert list(tree.read().ids) == expected

        assert in_child(elsewhere) == 0


def test_an_inherited_directory_is_as_good(pair: tuple[Path, Path]) -> None:
    expected = [ids_below(path) for path in pair]
    with reader_of(pair[0]) as tree, reader_of(pair[1]) as other:

        def child() -> None:
            assert list(tree.read().ids) == expected[0]
            os.close(tree._source._directory.fd)  # type: ignore[union-attr]
            with pytest.raises(MemcgError, match="closed by other code"):
                tree.read()
            assert list(other.read().ids) == expected[1]

        assert in_child(child) == 0
        assert list(tree.read().ids) == expected[0]
