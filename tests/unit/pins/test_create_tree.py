# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pinned trees are created with fake programs, in a directory that looks like a bpffs."""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    ClosedError,
    ItemUnavailableError,
    MemcgError,
    PinExistsError,
    PinnedTree,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    TreeTooLargeError,
    VerifierError,
    _options,
    _wire,
    pin_tree,
    unpin,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import ReadPlan, Term
from pymemcgbpf._pins import create_tree as _create_tree
from pymemcgbpf._pins import remove as _remove
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._pins import tree_programs as _programs
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import tree_bpf as _tree_bpf
from pymemcgbpf._sources.choose import Selection

from ..children import ended
from ..directories import make_v1
from ..fake_pins import Pins, TreeKernel
from ..kernels import KERNELS, LINUX_5_15, LINUX_6_1, LINUX_6_12, LINUX_6_18
from ..tree_rows import pack

LEVEL = 3  # of every cgroup
ROWS = [
    _wire.RawRow(10, 1, 1, 0, (100, 0)),
    _wire.RawRow(11, 10, 2, 0, (101, 1)),
    _wire.RawRow(12, 10, 2, 0, (102, 2)),
]
BY_KERNEL = [
    *("load tree_stream", "fill", "freeze", "attach stream", "map", "load tree_start"),
    *("attach start", "start", "pin stream", "pin map", "pin timer"),
]
BY_HOLDER = [
    *("load tree_stream", "fill", "freeze", "attach stream", "map", "load tree_publish"),
    *("run", "pin stream", "pin map"),
]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bpffs: Path) -> Iterator[TreeKernel]:
    fake = TreeKernel(tmp_path, bpffs)
    fake.source.memory, fake.source.number = pack(*ROWS), len(ROWS)
    monkeypatch.setattr(_program, "Program", fake.program)
    monkeypatch.setattr(_libbpf_programs, "IteratorMaker", fake.maker)
    monkeypatch.setattr(_libbpf_programs, "runner", fake.runner)
    monkeypatch.setattr(_choose, "choose", fake.choose)
    monkeypatch.setattr(_tree_bpf, "level_of", lambda *_: LEVEL)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_12.types)
    monkeypatch.setattr(Pins, "refuses", 0)
    set_unprivileged_bpf(monkeypatch, "2")
    yield fake
    fake.close()


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A fake cgroup v1 directory."""
    return make_v1(tmp_path / "v1")


@pytest.fixture
def removals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are removed, in order."""
    names: list[str] = []

    def recorded(remove: Callable[..., None]) -> Callable[..., None]:
        def run(path: str, *, dir_fd: Optional[int] = None) -> None:
            names.append(os.path.basename(path))
            remove(path, dir_fd=dir_fd)

        return run

    monkeypatch.setattr(os, "unlink", recorded(os.unlink))
    monkeypatch.setattr(os, "rmdir", recorded(os.rmdir))
    return names


def set_unprivileged_bpf(monkeypatch: pytest.MonkeyPatch, text: Optional[str]) -> None:
    """Sets kernel.unprivileged_bpf_disabled; None for a kernel without it."""
    real = open

    def fake(path: Any, *arguments: Any, **more: Any) -> Any:
        if path != "/proc/sys/kernel/unprivileged_bpf_disabled":
            return real(path, *arguments, **more)
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "x")
        read, write = os.pipe()
        os.write(write, f"{text}\n".encode())
        os.close(write)
        return os.fdopen(read)

    monkeypatch.setattr(_programs, "open", fake, raising=False)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["v1", "v2"])
@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        *(("every", bad, ValueError) for bad in (0, -1, 0.0009, 1e6 + 1, math.inf, 10**400)),
        ("every", math.nan, ValueError),
        *(("every", bad, TypeError) for bad in (True, "1", None, 1j)),
        *(("order", bad, ValueError) for bad in ("up", "self", "in", None, 2)),
        *(("max_depth", bad, ValueError) for bad in (-1, -(10**400))),
        *(("room", bad, ValueError) for bad in (0, -1)),
        *((name, bad, TypeError) for name in ("room", "max_depth") for bad in (True, "1", 1.0)),
        *(("mode", bad, ValueError) for bad in (-1, 0o1000, 0o4444)),
        *(("mode", bad, TypeError) for bad in ("0444", True, None)),
        ("items", "anon", TypeError),
    ],
)
def test_wrong_options_are_refused_before_anything_is_created(
    make: str,
    option: str,
    value: Any,
    kind: type[Exception],
    kernel: TreeKernel,
    request: pytest.FixtureRequest,
) -> None:
    with pytest.raises(kind, match=option if kind is ValueError else None):
        pin_tree(request.getfixturevalue(make), kernel.root / "it", **{option: value})
    assert kernel.steps == [] and os.listdir(kernel.root) == []


def test_no_program_is_loaded_for_a_path_that_is_refused(kernel: TreeKernel, v2: Path) -> None:
    (kernel.root / "taken").touch()
    with pytest.raises(PinExistsError):
        pin_tree(v2, kernel.root / "taken")
    with pytest.raises(PinPathError):
        pin_tree(v2, v2 / "it")
    with pytest.raises(ValueError, match="cannot be a path"):
        pin_tree(v2, f"{kernel.root}/a\0b")
    assert kernel.steps == [] and kernel.made == []


@pytest.mark.parametrize("value", [0.001, 1, 1_000_000, 2.5])
def test_the_interval_may_be_any_number_of_seconds_in_a_range(
    value: float, kernel: TreeKernel, v2: Path
) -> None:
    tree = pin_tree(v2, kernel.root / "it", every=value)
    assert (tree.interval, type(tree.interval)) == (value, float)
    assert kernel.head.interval_ns == round(value * 1e9)


