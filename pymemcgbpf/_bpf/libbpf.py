# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""libbpf.so.1 through ctypes: one table of bindings, loaded on first use.

The only file that imports ctypes. Nothing is loaded when it is imported; the
library is opened by :func:`load` and then kept for the process's life.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from .. import _fork
from .._descriptors import Identity, Owned, opened, owned
from ..errors import TRANSIENT_ERRNOS, LibbpfNotFoundError, LibbpfTooOldError, MemcgError

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


class LinkCreateOpts(Structure):
    """struct bpf_link_create_opts, as far as an iterator has to do with it."""

    _fields_ = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", POINTER(IterLinkInfo)),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class MapCreateOpts(Structure):
    """struct bpf_map_create_opts, as far as libbpf 1.0 has it."""

    _fields_ = [
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    ]


class ProgLoadOpts(Structure):
    """struct bpf_prog_load_opts, as far as libbpf 1.0 has it."""

    _fields_ = [
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_char_p),
    ]


class ProgInfo(Structure):
    """struct bpf_prog_info (linux/bpf.h), of which one field is wanted."""

    _fields_ = [
        ("before", c_uint32 * 56),
        ("attach_btf_id", c_uint32),
        ("padding", c_uint32),
    ]


class ObjectInfo(Structure):
    """What struct bpf_prog_info, bpf_map_info and bpf_link_info (linux/bpf.h) begin with."""

    _fields_ = [("type", c_uint32), ("id", c_uint32)]


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
_BTF, _TYPE = POINTER(Btf), POINTER(BtfType)

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
    # enum bpf_prog_type bpf_program__type(const struct bpf_program *prog)
    Binding("bpf_program__type", c_int, [_PROGRAM], NEVER, "0.0.9"),
    # enum bpf_attach_type bpf_program__expected_attach_type(const struct bpf_program *prog)
    Binding("bpf_program__expected_attach_type", c_int, [_PROGRAM], NEVER, "0.0.6"),
    # const struct bpf_insn *bpf_program__insns(const struct bpf_program *prog)
    Binding("bpf_program__insns", c_void_p, [_PROGRAM], NULL, "0.6"),
    # size_t bpf_program__insn_cnt(const struct bpf_program *prog)
    Binding("bpf_program__insn_cnt", c_size_t, [_PROGRAM], NEVER, "0.6"),
    # __u32 bpf_map__value_size(const struct bpf_map *map)
    Binding("bpf_map__value_size", c_uint32, [_MAP], NEVER, "0.2"),
    # __u32 bpf_map__max_entries(const struct bpf_map *map)
    Binding("bpf_map__max_entries", c_uint32, [_MAP], NEVER, "0.2"),
    # __u32 bpf_map__map_flags(const struct bpf_map *map)
    Binding("bpf_map__map_flags", c_uint32, [_MAP], NEVER, "0.2"),
    # int bpf_map_create(enum bpf_map_type map_type, const char *map_name, __u32 key_size,
    #                    __u32 value_size, __u32 max_entries,
    #                    const struct bpf_map_create_opts *opts)
    Binding(
        "bpf_map_create",
        c_int,
        [c_int, c_char_p, c_uint32, c_uint32, c_uint32, POINTER(MapCreateOpts)],
        NEGATIVE,
        "0.7",
    ),
    # int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags)
    Binding("bpf_map_update_elem", c_int, [c_int, c_char_p, c_char_p, c_uint64], NEGATIVE, "0.0.1"),
    # int bpf_map_freeze(int fd)
    Binding("bpf_map_freeze", c_int, [c_int], NEGATIVE, "0.0.3"),
    # int bpf_prog_load(enum bpf_prog_type prog_type, const char *prog_name, const char *license,
    #                   const struct bpf_insn *insns, size_t insn_cnt,
    #                   struct bpf_prog_load_opts *opts); as it is since 1.0
    Binding(
        "bpf_prog_load",
        c_int,
        [c_int, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(ProgLoadOpts)],
        NEGATIVE,
        "1.0",
    ),
    # int bpf_obj_get_info_by_fd(int bpf_fd, void *info, __u32 *info_len)
    Binding(
        "bpf_obj_get_info_by_fd",
        c_int,
        [c_int, c_void_p, POINTER(c_uint32)],
        NEGATIVE,
        "0.0.1",
    ),
    # int bpf_link_create(int prog_fd, int target_fd, enum bpf_attach_type attach_type,
    #                     const struct bpf_link_create_opts *opts)
    Binding(
        "bpf_link_create", c_int, [c_int, c_int, c_int, POINTER(LinkCreateOpts)], NEGATIVE, "0.0.9"
    ),
    # int bpf_obj_pin(int fd, const char *pathname)
    Binding("bpf_obj_pin", c_int, [c_int, c_char_p], NEGATIVE, "0.0.1"),
    # int bpf_iter_create(int link_fd)
    Binding("bpf_iter_create", c_int, [c_int], NEGATIVE, "0.0.9"),
    # int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts)
    Binding("bpf_prog_test_run_opts", c_int, [c_int, POINTER(TestRunOpts)], NEGATIVE, "0.4"),
)


