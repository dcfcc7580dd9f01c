# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Snapshots as metrics. The parsers of prometheus_client read them; tests/unit/cli/test_export.py
has promtool read those of the command."""

from __future__ import annotations

import gc
import math
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from pymemcgbpf import (
    UNLIMITED,
    ClosedError,
    Snapshot,
    TreeReader,
    _openmetrics,
    _wire,
    openmetrics,
)
from pymemcgbpf._cgroup import mounts
from pymemcgbpf._items import CATALOGUE
from pymemcgbpf.snapshot import Times

from .directories import make_v2
from .tree_rows import pack

PARSERS: dict[_openmetrics.Format, Any] = {
    "openmetrics": parse_openmetrics,
    "prometheus": parse_prometheus,
}
ROOT = "/sys/fs/cgroup/walk"


class Source:
    """What snapshots of one reader have in common: stands in for the paths of its tree."""

    def __init__(self, root: Optional[str] = ROOT) -> None:
        self.root, self.origin = root, self


class Walk(Snapshot):
    """A snapshot with paths that the test chooses."""

    paths: Any = ()

    def __init__(
        self,
        paths: Sequence[Optional[str]],
        columns: Mapping[str, Sequence[int]],
        source: Optional[Source] = None,
    ) -> None:
        values = [*zip(*columns.values())] or [()] * len(paths)
        rows = [_wire.RawRow(at, 1, 1, 0, row) for at, row in enumerate(values)]
        common: Any = source or Source()
        super().__init__(memoryview(pack(*rows)), tuple(columns), "pre", Times(0, 0, 0), common)
        self.paths = paths


@pytest.fixture(autouse=True)
def hierarchy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Looks for the root of the hierarchy in no file system; the list's last element is its
    path."""
    at = ["/sys/fs/cgroup"]
    monkeypatch.setattr(mounts, "hierarchy_root", lambda path: at[-1])
    return at


def samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def labels(text: str) -> list[str]:
    return re.findall(r'cgroup="(.*?)"[,}]', text)


def test_both_formats() -> None:
    walk = Walk(
        [ROOT, f"{ROOT}/a"],
        {"anon": (0, 4096), "memory.pressure.some.total": (1, 12_345_678_901), "pgnew": (1, 2)},
    )
    assert openmetrics(walk) == (
        "# HELP cgroup_memory_anon_bytes anonymous memory in use\n"
        "# TYPE cgroup_memory_anon_bytes gauge\n"
        "# UNIT cgroup_memory_anon_bytes bytes\n"
        'cgroup_memory_anon_bytes{cgroup="/walk"} 0\n'
        'cgroup_memory_anon_bytes{cgroup="/walk/a"} 4096\n'
        "# HELP cgroup_memory_pressure_some_seconds time in which some tasks waited for memory\n"
        "# TYPE cgroup_memory_pressure_some_seconds counter\n"
        "# UNIT cgroup_memory_pressure_some_seconds seconds\n"
        'cgroup_memory_pressure_some_seconds_total{cgroup="/walk"} 0.000001\n'
        'cgroup_memory_pressure_some_seconds_total{cgroup="/walk/a"} 12345.678901\n'
        "# HELP cgroup_memory_pgnew not known to this version\n"
        "# TYPE cgroup_memory_pgnew unknown\n"
        'cgroup_memory_pgnew{cgroup="/walk"} 1\n'
        'cgroup_memory_pgnew{cgroup="/walk/a"} 2\n'
        "# EOF\n"
    )
    seconds = "cgroup_memory_pressure_some_seconds_total"
    assert openmetrics(walk, format="prometheus") == (
        "# HELP cgroup_memory_anon_bytes anonymous memory in use\n"
        "# TYPE cgroup_memory_anon_bytes gauge\n"
        'cgroup_memory_anon_bytes{cgroup="/walk"} 0\n'
        'cgroup_memory_anon_bytes{cgroup="/walk/a"} 4096\n'
        f"# HELP {seconds} time in which some tasks waited for memory\n"
        f"# TYPE {seconds} counter\n"
        f'{seconds}{{cgroup="/walk"}} 0.000001\n'
        f'{seconds}{{cgroup="/walk/a"}} 12345.678901\n'
        "# HELP cgroup_memory_pgnew not known to this version\n"
        "# TYPE cgroup_memory_pgnew untyped\n"
        'cgroup_memory_pgnew{cgroup="/walk"} 1\n'
        'cgroup_memory_pgnew{cgroup="/walk/a"} 2\n'
    )


def test_another_format_is_a_value_error() -> None:
    wrong: Any = "json"
    with pytest.raises(ValueError, match="must be one of 'openmetrics', 'prometheus', not 'json'"):
        openmetrics(Walk([ROOT], {"anon": (1,)}), format=wrong)


def test_every_item_has_its_own_metric_name() -> None:
    families = [_openmetrics._metric(name).family for name in CATALOGUE]
    families += {
        _openmetrics._metric(f"memory.numa_stat.{item.name}.N{node}").family
        for item in CATALOGUE.values()
        if item.file == "memory.stat"
        for node in (0, 12)
    }
    assert len(set(families)) == len(families)


