# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Snapshots and changes as tables of pandas, polars and pyarrow, and as arrays of numpy.

What docs/trees.md says of these libraries must hold with the versions that are installed. They
start threads, which receive signals and keep files open, so these tests have their own process.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Callable

import numpy
import pandas
import polars
import pyarrow
import pyarrow.compute
import pytest

from pymemcgbpf import UNLIMITED, Snapshot, _wire
from pymemcgbpf._wire import ABSENT, RawRow
from pymemcgbpf.snapshot import Times

from ..unit.tree_rows import snapshot_of

ITEMS = ("memory.current", "memory.max", "memory.pressure.some.total", "pgfault")
BIG = 2**53 + 1  # no float is equal to it
IDS = [2**53 + 3, 2**53 + 5, 2**53 + 7]  # nor to these
PATHS = ["/root", "/root/a", "/root/ü"]
EXACT = {
    "path": PATHS,
    "id": IDS,
    "parent_id": [0, IDS[0], IDS[0]],
    "level": [0, 1, 1],
    "memory.current": [None, BIG, 100],
    "memory.max": [None, UNLIMITED, 4096],
    "memory.pressure.some.total": [None, 7, None],
    "pgfault": [BIG, 2, 3],
}


def rows(*pgfault: int) -> list[RawRow]:
    """A root, a cgroup without a limit, and one whose pressure is switched off."""
    return [
        RawRow(IDS[0], 0, 0, _wire.ROW_ROOT, (ABSENT, ABSENT, ABSENT, pgfault[0])),
        RawRow(IDS[1], IDS[0], 1, 0, (BIG, UNLIMITED, 7, pgfault[1])),
        RawRow(IDS[2], IDS[0], 1, 0, (100, 4096, ABSENT, pgfault[2])),
    ]


@pytest.fixture
def snapshot() -> Snapshot:
    return snapshot_of(rows(BIG, 2, 3), names=ITEMS, paths=PATHS)


@pytest.fixture
def empty() -> Snapshot:
    return snapshot_of([], names=ITEMS, paths=[])


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def exact_frame(columns: dict[str, list[Any]]) -> Any:
    """A frame of pandas, as docs/trees.md makes one without floats."""
    numbers = [name for name in columns if name != "path"]
    return pandas.DataFrame(columns, dtype=object).astype(dict.fromkeys(numbers, "Int64"))


def lists_of_frame(frame: Any) -> dict[str, list[Any]]:
    return {
        name: [None if pandas.isna(value) else value for value in frame[name].tolist()]
        for name in frame
    }


