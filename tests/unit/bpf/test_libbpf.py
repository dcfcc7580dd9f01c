# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The table of libbpf functions, and how a call fails."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import LibbpfNotFoundError, LibbpfTooOldError, MemcgError
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_log as _libbpf_log
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._descriptors import Descriptor, Identity, Owned, opened, opened_at
from pymemcgbpf.errors import TRANSIENT_ERRNOS

from ...open_files import open_files
from ..c_values import c_layout
from ..conftest import RunPython

BPF_H = "<bpf/bpf.h>"
FAILING = {row.name: row.fails for row in _libbpf.BINDINGS if row.fails != _libbpf.NEVER}


class Function:
    """A C function as ctypes would give it, with what it returns set by the test."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.restype: Any = "not stated"
        self.argtypes: Any = "not stated"
        self.errcheck: Optional[Any] = None
        self.result: Any = 1

    def __call__(self, *arguments: Any) -> Any:
        return self.errcheck(self.result, self, arguments) if self.errcheck else self.result


class Library:
    """A libbpf that lacks the functions named."""

    def __init__(self, *lacks: str) -> None:
        for row in _libbpf.BINDINGS:
            if row.name not in lacks:
                setattr(self, row.name, Function(row.name))


def test_a_missing_symbol_names_itself_and_both_versions() -> None:
    with pytest.raises(LibbpfTooOldError) as caught:
        _libbpf.Libbpf(Library("bpf_map__initial_value"))
    for part in ("bpf_map__initial_value", "1.1", "0.8", "libbpf.so.1"):
        assert part in str(caught.value)
    assert caught.value.call == "bpf_map__initial_value"


def test_a_library_without_any_one_of_the_functions_is_too_old() -> None:
    for row in _libbpf.BINDINGS:
        with pytest.raises(LibbpfTooOldError, match=row.name):
            _libbpf.Libbpf(Library(row.name))


def test_a_library_without_version_functions_is_called_old() -> None:
    with pytest.raises(LibbpfTooOldError, match=r"before 0\.6"):
        _libbpf.Libbpf(Library("libbpf_major_version", "libbpf_minor_version"))


def test_no_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libbpf, "_loaded", None)
    monkeypatch.setattr(_libbpf, "SONAME", "libbpf-of-nowhere.so.1")
    with pytest.raises(LibbpfNotFoundError) as caught:
        _libbpf.load()
    assert "libbpf-of-nowhere.so.1" in str(caught.value)
    assert "apt-get install libbpf1" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert _libbpf._loaded is None, "a failure must not be kept"


def test_a_failure_to_load_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libbpf, "_loaded", None)
    monkeypatch.setattr(_libbpf, "_open", lambda: Library("bpf_iter_create"))
    with pytest.raises(LibbpfTooOldError):
        _libbpf.load()
    monkeypatch.setattr(_libbpf, "_open", Library)
    assert _libbpf.load() is _libbpf.load()


def test_every_row_has_types_a_way_to_fail_and_a_version() -> None:
    for row in _libbpf.BINDINGS:
        assert isinstance(row.argtypes, list), row.name
        for stated in row.argtypes:
            assert hasattr(stated, "from_param"), f"{row.name}: {stated!r} is no ctypes type"
        assert row.restype is None or hasattr(row.restype, "from_param"), row.name
        assert row.fails in (_libbpf.NEVER, _libbpf.NEGATIVE, _libbpf.NULL), row.name
        assert row.since.replace(".", "").isdigit(), row.name


def test_every_row_is_applied_to_its_function() -> None:
    for row in _libbpf.BINDINGS:
        function = getattr(_libbpf.Libbpf(Library()), row.name)
        assert vars(function).keys() == vars(Function("")).keys(), "a misspelt attribute"
        assert function.restype is row.restype, row.name
        assert function.argtypes == row.argtypes, row.name
        assert (function.errcheck is None) == (row.fails == _libbpf.NEVER), row.name


def test_every_return_type_can_express_the_function_s_failure() -> None:
    for row in _libbpf.BINDINGS:
        if row.fails == _libbpf.NEGATIVE:
            assert row.restype is ctypes.c_int, f"{row.name}: an unsigned number is never negative"
        elif row.fails == _libbpf.NULL:
            kinds = (ctypes.c_void_p, ctypes._Pointer)
            assert issubclass(row.restype, kinds), f"{row.name}: only a pointer can be NULL"
        else:
            assert not isinstance(row.restype, type(ctypes.POINTER(_libbpf.Btf))), row.name


def _gil_flag() -> int:
    """What marks the functions that are called with the GIL held."""
    held: Any = ctypes.PyDLL(None)["Py_GetVersion"]
    free: Any = ctypes.CDLL(None)["getpid"]
    flag: int = held._flags_ & ~free._flags_
    assert flag, "PyDLL's functions can be told from CDLL's"
    return flag


def test_the_gil_is_free_during_every_call() -> None:
    for row in _libbpf.BINDINGS:
        assert not getattr(_libbpf.load(), row.name)._flags_ & _gil_flag(), row.name


def test_the_gil_is_free_while_an_iterator_is_made() -> None:
    with pytest.raises(MemcgError) as caught:
        _libbpf_programs.IteratorMaker(-1)()
    assert (caught.value.errno, caught.value.call) == (errno.EBADF, "bpf_iter_create")
    assert not _libbpf.unchecked_descriptor("bpf_iter_create")._flags_ & _gil_flag()


def test_the_gil_is_free_while_a_program_is_run() -> None:
    assert not _libbpf.unchecked("bpf_prog_test_run_opts")._flags_ & _gil_flag()


# --- the hot path ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bpf_iter_create", "bpf_prog_test_run_opts"])
def test_an_unchecked_function_is_the_table_s_without_its_check(name: str) -> None:
    row = next(row for row in _libbpf.BINDINGS if row.name == name)
    unchecked = _libbpf.unchecked(name)
    assert (unchecked.restype, list(unchecked.argtypes)) == (row.restype, row.argtypes)
    assert unchecked.errcheck is None
    # What is set of one function object is not set of the other.
    assert getattr(_libbpf.load(), name).errcheck is _libbpf._check_negative
    assert _libbpf.unchecked(name) is unchecked


def test_an_unchecked_function_needs_a_library_that_is_new_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_libbpf, "_loaded", None)
    monkeypatch.setattr(_libbpf, "_open", lambda: Library("bpf_iter_create"))
    _libbpf.unchecked.cache_clear()
    with pytest.raises(LibbpfTooOldError, match="bpf_iter_create"):
        _libbpf_programs.runner(5, bytearray(16))


class Iterators:
    """bpf_iter_create, unchecked and checked.

    Attributes:
        error: what it fails with; 0 for not at all.
        asked: the links, in order.
    """

    def __init__(self) -> None:
        self.error = 0
        self.asked: list[int] = []

    def unchecked(self, link_fd: ctypes.c_int) -> int:
        """An unsigned number, as a negative errno is too large to be one of a descriptor."""
        return self.bpf_iter_create(link_fd, raises=False) % (1 << 32)

    def descriptor(self, name: str, *arguments: Any) -> Owned:
        return opened(getattr(self, name), *arguments)

    def bpf_iter_create(self, link_fd: ctypes.c_int, *, raises: bool = True) -> int:
        self.asked.append(link_fd.value)
        error = errno.EBADF if link_fd.value < 0 else self.error
        if not error:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if raises:
            raise MemcgError("no", errno=error, call="bpf_iter_create")
        return -error


@pytest.fixture
def iterators(monkeypatch: pytest.MonkeyPatch) -> Iterators:
    made = Iterators()
    monkeypatch.setattr(_libbpf, "unchecked_descriptor", lambda name: made.unchecked)
    monkeypatch.setattr(_libbpf, "load", lambda: made)
    return made


def test_a_maker_of_iterators_makes_one_per_call(iterators: Iterators) -> None:
    before = open_files()
    maker = _libbpf_programs.IteratorMaker(5)
    assert open_files() == before and iterators.asked == []
    first, second = maker(), maker()
    assert iterators.asked == [5, 5]
    assert len(open_files()) == len(before) + 2
    first.close()
    del second
    assert open_files() == before


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.EINTR])
def test_a_refusal_to_make_an_iterator_is_no_end_of_it(number: int, iterators: Iterators) -> None:
    before = open_files()
    maker = _libbpf_programs.IteratorMaker(5)
    iterators.error = number
    for _ in range(3):
        with pytest.raises(MemcgError) as caught:
            maker()
        assert (caught.value.errno, caught.value.call) == (number, "bpf_iter_create")
    iterators.error = 0
    maker().close()
    assert open_files() == before


def test_an_iterator_that_is_made_at_the_second_attempt_is_given(
    iterators: Iterators, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    iterators.error = errno.ENOMEM
    real = iterators.bpf_iter_create

    def later(link_fd: ctypes.c_int) -> int:
        iterators.error = 0
        return real(link_fd)

    monkeypatch.setattr(iterators, "bpf_iter_create", later)
    monkeypatch.setattr(iterators, "unchecked", lambda _: (1 << 32) - errno.ENOMEM)
    maker = _libbpf_programs.IteratorMaker(5)
    owner = maker()
    assert len(open_files()) == len(before) + 1
    owner.close()
    assert open_files() == before


def test_a_closed_maker_of_iterators_asks_about_no_other_s_link(iterators: Iterators) -> None:
    maker = _libbpf_programs.IteratorMaker(5)
    maker().close()
    maker.close()
    maker.close()
    for _ in range(2):
        with pytest.raises(MemcgError) as caught:
            maker()
        assert caught.value.errno == errno.EBADF
    assert set(iterators.asked[1:]) == {-1}


def test_a_function_that_returns_a_descriptor_has_no_error_check_of_its_own() -> None:
    for name in ("bpf_iter_create", "bpf_map_create", "bpf_prog_load", "bpf_link_create"):
        row = next(row for row in _libbpf.BINDINGS if row.name == name)
        function = _libbpf.unchecked_descriptor(name)
        assert (function.restype, list(function.argtypes)) == (ctypes.c_uint32, row.argtypes)
        assert function.errcheck is None and not function._flags_ & _gil_flag()
        assert function is not _libbpf.unchecked(name)
        assert _libbpf.unchecked(name).restype is ctypes.c_int, "another one than that"


def test_a_descriptor_that_is_refused_is_our_error() -> None:
    # The real libbpf and kernel: to be refused needs no privilege.
    before = open_files()
    with pytest.raises(MemcgError) as caught:
        _libbpf.load().descriptor("bpf_iter_create", -1)
    assert (caught.value.errno, caught.value.call) == (errno.EBADF, "bpf_iter_create")
    assert open_files() == before


@pytest.mark.parametrize("replaced", [True, False], ids=["another file's", "free"])
def test_a_bpf_object_s_number_that_is_no_more_its_own_is_lost(
    replaced: bool, tmp_path: Path
) -> None:
    # The real libbpf and kernel: to ask about a number needs no privilege. (The first answer is
    # made up: to load a program would need some.)
    answers: list[Identity] = [(2, 12345)]

    def identify(fd: int) -> Identity:
        return answers.pop() if answers else _libbpf_programs.object_identity(_libbpf.load(), fd)

    descriptor = Descriptor(opened_at(os.devnull, os.O_RDONLY), identify)
    number = descriptor.fd
    with open(tmp_path / "other", "wb") as other:
        os.close(number)
        if replaced:
            os.dup2(other.fileno(), number, inheritable=False)
        with pytest.raises(MemcgError) as caught:
            _libbpf_programs.object_identity(_libbpf.load(), number)
        assert caught.value.call == "bpf_obj_get_info_by_fd"
        assert descriptor.is_lost, caught.value
        before = open_files()
        descriptor.close()
        del descriptor
        gc.collect()
        assert open_files() == before
    if replaced:
        os.close(number)


def test_a_run_returns_its_error_number() -> None:
    run = _libbpf_programs.runner(-1, bytearray(16))
    assert (run(), run()) == (-errno.EBADF, -errno.EBADF)


class Runs:
    """bpf_prog_test_run_opts of a kernel that writes into the context."""

    def __init__(self) -> None:
        self.addresses: list[int] = []
        self.seen: list[bytes] = []
        self.answer = b""

    def untyped(self, name: str) -> Any:
        assert name == "bpf_prog_test_run_opts"
        return self.run

    def run(self, program_fd: Any, reference: Any) -> int:
        options = reference._obj
        given = {field[0]: getattr(options, field[0]) for field in options._fields_}
        assert str(program_fd) == "<cparam 'i' (5)>"
        size, address = given.pop("ctx_size_in"), given.pop("ctx_in")
        assert given.pop("sz") == ctypes.sizeof(_libbpf.TestRunOpts)
        assert not any(given.values()), "what the kernel refuses of a syscall program"
        self.addresses.append(address)
        self.seen.append(ctypes.string_at(address, size))
        ctypes.memmove(address, self.answer, len(self.answer))
        return 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setattr(_libbpf, "untyped", fake.untyped)
    return fake


def test_a_run_reads_and_writes_its_context(runs: Runs) -> None:
    context = bytearray(b"question" + bytes(8))
    run = _libbpf_programs.runner(5, context)
    runs.answer = b"an answer, whole"
    assert run() == 0
    assert context == b"an answer, whole"
    context[:8] = b"other q."
    run()
    assert runs.seen == [b"question" + bytes(8), b"other q.r, whole"]


class Raw:
    """bpf_prog_test_run_opts of a kernel that runs raw tracepoints' programs."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.result, self.returns = 0, 0

    def untyped(self, name: str) -> Any:
        assert name == "bpf_prog_test_run_opts"
        return self.run

    def run(self, program_fd: Any, reference: Any) -> int:
        options = reference._obj
        given = {field[0]: getattr(options, field[0]) for field in options._fields_}
        assert str(program_fd) == "<cparam 'i' (5)>"
        size, address = given.pop("ctx_size_in"), given.pop("ctx_in")
        assert given.pop("sz") == ctypes.sizeof(_libbpf.TestRunOpts)
        given.pop("retval")  # what the run before has returned; the kernel does not look at it
        assert not any(given.values()), "what the kernel refuses of a raw tracepoint's program"
        self.seen.append(tuple(memoryview(ctypes.string_at(address, size)).cast("Q")))
        options.retval = self.returns
        return self.result


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Raw:
    fake = Raw()
    monkeypatch.setattr(_libbpf, "untyped", fake.untyped)
    return fake


