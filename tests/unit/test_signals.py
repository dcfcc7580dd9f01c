# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Signals wait while something is made."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Optional

import pytest

from pymemcgbpf import _signals
from pymemcgbpf._signals import held_back

from .conftest import RunPython

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGINT)
FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
}


class HandlerError(Exception):
    """What a handler raises."""


class Handlers:
    """Notes which signals were handled, and raises if it should."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.raises = False

    def __call__(self, number: int, frame: Optional[FrameType]) -> None:
        self.handled.append(number)
        if self.raises:
            raise HandlerError


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    made = Handlers()
    before = {number: signal.signal(number, made) for number in SIGNALS}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _mask_as_it_was() -> Iterator[None]:
    before = blocked()
    yield
    assert blocked() == before


def blocked() -> set[int]:
    """The signals that wait in this thread."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def send(number: int) -> None:
    """To this thread alone."""
    signal.pthread_kill(threading.get_ident(), number)


def send_all() -> None:
    for number in SIGNALS:
        send(number)


def test_the_result_of_the_work_is_returned() -> None:
    made = object()
    assert held_back(lambda: made) is made


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_until_the_work_is_done(number: int, handlers: Handlers) -> None:
    def work() -> list[int]:
        send(number)
        os.kill(os.getpid(), number)  # one that is sent to the process waits as well
        for _ in range(1000):
            pass
        return list(handlers.handled)

    assert held_back(work) == [], "not while it works"
    assert handlers.handled and set(handlers.handled) == {number}


def test_signals_that_arrive_during_the_work_are_handled_after_it(handlers: Handlers) -> None:
    held_back(send_all)
    assert sorted(handlers.handled) == sorted(SIGNALS)


def test_all_signals_but_faults_are_blocked_during_the_work() -> None:
    assert blocked() & {*SIGNALS, *FAULTS} == set()
    during = held_back(blocked)
    unstoppable = {signal.SIGKILL, signal.SIGSTOP}
    assert during == set(signal.valid_signals()) - FAULTS - unstoppable
    assert blocked() & {*SIGNALS, *FAULTS} == set()


def test_a_fault_is_not_held_back(run_python: RunPython) -> None:
    # The kernel would kill the process anyway, and no handler could report the place.
    code = (
        "import os, signal\n"
        "from pymemcgbpf._signals import held_back\n"
        "def work():\n"
        "    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):\n"
        "        signal.signal(number, lambda *_: print(number.name))\n"
        "        os.kill(os.getpid(), number)\n"
        "    print('done')\n"
        "held_back(work)\n"
    )
    ran = run_python("-c", code)
    assert ran.stdout == "SIGSEGV\nSIGBUS\nSIGFPE\nSIGILL\ndone\n", ran.stderr


def test_the_earlier_mask_is_restored() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        mine = blocked()
        assert signal.SIGUSR2 in mine and signal.SIGUSR1 not in mine
        held_back(lambda: None)
        assert blocked() == mine
        held_back(lambda: held_back(lambda: None))
        assert blocked() == mine
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_nested_call_does_not_unblock_the_outer_one_s_signals(handlers: Handlers) -> None:
    def work() -> list[int]:
        send(signal.SIGUSR1)
        held_back(lambda: send(signal.SIGUSR2))
        return list(handlers.handled)

    assert held_back(work) == []
    assert sorted(handlers.handled) == sorted({signal.SIGUSR1, signal.SIGUSR2})


@pytest.mark.parametrize("error", [RuntimeError("work"), KeyboardInterrupt(), SystemExit(3)])
def test_the_mask_is_restored_after_an_exception(error: BaseException, handlers: Handlers) -> None:
    before = blocked()

    def work() -> None:
        send(signal.SIGUSR1)
        assert handlers.handled == []
        raise error

    with pytest.raises(type(error)) as caught:
        held_back(work)
    assert caught.value is error
    assert handlers.handled == [signal.SIGUSR1]
    assert blocked() == before


def test_the_mask_is_restored_if_a_handler_raises_after_the_work(handlers: Handlers) -> None:
    handlers.raises = True
    before = blocked()
    done: list[str] = []

    def work() -> str:
        send(signal.SIGUSR1)
        done.append("made")
        return "lost"

    with pytest.raises(HandlerError):
        held_back(work)
    assert done == ["made"] and handlers.handled == [signal.SIGUSR1]
    assert blocked() == before


