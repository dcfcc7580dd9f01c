# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What libbpf prints: collected, sent to logging, and the process's own function put back."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

from pymemcgbpf import MemcgError, _libbpf

from .printing import say

GARBAGE = b"not an ELF file" * 20
LOGGER = "pymemcgbpf.libbpf"


def make_libbpf_complain() -> None:
    """One warning and one line of debug text, at least."""
    with pytest.raises(MemcgError):
        _libbpf.load().bpf_object__open_mem(GARBAGE, len(GARBAGE), None)


def test_text_is_collected_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER), _libbpf.messages() as lines:
        make_libbpf_complain()
    assert any(line.startswith("libbpf: ") for line in lines)
    assert [record.getMessage() for record in caplog.records] == [
        line.rstrip("\n") for line in lines
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_arguments_are_formatted() -> None:
    with _libbpf.messages() as lines:
        make_libbpf_complain()
    assert lines and not any("%" in line for line in lines)


@pytest.mark.parametrize(("level", "wanted"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_debug_text_comes_only_where_it_is_wanted(
    level: int, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(level, LOGGER), _libbpf.messages() as lines:
        say(2, b"libbpf: a detail\n")
    assert ("libbpf: a detail\n" in lines) is wanted
    assert ("libbpf: a detail" in caplog.messages) is wanted


@pytest.mark.parametrize(
    ("level", "logged"),
    [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (9, logging.DEBUG)],
)
def test_levels(level: int, logged: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER), _libbpf.messages():
        say(level, b"words\n")
    assert [record.levelno for record in caplog.records] == [logged]


def test_a_long_text_is_kept_whole() -> None:
    text = b"insn\n" * 400_000  # as long as a verifier's log may be
    with _libbpf.messages() as lines:
        say(0, text)
    assert lines == [text.decode()]


def test_text_that_is_not_utf_8_does_no_harm() -> None:
    with _libbpf.messages() as lines:
        say(0, b"caf\xe9\n")
    assert lines == ["caf\N{REPLACEMENT CHARACTER}\n"]


def test_a_failing_log_handler_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("handler")

    handler = Broken()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        with _libbpf.messages() as lines:
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
    address = ctypes.cast(_libbpf._print_callback, ctypes.c_void_p).value
    assert address
    return address


def test_the_print_function_is_put_back() -> None:
    before = current_function()
    assert before != ours()
    with _libbpf.messages():
        assert current_function() == ours()
        with _libbpf.messages():
            assert current_function() == ours()
        assert current_function() == ours(), "the outer one still listens"
    assert current_function() == before


def test_the_print_function_is_put_back_after_an_exception() -> None:
    before = current_function()
    with pytest.raises(RuntimeError), _libbpf.messages():
        raise RuntimeError("inside")
    assert current_function() == before
    assert _libbpf._messages.lines is None


def test_the_inner_list_takes_what_is_said_inside() -> None:
    with _libbpf.messages() as outer:
        say(0, b"before\n")
        with _libbpf.messages() as inner:
            say(0, b"inside\n")
        say(0, b"after\n")
    assert (outer, inner) == (["before\n", "after\n"], ["inside\n"])


def test_a_thread_hears_only_itself() -> None:
    theirs: list[str] = []

    def other() -> None:
        with _libbpf.messages() as lines:
            say(0, b"theirs\n")
            theirs.extend(lines)

    with _libbpf.messages() as mine:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        say(0, b"mine\n")
    assert (mine, theirs) == (["mine\n"], ["theirs\n"])


def test_a_signal_handlers_exception_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """C cannot pass it on, and ctypes would only print it."""

    def interrupted(text: bytes, arguments: int) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_libbpf, "_format", interrupted)
    with pytest.raises(KeyboardInterrupt), _libbpf.messages():
        say(0, b"libbpf: a warning")
    with _libbpf.messages():
        pass  # raised once only


def test_what_succeeds_runs_without_messages_and_what_fails_runs_again_for_them() -> None:
    runs: list[Optional[int]] = []

    def work(lines: list[str]) -> int:
        runs.append(current_function())
        say(0, b"libbpf: about to fail")
        if len(runs) < 2:
            raise MemcgError("no")
        return len(lines)

    before = current_function()
    assert _libbpf.explained(work) == 1
    assert runs == [_libbpf.load().no_print, ours()]
    assert current_function() == before


@contextlib.contextmanager
def another_user() -> Iterator[list[bytes]]:
    """Another user of libbpf in this process has set its print function; what it hears."""
    heard: list[bytes] = []

    def listen(level: int, text: bytes, arguments: int) -> int:
        heard.append(text)
        return 0

    theirs = _libbpf.PrintFn(listen)
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


def test_another_user_s_message_goes_to_its_own_function() -> None:
    with another_user() as heard, _libbpf.messages() as mine:
        in_another_thread(lambda: say(0, b"libbpf: for somebody else"))
    assert heard == [b"libbpf: for somebody else"]
    assert mine == []


def test_a_silent_thread_stays_silent_while_another_listens() -> None:
    with another_user() as heard, _libbpf.messages():
        in_another_thread(lambda: _libbpf.explained(lambda _: say(0, b"libbpf: in silence")))
    assert heard == []
