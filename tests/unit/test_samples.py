# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""every() of the readers: at which times it reads, and what ends it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import signal
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Optional, Union

import pytest

from pymemcgbpf import (
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    PinnedReader,
    Snapshot,
    StatsReader,
    TreeReader,
    _samples,
    _wire,
)
from pymemcgbpf._closable import Closable

from .children import ended
from .conftest import Choose, RunPython
from .fake_sources import Sources
from .pin_files import ROW, TREE, pinned_file, stream
from .tree_rows import FakeTree, Trees, pack

LONG = 1000.0  # seconds that no test waits for
SOON = 10.0  # seconds within which everything happens that is to happen at once


class Numbers(Closable):
    """A reader of 0, 1, 2, …, which fails or waits as the test asks."""

    def __init__(self) -> None:
        super().__init__("/numbers")
        self.reads = 0
        self.error: Optional[BaseException] = None
        self.hold: Optional[threading.Event] = None
        self.entered = threading.Event()
        self.during: Callable[[], object] = lambda: None
        self.threads: set[int] = set()

    def read(self) -> int:
        if self._wakers is None:
            raise self._closed()
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.during()
        if self.hold is not None:
            assert self.hold.wait(SOON)
        if self.error is not None:
            raise self.error
        self.reads += 1
        return self.reads - 1

    def every(self, seconds: float) -> _samples.Samples[int]:
        return _samples.Samples(self, self.read, seconds)

    def close(self) -> None:
        self._wake_all()


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


class Clock:
    """Stands in for the module time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(_samples, "time", self)

    def monotonic(self) -> float:
        return self.now


def when(interval: float, took: list[float], clock: Clock) -> list[float]:
    """When each sample is taken, after the first."""
    ticks, began, found = _samples.Ticks(interval), clock.now, []
    for spent in took:
        clock.now += ticks.delay()
        found.append(round(clock.now - began, 6))
        ticks.take()
        clock.now += spent
    return found


# --- when -----------------------------------------------------------------------------


def test_samples_do_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert when(0.1, [0.03] * 50, clock) == [round(at / 10, 6) for at in range(50)]


def test_missed_samples_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two are missed while the second sample takes long; the next is in time again.
    assert when(1, [0.1, 2.5, 0.1, 0.1, 0.1], Clock(monkeypatch)) == [0, 1, 3.5, 4, 5]


def test_a_wait_that_is_given_up_delays_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ticks = _samples.Ticks(5)
    assert ticks.delay() == 0
    ticks.take()
    for left in (5, 3, 1, 0, 0):
        assert ticks.delay() == left
        clock.now += 2


def test_a_tick_that_comes_a_little_early_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ticks = _samples.Ticks(1)
    ticks.delay()
    ticks.take()
    clock.now += 0.999
    ticks.take()
    assert ticks.delay() == pytest.approx(1.001)


def test_the_shortest_interval_is_that_of_the_clock() -> None:
    ticks = _samples.Ticks(5e-324)
    ticks.delay()
    for _ in range(3):
        time.sleep(0.001)
        ticks.take()
        assert ticks.delay() == 0


def test_the_first_sample_is_immediate_and_the_others_wait(numbers: Numbers) -> None:
    began = time.monotonic()
    times = []
    for number in numbers.every(0.01):
        times.append(time.monotonic() - began)
        if number == 3:
            break
    assert all(at >= n * 0.01 for n, at in enumerate(times)) and numbers.reads == 4
    assert times[0] < SOON


# --- what is refused ------------------------------------------------------------------


def test_seconds_are_a_finite_number_above_0(numbers: Numbers) -> None:
    wrong: list[Any] = [0, -1, 0.0, float("nan"), float("inf"), -float("inf"), 10**400]
    for seconds in wrong:
        with pytest.raises(ValueError, match="seconds must be a finite number above 0, not "):
            numbers.every(seconds)
    wrong = ["5", b"5", None, [5], 1j, True, False]
    for seconds in wrong:
        with pytest.raises(TypeError):
            numbers.every(seconds)
    for seconds in (1, 0.5, Fraction(1, 2), 1e300):
        assert next(numbers.every(seconds)) >= 0  # type: ignore[arg-type]


def test_a_closed_reader_is_refused(numbers: Numbers) -> None:
    numbers.close()
    with pytest.raises(ClosedError, match="this reader of /numbers is closed"):
        numbers.every(1)


# --- what ends it ---------------------------------------------------------------------


def test_a_loop_ends_when_its_body_closes_the_reader(numbers: Numbers) -> None:
    found = []
    for number in numbers.every(LONG):
        found.append(number)
        numbers.close()
    assert found == [0]


def test_a_loop_whose_reader_is_closed_before_it_begins_has_no_sample(numbers: Numbers) -> None:
    samples = numbers.every(LONG)
    numbers.close()
    assert list(samples) == list(samples) == []


def started(*work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    return threads


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_all_loops_end_when_another_thread_closes_the_reader(numbers: Numbers) -> None:
    found: list[list[int]] = []
    threads = started(*[lambda: found.append(list(numbers.every(LONG)))] * 5)
    wait_until(lambda: numbers._wakers and len(numbers._wakers) == 5)
    numbers.close()
    for thread in threads:
        thread.join(SOON)
    assert sorted(number for each in found for number in each) == [0, 1, 2, 3, 4]
    numbers.close()  # again


@pytest.fixture
def close_on_alarm() -> Iterator[Callable[[Closable, float], None]]:
    """Has a signal handler close a reader after so many seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def close_after(reader: Closable, seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: reader.close())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield close_after
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_loop_ends_when_a_signal_handler_closes_the_reader(
    numbers: Numbers, close_on_alarm: Callable[[Closable, float], None]
) -> None:
    close_on_alarm(numbers, 0.01)
    assert list(numbers.every(LONG)) == [0]


