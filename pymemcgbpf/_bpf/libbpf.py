# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""libbpf.so.1 through ctypes: its structures, one table of its functions, and how it is loaded.

Importing this module loads nothing. :func:`load` opens the library, which then stays loaded for as
long as the process lives. The other modules that use ctypes build on this one: libbpf_log.py,
libbpf_maps.py and libbpf_programs.py. Everybody else imports all four from bindings.py.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Optional

from .. import _fork
from .._descriptors import Owned, opened
from .._records import Record
from ..errors import LibbpfNotFoundError, LibbpfTooOldError, MemcgError, raise_if_short

SONAME = "libbpf.so.1"


# Each C type has an opaque type of its own, so that ctypes refuses a pointer of the wrong type.
class BpfObject(Structure):
    """struct bpf_object"""


class BpfProgram(Structure):
    """struct bpf_program"""


class BpfMap(Structure):
    """struct bpf_map"""


class Btf(Structure):
    """struct btf"""


class _CgroupIterInfo(Structure):
    """The cgroup member of union bpf_iter_link_info, which is as large as the union."""

    _fields_ = [
        ("order", c_uint32),
        ("cgroup_fd", c_uint32),
        ("cgroup_id", c_uint64),
    ]


class IterLinkInfo(ctypes.Union):
    """union bpf_iter_link_info, with the members for iterators of cgroups and of a map's elements.

    Its size is passed to the kernel, which accepts a larger one only if the rest is zero.
    """

    _anonymous_ = ("cgroup",)
    _fields_ = [("cgroup", _CgroupIterInfo), ("map_fd", c_uint32)]


class LinkCreateOpts(Structure):
    """The members of struct bpf_link_create_opts up to those for an iterator."""

    _fields_ = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", POINTER(IterLinkInfo)),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class MapCreateOpts(Structure):
    """struct bpf_map_create_opts as of libbpf 1.0."""

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
    """struct bpf_prog_load_opts as of libbpf 1.0."""

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
    """struct bpf_prog_info (linux/bpf.h) up to attach_btf_id, the one member that is used."""

    _fields_ = [
        ("before", c_uint32 * 56),
        ("attach_btf_id", c_uint32),
        ("padding", c_uint32),
    ]


class ObjectInfo(Structure):
    """What struct bpf_prog_info, bpf_map_info and bpf_link_info all begin with (linux/bpf.h)."""

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


# How a function reports failure.
NEVER = "never"
NEGATIVE = "negative"  # It returns a negative errno.
NULL = "null"  # It returns NULL and sets errno.


class Binding(Record):
    """One C function.

    Attributes:
        name: its name.
        restype: the ctypes type of its result.
        argtypes: the ctypes types of its arguments.
        fails: how it reports failure: NEVER, NEGATIVE or NULL.
        since: the libbpf version that added it.
    """

    name: str
    restype: Any
    argtypes: list[Any]
    fails: str
    since: str


_OBJECT, _PROGRAM, _MAP = POINTER(BpfObject), POINTER(BpfProgram), POINTER(BpfMap)
_BTF = POINTER(Btf)