class Libbpf:
    """The loaded library: one attribute per row of :data:`BINDINGS`.

    A call that fails raises :class:`MemcgError` with ``errno`` and ``call`` set.

    Attributes:
        version: of the library, "1.5".
    """

    libbpf_major_version: Any

    def __init__(self, library: Any) -> None:
        self._library = library
        self.version = _version(library)
        for binding in BINDINGS:
            setattr(self, binding.name, _bind(library, binding, self.version))

    @functools.cached_property
    def no_print(self) -> Optional[int]:
        """The address of a function that may be called in place of a print function and does
        nothing: it takes no argument and returns a constant. It stands for silence, as NULL could
        be the application's own choice."""
        return ctypes.cast(self.libbpf_major_version, c_void_p).value

    def another(self, name: str) -> Any:
        """Another function object of a function, of which nothing is set yet, and that leaves
        errno alone."""
        function: Any = ctypes.CDLL(SONAME, handle=self._library._handle)[name]
        return function

    def descriptor(self, name: str, *arguments: Any) -> Owned:
        """Calls a function that returns a new file descriptor: the owner of that."""
        try:
            return opened(_unchecked_descriptor(name), *arguments)
        except OverflowError:  # a negative errno; asked again, the function says which
            return opened(getattr(self, name), *arguments)

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


def failure(number: int, call: str) -> MemcgError:
    """The error of a call that returned an errno, negated."""
    return MemcgError(f"{call}: {strerror(number)}", errno=number, call=call)


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
        return _open_again_if_unclear(SONAME)
    except OSError as error:
        for number in TRANSIENT_ERRNOS:  # which dlopen() tells in words alone
            if os.strerror(number) in str(error):
                raise MemcgError(
                    f"{SONAME} cannot be loaded: {error}", errno=number, call="dlopen"
                ) from error
        raise LibbpfNotFoundError(
            f"{SONAME} cannot be loaded ({error}): install libbpf 1.0 or later "
            "(Debian and Ubuntu: apt-get install libbpf1)",
            call="dlopen",
        ) from error


def _open_again_if_unclear(file: str) -> Any:
    try:
        return ctypes.CDLL(file, use_errno=True)
    except OSError as error:
        # For want of memory, or because nothing in that file system may be executed.
        if "failed to map segment" not in str(error):
            raise
        return ctypes.CDLL(file, use_errno=True)


def load_anew() -> Libbpf:
    """Opens the library once more, as one of its own, and uses that from now on.

    libbpf asks once for each feature of the kernel, and takes a question that failed for want of
    memory for a "no", for as long as it is loaded.

    Raises:
        MemcgError: it cannot be opened again.
    """
    global _loaded
    try:
        library = _open_copy()
    except OSError as error:
        raise MemcgError(
            "libbpf has taken a lack of memory for a feature that this kernel lacks, and cannot be "
            f"loaded anew ({error}): start this process again",
            errno=errno.ENOMEM,
            call="dlopen",
        ) from error
    with _lock:
        _loaded = Libbpf(library)
    _unchecked.cache_clear()
    _unchecked_descriptor.cache_clear()
    return _loaded


