# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers that root has made, and that a process without rights reads first."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Union

import pytest

from pymemcgbpf import (
    BpfPermissionError,
    Snapshot,
    StatsReader,
    TreeReader,
    list_items,
    openmetrics,
    read_stats,
)

from .cgroups import NOBODY, give_up_rights, in_child, may_call_bpf, memory_stat
from .seccomp import refuse_bpf
from .surroundings import BEST_BACKEND, VERSION

pytestmark = pytest.mark.needs_bpf

Reader = Union[StatsReader, TreeReader]

MADE: list[Callable[[Path], Reader]] = [
    lambda path: StatsReader(path),
    lambda path: StatsReader(path, ["memory.stat.*"], flush=False),
    lambda path: TreeReader(path),
    lambda path: TreeReader(path, ["memory.stat.*", "memory.current", "derived.*"], flush=False),
    lambda path: TreeReader(path, order="self"),
]
made = pytest.mark.parametrize(
    "make", MADE, ids=["stats", "stats, group", "tree", "tree, groups", "self"]
)


def drop_capabilities(kept: int = 0) -> None:
    """This thread stays root's, with these effective and permitted capabilities alone."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    low, high = kept & 0xFFFF_FFFF, kept >> 32
    assert ctypes.CDLL(None).capset(header, struct.pack("=6I", low, low, 0, high, high, 0)) == 0


def drop_real_and_effective_user() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


LOSSES: list[Callable[[], None]] = [
    give_up_rights,
    drop_real_and_effective_user,
    drop_capabilities,
    lambda: drop_capabilities(1 << 38),
    lambda: drop_capabilities(1 << 39),
    lambda: refuse_bpf(errno.EPERM),
    lambda: refuse_bpf(errno.EACCES),
    lambda: refuse_bpf(errno.ENOSYS),
]
lost = pytest.mark.parametrize(
    "lose",
    LOSSES,
    ids=["user", "resuid", "none", "no CAP_BPF", "no CAP_PERFMON", "EPERM", "EACCES", "ENOSYS"],
)


def first_row(reader: Reader) -> Mapping[str, int]:
    read = reader.read()
    return read[0] if isinstance(read, Snapshot) else read


@made
@lost
def test_the_first_read_of_a_child_without_rights_is_text_or_works(
    empty_cgroup: Path, make: Callable[[Path], Reader], lose: Callable[[], None]
) -> None:
    """By default on v1, too, where text has fewer items: the others are absent."""
    with make(empty_cgroup) as reader:
        before, names = reader.fallback_reason, reader.item_names

        def child() -> None:
            lose()
            shown = memory_stat(empty_cgroup)
            for _ in range(2):
                row = first_row(reader)
            assert reader.item_names == names
            assert reader.backend in (BEST_BACKEND, "text")
            if reader.backend == BEST_BACKEND:
                assert list(row) == list(names) and reader.fallback_reason == before
                return
            assert f"{BEST_BACKEND}: this process has lost the rights" in reader.fallback_reason
            key = "anon" if VERSION == 2 else "total_rss"
            assert row["anon"] == shown[key]
            missing = [name for name in names if name not in row]
            assert (VERSION == 1) == bool(missing)
            if missing:
                said = f"; as text, {len(missing)} of {len(names)} items are missing (kernel, "
                assert said in reader.fallback_reason

        assert in_child(child) == 0
        assert len(first_row(reader)) == len(names) and reader.backend == BEST_BACKEND


@lost
def test_a_tree_without_some_items_still_makes_tables_and_metrics(
    empty_cgroup: Path, lose: Callable[[], None]
) -> None:
    (empty_cgroup / "child").mkdir()
    with TreeReader(empty_cgroup, ["memory.stat.*"]) as tree:

        def child() -> None:
            lose()
            first = tree.read()
            again = tree.read()
            assert tree.backend == "text"
            columns = first.to_columns()
            assert list(columns)[-len(tree.item_names) :] == list(tree.item_names)
            if VERSION == 1:
                assert columns["pgscan"] == [None] * len(first)
                with pytest.raises(KeyError):
                    first.column("pgscan")
            assert "anon" in openmetrics(first)
            assert [change.path for change in again.since(first)]

        assert in_child(child) == 0


@lost
def test_an_item_asked_for_by_name_that_text_lacks_is_an_error_that_says_what_to_do(
    empty_cgroup: Path, lose: Callable[[], None]
) -> None:
    with TreeReader(empty_cgroup, ["anon", "pgscan"]) as tree:

        def child() -> None:
            lose()
            if VERSION == 2:  # text has every item there
                assert tree.read()[0]["pgscan"] == 0
                return
            for _ in range(2):
                with pytest.raises(BpfPermissionError) as caught:
                    tree.read()
                assert "lost the rights" in str(caught.value)
                assert str(caught.value).endswith(
                    "as text: this kernel's cgroup v1 memory.stat does not have 'pgscan': let the "
                    "process read once before it gives up its rights, or leave out 'pgscan'"
                )

        assert in_child(child) == 0


@lost
def test_every_function_and_loop_serves_a_child_without_rights(
    empty_cgroup: Path, lose: Callable[[], None]
) -> None:
    read_stats(empty_cgroup)
    items = {item.name for item in list_items(empty_cgroup)}
    with TreeReader(empty_cgroup) as tree, StatsReader(empty_cgroup) as stats:

        def child() -> None:
            lose()
            assert read_stats(empty_cgroup)["anon"] == 0
            assert read_stats(empty_cgroup, ["file"])["file"] == 0
            assert {item.name for item in list_items(empty_cgroup)} <= items
            for snapshot in tree.every(0.001):
                assert snapshot[0]["anon"] == 0
                break
            for values in stats.every(0.001):
                assert values["anon"] == 0
                break

        assert in_child(child) == 0


def test_a_child_in_another_root_directory_reads_on_without_rights(
    empty_cgroup: Path, tmp_path: Path
) -> None:
    with TreeReader(empty_cgroup) as tree, StatsReader(empty_cgroup) as stats:

        def child() -> None:
            os.chroot(tmp_path)
            os.chdir("/")
            give_up_rights()
            assert tree.read()[0]["anon"] == 0 and tree.backend == "text"
            assert stats.read()["anon"] == 0

        assert in_child(child) == 0


def test_workers_of_multiprocessing_read_after_they_gave_up_their_rights(
    empty_cgroup: Path,
) -> None:
    with TreeReader(empty_cgroup) as tree:

        def work() -> None:
            give_up_rights()
            assert len(tree.read()) == 1 and tree.backend == "text"

        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 3
        assert len(tree.read()) == 1 and tree.backend == BEST_BACKEND


def test_a_tree_that_was_read_before_the_rights_went_is_read_on_through_bpf(
    empty_cgroup: Path,
) -> None:
    with TreeReader(empty_cgroup) as tree:

        def child() -> None:
            tree.read()
            drop_capabilities()
            assert tree.read()[0]["anon"] == 0
            assert tree.backend == (BEST_BACKEND if may_call_bpf() else "text")

        assert in_child(child) == 0
