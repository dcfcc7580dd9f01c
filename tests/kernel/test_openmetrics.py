# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Metrics of a tree whose cgroups have names of odd bytes."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest

from pymemcgbpf import (
    Backend,
    PinnedReader,
    Snapshot,
    TreeReader,
    openmetrics,
    pin_tree,
    unpin,
)

from .cgroups import EXACT_MIB, Worker, cgroup, enable_memory, fault_in, in_child
from .forest import settle
from .oracle import NO_LIMIT, everything
from .pins import bpffs
from .surroundings import VERSION

# The kernel refuses no byte in a name but a newline, a slash and NUL.
ODD_NAMES = (b'"q"\\', b"\\n\\", b"\xff\xfe", "ä{} 1,".encode(), b"\r\t=#", b"%s%d", b" ")


def own_path(pid: int) -> bytes:
    """The path of a process's memory cgroup in /proc/PID/cgroup."""
    line = rb"^\d+:(?:.*,)?memory(?:,.*)?:(.*)$" if VERSION == 1 else rb"^0::(.*)$"
    found = re.search(line, Path(f"/proc/{pid}/cgroup").read_bytes(), re.MULTILINE)
    assert found is not None
    return found[1]


def read_back(label: str) -> bytes:
    """The path that a label stands for."""
    unescaped = re.sub(r'\\([\\"])', r"\1", label).encode()
    return re.sub(b"//x(..)", lambda match: bytes.fromhex(match[1].decode()), unescaped)


def test_each_cgroup_has_its_numbers_under_the_path_that_its_processes_have(
    tree_backend: Backend,
) -> None:
    with cgroup() as root, contextlib.ExitStack() as stack:
        enable_memory(root)
        paths = [root / os.fsdecode(name) for name in ODD_NAMES]
        expected = {}
        for path in paths:
            path.mkdir()
            worker = stack.enter_context(Worker(path, lambda: fault_in(EXACT_MIB, shared=True)))
            settle({path: EXACT_MIB})
            assert everything(path)["memory.max"] == NO_LIMIT
            expected[own_path(worker.pid)] = [str(EXACT_MIB), "+Inf"]
        items = ["shmem", "memory.max"]
        with TreeReader(root, items, order="children", backend=tree_backend) as reader:
            first, second = openmetrics(reader.read()), openmetrics(reader.read(copy=False))
    assert first == second
    found: dict[bytes, list[str]] = {}
    for label, number in re.findall(r'^cgroup_memory_\w+\{cgroup="(.*)"\} (.*)$', first, re.M):
        found.setdefault(read_back(label), []).append(number)
    assert found == expected


def test_the_first_snapshot_after_a_change_has_the_tree_that_is_there() -> None:
    with cgroup() as root:
        enable_memory(root)
        with TreeReader(root, ["anon"]) as reader:
            for names in ((), ("a",), ("a", "b"), ("b",), ("b", "a")):
                for path in root.iterdir():
                    if path.is_dir() and path.name not in names:
                        path.rmdir()
                for name in names:
                    (root / name).mkdir(exist_ok=True)
                labels = re.findall('cgroup="(.*)"', openmetrics(reader.read()))
                top = f"/{root.name}"
                assert labels == [top, *(f"{top}/{name}" for name in names)]


@pytest.mark.needs_iterator
def test_a_pinned_tree_has_the_metrics_of_the_tree() -> None:
    with cgroup() as root, bpffs() as folder:
        enable_memory(root)
        (root / "a").mkdir()
        with TreeReader(root, ["memory.max", "pgscan"], flush=False) as tree:
            expected = openmetrics(tree.read())
        pin_tree(root, folder / "tree", ["memory.max", "pgscan"], flush=False)
        try:
            with PinnedReader(folder / "tree") as reader:
                snapshot = reader.read()
                assert isinstance(snapshot, Snapshot)
                assert openmetrics(snapshot) == expected
        finally:
            unpin(folder / "tree")


def test_a_forked_child_writes_snapshots_of_both_sides_of_the_fork() -> None:
    with cgroup() as root:
        enable_memory(root)
        with TreeReader(root, ["memory.max"]) as reader:
            before = reader.read()
            expected = openmetrics(before)

            def write() -> None:
                (root / "new").mkdir()
                assert openmetrics(before) == expected
                assert f'cgroup="/{root.name}/new"' in openmetrics(reader.read())

            assert in_child(write) == 0
            assert f'cgroup="/{root.name}/new"' in openmetrics(reader.read())