def _open_copy() -> Any:
    """The library's file under another name: under its own it would be the one that is loaded."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        path = next((line.split(maxsplit=5)[5] for line in lines if "/libbpf.so." in line), "")
    with open(path.rstrip("\n"), "rb") as file:
        data = file.read()
    copy = opened(os.memfd_create, "libbpf.so")
    try:
        if os.write(copy.fileno(), data) != len(data):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return ctypes.CDLL(f"/proc/self/fd/{copy.fileno()}", use_errno=True)
    finally:
        copy.close()


def strerror(number: int) -> str:
    """libbpf's words for one of its error numbers, the system's for the others."""
    if _loaded is None:
        return f"error {number}"
    buffer = ctypes.create_string_buffer(256)
    _loaded.libbpf_strerror(number, buffer, len(buffer))
    return f"{buffer.value.decode(errors='replace')} ({number})"


_Result = TypeVar("_Result")


def run_with_log(work: Callable[[list[str]], _Result]) -> _Result:
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
    mmap: Any


@functools.cache
def _libc() -> _LibC:
    library = ctypes.CDLL(None, use_errno=True)
    functions = _LibC(library.malloc, library.free, library.vsnprintf, library.mmap)
    functions.malloc.restype, functions.malloc.argtypes = c_void_p, [c_size_t]
    functions.free.restype, functions.free.argtypes = None, [c_void_p]
    functions.vsnprintf.restype = c_int
    functions.vsnprintf.argtypes = [c_void_p, c_size_t, c_char_p, c_void_p]
    functions.mmap.restype = c_void_p
    functions.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
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
_PRINT = ctypes.cast(_print_callback, c_void_p).value
_print_lock = _fork.renewed_lock(__name__, "_print_lock")
_print_users: list[object] = []
_print_readers: list[object] = []  # those of them who want the messages
# Of the application: what libbpf_set_print() has returned that is not ours.
_print_before: Optional[int] = None
_print_replaced: list[Optional[int]] = []


def _set_print() -> None:
    """Makes libbpf's print function the one that the users want; without any, the application's
    last.

    It is never lost, wherever a signal handler raises: what libbpf returns is in the list before
    any Python code runs, and to call this again does no harm.
    """
    lib = load()
    _note_replaced(lib)
    wanted = _PRINT if _print_readers else lib.no_print if _print_users else _print_before
    _print_replaced.extend(map(lib.libbpf_set_print, (wanted,)))
    _note_replaced(lib)
    if not _print_users and wanted != _print_before:
        # The application has set another one meanwhile, which was just replaced.
        lib.libbpf_set_print(_print_before)


def _note_replaced(lib: Libbpf) -> None:
    """Remembers the application's print function, if it was replaced."""
    global _print_before
    for replaced in _print_replaced:
        if replaced not in (_PRINT, lib.no_print):
            _print_before = replaced
    _print_replaced.clear()


@contextlib.contextmanager
def _printing(users: list[object], user: object) -> Iterator[None]:
    """libbpf's print function is the whole process's: it is ours (or does nothing) only while
    somebody is inside, and then the one before is put back."""
    load()
    try:
        with _print_lock:
            _print_users.append(user)
            users.append(user)
            _set_print()
        yield
    finally:
        with _print_lock:
            for each in (_print_users, _print_readers):
                if user in each:  # a fork may have emptied it
                    each.remove(user)
            _set_print()


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


def initial_value(lib: Libbpf, bpf_map: Any) -> tuple[int, int]:
    """The address and size of what a global-data map is filled with at load."""
    size = c_size_t()
    address: int = lib.bpf_map__initial_value(bpf_map, ctypes.byref(size))
    return address, size.value


