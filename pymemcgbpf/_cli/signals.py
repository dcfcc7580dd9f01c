# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Signals that end the program when it has cleaned up."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NoReturn, Optional


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit meanwhile, as Ctrl-C raises KeyboardInterrupt.

    A signal that is ignored stays ignored: nohup ignores SIGHUP.
    """

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    with _handled((signal.SIGTERM, signal.SIGHUP), leave):
        yield


@contextlib.contextmanager
def _handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, object], None]
) -> Iterator[None]:
    """These signals have a handler meanwhile, but for those that are ignored."""
    before = {
        number: signal.signal(number, handler)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


_LONGEST_SLEEP = 0.5  # seconds


@contextlib.contextmanager
def end_after_a_wait() -> Iterator[Callable[[float], Optional[BaseException]]]:
    """The first of SIGINT, SIGTERM and SIGHUP interrupts nothing but a wait meanwhile, so that the
    program can print what it still has. The second one raises, as in :func:`exit_on_signals`.

    A signal that is ignored stays ignored.

    Returns:
        A function that waits so many seconds. It returns the exception with which the program
        shall end, or None if no signal has come yet.
    """
    come: list[BaseException] = []
    is_waiting = False

    def note(number: int, frame: object) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if come or is_waiting:
            raise error
        come.append(error)

    def wait(seconds: float) -> Optional[BaseException]:
        nonlocal is_waiting
        try:
            is_waiting = True
            # A signal that comes just before a sleep is noticed after it, so none is long.
            end = time.monotonic() + seconds
            while not come and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, _LONGEST_SLEEP))
        except (KeyboardInterrupt, SystemExit) as error:
            if come:
                raise
            come.append(error)
        finally:
            is_waiting = False
        return come[0] if come else None

    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), note):
        yield wait


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
