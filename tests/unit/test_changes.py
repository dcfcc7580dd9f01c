# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What changed between two snapshots, over rows packed by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pymemcgbpf as memcg
from pymemcgbpf import Change, Changes, ClosedError, Row, Snapshot, _wire
from pymemcgbpf._wire import ABSENT, RawRow
from pymemcgbpf.snapshot import Times

from .conftest import RunPython
from .tree_rows import NAMES, NOWHERE, snapshot_of

SECOND = 1_000_000_000


def at(
    seconds: float,
    *rows: RawRow,
    names: tuple[str, ...] = NAMES,
    order: str = "pre",
    paths: Optional[list[str]] = None,
    max_depth: Optional[int] = None,
) -> Snapshot:
    """A snapshot of a walk that began then."""
    began = int(seconds * SECOND)
    return snapshot_of(
        rows,
        NOWHERE,
        names,
        paths=paths,
        order=order,
        max_depth=max_depth,
        times=Times(began, began, began),
    )


def one(cgroup_id: int, *values: int) -> RawRow:
    """A cgroup below cgroup 7."""
    return RawRow(cgroup_id, 7, 4, 0, values)


ROOT = RawRow(7, 1, 3, _wire.ROW_ROOT, (4096, 10))
EARLIER = (ROOT, one(8, 50, 11), one(9, 60, 12))
LATER = (ROOT._replace(values=(4000, 30)), one(8, 50, 15), one(11, 70, 13))


@pytest.fixture
def changes() -> Changes:
    """Cgroup 9 was removed, 11 was created; anon is a gauge, pgscan a counter."""
    return at(12, *LATER).since(at(10, *EARLIER))


# --- what is compared -----------------------------------------------------------------


def test_counters_and_gauges_of_the_same_cgroups() -> None:
    rows = [one(8, 50, 11), one(9, 60, 1 << 63)]
    then = [one(8, 70, 11), one(9, 10, (1 << 63) + 5)]
    changes = at(2.5, *then).since(at(0.5, *rows))
    assert changes.seconds == 2
    assert changes.differences("anon") == [20, -50]
    assert changes.differences("pgscan") == [0, 5]
    assert changes.rates("anon") == [10, -25]
    assert changes.rates("pgscan") == [0, 2.5]
    assert changes.new == changes.gone == []


def test_cgroups_are_matched_by_id_in_any_order_of_rows() -> None:
    changes = at(1, ROOT, one(9, 1, 100), one(8, 2, 200)).since(
        at(0, ROOT, one(8, 0, 150), one(9, 0, 90))
    )
    assert changes.differences("pgscan") == [0, 10, 50]
    assert [change.id for change in changes] == [7, 9, 8]


def test_new_and_gone_cgroups_are_rows_of_their_snapshots(changes: Changes) -> None:
    assert [(type(row), row.id, row["anon"]) for row in changes.new] == [(Row, 11, 70)]
    assert [(type(row), row.id, row["anon"]) for row in changes.gone] == [(Row, 9, 60)]


def test_the_counters_of_a_new_cgroup_have_counted_from_0(changes: Changes) -> None:
    assert changes.differences("pgscan") == [20, 4, 13]
    assert changes.rates("pgscan") == [10, 2, 6.5]


def test_the_gauges_of_a_new_cgroup_have_no_difference(changes: Changes) -> None:
    assert changes.differences("anon") == [-96, 0, None]
    assert changes.rates("anon") == [-48, 0, None]


def test_a_counter_that_fell_has_counted_from_0_again() -> None:
    changes = at(2, ROOT, one(8, 5, 3), one(9, 5, 0)).since(at(0, ROOT, one(8, 5, 7), one(9, 5, 1)))
    assert changes.differences("pgscan") == [0, 3, 0]
    assert changes.rates("pgscan") == [0, 1.5, 0]


