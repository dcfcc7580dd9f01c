# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads again and again at an interval: what the method every() of all readers returns."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Callable, Generic, Optional, TypeVar, cast

from ._closable import Closable
from ._options import check_number

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")

# In seconds. Python runs the handler of a signal that arrives just before a wait after that wait.
_LONGEST_WAIT = 0.5


class Ticks:
    """The multiples of an interval since the first tick. Those that were missed are left out.

    Args:
        seconds: The interval.

    Raises:
        TypeError: *seconds* is not a number, or is a bool.
        ValueError: *seconds* is not finite, or not above 0.
    """

    def __init__(self, seconds: float) -> None:
        check_number("seconds", seconds)
        try:
            usable = math.isfinite(seconds) and seconds > 0
        except OverflowError:  # an int beyond all floats
            usable = False
        if not usable:
            raise ValueError(f"seconds must be a finite number above 0, not {seconds!r}")
        self._interval = max(float(seconds), 1e-9)  # the clock is no finer
        self._began: Optional[float] = None
        self._due = 0

    def delay(self) -> float:
        """The seconds until the next tick; 0 if it has passed, and for the first one."""
        return max(self._due * self._interval - self._passed(), 0)

    def take(self) -> None:
        """Takes the tick that has come: the next one is at the first multiple after now."""
        self._due = max(self._due, math.floor(self._passed() / self._interval)) + 1

    def _passed(self) -> float:
        """The seconds since the first tick, which is now if there was none."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return now - self._began


class Samples(Generic[_T]):
    """An iterator, and an asynchronous iterator, over what a reader reads at an interval.

    It ends when the reader is closed, whatever a read() reports during which a signal handler has
    closed it. Other errors pass through; after them another ``next()`` takes the next sample.
    """

    def __init__(self, reader: Closable, read: Callable[[], _T], seconds: float) -> None:
        self._reader, self._read = reader, read
        self._ticks = Ticks(seconds)
        if reader._wakers is None:
            raise reader._closed()

    def __iter__(self) -> Samples[_T]:
        return self

    def __next__(self) -> _T:
        if self._ticks.delay():
            self._wait()
        self._ticks.take()
        try:
            return self._read()
        except (OSError, ValueError):
            if self._reader._wakers is not None:
                raise
            raise StopIteration from None

    def _wait(self) -> None:
        # A bare lock, because close() may be called by a signal handler, at any moment of this:
        # the methods of threading.Event are not re-entrant.
        closed = threading.Lock()
        closed.acquire()
        try:
            if self._reader._wake_at_close(closed.release):
                while delay := self._ticks.delay():
                    if closed.acquire(timeout=min(delay, _LONGEST_WAIT)):
                        break
        finally:
            self._reader._do_not_wake(closed.release)

    def __aiter__(self) -> Samples[_T]:
        return self

    async def __anext__(self) -> _T:
        delay = self._ticks.delay()
        if delay:
            await self._wait_in_loop(delay)
        self._ticks.take()
        try:
            return await self._read_in_thread()
        except (OSError, ValueError):
            if self._reader._wakers is not None:
                raise
            raise StopAsyncIteration from None

    async def _wait_in_loop(self, delay: float) -> None:
        import asyncio
        import contextlib

        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        timer = loop.call_later(delay, over.set)

        def closed() -> None:  # called by any thread, or by a signal handler
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(over.set)

        try:
            if self._reader._wake_at_close(closed):
                await over.wait()
        finally:
            self._reader._do_not_wake(closed)
            timer.cancel()

    async def _read_in_thread(self) -> _T:
        """Reads in a thread of the loop's executor, and waits for its end in any case.

        The thread cannot be interrupted. If it were left alone when the task is cancelled, the
        reader's close() would block the loop until the read is over.
        """
        import asyncio

        job = _Job(self._read)
        future = asyncio.get_running_loop().run_in_executor(None, job.run)
        cancelled: Optional[asyncio.CancelledError] = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
                if job.withdraw():
                    future.cancel()
                    break
        try:
            if cancelled is None:
                return cast(_T, future.result())
            if not future.cancelled():
                future.exception()  # otherwise asyncio logs that nobody has seen it
            raise cancelled
        finally:
            del cancelled, future  # their exceptions hold this frame


class _Job(Generic[_T]):
    """A call that can be withdrawn until it has begun, by whichever thread it is to run in."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._taken = threading.Lock()

    def run(self) -> Optional[_T]:
        """Calls the function, unless the call was withdrawn."""
        return self._work() if self._taken.acquire(blocking=False) else None

    def withdraw(self) -> bool:
        """Returns whether the call had not begun; it never will then."""
        return self._taken.acquire(blocking=False)
