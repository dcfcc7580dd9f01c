# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""How numbers travel: each way on demand, the same numbers, and nothing kept that is gone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    MemcgError,
    StatsReader,
    TreeReader,
    _options,
    read_stats,
)

from .cgroups import MIB, Worker, cgroup, enable_memory, in_child, in_threads, is_dying, remove
from .forest import Forest, forest
from .surroundings import (
    BEST_BACKEND,
    BPF_BACKENDS,
    CAN_RUN,
    RUN_BACKENDS,
    VERSION,
)
from .ways import BEST_STAT_WAY, BEST_TREE_WAY, STAT_BPF_WAYS, Way

Busy = tuple[Path, Worker]

_CLONE_NEWCGROUP = 0x02000000


@pytest.fixture(scope="module")
def small() -> Iterator[Forest]:
    """Leaves with memory that tells them apart."""
    with forest(2, 7) as made:
        yield made


def test_a_transport_asked_for_is_the_one_used(empty_cgroup: Path, bpf_way: Way) -> None:
    with bpf_way.stats(empty_cgroup, ["anon"]) as reader:
        assert (reader.backend, reader.transport) == bpf_way
        assert reader.read() == {"anon": 0}


def test_read_stats_goes_the_way_that_is_asked_for(empty_cgroup: Path) -> None:
    for transport in ("auto", *{way.transport for way in STAT_BPF_WAYS}):
        assert read_stats(empty_cgroup, ["anon"], transport=transport) == {"anon": 0}
    wrong: Any = "steam"
    with pytest.raises(ValueError, match="steam"):
        read_stats(empty_cgroup, ["anon"], transport=wrong)
    missing: Any
    for missing in {"run", "stream"} - {way.transport for way in STAT_BPF_WAYS}:
        with pytest.raises(BackendUnavailableError):
            read_stats(empty_cgroup, ["anon"], transport=missing)


