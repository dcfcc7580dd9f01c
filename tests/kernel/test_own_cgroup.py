# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""In which cgroup a process is, of real processes, mounts and namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ProcessNotFoundError,
    cgroup_of,
    own_cgroup,
    read_stats,
)
from pymemcgbpf._cgroup import mounts as _mounts

from .cgroups import (
    MIB,
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    forked,
    give_up_rights,
    in_child,
    memory_stat,
    remove,
)
from .surroundings import BEST_BACKEND, HIERARCHY, VERSION
from .test_command import command, printed

_CLONE_NEWNS, _CLONE_NEWCGROUP = 0x00020000, 0x02000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
KERNEL_THREADS = 2  # their parent, kthreadd


def enter(path: Path) -> None:
    (path / "cgroup.procs").write_text("0")


def unshare(what: int) -> None:
    assert ctypes.CDLL(None).unshare(what) == 0


def mount(where: Path, kind: bytes, options: bytes) -> None:
    """Mounts a file system that only the calling process sees."""
    libc = ctypes.CDLL(None)
    unshare(_CLONE_NEWNS)
    assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    assert libc.mount(b"none", bytes(where), kind, 0, options) == 0


def shown(pid: int) -> str:
    """The path of a process's memory cgroup, read by code that shares nothing with the package."""
    name = "memory" if VERSION == 1 else ""
    text = Path(f"/proc/{pid}/cgroup").read_text()
    (path,) = re.findall(rf"^\d+:(?:\S+,)?{name}(?:,\S+)?:(/.*)$", text, re.MULTILINE)
    return str(path)


@contextlib.contextmanager
def zombie(path: Path) -> Iterator[int]:
    """A process that has exited in a cgroup."""
    pid = forked(lambda: enter(path))
    try:
        while ") Z " not in Path(f"/proc/{pid}/stat").read_text():
            time.sleep(0.01)
        yield pid
    finally:
        os.waitpid(pid, 0)


def test_a_process_finds_the_cgroup_that_it_is_in(empty_cgroup: Path) -> None:
    def child() -> None:
        enter(empty_cgroup)
        assert own_cgroup() == cgroup_of(os.getpid()) == str(empty_cgroup)

    assert in_child(child) == 0


def test_the_cgroup_of_another_process_is_found(empty_cgroup: Path) -> None:
    with Worker(empty_cgroup, lambda: None) as worker:
        assert cgroup_of(worker.pid) == str(empty_cgroup)
        assert _mounts.path_in_hierarchy(str(empty_cgroup)) == shown(worker.pid)
        pid = worker.pid
    with pytest.raises(ProcessNotFoundError, match=f"there is no process {pid}"):
        cgroup_of(pid)