def test_an_item_that_is_absent_in_either_has_no_difference() -> None:
    for name in ("anon", "pgscan"):
        pairs = [(ABSENT, 5), (5, ABSENT), (ABSENT, ABSENT), (5, 5)]
        earlier = at(0, *(one(8 + n, pair[0]) for n, pair in enumerate(pairs)), names=(name,))
        later = at(1, *(one(8 + n, pair[1]) for n, pair in enumerate(pairs)), names=(name,))
        for rows in (slice(0, 4), slice(0, 1), slice(1, 2), slice(2, 3)):
            found = later.since(earlier).differences(name)
            assert found == [None, None, None, 0], rows
        for pair in pairs[:3]:  # each alone
            changes = at(1, one(8, pair[1]), names=(name,)).since(
                at(0, one(8, pair[0]), names=(name,))
            )
            assert changes.differences(name) == changes.rates(name) == [None], pair
            assert dict(changes[0]) == {} and len(changes[0]) == 0


def test_a_sum_or_maximum_over_a_missing_difference_is_refused(changes: Changes) -> None:
    """anon is missing in the change of the new cgroup."""
    idioms: list[Callable[[], object]] = [
        lambda: sum(changes.differences("anon")),  # type: ignore[arg-type]
        lambda: max(changes.rates("anon")),  # type: ignore[type-var]
        lambda: max(zip(changes.rates("anon"), changes.to_columns()["id"])),
        lambda: sum(changes.to_columns(rates=True)["anon"]),
        lambda: sum(change["anon"] for change in changes),
        lambda: sorted(changes, key=lambda change: change.rate("anon")),
    ]
    for idiom in idioms:
        with pytest.raises((KeyError, TypeError)):
            idiom()
    assert sum(change.get("anon", 0) for change in changes) == -96
    assert sum(changes.to_columns(absent=0)["anon"]) == -96


def test_an_item_that_a_new_cgroup_lacks_has_no_difference() -> None:
    changes = at(1, ROOT, one(8, ABSENT, ABSENT)).since(at(0, ROOT))
    assert changes.differences("anon") == changes.differences("pgscan") == [0, None]


def test_an_item_of_unknown_kind_may_fall() -> None:
    for name in ("#1234", "pgtomorrow"):
        changes = at(2, one(8, 3), one(9, 1), names=(name,)).since(at(0, one(8, 7), names=(name,)))
        assert changes.differences(name) == [-4, None]
        assert changes.rates(name) == [-2, None]


@pytest.mark.parametrize("name", ["memory.max", "derived.effective_limit"])
def test_a_limit_that_was_set_or_lifted_has_no_difference(name: str) -> None:
    values = [(memcg.UNLIMITED, 5), (5, memcg.UNLIMITED), (memcg.UNLIMITED,) * 2, (5, 9)]
    earlier = at(0, *(one(n, pair[0]) for n, pair in enumerate(values)), names=(name,))
    later = at(1, *(one(n, pair[1]) for n, pair in enumerate(values)), names=(name,))
    assert later.since(earlier).differences(name) == [None, None, 0, 4]


def test_items_of_one_snapshot_only_are_left_out() -> None:
    earlier = at(0, one(8, 1, 2, 3), names=("file", "pgscan", "anon"))
    changes = at(1, one(8, 9, 8, 7), names=("anon", "slab", "pgscan")).since(earlier)
    assert changes.item_names == ("anon", "pgscan")
    assert dict(changes[0]) == {"anon": 6, "pgscan": 5}
    for item in ("slab", "file", "nonsense"):
        with pytest.raises(KeyError, match=f"'{item}' is not an item of both snapshots"):
            changes.differences(item)
        with pytest.raises(KeyError, match="both snapshots"):
            changes[0][item]


def test_empty_snapshots() -> None:
    none = at(0, order="children")
    some = at(1, one(8, 1, 2), order="children")
    assert len(at(1, order="children").since(none)) == 0
    assert at(1, order="children").since(none).rates("pgscan") == []
    assert [row.id for row in some.since(none).new] == [8]
    assert [row.id for row in at(2, order="children").since(some).gone] == [8]


# --- what is refused ------------------------------------------------------------------


