# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Holds signals back while something is made.

Two things go wrong when a signal arrives while a reader is made. The kernel's verifier gives up
with EAGAIN while a signal is pending: with a timer of one millisecond no program would ever load.
And Python runs signal handlers between any two steps, so that what a handler raises could lose
something that was made just before and that nothing refers to yet.
"""

from __future__ import annotations

# Not the module signal: its functions are Python code, in which a handler could run.
import _signal  # type: ignore[import-not-found]
from typing import Callable, TypeVar

_Result = TypeVar("_Result")

# A fault of the process's own cannot wait, nor can what seccomp sends for a system call.
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
    """Runs *work* while the calling thread's signals wait.

    They are delivered as soon as it is done: if a handler raises then, the result is lost, and so
    must be one that cleans up after itself when it is dropped.
    """
    mask, restore = _signal.pthread_sigmask, _signal.SIG_SETMASK
    # This changes nothing. The call that does may raise instead of telling what was before it:
    # it runs the handlers of signals that arrived just now.
    before = mask(_signal.SIG_BLOCK, ())
    try:
        try:
            mask(_signal.SIG_BLOCK, _HELD_BACK)
            return work()
        finally:
            mask(restore, before)
    finally:
        # Signals of other threads have their handlers run in the main one too: should one have
        # raised just before the line above, this line does its work.
        mask(restore, before)