def test_a_run_with_arguments_passes_them_each_time_and_has_what_was_returned(raw: Raw) -> None:
    runner = _libbpf_programs.ArgumentRunner(5, (7, (1 << 64) - 1, 1 << 63))
    for returned in (0, 3, (1 << 32) - 1):
        raw.returns = returned
        assert (runner.run(), runner.returned[0]) == (0, returned)
    assert raw.seen == [(7, (1 << 64) - 1, 1 << 63)] * 3


def test_the_arguments_and_the_result_outlive_their_runner(raw: Raw) -> None:
    runner = _libbpf_programs.ArgumentRunner(5, (7, 8, 9))
    run, returned = runner.run, runner.returned
    del runner
    gc.collect()
    others = [bytearray(24) for _ in range(100)]
    raw.returns = 42
    assert (run(), returned[0]) == (0, 42)
    assert raw.seen == [(7, 8, 9)]
    assert not any(map(any, others)), "its memory was given to another"


def test_a_closed_runner_is_refused_by_whatever_program_has_its_number(raw: Raw) -> None:
    runner = _libbpf_programs.ArgumentRunner(5, (7,))
    runner.close()
    (reference,) = runner.run.args[1:]  # type: ignore[attr-defined]
    assert reference._obj.ctx_size_in == (1 << 32) - 1
    # The real libbpf and kernel, and a descriptor of no program.
    assert raw.seen == []


