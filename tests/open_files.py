# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Lists what this process has open, for tests that nothing is leaked."""

from __future__ import annotations

import os


def open_files() -> dict[str, str]:
    """The open file descriptors, each with the file that it refers to."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # This was the descriptor of /proc/self/fd itself.
    return found


def mapped_maps() -> list[str]:
    """The address ranges of the BPF maps that this process has mapped into its memory."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        return [line.split()[0] for line in lines if "bpf-map" in line or "bpf_map" in line]
