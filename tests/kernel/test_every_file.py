# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Same numbers as all of a cgroup's memory files, memory.stat and its neighbours."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest

import pymemcgbpf
from pymemcgbpf import (
    UNLIMITED,
    CgroupRemovedError,
    ItemUnavailableError,
    StatsReader,
    UnknownItemError,
    _items,
)
from pymemcgbpf._bpf import program as _program

from .cgroups import (
    LAG,
    MIB,
    Worker,
    busy_cgroup,
    cgroup,
    current,
    enable_memory,
    fault_in,
    has_file,
)
from .oracle import V1_FILES, effective_limit, everything
from .surroundings import BEST_BACKEND, HIERARCHY, IN_LAB, VERSION
from .swap import swap_space
from .ways import Way

SECONDS_TO_BE_QUIET = 30
LIMITS = {
    "memory.min": 1 * MIB,
    "memory.low": 2 * MIB,
    "memory.high": 700 * MIB,
    "memory.max": 800 * MIB,
    "memory.swap.high": 60 * MIB,
    "memory.swap.max": 50 * MIB,
    "memory.zswap.max": 40 * MIB,
}


def limit(path: Path, file: str, size: Union[int, str]) -> None:
    name = file if VERSION == 2 else V1_FILES[file]
    (path / name).write_text(str(size))


def limited(path: Path) -> list[str]:
    """The files of limits that a cgroup has."""
    if VERSION == 1:
        return [file for file in LIMITS if file in V1_FILES]
    return [file for file in LIMITS if (path / file).exists()]


def swap_out(path: Path, size: int) -> None:
    """Has the kernel reclaim so much of a cgroup's memory."""
    if has_file("memory.reclaim"):
        with contextlib.suppress(OSError):  # the kernel reclaimed less than was asked for
            (path / "memory.reclaim").write_text(str(size))
    else:
        limit(path, "memory.high", max(0, current(path) - size))
        limit(path, "memory.high", "max")


@contextlib.contextmanager
def eventful_cgroup() -> Iterator[Path]:
    """A cgroup with some below it: "busy" has memory of every kind, "limited" all limits set.

    In the lab "swapped" has memory in swap, and "killed" has met its limit and lost a process.
    """
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(cgroup())
        enable_memory(home)
        stack.enter_context(busy_cgroup(home))
        for name in ("limited", "swapped", "killed"):
            (home / name).mkdir()
        for file in limited(home / "limited"):
            limit(home / "limited", file, LIMITS[file])
        stack.enter_context(Worker(home / "limited", lambda: fault_in(4 * MIB)))
        if IN_LAB:
            stack.enter_context(swap_space())
            stack.enter_context(Worker(home / "swapped", lambda: fault_in(8 * MIB)))
            swap_out(home / "swapped", 6 * MIB)
            limit(home / "killed", "memory.swap.max", 0)
            limit(home / "killed", "memory.max", 4 * MIB)
            (home / "killed" / "memory.oom.group").write_text("1")
            with contextlib.suppress(AssertionError):
                Worker(home / "killed", lambda: fault_in(32 * MIB)).close()
        yield home


@pytest.fixture(scope="module")
def eventful() -> Iterator[Path]:
    with eventful_cgroup() as path:
        yield path


def cgroups_of(home: Path) -> list[Path]:
    return [home, *(entry for entry in sorted(home.iterdir()) if entry.is_dir())]


def differences(values: dict[str, int], before: dict[str, int], after: dict[str, int]) -> str:
    """What is neither before nor after, nor between; "" for nothing."""
    wrong = {
        name: (before.get(name), values.get(name), after.get(name))
        for name in before.keys() | values.keys()
        if name not in values
        or name not in before
        or not min(before[name], after[name]) <= values[name] <= max(before[name], after[name])
    }
    return ", ".join(f"{name}: {numbers}" for name, numbers in sorted(wrong.items()))