def test_the_other_snapshot_must_be_an_earlier_one() -> None:
    early, late = at(1.5, *EARLIER), at(4, *LATER)
    with pytest.raises(ValueError, match=r"not an earlier one: its walk began 2.5 s after this"):
        early.since(late)
    with pytest.raises(ValueError, match="not an earlier one: its walk began at the same time"):
        late.since(late)


def test_the_other_must_be_a_snapshot() -> None:
    wrong: list[Any] = [None, 5, "anon", [1], at(1).dicts()]
    for other in wrong:
        with pytest.raises(TypeError, match="since a Snapshot, not a "):
            at(1, *LATER).since(other)


@pytest.mark.parametrize("order", ["pre", "post", "up", "children", "self"])
def test_the_snapshots_must_have_one_root(order: str) -> None:
    root = RawRow(1, 0, 2, 0, (1, 1))
    other = [*EARLIER, root] if order == "post" else [root, *EARLIER]
    with pytest.raises(ValueError, match="are not of the same walk"):
        at(1, *reversed(LATER), order=order).since(at(0, *other, order=order))


def test_the_snapshots_must_have_one_order() -> None:
    with pytest.raises(ValueError, match=r"not of the same walk: .* 'up' .* 'pre' "):
        at(1, ROOT).since(at(0, ROOT, order="up"))


def test_the_snapshots_must_have_one_depth() -> None:
    """Else the cgroups further down would look new, and their counters as if they began at 0."""
    with pytest.raises(ValueError, match=r"not of the same walk: .*=1, .*=None"):
        at(1, ROOT).since(at(0, ROOT, max_depth=1))
    assert not at(1, ROOT, max_depth=1).since(at(0, ROOT, max_depth=1)).new


# --- views ----------------------------------------------------------------------------


def test_an_expired_view_is_refused() -> None:
    for expired in (0, 1):
        both = at(0, *EARLIER), at(1, *LATER)
        both[expired]._expire()
        with pytest.raises(ClosedError, match="its reader has read again since"):
            both[1].since(both[0])


@pytest.mark.parametrize("rows", [EARLIER, LATER], ids=["the same cgroups", "others"])
def test_changes_of_a_view_expire_with_it(rows: tuple[RawRow, ...]) -> None:
    for expired in (0, 1):
        both = at(0, *EARLIER), at(1, *rows)
        changes = both[1].since(both[0])
        both[expired]._expire()
        with pytest.raises(ClosedError):
            changes.rates("pgscan")
        with pytest.raises(ClosedError):
            changes[0]["pgscan"]


# --- columns --------------------------------------------------------------------------


def test_columns_of_differences_and_of_rates() -> None:
    rows = [RawRow(8, 1, 3, 0, (5, 10)), RawRow(9, 8, 4, 0, (6, 20))]
    paths = ["/nowhere", "/nowhere/a"]
    changes = at(4, *rows, paths=paths).since(at(0, *rows[:1], paths=paths[:1]))
    same = {
        "path": paths,
        "id": [8, 9],
        "parent_id": [1, 8],
        "level": [3, 4],
    }
    assert changes.to_columns() == {**same, "anon": [0, None], "pgscan": [0, 20]}
    assert changes.to_columns(rates=True) == {**same, "anon": [0, None], "pgscan": [0, 5]}
    assert changes.to_columns(["pgscan"], rates=True) == {**same, "pgscan": [0, 5]}
    assert changes.to_columns(absent=-1) == {**same, "anon": [0, -1], "pgscan": [0, 20]}
    assert [change.path for change in changes] == same["path"]


def test_unsuitable_items_of_columns(changes: Changes) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        ("anon", TypeError),
        (["nonsense"], KeyError),
        ([], ValueError),
    ]
    for items, error in wrong:
        with pytest.raises(error):
            changes.to_columns(items)


def test_a_column_may_be_changed(changes: Changes) -> None:
    changes.differences("pgscan")[0] = 99
    changes.to_columns()["pgscan"][0] = 99
    assert changes.differences("pgscan")[0] == 20


# --- a sequence of mappings -----------------------------------------------------------


