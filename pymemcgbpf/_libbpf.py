# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""libbpf.so.1 through ctypes: one table of bindings, loaded on first use.

The only file that imports ctypes. Nothing is loaded when it is imported; the
library is opened by :func:`load` and then kept for the process's life.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from . import _fork
from .errors import LibbpfNotFoundError, LibbpfTooOldError, MemcgError

SONAME = "libbpf.so.1"


def _log() -> Any:
    """The logger, once somebody in this process has imported ``logging``: it takes 4 ms, and
    nobody can have asked for messages before."""
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "NullHandler"):  # just being imported
        return None
    log = logging.getLogger("pymemcgbpf.libbpf")
    if not log.handlers:  # else Python prints warnings that nobody asked for
        log.addHandler(logging.NullHandler())
    return log


def _debugging() -> bool:
    log = _log()
    return log is not None and bool(log.isEnabledFor(_LEVELS[_DEBUG]))


# One opaque type per C type, so that a program passed for a link is an ArgumentError.
class BpfObject(Structure):
    """struct bpf_object"""


class BpfProgram(Structure):
    """struct bpf_program"""


class BpfMap(Structure):
    """struct bpf_map"""


class BpfLink(Structure):
    """struct bpf_link"""


class Btf(Structure):
    """struct btf"""


class IterLinkInfo(Structure):
    """union bpf_iter_link_info, its cgroup form, at the union's full size.

    The size is passed along: it must be that of the kernel's union or have only
    zeros beyond it.
    """

    _fields_ = [
        ("order", c_uint32),
        ("cgroup_fd", c_uint32),
        ("cgroup_id", c_uint64),
    ]


class IterAttachOpts(Structure):
    """struct bpf_iter_attach_opts"""

    _fields_ = [
        ("sz", c_size_t),
        ("link_info", POINTER(IterLinkInfo)),
        ("link_info_len", c_uint32),
    ]


class TestRunOpts(Structure):
    """struct bpf_test_run_opts"""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class BtfType(Structure):
    """struct btf_type"""

    _fields_ = [("name_off", c_uint32), ("info", c_uint32), ("size_or_type", c_uint32)]


# int (*)(enum libbpf_print_level, const char *format, va_list args). A va_list is
# passed as one pointer on x86-64 and arm64 alike.
PrintFn = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

# How a function tells of failure.
NEVER = "never"
NEGATIVE = "negative"  # a negative errno
NULL = "null"  # NULL, and errno


class Binding(NamedTuple):
    """One C function: how to call it, how it fails, and since when it is there."""

    name: str
    restype: Any
    argtypes: list[Any]
    fails: str
    since: str


_OBJECT, _PROGRAM, _MAP = POINTER(BpfObject), POINTER(BpfProgram), POINTER(BpfMap)
_LINK, _BTF, _TYPE = POINTER(BpfLink), POINTER(Btf), POINTER(BtfType)

