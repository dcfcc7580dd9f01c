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
