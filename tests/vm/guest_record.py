# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Inside the guest: one JSON object per line to the serial port that the host reads."""

from __future__ import annotations

import json
import os


def write(record: str, **fields: object) -> None:
    """Send one record; it is with the host when this returns, even if the guest dies next."""
    line = json.dumps({"record": record, **fields}) + "\n"
    # Opened every time: a test may close what it finds open, or fork.
    with open(os.environ["LAB_RESULTS"], "ab", buffering=0) as port:
        data = memoryview(line.encode("ascii"))
        while data:
            data = data[port.write(data) :]
