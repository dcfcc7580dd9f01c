# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs in the guest: writes records, one JSON object a line, to the port that the host reads."""

from __future__ import annotations

import json
import os


def write(record: str, **fields: object) -> None:
    """Send one record. When this returns the host has it, even if the guest dies afterwards."""
    line = json.dumps({"record": record, **fields}) + "\n"
    # The port is opened each time, because a test may close open descriptors, or fork.
    with open(os.environ["LAB_RESULTS"], "ab", buffering=0) as port:
        data = memoryview(line.encode("ascii"))
        while data:
            data = data[port.write(data) :]
