# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Snapshots and their rows, over rows packed by hand."""

from __future__ import annotations

import array
import copy
import errno
import os
import pickle
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import CgroupPermissionError, ClosedError, Row, Snapshot, _wire
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf.snapshot import Times

from .tree_rows import NAMES, NOWHERE, pack, snapshot_of

ROWS: tuple[_wire.RawRow, ...] = (
    _wire.RawRow(7, 1, 3, 0, (4096, 10)),
    _wire.RawRow(8, 7, 4, 0, (8192, 11)),
    _wire.RawRow(9, 8, 5, 0, ((1 << 64) - 2, 12)),
    _wire.RawRow(11, 7, 4, 0, (0, 13)),
)
ABSENT = _wire.ABSENT


@pytest.fixture
def snapshot() -> Snapshot:
    return snapshot_of(ROWS, NOWHERE)


# --- a sequence -----------------------------------------------------------------------


def test_a_snapshot_is_a_sequence_of_rows(snapshot: Snapshot) -> None:
    assert isinstance(snapshot, Sequence)
    assert len(snapshot) == 4
    assert [row.id for row in snapshot] == [7, 8, 9, 11]
    assert [row.id for row in reversed(snapshot)] == [11, 9, 8, 7]
    assert all(isinstance(row, Row) for row in snapshot)


def test_an_index_counts_from_either_end(snapshot: Snapshot) -> None:
    for index in range(-4, 4):
        expected = ROWS[index]
        row = snapshot[index]
        assert (row.id, row.parent_id, row.level) == expected[:3]
        assert tuple(row.values()) == expected.values


def test_an_index_beyond_either_end_is_an_index_error(snapshot: Snapshot) -> None:
    cases: list[int] = [4, 5, -5, 1 << 70, -(1 << 70)]
    for index in cases:
        with pytest.raises(IndexError):
            snapshot[index]


def test_an_index_is_an_integer(snapshot: Snapshot) -> None:
    cases: list[Any] = [1.0, "anon", None]
    for index in cases:
        with pytest.raises(TypeError):
            snapshot[index]


def test_a_slice_is_a_list_of_rows(snapshot: Snapshot) -> None:
    cases: list[slice] = [
        slice(None),
        slice(1, 3),
        slice(-2, None),
        slice(None, None, -1),
        slice(0, 4, 3),
        slice(2, 99),
        slice(3, 1),
    ]
    for part in cases:
        rows = snapshot[part]
        assert isinstance(rows, list)
        assert [(row.id, row["pgscan"]) for row in rows] == [
            (row.cgroup_id, row.values[1]) for row in ROWS[part]
        ]


def test_a_snapshot_can_be_iterated_repeatedly_and_concurrently(snapshot: Snapshot) -> None:
    first, second = iter(snapshot), iter(snapshot)
    assert [next(first).id, next(first).id, next(second).id] == [7, 8, 7]
    assert len(list(snapshot)) == len(list(snapshot)) == 4


def test_membership_and_index_find_a_row_by_equality(snapshot: Snapshot) -> None:
    same, other = snapshot_of(ROWS[:2], NOWHERE), snapshot_of(ROWS[2:], NOWHERE)
    assert same[1] in snapshot and snapshot.index(same[1]) == 1
    assert same[1] not in other


def test_the_attributes_of_a_snapshot() -> None:
    snapshot = snapshot_of(ROWS, Path("/proc"), order="up", times=Times(5, 12, 1_500_000_000))
    assert (snapshot.item_names, snapshot.order, snapshot.path) == (NAMES, "up", "/proc")
    assert (snapshot.started_ns, snapshot.duration_ns, snapshot.time) == (5, 7, 1.5)
    assert repr(snapshot) == "<Snapshot of '/proc': 4 cgroups, 2 items>"


def test_the_attributes_are_read_only(snapshot: Snapshot) -> None:
    names = "item_names order path paths started_ns duration_ns time ids levels"
    for name in names.split():
        with pytest.raises(AttributeError):
            setattr(snapshot, name, 1)


def test_the_level_does_not_include_the_flags() -> None:
    rows = [
        _wire.RawRow(7, 0, 0, _wire.ROW_ROOT, (1, 1)),
        _wire.RawRow(8, 7, 6, 0xFFFFFFFF, (1, 1)),
    ]
    assert [row.level for row in snapshot_of(rows, NOWHERE)] == [0, 6]
    assert snapshot_of(rows, NOWHERE).levels.tolist() == [0, 6]


