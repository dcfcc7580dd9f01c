# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times the package against its alternatives, and prints a table. No time is asserted."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

import pymemcgbpf
from pymemcgbpf import _cgroupfs, _libbpf
from tests.kernel.cgroups import busy_cgroup
from tests.kernel.surroundings import VERSION

from . import c_programs, check, contestants, runner, table
from .errors import BenchError

# Those that cgroup v1's memory.stat has as well.
SIX = ("anon", "file", "shmem", "file_mapped", "pgfault", "pgmajfault")
COLUMNS: dict[str, contestants.Items] = {"six": SIX, "all": None}


def main() -> int:
    arguments = _arguments()
    pid = os.getpid()
    # The cgroup is removed all the same; the process in it just ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1) if os.getpid() == pid else os._exit(1))
    try:
        report = one_cgroup(arguments.iterations, arguments.rounds)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the times of every round there")
    parser.add_argument("--iterations", type=_positive, default=300, help="reads per round")
    parser.add_argument("--rounds", type=_positive, default=60)
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def one_cgroup(reads: int, rounds: int) -> dict[str, object]:
    """Times all that read one cgroup; prints the table, returns the same for JSON."""
    top = _cgroupfs.hierarchy_root(_cgroupfs.own_cgroup())
    with ExitStack() as stack:
        path, _ = stack.enter_context(busy_cgroup(Path(top)))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cpu = runner.pin()
        entrants = _entrants(path, directory, stack)
        compared = check.same_numbers(entrants, path)
        machine = _machine(path, cpu)
        runner.run(entrants, reads, rounds)
        with pymemcgbpf.StatsReader(path) as reader:
            count = len(reader.items)
    print(table.table(entrants, {"six": "µs, 6 items", "all": f"µs, all {count}"}))
    print()
    print("ratio: to the C program's BPF iterator with the same flush; reading memory.stat flushes")
    if VERSION == 1:
        print("memory.stat of cgroup v1 has fewer items, so its column of all holds less")
    for column in COLUMNS:
        print(_split(entrants, column))
    print(f"{compared} values compared; best of {rounds} rounds of {reads} reads")
    print(", ".join(f"{what} {value}" for what, value in machine.items()))
    return {
        "machine": machine,
        "iterations": reads,
        "rounds": rounds,
        "results": _results(entrants),
    }


def _entrants(path: Path, directory: Path, stack: ExitStack) -> list[runner.Contestant]:
    iterator = c_programs.build("iterator", directory)
    memory_stat = c_programs.build("memory_stat", directory)
    found: list[runner.Contestant] = []
    for column, items in COLUMNS.items():
        for flush in (False, True):
            found += contestants.through_bpf(column, items, flush, path, iterator, stack)
        found += contestants.through_text(column, items, path, memory_stat, stack)
    return found


def _split(entrants: Sequence[runner.Contestant], column: str) -> str:
    """What of a StatsReader's time is the kernel's, and what Python's."""
    best = {one.name: one.best for one in entrants if one.column == column}
    kernel = best[contestants.C_ITERATOR[False]]
    bare = best[contestants.BARE]
    reader = best[contestants.READER[False]]
    return (
        f"{contestants.READER[False]}, {column}: {reader:.2f} µs = {kernel:.2f} kernel (C) "
        f"+ {bare - kernel:.2f} calls from Python + {reader - bare:.2f} dict, lock, decoding "
        f"(dict / kernel {(reader - bare) / kernel:.2f})"
    )


def _machine(path: Path, cpu: int) -> dict[str, str]:
    with pymemcgbpf.StatsReader(path) as reader:
        backend = reader.backend
    return {
        "Linux": platform.release(),
        "on": f"{_cpu_model() or platform.machine()} (CPU {cpu} of {os.cpu_count()})",
        "Python": platform.python_version(),
        "libbpf": _libbpf.load().version,
        "cgroup": f"v{VERSION} {path}",
        "backend": backend,
    }


def _cpu_model() -> Optional[str]:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def _results(entrants: Sequence[runner.Contestant]) -> list[dict[str, object]]:
    ratios = table.ratios(entrants)
    return [
        {
            "name": one.name,
            "column": one.column,
            "best_us": one.best,
            "median_us": one.median,
            "ratio": ratios[one.name, one.column],
            "against": one.against,
            "rounds_ns": one.rounds,
        }
        for one in entrants
    ]


if __name__ == "__main__":
    sys.exit(main())
