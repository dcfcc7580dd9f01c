# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What share of a time the kernel spends on making text, as perf sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from typing import Callable, NamedTuple, Optional

# What prints into a seq_file; all that formats is called by one of these.
_PRINTING = {
    "seq_buf_printf",
    "seq_buf_vprintf",
    "seq_buf_puts",
    "seq_buf_putc",
    "seq_printf",
    "seq_vprintf",
    "seq_put_decimal_ull",
    "seq_put_decimal_ull_width",
    "vsnprintf",
}
_SHOWING = "memory_stat_show"  # what prints memory.stat; without it perf has seen no names
_SECONDS = "1"
_PATIENCE = 30.0  # seconds
_FEWEST = 50  # samples


class Formatting(NamedTuple):
    """What perf saw.

    Attributes:
        share: of the time, from 0 to 1; None where it could not be told.
        samples: how many there were.
        why: why it could not be told; "" if it could.
    """

    share: Optional[float]
    samples: int = 0
    why: str = ""


def share(read: Callable[[], object]) -> Formatting:
    """Reads for a second under ``perf record``; never fails."""
    perf = shutil.which("perf")
    if perf is None:
        return Formatting(None, why="perf is not installed (Debian: linux-perf)")
    with tempfile.TemporaryDirectory(prefix="pymemcgbpf-perf-") as folder:
        try:
            return _sampled(perf, os.path.join(folder, "data"), read)
        except (OSError, subprocess.SubprocessError) as error:
            return Formatting(None, why=f"perf: {error}")


def _sampled(perf: str, data: str, read: Callable[[], object]) -> Formatting:
    command = [perf, "record", "-q", "-g", "-o", data, "-p", str(os.getpid()), "--"]
    with subprocess.Popen(
        [*command, "sleep", _SECONDS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None:
            for _ in range(1000):
                read()
            if time.monotonic() > deadline:
                process.kill()
                return Formatting(None, why="perf record does not end")
        said = process.stderr.read() if process.stderr is not None else ""
    if process.returncode:
        return Formatting(None, why=f"perf record: {_first_line(said)}")
    script = subprocess.run(
        [perf, "script", "-i", data, "-F", "ip,sym"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
    )
    if script.returncode:
        return Formatting(None, why=f"perf script: {_first_line(script.stderr)}")
    return of_samples(script.stdout)


def of_samples(text: str) -> Formatting:
    """What ``perf script -F ip,sym`` prints: a line for each function of a sample, the innermost
    first, and empty lines between samples."""
    stacks = [
        {line.split()[1] for line in sample.splitlines() if len(line.split()) > 1}
        for sample in text.split("\n\n")
        if sample.strip()
    ]
    if len(stacks) < _FEWEST:
        return Formatting(None, len(stacks), f"perf took {len(stacks)} samples only")
    if not any(_SHOWING in stack for stack in stacks):
        why = "perf does not see into the kernel here (kernel.perf_event_paranoid, kptr_restrict)"
        return Formatting(None, len(stacks), why)
    printing = sum(bool(stack & _PRINTING) for stack in stacks)
    return Formatting(printing / len(stacks), len(stacks))


def _first_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip(" \t:")]
    return lines[0].rstrip(".:") if lines else "it failed"