BINDINGS = (
    # __u32 libbpf_major_version(void)
    Binding("libbpf_major_version", c_uint32, [], NEVER, "0.6"),
    # __u32 libbpf_minor_version(void)
    Binding("libbpf_minor_version", c_uint32, [], NEVER, "0.6"),
    # int libbpf_strerror(int err, char *buf, size_t size)
    Binding("libbpf_strerror", c_int, [c_int, c_char_p, c_size_t], NEVER, "0.0.1"),
    # libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t fn); the type here is a plain pointer,
    # so that the application's function can be restored as it was
    Binding("libbpf_set_print", c_void_p, [c_void_p], NEVER, "0.0.1"),
    # struct btf *btf__load_vmlinux_btf(void)
    Binding("btf__load_vmlinux_btf", _BTF, [], NULL, "0.5"),
    # struct btf *btf__new(const void *data, __u32 size); it copies the data
    Binding("btf__new", _BTF, [c_void_p, c_uint32], NULL, "0.0.1"),
    # void btf__free(struct btf *btf)
    Binding("btf__free", None, [_BTF], NEVER, "0.0.1"),
    # __s32 btf__find_by_name_kind(const struct btf *btf, const char *type_name, __u32 kind);
    # -ENOENT is an answer, so the caller checks the result
    Binding("btf__find_by_name_kind", c_int, [_BTF, c_char_p, c_uint32], NEVER, "0.0.9"),
    # const struct btf_type *btf__type_by_id(const struct btf *btf, __u32 id); here its address
    Binding("btf__type_by_id", c_void_p, [_BTF, c_uint32], NULL, "0.0.1"),
    # int bpf_btf_load(const void *btf_data, size_t btf_size, const struct bpf_btf_load_opts *opts)
    Binding("bpf_btf_load", c_int, [c_char_p, c_size_t, c_void_p], NEGATIVE, "0.7"),
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
    # int bpf_map__reuse_fd(struct bpf_map *map, int fd)
    Binding("bpf_map__reuse_fd", c_int, [_MAP, c_int], NEGATIVE, "0.0.1"),
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
    # int bpf_raw_tracepoint_open(const char *name, int prog_fd)
    Binding("bpf_raw_tracepoint_open", c_int, [c_char_p, c_int], NEGATIVE, "0.0.1"),
    # int bpf_obj_pin(int fd, const char *pathname)
    Binding("bpf_obj_pin", c_int, [c_int, c_char_p], NEGATIVE, "0.0.1"),
    # int bpf_iter_create(int link_fd)
    Binding("bpf_iter_create", c_int, [c_int], NEGATIVE, "0.0.9"),
    # int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts)
    Binding("bpf_prog_test_run_opts", c_int, [c_int, POINTER(TestRunOpts)], NEGATIVE, "0.4"),
)


class Libbpf:
    """The loaded library, with one attribute for each row of :data:`BINDINGS`.

    A call that fails raises :class:`MemcgError` with ``errno`` and ``call`` set.

    Attributes:
        version: the library's version, such as "1.5".
    """

    libbpf_major_version: Any

    def __init__(self, library: Any) -> None:
        self._library = library
        self.version = _version(library)
        for binding in BINDINGS:
            setattr(self, binding.name, _bind(library, binding, self.version))

    @functools.cached_property
    def no_print(self) -> Optional[int]:
        """The address of a C function that libbpf can call as its print function and that does
        nothing.

        The function takes no arguments and returns a constant. NULL would silence libbpf too, but
        could not be told from NULL that the application has set.
        """
        return ctypes.cast(self.libbpf_major_version, c_void_p).value

    def new_function(self, name: str) -> Any:
        """A new function object for a C function. It has no types and no error check yet, and
        calling it does not save errno."""
        function: Any = ctypes.CDLL(SONAME, handle=self._library._handle)[name]
        return function

    def descriptor(self, name: str, *arguments: Any) -> Owned:
        """Calls a function that returns a new file descriptor, and returns its owner.

        Raises:
            MemcgError: the call failed.
        """
        try:
            return opened(unchecked_descriptor(name), *arguments)
        except OverflowError:
            # The result was a negative errno, and is lost. The checked function is called, which
            # reports its errno, or may even succeed this time.
            return opened(getattr(self, name), *arguments)

    def __getattr__(self, name: str) -> Any:  # only called for names that the table lacks
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
            f"{SONAME} {version} has no {binding.name} (libbpf {binding.since} and later)",
            remedy="install a newer libbpf1",
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
    """The error for a call that returned ``-number``."""
    return MemcgError(f"{call}: {strerror(number)}", errno=number, call=call)


_lock = _fork.renewed_lock(__name__, "_lock")
_loaded: Optional[Libbpf] = None


