# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A limit that is not set is null in the JSON of every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pymemcgbpf import UNLIMITED
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli.json_values import nullable
from pymemcgbpf._items import CATALOGUE, is_limit

from ..commands import TEXT, Captured, printed
from ..directories import said_to_be
from ..pin_files import ROW, pinned_file, stream

SHOWN = {"memory.max": None, "memory.high": 4096, "anon": 4096}
ITEMS = tuple(SHOWN)


@pytest.fixture
def limited(v2: Path) -> str:
    """A cgroup with one limit that is set, and one that is not."""
    (v2 / "memory.max").write_text("max\n")
    (v2 / "memory.high").write_text("4096\n")
    return str(v2)


def test_stat_tree_and_watch_write_null(limited: str, capsys: Captured) -> None:
    assert json.loads(printed(capsys, "stat", "--json", *TEXT, limited, *ITEMS)) == SHOWN
    (row,) = json.loads(printed(capsys, "tree", "--json", *TEXT, limited, *ITEMS))
    assert row["items"] == SHOWN
    for extra in ((), ("--depth", "0")):
        once = ("watch", "--count", "1", "--json", *extra)
        assert json.loads(printed(capsys, *once, *TEXT, limited, *ITEMS))["items"] == SHOWN


def test_cat_writes_null(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    said_to_be(monkeypatch, tmp_path)
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: None)
    rows = [ROW._replace(values=(UNLIMITED, 4096, 4096))]
    numbers = [CATALOGUE[name].number for name in ITEMS]
    one = pinned_file(tmp_path / "one", stream(rows, items=numbers))
    assert json.loads(printed(capsys, "cat", "--json", str(one))) == SHOWN
    walk = pinned_file(tmp_path / "walk", stream(rows, 2, items=numbers))
    (row,) = json.loads(printed(capsys, "cat", "--json", str(walk)))
    assert row["items"] == SHOWN


def test_null_stands_for_limits_alone() -> None:
    shown = nullable(dict.fromkeys((*CATALOGUE, "new"), UNLIMITED))
    assert {name for name, value in shown.items() if value is None} == {
        name for name, item in CATALOGUE.items() if is_limit(item)
    }