def test_an_exception_of_a_handler_has_that_of_the_work_as_its_context(handlers: Handlers) -> None:
    handlers.raises = True
    before = blocked()

    def work() -> None:
        send(signal.SIGUSR1)
        raise RuntimeError("work")

    with pytest.raises(HandlerError) as caught:
        held_back(work)
    assert isinstance(caught.value.__context__, RuntimeError)
    assert blocked() == before


def test_the_mask_is_restored_if_many_handlers_raise(handlers: Handlers) -> None:
    handlers.raises = True
    before = blocked()
    with pytest.raises(HandlerError):
        held_back(send_all)
    handlers.raises = False
    assert blocked() == before
    assert sorted(handlers.handled) == sorted(SIGNALS), "each handler ran"


def test_the_mask_is_restored_if_a_handler_raises_at_the_start(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrived too late for Python to run its handler before the call."""
    handlers.raises = True
    before = blocked()
    began: list[str] = []
    real: Any = sys.modules["_signal"]
    masks: list[object] = []

    class Signal:
        """The module: the handler runs in the call that blocks the signals."""

        SIG_BLOCK, SIG_SETMASK = real.SIG_BLOCK, real.SIG_SETMASK

        @staticmethod
        def pthread_sigmask(how: int, mask: object) -> object:
            masks.append(mask)
            found = real.pthread_sigmask(how, mask)
            if len(masks) == 2:
                handlers(signal.SIGUSR1, None)
            return found

    monkeypatch.setattr(_signals, "_signal", Signal)
    with pytest.raises(HandlerError):
        held_back(lambda: began.append("work"))
    assert blocked() == before
    assert began == [] and len(masks) >= 3


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_the_mask_is_restored_if_a_handler_raises_before_any_call(
    call: int, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another thread's signal, which is none of those that wait here."""
    before = blocked()
    real: Any = sys.modules["_signal"]
    calls = 0

    class Signal:
        SIG_BLOCK, SIG_SETMASK = real.SIG_BLOCK, real.SIG_SETMASK

        @staticmethod
        def pthread_sigmask(how: int, mask: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise HandlerError
            return real.pthread_sigmask(how, mask)

    monkeypatch.setattr(_signals, "_signal", Signal)
    with pytest.raises(HandlerError):
        held_back(lambda: None)
    assert calls >= call
    assert blocked() == before


def test_a_signal_that_the_caller_blocked_stays_pending(handlers: Handlers) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        send(signal.SIGUSR1)
        held_back(lambda: None)
        assert handlers.handled == [], "the caller blocked it, so it stays pending"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert handlers.handled == [signal.SIGUSR1]


def test_a_signal_that_arrives_just_before_is_handled(handlers: Handlers) -> None:
    for number in SIGNALS:
        signal.raise_signal(number)
        held_back(lambda: None)
    assert handlers.handled == list(SIGNALS)


def test_a_timer_of_a_millisecond_does_not_interrupt_the_work(handlers: Handlers) -> None:
    """The kernel's verifier gives up while a signal is pending and could be delivered."""
    disturbed: list[int] = []

    def work() -> None:
        before = len(handlers.handled)
        while len(signal.sigpending()) == 0:
            disturbed.extend(handlers.handled[before:])

    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(20):
            held_back(work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert disturbed == []
    assert len(handlers.handled) >= 20


def test_a_thread_holds_back_only_its_own_signals(handlers: Handlers) -> None:
    inside, leave = threading.Event(), threading.Event()
    seen: list[set[int]] = []
    pending: list[bool] = []

    def work() -> None:
        send(signal.SIGUSR1)
        pending.append(signal.SIGUSR1 in signal.sigpending())
        inside.set()
        assert leave.wait(30)

    def in_thread() -> None:
        seen.append(blocked())
        held_back(work)
        seen.append(blocked())

    thread = threading.Thread(target=in_thread)
    thread.start()
    assert inside.wait(30)
    assert handlers.handled == [], "the thread's waits"
    send(signal.SIGUSR2)
    assert handlers.handled == [signal.SIGUSR2], "this thread's does not"
    leave.set()
    thread.join()
    assert pending == [True]
    assert seen[0] == seen[1]
    # Python runs all handlers in the main thread.
    assert handlers.handled == [signal.SIGUSR2, signal.SIGUSR1]


def test_no_python_code_of_the_standard_library_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler could run in it, and raise."""
    called: list[str] = []
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: called.append("sigmask"))
    assert held_back(lambda: 5) == 5
    monkeypatch.undo()
    assert called == []
