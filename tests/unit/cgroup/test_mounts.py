# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The memory controller's mounts, and cgroups in them, found in faked /proc files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemcgError,
    ProcessNotFoundError,
    cgroup_of,
)
from pymemcgbpf._cgroup import mounts as _mounts

from ..directories import make_bare_v2, make_v2

Proc = Callable[[str, str], None]


SYSFS = "21 1 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"


ROOTFS = "1 0 254:0 / / rw,relatime - ext4 /dev/root rw\n"


V2 = "30 21 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


V1_CPU = "31 21 0:27 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n"


V1_MEMORY = "32 21 0:28 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory\n"


V2_BESIDE = "33 21 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def v2_mount(root: str, at: str) -> str:
    return f"40 21 0:26 {root} {at} rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    """Sets what /proc/self/cgroup and mountinfo say."""
    (tmp_path / "proc" / "self").mkdir(parents=True)

    def say(cgroup: str, mountinfo: str) -> None:
        (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
        (tmp_path / "proc" / "self" / "mountinfo").write_text(mountinfo)

    monkeypatch.setattr(_mounts, "PROC", str(tmp_path / "proc"))
    return say


# --- own_cgroup -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        pytest.param("", ROOTFS + V2, id="in no cgroup"),
        pytest.param("3:cpu:/a\n1:name=systemd:/b\n", ROOTFS + V2 + V1_CPU, id="v1, no memory"),
        pytest.param("0::/a\n", ROOTFS + SYSFS, id="v2 not mounted"),
        pytest.param("4:memory:/a\n0::/b\n", ROOTFS + V2 + V1_CPU, id="v1 memory not mounted"),
        pytest.param("0::/b\n", v2_mount("/a", "/sys/fs/cgroup"), id="outside the mount's root"),
        pytest.param("0::/ab\n", v2_mount("/a", "/sys/fs/cgroup"), id="only its name begins so"),
        pytest.param("0::/../a\n", ROOTFS + V2, id="outside the cgroup namespace"),
        pytest.param("0::/\n", v2_mount("/..", "/sys/fs/cgroup"), id="a mount from outside"),
        pytest.param("0::/a\n", "", id="no mounts"),
    ],
)
def test_a_process_s_own_cgroup_that_no_mount_shows_is_not_found(
    cgroup: str, mountinfo: str, proc: Proc
) -> None:
    proc(cgroup, mountinfo)
    with pytest.raises(CgroupNotFoundError):
        _mounts.own_cgroup()


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "found"),
    [
        pytest.param("0::/\n", V2, "/sys/fs/cgroup", id="v2 root"),
        pytest.param(
            "0::/user.slice/a:b\n", ROOTFS + SYSFS + V2, "/sys/fs/cgroup/user.slice/a:b", id="v2"
        ),
        pytest.param(
            "5:memory:/m\n3:cpu,cpuacct:/c\n0::/u\n",
            ROOTFS + V1_CPU + V2_BESIDE + V1_MEMORY,
            "/sys/fs/cgroup/memory/m",
            id="hybrid, memory on v1",
        ),
        pytest.param(
            "3:cpu,cpuacct:/c\n1:name=systemd:/s\n0::/u\n",
            ROOTFS + V1_CPU + V2_BESIDE,
            "/sys/fs/cgroup/unified/u",
            id="hybrid, memory on v2",
        ),
        pytest.param(
            "5:cpu,memory:/x\n",
            V1_CPU + "32 21 0:28 / /cg/both rw - cgroup cgroup rw,cpu,memory\n",
            "/cg/both/x",
            id="v1, two controllers on one",
        ),
        pytest.param(
            "0::/docker/abc\n", v2_mount("/docker/abc", "/cg"), "/cg", id="bind mount of its own"
        ),
        pytest.param(
            "0::/docker/abc/d\n", v2_mount("/docker", "/cg"), "/cg/abc/d", id="bind mount above"
        ),
        pytest.param(
            "0::/a/b\n", v2_mount("/x", "/cg1") + v2_mount("/a", "/cg2"), "/cg2/b", id="of two"
        ),
        pytest.param("0::/a\n", v2_mount("/", r"/my\040cgroups"), "/my cgroups/a", id="a space"),
        pytest.param("0::/a b/c\n", v2_mount(r"/a\040b", "/cg"), "/cg/c", id="a space in the root"),
        pytest.param("0::/a\n", v2_mount("/", r"/t\011b\134s"), "/t\tb\\s/a", id="more escapes"),
        pytest.param("0::/..a/b\n", V2, "/sys/fs/cgroup/..a/b", id="a name that begins with dots"),
        pytest.param("0::/a \n", V2, "/sys/fs/cgroup/a ", id="a name that ends with a space"),
        pytest.param(
            "0::/../b\n", v2_mount("/..", "/host") + V2, "/host/b", id="a mount from outside"
        ),
        pytest.param(
            "0::/a\n",
            "39 1 8:1 / /media/a\N{LINE SEPARATOR}b rw - ext4 /dev/x rw\n" + V2,
            "/sys/fs/cgroup/a",
            id="a mount whose name has a Unicode line end",
        ),
        pytest.param(
            "0::/a\n",
            "40 21 0:26 / /cg rw shared:1 master:2 propagate_from:3 - cgroup2 none rw\n",
            "/cg/a",
            id="several optional fields",
        ),
    ],
)
def test_a_process_s_own_cgroup_is_found_below_a_mount(
    cgroup: str, mountinfo: str, found: str, proc: Proc
) -> None:
    proc(cgroup, mountinfo)
    assert _mounts.own_cgroup() == found


# --- cgroup_of ------------------------------------------------------------------------

OTHER = 4_194_305  # above every process id that the kernel gives


@pytest.fixture
def process(tmp_path: Path, proc: Proc) -> Callable[..., str]:
    """Sets what /proc says of a process, and returns what cgroup_of() does."""

    def ask(
        cgroup: str,
        mountinfo: str = ROOTFS + V2,
        *,
        own: Optional[str] = None,
        flags: Optional[int] = 0,
    ) -> str:
        proc(cgroup if own is None else own, mountinfo)
        (tmp_path / "proc" / str(OTHER)).mkdir(exist_ok=True)
        (tmp_path / "proc" / str(OTHER) / "cgroup").write_text(cgroup)
        stat = tmp_path / "proc" / str(OTHER) / "stat"
        stat.unlink(missing_ok=True)
        if flags is not None:
            stat.write_text(f"{OTHER} (a) b (c) S 1 1 1 0 -1 {flags} 0 0\n")
        return cgroup_of(OTHER)

    return ask


def test_the_cgroup_of_another_process_is_found_below_a_mount(process: Callable[..., str]) -> None:
    own = "0::/here\n"
    assert process("0::/a.slice/b\n", own=own) == "/sys/fs/cgroup/a.slice/b"
    assert process("0::/\n", own=own) == "/sys/fs/cgroup"
    hybrid = V1_CPU + V2_BESIDE + V1_MEMORY
    assert process("5:memory:/m\n0::/u\n", hybrid) == "/sys/fs/cgroup/memory/m"
    assert process("5:cpu:/c\n0::/u\n", V1_CPU + V2_BESIDE) == "/sys/fs/cgroup/unified/u"


def test_a_process_outside_of_the_cgroup_namespace_is_not_found_there(
    process: Callable[..., str],
) -> None:
    for path in ("/..", "/../a", "/../../a/b"):
        with pytest.raises(CgroupNotFoundError, match="outside of the cgroup namespace"):
            process(f"0::{path}\n", own="0::/\n")
    with pytest.raises(CgroupNotFoundError, match="outside of the cgroup namespace"):
        process("0::/../a\n", v2_mount("/../..", "/host"))  # the name of ".." is not known


def test_a_mount_from_outside_of_the_namespace_shows_processes_outside(
    process: Callable[..., str],
) -> None:
    mounts = V2 + v2_mount("/../..", "/host")
    assert process("0::/../../a/b\n", mounts) == "/host/a/b"
    assert process("0::/../..\n", mounts) == "/host"
    assert process("0::/a\n", mounts) == "/sys/fs/cgroup/a"


def test_a_cgroup_under_no_mount_is_not_found(process: Callable[..., str]) -> None:
    with pytest.raises(CgroupNotFoundError, match="not under any mounted cgroup file system"):
        process("0::/b\n", v2_mount("/a", "/cg"))
    with pytest.raises(CgroupNotFoundError, match=f"process {OTHER} is in no memory cgroup"):
        process("3:cpu:/b\n")


def test_the_removed_cgroup_of_a_zombie_is_said_to_be_removed(
    tmp_path: Path, process: Callable[..., str]
) -> None:
    with pytest.raises(CgroupRemovedError, match=r"\(/a/b\) was removed"):
        process("0::/a/b (deleted)\n")
    mounts = v2_mount("/", str(tmp_path))
    (tmp_path / "a (deleted)").mkdir()  # a name like any other
    assert process("0::/a (deleted)\n", mounts) == str(tmp_path / "a (deleted)")
    v1 = ROOTFS + V1_MEMORY  # which adds no such words
    assert process("4:memory:/a (deleted)\n", v1) == "/sys/fs/cgroup/memory/a (deleted)"


def test_a_zombie_on_v1_is_not_said_to_be_in_the_root(process: Callable[..., str]) -> None:
    v1, in_root = ROOTFS + V1_MEMORY, "4:memory:/\n0::/\n"
    with pytest.raises(ProcessNotFoundError, match="has exited"):
        process(in_root, v1, flags=0x40000C)
    assert process(in_root, v1, flags=0x400000) == "/sys/fs/cgroup/memory"
    assert process("0::/\n", flags=4) == "/sys/fs/cgroup"  # v2 tells where it was


def test_a_process_that_ended_meanwhile_does_not_exist(process: Callable[..., str]) -> None:
    with pytest.raises(ProcessNotFoundError):
        process("4:memory:/\n", ROOTFS + V1_MEMORY, flags=None)


@pytest.mark.parametrize("pid", [OTHER, 1 << 31, 1 << 70])
def test_no_such_process(pid: int, proc: Proc) -> None:
    proc("0::/\n", ROOTFS + V2)
    with pytest.raises(ProcessNotFoundError, match=f"there is no process {pid}") as caught:
        cgroup_of(pid)
    assert caught.value.errno == errno.ESRCH


def test_a_process_that_proc_hides_is_not_taken_for_none(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc("0::/\n", ROOTFS + V2)
    with pytest.raises(CgroupPermissionError, match="hidepid"):
        cgroup_of(os.getpid())

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)  # another user's
    with pytest.raises(CgroupPermissionError, match="hidepid"):
        cgroup_of(OTHER)


def test_without_proc_no_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mounts, "PROC", "/no/proc")
    with pytest.raises(CgroupNotFoundError, match="mount it"):
        cgroup_of(os.getpid())


class Index:
    def __index__(self) -> int:
        return OTHER


def test_a_process_id_is_a_positive_integer(process: Callable[..., str]) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        *((pid, TypeError) for pid in (True, False, "1", b"1", 1.0, None)),
        *((pid, ValueError) for pid in (0, -1, -(1 << 70))),
    ]
    for pid, error in wrong:
        with pytest.raises(error) as caught:
            cgroup_of(pid)
        assert not isinstance(caught.value, MemcgError)
    process("0::/a\n")
    assert cgroup_of(Index()) == "/sys/fs/cgroup/a"


# --- paths as /proc shows them ----------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A hierarchy of directories."""
    (tmp_path / "cg" / "a" / "b" / "c").mkdir(parents=True)
    return tmp_path / "cg"