@pytest.mark.parametrize("make", ["v1", "v2"])
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
    make: str,
    kernel: TreeKernel,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(Pins, "refuses", number)
    with pytest.raises(MemcgError) as caught:
        pin_tree(request.getfixturevalue(make), kernel.root / "deep" / "down" / "it")
    assert type(caught.value) is kind
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


def test_a_directory_that_cannot_be_created_leaves_nothing(
    kernel: TreeKernel, v2: Path, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **at: int) -> None:
        raise OSError(errno.EROFS, "x")

    monkeypatch.setattr(os, "mkdir", refuse)
    for cgroup in (v2, v1):
        with pytest.raises(MemcgError, match="Read-only file system") as caught:
            pin_tree(cgroup, kernel.root / "it")
        assert str(kernel.root / "it") in str(caught.value)
        assert os.listdir(kernel.root) == [] and kernel.open() == 0


# --- by the kernel --------------------------------------------------------------------


def test_the_kernel_refreshes_it_where_it_can(kernel: TreeKernel, v2: Path) -> None:
    before = os.umask(0o077)
    try:
        tree = pin_tree(v2, os.fsencode(kernel.root / "new" / "it"), ["anon", "pgfault"])
    finally:
        os.umask(before)
    path = kernel.root / "new" / "it"
    assert kernel.steps == BY_KERNEL
    assert kernel.modes == dict.fromkeys(("stream", "map", "timer"), 0o700)
    assert mode(path.parent) == mode(path) == 0o755
    modes = {name: mode(path / name) for name in os.listdir(path)}
    assert modes == {"stream": 0o444, "map": 0o666, "timer": 0o600}
    assert kernel.open() == 0 and kernel.named(_program.TREE_STREAM).is_frozen
    assert (tree.path, tree.item_names, tree.interval) == (str(path), ("anon", "pgfault"), 1.0)
    assert (tree.refreshed_by, tree.reason) == ("kernel", "")
    assert repr(tree) == f"<PinnedTree '{path}' by kernel, 2 items>"


def test_what_the_kernel_refreshes_stays_when_it_is_closed(kernel: TreeKernel, v2: Path) -> None:
    with pin_tree(v2, kernel.root / "it") as tree:
        tree.refresh()
    tree.close()
    tree.refresh()
    assert sorted(os.listdir(kernel.root / "it")) == ["map", "stream", "timer"]
    assert kernel.steps == BY_KERNEL


