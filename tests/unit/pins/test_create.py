# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins are created with a fake program, in a directory that looks like a bpffs."""

from __future__ import annotations

import errno
import math
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    MemoryControllerError,
    PinExistsError,
    PinPathError,
    PinPermissionError,
    TreeTooLargeError,
    UnknownItemError,
    VerifierError,
    _options,
    _wire,
    pin,
    pin_tree,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.features import ITERATOR
from pymemcgbpf._bpf.plan import ReadPlan, Term, Terms
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._descriptors import Descriptor, opened_at
from pymemcgbpf._options import Request
from pymemcgbpf._pins import create as _create
from pymemcgbpf._pins import read as _read
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import tree_bpf as _tree_bpf
from pymemcgbpf._sources.choose import Selection

from ..directories import make_v1, said_to_be
from ..fake_libbpf import FakeIteratorMaker, installed
from ..kernels import KERNELS, LINUX_6_1, LINUX_6_12, LINUX_6_18, LINUX_7_3, Kernel
from ..tree_rows import pack

TERMS: Terms = {name: (Term(1, at),) for at, name in enumerate(("anon", "pgfault"))}
RECIPE = ReadPlan("core", TERMS)


class Made:
    """A fake of a loaded program and of its link."""

    fd = 5

    def __init__(self, name: str, constants: dict[str, bytes]) -> None:
        assert name == _program.STREAM
        self.constants = constants
        self.order = 0
        self.open = 0
        self.pinned: list[str] = []

    def attach(self, cgroup_fd: int, order: int) -> Made:
        assert cgroup_fd > 0
        self.order = order
        self.open += 1
        return self

    def pin(self, path: str) -> None:
        if Pins.refuses:
            raise MemcgError("x", errno=Pins.refuses, call="bpf_obj_pin")
        Path(path).touch()
        self.pinned.append(path)

    def close(self) -> None:
        self.open -= 1

    def number(self, constant: str) -> int:
        return int.from_bytes(self.constants.get(constant, b"\0"), "little")


class Pins:
    """A fake of the kernel.

    Attributes:
        made: the programs loaded, in order.
        rows: what an iterator writes; without the trailer if *full*.
        refuses: the error number with which pinning fails, or 0.
    """

    refuses = 0

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.made: list[Made] = []
        self.rows = [_wire.RawRow(9, 1, 1, 0, (1, 2))]
        self.full = False
        self.plan = RECIPE
        self.backends: list[str] = []

    def program(self, name: str, constants: dict[str, bytes]) -> Made:
        self.made.append(Made(name, constants))
        return self.made[-1]

    def maker(self, link_fd: int) -> FakeIteratorMaker:
        def create(_: int) -> int:
            data = self.made[-1].constants["header"] + pack(*self.rows)
            if not self.full:
                data += _wire.TRAILER.pack(_wire.END_MAGIC, len(self.rows), 1)
            (self.folder / "stream").write_bytes(data)
            return os.open(self.folder / "stream", os.O_RDONLY)

        return FakeIteratorMaker(create, link_fd)

    def choose(self, cgroup: Cgroup, request: Request, maker: Any) -> Selection[Any]:
        """Does the part of _choose.choose() that matters here."""
        self.backends.append(request.backend)
        if request.backend != "core":
            raise BackendUnavailableError("no such function")
        source = maker.bpf(cgroup, self.plan, request.flush, "stream")
        try:
            absent = source.probe_missing()
        except BaseException:
            source.close()
            raise
        if absent:
            source.close()
            terms = {name: parts for name, parts in self.plan.terms.items() if name not in absent}
            self.plan = self.plan._replace(terms=terms)
            self.rows = [row._replace(values=row.values[: len(terms)]) for row in self.rows]
            return self.choose(cgroup, request, maker)
        return Selection(source, source.names, "core", "stream", "")

    def open(self) -> int:
        return sum(made.open for made in self.made)


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pins:
    root = tmp_path / "bpf"
    root.mkdir()
    fake = Pins(tmp_path, root)
    said_to_be(monkeypatch, root)
    monkeypatch.setattr(_program, "Program", fake.program)
    monkeypatch.setattr(_libbpf_programs, "IteratorMaker", fake.maker)
    monkeypatch.setattr(_choose, "choose", fake.choose)
    monkeypatch.setattr(_tree_bpf, "count_rows", lambda *_: 1001)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_12.types)
    monkeypatch.setattr(Pins, "refuses", 0)
    return fake


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pin, pin_tree])
def test_wrong_arguments_are_refused_before_anything_is_created(
    make: Any, pins: Pins, v2: Path
) -> None:
    for bad in (-1, 0o1000, 0o4444):
        with pytest.raises(ValueError, match="0 to 0o777"):
            make(v2, pins.root / "it", mode=bad)
    for no_number in ("0444", True):
        with pytest.raises(TypeError):
            make(v2, pins.root / "it", mode=no_number)
    with pytest.raises(TypeError, match="list of names"):
        make(v2, pins.root / "it", "anon")
    with pytest.raises(ValueError, match="cannot be a path"):
        make(v2, f"{pins.root}/a\0b")
    with pytest.raises(ValueError, match=r"order must be|at least 1"):
        make(v2, pins.root / "it", **({"order": "in"} if make is pin else {"room": 0}))
    assert pins.made == [] and os.listdir(pins.root) == []