def test_runners_do_not_share_what_was_returned(raw: Raw) -> None:
    first, second = (_libbpf_programs.ArgumentRunner(5, (at,)) for at in (1, 2))
    raw.returns = 10
    first.run()
    raw.returns = 20
    second.run()
    assert (first.returned[0], second.returned[0]) == (10, 20)
    assert raw.seen == [(1,), (2,)]


def test_a_run_with_arguments_that_is_refused_returns_its_error_number(raw: Raw) -> None:
    raw.result = -errno.EPERM
    assert _libbpf_programs.ArgumentRunner(5, (1,)).run() == -errno.EPERM


def test_a_run_with_arguments_of_what_is_no_program_is_refused() -> None:
    # The real libbpf and kernel.
    run = _libbpf_programs.ArgumentRunner(-1, (1, 2, 3)).run
    assert (run(), run()) == (-errno.EBADF, -errno.EBADF)


def test_a_context_stays_where_it_is(runs: Runs) -> None:
    context = bytearray(64)
    run = _libbpf_programs.runner(5, context)
    run()
    with pytest.raises(BufferError):  # else it would be moved under the kernel's hand
        context.extend(bytes(1 << 16))
    del context
    gc.collect()
    others = [bytearray(64) for _ in range(100)]
    runs.answer = b"\xff" * 64
    run()
    assert runs.addresses[0] == runs.addresses[1]
    assert not any(map(any, others)), "its memory was given to another"