def test_names_of_any_bytes_are_found(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    for name in (b" ", b"a ", b"\xff:,\\x2d", b"..a", b"b (deleted)", b"\r\t"):
        path = empty_cgroup / os.fsdecode(name)
        path.mkdir()
        with Worker(path, lambda: None) as worker:
            assert cgroup_of(worker.pid) == str(path)
        assert _mounts.directory_of(_mounts.path_in_hierarchy(str(path))) == str(path)


def test_a_thread_of_the_kernel_is_in_the_root() -> None:
    name = Path(f"/proc/{KERNEL_THREADS}/comm")
    if name.exists() and name.read_text() == "kthreadd\n":  # not in a PID namespace
        assert cgroup_of(KERNEL_THREADS) == str(HIERARCHY)


def test_a_zombie_is_found_where_it_was_or_not_at_all() -> None:
    with cgroup() as path, zombie(path) as pid:
        if VERSION == 1:
            with pytest.raises(ProcessNotFoundError, match="has exited"):
                cgroup_of(pid)
            return
        assert cgroup_of(pid) == str(path)
        remove(path)
        with pytest.raises(CgroupRemovedError, match="was removed"):
            cgroup_of(pid)


@pytest.mark.parametrize("hidepid", [b"hidepid=1", b"hidepid=2"])
def test_a_process_that_proc_hides_is_a_lack_of_permission(hidepid: bytes) -> None:
    parent = os.getpid()
    assert own_cgroup()  # what an ordinary user may not be able to import here

    def child() -> None:
        mount(Path("/proc"), b"proc", hidepid)
        assert cgroup_of(parent)  # as root
        give_up_rights()
        with pytest.raises(CgroupPermissionError, match="hidepid"):
            cgroup_of(parent)
        with pytest.raises(ProcessNotFoundError):
            cgroup_of(4_194_305)
        assert cgroup_of(os.getpid()) == own_cgroup()

    assert in_child(child) == 0


def test_in_a_cgroup_namespace_processes_outside_are_found_by_a_mount_from_outside(
    empty_cgroup: Path,
) -> None:
    enable_memory(empty_cgroup)
    inside, outside = empty_cgroup / "inside", empty_cgroup / "outside"
    for path in (inside, outside):
        path.mkdir()

    def child() -> None:
        enter(inside)
        unshare(_CLONE_NEWCGROUP)
        assert shown(os.getpid()) == "/" and shown(worker.pid) == "/../outside"
        # The mounts are from outside. Its own path begins at the namespace's root, which none
        # shows; the other one's path has names that are not known.
        for look in (own_cgroup, lambda: cgroup_of(worker.pid)):
            with pytest.raises(CgroupNotFoundError):
                look()
        with tempfile.TemporaryDirectory() as folder:
            options = b"memory" if VERSION == 1 else b""
            mount(Path(folder), b"cgroup" if VERSION == 1 else b"cgroup2", options)
            assert own_cgroup() == folder
            (inside / "below").mkdir()
            for above in (Path(folder), inside):  # the same cgroup by two mounts
                assert _mounts.path_in_hierarchy(str(above)) == "/"
                assert _mounts.path_in_hierarchy(str(above / "below")) == "/below"
            assert _mounts.directory_of("/below") == f"{folder}/below"
            with pytest.raises(CgroupNotFoundError, match="outside of the cgroup namespace"):
                cgroup_of(worker.pid)
            assert ctypes.CDLL(None).umount2(folder.encode(), 0) == 0

    with Worker(outside, lambda: None) as worker:
        assert in_child(child) == 0


def test_in_a_cgroup_namespace_a_mount_from_above_shows_what_is_beside_it(
    empty_cgroup: Path,
) -> None:
    inside = HIERARCHY / f"{empty_cgroup.name}-inside"

    def child() -> None:
        enter(inside)
        unshare(_CLONE_NEWCGROUP)
        assert shown(worker.pid) == f"/../{empty_cgroup.name}"
        assert cgroup_of(worker.pid) == str(empty_cgroup)
        assert _mounts.path_in_hierarchy(str(empty_cgroup)) == shown(worker.pid)

    inside.mkdir()
    try:
        with Worker(empty_cgroup, lambda: None) as worker:
            assert in_child(child) == 0
    finally:
        remove(inside)


def test_read_stats_follows_the_process_to_another_cgroup(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    first, second = empty_cgroup / "first", empty_cgroup / "second"
    for path in (first, second):
        path.mkdir()

    def child() -> None:
        kept = []
        for path, size in ((first, 8 * MIB), (second, 3 * MIB), (first, MIB)):
            enter(path)
            kept.append(fault_in(size, shared=True))
            for _ in range(2):
                assert read_stats(items=["shmem"]) == read_stats(path, ["shmem"])
        # A flush leaves out some tens of updates of each CPU, as it does for memory.stat.
        assert read_stats(first, ["shmem"])["shmem"] > 8 * MIB
        key = "total_shmem" if VERSION == 1 else "shmem"
        assert read_stats(items=["shmem"])["shmem"] == memory_stat(first)[key]

    assert in_child(child) == 0


if VERSION == 1:  # on v2, a cgroup cannot be renamed

    def test_a_renamed_cgroup_is_found_by_its_new_name(empty_cgroup: Path) -> None:
        names = [empty_cgroup / "a", empty_cgroup / "b"]

        def child() -> None:
            names[0].mkdir()
            enter(names[0])
            kept = fault_in(MIB, shared=True)
            before = read_stats(items=["shmem"])
            names[0].rename(names[1])
            names[0].mkdir()  # another cgroup, of the same name
            assert own_cgroup() == str(names[1])
            assert read_stats(items=["shmem"]) == before
            assert before["shmem"] >= MIB and kept

        assert in_child(child) == 0


def test_the_command_reads_the_cgroup_of_a_process(busy: tuple[Path, Worker]) -> None:
    path, worker = busy
    expected = json.loads(printed("--json", path, "shmem", "pgfault"))
    assert json.loads(printed("--json", "--pid", worker.pid, "shmem", "pgfault")) == expected
    (row,) = json.loads(printed("tree", "--json", "--pid", worker.pid, "shmem"))
    assert (row["path"], row["items"]) == (str(path), {"shmem": expected["shmem"]})
    text = printed("export", "--backend", BEST_BACKEND, "--pid", worker.pid, "shmem")
    label = f'{{cgroup="{shown(worker.pid)}"}}'
    assert f"cgroup_memory_shmem_bytes{label} {expected['shmem']}\n" in text
    run = command("--pid", worker.pid, path, "anon")
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)


def test_the_command_finds_a_unit_by_its_name(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    service = f"{empty_cgroup.name}.service"
    paths = [empty_cgroup / name for name in ("one.slice", "two.slice")]
    for path in paths:
        path.mkdir()
        enable_memory(path)
    (paths[0] / service).mkdir()
    (row,) = json.loads(printed("tree", "--json", service))
    assert row["path"] == str(paths[0] / service)
    escaped = service.replace("-", r"\x2d")
    (paths[1] / escaped).mkdir()
    assert json.loads(printed("tree", "--json", escaped))[0]["path"] == str(paths[1] / escaped)
    (paths[1] / service).mkdir()
    run = command(service)
    assert (run.returncode, run.stdout) == (1, "")
    assert all(str(path / service) in run.stderr for path in paths)
    slices = [f"{os.getpid()}.slice", f"{os.getpid()}-a.slice"]
    top = HIERARCHY / slices[0]
    top.mkdir()
    try:
        enable_memory(top)
        (top / slices[1]).mkdir()
        shown_rows = json.loads(printed("tree", "--json", slices[1]))
        assert [row["path"] for row in shown_rows] == [str(top / slices[1])]
    finally:
        remove(top)