@pytest.mark.parametrize("make", [pin, pin_tree])
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EEXIST, PinExistsError),
        (errno.EPERM, PinPermissionError),
        (errno.EACCES, PinPermissionError),
        (errno.ENOSPC, MemcgError),
    ],
)
def test_a_refused_pin_leaves_nothing(
    number: int,
    kind: type[MemcgError],
    make: Any,
    pins: Pins,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pins, "refuses", number)
    with pytest.raises(MemcgError) as caught:
        make(v2, pins.root / "deep" / "down" / "it")
    assert type(caught.value) is kind
    assert os.listdir(pins.root) == [] and pins.open() == 0


@pytest.mark.parametrize("make", [pin, pin_tree])
def test_a_directory_that_cannot_be_created_leaves_nothing(
    make: Any, pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, kind in ((errno.EACCES, PinPermissionError), (errno.EROFS, MemcgError)):

        def refuse(*_: Any, number: int = number, **at: int) -> None:
            raise OSError(number, "x")

        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", refuse)
            with pytest.raises(kind) as caught:
                make(v2, pins.root / "deep" / "it")
        assert str(pins.root / "deep" / "it") in str(caught.value)
    assert os.listdir(pins.root) == [] and pins.open() == 0


def test_a_failure_of_one_part_leaves_nothing(
    pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = Made.attach

    def fail_at_the_fourth(made: Made, cgroup_fd: int, order: int) -> Made:
        if len(pins.made) == 5:
            raise MemcgError("no more", errno=errno.ENOMEM)
        return attach(made, cgroup_fd, order)

    monkeypatch.setattr(Made, "attach", fail_at_the_fourth)
    with pytest.raises(MemcgError, match="no more"):
        pin_tree(v2, pins.root / "deep" / "it", room=10000)
    assert len(pins.made[3].pinned) == 1
    assert os.listdir(pins.root) == [] and pins.open() == 0


@pytest.mark.parametrize("backend", ["kfunc", "rfc", "core"])
def test_a_pin_needs_an_iterator_whatever_its_backend(backend: str) -> None:
    factory = _create.PinSourceFactory("self", True, False)
    assert {factory.feature_of(backend, each) for each in factory.transports} == {ITERATOR}


def test_no_program_is_loaded_for_a_path_that_is_refused(pins: Pins, v2: Path) -> None:
    (pins.root / "taken").touch()
    for make in (pin, pin_tree):
        with pytest.raises(PinExistsError):
            make(v2, pins.root / "taken")
        with pytest.raises(PinPathError):
            make(v2, v2 / "it")
    assert pins.made == []


@pytest.mark.parametrize("make", [pin, pin_tree])
def test_a_missing_flush_is_an_error_that_names_flush_false(
    make: Any, pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    with pytest.raises(BackendUnavailableError, match=r"no flush.*flush=False"):
        make(v2, pins.root / "it")
    make(v2, pins.root / "it", flush=False)
    pins.plan = ReadPlan("core", {"memory.current": (Term(1, 1),)})
    pins.rows = [_wire.RawRow(9, 1, 1, 0, (1,))]
    make(v2, pins.root / "exact")


def test_a_walk_that_does_not_fit_is_sent_to_pin_tree(pins: Pins, v2: Path) -> None:
    pins.full = True
    for order in ("pre", "post", "up", "children"):
        with pytest.raises(TreeTooLargeError, match="pin_tree") as caught:
            pin(v2, pins.root / "it", order=order)
        assert caught.value.rows == _read.capacity(2)
    pin_tree(v2, pins.root / "it")  # which looks at the first row alone
    assert pins.open() == 0


@pytest.mark.parametrize("room", [1_000_000, 10**400])
def test_too_many_parts_are_refused(room: int, pins: Pins, v2: Path) -> None:
    with pytest.raises(
        TreeTooLargeError, match=r"would take more than 1,024 parts: pin fewer items"
    ):
        pin_tree(v2, pins.root / "it", room=room)
    assert os.listdir(pins.root) == []


def test_a_cgroup_removed_while_it_is_pinned_is_an_error(pins: Pins, v2: Path) -> None:
    pins.rows = []
    (v2 / "memory.stat").rename(v2 / "gone")
    (v2 / "gone").rename(v2 / "memory.stat")
    with pytest.raises(MemcgError):
        pin(v2, pins.root / "it")
    pin(v2, pins.root / "it", order="children")
    assert pins.open() == 0


def test_an_item_without_a_number_is_left_out_or_refused_by_name(pins: Pins, v2: Path) -> None:
    pins.plan = ReadPlan("core", {**TERMS, "brand_new": (Term(1, 5),)})
    pins.rows = [_wire.RawRow(9, 1, 1, 0, (1, 2, 3))]
    choose = pins.choose

    def and_fail(cgroup: Cgroup, request: Request, maker: Any) -> Selection[Any]:
        choice = choose(cgroup, request, maker)
        if request.names and "brand_new" in request.names and "brand_new" not in choice.names:
            choice.source.close()
            raise ItemUnavailableError("this kernel does not have it", item_names=["brand_new"])
        return choice

    plan = pins.plan
    for names in (None, ["*"], ["anon", "brand*"]):
        pins.plan, pins.rows = plan, [_wire.RawRow(9, 1, 1, 0, (1, 2, 3))]
        pin(v2, pins.root / "it", names)
        header = _wire.decode_header(pins.made[-1].constants["header"])
        assert header.item_numbers == (1, 55)
        (pins.root / "it").unlink()
    pins.plan, pins.rows = plan, [_wire.RawRow(9, 1, 1, 0, (1, 2, 3))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_choose, "choose", and_fail)
        with pytest.raises(ItemUnavailableError, match="'brand_new' cannot be pinned") as caught:
            pin(v2, pins.root / "it", ["anon", "brand_new"])
    assert caught.value.item_names == ("brand_new",)
    assert pins.open() == 0


@pytest.mark.parametrize(
    ("errors", "tried", "told"),
    [
        ([BpfPermissionError("a"), BackendUnavailableError("b"), BpfPermissionError("c")], 3, 2),
        ([VerifierError("a"), BackendUnavailableError("b"), BackendUnavailableError("c")], 3, 0),
        ([BackendUnavailableError(x) for x in "abc"], 3, 2),
        ([BackendUnavailableError("a"), MemoryControllerError("c")], 2, 1),
        ([CgroupRemovedError("c")], 1, 0),
        ([UnknownItemError("c")], 1, 0),
        ([MemcgError("c", errno=errno.EMFILE)], 1, 0),
        ([ItemUnavailableError("a"), ItemUnavailableError("b"), ItemUnavailableError("c")], 3, 2),
    ],
)
def test_the_error_is_the_one_that_says_most(
    errors: list[MemcgError],
    tried: int,
    told: int,
    pins: Pins,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = list(errors)

    def refuse(cgroup: Cgroup, request: Request, maker: Any) -> Any:
        raise waiting.pop(0)

    monkeypatch.setattr(_choose, "choose", refuse)
    with pytest.raises(MemcgError) as caught:
        pin(v2, pins.root / "it")
    assert caught.value is errors[told] and len(errors) - len(waiting) == tried


# --- what is made ---------------------------------------------------------------------


def test_a_pin_has_its_mode_and_leaves_nothing_open(pins: Pins, v2: Path) -> None:
    before = os.umask(0o077)
    try:
        pin(v2, os.fsencode(pins.root / "new" / "it"), ["anon", "pgfault"], mode=0o440)
    finally:
        os.umask(before)
    (made,) = pins.made
    assert pins.backends == ["kfunc", "rfc", "core"]
    assert (made.order, made.number("flush")) == (_options.SELF, _terms.FLUSH_RSTAT)
    assert not {"flush_each", "nr_parts", "part", "children_of"} & made.constants.keys()
    assert (mode(pins.root / "new" / "it"), mode(pins.root / "new")) == (0o440, 0o755)
    assert [Path(path).name for path in made.pinned] == ["it"] and pins.open() == 0


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("order", _options.ORDERS)
def test_each_order_is_attached_and_flushed_as_the_kernel_can(
    order: _options.Order, kernel: Kernel, pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", kernel.types)
    flush = kernel is not LINUX_6_18
    pin(v2, pins.root / "it", order=order, flush=flush)
    (made,) = pins.made
    assert _wire.decode_header(made.constants["header"]).order == _options.ORDERS[order]
    by_pre = order == "children" and kernel is not LINUX_7_3
    assert made.order == (_options.PRE if by_pre else _options.ORDERS[order])
    assert made.number("children_of") == (v2.stat().st_ino if by_pre else 0)
    # The first cgroup that is met does not contain the others.
    assert made.number("flush_each") == (order in ("post", "up", "children") and not by_pre)
    ways = {LINUX_6_18: 0, LINUX_7_3: _terms.FLUSH_KFUNC}
    assert made.number("flush") == ways.get(kernel, _terms.FLUSH_RSTAT)


def test_without_a_flush_the_program_does_not_flush(pins: Pins, v2: Path) -> None:
    pin(v2, pins.root / "it", flush=False)
    assert pins.made[-1].number("flush") == _terms.FLUSH_NONE


def test_a_tree_is_pinned_in_parts_of_which_the_first_flushes(
    pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_1.types)
    pin_tree(v2, pins.root / "new" / "tree", room=5000, mode=0o400)
    probe, *parts = pins.made
    count = len(parts)
    assert count == _create.parts_for(5000, _read.capacity(2)) > 5
    names = [f"part-{at:04}-of-{count:04}" for at in range(count)]
    assert sorted(os.listdir(pins.root / "new" / "tree")) == names
    assert [os.path.basename(part.pinned[0]) for part in parts] == names
    assert [part.number("part") for part in parts] == list(range(count))
    assert {part.number("nr_parts") for part in parts} == {count}
    assert {part.order for part in pins.made} == {_options.PRE}
    assert [part.number("flush") for part in parts] == [_terms.FLUSH_RSTAT] + [0] * (count - 1)
    assert {mode(path) for path in (pins.root / "new" / "tree").iterdir()} == {0o400}
    assert mode(pins.root / "new" / "tree") == 0o755
    assert "nr_parts" not in probe.constants and pins.open() == 0


def test_an_incomplete_tree_can_be_read_by_nobody(
    pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    link_pin = Made.pin

    def look(made: Made, path: str) -> None:
        modes.append(mode(Path(path).parent))
        link_pin(made, path)

    monkeypatch.setattr(Made, "pin", look)
    pin_tree(v2, pins.root / "tree", room=3000)
    assert set(modes) == {0o700} and len(modes) > 2


def test_room_is_twice_what_exists_by_default(pins: Pins, v2: Path) -> None:
    (v2 / "cgroup.stat").write_text("nr_descendants 4999\nnr_dying_descendants 3\n")
    pin_tree(v2, pins.root / "tree")
    count = _create.parts_for(2 * 5000 + 64, _read.capacity(2))
    assert len(os.listdir(pins.root / "tree")) == count


def test_room_by_default_is_counted_on_v1(
    pins: Pins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cgroup v1 has only /proc/cgroups, which counts all trees, and cgroups not freed yet."""
    cgroup = make_v1(tmp_path / "v1")
    counted: list[str] = []

    def count(opened: Cgroup, plan: ReadPlan) -> int:
        assert plan == RECIPE
        counted.append(opened.path)
        return 2000

    monkeypatch.setattr(_tree_bpf, "count_rows", count)
    pin_tree(cgroup, pins.root / "tree")
    assert counted == [str(cgroup)]
    count_of_parts = _create.parts_for(2 * 2000 + 64, _read.capacity(2))
    assert len(os.listdir(pins.root / "tree")) == count_of_parts
    pin_tree(cgroup, pins.root / "small", room=1)
    assert len(counted) == 1


@pytest.mark.parametrize("items", [1, 2, 6, 68, 110, 512])
def test_a_part_never_fills_the_buffer(items: int) -> None:
    fit = _read.capacity(items)
    size = _wire.header_size(items) + fit * _wire.row_size(items) + _wire.TRAILER.size
    assert size < 8 * mmap.PAGESIZE <= size + _wire.row_size(items)


@pytest.mark.parametrize("fit", [7, 53, 455, 1000])
def test_parts_have_head_room(fit: int) -> None:
    assert _create.parts_for(1, fit) == _create.parts_for(fit, fit) == 1
    for room in (fit + 1, 2 * fit, 5000, 100_000):
        average = room / _create.parts_for(room, fit)
        assert average + 6 * math.sqrt(average) <= fit + 1e-6
        fewer = room / (_create.parts_for(room, fit) - 1)
        assert fewer + 6 * math.sqrt(fewer) > fit, "more parts than needed"


def mixed(cgroup_id: int) -> int:
    """What is_in_part() of bpf_src/rows.bpf.h computes."""
    mask = (1 << 64) - 1
    cgroup_id = (cgroup_id ^ cgroup_id >> 33) * 0xFF51AFD7ED558CCD & mask
    cgroup_id = (cgroup_id ^ cgroup_id >> 33) * 0xC4CEB9FE1A85EC53 & mask
    return cgroup_id ^ cgroup_id >> 33


@pytest.mark.parametrize("stride", [1, 2, 12, 16, 33, 47, 48, 66, 1 << 32])
def test_ids_with_a_stride_are_spread(stride: int) -> None:
    """This checks the arithmetic; the tests on real kernels check the program itself."""
    for fit, room in ((455, 10_000), (53, 10_000), (7, 500)):
        count = _create.parts_for(room, fit)
        sizes = [0] * count
        for at in range(room):
            sizes[mixed(81_178_121 + at * stride) % count] += 1
        assert max(sizes) <= fit


# --- the library ----------------------------------------------------------------------


def test_a_link_is_pinned_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(monkeypatch) as lib:
        lib.calls.clear()
        descriptor = Descriptor(opened_at(os.devnull, os.O_RDONLY))
        link = _program.Link(None, lib, descriptor)  # type: ignore[arg-type]
        os.fstat(link.fd)
        link.pin("/sys/fs/bpf/\udcff")
        assert lib.calls == ["bpf_obj_pin"]
        lib.fails = {"bpf_obj_pin": errno.EEXIST}
        with pytest.raises(MemcgError) as caught:
            link.pin("/sys/fs/bpf/it")
        assert (caught.value.errno, caught.value.call) == (errno.EEXIST, "bpf_obj_pin")
        link.close()
        link.close()
        with pytest.raises(OSError):
            os.fstat(link.fd)
