# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The memory controller's mounts, and cgroups in them, found in faked /proc files."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import CgroupNotFoundError
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

    def say(cgroup: str, mountinfo: str) -> None:
        (tmp_path / "cgroup").write_text(cgroup)
        (tmp_path / "mountinfo").write_text(mountinfo)

    monkeypatch.setattr(_mounts, "PROC_SELF", str(tmp_path))
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
