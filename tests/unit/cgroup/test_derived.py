# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Items that no file shows are computed from those that files show."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Callable, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import UNLIMITED, StreamError
from pymemcgbpf._cgroup.derived import Derived, inputs
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._items import CATALOGUE, CURRENT, DERIVED

from ...open_files import open_files
from ..directories import make_v1, make_v2

Opened = Callable[[Path], Cgroup]
WORKING_SET, LIMIT = "derived.working_set", "derived.effective_limit"
V1_MAX = UNLIMITED // mmap.PAGESIZE * mmap.PAGESIZE


def test_only_derived_items_are_computed() -> None:
    for name, item in CATALOGUE.items():
        assert bool(inputs(name)) == (item.file == DERIVED) == name.startswith("derived.")
        assert all(not inputs(part) and part in CATALOGUE for part in inputs(name))
    assert inputs("pgtomorrow") == ()


def test_what_is_read_from_files_comes_first_in_the_order_asked_for() -> None:
    for names, shown in (
        (("anon", "file"), ("anon", "file")),
        ((WORKING_SET,), (CURRENT, "inactive_file")),
        ((WORKING_SET, "inactive_file", "anon"), ("inactive_file", "anon", CURRENT)),
        ((LIMIT,), ()),
        ((LIMIT, "memory.max"), ("memory.max",)),
    ):
        assert Derived(names, 2).shown == shown


@given(st.integers(0, 1 << 63), st.integers(0, 1 << 63))
def test_the_working_set_is_never_negative(usage: int, inactive: int) -> None:
    values = {CURRENT: usage, "inactive_file": inactive}
    Derived([WORKING_SET], 2).add_to(values, -1)
    assert values[WORKING_SET] == (usage - inactive if usage > inactive else 0)


@pytest.mark.parametrize("lacking", [CURRENT, "inactive_file"])
def test_there_is_no_working_set_without_both_of_its_numbers(lacking: str) -> None:
    values = {CURRENT: 5, "inactive_file": 3}
    del values[lacking]
    Derived([WORKING_SET], 2).add_to(values, -1)
    assert WORKING_SET not in values


# --- the effective limit


def limit_v2(path: Path, limit: Optional[int]) -> None:
    (path / "memory.max").write_text("max\n" if limit is None else f"{limit}\n")


def limit_v1(path: Path, limit: Optional[int]) -> None:
    (path / "memory.limit_in_bytes").write_text(f"{V1_MAX if limit is None else limit}\n")


def least(derived: Derived, path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        values: dict[str, int] = {}
        derived.add_to(values, fd)
    finally:
        os.close(fd)
    assert list(values) == [LIMIT]
    return values[LIMIT]


LIMITS = st.one_of(st.none(), st.integers(0, 1 << 40).map(lambda pages: pages * 4096))


@given(st.lists(LIMITS, min_size=1, max_size=6), st.sampled_from([1, 2]), st.booleans())
def test_the_least_limit_on_the_way_up_counts(
    limits: list[Optional[int]], version: int, from_below: bool
) -> None:
    """Whichever cgroup comes first, as the orders "pre" and "post" differ in this."""
    derived = Derived([LIMIT], version)
    with tempfile.TemporaryDirectory() as above:
        path = Path(above) / "root"
        if version == 1:
            limit_v1(make_v1(path, root=True), None)
        else:
            make_v2(path, kind=None, current=None)
        expected: dict[Path, int] = {}
        bound = UNLIMITED
        for limit in limits:
            path /= "a"
            (limit_v1 if version == 1 else limit_v2)((make_v1, make_v2)[version - 1](path), limit)
            bound = expected[path] = bound if limit is None else min(bound, limit)
        paths = list(expected)[::-1] if from_below else list(expected)
        derived.begin()
        assert {path: least(derived, path) for path in paths} == expected


def test_limits_of_v1_do_not_apply_below_a_cgroup_without_a_hierarchy(tmp_path: Path) -> None:
    top = make_v1(tmp_path / "root", root=True)
    paths = [make_v1(top / below) for below in ("a", "a/b", "a/b/c")]
    for path, limit in zip(paths, (4096, 8192, None)):
        limit_v1(path, limit)
    derived = Derived([LIMIT], 1)
    (top / "memory.use_hierarchy").write_text("0\n")
    (paths[1] / "memory.use_hierarchy").write_text("1\n")
    assert [least(derived, path) for path in paths] == [4096, 4096, 4096]
    derived.begin()
    (paths[0] / "memory.use_hierarchy").write_text("0\n")
    assert [least(derived, path) for path in paths] == [4096, 8192, 8192]


def test_ancestors_are_read_once_in_a_walk_and_again_in_the_next(tmp_path: Path) -> None:
    root = make_v2(tmp_path / "root", kind=None)
    limit_v2(make_v2(root / "a"), 8192)
    for name in ("b", "c"):
        limit_v2(make_v2(root / "a" / name), None)
    derived = Derived([LIMIT], 2)
    assert least(derived, root / "a" / "b") == 8192
    limit_v2(root / "a", 4096)
    assert least(derived, root / "a" / "c") == 8192
    derived.begin()
    assert least(derived, root / "a" / "c") == 4096


def test_the_topmost_visible_cgroup_s_limit_counts_and_none_above_it(tmp_path: Path) -> None:
    """In a cgroup namespace the topmost visible cgroup is no root."""
    (tmp_path / "memory.max").write_text("1\n")  # above the mount
    limit_v2(make_v2(tmp_path / "top"), 8192)
    limit_v2(make_v2(tmp_path / "top" / "a"), 16384)
    assert least(Derived([LIMIT], 2), tmp_path / "top" / "a") == 8192


def test_a_removed_cgroup_has_no_limit_even_if_its_ancestors_have(tmp_path: Path) -> None:
    limit_v2(make_v2(tmp_path / "top"), 8192)
    make_v2(tmp_path / "top" / "a")
    before = open_files()
    with pytest.raises(FileNotFoundError) as caught:
        least(Derived([LIMIT], 2), tmp_path / "top" / "a")
    assert caught.value.errno == errno.ENOENT
    del caught
    assert open_files() == before


def test_a_limit_of_an_ancestor_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    (make_v2(tmp_path / "top") / "memory.max").write_text("much\n")
    limit_v2(make_v2(tmp_path / "top" / "a"), 4096)
    with pytest.raises(StreamError, match=r"memory\.max is not as expected"):
        least(Derived([LIMIT], 2), tmp_path / "top" / "a")


def test_a_deep_cgroup_takes_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymemcgbpf._cgroup import files as _files

    path = tmp_path / "root"
    for level in range(70):
        limit_v2(make_v2(path), 4096 * (100 - level))
        path /= "d"
    before, most = len(open_files()), 0
    read_whole = _files.read_whole

    def reading(fd: int) -> bytes:
        nonlocal most
        most = max(most, len(open_files()))
        return read_whole(fd)

    monkeypatch.setattr(_files, "read_whole", reading)
    assert least(Derived([LIMIT], 2), path.parent) == 4096 * 31
    assert before < most <= before + 3, "the cgroup, an ancestor and its file"