def test_every_item_of_every_file_is_exact(eventful: Path, way: Way) -> None:
    for path in cgroups_of(eventful):
        with way.stats(path, ["*"]) as reader:
            deadline = time.monotonic() + SECONDS_TO_BE_QUIET
            while True:
                before, values, after = everything(path), reader.read(), everything(path)
                compared = {name: values[name] for name in values if name in before}
                wrong = differences(compared, before, after)
                if before == after and not wrong:
                    break
                assert time.monotonic() < deadline, f"differ: {wrong}"
                time.sleep(0.05)
            assert compared.keys() == before.keys(), "an item is missing"
            if VERSION == 2:
                assert values.keys() == before.keys()
                assert len(compared) >= 80


def test_a_tree_s_rows_have_every_item_of_every_file(eventful: Path, tree_way: Way) -> None:
    paths = cgroups_of(eventful)
    with tree_way.tree(eventful, ["*"]) as tree:
        deadline = time.monotonic() + SECONDS_TO_BE_QUIET
        while True:
            before = {path: everything(path) for path in paths}
            rows = tree.read().by_path()
            after = {path: everything(path) for path in paths}
            values = {
                path: {name: rows[str(path)][name] for name in rows[str(path)] if name in shown}
                for path, shown in before.items()
            }
            wrong = "; ".join(
                f"{path.name}: {found}"
                for path in paths
                if (found := differences(values[path], before[path], after[path]))
            )
            if not wrong:
                break
            assert time.monotonic() < deadline, f"differ: {wrong}"
            time.sleep(0.05)
    if VERSION == 2:
        assert all(set(rows[str(path)]) == before[path].keys() for path in paths)


PRESSURE = "memory.pressure."


def test_a_hierarchy_s_root_has_what_its_files_show(tree_way: Way, empty_cgroup: Path) -> None:
    with tree_way.tree(HIERARCHY, ["*"]) as tree:
        rows = tree.read().by_path()
        names = set(everything(empty_cgroup))
        assert names <= set(tree.item_names)
        assert names <= set(rows[str(empty_cgroup)])
    root = set(rows[str(HIERARCHY)])
    there = set(everything(HIERARCHY))
    if tree.backend != "text":  # the kernel keeps its pressure apart from all cgroups'
        there = {name for name in there if not name.startswith(PRESSURE)}
    assert (root == there) if VERSION == 2 else (there <= root)
    assert not any(name in root for name in ("memory.current", "memory.max", "memory.peak"))


def test_limits_are_exact(eventful: Path, way: Way) -> None:
    files = limited(eventful)
    assert len(files) >= (1 if VERSION == 1 else 6)
    with way.stats(eventful / "limited", files) as reader:
        assert reader.read() == {file: LIMITS[file] for file in files}
    with way.stats(eventful, files) as reader:
        defaults = {"memory.min": 0, "memory.low": 0}
        assert reader.read() == {file: defaults.get(file, UNLIMITED) for file in files}


