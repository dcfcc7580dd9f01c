# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Departed, and TreeReader with departed=True where removed cgroups cannot be seen."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    Departed,
    DepartedRow,
    TreeReader,
    _wire,
)

from .tree_rows import NAMES, departed_rows, snapshot_of

ROWS = [
    _wire.RawRow(11, 1, 2, 0, (7, _wire.ABSENT)),
    _wire.RawRow(12, 11, 3, 0, (8, 9)),
]
SECOND = 1_000_000_000


def departed() -> Departed:
    return departed_rows(
        ROWS, [5 * SECOND, 6 * SECOND], paths=["/nowhere/a", None], lost=3, began=10 * SECOND
    )


def test_rows_know_when_they_were_removed() -> None:
    found = departed()
    assert [type(row) for row in found] == [DepartedRow, DepartedRow]
    assert [row.removed_ns for row in found] == [5 * SECOND, 6 * SECOND]
    assert [*found.removed_ns] == [5 * SECOND, 6 * SECOND]
    assert found.removed_times == [row.removed_time for row in found] == [1000 - 5, 1000 - 4]
    assert (found.lost, found.order, len(found)) == (3, "removed", 2)
    assert all(isinstance(row, DepartedRow) for row in (found[1], *found[:1], *found.leaves()))
    assert isinstance(found.by_id()[12], DepartedRow) and found.find("/nowhere/a") == found[0]


def test_it_is_a_snapshot() -> None:
    found = departed()
    assert found.item_names == NAMES and [dict(row) for row in found] == [
        {"anon": 7},
        {"anon": 8, "pgscan": 9},
    ]
    assert found.column("anon").tolist() == [7, 8]
    assert found.to_columns() == {
        "path": ["/nowhere/a", None],
        "id": [11, 12],
        "parent_id": [1, 11],
        "level": [2, 3],
        "removed_ns": [5 * SECOND, 6 * SECOND],
        "anon": [7, 8],
        "pgscan": [None, 9],
    }
    assert found.dicts(identity=True)[1] == {
        "path": None,
        "id": 12,
        "parent_id": 11,
        "level": 3,
        "anon": 8,
        "pgscan": 9,
        "removed_ns": 6 * SECOND,
    }
    assert [*found.dicts(identity=True)[0]] == [*found.to_columns()]
    assert found.dicts() == [{"anon": 7, "pgscan": None}, {"anon": 8, "pgscan": 9}]
    assert found.departed is None
    assert repr(found) == "<Departed of '/nowhere': 2 cgroups, 3 lost, 2 items>"


def test_a_row_says_that_it_is_gone() -> None:
    known, unknown = departed()
    assert not known.exists() and not unknown.exists()
    assert repr(known) == "<DepartedRow of '/nowhere/a', level 2: {'anon': 7}>"
    assert repr(unknown) == "<DepartedRow of cgroup 12, level 3: {'anon': 8, 'pgscan': 9}>"


def test_it_has_no_earlier_state() -> None:
    with pytest.raises(ValueError, match="last numbers only"):
        departed().since(snapshot_of(ROWS))
    with pytest.raises(ValueError):
        snapshot_of(ROWS).since(departed())


def test_none_departed() -> None:
    found = departed_rows([], [])
    assert len(found) == 0 and list(found) == [] and found.removed_times == []
    assert found.column("anon").tolist() == [] and found.dicts(identity=True) == []


def test_it_is_no_part_of_a_pickled_error() -> None:
    error = CgroupRemovedError("it was removed")
    assert error.departed is None
    error.departed = departed()
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == "it was removed" and copied.departed is None


def test_as_text(v2: Path) -> None:
    with pytest.raises(BackendUnavailableError, match='leave out departed=True, or use backend="a'):
        TreeReader(v2, ["anon"], backend="text", departed=True)


@pytest.mark.parametrize("departed", [1, "yes", None])
def test_it_is_a_switch(v2: Path, departed: Any) -> None:
    with pytest.raises(TypeError, match="departed must be True or False"):
        TreeReader(v2, ["anon"], backend="text", departed=departed)


def test_without_it_nothing_is_asked(v2: Path) -> None:
    with TreeReader(v2, ["anon"], backend="text") as tree:
        assert tree.read().departed is None and "departed" not in tree.fallback_reason
