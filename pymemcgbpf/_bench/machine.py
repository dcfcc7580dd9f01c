# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Describes the machine that the times were measured on."""

from __future__ import annotations

import contextlib
import os
import platform

from .._bpf.bindings import libbpf as _libbpf
from ..errors import BackendUnavailableError


def this_machine() -> dict[str, str]:
    """Kernel, processor, Python and libbpf, each in words."""
    try:
        library = f"libbpf {_libbpf.load().version}"
    except BackendUnavailableError:
        library = "no libbpf"
    return {
        "kernel": f"Linux {platform.release()}",
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "python": f"Python {platform.python_version()}",
        "libbpf": library,
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
