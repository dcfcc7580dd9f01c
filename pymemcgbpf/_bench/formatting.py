# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Measures with perf which share of a read the kernel spends on formatting text."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from typing import Callable, Optional

from .._records import Record

# The functions that print into a seq_file; they call everything that formats.
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
_SHOWING = "memory_stat_show"  # prints memory.stat; without it in any sample perf saw no symbols
_SECONDS = "1"
_PATIENCE = 30.0  # seconds
_FEWEST = 50  # samples


class Formatting(Record):
    """What perf found.

    Attributes:
        share: of the time, from 0 to 1; None if it is unknown.
        samples: the number of samples.
        why: why the share is unknown; "" if it is known.
    """

    share: Optional[float]
    samples: int = 0
    why: str = ""


def share(read: Callable[[], object]) -> Formatting:
    """Reads for a second under ``perf record``; does not raise if perf fails."""
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
    """Evaluates the output of ``perf script -F ip,sym``.

    Each sample has a line for each function, the innermost first. Empty lines separate samples.
    """
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
