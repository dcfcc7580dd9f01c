# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The CPUs that the kernel keeps data for."""

from __future__ import annotations

import os


def possible() -> int:
    """One more than the highest number of a CPU that this machine can ever have.

    (os.cpu_count() counts those that are online, and can be overridden.)
    """
    try:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            return int(file.read().strip().split("-")[-1].split(",")[-1]) + 1
    except (OSError, ValueError):
        return os.sysconf("SC_NPROCESSORS_CONF")