def _restore_print_in_child() -> None:
    """A thread that was inside :func:`_printing` at a fork is not in the child."""
    users = bool(_print_users)
    _print_users.clear()
    _print_readers.clear()
    if users and _loaded is not None:
        _set_print()


os.register_at_fork(after_in_child=_restore_print_in_child)


@functools.cache
def _unchecked(name: str) -> Any:
    """A function of the table for the hot path: returns -errno, raises nothing.

    A function object of its own: libbpf 1.x returns the errno, so there is no need to
    swap errno around the call, nor for an errcheck. :func:`failure` makes the error.
    """
    lib = load()  # checks the symbols
    binding = next(binding for binding in BINDINGS if binding.name == name)
    function = lib.another(name)
    function.restype, function.argtypes = binding.restype, binding.argtypes
    return function


@functools.cache
def _unchecked_descriptor(name: str) -> Any:
    """The same of a function that returns a descriptor: a negative errno is too large a number
    for one, and so an OverflowError for whoever takes it for one."""
    function = _unchecked.__wrapped__(name)
    function.restype = c_uint32
    return function


_MAP_FIXED = 0x10  # linux/mman.h, on x86-64 and arm64


class _Buffer(Structure):
    """Py_buffer, of which one field is wanted."""

    _fields_ = [("address", c_void_p), ("owner", c_void_p), ("rest", c_char * 128)]


def _address_of(memory: mmap.mmap) -> int:
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(memory), ctypes.byref(buffer), 0)
    address: int = buffer.address
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address


def map_memory(fd: int, size: int) -> mmap.mmap:
    """A map's elements, to be read.

    mmap.mmap(fd) would keep a descriptor of its own, of the lowest number that is free, and close
    whatever has that number in the end. So Python maps memory of no file, which the map replaces.

    Raises:
        MemcgError: the kernel maps it not.
    """
    memory = mmap.mmap(-1, size, prot=mmap.PROT_READ)
    address = _address_of(memory)
    flags = mmap.MAP_SHARED | _MAP_FIXED
    mapped = _libc().mmap(address, size, mmap.PROT_READ, flags, fd, 0)
    if mapped != address:
        number = ctypes.get_errno()
        memory.close()
        raise failure(number, "mmap")
    return memory


class IteratorMaker:
    """bpf_iter_create for the hot path, of one link."""

    def __init__(self, link_fd: int) -> None:
        self._link_fd = c_int(link_fd)
        create = _unchecked_descriptor("bpf_iter_create")
        # One call of next() makes an iterator and its owner, without Python code between.
        self._owners = owned(map(create, itertools.repeat(self._link_fd)))

    def __call__(self) -> Owned:
        """The owner of a new iterator.

        Raises:
            MemcgError: the kernel makes none.
        """
        try:
            return next(self._owners)
        except OverflowError:  # a negative errno; asked again, the function says which
            return opened(load().bpf_iter_create, self._link_fd)

    def close(self) -> None:
        """Makes no more: the link's number may soon be another file's."""
        self._link_fd.value = -1


def runner(program_fd: int, context: bytearray) -> Callable[[], int]:
    """Runs a syscall program, which reads and writes *context*; returns 0 or -errno."""
    memory = (ctypes.c_char * len(context)).from_buffer(context)
    options = TestRunOpts(
        sz=ctypes.sizeof(TestRunOpts), ctx_in=ctypes.addressof(memory), ctx_size_in=len(context)
    )
    options.memory = memory  # as long as it lives, the bytearray stays where it is
    return functools.partial(
        _unchecked("bpf_prog_test_run_opts"), c_int(program_fd), ctypes.pointer(options)
    )


_TRACE_ITER = 28  # enum bpf_attach_type: BPF_TRACE_ITER


