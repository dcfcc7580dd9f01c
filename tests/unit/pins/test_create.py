# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins are created with a fake program, in a directory that looks like a bpffs."""

from __future__ import annotations

import errno
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
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.features import ITERATOR
from pymemcgbpf._bpf.plan import ReadPlan, Term
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._descriptors import Descriptor, opened_at
from pymemcgbpf._options import Request
from pymemcgbpf._pins import pin_stream as _pin_stream
from pymemcgbpf._pins.pin_source import PinSourceFactory
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources.choose import Selection

from ..directories import said_to_be
from ..fake_libbpf import installed
from ..fake_pins import TERMS, Pins
from ..kernels import KERNELS, LINUX_6_12, LINUX_6_18, LINUX_7_3, Kernel


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pins:
    root = tmp_path / "bpf"
    root.mkdir()
    fake = Pins(tmp_path, root)
    said_to_be(monkeypatch, root)
    monkeypatch.setattr(_program, "Program", fake.program)
    monkeypatch.setattr(_libbpf_programs, "IteratorMaker", fake.maker)
    monkeypatch.setattr(_choose, "choose", fake.choose)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_12.types)
    monkeypatch.setattr(Pins, "refuses", 0)
    return fake


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- failures -------------------------------------------------------------------------


def test_wrong_arguments_are_refused_before_anything_is_created(pins: Pins, v2: Path) -> None:
    for bad in (-1, 0o1000, 0o4444):
        with pytest.raises(ValueError, match="0 to 0o777"):
            pin(v2, pins.root / "it", mode=bad)
    for no_number in ("0444", True):
        with pytest.raises(TypeError):
            pin(v2, pins.root / "it", mode=no_number)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of names"):
        pin(v2, pins.root / "it", "anon")
    with pytest.raises(ValueError, match="cannot be a path"):
        pin(v2, f"{pins.root}/a\0b")
    with pytest.raises(ValueError, match="order must be"):
        pin(v2, pins.root / "it", order="in")  # type: ignore[arg-type]
    assert pins.made == [] and os.listdir(pins.root) == []


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
    pins: Pins,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pins, "refuses", number)
    with pytest.raises(MemcgError) as caught:
        pin(v2, pins.root / "deep" / "down" / "it")
    assert type(caught.value) is kind
    assert os.listdir(pins.root) == [] and pins.open() == 0


def test_a_directory_that_cannot_be_created_leaves_nothing(
    pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, kind in ((errno.EACCES, PinPermissionError), (errno.EROFS, MemcgError)):

        def refuse(*_: Any, number: int = number, **at: int) -> None:
            raise OSError(number, "x")

        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", refuse)
            with pytest.raises(kind) as caught:
                pin(v2, pins.root / "deep" / "it")
        assert str(pins.root / "deep" / "it") in str(caught.value)
    assert os.listdir(pins.root) == [] and pins.open() == 0


@pytest.mark.parametrize("backend", ["kfunc", "rfc", "core"])
def test_a_pin_needs_an_iterator_whatever_its_backend(backend: str) -> None:
    factory = PinSourceFactory("self", True, False)
    assert {factory.feature_of(backend, each) for each in factory.transports} == {ITERATOR}


def test_no_program_is_loaded_for_a_path_that_is_refused(pins: Pins, v2: Path) -> None:
    (pins.root / "taken").touch()
    with pytest.raises(PinExistsError):
        pin(v2, pins.root / "taken")
    with pytest.raises(PinPathError):
        pin(v2, v2 / "it")
    assert pins.made == []


def test_a_missing_flush_is_an_error_that_names_flush_false(
    pins: Pins, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    with pytest.raises(BackendUnavailableError, match=r"no flush.*flush=False"):
        pin(v2, pins.root / "it")
    pin(v2, pins.root / "it", flush=False)
    pins.plan = ReadPlan("core", {"memory.current": (Term(1, 1),)})
    pins.rows = [_wire.RawRow(9, 1, 1, 0, (1,))]
    pin(v2, pins.root / "exact")


def test_a_walk_that_does_not_fit_is_sent_to_pin_tree(pins: Pins, v2: Path) -> None:
    pins.full = True
    for order in ("pre", "post", "up", "children"):
        with pytest.raises(TreeTooLargeError, match="pin_tree") as caught:
            pin(v2, pins.root / "it", order=order)
        assert caught.value.rows == _pin_stream.capacity(2)
    assert pins.open() == 0


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
    assert not {"flush_each", "children_of"} & made.constants.keys()
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


@pytest.mark.parametrize("items", [1, 2, 6, 68, 110, 512])
def test_the_largest_walk_that_fits_does_not_fill_the_buffer(items: int) -> None:
    fit = _pin_stream.capacity(items)
    size = _wire.header_size(items) + fit * _wire.row_size(items) + _wire.TRAILER.size
    assert size < 8 * mmap.PAGESIZE <= size + _wire.row_size(items)


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
