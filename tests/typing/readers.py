# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Calls of readers. Type checkers must refuse each line with "# error", and accept all others."""

from pathlib import Path
from typing import Any, Optional

from prometheus_client import REGISTRY
from typing_extensions import assert_type

from pymemcgbpf import (
    Backend,
    Change,
    Changes,
    Collector,
    Departed,
    DepartedRow,
    Item,
    Order,
    Row,
    Snapshot,
    StatsReader,
    TreeReader,
    cgroup_of,
    collector,
    limit_share,
    list_items,
    openmetrics,
    own_cgroup,
    read_stats,
)

PATH = Path("/sys/fs/cgroup/system.slice")

# --- read_stats and list_items

assert_type(read_stats(PATH), dict[str, int])
assert_type(read_stats("/sys/fs/cgroup", ("anon", "pgscan"), flush=False), dict[str, int])
assert_type(read_stats(), dict[str, int])
assert_type(read_stats(items=["anon"]), dict[str, int])
assert_type(read_stats(PATH, transport="stream"), dict[str, int])
read_stats(PATH, transport="shared")  # error
read_stats(PATH, 5)  # error
read_stats(PATH, [b"anon"])  # error
read_stats(PATH, ["anon"], False)  # error
read_stats(PATH, backend="core")  # error
assert_type(list_items(), tuple[Item, ...])
assert_type(list_items()[0].unit, str)

assert_type(limit_share(read_stats(PATH)), Optional[float])
limit_share(PATH)  # error

assert_type(own_cgroup(), str)
assert_type(cgroup_of(1), str)
cgroup_of("1")  # error
cgroup_of()  # error

# --- StatsReader

reader = StatsReader(PATH, ["anon"], backend="core", transport="stream", flush=False)
assert_type(reader.read(), dict[str, int])
assert_type(reader.item_names, tuple[str, ...])
assert_type(reader.fallback_reason, str)
with StatsReader(str(PATH).encode()) as entered:
    assert_type(entered, StatsReader)
StatsReader(PATH, backend="cor")  # error
StatsReader(PATH, transport="shared")  # error
StatsReader(PATH, ["anon"], True)  # error
StatsReader()  # error
reader.read(copy=False)  # error
reader.backend = "text"  # error
for values in reader.every(1):
    assert_type(values, dict[str, int])
reader.every("1")  # error
reader.every(1, copy=False)  # error

# --- TreeReader

tree = TreeReader(PATH, order="pre", transport="shared", max_rows=10)
snapshot = tree.read(copy=False)
with TreeReader(PATH) as entered_tree:
    assert_type(entered_tree, TreeReader)
TreeReader(PATH, order="pree")  # error
TreeReader(PATH, transport="stream")  # error
TreeReader(PATH, max_rows="10")  # error
TreeReader(PATH, max_rows=None)

# --- removed cgroups

seeing = TreeReader("/sys/fs/cgroup", ["anon"], departed=True)
TreeReader("/sys/fs/cgroup", ["anon"], departed="yes")  # error
departed = seeing.read().departed
assert_type(departed, Optional[Departed])
len(departed)  # error
if departed is not None:
    assert_type(departed.lost, int)
    assert_type(departed[0], DepartedRow)
    assert_type(departed[:2], list[DepartedRow])
    for gone in departed:
        assert_type(gone.removed_ns, int)
        assert_type(gone.removed_time, float)
        assert_type(gone["anon"], int)

# --- Snapshot and Row

assert_type(snapshot, Snapshot)
assert_type(snapshot[0], Row)
assert_type(snapshot[1:], list[Row])
assert_type(snapshot.find(PATH), Optional[Row])
assert_type(snapshot.dicts(), list[dict[str, Any]])
assert_type(snapshot.by_path(), dict[str, Row])
column: memoryview = snapshot.column("anon")
total: int = sum(column)
snapshot.column(0)  # error
snapshot["anon"]  # error
assert_type(openmetrics(snapshot), str)
assert_type(openmetrics(snapshot, format="prometheus"), str)
openmetrics(snapshot, format="json")  # error
openmetrics(snapshot, "prometheus")  # error
openmetrics(snapshot[0])  # error

# --- collector, in a registry of prometheus_client

REGISTRY.register(collector())
REGISTRY.register(collector(PATH, ["anon"], match=("*.service",), leaves=True, max_depth=2))
assert_type(collector("/sys/fs/bpf/all", backend="text", flush=False), Collector)
collector(PATH, match=5)  # error
collector(PATH, backend="best")  # error
collector(PATH, ["anon"], ["*.service"])  # error
for row in snapshot:
    assert_type(row["anon"], int)
    assert_type(row.path, Optional[str])
    assert_type(dict(row), dict[str, int])
    row["anon"] = 5  # error
    row.id = 5  # error

# --- Changes and every()

changes = snapshot.since(tree.read())
assert_type(changes, Changes)
assert_type(changes[0], Change)
assert_type(changes[1:], list[Change])
assert_type(changes.new, list[Row])
assert_type(changes.differences("anon"), list[Optional[int]])
assert_type(changes.rates("anon"), list[Optional[float]])
assert_type(changes.to_columns(["anon"], absent=0, rates=True), dict[str, list[Any]])
for change in changes:
    assert_type(change["anon"], int)
    assert_type(change.rate("anon"), float)
    assert_type(change.path, Optional[str])
    assert_type(change.row, Row)
snapshot.since(5)  # error
snapshot.since(row)  # error
changes.to_columns("anon", None)  # error
changes.rates(5)  # error
for sampled in tree.every(0.5, copy=False):
    assert_type(sampled, Snapshot)
tree.every()  # error


async def sample(tree: TreeReader) -> None:
    async for sampled in tree.every(5):
        assert_type(sampled, Snapshot)
    async for values in reader.every(5):
        assert_type(values, dict[str, int])


def configured(path: str, order: Order, backend: Backend) -> TreeReader:
    return TreeReader(path, order=order, backend=backend)


configured("/sys/fs/cgroup", "pre", "auto")
configured("/sys/fs/cgroup", "pree", "auto")  # error