# --- times ----------------------------------------------------------------------------


def test_the_age_is_the_time_since_the_walk_began() -> None:
    began = time.monotonic_ns() - 5_000_000_000
    snapshot = snapshot_of(ROWS, NOWHERE, times=Times(began, began + 1000, time.time_ns()))
    age = snapshot.age
    assert 5 <= age < 60
    time.sleep(0.01)
    assert snapshot.age >= age + 0.01


# --- columns --------------------------------------------------------------------------


def test_a_column_is_a_memoryview_of_64_bit_numbers(snapshot: Snapshot) -> None:
    for column, expected in (
        (snapshot.column("anon"), [4096, 8192, (1 << 64) - 2, 0]),
        (snapshot.column("pgscan"), [10, 11, 12, 13]),
        (snapshot.ids, [7, 8, 9, 11]),
        (snapshot.parent_ids, [1, 7, 8, 7]),
    ):
        assert isinstance(column, memoryview)
        assert (column.format, column.itemsize, column.ndim, column.shape) == ("Q", 8, 1, (4,))
        assert column.strides == (_wire.row_size(2),)
        assert column.tolist() == list(column) == expected
        assert array.array("Q", column).tolist() == expected
        assert array.array("Q", column.tobytes()).tolist() == expected
        assert column[-1] == expected[-1]
        assert column[::2].tolist() == expected[::2]
        assert column[::-1].tolist() == expected[::-1]
        assert column == array.array("Q", expected)


def test_a_column_is_a_view_of_the_memory_of_the_rows() -> None:
    data = bytearray(pack(*ROWS))
    snapshot = snapshot_of(data, NOWHERE)
    column, ids = snapshot.column("pgscan"), snapshot.ids
    assert column.obj is ids.obj is data
    data[:] = pack(*(row._replace(cgroup_id=99, values=(1, 2)) for row in ROWS))
    assert (column.tolist(), ids.tolist()) == ([2] * 4, [99] * 4)


def test_a_column_of_a_copy_cannot_be_written_to(snapshot: Snapshot) -> None:
    with pytest.raises(TypeError):
        snapshot.column("anon")[0] = 1


# --- no rows --------------------------------------------------------------------------


def test_an_empty_snapshot(tmp_path: Path) -> None:
    snapshot = snapshot_of(b"", tmp_path)
    assert len(snapshot) == 0 and not snapshot
    assert (list(snapshot), snapshot[:], snapshot[::-1]) == ([], [], [])
    assert (snapshot.by_id(), snapshot.by_path(), snapshot.find(".")) == ({}, {}, None)
    for column in (snapshot.column("anon"), snapshot.ids, snapshot.parent_ids):
        assert (column.format, column.tolist()) == ("Q", [])
    for index in (0, -1):
        with pytest.raises(IndexError):
            snapshot[index]
    with pytest.raises(KeyError):
        snapshot.column("nope")


# --- rows -----------------------------------------------------------------------------


def test_a_row_is_a_mapping(snapshot: Snapshot) -> None:
    row = snapshot[1]
    assert isinstance(row, Mapping)
    assert dict(row) == {"anon": 8192, "pgscan": 11}
    assert list(row) == list(row.keys()) == ["anon", "pgscan"]
    assert list(row.items()) == [("anon", 8192), ("pgscan", 11)]
    assert (len(row), "anon" in row, row.get("pgscan")) == (2, True, 11)


def test_a_row_has_no_other_items(snapshot: Snapshot) -> None:
    cases: list[str] = ["nope", "", "id", "memory.current"]
    for name in cases:
        row = snapshot[1]
        assert name not in row and row.get(name, 5) == 5
        uses: list[Callable[[str], object]] = [
            row.__getitem__,
            snapshot.column,
            snapshot.top,
            lambda name: snapshot.to_columns(["anon", name]),
        ]
        for use in uses:
            with pytest.raises(KeyError) as caught:
                use(name)
            assert caught.value.args == (f"{name!r} was not read: this snapshot has anon, pgscan",)