def load() -> Libbpf:
    """Returns the library, and opens it on the first call.

    Raises:
        LibbpfNotFoundError: the library is not installed.
        LibbpfTooOldError: the library lacks a function, which the message names.
        MemcgError: memory or file descriptors are short.
    """
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = Libbpf(_open())
    return _loaded


def is_loaded() -> bool:
    """Whether the library is open."""
    return _loaded is not None


def _open() -> Any:
    try:
        return _open_with_retry(SONAME)
    except OSError as error:
        raise_if_short(error, f"{SONAME} cannot be loaded", "dlopen")
        remedy = "install libbpf 1.0 or later (Debian and Ubuntu: apt-get install libbpf1)"
        file = str(error).partition(":")[0]
        if ".so" in file and os.path.basename(file) != SONAME:
            remedy = f"install {file}, which {SONAME} needs"
        raise LibbpfNotFoundError(
            f"{SONAME} cannot be loaded ({error})",
            remedy=remedy,
            call="dlopen",
        ) from error


def _open_with_retry(file: str) -> Any:
    try:
        return ctypes.CDLL(file, use_errno=True)
    except OSError as error:
        # Either memory is short, or the file system is mounted noexec. Only the first may pass.
        if "failed to map segment" not in str(error):
            raise
        return ctypes.CDLL(file, use_errno=True)


def load_private_copy() -> Libbpf:
    """Loads the library a second time, as a copy, which replaces the first from now on.

    libbpf probes each kernel feature once. If a probe fails because memory is short, libbpf
    believes for as long as it is loaded that the kernel lacks the feature.

    Raises:
        MemcgError: the copy cannot be loaded.
    """
    global _loaded
    try:
        library = _open_copy()
    except OSError as error:
        raise MemcgError(
            "start this process again: libbpf has taken a lack of memory for a missing kernel "
            f"feature and cannot be loaded a second time ({error})",
            errno=errno.ENOMEM,
            call="dlopen",
        ) from error
    with _lock:
        _loaded = Libbpf(library)
    unchecked.cache_clear()
    unchecked_descriptor.cache_clear()
    return _loaded


def _open_copy() -> Any:
    """Loads a copy of the library's file, because dlopen() returns the loaded library for the file
    itself."""
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
    """The text for an error number: libbpf's own for its numbers, the system's for the others."""
    if _loaded is None:
        return f"error {number}"
    buffer = ctypes.create_string_buffer(256)
    _loaded.libbpf_strerror(number, buffer, len(buffer))
    return f"{buffer.value.decode(errors='replace')} ({number})"


@functools.cache
def unchecked(name: str) -> Any:
    """A function of the table for the hot path, which returns -errno and raises nothing.

    It is a function object of its own. libbpf 1.x returns the errno, so ctypes need not save errno
    around the call and need not run an errcheck. :func:`failure` makes the error.
    """
    lib = load()  # This checks that the library has every function.
    binding = next(binding for binding in BINDINGS if binding.name == name)
    function = lib.new_function(name)
    function.restype, function.argtypes = binding.restype, binding.argtypes
    return function


@functools.cache
def untyped(name: str) -> Any:
    """Like :func:`unchecked`, without the types of the arguments, for one that is called often with
    the same arguments. Each must be what from_param() or byref() returns, so that ctypes need not
    convert it; that takes a tenth of the time of a read."""
    function = unchecked.__wrapped__(name)
    function.argtypes = None
    return function


@functools.cache
def unchecked_descriptor(name: str) -> Any:
    """Like :func:`unchecked`, for a function that returns a descriptor.

    Its result is unsigned: a negative errno becomes a number that is too large for a descriptor,
    so the owner that should take it raises OverflowError.
    """
    function = unchecked.__wrapped__(name)
    function.restype = c_uint32
    return function


def peek(address: int, size: int) -> bytes:
    """The *size* bytes at *address*."""
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes) -> None:
    """Writes *data* at *address*."""
    ctypes.memmove(address, data, len(data))
