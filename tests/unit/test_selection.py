# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Parts of snapshots: some of the cgroups, some of the items."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import (
    ClosedError,
    Snapshot,
    TreeReader,
    _openmetrics,
    _selection,
    _wire,
    openmetrics,
)
from pymemcgbpf._cgroup import mounts
from pymemcgbpf._selection import CgroupSelection, with_items

from .directories import make_v2
from .tree_rows import snapshot_of

ROOT = "/sys/fs/cgroup/walk"

# id, parent, level, path
#   1
#   ├─ 2 a.slice ─ 3 a.slice/x.service
#   │            └ 4 a.slice/y.scope ─ 5 a.slice/y.scope/deep
#   └─ 6 b.service
CGROUPS = [
    (1, 90, 1, ROOT),
    (2, 1, 2, f"{ROOT}/a.slice"),
    (3, 2, 3, f"{ROOT}/a.slice/x.service"),
    (4, 2, 3, f"{ROOT}/a.slice/y.scope"),
    (5, 4, 4, f"{ROOT}/a.slice/y.scope/deep"),
    (6, 1, 2, f"{ROOT}/b.service"),
]


@pytest.fixture(autouse=True)
def _hierarchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hierarchy's root, which no file system is asked for."""
    monkeypatch.setattr(mounts, "hierarchy_root", lambda path: "/sys/fs/cgroup")


def walk(
    cgroups: Sequence[tuple[int, int, int, Optional[str]]] = CGROUPS,
    **options: Any,
) -> Snapshot:
    rows = [
        _wire.RawRow(cgroup_id, parent, level, 0, (100 + cgroup_id, cgroup_id))
        for cgroup_id, parent, level, _ in cgroups
    ]
    return snapshot_of(rows, Path(ROOT), paths=[path for *_, path in cgroups], **options)


def ids(selection: CgroupSelection, snapshot: Optional[Snapshot] = None) -> list[int]:
    return selection.apply(walk() if snapshot is None else snapshot).ids.tolist()


# --- which cgroups


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"match": ["/walk/a.slice"]}, [2]),
        ({"match": ["/walk/*"]}, [2, 3, 4, 5, 6]),
        ({"match": ["*.service", "*/deep"]}, [3, 5, 6]),
        ({"match": ["/walk/?.service"]}, [6]),
        ({"match": ["/walk/[!a].*"]}, [6]),
        ({"match": ["/WALK/*"]}, []),
        ({"match": ["walk/*"]}, []),
        ({"match": ["/walk/["]}, []),
        ({"exclude": ["/walk/a.slice/*"]}, [1, 2, 6]),
        ({"exclude": ["*.service", "*.slice"]}, [1, 4, 5]),
        ({"match": ["*.service"], "exclude": ["*/b.*"]}, [3]),
        ({"leaves": True}, [3, 5, 6]),
        ({"depth": 0}, [1]),
        ({"depth": 1}, [1, 2, 6]),
        ({"depth": 2, "leaves": True}, [3, 4, 6]),
        ({"leaves": True, "exclude": ["*/deep"]}, [3, 6]),
        ({"leaves": True, "match": ["/walk/a.slice/*"], "depth": 1}, []),
    ],
)
def test_the_depth_the_leaves_and_the_patterns_choose(
    options: dict[str, Any], expected: list[int]
) -> None:
    assert ids(CgroupSelection(**options)) == expected


@pytest.mark.parametrize("options", [{}, {"depth": 3}, {"match": ["*"]}, {"exclude": ["x"]}])
def test_a_selection_of_everything_is_the_snapshot_itself(options: dict[str, Any]) -> None:
    snapshot = walk()
    assert CgroupSelection(**options).apply(snapshot) is snapshot


def test_a_walk_that_is_not_deeper_than_the_depth_is_the_snapshot_itself() -> None:
    snapshot = walk(CGROUPS[:2], max_depth=1)
    for depth in (1, 2):
        assert CgroupSelection(depth=depth).apply(snapshot) is snapshot