def test_nothing_is_pinned_before_the_first_walk(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []

    def sleep(seconds: float) -> None:
        assert 0 < seconds < 0.1
        there.append(os.listdir(kernel.root))
        if len(there) == 3:
            kernel.publish_first()

    kernel.walk = lambda: None
    monkeypatch.setattr(time, "sleep", sleep)
    pin_tree(v2, kernel.root / "it", mode=0o400)
    assert there == [[]] * 3 and mode(kernel.root / "it") == 0o755


@pytest.mark.parametrize(
    ("bits", "disabled", "stream", "mapped"),
    [
        (0o444, "2", 0o444, 0o666),
        (0o444, "1", 0o444, 0o666),
        (0o444, "0", 0o444, 0o600),
        (0o444, None, 0o444, 0o666),
        (0o777, "2", 0o444, 0o666),
        (0o440, "2", 0o440, 0o660),
        (0o440, "0", 0o440, 0o600),
        (0o400, "2", 0o400, 0o600),
        (0o040, "0", 0o040, 0),
        (0o222, "2", 0, 0),
        (0, "2", 0, 0),
    ],
)
def test_the_map_may_be_written_by_those_who_may_read_unless_their_programs_could(
    bits: int,
    disabled: Optional[str],
    stream: int,
    mapped: int,
    kernel: TreeKernel,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_unprivileged_bpf(monkeypatch, disabled)
    pin_tree(v2, kernel.root / "it", mode=bits)
    path = kernel.root / "it"
    assert (mode(path / "stream"), mode(path / "map")) == (stream, mapped)
    assert mode(path / "timer") == 0o600


@pytest.mark.parametrize("linux", ["6.12", "7.3"])
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_the_program_knows_what_to_walk(
    order: _options.Order,
    names: bool,
    flush: bool,
    linux: str,
    kernel: TreeKernel,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_btf, "kernel", KERNELS[linux].types)
    pin_tree(v2, kernel.root / "it", every=0.25, order=order, names=names, flush=flush, max_depth=2)
    head, program = kernel.head, kernel.named(_program.TREE_START)
    cgroup_id = v2.stat().st_ino
    by_pre = order == "children"
    walked = _options.PRE if by_pre else _options.ORDERS[order]
    assert _wire.decode_header(program.constants["header"]).order == walked
    how = _terms.FLUSH_KFUNC if linux == "7.3" else _terms.FLUSH_RSTAT
    expected = {
        "root_id": cgroup_id,
        "interval_ns": 250_000_000,
        "with_names": names,
        "children_of": cgroup_id if by_pre else 0,
        "max_level": LEVEL + (1 if by_pre else 2),
        "sets_by_impl": linux == "6.12",
        "calls_loop": True,
        "flush": how if flush else _terms.FLUSH_NONE,
        "flush_each": 0,
        "chunk_size": head.geometry.chunk_size,
        "half_chunks": head.geometry.half_chunks,
        "rows_per_chunk": head.geometry.rows_per_chunk,
    }
    assert {name: program.number(name) for name in expected} == expected
    # It writes the map whose stream is pinned.
    tree = kernel.named(_program.TREE_STREAM).maps[_program.TREE]
    assert program.maps[_program.TREE] == tree._replace(fd=33)
    assert program.maps[_program.TIMER] == _program.MapSize(32, 1)
    assert (tree.value_size, tree.entries) == (head.geometry.chunk_size, head.geometry.chunks)


def test_without_a_depth_all_levels_have_rows(kernel: TreeKernel, v2: Path) -> None:
    pin_tree(v2, kernel.root / "it")
    assert "max_level" not in kernel.named(_program.TREE_START).constants
    assert kernel.head.max_depth is None


@pytest.mark.parametrize(("depth", "level"), [(None, 1), (0, 0), (1, 1), (7, 1)])
def test_of_children_no_more_than_one_level_has_rows(
    depth: Optional[int], level: int, kernel: TreeKernel, v2: Path
) -> None:
    pin_tree(v2, kernel.root / "it", order="children", max_depth=depth)
    assert kernel.named(_program.TREE_START).number("max_level") == LEVEL + level
    assert kernel.head.max_depth == depth


@pytest.mark.parametrize("depth", [0, 3, (1 << 32) - 1, 1 << 32, 10**40])
def test_any_depth_is_possible(depth: int, kernel: TreeKernel, v2: Path, v1: Path) -> None:
    pin_tree(v2, kernel.root / "it", max_depth=depth)
    is_limit = depth < (1 << 32) - 1
    level = LEVEL + depth if is_limit else 0  # which is as compiled
    assert kernel.named(_program.TREE_START).number("max_level") == level
    assert kernel.head.max_depth == (depth if is_limit else None)
    pin_tree(v1, kernel.root / "other", max_depth=depth).close()


def test_the_head_says_what_is_published(kernel: TreeKernel, v2: Path) -> None:
    pin_tree(v2, kernel.root / "it", flush=False, order="post", max_depth=7, room=100, every=2)
    head = kernel.head
    assert head == _layout.Head(
        _layout.geometry(2, 100),
        _options.POST,
        7,
        _layout.BY_KERNEL | _layout.HAS_NAMES,
        100,
        v2.stat().st_ino,
        2_000_000_000,
        (1, 55),
    )
    for number in (0, 1):
        assert _layout.root_path(kernel.tree, number).rstrip(b"\0") == os.fsencode(v2)


def test_the_head_says_that_walks_flush_and_without_names_no_path(
    kernel: TreeKernel, v2: Path
) -> None:
    pin_tree(v2, kernel.root / "it", names=False)
    assert kernel.head.flags == _layout.BY_KERNEL | _layout.FLUSHES
    assert os.fsencode(v2) not in kernel.tree[: _layout.HEAD_SIZE]


def test_a_relative_path_of_a_cgroup_becomes_absolute(
    kernel: TreeKernel, v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(v2)
    monkeypatch.chdir(tmp_path)
    tree = pin_tree("link", os.path.relpath(kernel.root / "it"))
    assert tree.path == str(kernel.root / "it")
    assert _layout.root_path(kernel.tree, 1).rstrip(b"\0") == os.fsencode(v2)


# --- room -----------------------------------------------------------------------------


def set_memory(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Sets how many bytes of memory the machine has."""
    values = {"SC_PHYS_PAGES": size // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)


def rows_of(cgroup: Path, number: int) -> None:
    (cgroup / "cgroup.stat").write_text(f"nr_descendants {number - 1}\nnr_dying_descendants 3\n")


def test_there_is_room_for_all_cgroups_that_there_can_be(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 16 << 30)
    pin_tree(v2, kernel.root / "it")
    assert kernel.head.room == 65_536
    assert len(kernel.tree) <= 16 << 30 >> 6


@pytest.mark.parametrize("names", [True, False])
def test_on_a_small_machine_a_map_has_its_share_of_the_memory(
    names: bool, kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 256 << 20)
    pin_tree(v2, kernel.root / "it", names=names)
    assert 1000 < kernel.head.room < 65_536
    assert 0.9 * (4 << 20) < len(kernel.tree) < 1.02 * (4 << 20)


def test_there_is_always_room_for_twice_the_tree(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 64 << 20)
    for number, name in ((1, "a"), (5000, "b"), (40_000, "c"), (100_000, "d")):
        rows_of(v2, number)
        pin_tree(v2, kernel.root / name)
        assert min(2 * number, 65_536) <= kernel.head.room <= 65_536
    assert kernel.head.room == 65_536


def test_the_holder_counts_the_tree_by_a_walk(
    kernel: TreeKernel, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 1 << 20)
    rows = [_wire.RawRow(at, 1, 1, 0, (1, 2)) for at in range(1, 3001)]
    kernel.source.memory, kernel.source.number = pack(*rows), len(rows)
    with pin_tree(v1, kernel.root / "it"):
        assert 6000 <= kernel.head.room < 7000


@pytest.mark.parametrize("room", [1, 100, 65_536])
def test_room_may_be_given(room: int, kernel: TreeKernel, v2: Path) -> None:
    pin_tree(v2, kernel.root / "it", room=room)
    assert kernel.head.room == room
    assert kernel.head.geometry == _layout.geometry(2, room)


@pytest.mark.parametrize("room", [65_537, 1 << 32, 10**40])
def test_more_room_than_there_can_be_cgroups_is_room_for_all(
    room: int, kernel: TreeKernel, v2: Path
) -> None:
    pin_tree(v2, kernel.root / "it", room=room)
    assert kernel.head.room == 65_536


# --- the kernel refuses, or there is something to wait for ---------------------------


@pytest.mark.parametrize("error", [MemcgError("x", errno=errno.ENOMEM), KeyboardInterrupt()])
@pytest.mark.parametrize("make", ["v1", "v2"])
def test_a_failure_at_any_step_leaves_nothing(
    make: str,
    error: BaseException,
    kernel: TreeKernel,
    removals: list[str],
    request: pytest.FixtureRequest,
) -> None:
    cgroup = request.getfixturevalue(make)
    steps = BY_KERNEL if make == "v2" else BY_HOLDER
    # A call that failed has created nothing.
    ends = ("",) if isinstance(error, MemcgError) else ("", " done")
    for step in [f"{step}{end}" for step in steps for end in ends]:
        removals.clear()
        kernel.steps.clear()
        kernel.renew_source()
        pinned: list[str] = []

        def fail(name: str, at: str = step, pinned: list[str] = pinned) -> None:
            if name == at:
                place = kernel.root / "deep" / "it"
                pinned.extend(os.listdir(place) if place.exists() else [])
                raise error

        kernel.interrupt = fail
        with pytest.raises(type(error)) as caught:
            pin_tree(cgroup, kernel.root / "deep" / "it")
        assert error in (caught.value, caught.value.__cause__), step
        assert os.listdir(kernel.root) == [], step
        # The timer is removed first, so that the kernel walks no more.
        files = [name for name in ("timer", "map", "stream") if name in pinned]
        assert [name for name in removals if name in pinned] == files, step
        assert kernel.open() == 0, step
        assert kernel.source.closes == (make == "v1"), step
    kernel.interrupt = lambda step: None
    pin_tree(cgroup, kernel.root / "deep" / "it").close()


@pytest.mark.parametrize("make", ["v1", "v2"])
def test_an_interruption_when_all_is_pinned_leaves_nothing(
    make: str, kernel: TreeKernel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PinnedTree, "__init__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pin_tree(request.getfixturevalue(make), kernel.root / "it")
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


@pytest.mark.parametrize("make", ["v1", "v2"])
def test_a_tree_that_is_unpinned_while_it_is_pinned_is_an_error(
    make: str, kernel: TreeKernel, request: pytest.FixtureRequest
) -> None:
    def meanwhile(step: str) -> None:
        if step == "pin map":
            (kernel.root / "it" / "stream").unlink()

    kernel.interrupt = meanwhile
    with pytest.raises(PinNotFoundError, match="unpinned by another process"):
        pin_tree(request.getfixturevalue(make), kernel.root / "it")
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


def test_a_tree_that_was_unpinned_is_not_refreshed(kernel: TreeKernel, v1: Path) -> None:
    tree = pin_tree(v1, kernel.root / "it")
    unpin(kernel.root / "it")
    with pytest.raises(PinNotFoundError, match="unpinned by another process"):
        tree.refresh()
    tree.close()
    assert kernel.open() == 0


@pytest.mark.parametrize("step", ["fchmod", "sleep"])
def test_an_interruption_while_it_waits_leaves_nothing(
    step: str, kernel: TreeKernel, v2: Path, removals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        if arguments[-1] != 0o700:
            raise KeyboardInterrupt

    if step == "sleep":
        kernel.walk = lambda: None
        monkeypatch.setattr(time, "sleep", interrupt)
    else:
        monkeypatch.setattr(os, "fchmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pin_tree(v2, kernel.root / "it")
    assert removals == ([] if step == "sleep" else ["timer", "map", "stream", "it"])
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


def test_what_others_put_there_meanwhile_stays(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(step: str) -> None:
        if step == "pin map":
            (kernel.root / "it" / "theirs").touch()
            raise KeyboardInterrupt

    kernel.interrupt = meanwhile
    with pytest.raises(KeyboardInterrupt):
        pin_tree(v2, kernel.root / "it")
    assert os.listdir(kernel.root / "it") == ["theirs"]


@pytest.mark.parametrize("said", [-errno.EOPNOTSUPP, -errno.EPERM, None])
def test_where_the_timer_does_not_start_the_holder_refreshes_it(
    said: Optional[int], kernel: TreeKernel, v2: Path
) -> None:
    kernel.started = [said]
    with pin_tree(v2, kernel.root / "it") as tree:
        assert tree.refreshed_by == "holder"
        assert "does not start the timer" in tree.reason
        assert kernel.steps.count("start") == 1
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


@pytest.mark.parametrize("make", ["v1", "v2"])
def test_a_map_for_which_there_is_no_memory_says_what_to_do(
    make: str, kernel: TreeKernel, request: pytest.FixtureRequest
) -> None:
    def fail(step: str) -> None:
        if step == "load tree_stream":
            raise MemcgError("cannot allocate", errno=errno.ENOMEM, call="bpf_object__load")

    kernel.interrupt = fail
    with pytest.raises(
        MemcgError, match=r"a map of [\d.]+ MiB, .* room for 1,000 .*--room"
    ) as caught:
        pin_tree(request.getfixturevalue(make), kernel.root / "it", room=1000)
    assert (caught.value.errno, caught.value.call) == (errno.ENOMEM, "bpf_object__load")
    assert kernel.open() == 0


def test_a_timer_for_which_memory_is_short_is_tried_again(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    kernel.started = [*[-errno.ENOMEM] * 5, 0]
    assert pin_tree(v2, kernel.root / "it").refreshed_by == "kernel"
    assert kernel.steps.count("start") == 6
    kernel.started = [-errno.ENOMEM]
    with pytest.raises(MemcgError, match="does not start the timer") as caught:
        pin_tree(v2, kernel.root / "other")
    assert (caught.value.errno, caught.value.call) == (errno.ENOMEM, "bpf_timer_start")
    assert os.listdir(kernel.root) == ["it"] and kernel.open() == 0


def test_a_root_that_is_removed_before_the_first_walk_is_an_error(
    kernel: TreeKernel, v2: Path
) -> None:
    def remove() -> None:
        shutil.rmtree(v2)
        kernel.set_progress(state=_layout.REMOVED)

    kernel.walk = remove
    with pytest.raises(CgroupRemovedError):
        pin_tree(v2, kernel.root / "it")
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


@pytest.mark.parametrize("make", ["v1", "v2"])
def test_a_first_walk_without_room_is_an_error(
    make: str, kernel: TreeKernel, request: pytest.FixtureRequest
) -> None:
    rows = [_wire.RawRow(at, 1, 1, 0, (1, 2)) for at in range(1, 5001)]
    kernel.source.memory, kernel.source.number = pack(*rows), len(rows)
    kernel.walk = lambda: kernel.set_progress(state=_layout.TOO_LARGE, needed=5000)
    with pytest.raises(TreeTooLargeError, match=r"5,000 cgroups.*room for 7 .*room=") as caught:
        pin_tree(request.getfixturevalue(make), kernel.root / "it", room=7)
    assert caught.value.rows == 5000
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


def test_a_kernel_that_does_not_walk_is_not_waited_for_without_end(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.walk = lambda: None
    monkeypatch.setattr(_create_tree, "_FIRST_WALK_SECONDS", 0.01)
    with pytest.raises(MemcgError, match="has not walked the tree") as caught:
        pin_tree(v2, kernel.root / "it")
    assert caught.value.errno == errno.ETIMEDOUT
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


# --- who refreshes it ------------------------------------------------------------------


def test_on_v1_the_holder_refreshes_it(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        assert tree.refreshed_by == "holder" and "cgroup v2 only" in tree.reason
        assert kernel.steps == BY_HOLDER and kernel.made == []
        assert kernel.modes == dict.fromkeys(("stream", "map"), 0o700)
        path = kernel.root / "it"
        modes = {name: mode(path / name) for name in os.listdir(path)}
        assert (modes, mode(path)) == ({"stream": 0o444, "map": 0o666}, 0o755)
        assert repr(tree) == f"<PinnedTree '{path}' by holder, 2 items>"


def test_without_work_queues_the_holder_refreshes_it(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_1.types)
    with pin_tree(v2, kernel.root / "it") as tree:
        assert tree.refreshed_by == "holder"
        assert "bpf_wq_start" in tree.reason and "6.12 or later" in tree.reason
    assert kernel.made == []


def test_without_what_all_trees_need_none_is_pinned(
    kernel: TreeKernel, v2: Path, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_btf() -> Any:
        raise BackendUnavailableError("this kernel has no BTF")

    for types, why in ((no_btf, "has no BTF"), (LINUX_5_15.types, "has no bpf_loop")):
        monkeypatch.setattr(_btf, "kernel", types)
        for cgroup in (v2, v1):
            with pytest.raises(BackendUnavailableError, match=why):
                pin_tree(cgroup, kernel.root / "it")
    assert kernel.steps == [] and os.listdir(kernel.root) == []


def test_where_no_program_may_flush_the_holder_refreshes_it(
    kernel: TreeKernel, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    with pin_tree(v2, kernel.root / "it") as tree:
        assert tree.refreshed_by == "holder" and "no flush" in tree.reason
    assert kernel.requests[0].flush and kernel.head.flags & _layout.FLUSHES
    tree = pin_tree(v2, kernel.root / "it", flush=False)
    assert (tree.refreshed_by, tree.reason) == ("kernel", "")
    kernel.plan = ReadPlan("core", {"memory.current": (Term(1, 1),)})
    kernel.rows = [_wire.RawRow(9, 1, 1, 0, (1,))]
    assert pin_tree(v2, kernel.root / "exact").refreshed_by == "kernel"


@pytest.mark.parametrize(
    "error", [VerifierError("the verifier refuses it"), BackendUnavailableError("no such thing")]
)
def test_where_the_kernel_refuses_the_program_the_holder_refreshes_it(
    error: MemcgError, kernel: TreeKernel, v2: Path
) -> None:
    def refuse(step: str) -> None:
        if step == "load tree_start":
            raise error

    kernel.interrupt = refuse
    with pin_tree(v2, kernel.root / "it") as tree:
        assert (tree.refreshed_by, tree.reason) == ("holder", str(error))
        assert sorted(os.listdir(kernel.root / "it")) == ["map", "stream"]
        assert not kernel.head.flags & (_layout.BY_KERNEL | _layout.CAN_RENAME)
    assert kernel.open() == 0


def test_where_no_bpf_works_the_error_says_so(kernel: TreeKernel, v2: Path, v1: Path) -> None:
    def refuse(step: str) -> None:
        if step.startswith("load"):
            raise BpfPermissionError("run as root")

    kernel.interrupt = refuse
    for cgroup in (v2, v1):
        with pytest.raises(BpfPermissionError, match="run as root"):
            pin_tree(cgroup, kernel.root / "it")
        assert kernel.source.closes == 1
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


def test_an_item_without_a_number_is_left_out_or_refused_by_name(
    kernel: TreeKernel, v2: Path, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(cgroup: Any, request: Any, maker: Any) -> Selection[Any]:
        names = request.names or ("anon", "brand_new")
        if "*" in names:
            names = ("anon", "brand_new")
        size = len(names)
        rows = [row._replace(values=(row.cgroup_id,) * size) for row in ROWS]
        kernel.renew_source()
        kernel.source.memory = pack(*rows)
        return Selection(kernel.source, names, "text", "text", "")

    kernel.set_paths("/root", "/root/a", "/root/b")
    monkeypatch.setattr(_choose, "choose", choose)
    for wanted in (None, ["*"]):
        with pin_tree(v1, kernel.root / "it", wanted) as tree:
            assert tree.item_names == ("anon",)
            assert kernel.head.item_numbers == (1,)
            assert kernel.published().rows == pack(*(r._replace(values=(r[0],)) for r in ROWS))
    with pytest.raises(ItemUnavailableError, match="'brand_new' cannot be pinned"):
        pin_tree(v1, kernel.root / "it", ["anon", "brand_new"])
    assert os.listdir(kernel.root) == [] and kernel.open() == 0


# --- by the holder --------------------------------------------------------------------


def test_the_reader_of_the_holder_gets_the_options(
    kernel: TreeKernel, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    choose = kernel.choose

    def look(cgroup: Any, request: Any, maker: Any) -> Any:
        asked.append((request.names, request.flush, maker.order, maker.max_depth, maker.max_rows))
        return choose(cgroup, request, maker)

    monkeypatch.setattr(_choose, "choose", look)
    options: dict[str, Any] = {"flush": False, "order": "children", "max_depth": 4}
    with pin_tree(v1, kernel.root / "it", ["pgfault", "anon"], **options) as tree:
        assert tree.item_names == ("pgfault", "anon")
        head = kernel.head
        assert (head.item_numbers, head.order, head.max_depth) == ((55, 1), _options.CHILDREN, 4)
        assert head.flags == _layout.HAS_NAMES | _layout.CAN_RENAME
    assert asked == [(("pgfault", "anon"), False, "children", 4, None)]


def test_a_refresh_publishes_the_rows(kernel: TreeKernel, v1: Path) -> None:
    began = time.monotonic_ns()
    with pin_tree(v1, kernel.root / "it", every=5) as tree:
        first = kernel.published()
        assert (first.rows, first.half.number) == (pack(*ROWS), 1)
        assert first.names == [os.fsencode(v1.name), b"1", b"2"]
        assert first.root_path == os.fsencode(v1)
        rows = [row._replace(values=(row.cgroup_id, 5)) for row in ROWS[:2]]
        kernel.source.memory, kernel.source.number = pack(*rows), len(rows)
        kernel.set_paths("/elsewhere", "/elsewhere/a b\udcff")
        tree.refresh()
        second, progress = kernel.published(), kernel.progress
        assert (second.rows, second.half.number) == (pack(*rows), 2)
        assert (second.names, second.root_path) == ([b"elsewhere", b"a b\xff"], b"/elsewhere")
        now = time.monotonic_ns()
        half = second.half
        assert began < first.half.started_ns <= first.half.ended_ns <= half.started_ns
        assert half.started_ns <= half.ended_ns <= now
        assert (progress.writing, progress.written, progress.walks) == (2, 2, 2)
        assert 0 < half.started_ns - (progress.due_ns - 5_000_000_000) < 1_000_000_000
        assert progress.state == _layout.ALIVE and 0 < progress.walks_ns < now - began


def test_no_hash_of_the_kernel_s_addresses_is_published(kernel: TreeKernel, v1: Path) -> None:
    rows = [row._replace(flags=at % 2 | 0xDEADBEE << 1) for at, row in enumerate(ROWS)]
    kernel.source.memory = pack(*rows)
    with pin_tree(v1, kernel.root / "it"):
        expected = [row._replace(flags=at % 2) for at, row in enumerate(ROWS)]
        assert kernel.published().rows == pack(*expected)
        assert kernel.source.memory == pack(*rows)


def test_names_are_encoded_again_only_if_they_changed(
    kernel: TreeKernel, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = _layout.encode_text

    def count(names: Any, chunk_size: int) -> _layout.Text:
        encoded.append(list(names))
        return encode(encoded[-1], chunk_size)

    monkeypatch.setattr(_layout, "encode_text", count)
    with pin_tree(v1, kernel.root / "it") as tree:
        signatures = [kernel.published().half.signature]
        for root, paths in (
            (None, ()),
            ("/root", ("/root/a", "/root/b")),
            (None, ()),
            ("/root", ("/root/b", "/root/a")),
            (None, ()),
        ):
            if root is not None:
                kernel.set_paths(root, *paths)
            kernel.source.memory = pack(*(row._replace(values=(9, 9)) for row in ROWS))
            tree.refresh()
            signatures.append(kernel.published().half.signature)
        assert kernel.published().names == [b"root", b"b", b"a"]
    assert len(encoded) == 3
    same = [one == other for one, other in zip(signatures, signatures[1:])]
    assert same == [True, False, True, False, True] and len(set(signatures)) == 3


def test_another_pin_has_other_signatures(kernel: TreeKernel, v1: Path) -> None:
    signatures = set()
    for _ in range(3):
        with pin_tree(v1, kernel.root / "it"):
            signatures.add(kernel.published().half.signature)
    assert len(signatures) == 3


def test_a_path_that_is_unknown_has_an_empty_name(kernel: TreeKernel, v1: Path) -> None:
    kernel.set_paths("/", "/a", None)
    with pin_tree(v1, kernel.root / "it"):
        assert kernel.published().names == [b"", b"a", b""]


def test_a_path_longer_than_the_kernel_s_longest_is_unknown(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        for size, known in ((_layout.PATH_SIZE - 1, True), (_layout.PATH_SIZE, False)):
            root = "/x" * 2047 + "/" * (size - 4094)
            kernel.set_paths(root, f"{root}/a", f"{root}/b")
            tree.refresh()
            found = kernel.published()
            assert found.root_path == (root.encode() if known else b"")
            assert found.names[1:] == [b"a", b"b"]


def test_without_names_readers_get_none(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it", names=False) as tree:
        first = kernel.published()
        assert first[1:] == (pack(*ROWS), [], b"") and not first.half.text_chunks
        tree.refresh()
        assert kernel.published().half.signature == first.half.signature
        kernel.set_paths("/root", "/root/a", "/root/b")
        tree.refresh()
        assert kernel.published().half.signature != first.half.signature


def test_a_tree_without_cgroups_is_published(kernel: TreeKernel, v1: Path) -> None:
    kernel.source.memory, kernel.source.number = b"", 0
    with pin_tree(v1, kernel.root / "it", order="children"):
        found = kernel.published()
        assert (found.half.nr_rows, found.rows, found.names) == (0, b"", [])
        assert found.root_path == os.fsencode(v1)


def test_a_tree_that_has_outgrown_its_room_is_told_to_readers_until_it_fits(
    kernel: TreeKernel, v1: Path
) -> None:
    with pin_tree(v1, kernel.root / "it", room=10) as tree:
        rows = [_wire.RawRow(at, 1, 1, 0, (1, 2)) for at in range(1, 5001)]
        kernel.source.memory, kernel.source.number = pack(*rows), len(rows)
        kernel.set_paths("/root", *(f"/root/{at}" for at in range(1, 5000)))
        with pytest.raises(TreeTooLargeError, match=r"5,000 .* room for 10") as caught:
            tree.refresh()
        assert caught.value.rows == 5000
        progress = kernel.progress
        assert (progress.state, progress.needed) == (_layout.TOO_LARGE, 5000)
        assert (progress.written, progress.walks) == (1, 2)
        assert progress.due_ns > time.monotonic_ns()
        assert kernel.published().rows == pack(*ROWS)
        kernel.source.memory, kernel.source.number = pack(*rows[:3]), 3
        kernel.set_paths("/root", "/root/1", "/root/2")
        tree.refresh()
        assert kernel.progress.state == _layout.ALIVE
        assert kernel.published().rows == pack(*rows[:3])


def test_long_names_that_do_not_fit_are_no_walk(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it", room=3) as tree:
        rows = [_wire.RawRow(at, 1, 1, 0, (1, 2)) for at in range(1, 301)]
        kernel.source.memory, kernel.source.number = pack(*rows), len(rows)
        kernel.set_paths("/root", *(f"/root/{at:0200}" for at in range(1, 300)))
        with pytest.raises(TreeTooLargeError, match="names of usual length"):
            tree.refresh()


def test_a_removed_root_is_told_to_readers(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        kernel.source.error = CgroupRemovedError("it was removed")
        with pytest.raises(CgroupRemovedError, match="it was removed"):
            tree.refresh()
        assert kernel.progress.state == _layout.REMOVED
        assert kernel.runs == [_layout.ALIVE, _layout.REMOVED]


def test_another_error_of_a_walk_leaves_what_was_published(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        before = kernel.tree[:]
        for error in (MemcgError("x", errno=errno.EMFILE), KeyboardInterrupt()):
            kernel.source.error = error
            with pytest.raises(type(error)):
                tree.refresh()
            assert kernel.tree[:] == before
        kernel.source.error = None
        tree.refresh()
        assert kernel.progress.written == 2


def test_a_walk_that_cannot_be_published_is_an_error(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        kernel.run_error = -errno.ENOMEM
        with pytest.raises(MemcgError) as caught:
            tree.refresh()
        assert (caught.value.errno, caught.value.call) == (errno.ENOMEM, "bpf_prog_test_run_opts")
        kernel.run_error, kernel.status = 0, _wire.UNREADABLE
        with pytest.raises(MemcgError, match=f"status {_wire.UNREADABLE}"):
            tree.refresh()
        kernel.status = None
        tree.refresh()
        assert kernel.progress.written == 2


# --- the end of the holder ------------------------------------------------------------


def test_a_holder_that_ends_tells_readers_and_removes_the_pin(kernel: TreeKernel, v1: Path) -> None:
    tree = pin_tree(v1, kernel.root / "new" / "it")
    tree.close()
    assert kernel.runs == [_layout.ALIVE, _layout.ENDED]
    assert kernel.progress.state == _layout.ENDED
    assert os.listdir(kernel.root / "new") == [] and kernel.open() == 0
    assert kernel.source.closes == 1
    tree.close()
    with pytest.raises(ClosedError, match="is closed"):
        tree.refresh()
    assert len(kernel.runs) == 2
    assert (tree.path, tree.refreshed_by) == (str(kernel.root / "new" / "it"), "holder")
    assert (tree.item_names, tree.interval) == (("anon", "pgfault"), 1.0)
    assert "cgroup v2 only" in tree.reason


def test_a_pin_that_was_removed_before_is_no_error(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it"):
        shutil.rmtree(kernel.root / "it")
    assert kernel.open() == 0


def test_a_pin_that_is_removed_at_the_same_time_is_no_error(
    kernel: TreeKernel, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpin(path: str) -> None:
        raise PinNotFoundError("there is none")

    monkeypatch.setattr(_remove, "unpin", unpin)
    with pin_tree(v1, kernel.root / "it"):
        pass
    assert kernel.open() == 0


def test_a_pin_that_replaced_it_is_not_removed(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it"):
        (kernel.root / "it").rename(kernel.root / "moved")
        (kernel.root / "it").mkdir()
        (kernel.root / "it" / "stream").touch()
    assert os.listdir(kernel.root / "it") == ["stream"]
    assert kernel.runs[-1] == _layout.ENDED and kernel.open() == 0


@pytest.mark.parametrize("error", [MemcgError("x", errno=errno.ENOMEM), KeyboardInterrupt()])
def test_the_pin_is_removed_even_if_readers_cannot_be_told(
    error: BaseException, kernel: TreeKernel, v1: Path
) -> None:
    def fail(step: str) -> None:
        if step == "run":
            raise error

    tree = pin_tree(v1, kernel.root / "it")
    kernel.interrupt = fail
    with pytest.raises(type(error)):
        tree.close()
    assert os.listdir(kernel.root) == [] and kernel.open() == 0
    tree.close()


def test_a_pin_that_cannot_be_removed_is_an_error(
    kernel: TreeKernel, v1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpin(path: str) -> None:
        raise PinPermissionError("not allowed")

    monkeypatch.setattr(_remove, "unpin", unpin)
    tree = pin_tree(v1, kernel.root / "it")
    with pytest.raises(PinPermissionError):
        tree.close()
    assert kernel.open() == 0


def test_an_error_in_the_block_is_raised_when_all_is_removed(kernel: TreeKernel, v1: Path) -> None:
    with pytest.raises(ZeroDivisionError), pin_tree(v1, kernel.root / "it"):
        raise ZeroDivisionError
    assert os.listdir(kernel.root) == []


def test_a_forked_child_neither_refreshes_nor_removes_it(kernel: TreeKernel, v1: Path) -> None:
    def child() -> None:
        with pytest.raises(ClosedError, match="by the process that created it"):
            tree.refresh()
        tree.close()
        tree.close()
        with pytest.raises(ClosedError, match="is closed"):
            tree.refresh()
        assert kernel.runs == [_layout.ALIVE] and kernel.open() == 0

    with pin_tree(v1, kernel.root / "it") as tree:
        before = kernel.tree[:]
        assert ended(child) == 0
        assert kernel.tree[:] == before
        assert sorted(os.listdir(kernel.root / "it")) == ["map", "stream"]
        tree.refresh()
    assert os.listdir(kernel.root) == []


def test_a_child_gets_a_lock_of_its_own(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with tree._lock:
                held.set()
                done.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        try:
            assert ended(tree.close) == 0
        finally:
            done.set()
            thread.join()


def test_threads_refresh_one_after_the_other(kernel: TreeKernel, v1: Path) -> None:
    with pin_tree(v1, kernel.root / "it") as tree:
        kernel.source.during = lambda: time.sleep(0.002)
        threads = [threading.Thread(target=tree.refresh) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kernel.source.most_at_once == 1 and kernel.progress.written == 9


def test_a_close_waits_for_the_refresh_of_another_thread(kernel: TreeKernel, v1: Path) -> None:
    tree = pin_tree(v1, kernel.root / "it")
    kernel.source.entered.clear()
    kernel.source.hold = threading.Event()
    thread = threading.Thread(target=tree.refresh)
    thread.start()
    assert kernel.source.entered.wait(30)
    closing = threading.Thread(target=tree.close)
    closing.start()
    time.sleep(0.02)
    assert kernel.runs == [_layout.ALIVE]
    kernel.source.hold.set()
    thread.join()
    closing.join()
    assert kernel.runs == [_layout.ALIVE, _layout.ALIVE, _layout.ENDED]


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Sets the handler of a signal."""
    before = signal.getsignal(signal.SIGUSR1)

    def set_handler(handler: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: handler())

    yield set_handler
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("step", ["walk", "run"])
def test_a_refresh_in_a_signal_handler_of_a_refresh_is_refused(
    step: str,
    kernel: TreeKernel,
    v1: Path,
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    refused: list[MemcgError] = []

    def handler() -> None:
        kernel.source.during, kernel.interrupt = None, lambda step: None
        with pytest.raises(MemcgError) as caught:
            tree.refresh()
        refused.append(caught.value)

    def interrupt(at: str = "walk") -> None:
        if at == step:
            signal.raise_signal(signal.SIGUSR1)

    with pin_tree(v1, kernel.root / "it") as tree:
        on_signal(handler)
        kernel.source.during, kernel.interrupt = interrupt, interrupt
        tree.refresh()
        assert len(refused) == 1 and not isinstance(refused[0], ClosedError)
        assert kernel.progress.written == 2
        tree.refresh()


@pytest.mark.parametrize("step", ["walk", "run"])
def test_a_close_in_a_signal_handler_ends_the_refresh(
    step: str,
    kernel: TreeKernel,
    v1: Path,
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    def handler() -> None:
        kernel.source.during, kernel.interrupt = None, lambda step: None
        tree.close()

    def interrupt(at: str = "walk") -> None:
        if at == step:
            signal.raise_signal(signal.SIGUSR1)

    tree = pin_tree(v1, kernel.root / "it")
    on_signal(handler)
    kernel.source.during, kernel.interrupt = interrupt, interrupt
    with pytest.raises(ClosedError):
        tree.refresh()
    assert os.listdir(kernel.root) == [] and kernel.open() == 0
    assert kernel.runs[-1] == _layout.ENDED


def test_it_cannot_be_made_by_hand_without_its_holder_being_known() -> None:
    tree = PinnedTree("/sys/fs/bpf/it", ("anon",), 1.0)
    assert tree.refreshed_by == "kernel"
    tree.refresh()