def both_ways(directory: Path, path: str) -> None:
    assert _mounts.path_in_hierarchy(str(directory)) == path
    assert _mounts.directory_of(path) == str(directory)


def test_paths_below_the_mount_of_a_hierarchy(tree: Path, proc: Proc) -> None:
    proc("0::/\n", ROOTFS + v2_mount("/", str(tree)))
    both_ways(tree, "/")
    both_ways(tree / "a", "/a")
    both_ways(tree / "a" / "b" / "c", "/a/b/c")


def test_paths_below_a_bind_mount_of_a_part(tree: Path, proc: Proc) -> None:
    proc("0::/\n", v2_mount("/docker/x", str(tree)))
    both_ways(tree, "/docker/x")
    both_ways(tree / "a" / "b", "/docker/x/a/b")
    assert _mounts.directory_of("/docker") is _mounts.directory_of("/docker/xa") is None


def test_paths_below_a_mount_from_outside_of_the_cgroup_namespace(tree: Path, proc: Proc) -> None:
    proc("0::/\n", v2_mount("/../..", str(tree)))
    both_ways(tree, "/../..")
    both_ways(tree / "a", "/../../a")
    assert _mounts.directory_of("/../a") is _mounts.directory_of("/a") is None


def test_a_cgroup_inside_of_the_namespace_has_its_path_from_there_under_every_mount(
    tree: Path, tmp_path: Path, proc: Proc
) -> None:
    own = tmp_path / "own"
    own.symlink_to(tree / "a" / "b")  # the same directory, as by another mount
    proc("0::/\n", v2_mount("/../..", str(tree)) + v2_mount("/", str(own)))
    assert _mounts.path_in_hierarchy(str(tree / "a")) == "/../../a"
    for above in (tree / "a" / "b", own):
        assert _mounts.path_in_hierarchy(str(above)) == "/"
        assert _mounts.path_in_hierarchy(str(above / "c")) == "/c"
    assert _mounts.directory_of("/c") == str(own / "c")