BINDINGS = (
    # __u32 libbpf_major_version(void)
    Binding("libbpf_major_version", c_uint32, [], NEVER, "0.6"),
    # __u32 libbpf_minor_version(void)
    Binding("libbpf_minor_version", c_uint32, [], NEVER, "0.6"),
    # int libbpf_strerror(int err, char *buf, size_t size)
    Binding("libbpf_strerror", c_int, [c_int, c_char_p, c_size_t], NEVER, "0.0.1"),
    # libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t fn); a plain pointer, so
    # that another user's function can be put back untouched
    Binding("libbpf_set_print", c_void_p, [c_void_p], NEVER, "0.0.1"),
    # struct btf *btf__load_vmlinux_btf(void)
    Binding("btf__load_vmlinux_btf", _BTF, [], NULL, "0.5"),
    # void btf__free(struct btf *btf)
    Binding("btf__free", None, [_BTF], NEVER, "0.0.1"),
    # __s32 btf__find_by_name_kind(const struct btf *btf, const char *type_name, __u32 kind);
    # -ENOENT is an answer, so the caller looks at it
    Binding("btf__find_by_name_kind", c_int, [_BTF, c_char_p, c_uint32], NEVER, "0.0.9"),
    # const struct btf_type *btf__type_by_id(const struct btf *btf, __u32 id)
    Binding("btf__type_by_id", _TYPE, [_BTF, c_uint32], NULL, "0.0.1"),
    # const char *btf__name_by_offset(const struct btf *btf, __u32 offset); "" where anonymous
    Binding("btf__name_by_offset", c_char_p, [_BTF, c_uint32], NEVER, "0.0.1"),
    # struct bpf_object *bpf_object__open_mem(const void *obj_buf, size_t obj_buf_sz,
    #                                         const struct bpf_object_open_opts *opts)
    Binding("bpf_object__open_mem", _OBJECT, [c_char_p, c_size_t, c_void_p], NULL, "0.0.6"),
    # int bpf_object__load(struct bpf_object *obj)
    Binding("bpf_object__load", c_int, [_OBJECT], NEGATIVE, "0.0.1"),
    # void bpf_object__close(struct bpf_object *obj)
    Binding("bpf_object__close", None, [_OBJECT], NEVER, "0.0.1"),
    # struct btf *bpf_object__btf(const struct bpf_object *obj)
    Binding("bpf_object__btf", _BTF, [_OBJECT], NULL, "0.0.1"),
    # struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *obj,
    #                                                      const char *name)
    Binding("bpf_object__find_program_by_name", _PROGRAM, [_OBJECT, c_char_p], NULL, "0.0.6"),
    # struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *obj, const char *name)
    Binding("bpf_object__find_map_by_name", _MAP, [_OBJECT, c_char_p], NULL, "0.0.1"),
    # int bpf_map__fd(const struct bpf_map *map)
    Binding("bpf_map__fd", c_int, [_MAP], NEGATIVE, "0.0.1"),
    # void *bpf_map__initial_value(const struct bpf_map *map, size_t *psize)
    Binding("bpf_map__initial_value", c_void_p, [_MAP, POINTER(c_size_t)], NULL, "0.8"),
    # int bpf_map__set_autocreate(struct bpf_map *map, bool autocreate)
    Binding("bpf_map__set_autocreate", c_int, [_MAP, ctypes.c_bool], NEGATIVE, "0.8"),
    # int bpf_map__set_value_size(struct bpf_map *map, __u32 size)
    Binding("bpf_map__set_value_size", c_int, [_MAP, c_uint32], NEGATIVE, "0.2"),
    # int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries)
    Binding("bpf_map__set_max_entries", c_int, [_MAP, c_uint32], NEGATIVE, "0.2"),
    # int bpf_program__set_autoload(struct bpf_program *prog, bool autoload)
    Binding("bpf_program__set_autoload", c_int, [_PROGRAM, ctypes.c_bool], NEGATIVE, "0.0.8"),
    # int bpf_program__fd(const struct bpf_program *prog)
    Binding("bpf_program__fd", c_int, [_PROGRAM], NEGATIVE, "0.0.1"),
    # struct bpf_link *bpf_program__attach_iter(const struct bpf_program *prog,
    #                                           const struct bpf_iter_attach_opts *opts)
    Binding("bpf_program__attach_iter", _LINK, [_PROGRAM, POINTER(IterAttachOpts)], NULL, "0.0.9"),
    # int bpf_link__fd(const struct bpf_link *link)
    Binding("bpf_link__fd", c_int, [_LINK], NEGATIVE, "0.0.1"),
    # int bpf_link__pin(struct bpf_link *link, const char *path)
    Binding("bpf_link__pin", c_int, [_LINK, c_char_p], NEGATIVE, "0.0.8"),
    # int bpf_link__destroy(struct bpf_link *link)
    Binding("bpf_link__destroy", c_int, [_LINK], NEGATIVE, "0.0.1"),
    # int bpf_iter_create(int link_fd)
    Binding("bpf_iter_create", c_int, [c_int], NEGATIVE, "0.0.9"),
    # int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts)
    Binding("bpf_prog_test_run_opts", c_int, [c_int, POINTER(TestRunOpts)], NEGATIVE, "0.4"),
)


class Libbpf:
    """The loaded library: one attribute per row of :data:`BINDINGS`.

    A call that fails raises :class:`MemcgError` with ``errno`` and ``call`` set.
    """

    def __init__(self, library: Any) -> None:
        self.version = _version(library)
        for binding in BINDINGS:
            setattr(self, binding.name, _bind(library, binding, self.version))

    def __getattr__(self, name: str) -> Any:  # only for what the table does not have
        raise AttributeError(f"{SONAME} binding {name!r} is not in the table")


def _version(library: Any) -> str:
    try:
        major, minor = library.libbpf_major_version, library.libbpf_minor_version
    except AttributeError:
        return "before 0.6"
    major.restype = minor.restype = c_uint32
    major.argtypes = minor.argtypes = []
    return f"{major()}.{minor()}"


