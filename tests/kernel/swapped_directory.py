# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads while another thread makes the reader's directory descriptor lead elsewhere."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Callable, TypeVar

from pymemcgbpf import BackendUnavailableError, MemcgError, StatsReader, TreeReader

SECONDS = 2.0

_Reader = TypeVar("_Reader", StatsReader, TreeReader)


def reads_under_swaps(
    make: Callable[[Path], _Reader],
    pair: tuple[Path, Path],
    is_right: Callable[[_Reader], bool],
) -> dict[str, int]:
    """How many reads were right, and how many were refused. None may be wrong.

    Args:
        make: makes a reader of a cgroup.
        pair: the cgroup that is read, and another one.
        is_right: reads once, and says whether the result is that of the cgroup.
    """
    own, other = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in pair)
    file = os.open(pair[0] / "cgroup.procs", os.O_RDONLY)
    pipe, _ = os.pipe()
    seen = {"right": 0, "refused": 0}
    with make(pair[0]) as reader:
        at = reader._source._directory.fd  # type: ignore[union-attr]
        done = threading.Event()

        def swap() -> None:
            while not done.is_set():
                for fd in (other, own, file, pipe, own):
                    os.dup2(fd, at)

        swapper = threading.Thread(target=swap)
        swapper.start()
        end = time.monotonic() + SECONDS
        try:
            while time.monotonic() < end:
                try:
                    assert is_right(reader)
                    seen["right"] += 1
                except MemcgError as error:
                    # The descriptor may be right again when the error is explained.
                    unexplained = isinstance(error, BackendUnavailableError)
                    assert unexplained or error.errno == errno.EBADF, error
                    seen["refused"] += 1
        finally:
            done.set()
            swapper.join()
    return seen
