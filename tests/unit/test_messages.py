# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What libbpf prints: collected, sent to logging, and the process's own function put back."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_log as _libbpf_log

from .printing import say

GARBAGE = b"not an ELF file" * 20
LOGGER = "pymemcgbpf.libbpf"


def make_libbpf_complain() -> None:
    """One warning and one line of debug text, at least."""
    with pytest.raises(MemcgError):
        _libbpf.load().bpf_object__open_mem(GARBAGE, len(GARBAGE), None)


def test_messages_are_collected_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER), _libbpf_log.messages() as lines:
        make_libbpf_complain()
    assert any(line.startswith("libbpf: ") for line in lines)
    assert [record.getMessage() for record in caplog.records] == [
        line.rstrip("\n") for line in lines
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_the_arguments_of_a_message_are_formatted() -> None:
    with _libbpf_log.messages() as lines:
        make_libbpf_complain()
    assert lines and not any("%" in line for line in lines)


@pytest.mark.parametrize(("level", "wanted"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_debug_messages_are_collected_only_at_the_debug_level(
    level: int, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(level, LOGGER), _libbpf_log.messages() as lines:
        say(2, b"libbpf: a detail\n")
    assert ("libbpf: a detail\n" in lines) is wanted
    assert ("libbpf: a detail" in caplog.messages) is wanted


@pytest.mark.parametrize(
    ("level", "logged"),
    [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (9, logging.DEBUG)],
)
def test_libbpf_s_levels_become_those_of_logging(
    level: int, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER), _libbpf_log.messages():
        say(level, b"words\n")
    assert [record.levelno for record in caplog.records] == [logged]


def test_a_long_message_is_collected_whole() -> None:
    text = b"insn\n" * 400_000  # as long as a verifier's log may be
    with _libbpf_log.messages() as lines:
        say(0, text)
    assert lines == [text.decode()]


def test_a_message_that_is_not_utf_8_is_collected() -> None:
    with _libbpf_log.messages() as lines:
        say(0, b"caf\xe9\n")
    assert lines == ["caf\N{REPLACEMENT CHARACTER}\n"]


def test_a_failing_log_handler_loses_no_message(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("handler")

    handler = Broken()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        with _libbpf_log.messages() as lines:
            say(0, b"words\n")
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
    assert lines == ["words\n"]


def current_function() -> Optional[int]:
    """The print function that libbpf has now."""
    lib = _libbpf.load()
    now: Optional[int] = lib.libbpf_set_print(None)
    lib.libbpf_set_print(now)
    return now


def ours() -> int:
    address = ctypes.cast(_libbpf_log._print_callback, ctypes.c_void_p).value
    assert address
    return address


def test_the_print_function_is_put_back() -> None:
    before = current_function()
    assert before != ours()
    with _libbpf_log.messages():
        assert current_function() == ours()
        with _libbpf_log.messages():
            assert current_function() == ours()
        assert current_function() == ours(), "the outer one still listens"
    assert current_function() == before


def test_the_print_function_is_put_back_after_an_exception() -> None:
    before = current_function()
    with pytest.raises(RuntimeError), _libbpf_log.messages():
        raise RuntimeError("inside")
    assert current_function() == before
    assert _libbpf_log._messages.lines is None


def test_nested_collections_keep_their_own_messages() -> None:
    with _libbpf_log.messages() as outer:
        say(0, b"before\n")
        with _libbpf_log.messages() as inner:
            say(0, b"inside\n")
        say(0, b"after\n")
    assert (outer, inner) == (["before\n", "after\n"], ["inside\n"])


def test_a_thread_collects_only_its_own_messages() -> None:
    theirs: list[str] = []

    def other() -> None:
        with _libbpf_log.messages() as lines:
            say(0, b"theirs\n")
            theirs.extend(lines)

    with _libbpf_log.messages() as mine:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        say(0, b"mine\n")
    assert (mine, theirs) == (["mine\n"], ["theirs\n"])


def test_an_exception_of_a_signal_handler_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """C cannot pass it on, and ctypes would only print it."""

    def interrupted(text: bytes, arguments: int) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_libbpf_log, "_format", interrupted)
    with pytest.raises(KeyboardInterrupt), _libbpf_log.messages():
        say(0, b"libbpf: a warning")
    with _libbpf_log.messages():
        pass  # raised once only


def test_work_that_fails_runs_again_to_collect_its_messages() -> None:
    runs: list[Optional[int]] = []

    def work(lines: list[str]) -> int:
        runs.append(current_function())
        say(0, b"libbpf: about to fail")
        if len(runs) < 2:
            raise MemcgError("no")
        return len(lines)

    before = current_function()
    assert _libbpf_log.run_with_log(work) == 1
    assert runs == [_libbpf.load().no_print, ours()]
    assert current_function() == before


@contextlib.contextmanager
def another_user() -> Iterator[list[bytes]]:
    """Another user of libbpf in this process has set its print function; what it hears."""
    heard: list[bytes] = []

    def listen(level: int, text: bytes, arguments: int) -> int:
        heard.append(text)
        return 0

    theirs = _libbpf_log.PrintFn(listen)
    lib = _libbpf.load()
    before = lib.libbpf_set_print(ctypes.cast(theirs, ctypes.c_void_p))
    try:
        yield heard
    finally:
        put_back = lib.libbpf_set_print(before)
    assert put_back == ctypes.cast(theirs, ctypes.c_void_p).value


def in_another_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_message_of_another_user_goes_to_that_user_s_function() -> None:
    with another_user() as heard, _libbpf_log.messages() as mine:
        in_another_thread(lambda: say(0, b"libbpf: for somebody else"))
    assert heard == [b"libbpf: for somebody else"]
    assert mine == []


def test_a_silent_thread_stays_silent_while_another_collects() -> None:
    with another_user() as heard, _libbpf_log.messages():
        in_another_thread(lambda: _libbpf_log.run_with_log(lambda _: say(0, b"libbpf: in silence")))
    assert heard == []


# --- never lost -----------------------------------------------------------------------


class Replaced(list[Optional[int]]):
    """What libbpf_set_print() has returned; a signal handler raises right after one of the calls.

    That is as soon as any Python code runs again: its result is in the list by then.
    """

    def __init__(self, raise_after: int) -> None:
        super().__init__()
        self.calls, self._raise_after = 0, raise_after

    def extend(self, results: Iterable[Optional[int]]) -> None:
        super().extend(results)
        self.calls += 1
        if self.calls == self._raise_after:
            raise KeyboardInterrupt


def calls_of(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How often some work calls libbpf_set_print()."""
    replaced = Replaced(0)
    with monkeypatch.context() as patch:
        patch.setattr(_libbpf_log, "_print_replaced", replaced)
        work()
    return replaced.calls


def interrupted(
    work: Callable[[], object], after_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Does some work, and has it interrupted after that call."""
    with monkeypatch.context() as patch:
        patch.setattr(_libbpf_log, "_print_replaced", Replaced(after_call))
        with pytest.raises(KeyboardInterrupt):
            work()
    _libbpf_log._print_replaced.clear()


def silently() -> None:
    with _libbpf_log.silence():
        pass


def listening() -> None:
    with _libbpf_log.messages():
        pass


def one_in_another() -> None:
    with _libbpf_log.silence(), _libbpf_log.messages(), _libbpf_log.silence():
        pass


def with_a_failure() -> None:
    def fail(lines: list[str]) -> None:
        raise MemcgError("no")

    with contextlib.suppress(MemcgError):
        _libbpf_log.run_with_log(fail)


WORKS = [silently, listening, one_in_another, with_a_failure]
Work = Callable[[], object]


def assert_unused() -> None:
    assert (_libbpf_log._print_users, _libbpf_log._print_readers) == ([], [])
    assert (_libbpf_log._messages.lines, _libbpf_log._messages.silent) == (None, False)
    free: list[bool] = []

    def take() -> None:
        free.append(_libbpf_log._print_lock.acquire(timeout=5))
        if free[0]:
            _libbpf_log._print_lock.release()

    in_another_thread(take)
    assert free == [True]


@pytest.mark.parametrize("work", WORKS)
def test_an_interrupt_during_the_replacement_does_not_lose_the_function(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_user() as heard:
        before = current_function()
        calls = calls_of(work, monkeypatch)
        assert calls >= 2
        for number in range(1, calls + 1):
            interrupted(work, number, monkeypatch)
            assert current_function() == before, f"after call {number} of {calls}"
            assert_unused()
            work()
            assert current_function() == before
        make_libbpf_complain()
        assert heard


def test_an_interrupted_silence_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with another_user() as heard:
        interrupted(silently, 1, monkeypatch)
        make_libbpf_complain()
        assert heard, "the other user hears libbpf again"
        count = len(heard)
        with _libbpf_log.silence():
            make_libbpf_complain()
        assert len(heard) == count


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_of_a_nested_use_leaves_the_outer_one_unchanged(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current_function()
    with _libbpf_log.messages() as lines:
        interrupted(listening, number, monkeypatch)
        assert current_function() == ours()
        say(0, b"still heard\n")
    assert lines == ["still heard\n"]
    assert current_function() == before
    with _libbpf_log.silence():
        interrupted(silently, number, monkeypatch)
        assert current_function() == _libbpf.load().no_print
    assert current_function() == before
    assert_unused()


def test_a_null_print_function_of_the_application_is_restored() -> None:
    """NULL silences libbpf; an application that set it finds it restored."""
    lib = _libbpf.load()
    before = lib.libbpf_set_print(None)
    try:
        for work in WORKS:
            work()
            assert current_function() is None
        with _libbpf_log.silence():
            assert current_function() == lib.no_print
            with _libbpf_log.messages():
                assert current_function() == ours()
            assert current_function() == lib.no_print
        assert current_function() is None
        with _libbpf_log.messages() as lines:
            in_another_thread(lambda: say(0, b"libbpf: for nobody"))
        assert lines == []
    finally:
        lib.libbpf_set_print(before)


@pytest.mark.parametrize("use", [_libbpf_log.silence, _libbpf_log.messages])
def test_a_signal_handler_may_collect_messages_during_a_silence(
    use: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    before = current_function()
    with _libbpf_log.silence():
        with use():
            with pytest.raises(MemcgError), use():
                raise MemcgError("inside")
            make_libbpf_complain()
        assert current_function() == _libbpf.load().no_print
    assert current_function() == before
    assert_unused()


def test_a_signal_handler_may_collect_messages_during_the_replacement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock must be one that its holder may take again."""
    real = _libbpf.load()

    class Reentrant:
        """The library: a signal handler uses ours right after each call."""

        depth = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def libbpf_set_print(self, function: Optional[int]) -> Optional[int]:
            before: Optional[int] = real.libbpf_set_print(function)
            if not self.depth:
                self.depth += 1
                one_in_another()
                self.depth -= 1
            return before

    lib = Reentrant()
    with another_user():
        before = current_function()
        with monkeypatch.context() as patch:
            patch.setattr(_libbpf, "load", lambda: lib)
            for work in WORKS:
                work()
                assert current_function() == before
    assert_unused()


def test_the_silent_print_function_can_be_called() -> None:
    """libbpf calls it with three arguments, of which it takes none."""
    address = _libbpf.load().no_print
    assert address
    assert _libbpf_log.PrintFn(address)(0, b"text", None) == _libbpf.load().libbpf_major_version()


def test_a_print_function_that_the_application_sets_during_collection_stays() -> None:
    with another_user():
        before = current_function()
        lib = _libbpf.load()
        with _libbpf_log.messages():
            lib.libbpf_set_print(None)
        assert current_function() is None
        lib.libbpf_set_print(before)