WITH_ABSENT = [
    _wire.RawRow(1, 0, 0, 1, (1, ABSENT, 2)),
    _wire.RawRow(2, 1, 1, 0, (3, 4, 5)),
    _wire.RawRow(3, 1, 1, 0, (6, ABSENT, ABSENT)),
]


@pytest.fixture
def lacking() -> Snapshot:
    """Two cgroups without memory.current, one of them also without file."""
    return snapshot_of(WITH_ABSENT, NOWHERE, ("anon", "memory.current", "file"))


def test_an_item_that_a_cgroup_does_not_have_is_missing_in_its_row(lacking: Snapshot) -> None:
    root, other, last = lacking
    assert dict(root) == {"anon": 1, "file": 2}
    assert list(root) == ["anon", "file"] and list(root.values()) == [1, 2]
    assert (len(root), "memory.current" in root, root.get("memory.current")) == (2, False, None)
    assert (len(other), other["memory.current"]) == (3, 4)
    for row, message in (
        (root, "the root cgroup has no memory.current"),
        (last, "cgroup 3 has no memory.current"),
    ):
        with pytest.raises(KeyError) as caught:
            row["memory.current"]
        assert caught.value.args == (message,)


def test_a_column_that_lacks_a_number_is_refused(lacking: Snapshot) -> None:
    assert lacking.column("anon").tolist() == [1, 3, 6]
    for item, first in (("memory.current", "/nowhere/0"), ("file", "/nowhere/2")):
        for _ in range(2):
            with pytest.raises(KeyError) as caught:
                lacking.column(item)
            assert caught.value.args == (
                f"the cgroup {first} has no {item}: column('{item}', absent=0) has 0 there, and "
                "to_columns() has None",
            )


def test_a_column_with_another_number_where_there_is_none(lacking: Snapshot) -> None:
    for absent in (0, 7, ABSENT):
        column = lacking.column("memory.current", absent=absent)
        assert (column.format, column.tolist()) == ("Q", [absent, 4, absent])
        assert lacking.column("anon", absent).tolist() == [1, 3, 6]
    assert lacking.column("anon", 0).obj is lacking.column("anon").obj, "no copy"
    for beyond in (-1, 1 << 64):
        with pytest.raises(ValueError, match="absent must be from 0"):
            lacking.column("anon", beyond)


def test_columns_have_none_where_there_is_no_number(lacking: Snapshot) -> None:
    assert lacking.to_columns() == {
        "path": ["/nowhere/0", "/nowhere/1", "/nowhere/2"],
        "id": [1, 2, 3],
        "parent_id": [0, 1, 1],
        "level": [0, 1, 1],
        "anon": [1, 3, 6],
        "memory.current": [None, 4, None],
        "file": [2, 5, None],
    }
    assert list(lacking.to_columns()) == ["path", "id", "parent_id", "level", *lacking.item_names]
    some = lacking.to_columns(("file", "anon"), absent=-1)
    assert list(some) == ["path", "id", "parent_id", "level", "file", "anon"]
    assert some["file"] == [2, 5, -1]
    for items, error in (("anon", TypeError), ([], ValueError)):
        with pytest.raises(error):
            lacking.to_columns(items)
    assert snapshot_of([], NOWHERE).to_columns() == {
        name: [] for name in ("path", "id", "parent_id", "level", *NAMES)
    }


def test_all_dicts_have_the_same_keys(lacking: Snapshot) -> None:
    for absent in (None, 0, "-"):
        assert lacking.dicts(absent=absent) == [
            {"anon": 1, "memory.current": absent, "file": 2},
            {"anon": 3, "memory.current": 4, "file": 5},
            {"anon": 6, "memory.current": absent, "file": absent},
        ]
    assert lacking.dicts(0, identity=True)[2] == {
        "path": "/nowhere/2",
        "id": 3,
        "parent_id": 1,
        "level": 1,
        "anon": 6,
        "memory.current": 0,
        "file": 0,
    }


