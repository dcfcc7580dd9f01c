# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What libbpf prints: silenced, or collected and sent to ``logging``.

libbpf's print function belongs to the whole process and prints to stderr by default. It is replaced
only while this package is inside libbpf, and the application's own is restored afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from typing import Any, Callable, Optional, TypeVar

from .. import _fork
from .._records import Record
from ..errors import MemcgError
from . import libbpf as _libbpf

_DEBUG = 2  # enum libbpf_print_level: LIBBPF_DEBUG
_LEVELS = {0: 30, 1: 20, _DEBUG: 10}  # logging's WARNING, INFO and DEBUG
_LONGEST_MESSAGE = 17 << 20  # libbpf's buffer for the verifier's log has at most 16 MiB.

# int (*)(enum libbpf_print_level, const char *format, va_list args). On x86-64 and on arm64 a
# va_list is passed as one pointer.
PrintFn = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_Result = TypeVar("_Result")


def run_with_log(work: Callable[[list[str]], _Result]) -> _Result:
    """Runs *work* with libbpf silent, and if it fails, runs it again to collect libbpf's messages.

    *work* is given the list of messages, which stays empty in the first run. So the many calls that
    succeed run no Python code inside libbpf.
    """
    if not _debugging():
        try:
            with silence():
                return work([])
        except MemcgError:
            pass
    with messages() as lines:
        return work(lines)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps libbpf from printing in this thread."""
    outer = _messages.silent
    try:
        _messages.silent = True
        with _printing([], object()):
            yield
    finally:
        _messages.silent = outer


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """Collects what libbpf prints in this thread, and sends it to ``logging`` too."""
    outer = _messages.lines
    try:
        lines = _messages.lines = []
        with _printing(_print_readers, object()):
            yield lines
    finally:
        _messages.lines = outer
        raised, _messages.raised = _messages.raised, None
        if raised is not None:
            raise raised


# --- the messages ---------------------------------------------------------------------


class _Messages(threading.local):
    """The messages of this thread.

    Attributes:
        lines: what libbpf has printed since the innermost :func:`messages` began, if one did.
        silent: whether the thread is inside :func:`silence`.
        raised: what a signal handler raised while libbpf called this module. C code cannot pass an
            exception on.
    """

    def __init__(self) -> None:
        self.lines: Optional[list[str]] = None
        self.silent = False
        self.raised: Optional[BaseException] = None


_messages = _Messages()


def _logger() -> Any:
    """The logger, or None as long as nothing in this process has imported ``logging``. The import
    takes 4 ms, and no application can have asked for messages before."""
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "NullHandler"):  # It is just being imported.
        return None
    log = logging.getLogger("pymemcgbpf.libbpf")
    if not log.handlers:  # Without a handler Python prints warnings to stderr.
        log.addHandler(logging.NullHandler())
    return log


def _debugging() -> bool:
    log = _logger()
    return log is not None and bool(log.isEnabledFor(_LEVELS[_DEBUG]))


class _LibC(Record):
    malloc: Any
    free: Any
    vsnprintf: Any


@functools.cache
def _libc() -> _LibC:
    # libbpf may use errno after its print function has returned; ctypes restores it then.
    library = ctypes.CDLL(None, use_errno=True)
    functions = _LibC(library.malloc, library.free, library.vsnprintf)
    functions.malloc.restype, functions.malloc.argtypes = c_void_p, [c_size_t]
    functions.free.restype, functions.free.argtypes = None, [c_void_p]
    functions.vsnprintf.restype = c_int
    functions.vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
    return functions


def _format(text: bytes, arguments: int) -> str:
    # The verifier's log comes as one argument, and a va_list can be used only once, so the first
    # buffer must be large enough. Only the pages that are written to take memory.
    buffer = _libc().malloc(_LONGEST_MESSAGE)
    if not buffer:
        return text.decode(errors="replace")
    try:
        _libc().vsnprintf(buffer, _LONGEST_MESSAGE, text, arguments)
        return ctypes.string_at(buffer).decode(errors="replace")
    finally:
        _libc().free(buffer)


def _on_print(level: int, text: bytes, arguments: int) -> int:
    try:
        if _messages.lines is None:
            if _messages.silent:
                return 0
            # The message is for another user of libbpf in this process.
            return PrintFn(_print_before)(level, text, arguments) if _print_before else 0
        if level < _DEBUG or _debugging():
            line = _format(text, arguments)
            _messages.lines.append(line)
            log = _logger()
            if log is not None:
                log.log(_LEVELS.get(level, _LEVELS[_DEBUG]), "%s", line.rstrip("\n"))
    except Exception:
        log = _logger()
        if log is not None:
            log.debug("a message of libbpf was lost", exc_info=True)
    except BaseException as error:
        _messages.raised = error
    return 0


# --- the print function ---------------------------------------------------------------

_print_callback = PrintFn(_on_print)  # This keeps it alive for as long as libbpf may call it.
_PRINT = ctypes.cast(_print_callback, c_void_p).value
_print_lock = _fork.renewed_lock(__name__, "_print_lock")
_print_users: list[object] = []
_print_readers: list[object] = []  # the users that want the messages
_print_before: Optional[int] = None  # the application's print function
_print_replaced: list[Optional[int]] = []  # what libbpf_set_print() has returned


@contextlib.contextmanager
def _printing(users: list[object], user: object) -> Iterator[None]:
    """Replaces libbpf's print function while at least one user is inside."""
    _libbpf.load()
    try:
        with _print_lock:
            _print_users.append(user)
            users.append(user)
            _set_print()
        yield
    finally:
        with _print_lock:
            for each in (_print_users, _print_readers):
                if user in each:  # A fork may have emptied the lists.
                    each.remove(user)
            _set_print()


def _set_print() -> None:
    """Sets the print function that the users want, or restores the application's if there are none.

    The application's function is never lost, wherever a signal handler raises: what libbpf returns
    is in the list before any Python code runs, and this function can be called again at any time.
    """
    lib = _libbpf.load()
    _note_replaced(lib)
    wanted = _PRINT if _print_readers else lib.no_print if _print_users else _print_before
    _print_replaced.extend(map(lib.libbpf_set_print, (wanted,)))
    _note_replaced(lib)
    if not _print_users and wanted != _print_before:
        # The application had set another function meanwhile, which was just replaced.
        lib.libbpf_set_print(_print_before)


def _note_replaced(lib: _libbpf.Libbpf) -> None:
    """Remembers the application's print function, if it was replaced."""
    global _print_before
    for replaced in _print_replaced:
        if replaced not in (_PRINT, lib.no_print):
            _print_before = replaced
    _print_replaced.clear()


def _restore_print_in_child() -> None:
    """Restores the print function in a forked child, which lacks the threads that were inside."""
    users = bool(_print_users)
    _print_users.clear()
    _print_readers.clear()
    if users and _libbpf.is_loaded():
        _set_print()


os.register_at_fork(after_in_child=_restore_print_in_child)