def test_a_selected_row_keeps_its_numbers_path_and_time() -> None:
    snapshot = walk()
    part = CgroupSelection(match=["*/y.scope*"], depth=3).apply(snapshot)
    assert part.path == ROOT and part.order == "pre" and part.item_names == ("anon", "pgscan")
    assert part.paths == (f"{ROOT}/a.slice/y.scope", f"{ROOT}/a.slice/y.scope/deep")
    assert [dict(row) for row in part] == [{"anon": 104, "pgscan": 4}, {"anon": 105, "pgscan": 5}]
    assert part[0].level == 3 and part[0].parent_id == 2
    assert (part.time, part.started_ns, part.duration_ns) == (
        *(snapshot.time, snapshot.started_ns, snapshot.duration_ns),
    )
    assert part.max_depth == 3
    assert part.find("a.slice/y.scope/deep") == part[1]


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_the_depth_counts_from_the_root_in_every_order(order: str) -> None:
    cgroups = CGROUPS[1:] if order == "children" else CGROUPS
    if order == "post":
        cgroups = [CGROUPS[at] for at in (2, 4, 3, 1, 5, 0)]
    found = ids(CgroupSelection(depth=1), walk(cgroups, order=order))
    assert found == {"pre": [1, 2, 6], "post": [2, 6, 1], "children": [2, 6]}[order]


def test_upwards_the_depth_counts_ancestors_and_the_root_is_the_leaf() -> None:
    snapshot = walk([CGROUPS[at] for at in (4, 3, 1, 0)], order="up")
    assert ids(CgroupSelection(depth=1), snapshot) == [5, 4]
    assert ids(CgroupSelection(leaves=True), snapshot) == [5]


def test_a_cgroup_without_a_path_matches_no_pattern() -> None:
    hidden = [*CGROUPS, (7, 1, 2, None)]
    assert ids(CgroupSelection(match=["*"]), walk(hidden)) == [1, 2, 3, 4, 5, 6]
    assert ids(CgroupSelection(exclude=["*.*"]), walk(hidden)) == [1, 7]


def test_a_pattern_is_compared_with_what_the_label_shows() -> None:
    odd = [CGROUPS[0], (2, 1, 2, f"{ROOT}/\udcff"), (3, 1, 2, f"{ROOT}/a\nb"), (4, 1, 2, "/other")]
    assert ids(CgroupSelection(match=["/walk///xff"]), walk(odd)) == [2]
    assert ids(CgroupSelection(match=["/walk/a\nb"]), walk(odd)) == [3]
    assert ids(CgroupSelection(match=["/walk/a*"]), walk(odd)) == [3]
    assert ids(CgroupSelection(exclude=["/walk*"]), walk(odd)) == [4]


def test_an_empty_walk_stays_empty() -> None:
    options: list[dict[str, Any]] = [{"leaves": True}, {"depth": 1}, {"match": ["*"]}]
    for each in options:
        assert ids(CgroupSelection(**each), walk([])) == []


@given(st.lists(st.text("abc*?[]!-./\\\n", max_size=6), max_size=3))
def test_any_pattern_is_accepted(patterns: list[str]) -> None:
    matched = set(ids(CgroupSelection(match=patterns)))
    excluded = set(ids(CgroupSelection(exclude=patterns)))
    assert matched | excluded == {1, 2, 3, 4, 5, 6}
    if patterns:
        assert not matched & excluded


def test_a_view_is_selected_until_it_expires(tmp_path: Path) -> None:
    selection = CgroupSelection(leaves=True)
    with TreeReader(forest(tmp_path), ["anon"], backend="text") as reader:
        view = reader.read(copy=False)
        part = selection.apply(view)
        reader.read()
        assert part.column("anon").tolist() == [4096, 4096]
        with pytest.raises(ClosedError, match="this snapshot was a view"):
            selection.apply(view)


# --- what is remembered


def forest(tmp_path: Path) -> Path:
    """A root with the cgroups a and b."""
    root = make_v2(tmp_path / "root")
    for name in ("a", "b"):
        make_v2(root / name)
    return root


