# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the tests run on: the live machine, or a guest of the lab that says what to expect."""

from __future__ import annotations

import os
from pathlib import Path

IN_LAB = os.environ.get("PYMEMCGBPF_LAB") == "1"
# On the live machine the test command may say it as well; without it, BTF decides.
EXPECTED_BACKEND = os.environ.get("PYMEMCGBPF_LAB_EXPECT_BACKEND", "")


def memory_hierarchy() -> Path:
    """The topmost cgroup directory with memory statistics."""
    for candidate in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        if (candidate / "memory.stat").exists():
            return candidate
    raise AssertionError("no memory cgroup hierarchy is mounted on /sys/fs/cgroup")


HIERARCHY = memory_hierarchy()
VERSION = 2 if (HIERARCHY / "cgroup.controllers").exists() else 1


def has_kfuncs() -> bool:
    """Whether the kernel's symbols (not our own BTF reader) have the memcg kfuncs."""
    with open("/proc/kallsyms", encoding="ascii", errors="replace") as symbols:
        return any(line.split()[2] == "bpf_mem_cgroup_page_state" for line in symbols)


BEST_BACKEND = EXPECTED_BACKEND or ("kfunc" if has_kfuncs() else "core")
BPF_BACKENDS = ["kfunc", "core"] if BEST_BACKEND == "kfunc" else ["core"]
BACKENDS = [*BPF_BACKENDS, "text"]
