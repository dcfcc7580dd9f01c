# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the tests run on: the live machine, or a guest of the lab that says what to expect."""

from __future__ import annotations

import os
from pathlib import Path

from pymemcgbpf import _options

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


def symbols(*names: str) -> set[str]:
    """Those of the names that the kernel's symbols (not our own BTF reader) have."""
    with open("/proc/kallsyms", encoding="ascii", errors="replace") as lines:
        return set(names) & {line.split()[2] for line in lines}


_SYMBOLS = symbols(
    *("bpf_mem_cgroup_page_state", "memcg_node_stat_fetch"),
    *("bpf_cgroup_from_id", "bpf_iter_css_new", "cgroup_iter_seq_next"),
    *("mem_cgroup_css_rstat_flush", "bpf_prog_test_run_raw_tp"),
)

# Pending updates can be flushed since 2d146aa3aa84 (mm: memcontrol: switch to rstat, Linux 5.13).
# Before, each CPU adds its updates of a counter to it once there are more than 32.
FLUSHES = "mem_cgroup_css_rstat_flush" in _SYMBOLS

# The transports "stream" and "shared", and pins, are cgroup iterators.
HAS_ITERATOR = "cgroup_iter_seq_next" in _SYMBOLS

# A program that is run reads a cgroup or a tree. As a raw tracepoint's it finds a cgroup by its
# open directory.
_RUNS_BY_DIRECTORY = "bpf_prog_test_run_raw_tp" in _SYMBOLS

_WITHOUT_KFUNCS = "core" if HAS_ITERATOR or _RUNS_BY_DIRECTORY else "text"
_BACKEND = EXPECTED_BACKEND or (
    "kfunc" if "bpf_mem_cgroup_page_state" in _SYMBOLS else _WITHOUT_KFUNCS
)
# What "auto" chooses.
BEST_BACKEND = next(each for each in _options.BACKENDS if each == _BACKEND)
# The functions of the patch's first form, which the lab's guest "seed" has beside the others.
HAS_RFC = "memcg_node_stat_fetch" in _SYMBOLS
_HERE = {"kfunc": BEST_BACKEND == "kfunc", "rfc": HAS_RFC, "core": BEST_BACKEND != "text"}
BACKENDS = [backend for backend in _options.BACKENDS if _HERE.get(backend, True)]
BPF_BACKENDS = BACKENDS[:-1]

# With the functions of "kfunc", it finds a cgroup by its id, which takes these two and cgroup v2.
CAN_RUN = VERSION == 2 and {"bpf_cgroup_from_id", "bpf_iter_css_new"} <= _SYMBOLS
RUN_BACKENDS = [
    backend
    for backend in BPF_BACKENDS
    if (_RUNS_BY_DIRECTORY if backend == "core" else CAN_RUN and backend != "rfc")
]
