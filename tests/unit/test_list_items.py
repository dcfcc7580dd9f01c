# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a kernel offers: items() and unknown_keys()."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Callable

import pytest

import pymemcgbpf
from pymemcgbpf import BtfNotFoundError, CgroupNotFoundError, Item, MemcgError, NotACgroupError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._items import CATALOGUE, CURRENT

from .directories import make_v1, make_v2
from .fake_sources import READ_ERRORS
from .kernels import LINUX_6_18


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)


def names(path: Path) -> list[str]:
    return [item.name for item in pymemcgbpf.list_items(path)]


def test_list_items_is_a_public_function() -> None:
    assert callable(pymemcgbpf.list_items) and "list_items" in pymemcgbpf.__all__


def test_items_of_all_files_are_listed_in_order(v2: Path) -> None:
    (v2 / "memory.numa_stat").write_text("anon N0=1 N1=2\n")
    (v2 / "memory.events").write_text("low 0\noom 0\n")
    (v2 / "memory.max").write_text("max\n")
    assert names(v2) == [
        *("anon", "file", "pgfault", CURRENT, "memory.max"),
        *("memory.events.low", "memory.events.oom"),
        *("memory.numa_stat.anon.N0", "memory.numa_stat.anon.N1"),
        "derived.effective_limit",
    ]
    for item in pymemcgbpf.list_items(v2):
        assert isinstance(item, Item)
        assert CATALOGUE.get(item.name, item) == item


def test_a_root_lists_the_items_of_the_cgroups_below_it(tmp_path: Path) -> None:
    root = make_v2(tmp_path / "root", kind=None, current=None)
    make_v2(root / "a")
    assert names(root) == ["anon", "file", "pgfault", CURRENT]


def test_keys_of_a_newer_kernel_are_listed_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_v2(tmp_path / "new", stat="anon 1\npgtomorrow 2\nlater 3\nwhat 4\n")
    assert pymemcgbpf.unknown_keys(path) == ("pgtomorrow", "later", "what")
    types = LINUX_6_18.types()
    counters = {**types.counters, "PGTOMORROW": ("vm_event_item", 9), "NR_LATER": ("x", 9)}
    monkeypatch.setattr(_btf, "kernel", lambda: types._replace(counters=counters))
    found = {item.name: item for item in pymemcgbpf.list_items(path)}
    assert (found["pgtomorrow"].unit, found["pgtomorrow"].kind) == ("count", "counter")
    assert (found["later"].unit, found["later"].kind) == ("bytes", "gauge")
    assert (found["what"].unit, found["what"].kind) == ("", "")
    assert {found[name].number for name in ("pgtomorrow", "later", "what")} == {0}
    assert found["what"].description == "not known to this version"


def test_without_btf_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> _btf.KernelTypes:
        raise BtfNotFoundError("no BTF")

    monkeypatch.setattr(_btf, "kernel", refuse)
    (item, _) = pymemcgbpf.list_items(make_v2(tmp_path / "new", stat="pgtomorrow 2\n"))
    assert (item.name, item.unit) == ("pgtomorrow", "")


def test_cgroup_v1_lists_the_items_that_its_reader_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> _btf.KernelTypes:
        raise BtfNotFoundError("no BTF")

    monkeypatch.setattr(_btf, "kernel", refuse)
    path = make_v1(tmp_path / "v1")
    (path / "memory.limit_in_bytes").write_text("4096\n")
    listed = ["anon", "file", "pgfault", CURRENT, "memory.max", "derived.effective_limit"]
    assert names(path) == listed
    assert pymemcgbpf.unknown_keys(path) == ()


def test_the_process_s_own_cgroup_or_the_nearest_with_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_v2(tmp_path / "top", stat="anon 1\n")
    below = make_v2(top / "a", stat=None, current=None)
    below = make_v2(below / "b", stat=None, current=None)
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(below))
    assert [item.name for item in pymemcgbpf.list_items()] == ["anon", CURRENT]
    assert pymemcgbpf.unknown_keys() == ()
    (below / "memory.stat").write_text("file 1\n")
    assert [item.name for item in pymemcgbpf.list_items()] == ["file"]


def test_a_wrong_path_is_the_same_error_as_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions: list[Callable[..., object]] = [pymemcgbpf.list_items, pymemcgbpf.unknown_keys]
    for function in functions:
        with pytest.raises(CgroupNotFoundError):
            function(tmp_path / "none")
        with pytest.raises(NotACgroupError):
            function(tmp_path)
        monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(tmp_path))
        with pytest.raises(NotACgroupError):
            function()


def test_an_error_of_the_files_becomes_one_of_the_package(
    v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(number, "words")

    monkeypatch.setattr("pymemcgbpf._cgroup.present_items.read_at", refuse)
    for number, kind in READ_ERRORS:
        for function in (pymemcgbpf.list_items, pymemcgbpf.unknown_keys):
            with pytest.raises(MemcgError) as caught:
                function(v2)
            assert type(caught.value) is kind, errno.errorcode[number]