@pytest.mark.parametrize(
    ("item", "sample", "value"),
    [
        ("memory.failcnt", "cgroup_memory_failcnt_total", "7"),
        ("memory.memsw.failcnt", "cgroup_memory_memsw_failcnt_total", "7"),
        ("memory.memsw.usage_in_bytes", "cgroup_memory_memsw_usage_bytes", "7"),
        ("memory.memsw.max_usage_in_bytes", "cgroup_memory_memsw_max_usage_bytes", "7"),
        ("memory.memsw.limit_in_bytes", "cgroup_memory_memsw_limit_bytes", "7"),
        ("swap", "cgroup_memory_swap_bytes", "7"),
    ],
)
def test_a_name_of_cgroup_v1_has_its_unit_once(item: str, sample: str, value: str) -> None:
    text = openmetrics(Walk([ROOT], {item: (7,)}))
    kind = "counter" if sample.endswith("_total") else "gauge"
    assert f"# TYPE {sample.removesuffix('_total')} {kind}\n" in text
    assert f'\n{sample}{{cgroup="/walk"}} {value}\n' in text


# --- values

KINDS = {
    "anon": "bytes",
    "memory.max": "bytes",
    "pgfault": "",
    "pgnew": "",
    "memory.pressure.some.total": "seconds",
    "memory.numa_stat.anon.N0": "bytes",
    "memory.numa_stat.anon.N1": "bytes",
    "memory.numa_stat.pgnew.N1": "",
}


@pytest.mark.parametrize(
    ("item", "value", "text"),
    [
        ("pgfault", 0, "0"),
        ("pgfault", (1 << 64) - 2, str((1 << 64) - 2)),
        ("pgfault", UNLIMITED, str(UNLIMITED)),
        ("memory.max", UNLIMITED, "+Inf"),
        ("memory.max", UNLIMITED - 1, str(UNLIMITED - 1)),
        ("memory.pressure.some.total", 0, "0.000000"),
        ("memory.pressure.some.total", 1, "0.000001"),
        ("memory.pressure.some.total", UNLIMITED, "9223372036854.775807"),
    ],
)
def test_values_are_exact_in_their_unit(item: str, value: int, text: str) -> None:
    (sample,) = samples(openmetrics(Walk([ROOT], {item: (value,)})))
    assert sample.endswith(f'{{cgroup="/walk"}} {text}')


def test_only_a_snapshot_has_metrics() -> None:
    wrong: Any = TreeReader
    with pytest.raises(TypeError, match=r"which read\(\) returns, and not of a type"):
        openmetrics(wrong)


VALUES = st.one_of(st.sampled_from([0, _wire.ABSENT, UNLIMITED]), st.integers(0, (1 << 64) - 1))
ROWS = st.lists(st.tuples(st.booleans(), st.tuples(*[VALUES] * len(KINDS))), min_size=1, max_size=6)


@given(ROWS, st.sampled_from(_openmetrics.FORMATS))
def test_each_number_that_is_there_has_a_sample_in_the_rows_order(
    rows: list[tuple[bool, tuple[int, ...]]], form: _openmetrics.Format
) -> None:
    paths = [f"{ROOT}/{at}" if shown else None for at, (shown, _) in enumerate(rows)]
    columns = dict(zip(KINDS, zip(*(values for _, values in rows))))
    expected = []
    for name, column in columns.items():
        node = re.search(r"\.N(\d)$", name)
        more = {"node": node[1]} if node else {}
        for path, value in zip(paths, column):
            if path is None or value == _wire.ABSENT:
                continue
            number = float(value)
            if KINDS[name] == "bytes" and value == UNLIMITED:
                number = math.inf
            elif KINDS[name] == "seconds":
                number = value / 1_000_000
            expected.append(({"cgroup": path.replace(ROOT, "/walk"), **more}, number))
    text = openmetrics(Walk(paths, columns), format=form)
    found = [
        (dict(sample.labels), float(sample.value))
        for family in PARSERS[form](text)
        for sample in family.samples
    ]
    assert found == expected
    assert len(re.findall("^# TYPE ", text, re.MULTILINE)) == len(KINDS) - 1


def test_a_column_of_a_tree_without_the_item_has_no_samples() -> None:
    text = openmetrics(Walk([ROOT], {"anon": (_wire.ABSENT,)}), format="prometheus")
    assert text.count("\n") == 2 and samples(text) == []


def test_a_snapshot_without_rows_or_visible_root_has_no_samples() -> None:
    assert samples(openmetrics(Walk([], {"anon": ()}))) == []
    hidden = Walk([None, None], {"anon": (1, 2)}, Source(root=None))
    assert samples(openmetrics(hidden)) == []


# --- labels

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, ord("/")} & {*name})


