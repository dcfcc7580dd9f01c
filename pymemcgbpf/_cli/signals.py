# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Signals that end the program when it has cleaned up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Callable, NoReturn, Optional


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit meanwhile, as Ctrl-C raises KeyboardInterrupt.

    A signal that is ignored stays ignored: nohup ignores SIGHUP.
    """

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, leave)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_to_stop() -> Iterator[Callable[[Optional[float]], bool]]:
    """SIGTERM and SIGINT interrupt nothing meanwhile. A function waits for them.

    A signal that is ignored stays ignored. Threads that are started meanwhile hold the signals,
    too.

    Returns:
        A function that waits so many seconds, or for ever if it is given None, and returns whether
        one of the signals has come.
    """
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) != signal.SIG_IGN
    ]

    def wait(seconds: Optional[float]) -> bool:
        if seconds is None:
            signal.sigwait(numbers)
            return True
        return signal.sigtimedwait(numbers, seconds) is not None

    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield wait
    finally:
        while wait(0):  # one that came twice
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