def test_a_sum_or_maximum_over_an_absent_number_is_refused(lacking: Snapshot) -> None:
    """Whatever way a caller takes, a wrong number is not the result."""
    idioms: list[Callable[[], object]] = [
        lambda: sum(lacking.column("memory.current")),
        lambda: max(zip(lacking.column("memory.current"), lacking.ids)),
        lambda: sum(lacking.to_columns()["memory.current"]),
        lambda: max(lacking.to_columns()["memory.current"]),
        lambda: sum(each["memory.current"] for each in lacking.dicts()),
        lambda: max(each["memory.current"] for each in lacking.dicts()),
        lambda: sum(row["memory.current"] for row in lacking),
        lambda: max(lacking, key=lambda row: row["memory.current"]),
        lambda: max(row.get("memory.current") for row in lacking),  # type: ignore[type-var]
        lambda: min(zip(lacking.column("memory.current"), lacking.paths)),
        lambda: dict(zip(lacking.paths, lacking.column("memory.current"))),
        lambda: statistics.mean(lacking.column("memory.current")),
        lambda: statistics.mean(lacking.to_columns()["memory.current"]),
        lambda: statistics.mean(each["memory.current"] for each in lacking.dicts()),
        lambda: sorted(lacking, key=lambda row: row["memory.current"]),
        lambda: sorted(lacking.dicts(), key=lambda each: each["memory.current"]),
        lambda: sum(row["memory.current"] for row in lacking.leaves()),
        lambda: array.array("Q", lacking.to_columns()["memory.current"]),
    ]
    for idiom in idioms:
        with pytest.raises((KeyError, TypeError)):
            idiom()
    assert sum(lacking.column("memory.current", absent=0)) == 4
    assert sum(row.get("memory.current", 0) for row in lacking) == 4
    assert max(zip(lacking.column("memory.current", absent=0), lacking.ids)) == (4, 2)
    assert statistics.mean(row["file"] for row in lacking if "file" in row) == 3.5
    assert [row.id for row in lacking.top("memory.current")] == [2]


def test_a_message_lists_few_items() -> None:
    names = tuple(f"item{at}" for at in range(10))
    snapshot = snapshot_of([_wire.RawRow(1, 0, 0, 0, (0,) * 10)], NOWHERE, names)
    with pytest.raises(KeyError, match=r"has item0, .*, item7 and 2 others \(see item_names\)"):
        snapshot.column("anon")


def test_the_rows_with_the_largest_values(lacking: Snapshot, snapshot: Snapshot) -> None:
    assert [row.id for row in snapshot.top("anon", 2)] == [9, 8]
    assert [row.id for row in snapshot.top("anon")] == [9, 8, 7, 11]
    assert [row.id for row in lacking.top("memory.current")] == [2], "the others have none"
    assert lacking.top("anon", 0) == []
    with pytest.raises(ValueError, match="n must be at least 0, not -1"):
        lacking.top("anon", -1)
    same = snapshot_of([row._replace(values=(1, 1)) for row in ROWS], NOWHERE)
    assert [row.id for row in same.top("anon", 3)] == [7, 8, 9], "in the walk's order"


def test_leaves_have_no_row_below(snapshot: Snapshot, lacking: Snapshot) -> None:
    assert [row.id for row in snapshot.leaves()] == [9, 11]
    assert [row.id for row in lacking.leaves()] == [2, 3]
    assert [row.id for row in snapshot_of(ROWS[::-1], NOWHERE).leaves()] == [11, 9]
    assert snapshot_of([], NOWHERE).leaves() == []


def test_dicts_are_the_callers_own(snapshot: Snapshot) -> None:
    assert snapshot.dicts() == [dict(zip(NAMES, row.values)) for row in ROWS]
    found = snapshot.dicts()
    found[0]["anon"] = 1  # the caller's own
    assert snapshot[0]["anon"] == 4096 == snapshot.dicts()[0]["anon"]
    assert snapshot_of([], NOWHERE).dicts() == []


def test_adjacent_values_whose_bytes_contain_absent_are_kept() -> None:
    lower, upper = 0xFFFFFFFF00000000, 0x00000000FFFFFFFF
    rows = [_wire.RawRow(1, 0, 0, 0, (lower, upper)), _wire.RawRow(2, 1, 1, 0, (1, 2))]
    snapshot = snapshot_of(rows, NOWHERE)
    assert bytes([255] * 8) in pack(*rows)
    expected = [{"anon": lower, "pgscan": upper}, {"anon": 1, "pgscan": 2}]
    assert snapshot.dicts() == expected == [dict(row) for row in snapshot]


