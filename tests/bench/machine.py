# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the times were taken on."""

from __future__ import annotations

import os
import platform

from pymemcgbpf._bench.machine import this_machine
from tests.kernel.surroundings import BEST_BACKEND, IN_LAB, VERSION


def label() -> str:
    """The machine in few words."""
    series = ".".join(platform.release().split(".")[:2])
    return f"Linux {series}, {'lab' if IN_LAB else 'live'}"


def machine() -> str:
    """Kernel, processor, Python, libbpf, and how a cgroup is read there."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    words = ", ".join(this_machine().values())
    return f"{words}, on CPU {cpus}, cgroup v{VERSION}, backend {BEST_BACKEND}"
