# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""serve and export --every count removed cgroups, and the kills in them, for the cgroups above."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .cgroups import enable_memory
from .oracle import everything
from .surroundings import HIERARCHY, VERSION
from .test_departed import make, remove_when_empty
from .test_oom_kills import KILLS, kill_one
from .test_serve import ITEMS, Served, serving, wait_until

OPTIONS = ("--every", "0.1")

pytestmark = pytest.mark.needs_iterator


def counts(served: Served) -> dict[str, tuple[int, int]]:
    """How many cgroups below each exported one were removed, and the kills in them."""
    return counts_in("\n".join(f"{name} {number}" for name, number in served.samples().items()))


def counts_in(text: str) -> dict[str, tuple[int, int]]:
    found = [
        dict(re.findall(rf'^{name}_total{{cgroup="(.*)"}} (\d+)$', text, re.MULTILINE))
        for name in ("cgroup_departed", "cgroup_departed_oom_kills")
    ]
    return {path: (int(number), int(found[1][path])) for path, number in found[0].items()}


def live_and_die(path: Path) -> None:
    """A cgroup that is made, has a process killed by the kernel, and is removed at once."""
    path.mkdir()
    kill_one(path)
    remove_when_empty(path)


def test_kills_in_cgroups_that_are_gone_at_once_are_counted_above(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    top = f"/{empty_cgroup.name}"
    for name in ("slice", "other"):
        make(empty_cgroup / name)
    with serving(*OPTIONS, "--depth", "1", empty_cgroup, *ITEMS) as served:
        expected = {top: (0, 0), f"{top}/slice": (0, 0), f"{top}/other": (0, 0)}
        assert counts(served) == expected
        for number in (1, 2):
            live_and_die(empty_cgroup / "slice" / "container")
            expected[top] = expected[f"{top}/slice"] = (number, number)
            wait_until(lambda: counts(served) == expected)
        if VERSION == 2:  # there the kernel keeps them, too, and on cgroup v1 nobody else does
            assert everything(empty_cgroup)[KILLS] == 2
        (empty_cgroup / "slice").rmdir()
        wait_until(lambda: f"{top}/slice" not in counts(served))
        assert counts(served) == {top: (3, 2), f"{top}/other": (0, 0)}
        assert served.samples()["pymemcgbpf_departed_lost_total"] == "0"
        assert served.end() == ""


def test_a_subtree_that_goes_at_once_counts_each_kill_once(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    top = f"/{empty_cgroup.name}"
    with serving(*OPTIONS, empty_cgroup, *ITEMS) as served:
        pod = make(empty_cgroup / "pod")
        for name in ("one", "two"):
            live_and_die(pod / name)
        pod.rmdir()
        wait_until(lambda: counts(served)[top][0] >= 3)
        assert counts(served)[top] == (3, 2)
        assert served.end() == ""


def test_the_root_of_the_hierarchy_counts_all(empty_cgroup: Path) -> None:
    """It has no number of kills itself."""
    enable_memory(empty_cgroup)
    with serving(*OPTIONS, "--depth", "0", HIERARCHY, "anon") as served:
        ((root, (_, before)),) = counts(served).items()
        live_and_die(empty_cgroup / "container")
        wait_until(lambda: counts(served)[root][1] > before)
        assert served.end() == ""


def test_counts_outlive_the_root(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    root = make(empty_cgroup / "served")
    label = f"/{empty_cgroup.name}/served"
    with serving(*OPTIONS, root, *ITEMS) as served:
        live_and_die(root / "container")
        root.rmdir()
        wait_until(lambda: served.get("/healthz")[0] == 503)
        assert counts(served) == {}
        assert served.samples()["pymemcgbpf_departed_lost_total"] == "0"
        make(root)
        wait_until(lambda: served.get("/healthz")[0] == 200)
        assert counts(served) == {label: (1, 1)}
        live_and_die(root / "container")
        wait_until(lambda: counts(served) == {label: (2, 2)})


def test_a_file_that_is_replaced_again_and_again_has_the_counts(
    empty_cgroup: Path, tmp_path: Path
) -> None:
    enable_memory(empty_cgroup)
    file, top = tmp_path / "it.prom", f"/{empty_cgroup.name}"
    words = ("export", *OPTIONS, "--output", file, empty_cgroup, *ITEMS)
    process = subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(file.exists)
        assert counts_in(file.read_text()) == {top: (0, 0)}
        live_and_die(empty_cgroup / "container")
        wait_until(lambda: counts_in(file.read_text()) == {top: (1, 1)})
        process.terminate()
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    finally:
        process.kill()
        process.communicate()