def test_the_views_of_a_row_are_those_of_a_mapping(snapshot: Snapshot) -> None:
    row = snapshot[0]
    assert ("anon", 4096) in row.items() and ("anon", 1) not in row.items()
    assert row.items() & {("pgscan", 10), ("x", 1)} == {("pgscan", 10)}
    assert (len(row.items()), len(row.values()), 10 in row.values()) == (2, 2, True)
    assert list(reversed(list(row.items()))) == [("pgscan", 10), ("anon", 4096)]


def test_a_row_whose_items_are_all_absent_is_empty() -> None:
    (row,) = snapshot_of([_wire.RawRow(1, 0, 0, 1, (ABSENT, ABSENT))], NOWHERE)
    assert (dict(row), len(row), list(row)) == ({}, 0, [])


def test_the_largest_value_is_one_below_absent(snapshot: Snapshot) -> None:
    assert snapshot[2]["anon"] == ABSENT - 1


def test_rows_are_equal_when_cgroup_and_values_are(snapshot: Snapshot) -> None:
    base = ROWS[0]
    (same,) = snapshot_of([base._replace(level=9)], NOWHERE)
    (other_id,) = snapshot_of([base._replace(cgroup_id=8)], NOWHERE)
    (other_value,) = snapshot_of([base._replace(values=(4096, 11))], NOWHERE)
    (other_names,) = snapshot_of([base], NOWHERE, ("anon", "pgsteal"))
    row = snapshot[0]
    assert row == same and same == row and (row != same) is False
    for other in (other_id, other_value, other_names):
        assert row != other and other != row


def test_a_row_is_equal_to_the_mapping_of_its_values(snapshot: Snapshot) -> None:
    row = snapshot[0]
    same: object = {"pgscan": 10, "anon": 4096}
    assert row == same and same == row
    assert row != {"anon": 4096} and row != {"anon": 4096, "pgscan": 11}
    for other in (7, "anon", None, [("anon", 4096), ("pgscan", 10)]):
        assert row != other


def test_a_row_cannot_be_hashed(snapshot: Snapshot) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(snapshot[0])


def test_a_row_cannot_be_changed(snapshot: Snapshot) -> None:
    row: Any = snapshot[0]
    for name in ("id", "parent_id", "level", "path", "exists", "anything"):
        with pytest.raises(AttributeError):
            setattr(row, name, 1)
    with pytest.raises(TypeError):
        row["anon"] = 1


def test_repr_of_a_row(snapshot: Snapshot) -> None:
    assert repr(snapshot[0]) == "<Row of cgroup 7, level 3: {'anon': 4096, 'pgscan': 10}>"


def test_a_row_keeps_its_snapshot_alive() -> None:
    row = snapshot_of(ROWS, NOWHERE)[3]
    assert (row.id, row["pgscan"]) == (11, 13)


# --- which row ------------------------------------------------------------------------


def test_by_id_maps_each_id_to_its_row(snapshot: Snapshot) -> None:
    found = snapshot.by_id()
    assert list(found) == [7, 8, 9, 11]
    assert all(row.id == cgroup_id for cgroup_id, row in found.items())
    assert found[9] == snapshot[2]
    found.clear()
    assert list(snapshot.by_id()) == [7, 8, 9, 11], "each is the caller's own"


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    """Directories by their path relative to the first."""
    root = tmp_path / "root"
    found = {".": root, "a": root / "a", "a/b": root / "a" / "b", "c d": root / "c d"}
    for path in found.values():
        path.mkdir()
    return found


def of_tree(tree: dict[str, Path], order: str = "pre") -> Snapshot:
    """A snapshot of directories as if they were cgroups."""
    ids = {path: path.stat().st_ino for path in tree.values()}
    rows = [
        _wire.RawRow(cgroup_id, ids.get(path.parent, 0), 0, 0, (cgroup_id, 1))
        for path, cgroup_id in ids.items()
    ]
    return snapshot_of(rows, tree["."], paths=[*map(str, tree.values())], order=order)


def test_rows_keep_the_paths_of_the_walk(tree: dict[str, Path]) -> None:
    snapshot = of_tree(tree)
    tree["a/b"].rmdir()
    assert [row.relative_path for row in snapshot] == list(tree)
    assert [row.path for row in snapshot] == [str(path) for path in tree.values()]
    assert snapshot.paths == tuple(str(path) for path in tree.values())


