# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""OOM kills, which both versions of cgroups count, and what only cgroup v1 has."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pymemcgbpf import (
    ItemUnavailableError,
    PinnedReader,
    StatsReader,
    TreeReader,
    UnknownItemError,
    clear_cache,
    openmetrics,
    pin,
    unpin,
)

from .cgroups import MIB, Worker, enable_memory, fault_in, give_up_rights, in_child
from .oracle import V1_FILES, V1_ONLY, everything
from .published import published, snapshot_of, wait_until
from .surroundings import BEST_BACKEND, VERSION
from .ways import Way

KILLS, OWN_KILLS = "memory.events.oom_kill", "memory.events.local.oom_kill"
LIMIT, TOO_MUCH = 8 * MIB, 64 * MIB


def set_limit(path: Path, size: int) -> None:
    name = "memory.max" if VERSION == 2 else V1_FILES["memory.max"]
    (path / name).write_text(str(size))


def kill_one(path: Path) -> None:
    """Has the kernel kill a process of a cgroup, which needs more than the cgroup may have."""
    set_limit(path, LIMIT)

    def need_too_much() -> None:
        (path / "cgroup.procs").write_text("0")
        fault_in(TOO_MUCH)

    assert in_child(need_too_much) == -signal.SIGKILL


def test_a_kill_is_counted_at_once(empty_cgroup: Path, way: Way) -> None:
    names = [KILLS, OWN_KILLS]
    with way.stats(empty_cgroup, names, flush=False) as reader:
        for kills in range(3):
            expected = dict.fromkeys(names, kills)
            assert reader.read() == expected
            assert {name: everything(empty_cgroup)[name] for name in names} == expected
            kill_one(empty_cgroup)


def test_a_kill_is_seen_in_a_tree_and_since_the_last_walk(
    empty_cgroup: Path, tree_way: Way
) -> None:
    enable_memory(empty_cgroup)
    killed, quiet = empty_cgroup / "killed", empty_cgroup / "quiet"
    killed.mkdir()
    quiet.mkdir()
    with tree_way.tree(empty_cgroup, [KILLS, OWN_KILLS]) as tree:
        earlier = tree.read()
        kill_one(killed)
        later = tree.read()
    above = 1 if VERSION == 2 else 0  # on cgroup v1 an event counts in its own cgroup alone
    expected = {empty_cgroup: (above, 0), killed: (1, 1), quiet: (0, 0)}
    for path, (kills, own) in expected.items():
        row = later.by_path()[str(path)]
        assert (row[KILLS], row[OWN_KILLS]) == (kills, own)
        assert {name: everything(path)[name] for name in row} == dict(row)
    risen = {change.path: change[KILLS] for change in later.since(earlier)}
    assert risen == {str(path): kills for path, (kills, _) in expected.items()}
    sample = f'cgroup_memory_events_oom_kill_total{{cgroup="/{empty_cgroup.name}/killed"}}'
    assert f"\n{sample} 0\n" in openmetrics(earlier) and f"\n{sample} 1\n" in openmetrics(later)


@pytest.mark.needs_iterator
def test_a_kill_is_seen_in_pins(empty_cgroup: Path, pins: Path) -> None:
    names = [KILLS, "anon", *(V1_ONLY if VERSION == 1 else ())]
    names = [name for name in names if name in everything(empty_cgroup)]
    pin(empty_cgroup, pins / "one", names, flush=False)
    try:
        with (
            published(empty_cgroup, pins / "all", names, flush=False),
            PinnedReader(pins / "one") as one,
            PinnedReader(pins / "all") as tree,
        ):
            assert one.item_names == tree.item_names == tuple(names)
            kill_one(empty_cgroup)

            def has_seen_it() -> bool:
                (row,) = snapshot_of(tree)
                return row[KILLS] == 1

            wait_until(has_seen_it)
            shown = everything(empty_cgroup)
            (row,), of_one = snapshot_of(tree), one.read()
            assert isinstance(of_one, dict)
            for name in names:
                if name not in ("anon", "memory.memsw.usage_in_bytes"):
                    assert row[name] == of_one[name] == shown[name], name
    finally:
        unpin(pins / "one")


