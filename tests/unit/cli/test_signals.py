# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Signals that end a command when it has printed what it still has."""

from __future__ import annotations

import signal
import time

import pytest

from pymemcgbpf._cli import signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONG = 300.0


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_interrupts_a_wait_alone(number: signal.Signals) -> None:
    kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    before = signal.getsignal(number)
    with signals.end_after_a_wait() as wait:
        assert wait(0) is None
        signal.raise_signal(number)  # such as while a line is printed
        began = time.monotonic()
        end = wait(LONG)
        assert time.monotonic() - began < LONG / 2
        assert type(end) is kind and wait(LONG) is end
        if isinstance(end, SystemExit):
            assert end.code == 128 + number
        with pytest.raises(kind):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_signal_during_the_wait() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with signals.end_after_a_wait() as wait:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert isinstance(wait(LONG), SystemExit)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.end_after_a_wait() as wait:
            signal.raise_signal(signal.SIGHUP)
            assert wait(0) is None
    finally:
        signal.signal(signal.SIGHUP, before)
