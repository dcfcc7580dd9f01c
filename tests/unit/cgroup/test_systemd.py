# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cgroups of systemd's units, found by name among fake directories."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import CgroupNotFoundError, MemcgError
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup import systemd as _systemd

from ..directories import make_v1, make_v2

Make = Callable[[str], Path]


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mount point of a hierarchy."""
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter([("/", str(tmp_path / "top"))]))
    return make_v2(tmp_path / "top", kind=None)


@pytest.fixture
def make(top: Path) -> Make:
    """Makes a cgroup, and those above it."""

    def made(path: str) -> Path:
        at = top
        for name in path.split("/"):
            at = make_v2(at / name)
        return at

    return made


def found(unit: str) -> Path:
    return Path(_systemd.unit_cgroup(unit))


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        ("cron.service", True),
        ("user-1000.slice", True),
        ("-.slice", True),
        ("session-2.scope", True),
        ("dev-sda2.swap", True),
        ("getty@tty1.service", True),
        ("a/cron.service", False),
        ("cron.services", False),
        ("service", False),
        ("memory.swap.events", False),
        ("logrotate.timer", False),  # has no process, and so no cgroup
    ],
)
def test_a_unit_s_name_ends_in_the_suffix_of_a_kind_with_cgroups(word: str, is_one: bool) -> None:
    assert _systemd.is_unit_name(word) is is_one


def test_a_slice_is_where_its_name_says(top: Path, make: Make) -> None:
    path = make("user.slice/user-1000.slice")
    make("other/user-1000.slice")
    assert found("user-1000.slice") == path
    assert found("user.slice") == path.parent
    assert found("-.slice") == top


def test_a_slice_elsewhere_is_searched(make: Make) -> None:
    path = make("user.slice/user-0.slice/user@0.service/app.slice")
    assert found("app.slice") == path


def test_a_unit_of_the_system_comes_before_those_of_others(make: Make) -> None:
    others = make("user.slice/user-0.slice/user@0.service")
    for name in ("dbus.service", "init.scope"):
        make_v2(others / name)
        assert found(name) == others / name  # there is no other yet
    for path in ("system.slice/dbus.service", "init.scope"):
        made = make(path)
        assert found(made.name) == made


def test_units_in_slices_that_their_names_do_not_tell_are_searched(make: Make) -> None:
    for path in (
        "system.slice/system-getty.slice/getty@tty1.service",
        "machine.slice/machine-foo.scope",
        "user.slice/user-0.slice/session-2.scope",
        "system.slice/home.mount",
        "system.slice/dev-sda2.swap",
        "system.slice/dbus.socket",
    ):
        made = make(path)
        assert found(made.name) == made


def test_a_unit_inside_of_one_of_the_same_name_is_another_s(make: Make) -> None:
    path = make("machine.slice/a.service")
    make("machine.slice/a.service/payload/system.slice/a.service")
    assert found("a.service") == path


def test_several_units_of_one_name_are_listed(make: Make) -> None:
    paths = [make(f"machine.slice/{name}.scope/system.slice/a.service") for name in "xy"]
    with pytest.raises(MemcgError, match=r"'a\.service' is the name of 2 cgroups") as caught:
        found("a.service")
    assert all(str(path) in caught.value.remedy for path in paths)
    for number in range(10):
        make(f"machine.slice/{number}.scope/a.service")
    with pytest.raises(MemcgError, match=r"of 12 cgroups.* and 2 more$"):
        found("a.service")


@pytest.mark.parametrize(
    ("directory", "names"),
    [
        (r"machine-a\x2db.scope", [r"machine-a\x2db.scope", "machine-a-b.scope"]),
        (r"system-systemd\x2dfsck.slice", [r"system-systemd\x2dfsck.slice"]),
        (r"dev-\xc3\xa4.swap", [r"dev-\xc3\xa4.swap", "dev-ä.swap"]),
        ("_memory.service", ["memory.service", "_memory.service"]),
        (r"__a\x2db.service", ["_a-b.service", r"_a\x2db.service"]),
    ],
)
def test_a_unit_is_found_with_and_without_systemd_s_escapes(
    directory: str, names: list[str], make: Make
) -> None:
    path = make(f"a.slice/{directory}")
    for name in names:
        assert found(name) == path


def test_a_name_without_escapes_means_the_unit_of_exactly_this_name(make: Make) -> None:
    escaped, plain = make(r"a.slice/a\x2db.scope"), make("a.slice/a-b.scope")
    assert found("a-b.scope") == plain
    assert found(r"a\x2db.scope") == escaped


def test_no_such_unit(top: Path, make: Make) -> None:
    make("system.slice/other.service")
    with pytest.raises(CgroupNotFoundError, match=f"nor a unit with a cgroup in {top}$"):
        found("a.service")
    (top / "a.service").mkdir()
    (top / "system.slice" / "b.slice").write_text("")
    for unit in ("b.slice", "-a.slice", ".service", "a--b.slice"):
        with pytest.raises(CgroupNotFoundError):
            found(unit)


def test_on_v1_the_error_says_why_a_unit_may_lack_a_memory_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_v1(tmp_path / "v1", root=True)
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter([("/", str(top))]))
    with pytest.raises(CgroupNotFoundError, match="MemoryAccounting=yes"):
        found("a.service")


def test_without_a_mount_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter([]))
    with pytest.raises(CgroupNotFoundError, match=r"no cgroup file system .* is mounted"):
        found("a.service")


def test_a_unit_that_two_mounts_show_is_one(
    top: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("machine.slice/a.service")
    (top.parent / "again").symlink_to(top)
    both = [("/", str(top)), ("/", str(top.parent / "again"))]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(both))
    assert found("a.service") == path


def test_the_search_has_a_bound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_systemd, "_MOST_CGROUPS", 10)
    for number in range(5):
        make(f"{number}/{number}")
    with pytest.raises(CgroupNotFoundError):
        found("a.service")
    make("more")
    with pytest.raises(MemcgError, match="more than 10 cgroups"):
        found("a.service")