def _bind(library: Any, binding: Binding, version: str) -> Any:
    try:
        function = getattr(library, binding.name)
    except AttributeError as error:
        raise LibbpfTooOldError(
            f"{SONAME} {version} has no {binding.name} (libbpf {binding.since} and later): "
            "install a newer libbpf1",
            call=binding.name,
        ) from error
    function.restype = binding.restype
    function.argtypes = binding.argtypes
    if binding.fails == NEGATIVE:
        function.errcheck = _check_negative
    elif binding.fails == NULL:
        function.errcheck = _check_null
    return function


def _check_negative(result: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if result < 0:
        raise failure(-result, function.__name__)
    return result


def _check_null(result: Any, function: Any, arguments: tuple[Any, ...]) -> Any:
    if not result:
        raise failure(ctypes.get_errno(), function.__name__)
    return result


def failure(errno: int, call: str) -> MemcgError:
    """The error of a call that returned -errno."""
    return MemcgError(f"{call}: {strerror(errno)}", errno=errno, call=call)


_lock = _fork.renewed_lock(__name__, "_lock")
_loaded: Optional[Libbpf] = None


def load() -> Libbpf:
    """The library, opened on the first call.

    Raises:
        LibbpfNotFoundError: it is not installed.
        LibbpfTooOldError: it lacks a function; the message names it.
    """
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = Libbpf(_open())
    return _loaded


def _open() -> Any:
    try:
        return ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise LibbpfNotFoundError(
            f"{SONAME} cannot be loaded ({error}): install libbpf 1.0 or later "
            "(Debian and Ubuntu: apt-get install libbpf1)",
            call="dlopen",
        ) from error


def strerror(errno: int) -> str:
    """libbpf's words for one of its error numbers, the system's for the others."""
    if _loaded is None:
        return f"error {errno}"
    buffer = ctypes.create_string_buffer(256)
    _loaded.libbpf_strerror(errno, buffer, len(buffer))
    return f"{buffer.value.decode(errors='replace')} ({errno})"


_Result = TypeVar("_Result")


def explained(work: Callable[[list[str]], _Result]) -> _Result:
    """Runs *work* with libbpf silent; if that fails, once more for what libbpf has to say.

    *work* is given the list of messages, empty until the second run. That way the many
    calls that succeed run no Python inside of libbpf.
    """
    if not _debugging():
        try:
            with silence():
                return work([])
        except MemcgError:
            pass
    with messages() as lines:
        return work(lines)


class _Messages(threading.local):
    """What libbpf printed in this thread since the innermost :func:`messages` began."""

    def __init__(self) -> None:
        self.lines: Optional[list[str]] = None
        self.silent = False
        # What a signal handler raised while libbpf called us: C cannot pass it on.
        self.raised: Optional[BaseException] = None


_messages = _Messages()
_DEBUG = 2
_LEVELS = {0: 30, 1: 20, _DEBUG: 10}  # logging's WARNING, INFO, DEBUG
_LONGEST_MESSAGE = 17 << 20  # libbpf's own buffer for the verifier's log is at most 16 MiB


class _LibC(NamedTuple):
    malloc: Any
    free: Any
    vsnprintf: Any


@functools.cache
def _libc() -> _LibC:
    library = ctypes.CDLL(None)
    functions = _LibC(library.malloc, library.free, library.vsnprintf)
    functions.malloc.restype, functions.malloc.argtypes = c_void_p, [c_size_t]
    functions.free.restype, functions.free.argtypes = None, [c_void_p]
    functions.vsnprintf.restype = c_int
    functions.vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
    return functions


def _format(text: bytes, arguments: int) -> str:
    # The verifier's log comes as one argument, and a va_list serves only once: so the
    # first buffer must do. malloc's pages are touched only as far as text is written.
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
            # Another user of libbpf in this process.
            return PrintFn(_print_before)(level, text, arguments) if _print_before else 0
        if level < _DEBUG or _debugging():
            line = _format(text, arguments)
            _messages.lines.append(line)
            log = _log()
            if log is not None:
                log.log(_LEVELS.get(level, _LEVELS[_DEBUG]), "%s", line.rstrip("\n"))
    except Exception:
        log = _log()
        if log is not None:
            log.debug("a message of libbpf's was lost", exc_info=True)
    except BaseException as error:
        _messages.raised = error
    return 0


_print_callback = PrintFn(_on_print)  # kept alive for as long as libbpf may call it
_OUR_PRINT = ctypes.cast(_print_callback, c_void_p).value
_print_lock = _fork.renewed_lock(__name__, "_print_lock")
_print_users: list[bool] = []  # for each, whether it wants the messages
_print_before: Optional[int] = None


@contextlib.contextmanager
def _printing(wanted: bool) -> Iterator[None]:
    """libbpf's print function is the whole process's: it is ours (or none) only while
    somebody is inside, and then the one before is put back."""
    global _print_before
    lib = load()
    with _print_lock:
        _print_users.append(wanted)
        before = lib.libbpf_set_print(_OUR_PRINT if any(_print_users) else None)
        if len(_print_users) == 1 and before != _OUR_PRINT:
            _print_before = before
    try:
        yield
    finally:
        with _print_lock:
            if wanted in _print_users:  # a fork may have emptied it
                _print_users.remove(wanted)
            ours = _OUR_PRINT if any(_print_users) else None
            lib.libbpf_set_print(ours if _print_users else _print_before)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps libbpf from printing in this thread."""
    outer, _messages.silent = _messages.silent, True
    try:
        with _printing(False):
            yield
    finally:
        _messages.silent = outer


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """Collects what libbpf prints in this thread, and sends it to ``logging`` too."""
    outer, _messages.lines = _messages.lines, []
    try:
        with _printing(True):
            yield _messages.lines
    finally:
        _messages.lines = outer
        raised, _messages.raised = _messages.raised, None
        if raised is not None:
            raise raised


def initial_value(lib: Libbpf, bpf_map: Any) -> tuple[int, int]:
    """The address and size of what a global-data map is filled with at load."""
    size = c_size_t()
    address: int = lib.bpf_map__initial_value(bpf_map, ctypes.byref(size))
    return address, size.value


def _restore_print_in_child() -> None:
    """A thread that was inside :func:`_printing` at a fork is not in the child."""
    if _print_users and _loaded is not None:
        _loaded.libbpf_set_print(_print_before)
    _print_users.clear()


os.register_at_fork(after_in_child=_restore_print_in_child)


@functools.cache
def _bare(name: str) -> Any:
    """A function of the table for the hot path: returns -errno, raises nothing.

    A function object of its own: libbpf 1.x returns the errno, so there is no need to
    swap errno around the call, nor for an errcheck. :func:`failure` makes the error.
    """
    load()  # checks the symbols
    binding = next(binding for binding in BINDINGS if binding.name == name)
    function = ctypes.CDLL(SONAME)[name]
    function.restype, function.argtypes = binding.restype, binding.argtypes
    return function


def iterator_creator(link_fd: int) -> tuple[Callable[[c_int], int], c_int]:
    """bpf_iter_create, see :func:`_bare`, and its argument: returns a file descriptor."""
    return _bare("bpf_iter_create"), c_int(link_fd)


def runner(program_fd: int, context: bytearray) -> Callable[[], int]:
    """Runs a syscall program, which reads and writes *context*; returns 0 or -errno."""
    memory = (ctypes.c_char * len(context)).from_buffer(context)
    options = TestRunOpts(
        sz=ctypes.sizeof(TestRunOpts), ctx_in=ctypes.addressof(memory), ctx_size_in=len(context)
    )
    options.memory = memory  # as long as it lives, the bytearray stays where it is
    return functools.partial(
        _bare("bpf_prog_test_run_opts"), c_int(program_fd), ctypes.pointer(options)
    )


def attach_iter(lib: Libbpf, program: Any, cgroup_fd: int, order: int) -> Any:
    """bpf_program__attach_iter on one cgroup; returns its ``struct bpf_link *``."""
    if cgroup_fd <= 0:  # the kernel takes fd 0 for "the whole hierarchy"
        raise ValueError(f"cgroup_fd must be above 0, not {cgroup_fd}")
    info = IterLinkInfo(order=order, cgroup_fd=cgroup_fd)
    options = IterAttachOpts(
        sz=ctypes.sizeof(IterAttachOpts),
        link_info=ctypes.pointer(info),
        link_info_len=ctypes.sizeof(info),
    )
    return lib.bpf_program__attach_iter(program, ctypes.byref(options))


def test_run(lib: Libbpf, program_fd: int) -> int:
    """Runs a program once without context; returns its return value."""
    options = TestRunOpts(sz=ctypes.sizeof(TestRunOpts))
    lib.bpf_prog_test_run_opts(program_fd, ctypes.byref(options))
    return int(options.retval)


def peek(address: int, size: int) -> bytes:
    """The *size* bytes at *address*."""
    return ctypes.string_at(address, size)


def address_after(pointer: Any) -> int:
    """The address of what lies behind the structure that *pointer* points to."""
    return ctypes.addressof(pointer.contents) + ctypes.sizeof(pointer.contents)


def poke(address: int, data: bytes) -> None:
    """Writes *data* at *address*."""
    ctypes.memmove(address, data, len(data))