@pytest.fixture(scope="module")
def chain() -> Iterator[list[Path]]:
    """Cgroups one below the other, with limits at some levels. The last one has real memory."""
    with cgroup() as home:
        paths = [home]
        for _ in range(LEVELS):
            enable_memory(paths[-1])
            paths.append(paths[-1] / "d")
            paths[-1].mkdir()
        for level, size in ((1, 96 * MIB), (4, 128 * MIB), (LEVELS // 2, 64 * MIB)):
            limit(paths[level], "memory.max", size)
        limit(paths[-1], "memory.max", 32 * MIB)
        with Worker(paths[-1], lambda: fault_in(4 * MIB)):
            yield paths


LEVELS = 12
DERIVED = ["derived.working_set", "derived.effective_limit"]


def test_the_least_limit_on_the_way_up_is_the_effective_one(chain: list[Path], way: Way) -> None:
    expected = {0: UNLIMITED, 1: 96, 2: 96, 4: 96, LEVELS // 2: 64, LEVELS - 1: 64, LEVELS: 32}
    for level, size in expected.items():
        assert effective_limit(chain[level]) == (size if level == 0 else size * MIB)
        with way.stats(chain[level], ["derived.effective_limit"]) as reader:
            assert reader.read() == {"derived.effective_limit": effective_limit(chain[level])}
    with way.stats(chain[2], ["derived.effective_limit"]) as reader:
        limit(chain[1], "memory.max", 80 * MIB)
        assert reader.read() == {"derived.effective_limit": 80 * MIB}
        limit(chain[1], "memory.max", 96 * MIB)
        assert reader.read() == {"derived.effective_limit": 96 * MIB}


def test_so_many_ancestors_may_have_a_limit(empty_cgroup: Path, bpf_way: Way) -> None:
    name = "derived.effective_limit"
    made = [empty_cgroup]
    try:
        while len(made[-1].relative_to(HIERARCHY).parts) < MAX_ANCESTORS + 1:
            enable_memory(made[-1])
            made.append(made[-1] / "d")
            made[-1].mkdir()
        limit(empty_cgroup, "memory.max", 64 * MIB)
        with bpf_way.stats(made[-2], [name]) as reader:
            assert reader.read() == {name: 64 * MIB}
        with pytest.raises(ItemUnavailableError, match=name):
            bpf_way.stats(made[-1], [name])
    finally:
        for path in reversed(made[1:]):
            path.rmdir()


MAX_ANCESTORS = 127  # of bpf_src/items.bpf.h


@pytest.mark.parametrize("order", ["pre", "post", "up", "self"])
def test_every_row_has_its_derived_items(chain: list[Path], order: str, tree_way: Way) -> None:
    start = chain[-1] if order == "up" else chain[0]
    with tree_way.tree(start, ["anon", "derived.*"], order=order) as tree:
        assert tree.item_names == ("anon", *DERIVED)
        deadline = time.monotonic() + SECONDS_TO_BE_QUIET
        while True:
            before = {str(path): everything(path) for path in chain}
            rows = tree.read().by_path()
            root = rows.pop(str(HIERARCHY), None)
            if all(
                row[name] == before[path][name] for path, row in rows.items() for name in DERIVED
            ):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert len(rows) == (1 if order == "self" else len(chain))
    assert root is None or list(root) == ["anon"], "a root has none"


def test_the_root_has_no_derived_items(way: Way) -> None:
    for names in (["derived.working_set"], ["derived.effective_limit"], ["derived.*"]):
        with pytest.raises(ItemUnavailableError, match=r"derived\."):
            way.stats(HIERARCHY, names)


def test_derived_items_are_part_of_no_file_and_no_default(empty_cgroup: Path, way: Way) -> None:
    with way.stats(empty_cgroup) as reader:
        assert not any(name.startswith("derived.") for name in reader.item_names)
    for name in ("memory.stat.*", "memory.*"):
        with way.stats(empty_cgroup, [name]) as reader:
            assert not any(name.startswith("derived.") for name in reader.item_names)
    with way.stats(empty_cgroup, ["*"]) as reader:
        assert list(reader.item_names[-2:]) == DERIVED


@pytest.mark.needs_peak
def test_the_peak_does_not_fall(empty_cgroup: Path, way: Way) -> None:
    with (
        Worker(empty_cgroup, lambda: fault_in(8 * MIB).close()),
        way.stats(empty_cgroup, ["memory.peak", "memory.current"]) as reader,
    ):
        values = reader.read()
    assert values["memory.peak"] >= 8 * MIB > values["memory.current"]


def test_values_that_are_always_current_need_no_flush(empty_cgroup: Path, bpf_way: Way) -> None:
    """They are as they are, whether or not pending updates are brought in."""
    with (
        bpf_way.stats(empty_cgroup, ["memory.current"], flush=False) as reader,
        Worker(empty_cgroup, lambda: None, lambda: fault_in(2 * MIB)) as worker,
    ):
        before = reader.read()["memory.current"]
        worker.step()
        assert reader.read()["memory.current"] >= before + 2 * MIB


# --- groups ---------------------------------------------------------------------------


def test_a_group_has_every_item_of_its_file(empty_cgroup: Path, way: Way) -> None:
    shown = everything(empty_cgroup)
    groups = ["memory.events", "memory.events.local", "memory.swap.events", "memory.numa_stat"]
    for file in groups if VERSION == 2 else ("memory.max", "memory.peak"):
        wanted = [name for name in shown if _items.file_of(name) == file]
        name = f"{file}.*" if VERSION == 2 else f"{file}*"
        with way.stats(empty_cgroup, [name]) as reader:
            assert list(reader.item_names) == wanted and wanted
    with way.stats(empty_cgroup, ["memory.current", "work*_file", "pgfault"]) as reader:
        first, *middle, last = reader.item_names
        assert (first, last) == ("memory.current", "pgfault")
        assert "workingset_refault_file" in middle
        assert all(name.startswith("work") and name.endswith("_file") for name in middle)


def test_an_empty_group_is_an_error_or_skipped(empty_cgroup: Path, way: Way) -> None:
    with pytest.raises(UnknownItemError, match=r"no item matches 'nothing_\*'"):
        way.stats(empty_cgroup, ["anon", "nothing_*"])
    if VERSION == 1:
        with pytest.raises(ItemUnavailableError, match=r"'memory\.swap\.events\.\*'"):
            way.stats(empty_cgroup, ["memory.swap.events.*"])
    else:
        with pytest.raises(ItemUnavailableError, match=r"'memory\.memsw\.\*'"):
            way.stats(empty_cgroup, ["memory.memsw.*"])


def test_list_items_lists_what_the_kernel_has(empty_cgroup: Path, way: Way) -> None:
    offered = pymemcgbpf.list_items(empty_cgroup)
    assert [item.name for item in offered] == [
        item.name
        for item in pymemcgbpf.list_items()
        if item.name in {each.name for each in offered}
    ]
    with way.stats(empty_cgroup, ["*"]) as reader:
        names = [item.name for item in offered]
        if VERSION == 2 or way.backend != "text":
            assert list(reader.item_names) == names
        else:
            assert set(reader.item_names) < set(names)
        values = reader.read()
    for item in offered:
        assert item.unit in ("bytes", "count", "microseconds") and item.description
        assert item.kind in ("gauge", "counter")
        if VERSION == 2 and item.file != "derived":
            assert (empty_cgroup / item.file).exists()
    units = {item.name: item.unit for item in offered}
    assert units["anon"] == units["memory.max"] == "bytes" and units["pgfault"] == "count"
    assert all(type(value) is int and value >= 0 for value in values.values())


def is_verified_within(program: _program.Program, most: int) -> bool:
    """Whether the verifier went through so many instructions, by the kernel's own account.

    Before Linux 5.16 it gives none.
    """
    text = Path(f"/proc/self/fdinfo/{program.fd}").read_text()
    number = text.partition("verified_insns:")[2].split()[:1]
    assert "prog_id:" in text
    return not number or 100 < int(number[0]) < most


# The kernel gives up at a million.
MOST_VERIFIED = 200_000


def test_the_verifier_is_far_from_its_limit_with_every_item(
    empty_cgroup: Path, bpf_way: Way
) -> None:
    with bpf_way.stats(empty_cgroup, ["*"]) as reader:
        source: Any = reader._source
        program = source._link._program if bpf_way.transport == "stream" else source._program
        assert is_verified_within(program, MOST_VERIFIED // 4)


def test_the_verifier_is_far_from_its_limit_with_every_item_of_a_tree(
    empty_cgroup: Path, tree_bpf_way: Way
) -> None:
    with tree_bpf_way.tree(empty_cgroup, ["*"]) as tree:
        walker: Any = tree._source._walker  # type: ignore[union-attr]
        shared = tree_bpf_way.transport == "shared"
        program = walker._link._program if shared else walker._program
        assert is_verified_within(program, MOST_VERIFIED)


# --- what this version does not know ----------------------------------------------------


def test_this_kernel_has_no_key_that_the_catalogue_does_not_know() -> None:
    assert pymemcgbpf.unknown_keys() == pymemcgbpf.unknown_keys(HIERARCHY) == ()


if VERSION == 2:
    FORGOTTEN = ("anon", "kernel_stack", "sock", "slab_reclaimable", "pgfault", "pgactivate")

    @pytest.fixture
    def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
        """A version of the package that does not know some items of this kernel's."""
        for name in FORGOTTEN:
            monkeypatch.delitem(_items.CATALOGUE, name)

    @pytest.mark.usefixtures("forgetful")
    def test_an_unknown_key_is_reported_and_read_by_its_enumerator(
        eventful: Path, way: Way
    ) -> None:
        (path,) = eventful.glob("pymemcgbpf-*")
        assert set(pymemcgbpf.unknown_keys(path)) == set(FORGOTTEN)
        # By the rule for names; anon's enumerator, NR_ANON_MAPPED, is not called like it. And a
        # number of 0 proves no guess of a unit, which the kernel's functions apply themselves.
        text = everything(path)
        zero_will_do = way.backend != "core"
        guessed = {name for name in FORGOTTEN if name != "anon" and (text[name] or zero_will_do)}
        with way.stats(path) as reader:
            found = set(FORGOTTEN) & set(reader.item_names)
            assert found == (set(FORGOTTEN) if way.backend == "text" else guessed)
            values = reader.read()
        for name in guessed:
            assert values[name] == text[name] or name in ("sock", "pgfault"), name
        assert values["pgfault"] > 0 and values["slab_reclaimable"] > 0
        units = {item.name: (item.unit, item.kind) for item in pymemcgbpf.list_items(path)}
        assert units["anon"] == ("", "")
        assert units["pgfault"] == ("count", "counter")
        assert units["slab_reclaimable"] == units["kernel_stack"] == ("bytes", "gauge")

    @pytest.mark.usefixtures("forgetful")
    def test_asked_for_by_name_an_unknown_key_is_read(eventful: Path) -> None:
        # On Linux 5.10 each CPU keeps up to 32 page faults for itself, and 0 proves no guess.
        proved = BEST_BACKEND != "core" or everything(eventful / "limited")["pgfault"]
        with pymemcgbpf.StatsReader(eventful / "limited", ["pgfault"]) as reader:
            assert reader.backend == (BEST_BACKEND if proved else "text"), reader.fallback_reason
        with pymemcgbpf.StatsReader(eventful / "limited") as reader:
            assert reader.backend == "text", "no key of memory.stat is lost"
            assert set(FORGOTTEN) <= set(reader.item_names)
        with pymemcgbpf.StatsReader(eventful / "limited", ["anon"]) as reader:
            assert reader.backend == "text"
            assert reader.read()["anon"] >= 4 * MIB - LAG * mmap.PAGESIZE


# --- events, swap and pressure: in the lab ----------------------------------------------

if IN_LAB:

    def test_events_are_the_subtree_s_and_local_ones_the_cgroup_s_own(
        eventful: Path, way: Way
    ) -> None:
        there = everything(eventful)  # oom_group_kill came with 5.17
        keys = [
            key
            for key in ("max", "oom", "oom_kill", "oom_group_kill")
            if f"memory.events.{key}" in there
        ]
        assert len(keys) >= 3
        names = [f"memory.events{local}.{key}" for local in ("", ".local") for key in keys]
        with way.stats(eventful, names) as reader:
            above = reader.read()
        with way.stats(eventful / "killed", names) as reader:
            here = reader.read()
        for key in keys:
            assert here[f"memory.events.{key}"] == here[f"memory.events.local.{key}"] > 0
            assert above[f"memory.events.{key}"] == here[f"memory.events.{key}"]
            assert above[f"memory.events.local.{key}"] == 0

    def test_swap(eventful: Path, way: Way) -> None:
        names = ["memory.swap.current", "memory.swap.events.max", "pswpout"]
        available = [name for name in names if name in everything(eventful)]
        with way.stats(eventful, available) as reader:
            values = reader.read()
        assert values["memory.swap.current"] >= MIB
        assert "memory.swap.events.max" in values

    def test_pressure_comes_with_work(way: Way) -> None:
        """Stalls are counted, and a reader that flushes shows the last of them."""
        with cgroup() as path:
            limit(path, "memory.high", 6 * MIB)

            def struggle() -> None:
                for _ in range(4):
                    fault_in(16 * MIB).close()

            with (
                way.stats(path, ["memory.pressure.*"]) as reader,
                Worker(path, lambda: None, struggle) as worker,
            ):
                assert list(reader.item_names) == [f"{PRESSURE}some.total", f"{PRESSURE}full.total"]
                deadline = time.monotonic() + SECONDS_TO_BE_QUIET
                before = reader.read()
                while reader.read() == before:
                    assert time.monotonic() < deadline
                    worker.step()
                low, values, high = everything(path), reader.read(), everything(path)
                for name in reader.item_names:
                    assert low[name] <= values[name] <= high[name]
                assert values[f"{PRESSURE}some.total"] > 0

    def test_the_root_s_pressure_is_text_s_alone(way: Way) -> None:
        if way.backend != "text":
            with pytest.raises(ItemUnavailableError, match=r"memory\.pressure\.\*"):
                way.stats(HIERARCHY, ["memory.pressure.*"])
        with StatsReader(HIERARCHY, ["memory.pressure.*"]) as reader:
            assert reader.backend == "text"
            assert list(reader.read()) == list(reader.item_names)
            assert reader.item_names == (f"{PRESSURE}some.total", f"{PRESSURE}full.total")

    @pytest.mark.needs_pressure_switch
    def test_pressure_that_is_switched_off_is_absent(way: Way) -> None:
        with cgroup() as off:
            with (
                way.stats(off, ["anon", "memory.pressure.*"]) as reader,
                way.stats(off, [f"{PRESSURE}some.total"]) as alone,
            ):
                assert len(reader.read()) == 3
                for _ in range(2):
                    (off / "cgroup.pressure").write_text("0")
                    assert (list(reader.read()), alone.read()) == (["anon"], {})
                    (off / "cgroup.pressure").write_text("1")
                    assert (len(reader.read()), len(alone.read())) == (3, 1)
            (off / "cgroup.pressure").write_text("0")
            with pytest.raises(ItemUnavailableError, match=r"memory\.pressure\.some\.total"):
                way.stats(off, [f"{PRESSURE}some.total"])
            with way.stats(off, ["anon", "memory.pressure.*"]) as reader:
                assert reader.item_names == ("anon",)

    @pytest.mark.needs_pressure_switch
    def test_pressure_is_switched_off_for_one_cgroup_of_a_tree(tree_way: Way) -> None:
        with cgroup() as path:
            enable_memory(path)
            for name in ("off", "on"):
                (path / name).mkdir()
            with tree_way.tree(path / "off", ["anon", "memory.pressure.*"]) as tree:
                assert [len(row) for row in tree.read()] == [3]
                (path / "off" / "cgroup.pressure").write_text("0")
                assert [len(row) for row in tree.read()] == [1]
            with tree_way.tree(path, ["anon", "memory.pressure.*"]) as tree:
                rows = {str(row.relative_path): list(row) for row in tree.read()}
                assert rows["off"] == ["anon"] and len(rows["on"]) == len(rows["."]) == 3

    def test_a_removed_cgroup_s_pressure_is_an_error(way: Way) -> None:
        with cgroup() as path, way.stats(path, [f"{PRESSURE}some.total"]) as reader:
            reader.read()
            path.rmdir()
            with pytest.raises(CgroupRemovedError):
                reader.read()

    def test_a_node_s_numbers_are_as_fresh_as_the_file(empty_cgroup: Path, bpf_way: Way) -> None:
        name, size = "memory.numa_stat.anon.N0", 8 * MIB
        with (
            bpf_way.stats(empty_cgroup, [name]) as reader,
            Worker(empty_cgroup, lambda: None, lambda: fault_in(size)) as worker,
        ):
            worker.step()
            slack = (64 * (os.cpu_count() or 1) + 64) * mmap.PAGESIZE
            assert reader.read()[name] >= size - slack
            assert abs(reader.read()[name] - everything(empty_cgroup)[name]) <= slack
