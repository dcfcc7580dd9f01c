# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Many cgroups at once, each leaf with memory of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .cgroups import PORTION, Worker, cgroup, enable_memory, fault_in, memory_stat
from .surroundings import VERSION


class Forest(NamedTuple):
    """A tree of cgroups in three levels.

    Attributes:
        root: the topmost; it has no process.
        paths: all of them, by id; the root first, parents before children.
        shmem: leaf's id → the shared memory charged to it, in bytes, exactly.
    """

    root: Path
    paths: dict[int, Path]
    shmem: dict[int, int]

    def parent(self, cgroup_id: int) -> int:
        """The id of the cgroup above."""
        return self.paths[cgroup_id].parent.stat().st_ino


@contextlib.contextmanager
def forest(groups: int, leaves: int, charged: int = 20) -> Iterator[Forest]:
    """A root with some groups of some leaves each; in each group the first *charged* have memory.

    One process goes from leaf to leaf: what it touches stays charged where it was touched.
    """
    with cgroup() as root:
        enable_memory(root)
        paths = [root]
        tenants: dict[Path, int] = {}
        for group in range(groups):
            above = root / f"group-{group}"
            above.mkdir()
            enable_memory(above)
            paths.append(above)
            for leaf in range(leaves):
                path = above / f"leaf-{leaf}"
                path.mkdir()
                paths.append(path)
                if leaf < charged:
                    tenants[path] = (1 + (group + leaf) % 7) * PORTION
        with Worker(next(iter(tenants)), lambda: _charge(tenants)):
            settle(tenants)
            ids = {path: path.stat().st_ino for path in paths}
            yield Forest(
                root,
                {cgroup_id: path for path, cgroup_id in ids.items()},
                {ids[path]: size for path, size in tenants.items()},
            )


def _charge(tenants: dict[Path, int]) -> object:
    kept = []
    for path, size in tenants.items():
        (path / "cgroup.procs").write_text("0")
        kept.append(fault_in(size, shared=True))
    return kept


def settle(tenants: dict[Path, int]) -> None:
    """Waits until the kernel has counted all shared memory; it may defer a few pages for 2 s."""
    key = "shmem" if VERSION == 2 else "total_shmem"
    deadline = time.monotonic() + 30
    for path, size in tenants.items():
        while memory_stat(path)[key] != size:
            assert time.monotonic() < deadline, f"{path} has no {size} bytes"
            time.sleep(0.05)


def storm(parents: Sequence[Path], deadline: float) -> None:
    """Makes and removes two levels of cgroups below each parent until a deadline.

    To be run in a process of its own.
    """
    while time.monotonic() < deadline:
        for parent in parents:
            above = parent / f"storm-{os.getpid()}"
            above.mkdir()
            enable_memory(above)
            below = above / "below"
            below.mkdir()
            below.rmdir()
            above.rmdir()