def test_a_signal_handler_may_close_the_reader_at_any_moment(
    close_on_alarm: Callable[[Closable, float], None],
) -> None:
    for number in range(300):
        numbers = Numbers()
        samples = numbers.every(1e-4 if number % 2 else LONG)
        close_on_alarm(numbers, 1e-6 * (1 + number))
        for _ in samples:
            pass
        assert numbers._wakers is None


def test_a_read_that_fails_because_a_handler_closes_the_reader_is_no_error(
    numbers: Numbers,
) -> None:
    for error in (MemcgError("closed by other code"), ValueError("closed file")):
        numbers = Numbers()
        numbers.during, numbers.error = numbers.close, error
        assert list(numbers.every(LONG)) == []


def test_errors_of_a_read_pass_through(numbers: Numbers) -> None:
    samples = numbers.every(0.001)
    assert next(samples) == 0
    for error in (CgroupRemovedError("gone"), ValueError("no"), KeyboardInterrupt()):
        numbers.error = error
        with pytest.raises(type(error)) as caught:
            next(samples)
        assert caught.value is error
    numbers.error = None
    assert next(samples) == 1


def test_nothing_is_kept_of_a_loop_that_is_left(numbers: Numbers) -> None:
    for number in numbers.every(0.001):
        if number == 2:
            break
    assert numbers._wakers == set()


# --- asyncio --------------------------------------------------------------------------


def test_an_asynchronous_loop_reads_in_a_thread(numbers: Numbers) -> None:
    """The event loop runs meanwhile."""
    numbers.hold = hold = threading.Event()

    async def release() -> None:
        while not numbers.entered.is_set():
            await asyncio.sleep(0)
        hold.set()

    async def main() -> list[int]:
        found = []
        task = asyncio.ensure_future(release())
        async for number in numbers.every(0.001):
            found.append(number)
            if number == 2:
                break
        await task
        return found

    assert asyncio.run(main()) == [0, 1, 2]
    assert threading.get_ident() not in numbers.threads
    assert numbers._wakers == set()