def test_contexts_are_told_apart(runs: Runs) -> None:
    contexts = [bytearray(8), bytearray(8)]
    first, second = (_libbpf_programs.runner(5, context) for context in contexts)
    runs.answer = b"to first"
    first()
    runs.answer = b"tosecond"
    second()
    assert contexts == [b"to first", b"tosecond"]


def test_names_are_unique() -> None:
    names = [row.name for row in _libbpf.BINDINGS]
    assert len(names) == len(set(names)) > 20


def test_what_the_table_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="bpf_object__open_file"):
        _ = _libbpf.Libbpf(Library()).bpf_object__open_file


@pytest.mark.parametrize("name", [name for name, how in FAILING.items() if how == "negative"])
def test_a_negative_result_raises_and_others_are_returned(name: str) -> None:
    library = Library()
    function = getattr(_libbpf.Libbpf(library), name)
    for number in (errno.EPERM, 4003):
        getattr(library, name).result = -number
        with pytest.raises(MemcgError) as caught:
            function()
        assert (caught.value.errno, caught.value.call) == (number, name)
        assert name in str(caught.value)
    for result in (0, 7):
        getattr(library, name).result = result
        assert function() == result


@pytest.mark.parametrize("name", [name for name, how in FAILING.items() if how == "null"])
def test_null_raises_with_errno(name: str) -> None:
    library = Library()
    null = next(row.restype for row in _libbpf.BINDINGS if row.name == name)()
    # ctypes hands a NULL void * over as None, and a NULL pointer as a false object.
    getattr(library, name).result = None if isinstance(null, ctypes.c_void_p) else null
    ctypes.set_errno(errno.ENOENT)
    with pytest.raises(MemcgError) as caught:
        getattr(_libbpf.Libbpf(library), name)()
    assert (caught.value.errno, caught.value.call) == (errno.ENOENT, name)