TABLES: dict[str, Callable[[Snapshot], dict[str, list[Any]]]] = {
    "exact pandas": lambda snapshot: lists_of_frame(exact_frame(snapshot.to_columns())),
    "pandas of arrow": lambda snapshot: lists_of_frame(
        pyarrow.table(snapshot.to_columns()).to_pandas(types_mapper=pandas.ArrowDtype)
    ),
    "polars": lambda snapshot: polars.DataFrame(snapshot.to_columns()).to_dict(as_series=False),
    "polars of dicts": lambda snapshot: polars.DataFrame(
        snapshot.dicts(identity=True), infer_schema_length=None
    ).to_dict(as_series=False),
    "pyarrow": lambda snapshot: pyarrow.table(snapshot.to_columns()).to_pydict(),
    "from_pydict": lambda snapshot: pyarrow.Table.from_pydict(snapshot.to_columns()).to_pydict(),
    "from_pylist": lambda snapshot: pyarrow.Table.from_pylist(
        snapshot.dicts(identity=True)
    ).to_pydict(),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_have_every_column_and_every_number(
    snapshot: Snapshot, table: Callable[[Snapshot], dict[str, list[Any]]]
) -> None:
    found = table(snapshot)
    assert list(found) == list(EXACT) and found == EXACT


@pytest.mark.parametrize("of_rows", [False, True])
def test_a_plain_frame_of_pandas_rounds_no_id(snapshot: Snapshot, of_rows: bool) -> None:
    """A column in which a number is missing is one of floats, which are exact up to 2**53."""
    frame = pandas.DataFrame(snapshot.dicts(identity=True) if of_rows else snapshot.to_columns())
    found = lists_of_frame(frame)
    assert list(found) == list(EXACT)
    for name in ("path", "id", "parent_id", "level", "memory.pressure.some.total", "pgfault"):
        assert found[name] == EXACT[name], name
    assert found["memory.current"] == [None, BIG - 1, 100]
    assert (frame["memory.max"] == UNLIMITED).tolist() == [False, True, False]


def test_numbers_that_are_missing_are_left_out(snapshot: Snapshot) -> None:
    columns = snapshot.to_columns()
    item = "memory.current"
    for frame in (pandas.DataFrame(columns), exact_frame(columns)):
        assert frame[item].mean() == (BIG + 100) / 2
        assert frame[item].min() == 100 and frame[item].count() == 2
        assert frame.nlargest(1, item)["path"].tolist() == ["/root/a"]
        assert frame.sort_values(item, ascending=False)["path"].tolist()[:2] == PATHS[1:]
        assert frame[frame[item] >= 0]["path"].tolist() == PATHS[1:]
    exact = exact_frame(columns)[item]
    assert (exact.sum(), exact.max()) == (BIG + 100, BIG)

    table = polars.DataFrame(columns)
    series = table[item]
    assert (series.sum(), series.max(), series.min()) == (BIG + 100, BIG, 100)
    assert series.mean() == (BIG + 100) / 2
    assert table.top_k(1, by=item)["path"].to_list() == ["/root/a"]
    ordered = table.sort(item, descending=True, nulls_last=True)
    assert ordered["path"].to_list() == [*PATHS[1:], PATHS[0]]
    assert table.filter(polars.col(item) >= 0)["path"].to_list() == PATHS[1:]

    arrow = pyarrow.table(columns)
    compute: Any = pyarrow.compute
    assert compute.sum(arrow[item]).as_py() == BIG + 100
    assert compute.max(arrow[item]).as_py() == BIG
    assert compute.mean(arrow[item]).as_py() == (BIG + 100) / 2
    assert arrow.sort_by([(item, "descending")])["path"].to_pylist() == [*PATHS[1:], PATHS[0]]


def test_limits_that_are_not_set_are_taken_out_before_they_are_added_up(
    snapshot: Snapshot,
) -> None:
    columns = snapshot.to_columns()
    limits = [None if limit == UNLIMITED else limit for limit in columns["memory.max"]]
    assert pandas.Series(limits).sum() == 4096
    assert polars.DataFrame(columns)["memory.max"].replace(UNLIMITED, None).sum() == 4096


def test_a_type_for_numbers_above_those_of_signed_integers() -> None:
    """pyarrow raises OverflowError unless it is told."""
    high = snapshot_of([RawRow(1, 0, 0, 0, (2**63, ABSENT))], names=("anon", "pgscan"))
    column = high.to_columns()["anon"]
    assert polars.DataFrame(high.to_columns())["anon"].to_list() == [2**63]
    assert pandas.DataFrame(high.to_columns())["anon"].tolist() == [2**63]
    assert pyarrow.array(column, pyarrow.uint64()).to_pylist() == [2**63]
    assert numpy.asarray(high.column("anon")).tolist() == [2**63]


def test_a_number_after_many_that_are_missing() -> None:
    """polars looks at the first 100 rows of dicts, and at all of a column."""
    many = snapshot_of(
        [RawRow(at + 1, 0, 0, 0, (ABSENT if at < 150 else at, at)) for at in range(200)]
    )
    expected = sum(range(150, 200))
    assert polars.DataFrame(many.to_columns())["anon"].sum() == expected
    assert polars.DataFrame(many.dicts(), infer_schema_length=None)["anon"].sum() == expected
    with pytest.raises(polars.exceptions.ComputeError):
        polars.DataFrame(many.dicts())
    assert pyarrow.Table.from_pylist(many.dicts())["anon"].null_count == 150
    assert pandas.DataFrame(many.dicts())["anon"].sum() == expected


# --- paths that are not UTF-8 ---------------------------------------------------------


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_path_that_is_not_utf_8_is_written_as_the_commands_do(
    table: Callable[[Snapshot], dict[str, list[Any]]],
) -> None:
    paths = ["/root", "/root/ü\udcff", None]
    snapshot = snapshot_of(rows(1, 2, 3), names=ITEMS, paths=paths)
    assert table(snapshot)["path"] == ["/root", "/root/ü//xff", None]
    assert snapshot.paths == tuple(paths) and snapshot[1].path == paths[1]


def test_paths_of_changes_are_valid_text() -> None:
    earlier, later = (
        snapshot_of(
            rows(1, 2, 3), names=ITEMS, paths=["/root", "/\udcff", None], times=Times(at, at, at)
        )
        for at in (1, 2)
    )
    columns = later.since(earlier).to_columns()
    assert columns["path"] == ["/root", "///xff", None]
    assert len(pandas.DataFrame(columns)) == len(polars.DataFrame(columns)) == 3
    assert pyarrow.table(columns).num_rows == 3


# --- empty snapshots ------------------------------------------------------------------


def test_an_empty_snapshot_has_the_columns_of_any_other(
    empty: Snapshot, snapshot: Snapshot
) -> None:
    columns = empty.to_columns()
    for found in (
        list(pandas.DataFrame(columns)),
        list(exact_frame(columns)),
        polars.DataFrame(columns).columns,
        pyarrow.table(columns).column_names,
    ):
        assert found == list(EXACT)
    for item in ITEMS:
        assert len(numpy.asarray(empty.column(item))) == 0


def test_tables_of_several_snapshots_can_be_put_together(
    empty: Snapshot, snapshot: Snapshot
) -> None:
    """An empty column, and one without any number, has a type only if it is told."""
    root = snapshot_of(rows(5, 0, 0)[:1], names=ITEMS, paths=PATHS[:1])
    samples = [each.to_columns() for each in (empty, root, snapshot)]
    currents = [None, *snapshot.to_columns()["memory.current"]]

    frame = pandas.concat(map(exact_frame, samples))
    assert lists_of_frame(frame)["id"] == [IDS[0], *IDS]
    assert lists_of_frame(frame)["memory.current"] == currents

    types = {"path": polars.String, **dict.fromkeys([*EXACT][1:], polars.Int64)}
    series = polars.concat(polars.DataFrame(each, schema=types) for each in samples)
    assert series["memory.current"].to_list() == currents
    assert series["id"].to_list() == [IDS[0], *IDS]

    schema = pyarrow.schema(
        [("path", pyarrow.string()), *((name, pyarrow.int64()) for name in [*EXACT][1:])]
    )
    table = pyarrow.concat_tables([pyarrow.table(each, schema=schema) for each in samples])
    assert table["memory.current"].to_pylist() == currents
    assert table["id"].to_pylist() == [IDS[0], *IDS]


# --- changes --------------------------------------------------------------------------


def test_tables_of_changes() -> None:
    earlier = snapshot_of(rows(1, 2, 3)[:2], names=ITEMS, paths=PATHS[:2], times=Times(10**9, 0, 0))
    later = snapshot_of(rows(BIG + 1, 1, 3), names=ITEMS, paths=PATHS, times=Times(3 * 10**9, 0, 0))
    changes = later.since(earlier)
    expected = {
        **EXACT,
        "memory.current": [None, 0, None],
        "memory.max": [None, 0, None],
        "memory.pressure.some.total": [None, 0, None],
        "pgfault": [BIG, 1, 3],
    }
    columns = changes.to_columns()
    assert lists_of_frame(exact_frame(columns)) == expected
    assert polars.DataFrame(columns).to_dict(as_series=False) == expected
    assert pyarrow.Table.from_pydict(columns).to_pydict() == expected

    rates = changes.to_columns(rates=True)
    for found in (
        lists_of_frame(pandas.DataFrame(rates)),
        polars.DataFrame(rates).to_dict(as_series=False),
        pyarrow.Table.from_pydict(rates).to_pydict(),
    ):
        assert found["id"] == IDS and found["path"] == PATHS
        assert found["pgfault"] == [BIG / 2, 0.5, 1.5]
        assert found["memory.current"] == [None, 0.0, None]
    assert pandas.DataFrame(rates)["memory.current"].mean() == 0
    assert polars.DataFrame(rates)["memory.current"].count() == 1


# --- numpy ----------------------------------------------------------------------------


def test_arrays_are_the_memory_of_the_rows(snapshot: Snapshot) -> None:
    whole = numpy.frombuffer(snapshot._bytes, numpy.uint8)
    for view, kind, expected in (
        (snapshot.ids, "uint64", IDS),
        (snapshot.parent_ids, "uint64", EXACT["parent_id"]),
        (snapshot.levels, "uint32", EXACT["level"]),
        (snapshot.column("pgfault"), "uint64", EXACT["pgfault"]),
    ):
        found = numpy.asarray(view)
        assert (str(found.dtype), found.tolist()) == (kind, expected)
        assert numpy.shares_memory(found, whole)


def test_an_array_of_an_item_that_is_missing_somewhere(snapshot: Snapshot) -> None:
    item = "memory.current"
    with pytest.raises(KeyError):
        numpy.asarray(snapshot.column(item))
    assert numpy.asarray(snapshot.column(item, absent=0)).sum() == BIG + 100

    column = snapshot.to_columns([item])[item]
    assert numpy.isnan(numpy.array(column, float).sum())
    assert numpy.nanmean(numpy.array(column, float)) == (BIG + 100) / 2
    array: Any = numpy.array(column)
    uses: list[Callable[[], object]] = [array.sum, array.max, array.min, array.mean]
    for use in uses:
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError):
        numpy.array(column, "uint64")


def test_a_column_sorts_its_ids(snapshot: Snapshot) -> None:
    column = numpy.asarray(snapshot.column("pgfault"))
    assert numpy.asarray(snapshot.ids)[column.argsort()].tolist() == [IDS[1], IDS[2], IDS[0]]
