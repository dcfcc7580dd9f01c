# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Forked children of a test."""

from __future__ import annotations

import os
import signal
import traceback
from typing import Callable


def ended(work: Callable[[], None]) -> int:
    """Runs *work* in a forked child; returns its exit status."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a deadlock ends by this
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
