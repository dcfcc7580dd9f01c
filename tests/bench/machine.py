# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the times were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pymemcgbpf
from pymemcgbpf import _libbpf
from tests.kernel.surroundings import VERSION


def machine(path: Path) -> str:
    """Kernel, processor, Python, libbpf, and how a cgroup is read there."""
    with pymemcgbpf.StatsReader(path) as reader:
        backend = reader.backend
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return ", ".join(
        (
            f"Linux {platform.release()}",
            f"{_cpu_model()} (CPU {cpus} of {os.cpu_count()})",
            f"Python {platform.python_version()}",
            f"libbpf {_libbpf.load().version}",
            f"cgroup v{VERSION}",
            f"backend {backend}",
        )
    )


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
