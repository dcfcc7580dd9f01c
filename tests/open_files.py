# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What this process has open, for the tests that nothing is leaked."""

from __future__ import annotations

import os


def open_files() -> dict[str, str]:
    """Open file descriptors and what they are."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the directory's own
    return found


def mapped_maps() -> list[str]:
    """The BPF maps that this process has mapped: each one's range of addresses."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        return [line.split()[0] for line in lines if "bpf-map" in line or "bpf_map" in line]