def test_while_the_tree_is_unchanged_paths_are_shared_and_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Optional[str]] = []
    real = CgroupSelection._is_shown

    def note(self: CgroupSelection, path: Optional[str]) -> bool:
        compared.append(path)
        return real(self, path)

    monkeypatch.setattr(CgroupSelection, "_is_shown", note)
    root = forest(tmp_path)
    selection = CgroupSelection(match=["*/a"])
    with TreeReader(root, ["anon"], backend="text") as reader:
        first = selection.apply(reader.read())
        assert len(compared) == 3
        (root / "a" / "memory.stat").write_text("anon 8192\n")
        second = selection.apply(reader.read())
        assert len(compared) == 3 and second.paths is first.paths
        assert (first.column("anon").tolist(), second.column("anon").tolist()) == ([4096], [8192])
        make_v2(root / "a" / "a")
        third = selection.apply(reader.read())
        assert third.paths == (str(root / "a"), str(root / "a" / "a"))
        shutil.rmtree(root / "a")
        assert len(selection.apply(reader.read())) == 0


def test_the_labels_of_a_selection_are_kept_beside_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = _openmetrics._starts

    def note(paths: list[str], *root: str) -> list[str]:
        made.extend(paths)
        return real(paths, *root)

    monkeypatch.setattr(_openmetrics, "_starts", note)
    gc.collect()
    before = len(_openmetrics._last_labels)
    selection = CgroupSelection(leaves=True)
    with TreeReader(forest(tmp_path), ["anon"], backend="text") as reader:
        for _ in range(3):
            snapshot = reader.read()
            assert openmetrics(snapshot).count("\ncgroup_memory_anon_bytes{") == 3
            assert openmetrics(selection.apply(snapshot)).count("\ncgroup_memory_anon_bytes{") == 2
    assert len(made) == 5 and len(_openmetrics._last_labels) == before + 2
    del reader, snapshot, selection
    gc.collect()
    assert len(_openmetrics._last_labels) == before


def test_rows_without_paths_are_chosen_in_every_walk() -> None:
    # What a walk meets can change without a change of paths that are all unknown.
    selection, nameless = CgroupSelection(leaves=True), (None, None)
    before = walk([(1, 0, 0, None), (2, 1, 1, None)])
    after = walk([(2, 1, 1, None), (1, 0, 0, None)])
    for snapshot in (before, after):
        snapshot._paths._paths = nameless
    assert (ids(selection, before), ids(selection, after)) == ([2], [2])


def test_one_selection_serves_several_readers(tmp_path: Path) -> None:
    selection = CgroupSelection(match=["*/b"])
    (tmp_path / "other").mkdir()
    roots = [forest(tmp_path), forest(tmp_path / "other")]
    with TreeReader(roots[0], backend="text") as first, TreeReader(roots[1], backend="text") as two:
        for _ in range(2):
            for reader, root in zip((first, two), roots):
                assert selection.apply(reader.read()).paths == (str(root / "b"),)


# --- which items


def test_a_snapshot_with_other_items() -> None:
    snapshot = walk(max_depth=3)
    assert with_items(snapshot, ("anon", "pgscan")) is snapshot
    part = with_items(snapshot, ("pgscan",))
    assert part.item_names == ("pgscan",) and dict(part[1]) == {"pgscan": 2}
    turned = with_items(snapshot, ("pgscan", "anon"))
    assert dict(turned[3]) == {"pgscan": 4, "anon": 104} and [*turned[3]] == ["pgscan", "anon"]
    assert turned.paths is snapshot.paths and turned.max_depth == 3
    assert turned.ids.tolist() == snapshot.ids.tolist()
    with pytest.raises(KeyError, match="'file' was not read"):
        with_items(snapshot, ("file",))


def test_a_value_that_is_absent_stays_absent() -> None:
    snapshot = snapshot_of([_wire.RawRow(1, 0, 0, 0, (_wire.ABSENT, 7))])
    assert dict(with_items(snapshot, ("anon",))[0]) == {}


def test_the_root_is_the_first_row_or_in_post_order_the_last() -> None:
    assert (_selection.root_at(walk()), _selection.root_at(walk(order="post"))) == (0, -1)