def test_a_path_may_be_unknown() -> None:
    snapshot = snapshot_of(ROWS, NOWHERE, paths=["/nowhere", None, "/nowhere/a", None])
    assert [row.path for row in snapshot] == ["/nowhere", None, "/nowhere/a", None]
    assert [row.relative_path for row in snapshot] == [".", None, "a", None]
    assert {path: row.id for path, row in snapshot.by_path().items()} == {
        "/nowhere": 7,
        "/nowhere/a": 9,
    }
    with pytest.raises(CgroupPermissionError, match="cgroup 8 exists cannot be seen"):
        snapshot[1].exists()


def test_relative_paths_lead_up_where_the_walk_does() -> None:
    levels = [row._replace(level=level) for row, level in zip(ROWS, (5, 4, 3))]
    snapshot = snapshot_of(levels, Path("/c/a/b"), paths=["/c/a/b", "/c/a", "/c"], order="up")
    assert [row.relative_path for row in snapshot] == [".", "..", "../.."]


def test_relative_paths_below_the_root_directory() -> None:
    snapshot = snapshot_of(ROWS[:2], Path("/"), paths=["/", "/a"])
    assert [row.relative_path for row in snapshot] == [".", "a"]


def test_exists_looks_at_the_cgroup_and_not_at_the_path(
    tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(tree["."]))])
    snapshot = of_tree(tree)
    assert [row.exists() for row in snapshot] == [True] * 4
    tree["c d"].rename(tree["a"] / "renamed")
    tree["c d"].mkdir()
    assert snapshot[3].exists(), "by another name"
    tree["a/b"].rename(tree["."].parent / "away")
    tree["a/b"].mkdir()
    assert [row.exists() for row in snapshot] == [True, True, False, True]


def test_exists_searches_for_no_other_name_where_there_is_none(
    tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(tree["."]))])
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: pytest.fail("it lists all"))
    rows = [_wire.RawRow(tree[name].stat().st_ino, 1, 1, 0, (1, 1)) for name in tree]
    snapshot = snapshot_of(rows, tree["."], paths=[*map(str, tree.values())], can_rename=False)
    tree["a/b"].rename(tree["."].parent / "away")
    assert [row.exists() for row in snapshot] == [True, True, False, True]


def test_exists_says_that_it_cannot_see(
    tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", "/proc")])
    snapshot = of_tree(tree)
    assert snapshot[2].exists(), "its path suffices"
    tree["."].rename(tree["."].parent / "unmounted")
    with pytest.raises(CgroupPermissionError, match="not visible to this process"):
        snapshot[2].exists()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(36, "too long")])