def link_iterator(lib: Libbpf, program_fd: int, cgroup_fd: int, order: int) -> Owned:
    """A link to an iterator that starts at one cgroup."""
    if cgroup_fd <= 0:  # the kernel takes fd 0 for "the whole hierarchy"
        raise ValueError(f"cgroup_fd must be above 0, not {cgroup_fd}")
    info = IterLinkInfo(order=order, cgroup_fd=cgroup_fd)
    options = LinkCreateOpts(
        sz=ctypes.sizeof(LinkCreateOpts),
        iter_info=ctypes.pointer(info),
        iter_info_len=ctypes.sizeof(info),
    )
    return lib.descriptor("bpf_link_create", program_fd, 0, _TRACE_ITER, ctypes.byref(options))


_MAP_TYPE_ARRAY = 2  # enum bpf_map_type: BPF_MAP_TYPE_ARRAY


def create_array(lib: Libbpf, name: str, value_size: int, entries: int, flags: int) -> Owned:
    """An array map."""
    options = MapCreateOpts(sz=ctypes.sizeof(MapCreateOpts), map_flags=flags)
    return lib.descriptor(
        "bpf_map_create",
        _MAP_TYPE_ARRAY,
        name.encode(),
        4,
        value_size,
        entries,
        ctypes.byref(options),
    )


def set_and_freeze(lib: Libbpf, map_fd: int, value: bytes) -> None:
    """Sets an array's only element, and lets nobody change it: the verifier knows it then."""
    lib.bpf_map_update_elem(map_fd, bytes(4), value, 0)
    lib.bpf_map_freeze(map_fd)


def object_identity(lib: Libbpf, fd: int) -> Identity:
    """What tells a link, a map or a program from all others, by its descriptor.

    Raises:
        MemcgError: it is none.
    """
    info = ObjectInfo()
    size = c_uint32(ctypes.sizeof(info))
    lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    return info.type, info.id


class ObjectNumber:
    """The number of a link, a map or a program, asked for again and again, for the hot path."""

    def __init__(self, fd: int) -> None:
        self._info, self._size = ObjectInfo(), c_uint32(ctypes.sizeof(ObjectInfo))
        self._ask = functools.partial(
            _unchecked("bpf_obj_get_info_by_fd"),
            c_int(fd),
            ctypes.pointer(self._info),
            ctypes.pointer(self._size),
        )
        self._number = self._now()

    def _now(self) -> Optional[int]:
        error = self._ask()
        if error in (-errno.EBADF, -errno.EBADFD, -errno.EINVAL):
            return -1
        return None if error else int(self._info.id)

    def is_another_s(self) -> bool:
        """Whether the descriptor's number is another object's, or nobody's; False where the
        kernel does not tell."""
        return self._now() not in (self._number, None)


class ProgramKind(NamedTuple):
    """What the kernel must know of a program beside its instructions."""

    type: int
    expected_attach_type: int
    attach_btf_id: int


def program_kind(lib: Libbpf, program: Any) -> ProgramKind:
    """What a program was loaded as, by libbpf and by the kernel."""
    info = ProgInfo()
    size = c_uint32(ctypes.sizeof(info))
    fd = lib.bpf_program__fd(program)
    lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    return ProgramKind(
        lib.bpf_program__type(program),
        lib.bpf_program__expected_attach_type(program),
        info.attach_btf_id,
    )


def instructions(lib: Libbpf, program: Any) -> bytes:
    """A program's instructions; after it was loaded, with all that libbpf filled in."""
    count = lib.bpf_program__insn_cnt(program)
    return ctypes.string_at(lib.bpf_program__insns(program), 8 * count)


_SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE


def load_program(lib: Libbpf, name: str, kind: ProgramKind, code: bytes) -> Owned:
    """Loads a sleepable program."""
    options = ProgLoadOpts(
        sz=ctypes.sizeof(ProgLoadOpts),
        expected_attach_type=kind.expected_attach_type,
        prog_flags=_SLEEPABLE,
        attach_btf_id=kind.attach_btf_id,
    )
    licence = b"Dual BSD/GPL"
    return lib.descriptor(
        "bpf_prog_load",
        kind.type,
        name.encode()[:15],
        licence,
        code,
        len(code) // 8,
        ctypes.byref(options),
    )


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
