# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Holds signals back while a program is loaded.

Two things go wrong when a signal arrives while a reader is created. The kernel's verifier gives up
with EAGAIN while a signal is pending: with a timer of one millisecond, no program would ever load.
And Python runs signal handlers between any two steps: if a handler raises, an object that was
created just before, and that nothing refers to yet, is lost.
"""

from __future__ import annotations

# The functions of the module signal are Python code, in which a handler could run.
import _signal  # type: ignore[import-not-found]
from typing import Callable, TypeVar

_Result = TypeVar("_Result")

# Signals for faults of the process itself, and SIGSYS, which seccomp sends for a system call, must
# be delivered at once.
_FAULTS = (
    _signal.SIGSEGV,
    _signal.SIGBUS,
    _signal.SIGFPE,
    _signal.SIGILL,
    _signal.SIGTRAP,
    _signal.SIGSYS,
)
_HELD_BACK = frozenset(_signal.valid_signals()).difference(_FAULTS)


def held_back(work: Callable[[], _Result]) -> _Result:
    """Calls *work* with the calling thread's signals blocked, and returns its result.

    The signals are delivered when *work* is done. If a handler raises then, the result is lost, so
    it must release what it holds when the last reference to it is gone.
    """
    mask, restore = _signal.pthread_sigmask, _signal.SIG_SETMASK
    # This call only reads the mask. The one below may raise instead of returning the old mask,
    # because it runs the handlers of signals that have just arrived.
    before = mask(_signal.SIG_BLOCK, ())
    try:
        try:
            mask(_signal.SIG_BLOCK, _HELD_BACK)
            return work()
        finally:
            mask(restore, before)
    finally:
        # The main thread also runs the handlers of signals that other threads received. If one of
        # them raised just before the line above, this line restores the mask.
        mask(restore, before)