def test_libbpf_names_its_own_error_numbers() -> None:
    lib = _libbpf.load()
    with pytest.raises(MemcgError) as caught, _libbpf_log.messages():
        lib.bpf_object__open_mem(b"garbage" * 100, 700, None)
    assert caught.value.errno and caught.value.errno >= 4000
    assert "libbpf" in str(caught.value).lower() or "format" in str(caught.value).lower()
    assert str(caught.value.errno) in str(caught.value)


@pytest.mark.parametrize(
    "call", ["bpf_map__fd", "bpf_program__fd", "bpf_object__close", "bpf_object__btf"]
)
@pytest.mark.parametrize(
    "kind", [_libbpf.BpfObject, _libbpf.BpfProgram, _libbpf.BpfMap, _libbpf.Btf]
)
def test_the_wrong_pointer_is_an_argument_error(call: str, kind: type[ctypes.Structure]) -> None:
    right = {"bpf_object": _libbpf.BpfObject, "bpf_program": _libbpf.BpfProgram}.get(
        call.partition("__")[0], _libbpf.BpfMap
    )
    if kind is right:
        assert ctypes.POINTER(kind).from_param(ctypes.pointer(kind())) is not None
        return
    with pytest.raises(ctypes.ArgumentError):
        getattr(_libbpf.load(), call)(ctypes.pointer(kind()))


@pytest.mark.parametrize("fd", [0, -1])
def test_fd_zero_is_never_handed_to_the_kernel(fd: int) -> None:
    # The kernel takes it for "the whole hierarchy".
    with pytest.raises(ValueError, match="above 0"):
        _libbpf_programs.link_iterator(_libbpf.Libbpf(Library()), 5, fd, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "header", "size"),
    [
        (_libbpf.TestRunOpts, "struct bpf_test_run_opts", BPF_H, None),
    ],
)
def test_a_structure_is_that_of_the_header(
    ours: type[ctypes.Structure], theirs: str, header: str, size: Optional[int]
) -> None:
    # btf_type's last field is a union there.
    fields = {each[0]: each[0].partition("_or_")[0] for each in ours._fields_}
    layout = c_layout([header], theirs, fields.values())
    assert {name: getattr(ours, name).offset for name in fields} == {
        name: layout[there] for name, there in fields.items()
    }
    assert ctypes.sizeof(ours) == layout[""]
    assert size in (None, layout[""])


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        (_libbpf.LinkCreateOpts, "struct bpf_link_create_opts", 32),
        (_libbpf.MapCreateOpts, "struct bpf_map_create_opts", 48),
        (_libbpf.ProgLoadOpts, "struct bpf_prog_load_opts", 104),
    ],
)
def test_a_structure_is_the_beginning_of_that_of_the_header(
    ours: type[ctypes.Structure], theirs: str, size: int
) -> None:
    # Each says how long it is, so a newer libbpf's may be longer.
    offsets = {each[0]: getattr(ours, each[0]).offset for each in ours._fields_}
    layout = c_layout([BPF_H], theirs, offsets)
    assert offsets == {name: layout[name] for name in offsets}
    assert ctypes.sizeof(ours) == size <= layout[""]


