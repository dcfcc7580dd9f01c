# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the kernel's own files say, by item's name, for comparison."""

from __future__ import annotations

from pathlib import Path

from .cgroups import current, memory_stat
from .surroundings import VERSION

# cgroup v1 prints other keys; these are the same numbers (mm/memcontrol-v1.c).
V1_KEYS = {
    "anon": "total_rss",
    "file": "total_cache",
    "shmem": "total_shmem",
    "file_mapped": "total_mapped_file",
    "file_dirty": "total_dirty",
    "file_writeback": "total_writeback",
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


def by_text(path: Path) -> dict[str, int]:
    """Item's name → value, of all that the kernel's files show, in memory.stat's order."""
    printed = memory_stat(path)
    if VERSION == 1:
        printed = {name: printed[key] for name, key in V1_KEYS.items()}
    printed["memory.current"] = current(path)
    return printed
