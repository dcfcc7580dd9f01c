# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The items that a cgroup's files show are found."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import StreamError
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup import present_items as _present_items
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.present_items import PresentItems
from pymemcgbpf._items import CATALOGUE, CURRENT, FILES, MEMORY_STAT, PRESSURE

from ..directories import STAT_V1, make_v1, make_v2

Opened = Callable[[Path], Cgroup]


def names_of(file: str) -> tuple[str, ...]:
    return tuple(item.name for item in CATALOGUE.values() if item.file == file)


def test_a_file_s_items_are_its_lines(v2: Path, opened: Opened) -> None:
    (v2 / "memory.events").write_text("low 1\ntomorrow 2\n")
    shown = PresentItems(opened(v2), walks=False)
    assert shown.names(MEMORY_STAT) == ("anon", "file", "pgfault")
    assert shown.names("memory.events") == ("memory.events.low", "memory.events.tomorrow")
    assert shown.names(CURRENT) == (CURRENT,)
    assert shown.names("memory.swap.max") == ()
    assert shown.counted("memory.events") == shown.names("memory.events")
    for name, there in (("anon", True), ("slab", False), (CURRENT, True), ("memory.max", False)):
        assert shown.has(name) == shown.counts(name) == there


def test_a_file_is_read_once(v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_at = _files.read_at

    def reading(fd: int, name: str) -> bytes:
        read.append(name)
        return read_at(fd, name)

    monkeypatch.setattr(_present_items, "read_at", reading)
    shown = PresentItems(opened(v2), walks=False)
    for _ in range(3):
        assert shown.has("anon") and shown.has("file") and shown.has(CURRENT)
    assert read == [MEMORY_STAT, CURRENT]


@pytest.mark.parametrize(
    ("number", "file", "is_missing"),
    [
        (errno.ENOENT, PRESSURE, True),
        (errno.EOPNOTSUPP, PRESSURE, True),  # psi=0
        (errno.EIO, PRESSURE, False),
        (errno.ENOENT, MEMORY_STAT, False),
    ],
)
def test_a_file_that_this_kernel_does_not_have_shows_nothing(
    number: int,
    file: str,
    is_missing: bool,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int, name: str) -> bytes:
        raise OSError(number, name)

    monkeypatch.setattr(_present_items, "read_at", refuse)
    shown = PresentItems(opened(v2), walks=False)
    if is_missing:
        assert shown.names(file) == ()
    else:
        with pytest.raises(OSError, match=file):
            shown.names(file)


def test_a_file_that_cannot_be_read_is_an_error(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    (v2 / CURRENT).write_text("much\n")
    with pytest.raises(StreamError):
        PresentItems(cgroup, walks=False).names(CURRENT)
    (v2 / MEMORY_STAT).unlink()
    with pytest.raises(FileNotFoundError):
        PresentItems(cgroup, walks=False).names(MEMORY_STAT)


def test_on_v1_more_items_are_counted_than_shown(tmp_path: Path, opened: Opened) -> None:
    shown = PresentItems(opened(make_v1(tmp_path / "v1")), walks=False)
    assert shown.names(MEMORY_STAT) == ("anon", "file", "pgfault")
    counted = shown.counted(MEMORY_STAT)
    assert {"slab", "anon", "pgscan"} < set(counted) < set(names_of(MEMORY_STAT))
    assert not {"hugetlb", "sock", "zswap"} & set(counted)
    assert shown.names(CURRENT) == (CURRENT,)
    for file in FILES:
        if file not in (MEMORY_STAT, CURRENT):
            assert shown.names(file) == ()


# The files that cgroup v1 has beside memory.stat and memory.usage_in_bytes, and their items.
OF_V1 = {
    "memory.oom_control": ["memory.events.oom_kill", "memory.events.local.oom_kill"],
    "memory.max_usage_in_bytes": ["memory.peak"],
    "memory.limit_in_bytes": ["memory.max"],
    "memory.failcnt": ["memory.failcnt"],
    "memory.memsw.usage_in_bytes": ["memory.memsw.usage_in_bytes"],
    "memory.memsw.max_usage_in_bytes": ["memory.memsw.max_usage_in_bytes"],
    "memory.memsw.limit_in_bytes": ["memory.memsw.limit_in_bytes"],
    "memory.memsw.failcnt": ["memory.memsw.failcnt"],
}
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"


def shown_by_other_files(shown: PresentItems) -> set[str]:
    files = (file for file in FILES if file not in (MEMORY_STAT, CURRENT, "derived"))
    return {name for file in files for name in shown.names(file)}


def add_files(path: Path, names: Iterable[str] = OF_V1) -> None:
    for name in names:
        (path / name).write_text(OOM_CONTROL if name == "memory.oom_control" else "4096\n")


@pytest.mark.parametrize("missing", [*OF_V1, ""])
def test_on_v1_each_file_is_looked_for(missing: str, tmp_path: Path, opened: Opened) -> None:
    path = make_v1(tmp_path / "v1")
    there = {file: items for file, items in OF_V1.items() if file != missing}
    add_files(path, there)
    shown = PresentItems(opened(path), walks=False)
    assert shown_by_other_files(shown) == {name for items in there.values() for name in items}


def test_without_accounting_of_swap_v1_counts_none(tmp_path: Path, opened: Opened) -> None:
    shown = PresentItems(opened(make_v1(tmp_path / "without")), walks=False)
    assert not shown.counts("swap") and shown.counts("swapcached")
    stat = f"{STAT_V1}total_swap 5\n"
    shown = PresentItems(opened(make_v1(tmp_path / "with", stat=stat)), walks=False)
    assert shown.counts("swap") and shown.has("swap")


def test_on_v2_a_file_of_v1_is_not_looked_for(v2: Path, opened: Opened) -> None:
    add_files(v2)
    shown = PresentItems(opened(v2), walks=True)
    assert shown_by_other_files(shown) == set()


def test_on_v1_a_walk_of_the_root_has_the_items_of_its_own_files(
    tmp_path: Path, opened: Opened
) -> None:
    root = make_v1(tmp_path / "root", root=True)
    add_files(root)
    everything = {name for items in OF_V1.values() for name in items}
    assert shown_by_other_files(PresentItems(opened(root), walks=True)) == everything
    assert shown_by_other_files(PresentItems(opened(root), walks=False)) == set()


@pytest.mark.parametrize("walks", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_a_walk_of_the_root_has_the_items_of_a_child_s_files(
    version: int, walks: bool, tmp_path: Path, opened: Opened
) -> None:
    root = tmp_path / "root"
    if version == 2:
        make_v2(root, kind=None, current=None)
        (root / "bare").mkdir()
        child = make_v2(root / "a")
        (child / "memory.events").write_text("low 1\n")
    else:
        make_v1(root, root=True)
        child = make_v1(root / "a")
    shown = PresentItems(opened(root), walks)
    assert shown.names(CURRENT) == ((CURRENT,) if walks else ())
    events = ("memory.events.low",) if walks and version == 2 else ()
    assert shown.names("memory.events") == events
    assert shown.names("memory.swap.max") == (), "what no child has either"


def test_a_walk_of_a_root_without_children_has_all_items(tmp_path: Path, opened: Opened) -> None:
    root = make_v2(tmp_path / "root", kind=None, current=None)
    (root / "bare").mkdir()
    shown = PresentItems(opened(root), walks=True)
    for file in ("memory.max", "memory.events", "memory.swap.events"):
        assert shown.names(file) == names_of(file) != ()
    assert shown.names("memory.pressure") == (), "the root has this file itself, if any has"


def test_a_child_removed_meanwhile_is_skipped(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_v2(tmp_path / "root", kind=None, current=None)
    for name in ("a", "b"):
        (make_v2(root / name) / "memory.events").write_text("low 1\n")
    gone: list[str] = []
    read_at = _files.read_at

    def reading(fd: int, name: str) -> bytes:
        if not gone:
            gone.append(name)
            os.rename(root / name.partition("/")[0], tmp_path / "elsewhere")
        return read_at(fd, name)

    monkeypatch.setattr(_present_items, "read_at", reading)
    assert PresentItems(opened(root), walks=True).names("memory.events") == ("memory.events.low",)
    assert gone