def test_of_two_mounts_at_one_place_the_last_counts(tree: Path, proc: Proc) -> None:
    proc("0::/\n", v2_mount("/", str(tree)) + v2_mount("/x", str(tree)))
    assert _mounts.path_in_hierarchy(str(tree / "a")) == "/x/a"


def test_a_cgroup_that_is_gone_has_its_path_and_a_mount_that_is_hidden_no_part_in_it(
    tree: Path, proc: Proc
) -> None:
    proc("0::/\n", v2_mount("/", str(tree)) + v2_mount("/x", str(tree / "no" / "mount")))
    assert _mounts.path_in_hierarchy(str(tree / "a" / "gone")) == "/a/gone"


def test_a_path_through_links_is_that_of_the_directory(tree: Path, proc: Proc) -> None:
    proc("0::/\n", v2_mount("/", str(tree)))
    (tree / "link").symlink_to(tree / "a" / "b")
    assert _mounts.path_in_hierarchy(str(tree / "link" / "c")) == "/a/b/c"
    assert _mounts.path_in_hierarchy(f"{tree}/a/../a//b/") == "/a/b"


def test_under_no_mount_the_path_begins_at_the_topmost_visible_cgroup(
    tmp_path: Path, proc: Proc
) -> None:
    proc("0::/\n", ROOTFS + V2 + v2_mount("/", "/no/such/directory"))
    path = make_v2(make_v2(make_v2(tmp_path / "top") / "a") / "b")
    assert _mounts.path_in_hierarchy(str(path)) == "/a/b"
    assert _mounts.path_in_hierarchy(str(tmp_path / "top")) == "/"


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("/", "/", ""),
        ("/", "/a", "a"),
        ("/a", "/a", ""),
        ("/a", "/a/b", "b"),
        ("/a", "/ab", None),
        ("/a", "/", None),
        ("/", "/..", None),
        ("/", "/../a", None),
        ("/", "/..a", "..a"),
        ("/..", "/../a", "a"),
        ("/..", "/..", ""),
        ("/..", "/../../a", None),
        ("/..", "/a", None),
        ("/../..", "/../a", None),
    ],
)
def test_path_below(root: str, path: str, below: Optional[str]) -> None:
    assert _mounts.path_below(root, path) == below


# --- hierarchy_root -------------------------------------------------------------------


def test_hierarchy_root_is_the_topmost_with_statistics(tmp_path: Path) -> None:
    make_bare_v2(tmp_path / "bare")
    top = make_v2(tmp_path / "bare" / "top")
    deep = make_v2(make_v2(top / "a") / "b")
    (tmp_path / "link").symlink_to(deep)
    for path in (top, deep, tmp_path / "link", deep / ".." / "b"):
        assert _mounts.hierarchy_root(str(path)) == str(top)


def test_hierarchy_root_stops_below_an_ancestor_without_statistics(tmp_path: Path) -> None:
    make_v2(tmp_path / "top")
    path = make_v2(make_bare_v2(tmp_path / "top" / "gap") / "below")
    assert _mounts.hierarchy_root(str(path)) == str(path)
