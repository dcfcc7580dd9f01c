# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf bench, on a real kernel. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

from .cgroups import Worker
from .oracle import by_text
from .surroundings import RUN_BACKENDS, VERSION
from .test_command import printed
from .ways import STAT_BPF_WAYS, TREE_BPF_WAYS


def test_bench_times_every_backend_and_transport(busy: tuple[Path, Worker]) -> None:
    path, _ = busy
    report = json.loads(printed("bench", "--json", "--seconds", "2", "--iterations", "40", path))
    six, everything, tree = report["parts"]
    expected = {"StatsReader, text"} | {
        f"StatsReader, {backend}/{transport}{flush}"
        for backend, transport in STAT_BPF_WAYS
        for flush in ("", ", flush=False")
    }
    for part in (six, everything):
        names = {one["name"] for one in part["results"]}
        assert {name for name in names if name.startswith("StatsReader")} == expected
        assert len(names) == len(expected) + 4  # three controls, and read_stats()
        for one in part["results"]:
            assert one["reads"] == 40 and one["real_us"] > 0
            # Where they are counted by ticks, a tick too many may be theirs.
            assert one["user_us"] + one["sys_us"] <= one["real_us"] + 10_000
    assert {one["name"] for one in tree["results"] if "copy=False" in one["name"]} == {
        f"TreeReader, {way}, copy=False"
        for way in ("text", *("/".join(way) for way in TREE_BPF_WAYS))
    }
    # The number of ways that give six items and all of them, beside the first; v1's text has 17.
    flushed = len(STAT_BPF_WAYS) + 3
    least = 17 if VERSION == 1 else 0.8 * len(by_text(path))
    assert report["values_compared"] >= flushed * (6 + least)
    core_runs = not any("core/run" in ways for ways in report["not_here"])
    assert core_runs == ("core" in RUN_BACKENDS)
    share = report["formatting"]
    assert share["why"] if share["share"] is None else 0 < share["share"] < 1
