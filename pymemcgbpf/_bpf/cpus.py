# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The CPUs that the kernel keeps data for."""

from __future__ import annotations

import os

_POSSIBLE = "/sys/devices/system/cpu/possible"


def numbers() -> list[int]:
    """The numbers of all CPUs that this machine can ever have, in their order; empty if the kernel
    does not tell."""
    try:
        with open(_POSSIBLE, encoding="ascii") as file:
            found: list[int] = []
            for part in file.read().split(","):
                first, _, last = part.partition("-")
                found.extend(range(int(first), int(last or first) + 1))
            return found
    except (OSError, ValueError):
        return []


def possible() -> int:
    """One more than the highest number of a CPU that this machine can ever have, or a few more.

    (os.cpu_count() counts those that are online, and can be overridden.)
    """
    found = numbers()
    return found[-1] + 1 if found else max(os.sysconf("SC_NPROCESSORS_CONF"), _in_masks())


def _in_masks() -> int:
    """How many CPUs the kernel's masks have room for; 0 if that is unknown."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, mask = line.partition(":")
                if name == "Cpus_allowed":
                    return 4 * sum(character.isalnum() for character in mask)
    except OSError:  # there is no /proc
        pass
    return 0