@given(st.lists(NAMES, unique=True, min_size=1), st.sampled_from(_openmetrics.FORMATS))
def test_a_parser_reads_the_name_of_any_bytes(
    names: list[bytes], form: _openmetrics.Format
) -> None:
    paths = [f"{ROOT}/{os.fsdecode(name)}" for name in names]
    text = openmetrics(Walk(paths, {"anon": range(len(names))}), format=form)
    text.encode()
    (family,) = PARSERS[form](text)
    found = [sample.labels["cgroup"] for sample in family.samples]
    assert [unescaped(label) for label in found] == [b"/walk/" + name for name in names]


def unescaped(label: str) -> bytes:
    """The path that a label stands for."""
    return re.sub(b"//x(..)", lambda match: bytes.fromhex(match[1].decode()), os.fsencode(label))


@pytest.mark.parametrize(
    ("root", "hierarchy_root", "expected"),
    [
        (ROOT, "/sys/fs/cgroup", ["/walk", "/walk/b/c", "/", "/walking"]),
        ("/sys/fs/cgroup", "/sys/fs/cgroup", ["/walk", "/walk/b/c", "/", "/walking"]),
        (ROOT, ROOT, ["/", "/b/c"]),
        ("/", "/", [ROOT, f"{ROOT}/b/c", "/sys/fs/cgroup", f"{ROOT}ing"]),
    ],
)
def test_a_label_is_the_path_from_the_hierarchys_root(
    root: str, hierarchy_root: str, expected: list[str], hierarchy: list[str]
) -> None:
    hierarchy.append(hierarchy_root)
    paths = [ROOT, f"{ROOT}/b/c", "/sys/fs/cgroup", f"{ROOT}ing"][: len(expected)]
    walk = Walk(paths, {"anon": range(len(paths))}, Source(root))
    assert labels(openmetrics(walk)) == expected


def test_two_cgroups_that_had_one_path_have_one_sample() -> None:
    # The first one was removed during the walk, and the second one created at its place.
    paths = [ROOT, f"{ROOT}/a", f"{ROOT}/b", f"{ROOT}/a", f"{ROOT}/c"]
    text = openmetrics(Walk(paths, {"pgfault": range(5)}))
    name = "cgroup_memory_pgfault_total"
    assert samples(text) == [
        f'{name}{{cgroup="/walk{path}"}} {value}'
        for path, value in (("", 0), ("/b", 2), ("/a", 3), ("/c", 4))
    ]


# --- remembered labels


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of which labels were made."""
    found: list[str] = []
    real = _openmetrics._starts

    def note(paths: list[str], *root: str) -> list[str]:
        found.extend(paths)
        return real(paths, *root)

    monkeypatch.setattr(_openmetrics, "_starts", note)
    return found


def walks(source: Source, *each: Sequence[Optional[str]]) -> Iterable[Walk]:
    return (Walk(paths, {"anon": range(len(paths))}, source) for paths in each)


def test_a_label_is_made_once_while_the_tree_is_unchanged(made: list[str]) -> None:
    paths = (ROOT, f"{ROOT}/a")
    first, *later = (openmetrics(walk) for walk in walks(Source(), paths, paths, (*paths,)))
    assert made == [*paths] and later == [first, first]


def test_only_a_new_cgroup_gets_a_new_label(made: list[str]) -> None:
    source = Source()
    before, after = (ROOT, f"{ROOT}/a", None, f"{ROOT}/b"), (ROOT, f"{ROOT}/c", f"{ROOT}/b", None)
    found = [labels(openmetrics(walk)) for walk in walks(source, before, after, before)]
    assert found == [["/walk", "/walk/a", "/walk/b"], ["/walk", "/walk/c", "/walk/b"], found[0]]
    assert made == [ROOT, f"{ROOT}/a", f"{ROOT}/b", f"{ROOT}/c", f"{ROOT}/a"]
    assert _openmetrics._last_labels[source].by_path.keys() == {*before} - {None}


def test_labels_are_forgotten_with_their_reader(tmp_path: Path) -> None:
    gc.collect()
    before = len(_openmetrics._last_labels)
    with TreeReader(make_v2(tmp_path / "root"), ["anon"], backend="text") as reader:
        assert openmetrics(reader.read()) == openmetrics(reader.read())
        assert len(_openmetrics._last_labels) == before + 1
    del reader
    gc.collect()
    assert len(_openmetrics._last_labels) == before


def test_threads_write_the_snapshots_of_one_reader() -> None:
    source = Source()
    trees = [(ROOT, *(f"{ROOT}/{at}" for at in range(first, first + 50))) for first in (0, 25, 50)]
    expected = [openmetrics(walk) for walk in walks(Source(), *trees)]
    wrong = []

    def write() -> None:
        for _ in range(50):
            if [openmetrics(walk) for walk in walks(source, *trees)] != expected:
                wrong.append(True)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- readers


def test_a_view_is_written_until_it_expires(tmp_path: Path) -> None:
    with TreeReader(make_v2(tmp_path / "root"), ["anon"], backend="text") as reader:
        view = reader.read(copy=False)
        text = openmetrics(view)
        assert text == openmetrics(reader.read())
        with pytest.raises(ClosedError, match="this snapshot was a view"):
            openmetrics(view)