def others() -> set[asyncio.Task[Any]]:
    """The tasks of the loop that are not this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def collected(samples: AsyncIterator[int]) -> list[int]:
    return [number async for number in samples]


@pytest.mark.parametrize("who", ["a task", "a thread", "a signal handler"])
def test_asynchronous_loops_end_when_the_reader_is_closed(
    who: str, numbers: Numbers, close_on_alarm: Callable[[Closable, float], None]
) -> None:
    async def main() -> list[list[int]]:
        tasks = [asyncio.ensure_future(collected(numbers.every(LONG))) for _ in range(3)]
        while not numbers._wakers or len(numbers._wakers) < 3:
            await asyncio.sleep(0.001)
        if who == "a task":
            numbers.close()
        elif who == "a thread":
            started(numbers.close)
        else:
            close_on_alarm(numbers, 0.01)
        found = await asyncio.wait_for(asyncio.gather(*tasks), SOON)
        assert not others()
        return found

    assert sorted(asyncio.run(main())) == [[0], [1], [2]]


def test_closing_ends_both_kinds_of_loops_over_one_reader(numbers: Numbers) -> None:
    found: list[int] = []
    (thread,) = started(lambda: found.extend(numbers.every(LONG)))
    wait_until(lambda: numbers._wakers)

    async def main() -> None:
        async for number in numbers.every(LONG):
            found.append(number)
            numbers.close()

    asyncio.run(main())
    thread.join(SOON)
    assert found == [0, 1]


def test_a_read_that_has_not_begun_is_withdrawn(numbers: Numbers) -> None:
    """However long the threads of the loop are busy."""
    busy = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        other = loop.run_in_executor(None, busy.wait, 30)
        task = asyncio.ensure_future(collected(numbers.every(LONG)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SOON)
        busy.set()
        await other

    asyncio.run(main())
    assert numbers.read() == 0, "nothing was read"


def test_a_failed_read_leaves_no_cycle() -> None:
    """The reader is freed without the garbage collector."""

    def fail() -> None:
        raise CgroupRemovedError("gone")

    async def main(reader: Numbers) -> None:
        with contextlib.suppress(CgroupRemovedError):
            await reader.every(LONG).__anext__()

    gc.collect()
    gc.disable()
    try:
        reader = Numbers()
        reader.during = fail
        asyncio.run(main(reader))
        freed = weakref.ref(reader)
        del reader
        assert freed() is None
    finally:
        gc.enable()


def test_a_cancelled_wait_leaves_nothing(numbers: Numbers) -> None:
    async def main() -> None:
        samples = numbers.every(LONG)
        task = asyncio.ensure_future(collected(samples))
        while not numbers._wakers:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert numbers._wakers == set() and not others()
        timers: Any = asyncio.get_running_loop()
        assert all(timer.cancelled() for timer in timers._scheduled)

    asyncio.run(main())


@pytest.mark.parametrize("error", [None, CgroupRemovedError("gone")])
@pytest.mark.parametrize("times", [1, 3])
def test_a_read_is_over_before_its_cancellation_is(
    error: Optional[BaseException], times: int, numbers: Numbers
) -> None:
    numbers.hold, numbers.error = threading.Event(), error
    complaints = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.ensure_future(collected(numbers.every(LONG)))
        while not numbers.entered.is_set():
            await asyncio.sleep(0.001)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.001)
            assert not task.done()
        assert numbers.hold is not None
        numbers.hold.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not others()

    asyncio.run(main())
    assert numbers.reads == (error is None) and complaints == []


def test_a_wait_that_a_timeout_ends_delays_no_sample(numbers: Numbers) -> None:
    async def main() -> list[int]:
        samples = numbers.every(0.02)
        found: list[int] = []
        while len(found) < 3:
            with contextlib.suppress(asyncio.TimeoutError):
                found.append(await asyncio.wait_for(samples.__anext__(), 0.003))
        return found

    found = asyncio.run(main())  # some reads may have been given up, too
    assert found == sorted(found)


def test_errors_pass_through_an_asynchronous_loop(numbers: Numbers) -> None:
    numbers.error = CgroupRemovedError("gone")
    with pytest.raises(CgroupRemovedError) as caught:
        asyncio.run(collected(numbers.every(LONG)))
    assert caught.value is numbers.error


def test_a_reader_may_be_closed_when_the_event_loop_is(numbers: Numbers) -> None:
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(collected(numbers.every(LONG)))
    while not numbers._wakers:
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    numbers.close()
    task._log_destroy_pending = False


def test_the_synchronous_form_does_not_import_asyncio(run_python: RunPython) -> None:
    code = (
        "import sys\n"
        "from pymemcgbpf import PinnedReader, StatsReader, TreeReader, _samples, _closable\n"
        "class R(_closable.Closable):\n"
        "    def read(self):\n"
        "        if self._wakers is None: raise self._closed()\n"
        "        self._wake_all(); return 5\n"
        "r = R('r')\n"
        "print(list(_samples.Samples(r, r.read, 1)), 'asyncio' in sys.modules)\n"
    )
    assert run_python("-S", "-c", code).stdout == "[5] False\n"


# --- fork -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loop_continues_in_a_forked_child(numbers: Numbers) -> None:
    (thread,) = started(lambda: list(numbers.every(LONG)))
    wait_until(lambda: numbers._wakers)
    samples = numbers.every(0.005)
    assert next(samples) == 1

    def child() -> None:
        assert [next(samples), next(samples)] == [2, 3]
        numbers.close()
        assert list(samples) == []

    assert ended(child) == 0
    assert next(samples) == 2, "the parent's reader is still open"
    assert thread.is_alive()
    numbers.close()
    thread.join(SOON)
    assert not thread.is_alive()


# --- the readers ----------------------------------------------------------------------


@pytest.fixture
def tree_reader(v2: Path, choose_with: Callable[[Choose], None]) -> Iterator[TreeReader]:
    data = pack(_wire.RawRow(7, 1, 2, 0, (1, 2)))
    choose_with(Trees(FakeTree(data, 1)).choose)
    with TreeReader(v2) as tree:
        yield tree


@pytest.fixture
def stats_reader(v2: Path, choose_with: Callable[[Choose], None]) -> Iterator[StatsReader]:
    choose_with(Sources().choose)
    with StatsReader(v2) as reader:
        yield reader


@pytest.fixture(params=["stats", "tree", "pin"])
def reader(
    request: pytest.FixtureRequest, tmp_path: Path, on_bpffs: None
) -> Union[StatsReader, TreeReader, PinnedReader]:
    """A reader of each kind."""
    if request.param == "pin":
        return PinnedReader(pinned_file(tmp_path / "one", stream([ROW])))
    made: Union[StatsReader, TreeReader] = request.getfixturevalue(f"{request.param}_reader")
    return made


def test_every_reader_can_read_at_an_interval(
    reader: Union[StatsReader, TreeReader, PinnedReader],
) -> None:
    found: list[object] = []
    for values in reader.every(0.001):
        found.append(values)
        if len(found) == 3:
            reader.close()
    assert len(found) == 3
    if isinstance(reader, TreeReader):
        assert all(isinstance(values, Snapshot) for values in found)
    else:
        assert all(isinstance(values, dict) for values in found)
    with pytest.raises(ClosedError, match=r"this reader of .* is closed"):
        reader.every(1)


def test_every_reader_can_read_at_an_interval_in_an_event_loop(
    reader: Union[StatsReader, TreeReader, PinnedReader],
) -> None:
    async def main() -> int:
        found = 0
        async for _ in reader.every(0.001):
            found += 1
            if found == 3:
                reader.close()
        return found

    assert asyncio.run(main()) == 3


def test_a_waiting_loop_ends_when_its_reader_is_closed(
    reader: Union[StatsReader, TreeReader, PinnedReader],
) -> None:
    (thread,) = started(lambda: list(reader.every(LONG)))
    wait_until(lambda: reader._wakers)
    reader.close()
    thread.join(SOON)
    assert not thread.is_alive()


def test_every_reader_refuses_unsuitable_seconds(
    reader: Union[StatsReader, TreeReader, PinnedReader],
) -> None:
    with pytest.raises(ValueError, match="seconds must be"):
        reader.every(0)
    reader.close()


def test_a_tree_may_be_read_into_views(tree_reader: TreeReader) -> None:
    samples = tree_reader.every(0.001, copy=False)
    first, second = next(samples), next(samples)
    assert second[0]["anon"] == 1
    with pytest.raises(ClosedError, match="its reader has read again since"):
        first[0]["anon"]


def test_a_pinned_tree_yields_snapshots(tmp_path: Path, on_bpffs: None) -> None:
    with PinnedReader(pinned_file(tmp_path / "tree", stream(TREE, order=2))) as reader:
        assert isinstance(next(reader.every(1)), Snapshot)
