# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Memory allocations that fail on request, in a kernel with fault injection.

Documentation/fault-injection/fault-injection.rst in the kernel's source has the files.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from pathlib import Path
from typing import Callable

from pymemcgbpf import MemcgError

from ..open_files import open_files

FAIL_NTH = Path("/proc/thread-self/fail-nth")
# Allocations of every kind fail, and the kernel logs nothing.
SETTINGS = {
    "failslab": {"ignore-gfp-wait": "N", "cache-filter": "N", "verbose": "0"},
    "fail_page_alloc": {
        "ignore-gfp-wait": "N",
        "ignore-gfp-highmem": "N",
        "min-order": "0",
        "verbose": "0",
    },
}
# How the kernel reports a lack of memory; a bpffs reports ENOSPC.
SHORTAGES = (errno.ENOMEM, errno.ENOSPC)


class FailingMemory:
    """Makes the n-th allocation of this thread fail."""

    def __init__(self) -> None:
        self._file = FAIL_NTH.open("r+b", buffering=0)

    def close(self) -> None:
        self._file.close()

    def reaches(self, number: int, work: Callable[[], object]) -> bool:
        """Runs *work* and makes its allocation *number* fail; returns whether it made so many."""
        os.pwrite(self._file.fileno(), b"%d\n" % number, 0)
        try:
            with contextlib.suppress(MemoryError):  # Python's own: the heap could not grow
                work()
        except MemcgError as error:
            assert error.errno in SHORTAGES, (number, repr(error), str(error))
        finally:
            left = int(os.pread(self._file.fileno(), 20, 0))
            os.pwrite(self._file.fileno(), b"0\n", 0)
        return left == 0

    def sweep(
        self,
        work: Callable[[], object],
        *,
        prepare: Callable[[], object] = lambda: None,
        step: int = 1,
    ) -> int:
        """Lets one allocation of *work* after another fail, and has it succeed after each; returns
        how many there are. Before each *prepare* runs, with memory enough."""
        prepare()
        work()
        gc.collect()
        before = kinds_of_open_files()
        number, reached = 1, True
        while reached:
            prepare()
            reached = self.reaches(number, work)
            prepare()
            work()
            gc.collect()
            assert kinds_of_open_files() == before, number
            number += step
        return number - step


def kinds_of_open_files() -> list[str]:
    """What this process has open, whatever the numbers."""
    return sorted(open_files().values())
