# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""collector() on real cgroups, without prometheus_client: what a registry would get."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymemcgbpf import Collector, collector

from .cgroups import EXACT_MIB, Worker, cgroup, enable_memory, fault_in, give_up_rights, in_child
from .forest import settle
from .pins import bpffs
from .published import published
from .surroundings import BPF_BACKENDS


def values(found: Collector, name: str = "cgroup_memory_shmem_bytes") -> dict[str, float]:
    """The values of a metric by the last part of the cgroup's path."""
    families = {family.name: family for family in found.collect()}
    if name not in families:
        return {}
    return {
        sample.labels["cgroup"].rpartition("/")[2]: sample.value
        for sample in families[name].samples
    }


def succeeds(found: Collector) -> bool:
    """Whether a walk for a scrape works."""
    (success,) = (
        sample.value
        for family in found.collect()
        if family.name == "pymemcgbpf_walk_success"
        for sample in family.samples
    )
    return bool(success)


def test_samples_are_the_numbers_of_the_files() -> None:
    with cgroup() as root:
        enable_memory(root)
        (root / "one").mkdir()
        with Worker(root / "one", lambda: fault_in(EXACT_MIB, shared=True)):
            settle({root / "one": EXACT_MIB})
            with collector(root, ["shmem", "memory.max"], leaves=True) as found:
                assert values(found) == {"one": EXACT_MIB}
                assert values(found, "cgroup_memory_max_bytes") == {"one": float("inf")}
                assert succeeds(found)


def test_a_cgroup_that_is_created_again_is_read_again() -> None:
    with cgroup() as root, collector(root, ["shmem"]) as found:
        assert values(found) == {root.name: 0}
        root.rmdir()
        assert not succeeds(found) and not values(found)
        root.mkdir()
        assert succeeds(found) and values(found) == {root.name: 0}


@pytest.mark.needs_bpf
def test_a_child_that_gave_up_its_rights_scrapes_on() -> None:
    """As the workers of gunicorn --preload do that run as another user."""
    with cgroup() as root, collector(root, ["anon", "memory.current"]) as found:

        def scrape() -> None:
            give_up_rights()
            for _ in range(2):
                assert succeeds(found) and values(found, "cgroup_memory_anon_bytes")
            assert found.fallback_reason

        assert succeeds(found)
        assert in_child(scrape) == 0
        assert in_child(lambda: values(found).clear()) == 0
        assert succeeds(found) and BPF_BACKENDS


@pytest.mark.needs_iterator
def test_a_pinned_tree_is_read(tmp_path: Path) -> None:
    with cgroup() as root, bpffs() as folder:
        enable_memory(root)
        (root / "one").mkdir()
        pin = folder / "all"
        with published(root, pin, ["shmem", "memory.current"]), collector(pin, ["shmem"]) as found:
            assert values(found) == {root.name: 0, "one": 0}
            assert not values(found, "cgroup_memory_current_bytes")
        with published(root, pin, ["memory.current", "shmem"]), collector(pin) as other:
            assert values(other) == {root.name: 0, "one": 0}
