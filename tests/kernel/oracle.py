# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the kernel's own files say, by item's name, for comparison."""

from __future__ import annotations

import mmap
from pathlib import Path

from .cgroups import current, memory_stat
from .surroundings import HIERARCHY, VERSION

# cgroup v1 prints other keys; these are the same numbers (mm/memcontrol-v1.c).
V1_KEYS = {
    "anon": "total_rss",
    "file": "total_cache",
    "shmem": "total_shmem",
    "file_mapped": "total_mapped_file",
    "file_dirty": "total_dirty",
    "file_writeback": "total_writeback",
    "swap": "total_swap",
    "swapcached": "total_swapcached",
    "anon_thp": "total_rss_huge",
    "inactive_anon": "total_inactive_anon",
    "active_anon": "total_active_anon",
    "inactive_file": "total_inactive_file",
    "active_file": "total_active_file",
    "unevictable": "total_unevictable",
    "workingset_refault_anon": "total_workingset_refault_anon",
    "workingset_refault_file": "total_workingset_refault_file",
    "pgfault": "total_pgfault",
    "pgmajfault": "total_pgmajfault",
}


# cgroup v1's names of other files.
V1_FILES = {
    "memory.current": "memory.usage_in_bytes",
    "memory.peak": "memory.max_usage_in_bytes",
    "memory.max": "memory.limit_in_bytes",
}
# Files that only cgroup v1 has.
V1_ONLY = (
    *("memory.failcnt", "memory.memsw.usage_in_bytes", "memory.memsw.max_usage_in_bytes"),
    *("memory.memsw.limit_in_bytes", "memory.memsw.failcnt"),
)
SINGLE = (
    *("memory.current", "memory.peak", "memory.min", "memory.low", "memory.high", "memory.max"),
    *("memory.swap.current", "memory.swap.peak", "memory.swap.high", "memory.swap.max"),
    *("memory.zswap.current", "memory.zswap.max"),
)
KEYED = ("memory.events", "memory.events.local", "memory.swap.events")
NO_LIMIT = (1 << 63) - 1


def everything(path: Path) -> dict[str, int]:
    """Item's name → value, of all of a cgroup's files."""
    at_root = path == HIERARCHY
    found = {name: value for name, value in by_text(path).items() if name != "memory.current"}
    if VERSION == 1:
        if at_root:
            return found
        for file, name in (*V1_FILES.items(), *zip(V1_ONLY, V1_ONLY)):
            if not (path / name).exists():  # without accounting of swap
                continue
            found[file] = int((path / name).read_text())
            if found[file] == NO_LIMIT // mmap.PAGESIZE * mmap.PAGESIZE:
                found[file] = NO_LIMIT
        for line in (path / "memory.oom_control").read_text().splitlines():
            if line.startswith("oom_kill "):
                for file in ("memory.events", "memory.events.local"):
                    found[f"{file}.oom_kill"] = int(line.split()[1])
        found.update(derived(path, found))
        return found
    for file in SINGLE:
        if (path / file).exists():
            text = (path / file).read_text().strip()
            found[file] = NO_LIMIT if text == "max" else int(text)
    for file in KEYED:
        if (path / file).exists():
            for key, number in map(str.split, (path / file).read_text().splitlines()):
                found[f"{file}.{key}"] = int(number)
    # "anon N0=1 N1=2"
    for key, *nodes in map(str.split, (path / "memory.numa_stat").read_text().splitlines()):
        for node, number in (one.split("=") for one in nodes):
            found[f"memory.numa_stat.{key}.{node}"] = int(number)
    # "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    if (path / "memory.pressure").exists():
        for line in (path / "memory.pressure").read_text().splitlines():
            key, total = line.split()[0], line.partition(" total=")[2]
            found[f"memory.pressure.{key}.total"] = int(total)
    if not at_root:
        found.update(derived(path, found))
    return found


def derived(path: Path, found: dict[str, int]) -> dict[str, int]:
    """The numbers that no file shows, of a cgroup whose files show these."""
    return {
        "derived.working_set": max(0, found["memory.current"] - found["inactive_file"]),
        "derived.effective_limit": effective_limit(path),
    }


def effective_limit(path: Path) -> int:
    """The least limit of a cgroup and all above it."""
    limits = [NO_LIMIT]
    while path != HIERARCHY:
        text = (path / ("memory.max" if VERSION == 2 else V1_FILES["memory.max"])).read_text()
        limits.append(NO_LIMIT if text.strip() == "max" else int(text))
        path = path.parent
    least = min(limits)
    return NO_LIMIT if least == NO_LIMIT // mmap.PAGESIZE * mmap.PAGESIZE else least


def by_text(path: Path) -> dict[str, int]:
    """Item's name → value, of all that the kernel's files show, in memory.stat's order."""
    printed = memory_stat(path)
    if VERSION == 1:
        printed = {name: printed[key] for name, key in V1_KEYS.items() if key in printed}
    if path != HIERARCHY:
        printed["memory.current"] = current(path)
    return printed