def test_where_a_program_says_what_it_is_attached_to() -> None:
    layout = c_layout(["<linux/bpf.h>"], "struct bpf_prog_info", ["attach_btf_id"])
    assert _libbpf.ProgInfo.attach_btf_id.offset == layout["attach_btf_id"] == 224
    assert ctypes.sizeof(_libbpf.ProgInfo) == 232 <= layout[""]


def test_iter_link_info_is_the_cgroup_form_of_the_union() -> None:
    fields = ("order", "cgroup_fd", "cgroup_id")
    layout = c_layout(
        ["<linux/bpf.h>"], "union bpf_iter_link_info", [f"cgroup.{name}" for name in fields]
    )
    offsets = [getattr(_libbpf.IterLinkInfo, name).offset for name in fields]
    assert offsets == [layout[f"cgroup.{name}"] for name in fields] == [0, 4, 8]
    assert ctypes.sizeof(_libbpf.IterLinkInfo) == layout[""] == 16


# --- a library that cannot be loaded, or is loaded as a copy ------------------------------


@pytest.mark.parametrize("number", sorted(TRANSIENT_ERRNOS))
def test_a_shortage_while_the_library_is_loaded(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        # dlopen() has no number for what is wrong, only words.
        raise OSError(f"libelf.so.1: cannot create shared object descriptor: {os.strerror(number)}")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(MemcgError) as caught:
        _libbpf._open()
    assert type(caught.value) is MemcgError
    assert (caught.value.errno, caught.value.call) == (number, "dlopen")


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("libbpf.so.1", "apt-get install libbpf1)"),
        ("/usr/lib/libbpf.so.1", "apt-get install libbpf1)"),
        ("libelf.so.1", "install libelf.so.1, which libbpf.so.1 needs"),
        ("libzstd.so.1", "install libzstd.so.1, which libbpf.so.1 needs"),
    ],
)
def test_a_library_that_is_missing_is_named(
    file: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"{file}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(LibbpfNotFoundError, match=f"cannot be loaded \\({file}: ") as caught:
        _libbpf._open()
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize("times", [1, 2])
def test_a_segment_that_cannot_be_mapped(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # It says neither that memory lacks nor that nothing may be executed there.
    left = [times]
    load = ctypes.CDLL

    def refuse(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError("libelf.so.1: failed to map segment from shared object")
        return load(*arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    if times == 1:
        assert _libbpf._open().bpf_iter_create
    else:
        with pytest.raises(LibbpfNotFoundError, match="failed to map segment"):
            _libbpf._open()


LOAD_A_COPY = """
import ctypes
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_log as _libbpf_log
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
def address(lib):
    return ctypes.cast(lib.libbpf_major_version, ctypes.c_void_p).value
before = _libbpf.load()
run_before = _libbpf.unchecked("bpf_iter_create")
now = _libbpf.load_private_copy()
assert _libbpf.load() is now is not before and address(now) != address(before)
assert now.version == before.version
assert _libbpf.unchecked("bpf_iter_create") is not run_before
assert run_before(-1) == _libbpf.unchecked("bpf_iter_create")(-1) == -9
with _libbpf_log.messages() as lines:
    try:
        now.bpf_object__open_mem(b"nothing", 7, None)
    except _libbpf.MemcgError as error:
        print(error.call, len(lines) > 0)
"""


def test_the_copy_of_the_library_replaces_it(run_python: RunPython) -> None:
    ran = run_python("-c", LOAD_A_COPY)
    assert (ran.stdout, ran.stderr) == ("bpf_object__open_mem True\n", "")


def test_a_copy_that_cannot_be_loaded_leaves_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "memfd_create", refuse)
    before = _libbpf.load()
    with pytest.raises(MemcgError, match="start this process again") as caught:
        _libbpf.load_private_copy()
    assert caught.value.errno == errno.ENOMEM
    assert _libbpf.load() is before