def test_changes_are_a_sequence(changes: Changes) -> None:
    assert isinstance(changes, Sequence) and len(changes) == 3
    assert [change.id for change in changes] == [7, 8, 11]
    assert (changes[-1].id, [change.id for change in changes[:2]]) == (11, [7, 8])
    with pytest.raises(IndexError, match="no change 3 among 3"):
        changes[3]
    with pytest.raises(TypeError, match=r"differences\('anon'\)"):
        changes["anon"]  # type: ignore[call-overload]


def test_a_change_is_a_mapping(changes: Changes) -> None:
    change = changes[1]
    assert isinstance(change, Mapping) and isinstance(change, Change)
    assert dict(change) == {"anon": 0, "pgscan": 4}
    assert (change.id, change.parent_id, change.level) == (8, 7, 4)
    assert change.rate("pgscan") == 2
    assert change.row["anon"] == 50
    assert dict(changes[2]) == {"pgscan": 13} and changes[2].get("anon") is None
    for use in (changes[2].__getitem__, changes[2].rate):
        with pytest.raises(KeyError, match="anon"):
            use("anon")


def test_a_repr_says_what_is_there(changes: Changes) -> None:
    assert repr(changes) == "<Changes of '/nowhere' in 2.0 s: 3 cgroups, 1 new, 1 gone, 2 items>"
    assert repr(changes[2]) == "<Change of cgroup 11: {'pgscan': 13}>"


def test_neither_is_copied_or_pickled(changes: Changes) -> None:
    for each in (changes, changes[0]):
        for use in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                use(each)


def test_a_snapshot_loads_the_module_when_it_is_used(run_python: RunPython) -> None:
    code = "import sys, pymemcgbpf.snapshot; print('pymemcgbpf.changes' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"


# --- against a plain implementation ---------------------------------------------------

VALUES = st.one_of(
    st.integers(0, 3), st.sampled_from([ABSENT, ABSENT - 1, memcg.UNLIMITED, 1 << 63])
)
ITEMS = ("anon", "pgscan", "#1234", "memory.max")
TREES = st.dictionaries(st.integers(8, 14), st.tuples(*[VALUES] * len(ITEMS)), max_size=6)


def plain(name: str, now: int, before: Optional[int]) -> Optional[int]:
    """The difference of an item, from its values; None for that of a new cgroup."""
    if name == "pgscan":
        before = 0 if before is None else before
        if ABSENT in (now, before):
            return None
        return now if now < before else now - before
    if before is None or ABSENT in (now, before):
        return None
    if name == "memory.max" and (now == memcg.UNLIMITED) != (before == memcg.UNLIMITED):
        return None
    return now - before


@given(TREES, TREES, st.permutations(range(6)), st.integers(1, 10**12))
def test_changes_are_those_of_a_plain_implementation(
    first: dict[int, tuple[int, ...]],
    second: dict[int, tuple[int, ...]],
    order: list[int],
    elapsed_ns: int,
) -> None:
    root = RawRow(7, 1, 3, 0, (1,) * len(ITEMS))
    shuffled = [list(second)[place] for place in order if place < len(second)]
    earlier = snapshot_of(
        [root, *(one(at, *values) for at, values in first.items())], NOWHERE, ITEMS
    )
    later = snapshot_of(
        [root, *(one(at, *second[at]) for at in shuffled)],
        NOWHERE,
        ITEMS,
        times=Times(elapsed_ns, elapsed_ns, 0),
    )
    changes = later.since(earlier)
    assert [row.id for row in changes.new] == [at for at in shuffled if at not in first]
    assert [row.id for row in changes.gone] == [at for at in first if at not in second]
    for number, name in enumerate(ITEMS):
        expected = [
            0,
            *(
                plain(name, second[at][number], first[at][number] if at in first else None)
                for at in shuffled
            ),
        ]
        assert changes.differences(name) == expected
        assert changes.rates(name) == [
            None if number is None else number / (elapsed_ns / 1e9) for number in expected
        ]
        assert [change.get(name) for change in changes] == expected