def test_a_tree_s_transport_asked_for_is_the_one_used(
    empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    with tree_bpf_way.tree(empty_cgroup, ["anon"]) as tree:
        assert (tree.backend, tree.transport) == tree_bpf_way
        assert [dict(row) for row in tree.read()] == [{"anon": 0}]


def test_auto_uses_run_where_the_kernel_has_it(empty_cgroup: Path) -> None:
    with (
        StatsReader(empty_cgroup, ["anon"], flush=False) as reader,
        TreeReader(empty_cgroup, ["anon"]) as tree,
    ):
        for each, best in ((reader, BEST_STAT_WAY), (tree, BEST_TREE_WAY)):
            assert (each.backend, each.transport) == best.shown
            assert each.fallback_reason or best.transport == "run"


if CAN_RUN:

    @pytest.mark.parametrize("backend", RUN_BACKENDS)
    @pytest.mark.parametrize("flush", [True, False])
    def test_run_and_stream_give_the_same_numbers(
        busy: Busy, backend: _options.Backend, flush: bool
    ) -> None:
        path, _ = busy
        compared = set()
        with (
            StatsReader(path, backend=backend, transport="run", flush=flush) as run,
            StatsReader(path, backend=backend, transport="stream", flush=flush) as stream,
        ):
            assert run.item_names == stream.item_names
            for _ in range(50):
                before, by_run, after = stream.read(), run.read(), stream.read()
                for name in run.item_names:
                    if before[name] == after[name]:
                        assert by_run[name] == before[name], name
                        compared.add(name)
        assert compared == set(run.item_names) and len(compared) >= 48

else:

    def test_run_says_why_it_is_not_to_be_had(empty_cgroup: Path) -> None:
        why = "on cgroup v2 only" if VERSION == 1 else "this kernel has no bpf_cgroup_from_id"
        if not BPF_BACKENDS:
            why = "this kernel"  # has nothing that the backends read
        for backend in ("auto", *BPF_BACKENDS):
            if RUN_BACKENDS and backend in ("auto", *RUN_BACKENDS):
                continue
            readers: tuple[type[Union[StatsReader, TreeReader]], ...] = (StatsReader, TreeReader)
            for make in readers:
                with pytest.raises(BackendUnavailableError, match=why):
                    make(empty_cgroup, ["anon"], backend=backend, transport="run")


if VERSION == 2:  # v1 does not tell which removed cgroups it keeps

    def test_only_a_stream_keeps_a_removed_cgroup(bpf_way: Way) -> None:
        with cgroup() as top:
            enable_memory(top)
            path = top / "path"
            path.mkdir()
            with bpf_way.stats(path, ["anon"]) as reader:
                assert reader.read() == {"anon": 0}
                remove(path)
                with pytest.raises(CgroupRemovedError, match="was removed"):
                    reader.read()
                assert is_dying(top, int(bpf_way.transport == "stream"))
                with pytest.raises(CgroupRemovedError, match="was removed"):
                    reader.read()
            assert is_dying(top, 0)


def test_concurrent_callers_of_one_program_get_their_own_rows(small: Forest, bpf_way: Way) -> None:
    """Processes and threads: all that read the same items share a program and its scratch."""
    readers = {
        cgroup_id: bpf_way.stats(small.paths[cgroup_id], ["shmem"], flush=False)
        for cgroup_id in small.shmem
    }
    try:

        def read_all() -> None:
            for _ in range(20):
                for cgroup_id, reader in readers.items():
                    assert reader.read() == {"shmem": small.shmem[cgroup_id]}

        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    in_threads(4, read_all)
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        try:
            in_threads(4, read_all)
        finally:
            ended = [os.waitpid(pid, 0)[1] for pid in pids]
        assert ended == [0, 0, 0]
    finally:
        for reader in readers.values():
            reader.close()
    assert len(readers) == 14 and len(set(small.shmem.values())) == 7


# --- from inside a cgroup namespace, where the kernel may not find a cgroup by its id --


def in_namespace(member: Path) -> None:
    """Makes a cgroup the topmost one that the calling process sees."""
    (member / "cgroup.procs").write_text("0")
    assert ctypes.CDLL(None).unshare(_CLONE_NEWCGROUP) == 0


def places(small: Forest) -> tuple[Path, Path, int]:
    """A leaf to be in, another one outside of it, and the shmem of that."""
    outside = small.root / "group-1" / "leaf-2"
    return small.root / "group-0" / "leaf-1", outside, small.shmem[outside.stat().st_ino]


def both(tree_way: Way) -> tuple[Way, Way]:
    """The like way to read one cgroup, and this one."""
    return tree_way._replace(transport=tree_way.transport.replace("shared", "stream")), tree_way


def test_a_forced_transport_in_a_cgroup_namespace_is_right_or_refused(
    small: Forest, tree_bpf_transport_way: Way
) -> None:
    stat_way, tree_way = both(tree_bpf_transport_way)
    inside, outside, size = places(small)

    def child() -> None:
        in_namespace(inside)
        # This process is in there itself, with all that it maps.
        own = small.shmem[inside.stat().st_ino]
        with stat_way.stats(inside, ["shmem"]) as reader:
            assert own <= reader.read()["shmem"] <= own + MIB
        with tree_way.tree(inside, ["shmem"]) as tree:
            (row,) = tree.read()
            assert own <= row["shmem"] <= own + MIB
        try:
            with stat_way.stats(outside, ["shmem"]) as reader:
                assert reader.read() == {"shmem": size}
        except BackendUnavailableError:
            assert stat_way.transport == "run"
        try:
            with tree_way.tree(outside.parent, ["shmem"]) as tree:
                found = tree.read().find("leaf-2")
                assert found is not None and found["shmem"] == size
        except BackendUnavailableError:
            assert tree_way.transport == "run"

    assert in_child(child) == 0


def test_auto_is_right_in_a_cgroup_namespace(small: Forest) -> None:
    inside, outside, size = places(small)

    def child() -> None:
        in_namespace(inside)
        with StatsReader(outside, ["shmem"], flush=False) as reader:
            assert (reader.backend, reader.read()) == (BEST_BACKEND, {"shmem": size})
        with TreeReader(outside, ["shmem"]) as tree:
            assert tree.backend == BEST_BACKEND
            assert [row["shmem"] for row in tree.read()] == [size]

    assert in_child(child) == 0


def test_a_reader_that_enters_a_cgroup_namespace_reports_no_removal(
    small: Forest, tree_bpf_transport_way: Way
) -> None:
    stat_way, tree_way = both(tree_bpf_transport_way)
    inside, outside, size = places(small)
    with (
        stat_way.stats(outside, ["shmem"]) as reader,
        tree_way.tree(outside, ["shmem"]) as tree,
    ):

        def child() -> None:
            in_namespace(inside)
            try:
                assert reader.read() == {"shmem": size}
            except MemcgError as error:
                assert not isinstance(error, CgroupRemovedError), "it is there"
                assert stat_way.transport == "run"
            try:
                assert [row["shmem"] for row in tree.read()] == [size]
            except MemcgError as error:
                assert not isinstance(error, CgroupRemovedError), "it is there"
                assert tree_way.transport == "run"

        assert in_child(child) == 0
        assert reader.read() == {"shmem": size}