def test_exists_says_so_if_a_directory_above_is_not_to_be_searched(
    error: OSError, tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/", str(tree["."]))])
    snapshot, path, stat = of_tree(tree), str(tree["a/b"]), os.stat

    def refused(at: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if at == path:
            raise error
        return stat(at, *arguments, **named)

    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: None)
    with pytest.raises(CgroupPermissionError, match="not visible to this process"):
        snapshot[2].exists()
    assert snapshot[1].exists()


def test_by_path_maps_each_path_to_its_row(tree: dict[str, Path]) -> None:
    snapshot = of_tree(tree)
    tree["c d"].rmdir()
    assert {path: row.id for path, row in snapshot.by_path().items()} == {
        row.path: row.id for row in snapshot
    }
    assert list(snapshot.by_path()) == [str(path) for path in tree.values()]


def test_find_accepts_every_spelling_of_a_path(
    tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = of_tree(tree)
    link = tree["."].parent / "link"
    link.symlink_to(tree["."])
    monkeypatch.chdir("/")  # "relative" is to the walk's root
    for name, path in tree.items():
        spellings = (name, str(path), path, os.fsencode(name), f"{name}/", f"{name}/.", link / name)
        for spelled in spellings:
            row = snapshot.find(spelled)
            assert row is not None and row.id == path.stat().st_ino, spelled
    for nowhere in ("b", "a/b/c", "..", "/", str(tree["."].parent), "a\0", "/proc"):
        assert snapshot.find(nowhere) is None, nowhere


def test_find_takes_a_path_as_proc_shows_it(
    tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = of_tree(tree)
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: [("/docker/x", str(tree["."]))])
    for name, shown in (("a", "/docker/x/a"), ("a/b", "/docker/x/a/b"), (".", "/docker/x")):
        row = snapshot.find(shown)
        assert row is not None and row.path == str(tree[name])
    assert snapshot.find("/a") is None and snapshot.find("/docker") is None


def test_find_takes_the_path_of_the_walk(tree: dict[str, Path]) -> None:
    snapshot = of_tree(tree)
    old = snapshot.find("c d")
    assert old is not None
    tree["c d"].rename(tree["."] / "moved")
    tree["c d"].mkdir()
    assert snapshot.find("c d") == old
    assert snapshot.find("moved") == old, "that very cgroup"


# --- copy=False -----------------------------------------------------------------------

USES: dict[str, Callable[[Snapshot], object]] = {
    "id": lambda snapshot: snapshot[0].id,
    "parent_id": lambda snapshot: snapshot[0].parent_id,
    "level": lambda snapshot: snapshot[0].level,
    "exists": lambda snapshot: snapshot[0].exists(),
    "levels": lambda snapshot: snapshot.levels,
    "to_columns": lambda snapshot: snapshot.to_columns(),
    "top": lambda snapshot: snapshot.top("anon"),
    "leaves": lambda snapshot: snapshot.leaves(),
    "named dicts": lambda snapshot: snapshot.dicts(identity=True),
    "value": lambda snapshot: snapshot[-1]["anon"],
    "get": lambda snapshot: snapshot[0].get("anon"),
    "in": lambda snapshot: "anon" in snapshot[0],
    "dict": lambda snapshot: dict(snapshot[0]),
    "len": lambda snapshot: len(snapshot[0]),
    "names": lambda snapshot: list(snapshot[0]),
    "==": lambda snapshot: snapshot[0] == snapshot[1],
    "repr": lambda snapshot: repr(snapshot[0]),
    "slice": lambda snapshot: snapshot[1:][0].id,
    "iteration": lambda snapshot: [row.id for row in snapshot],
    "column": lambda snapshot: snapshot.column("pgscan"),
    "ids": lambda snapshot: snapshot.ids,
    "parent_ids": lambda snapshot: snapshot.parent_ids,
    "by_id": lambda snapshot: snapshot.by_id()[7].id,
    "dicts": lambda snapshot: snapshot.dicts(),
    "items": lambda snapshot: list(snapshot[0].items()),
    "values": lambda snapshot: list(snapshot[0].values()),
    "rows, later": lambda snapshot: [dict(row) for row in list(snapshot)],
}


def test_rows_taken_from_a_view_expire_with_it() -> None:
    snapshot = snapshot_of(bytearray(pack(*ROWS)), NOWHERE)
    rows = list(snapshot)
    pairs = rows[0].items()
    snapshot._expire()
    for use in (dict, len, list):
        with pytest.raises(ClosedError):
            use(rows[0])
    with pytest.raises(ClosedError):
        list(pairs)


@pytest.mark.parametrize("indexed", [False, True], ids=["fresh", "indexed"])
def test_every_use_of_an_expired_view_is_a_closed_error(indexed: bool) -> None:
    snapshot = snapshot_of(bytearray(pack(*ROWS)), NOWHERE)
    if indexed:
        snapshot.by_id()
    snapshot._expire()
    for name, use in USES.items():
        with pytest.raises(ClosedError) as caught:
            use(snapshot)
        assert str(caught.value) == (
            "this snapshot was a view (copy=False), and its reader has read again since"
        ), name
        assert caught.value.errno == errno.EBADF


def test_an_expired_view_keeps_its_paths(tree: dict[str, Path]) -> None:
    snapshot = of_tree(tree)
    snapshot._expire()
    assert snapshot.paths == tuple(map(str, tree.values()))
    assert snapshot[1].path == str(tree["a"])
    row = snapshot.find("a")
    assert row is not None
    with pytest.raises(ClosedError):
        row["anon"]


def test_an_expired_view_keeps_its_attributes() -> None:
    snapshot = snapshot_of(pack(*ROWS), Path("/proc"), times=Times(1, 3, 9))
    snapshot._expire()
    snapshot._expire()
    assert (len(snapshot), snapshot.item_names, snapshot.order, snapshot.path) == (
        4,
        NAMES,
        "pre",
        "/proc",
    )
    assert (snapshot.started_ns, snapshot.duration_ns) == (1, 2)
    assert repr(snapshot) == "<Snapshot of '/proc': 4 cgroups, 2 items>"
    with pytest.raises(KeyError):
        snapshot.column("nope")


def test_a_column_taken_before_expiry_keeps_its_memory() -> None:
    data = bytearray(pack(*ROWS))
    snapshot = snapshot_of(data, NOWHERE)
    column, ids = snapshot.column("pgscan"), snapshot.ids
    snapshot._expire()
    del snapshot
    assert (column.tolist(), ids.tolist()) == ([10, 11, 12, 13], [7, 8, 9, 11])
    data[-8:] = (77).to_bytes(8, "little" if _wire.level(1) == 1 else "big")
    assert column[3] == 77, "it is the reader's memory, whatever is there"
    with pytest.raises(BufferError):
        data.clear()  # so a map stays mapped as long as a column of it lives
    column.release()
    ids.release()
    data.clear()


def test_an_expired_view_holds_no_memory() -> None:
    data = bytearray(pack(*ROWS))
    snapshot = snapshot_of(data, NOWHERE)
    rows = list(snapshot)
    snapshot._expire()
    data.clear()  # a BufferError if anything still looked into it
    with pytest.raises(ClosedError):
        rows[0]["anon"]


# --- any rows -------------------------------------------------------------------------

words = st.integers(0, (1 << 64) - 1) | st.just(ABSENT)
halves = st.integers(0, (1 << 32) - 1)


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[str, ...], list[_wire.RawRow]]:
    """Names, and rows with unique ids."""
    names = tuple(f"item-{at}" for at in range(draw(st.integers(1, 6))))
    values = st.tuples(*[words] * len(names))
    ids = st.integers(0, ABSENT - 1)
    row = st.builds(_wire.RawRow, ids, ids, halves, halves, values)
    return names, draw(st.lists(row, max_size=8, unique_by=lambda row: row.cgroup_id))


@given(tables())
def test_any_rows_come_back_as_they_were_packed(
    table: tuple[tuple[str, ...], list[_wire.RawRow]],
) -> None:
    names, rows = table
    snapshot = snapshot_of(rows, NOWHERE, names)
    assert len(snapshot) == len(rows)
    assert [(row.id, row.parent_id, row.level) for row in snapshot] == [row[:3] for row in rows]
    expected = [
        {name: value for name, value in zip(names, row.values) if value != ABSENT} for row in rows
    ]
    whole = [{name: each.get(name) for name in names} for each in expected]
    assert snapshot.dicts() == whole
    assert [list(each) for each in snapshot.dicts()] == [list(names)] * len(rows)
    columns = snapshot.to_columns()
    assert [dict(zip(columns, row)) for row in zip(*columns.values())] == snapshot.dicts(
        identity=True
    )
    for at, values in enumerate(expected):  # each on a new snapshot, which has no cached rows
        row = snapshot_of(rows, NOWHERE, names)[at]
        assert (dict(row), dict(row.items())) == (values, values)
        assert list(row.values()) == list(values.values())
    assert [dict(row) for row in snapshot] == expected
    assert [dict(row.items()) for row in snapshot] == expected
    assert [list(row.values()) for row in snapshot] == [list(each.values()) for each in expected]
    assert [len(row) for row in snapshot] == [len(each) for each in expected]
    assert snapshot.ids.tolist() == [row.cgroup_id for row in rows]
    assert snapshot.parent_ids.tolist() == [row.parent_id for row in rows]
    for at, name in enumerate(names):
        assert snapshot.column(name, ABSENT).tolist() == [row.values[at] for row in rows]
    assert snapshot.by_id() == {row.cgroup_id: snapshot[at] for at, row in enumerate(rows)}


@given(tables(), st.slices(8))
def test_any_slice_equals_the_slice_of_a_list(
    table: tuple[tuple[str, ...], list[_wire.RawRow]], part: slice
) -> None:
    names, rows = table
    found = snapshot_of(rows, NOWHERE, names)[part]
    assert [row.id for row in found] == [row.cgroup_id for row in rows[part]]


# --- copies ---------------------------------------------------------------------------


def test_neither_a_snapshot_nor_a_row_can_be_copied_or_pickled(snapshot: Snapshot) -> None:
    for thing in (snapshot, snapshot[0]):
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                copying(thing)
    assert pickle.loads(pickle.dumps(dict(snapshot[0]))) == dict(snapshot[0])