if VERSION == 1:

    def test_failures_at_the_limit_are_counted(empty_cgroup: Path, way: Way) -> None:
        names = [name for name in V1_ONLY if name in everything(empty_cgroup)]
        assert "memory.failcnt" in names
        with way.stats(empty_cgroup, names) as reader:
            assert reader.read()["memory.failcnt"] == 0
            kill_one(empty_cgroup)
            before = everything(empty_cgroup)
            values = reader.read()
            assert values["memory.failcnt"] == before["memory.failcnt"] > 0
            assert all(values[name] == before[name] for name in names if "usage" not in name)
            (empty_cgroup / "memory.failcnt").write_text("0")  # which resets it
            assert reader.read()["memory.failcnt"] == 0

    def test_failures_and_memsw_in_a_tree(empty_cgroup: Path, tree_way: Way) -> None:
        (empty_cgroup / "small").mkdir()
        names = [name for name in V1_ONLY if name in everything(empty_cgroup)]
        with tree_way.tree(empty_cgroup, [*names, "swap"]) as tree:
            earlier = tree.read()
            kill_one(empty_cgroup / "small")
            later = tree.read()
        for path in (empty_cgroup, empty_cgroup / "small"):
            row, shown = later.by_path()[str(path)], everything(path)
            assert all(row[name] == shown[name] for name in names if "usage" not in name)
        _, small = later.since(earlier)
        failures = later.by_path()[str(empty_cgroup / "small")]["memory.failcnt"]
        assert small["memory.failcnt"] == failures > 0
        text = openmetrics(later)
        label = f'{{cgroup="/{empty_cgroup.name}/small"}}'
        assert f"\ncgroup_memory_failcnt_total{label} {failures}\n" in text
        if "memory.memsw.limit_in_bytes" in names:
            assert f"\ncgroup_memory_memsw_limit_bytes{label} +Inf\n" in text

    def test_memsw_is_memory_and_swap(empty_cgroup: Path, way: Way) -> None:
        if not (empty_cgroup / "memory.memsw.limit_in_bytes").exists():
            with pytest.raises(ItemUnavailableError, match=r"'memory\.memsw\.usage_in_bytes'"):
                way.stats(empty_cgroup, ["memory.memsw.usage_in_bytes"])
            return
        set_limit(empty_cgroup, 32 * MIB)
        (empty_cgroup / "memory.memsw.limit_in_bytes").write_text(str(48 * MIB))
        with (
            Worker(empty_cgroup, lambda: fault_in(4 * MIB)),
            way.stats(empty_cgroup, ["memory.memsw.*", "memory.current", "swap"]) as reader,
        ):
            values = reader.read()
        assert values["memory.memsw.limit_in_bytes"] == 48 * MIB
        usage = values["memory.memsw.usage_in_bytes"]
        assert 4 * MIB <= usage <= values["memory.memsw.max_usage_in_bytes"] <= 32 * MIB
        assert abs(usage - values["memory.current"] - values["swap"]) <= MIB
        assert values["memory.memsw.failcnt"] == 0

    def test_only_the_cgroup_s_own_swap_counter_is_swap(empty_cgroup: Path, way: Way) -> None:
        """memory.swap.current of v2 is at the place of memsw."""
        for name in ("memory.swap.current", "memory.swap.max", "memory.events.max"):
            with pytest.raises(ItemUnavailableError, match=f"'{name}'"):
                way.stats(empty_cgroup, [name])

    def test_a_user_without_rights_learns_how_many_items_are_missing(empty_cgroup: Path) -> None:
        with StatsReader(empty_cgroup) as reader:
            assert reader.backend == BEST_BACKEND and "missing" not in reader.fallback_reason
            everywhere = len(reader.item_names)

        def read_as_nobody() -> None:
            clear_cache()  # with the program of the reader above
            give_up_rights()
            for kind in (StatsReader, TreeReader):
                with kind(empty_cgroup) as reader:
                    assert reader.backend == "text"
                    said = reader.fallback_reason.partition("as text, up to ")[2].split()
                    missing, total = int(said[0]), int(said[2])
                    assert total == missing + len(reader.item_names) >= everywhere
                with kind(empty_cgroup, [KILLS, "memory.failcnt"]) as reader:
                    assert "missing" not in reader.fallback_reason
            with pytest.raises(ItemUnavailableError, match=r"'pgscan'; .*CAP_BPF"):
                StatsReader(empty_cgroup, ["pgscan"])
            with pytest.raises(ItemUnavailableError, match="BPF alone may have 'pgscan'"):
                StatsReader(empty_cgroup, ["pgscan"], backend="text")

        assert in_child(read_as_nobody) == 0

else:

    @pytest.mark.parametrize("name", [*V1_ONLY, "swap"])
    def test_what_only_cgroup_v1_has_is_unavailable(
        name: str, empty_cgroup: Path, way: Way
    ) -> None:
        with pytest.raises(ItemUnavailableError, match=f"does not have '{name}'"):
            way.stats(empty_cgroup, [name])

    def test_what_only_cgroup_v1_has_is_in_no_group(empty_cgroup: Path, way: Way) -> None:
        with way.stats(empty_cgroup, ["*"]) as reader:
            assert not {*V1_ONLY, "swap"} & set(reader.item_names)


def test_the_files_of_cgroup_v1_lead_to_the_items(empty_cgroup: Path, way: Way) -> None:
    for file, item in zip(V1_FILES.values(), V1_FILES):
        with pytest.raises(UnknownItemError) as caught:
            way.stats(empty_cgroup, [file])
        assert caught.value.suggestions == (item,)
