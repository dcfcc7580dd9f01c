# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Describes the machine that the times were measured on."""

from __future__ import annotations

import os
import platform

from pymemcgbpf._bench.machine import this_machine
from tests.kernel.surroundings import BEST_BACKEND, IN_LAB, VERSION


def label() -> str:
    """The heading of the machine's columns: its kernel, and whether it is a guest of the lab."""
    series = ".".join(platform.release().split(".")[:2])
    return f"Linux {series}, {'lab' if IN_LAB else 'live'}"


def machine() -> str:
    """Kernel, processor, Python, libbpf, and how this machine reads a cgroup."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    words = ", ".join(this_machine().values())
    return f"{words}, on CPU {cpus}, cgroup v{VERSION}, backend {BEST_BACKEND}"
