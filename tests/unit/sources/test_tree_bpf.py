# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Trees read into a map, with programs that walk as the test says."""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    MemcgError,
    MemoryControllerError,
    StreamError,
    TreeTooLargeError,
    _fork,
    _options,
    _wire,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import features as _features
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import ReadPlan, Term, Terms
from pymemcgbpf._bpf.program import MapSize
from pymemcgbpf._bpf.terms import FLUSH_KFUNC, FLUSH_NONE, FLUSH_RFC, FLUSH_RSTAT
from pymemcgbpf._cgroup.directory import Cgroup, open_cgroup
from pymemcgbpf._options import Order
from pymemcgbpf._sources import flush as _flush
from pymemcgbpf._sources import one_bpf as _one_bpf
from pymemcgbpf._sources.tree_bpf import MapSource, TreeSourceFactory
from pymemcgbpf._sources.tree_paths import NameRoom
from pymemcgbpf._sources.tree_text import TextTreeSource
from pymemcgbpf._sources.tree_walkers import DirWalker, IteratorWalker, RunWalker, Setup
from pymemcgbpf._wire import ABSENT

from ...open_files import open_files
from ..children import ended
from ..directories import make_v1, make_v2
from ..fake_libbpf import FakeIteratorMaker, installed
from ..kernels import LINUX_6_18, LINUX_7_3
from ..tree_rows import NAMES, NamedRow, pack, unpack, write_names

Opened = Callable[[Path], Cgroup]
ORDERS = ("self", "pre", "post", "up", "children")

RECIPE = ReadPlan(
    "core",
    {name: (Term(1, at),) for at, name in enumerate(NAMES)},
)
SIZE = RECIPE.row_size


def row(cgroup_id: int, *values: int, flags: int = 0) -> _wire.RawRow:
    return _wire.RawRow(cgroup_id, 1, 2, flags, values or (cgroup_id, 1))


class Walkers:
    """The kernel: what a walk finds, and whether a program loads.

    Stands in for the class of walkers, too.

    Attributes:
        rows: what the next walk meets.
        names: the names of cgroups, by id.
        load_error: raised instead of making a walker.
        made: the walkers made, in order.
        flushes: what the source asked a way to flush for.
        flush_by: the way.
        walking: called before each walk.
    """

    def __init__(self) -> None:
        self.rows: list[_wire.RawRow] = []
        self.names: dict[int, str] = {}
        self.load_error: Optional[BaseException] = None
        self.walk_error: Optional[BaseException] = None
        self.made: list[Walker] = []
        self.flushes: list[tuple[str, str, str]] = []
        self.flush_by = _flush.NO_FLUSH
        self.walking: Callable[[], Any] = lambda: None

    def __call__(self, setup: Setup, maps: dict[str, MapSize], cgroup: Cgroup) -> Walker:
        if self.load_error is not None:
            raise self.load_error
        self.made.append(Walker(self, setup, maps, cgroup))
        return self.made[-1]

    by_iterator = True
    can_flush = True
    setup = staticmethod(IteratorWalker.setup)

    def named_rows(self, walker: Walker) -> list[NamedRow]:
        """What a walk names: children of the root."""
        return [
            NamedRow(
                row.cgroup_id, walker.root_id, row.flags, self.names.get(row.cgroup_id, "name")
            )
            for row in self.rows
        ]

    def before_walking(
        self,
        cgroup: Cgroup,
        plan: ReadPlan,
        flush: bool,
        order: Order,
        *,
        by_iterator: bool,
        by_program: bool,
    ) -> _flush.Flush:
        assert by_iterator and by_program
        if not flush:
            return _flush.NO_FLUSH
        return self.flush(cgroup, plan.backend, order)

    def flush(self, cgroup: Cgroup, backend: str, order: Order) -> _flush.Flush:
        self.flushes.append((cgroup.path, backend, order))
        return self.flush_by

    @property
    def rooms(self) -> list[int]:
        """How many rows each walker had room for."""
        return [walker.room.entries for walker in self.made]

    @property
    def open(self) -> list[Walker]:
        return [walker for walker in self.made if not walker.closes]


class Walker:
    """One loaded program, with its maps."""

    is_lost = False

    def __init__(
        self,
        kernel: Walkers,
        setup: Setup,
        maps: dict[str, MapSize],
        cgroup: Cgroup,
    ) -> None:
        self.kernel, self.constants, self.order = kernel, setup.constants, setup.order
        self.room, self.root_id = maps[_program.ROWS], cgroup.id
        self.directory = os.readlink(f"/proc/self/fd/{cgroup.fd}")
        self.rows = mmap.mmap(-1, self.room.value_size * self.room.entries)
        self.names = mmap.mmap(-1, maps[_program.NAMES].value_size)
        self.walks = self.closes = 0

    def walk(self) -> int:
        assert not self.closes, "walked after close"
        self.kernel.walking()
        if self.kernel.walk_error is not None:
            raise self.kernel.walk_error
        self.walks += 1
        fitting = pack(*self.kernel.rows[: self.room.entries])
        self.rows[: len(fitting)] = fitting
        write_names(self.names, self.constants, self.kernel.named_rows(self))
        return len(self.kernel.rows)

    def close(self) -> None:
        self.closes += 1
        with contextlib.suppress(BufferError):  # as the program does
            self.rows.close()
            self.names.close()


@pytest.fixture(autouse=True)
def _a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_7_3.types)


@pytest.fixture
def kernel(v2: Path, monkeypatch: pytest.MonkeyPatch) -> Walkers:
    made = Walkers()
    made.rows = [row(v2.stat().st_ino)]
    monkeypatch.setattr(_flush, "before_walking", made.before_walking)
    return made


MakeSource = Callable[..., MapSource]


@pytest.fixture
def source(kernel: Walkers, v2: Path, opened: Opened) -> Iterator[MakeSource]:
    """Makes sources, and closes them when the test is over."""
    made = []

    def make(
        order: Any = "pre", max_rows: Optional[int] = None, *, flush: bool = False
    ) -> MapSource:
        walkers: Any = kernel
        new = MapSource(opened(v2), RECIPE, flush, walkers, TreeSourceFactory(order, max_rows))
        made.append(new)
        return new

    yield make
    for each in made:
        each.close()
        each.close()
    assert kernel.open == []
    assert [walker.closes for walker in kernel.made] == [1] * len(kernel.made)


# --- a walk ---------------------------------------------------------------------------


def test_a_walk_gives_the_map(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    kernel.rows += [row(50), row(51)]
    made = source()
    rows = made.walk()
    assert (rows.number, rows.memory) == (3, kernel.made[0].rows)
    assert unpack(rows, 2) == kernel.rows
    kernel.rows.pop()
    assert made.walk().number == 2
    assert (len(kernel.made), kernel.made[0].walks) == (1, 2)
    assert made.names == NAMES


def test_what_a_program_is_made_with(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    source("post")
    (walker,) = kernel.made
    assert walker.order == _options.POST
    assert walker.room.value_size == SIZE == 40
    room = NameRoom.for_names(walker.room.entries)
    assert walker.constants == {
        **RECIPE.constants(FLUSH_NONE, _options.POST),
        **room.constants(can_rename=False),
    }
    assert len(walker.names) == room.map_size.value_size
    assert walker.directory == str(v2)


@pytest.mark.parametrize(
    "order",
    [("self", 1), ("pre", 2), ("post", 3), ("up", 4), ("children", 5)],
    ids=lambda order: str(order[0]),
)
def test_orders(order: tuple[Order, int], source: MakeSource, kernel: Walkers) -> None:
    name, number = order
    source(name).walk()
    assert kernel.made[0].order == number
    assert _wire.decode_header(kernel.made[0].constants["header"]).order == number
    assert "children_of" not in kernel.made[0].constants


@pytest.mark.parametrize("order", ORDERS)
def test_a_kernel_without_an_order_of_children_walks_all(
    order: Order,
    source: MakeSource,
    kernel: Walkers,
    v2: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    made = source(order)
    kernel.rows = kernel.rows * 3000
    made.walk()
    assert len(kernel.made) == 2, "it grew"
    for walker in kernel.made:
        header = _wire.decode_header(walker.constants["header"])
        if order == "children":
            assert (walker.order, header.order) == (_options.PRE, _options.PRE)
            assert walker.constants["children_of"] == _terms.u64(v2.stat().st_ino)
        else:
            assert walker.order == header.order == _options.ORDERS[order]
            assert "children_of" not in walker.constants


def test_a_source_holds_the_directory_itself(kernel: Walkers, v2: Path) -> None:
    """Lets the source load another program, after the descriptor of its first one was closed."""
    cgroup = open_cgroup(v2)
    walkers: Any = kernel
    made = MapSource(cgroup, RECIPE, False, walkers, TreeSourceFactory("pre", None))
    cgroup.close()
    kernel.rows = kernel.rows * 3000
    assert made.walk().number == 3000
    assert [walker.directory for walker in kernel.made] == [str(v2)] * 2
    made.close()


def test_a_source_is_lost_with_any_of_its_descriptors(kernel: Walkers, v2: Path) -> None:
    cgroup = open_cgroup(v2)
    walkers: Any = kernel
    with open(v2 / "memory.stat", "rb") as other:
        before = open_files()
        made = MapSource(cgroup, RECIPE, False, walkers, TreeSourceFactory("pre", None))
        assert not made.is_lost
        (walker,) = kernel.made
        walker.is_lost = True
        assert made.is_lost
        walker.is_lost = False
        assert not made.is_lost
        (directory,) = open_files().keys() - before.keys()
        os.dup2(other.fileno(), int(directory), inheritable=False)
        assert made.is_lost
        made.close()
        assert open_files().keys() - before.keys() == {directory}, "it is another's"
        os.close(int(directory))
    cgroup.close()


def test_a_source_is_lost_with_the_file_by_which_it_flushes(
    kernel: Walkers, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    before = open_files()
    kernel.flush_by = _flush.by_file(cgroup)
    (flushing,) = open_files().keys() - before.keys()
    walkers: Any = kernel
    made = MapSource(cgroup, RECIPE, True, walkers, TreeSourceFactory("pre", None))
    assert not made.is_lost
    os.dup2(cgroup.fd, int(flushing), inheritable=False)
    assert made.is_lost
    made.close()
    os.close(int(flushing))


# --- how many rows --------------------------------------------------------------------


def grow(v2: Path, descendants: int) -> None:
    (v2 / "cgroup.stat").write_text(
        f"nr_descendants {descendants}\nnr_subsys_memory 1\nnr_dying_descendants 900\n"
    )


def test_the_first_map_has_room_for_what_the_kernel_says(
    source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    grow(v2, 399)
    for order in ("pre", "post", "self", "up"):
        source(order)
    assert kernel.rooms == [516, 516, 17, 17]
    for name in "abc":
        (v2 / name).mkdir()
    source("children")
    assert kernel.rooms[-1] == 4 + 1 + 16


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_where_the_kernel_does_not_say_there_is_room_for_the_children(
    order: Order, source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    made = source(order)
    for name in "abc":
        (v2 / name).mkdir()
    source(order)
    assert kernel.rooms == [1 + 16, 4 + 1 + 16]
    kernel.rows = kernel.rows * 18
    assert made.walk().number == 18, "and the first walk counts them"
    assert kernel.rooms[2:] == [18 + 4 + 16]


def test_on_v1_room_is_not_made_for_other_cgroups(
    kernel: Walkers, tmp_path: Path, opened: Opened
) -> None:
    """The kernel's own count there is of the whole hierarchy, with all that wait to be freed."""
    cgroup = opened(make_v1(tmp_path / "v1"))
    (tmp_path / "v1" / "child").mkdir()
    walkers: Any = kernel
    with contextlib.closing(
        MapSource(cgroup, RECIPE, False, walkers, TreeSourceFactory("pre", None))
    ):
        assert kernel.rooms == [2 + 16]


def test_a_map_grows_until_the_rows_fit(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    grow(v2, 0)
    made = source()
    assert kernel.rooms == [17]
    root = kernel.rows[0]
    kernel.rows = [root] + [row(number) for number in range(100, 116)]
    assert made.walk().number == 17
    assert len(kernel.made) == 1, "it fitted just so"
    kernel.rows.append(row(116))
    rows = made.walk()
    assert unpack(rows, 2) == kernel.rows and rows.number == 18
    assert kernel.rooms == [17, 18 + 4 + 16]
    assert len(kernel.open) == 1 and kernel.open[0].rows is rows.memory
    assert made.walk().number == 18 and len(kernel.made) == 2


def test_a_tree_may_grow_while_its_map_does(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    grow(v2, 0)
    made = source()
    root = kernel.rows[0]
    numbers = iter([20, 50, 90, 90])

    def walking() -> None:
        kernel.rows = [root] + [row(1000 + at) for at in range(next(numbers) - 1)]

    kernel.walking = walking
    rows = made.walk()
    assert rows.number == 90 and unpack(rows, 2) == kernel.rows
    assert kernel.rooms == [17, 41, 50 + 12 + 16, 90 + 22 + 16]
    assert len(kernel.open) == 1
    assert next(numbers, None) is None


def test_room_is_given_back_never(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    grow(v2, 0)
    made = source()
    kernel.rows = kernel.rows * 500
    made.walk()
    kernel.rows = kernel.rows[:1]
    for _ in range(3):
        assert made.walk().number == 1
    assert len(kernel.made) == 2


@pytest.mark.parametrize("max_rows", [1, 17, 18, 100])
def test_room_is_never_above_the_cap(
    max_rows: int, source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    grow(v2, 0)
    made = source(max_rows=max_rows)
    root = kernel.rows[0]
    for number in (1, max_rows // 2 or 1, max_rows):
        kernel.rows = [root] * number
        assert made.walk().number == number
    for number in (max_rows + 1, 3 * max_rows + 100):
        kernel.rows = [root] * number
        with pytest.raises(TreeTooLargeError) as caught:
            made.walk()
        assert (caught.value.rows, caught.value.max_rows) == (number, max_rows)
        assert str(caught.value) == (
            f"the walk from {v2} found {number} cgroups, more than max_rows={max_rows}"
        )
    assert max(kernel.rooms) <= max_rows
    kernel.rows = [root]
    assert made.walk().number == 1, "it is as good as before"


def test_a_cap_below_what_the_kernel_says_makes_a_small_map(
    source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    grow(v2, 1_000_000)
    source(max_rows=3)
    assert kernel.rooms == [3]


@pytest.mark.parametrize(
    ("rows", "cap", "room"),
    [(0, None, 16), (1, None, 17), (1000, None, 1266), (10, 12, 12), (12, 12, 12), (1, 1, 1)],
)
def test_room_for(rows: int, cap: Optional[int], room: int) -> None:
    assert TreeSourceFactory("pre", cap).room_for(rows) == room


@pytest.mark.parametrize(("rows", "cap"), [(5, 5), (0, 1), (10**9, None)])
def test_a_number_within_the_cap_passes(rows: int, cap: Optional[int]) -> None:
    TreeSourceFactory("pre", cap).check_cap(rows, "/x")
    with pytest.raises(TreeTooLargeError):
        TreeSourceFactory("pre", 4)._replace(max_rows=rows - 1).check_cap(rows, "/x")


# --- is the root still there ----------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "at"), [("self", 0), ("pre", 0), ("up", 0), ("post", -1)], ids=lambda each: str(each)
)
def test_the_root_s_row_is_where_the_order_has_it(
    order: Order, at: int, source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    made = source(order)
    root, others = kernel.rows[0], [row(70), row(71)]
    kernel.rows = [root, *others] if at == 0 else [*others, root]
    assert made.walk().number == 3
    kernel.rows = [*others, root] if at == 0 else [root, *others]
    with pytest.raises(CgroupRemovedError):
        made.walk()
    kernel.rows = others
    with pytest.raises(CgroupRemovedError):
        made.walk()
    kernel.rows = []
    with pytest.raises(CgroupRemovedError):
        made.walk()
    kernel.rows = [root]
    assert made.walk().number == 1


@pytest.mark.parametrize("order", ORDERS)
def test_why_a_root_has_no_row(
    order: Order, source: MakeSource, kernel: Walkers, v2: Path, tmp_path: Path
) -> None:
    made = source(order)
    kernel.rows = []
    (v2 / "memory.stat").unlink()
    (v2 / "cgroup.controllers").write_text("pids\n")
    with pytest.raises(MemoryControllerError, match="no memory controller"):
        made.walk()
    shutil.rmtree(v2)
    with pytest.raises(CgroupRemovedError, match=f"the cgroup {v2} was removed"):
        made.walk()
    make_v2(v2)
    with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
        made.walk()


def test_no_children_are_no_rows(source: MakeSource, kernel: Walkers) -> None:
    made = source("children")
    kernel.rows = []
    assert made.walk().number == 0
    kernel.rows = [row(80)]
    assert unpack(made.walk(), 2) == kernel.rows


def test_a_cap_is_checked_before_the_root(source: MakeSource, kernel: Walkers) -> None:
    made = source("post", 2)
    kernel.rows = kernel.rows * 3
    with pytest.raises(TreeTooLargeError):
        made.walk()


# --- loading again --------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemcgError("no"), OSError(12, "x"), KeyboardInterrupt()])
def test_a_reload_that_fails_leaves_the_program_as_it_is(
    error: BaseException, source: MakeSource, kernel: Walkers, v2: Path
) -> None:
    grow(v2, 0)
    made = source()
    root = kernel.rows[0]
    before = open_files()
    kernel.rows, kernel.load_error = [root] * 18, error
    for _ in range(3):
        with pytest.raises(type(error)):
            made.walk()
    assert open_files() == before
    assert len(kernel.open) == 1
    kernel.rows = [root] * 17
    assert made.walk().number == 17, "a walk that fits still succeeds"
    kernel.rows, kernel.load_error = [root] * 18, None
    assert made.walk().number == 18
    assert len(kernel.made) == 2


@pytest.mark.parametrize("error", [MemcgError("no"), OSError(12, "x"), KeyboardInterrupt()])
def test_a_source_that_is_not_made_leaves_nothing_open(
    error: BaseException, kernel: Walkers, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    kernel.flush_by = _flush.by_file(cgroup)
    walkers: Any = kernel
    kernel.load_error = error
    kept = open_files()
    with pytest.raises(type(error)):
        MapSource(cgroup, RECIPE, True, walkers, TreeSourceFactory("pre", None))
    assert kernel.flush_by.files
    assert sorted(set(kept.values()) - set(open_files().values())) == [str(v2 / "memory.stat")]
    assert len(open_files()) == len(kept) - 1


def test_a_flush_that_is_not_to_be_had_leaves_nothing_open(
    kernel: Walkers, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = opened(v2)
    walkers: Any = kernel

    def fail(*_: object) -> Any:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(kernel, "flush", fail)
    before = open_files()
    with pytest.raises(PermissionError):
        MapSource(cgroup, RECIPE, True, walkers, TreeSourceFactory("pre", None))
    assert open_files() == before and kernel.made == []


def test_an_error_of_the_walk_is_passed_on(source: MakeSource, kernel: Walkers) -> None:
    made = source()
    kernel.walk_error = MemcgError("no", errno=5)
    with pytest.raises(MemcgError) as caught:
        made.walk()
    assert caught.value is kernel.walk_error
    kernel.walk_error = None
    assert made.walk().number == 1


def test_a_forked_child_has_a_map_of_its_own(
    source: MakeSource, kernel: Walkers, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(v2, 0)
    made = source()
    kernel.rows = kernel.rows * 30
    first = made.walk()
    monkeypatch.setattr(_fork, "generation", _fork.generation + 1)
    second = made.walk()
    assert second.memory is not first.memory
    assert kernel.rooms == [17, 53, 53], "as large as its parent's"
    assert made.walk().memory is second.memory, "made once"
    assert len(kernel.open) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_with_its_parent_s_id_has_a_map_of_its_own(
    source: MakeSource, kernel: Walkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As both have in PID namespaces of their own."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    made = source()
    first = made.walk()

    def child() -> None:
        second = made.walk()
        assert second.memory is not first.memory

        def grandchild() -> None:
            assert made.walk().memory is not second.memory

        assert ended(grandchild) == 0

    assert ended(child) == 0
    assert made.walk().memory is first.memory


def test_a_child_that_cannot_load_does_not_walk_in_its_parent_s_map(
    source: MakeSource, kernel: Walkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source()
    made.walk()
    monkeypatch.setattr(_fork, "generation", _fork.generation + 1)
    kernel.load_error = MemcgError("no")
    for _ in range(2):
        with pytest.raises(MemcgError, match="no"):
            made.walk()
    assert kernel.made[0].walks == 1
    kernel.load_error = None
    assert made.walk().number == 1
    assert kernel.made[0].walks == 1


def test_views_of_a_map_outlive_it(source: MakeSource, kernel: Walkers) -> None:
    made = source()
    rows = made.walk()
    view = memoryview(rows.memory)[: rows.number * SIZE]
    expected = bytes(view)
    kernel.rows = kernel.rows * 2000
    made.walk()
    assert len(kernel.made) == 2 and bytes(view) == expected, "a larger map is in its place"
    again = made.walk()
    last = memoryview(again.memory)[: again.number * SIZE]
    made.close()
    assert (bytes(view), bytes(last)) == (expected, expected * 2000)
    for memory in (rows.memory, again.memory):
        assert isinstance(memory, mmap.mmap) and not memory.closed


def test_a_map_without_views_is_unmapped(source: MakeSource, kernel: Walkers) -> None:
    made = source()
    first = made.walk().memory
    kernel.rows = kernel.rows * 2000
    second = made.walk().memory
    assert isinstance(first, mmap.mmap) and first.closed
    made.close()
    assert isinstance(second, mmap.mmap) and second.closed


def test_the_last_view_unmaps_the_map(source: MakeSource, kernel: Walkers) -> None:
    made = source()
    view = memoryview(made.walk().memory)
    unmapped = weakref.ref(kernel.made[0].rows)
    made.close()
    kernel.made[0].rows = None  # type: ignore[assignment]
    gc.collect()
    assert unmapped() is not None and view[0] == view[0]
    del view
    gc.collect()
    assert unmapped() is None


# --- flushing -------------------------------------------------------------------------


def test_without_flush_neither_program_nor_file_flushes(
    source: MakeSource, kernel: Walkers
) -> None:
    source().walk()
    assert kernel.flushes == []
    assert kernel.made[0].constants["flush"] == _terms.u32(FLUSH_NONE)


def test_a_program_is_told_how_to_flush(source: MakeSource, kernel: Walkers, v2: Path) -> None:
    kernel.flush_by = _flush.Flush(FLUSH_RSTAT, ())
    made = source("post", flush=True)
    kernel.rows = kernel.rows * 3000
    made.walk()
    assert kernel.flushes == [(str(v2), "core", "post")]
    assert [walker.constants["flush"] for walker in kernel.made] == [_terms.u32(FLUSH_RSTAT)] * 2


def test_a_file_is_read_before_every_walk(
    source: MakeSource, kernel: Walkers, v2: Path, opened: Opened
) -> None:
    happened: list[str] = []

    class File(_flush.Flush):
        def by_file(self) -> None:
            happened.append("flush")
            super().by_file()

        def close(self) -> None:
            happened.append("close")
            super().close()

    kernel.flush_by = File(FLUSH_NONE, _flush.by_file(opened(v2)).files)
    kernel.walking = lambda: happened.append("walk")
    made = source(flush=True)
    assert happened == []
    for _ in range(2):
        made.walk()
    assert happened == ["flush", "walk"] * 2
    made.close()
    assert happened[-1] == "close"


KFUNC, RSTAT = "bpf_mem_cgroup_flush_stats", "cgroup_rstat_flush"
OWN, TOP = "root/a/memory.stat", "root/memory.stat"


@pytest.mark.parametrize(
    ("transport", "backend", "functions", "order", "mode", "file"),
    [
        # An iterator flushes with its first cgroup, if that is the root of all.
        *((IteratorWalker, "core", {KFUNC}, order, FLUSH_KFUNC, None) for order in ("self", "pre")),
        *((IteratorWalker, "core", {RSTAT}, order, FLUSH_RSTAT, None) for order in ("self", "pre")),
        *((IteratorWalker, "rfc", {RSTAT}, order, FLUSH_RFC, None) for order in ("self", "pre")),
        *((IteratorWalker, "core", set(), order, FLUSH_NONE, OWN) for order in ("self", "pre")),
        *((IteratorWalker, "kfunc", {KFUNC}, "post", FLUSH_NONE, OWN),),
        *((IteratorWalker, "kfunc", {KFUNC}, "children", FLUSH_NONE, OWN),),
        *((IteratorWalker, "kfunc", {KFUNC}, "up", FLUSH_NONE, TOP),),
        # A program that is run flushes the root before it walks.
        *((RunWalker, "kfunc", {KFUNC}, order, FLUSH_KFUNC, None) for order in ("self", "pre")),
        *((RunWalker, "core", {KFUNC}, order, FLUSH_KFUNC, None) for order in ("post", "children")),
        *((RunWalker, "core", {RSTAT}, order, FLUSH_NONE, OWN) for order in ("self", "pre")),
        *((RunWalker, "core", set(), order, FLUSH_NONE, OWN) for order in ("post", "children")),
        *((RunWalker, "kfunc", {KFUNC}, "up", FLUSH_NONE, TOP),),
        *((RunWalker, "core", set(), "up", FLUSH_NONE, TOP),),
    ],
)
def test_the_program_or_a_file_flushes_by_transport_order_and_kernel(
    transport: type[Any],
    backend: str,
    functions: set[str],
    order: Order,
    mode: int,
    file: Optional[str],
    tmp_path: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = LINUX_6_18.types()._replace(functions=frozenset(functions))
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    root = make_v2(tmp_path / "root", kind=None)
    make_v2(root / "a")
    flush = _flush.before_walking(
        opened(root / "a"),
        ReadPlan(backend, RECIPE.terms),
        True,
        order,
        by_iterator=transport.by_iterator,
    )
    assert flush.mode == mode
    if file is None:
        assert flush.files == ()
    else:
        assert os.readlink(f"/proc/self/fd/{flush.files[0].fd}") == str(tmp_path / file)
    flush.close()


# --- what this kernel does not keep ---------------------------------------------------


def absent_of(
    rows: list[_wire.RawRow], kernel: Walkers, cgroup: Cgroup, names: tuple[str, ...], order: Order
) -> set[str]:
    kernel.rows = rows
    terms: Terms = {name: (Term(1, 0),) for name in names}
    walkers: Any = kernel
    source = MapSource(
        cgroup, ReadPlan("core", terms), False, walkers, TreeSourceFactory(order, None)
    )
    try:
        return source.probe_missing()
    finally:
        source.close()


@pytest.mark.parametrize("order", ["pre", "up", "self"])
def test_absent(order: Order, kernel: Walkers, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    names = ("anon", "memory.current", "zswap", "memory.pressure.some.total")
    # Pressure may be switched off in one cgroup, and a root has no memory.current.
    cases: list[tuple[int, tuple[int, ...], set[str]]] = [
        (0, (1, 2, 3), set()),
        (0, (1, 2, ABSENT), {"zswap"}),
        (0, (1, ABSENT, 3), {"memory.current"}),
        (_wire.ROW_ROOT, (1, ABSENT, 3), set()),
        (_wire.ROW_ROOT, (1, ABSENT, ABSENT), {"zswap"}),
        (_wire.ROW_ROOT, (ABSENT, ABSENT, ABSENT), {"anon", "zswap"}),
    ]
    for flags, values, expected in cases:
        rows = [row(cgroup.id, *values, ABSENT, flags=flags), row(9, *([ABSENT] * 4))]
        assert absent_of(rows, kernel, cgroup, names, order) == expected
    assert len(cases) == 6


def test_absent_by_the_first_row_of_any_order(kernel: Walkers, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    names = ("anon", "zswap")
    first, root = row(9, 1, ABSENT), row(cgroup.id, 1, 2)
    assert absent_of([first, root], kernel, cgroup, names, "post") == {"zswap"}
    assert absent_of([first], kernel, cgroup, names, "children") == {"zswap"}
    assert absent_of([], kernel, cgroup, names, "children") == set()


# --- what a TreeReader asks for -------------------------------------------------------


def test_a_tree_says_how_it_is_read(
    v2: Path, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr("pymemcgbpf._sources.tree_bpf.MapSource", lambda *all: made.append(all))
    tree, cgroup = TreeSourceFactory("post", 7), opened(v2)
    assert tree.transports == ("run", "shared")
    other = RECIPE._replace(backend="kfunc")
    tree.bpf(cgroup, RECIPE, True, "run")
    tree.bpf(cgroup, other, True, "run")
    tree.bpf(cgroup, RECIPE, False, "shared")
    assert made == [
        (cgroup, RECIPE, True, DirWalker, tree),
        (cgroup, other, True, RunWalker, tree),
        (cgroup, RECIPE, False, IteratorWalker, tree),
    ]
    text = tree.text(cgroup, ("anon",))
    assert isinstance(text, TextTreeSource) and text.names == ("anon",)
    text.close()
    for transport in tree.transports:
        for flush in (False, True):
            assert tree.reason_to_avoid(cgroup, "core", flush, transport) == ""
    for backend, feature in (("kfunc", _features.RUN), ("core", _features.RUN_DIR)):
        assert tree.feature_of(backend, "run") is feature
        assert tree.feature_of(backend, "shared") is _features.ITERATOR


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_but_self_meets_other_cgroups(order: Order) -> None:
    assert TreeSourceFactory(order, None).walks == (order != "self")


# --- walkers --------------------------------------------------------------------------


class FakeLink:
    """Stands in for _program.Link."""

    fd = 33
    is_lost = False

    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


class FakeProgram:
    """Stands in for _program.Program."""

    is_lost = False

    def __init__(
        self, name: str, constants: dict[str, bytes], maps: dict[str, MapSize], items: bytes
    ) -> None:
        assert items == b"", "these programs have no compute_items()"
        self.name, self.constants, self.maps = name, constants, maps
        self.fd, self.key = 33, 1 << 63
        self.attached: list[tuple[int, int]] = []
        self.link = FakeLink()
        self.closes = 0

    def map(self, name: str, writable: bool = False) -> mmap.mmap:
        assert writable is (name == _program.NAMES)
        return mmap.mmap(-1, self.maps[name].value_size * self.maps[name].entries)

    def attach(self, cgroup_fd: int, order: int) -> Any:
        self.attached.append((cgroup_fd, order))
        return self.link

    def close(self) -> None:
        self.closes += 1


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[FakeProgram]:
    made: list[FakeProgram] = []

    def make(
        name: str, constants: dict[str, bytes], maps: dict[str, MapSize], items: bytes
    ) -> FakeProgram:
        made.append(FakeProgram(name, constants, maps, items))
        return made[-1]

    monkeypatch.setattr(_program, "Program", make)
    return made


class Stream:
    """bpf_iter_create, and what is read from its descriptor."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stream"
        self.created: list[int] = []
        self.error = 0
        self.say(0)

    def say(self, rows: int, items: int = 2) -> None:
        head = _wire.encode_header(range(items), 1) if rows else b""
        self.path.write_bytes(head + _wire.TRAILER.pack(_wire.END_MAGIC, rows, 5))

    def maker(self, link_fd: int) -> FakeIteratorMaker:
        return FakeIteratorMaker(self.create, link_fd)

    def create(self, link_fd: int) -> int:
        self.created.append(link_fd)
        return -self.error if self.error else os.open(self.path, os.O_RDONLY)


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream(tmp_path)
    monkeypatch.setattr(_libbpf_programs, "IteratorMaker", made.maker)
    return made


ROOM = {_program.ROWS: MapSize(SIZE, 10), _program.NAMES: MapSize(300, 1)}


def test_an_iterator_s_program(
    programs: list[FakeProgram], stream: Stream, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    walker = IteratorWalker(Setup(_options.POST, {"nr_terms": b"1234"}), ROOM, cgroup)
    (program,) = programs
    assert (program.name, program.constants, program.maps) == (
        _program.SHARE,
        {"nr_terms": b"1234"},
        ROOM,
    )
    assert program.attached == [(cgroup.fd, _options.POST)]
    assert (len(walker.rows), len(walker.names)) == (400, 300)
    walker.close()
    assert (program.link.closes, program.closes) == (1, 1)


@pytest.mark.parametrize("rows", [0, 11, 1 << 31])
@pytest.mark.parametrize("items", [1, _wire.MAX_ITEMS])
def test_one_read_takes_the_header_and_the_trailer_of_an_iterator(
    items: int, rows: int, programs: list[FakeProgram], stream: Stream, v2: Path, opened: Opened
) -> None:
    walker = IteratorWalker(Setup(_options.PRE, {}), ROOM, opened(v2))
    stream.say(rows, items)
    before = open_files()
    assert [walker.walk(), walker.walk()] == [rows] * 2
    assert stream.created == [33, 33], "each walk is a new iterator"
    assert open_files() == before
    walker.close()


def test_an_iterator_s_failures(
    programs: list[FakeProgram], stream: Stream, v2: Path, opened: Opened
) -> None:
    walker = IteratorWalker(Setup(_options.PRE, {}), ROOM, opened(v2))
    before = open_files()
    stream.error = errno.EPERM
    with pytest.raises(MemcgError) as caught:
        walker.walk()
    assert (caught.value.errno, caught.value.call) == (errno.EPERM, "bpf_iter_create")
    stream.error = 0
    whole = stream.path.read_bytes()
    for damaged in (b"", whole[:-1], whole[1:], whole + b"\0" * 8, bytes(500)):
        stream.path.write_bytes(damaged)
        with pytest.raises(StreamError, match="no trailer"):
            walker.walk()
    assert open_files() == before
    stream.say(3)
    assert walker.walk() == 3
    walker.close()
    walker.close()


def test_a_closed_iterator_walks_no_other_s_link(
    programs: list[FakeProgram], stream: Stream, v2: Path, opened: Opened
) -> None:
    walker = IteratorWalker(Setup(_options.PRE, {}), ROOM, opened(v2))
    walker.close()
    stream.error = errno.EBADF
    with pytest.raises(MemcgError):
        walker.walk()
    assert stream.created == [-1]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EPERM, BpfPermissionError), (errno.ENODEV, CgroupRemovedError), (5, MemcgError)],
)
def test_an_iterator_that_does_not_attach_leaves_nothing(
    number: int,
    kind: type[MemcgError],
    programs: list[FakeProgram],
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped: list[weakref.ref[mmap.mmap]] = []

    def map_one(self: FakeProgram, name: str, writable: bool = False) -> mmap.mmap:
        memory = mmap.mmap(-1, 4096)
        mapped.append(weakref.ref(memory))
        return memory

    def attach(self: FakeProgram, cgroup_fd: int, order: int) -> Any:
        raise MemcgError("no", errno=number, call="bpf_link_create")

    monkeypatch.setattr(FakeProgram, "map", map_one)
    monkeypatch.setattr(FakeProgram, "attach", attach)
    cgroup = opened(v2)
    with pytest.raises(MemcgError) as caught:
        IteratorWalker(Setup(_options.PRE, {}), ROOM, cgroup)
    assert type(caught.value) is kind
    del caught
    gc.collect()
    assert [each() for each in mapped] == [None, None]


@pytest.mark.parametrize("transport", [IteratorWalker, RunWalker])
def test_a_walker_is_lost_with_its_program_or_link(
    transport: type[Any],
    programs: list[FakeProgram],
    stream: Stream,
    runs: Runs,
    v2: Path,
    opened: Opened,
) -> None:
    walker = transport(Setup(_options.PRE, {}), ROOM, opened(v2))
    (program,) = programs
    assert not walker.is_lost
    program.is_lost = True
    assert walker.is_lost
    program.is_lost, program.link.is_lost = False, True
    assert walker.is_lost is (transport is IteratorWalker), "the other has none"
    walker.close()


class Runs:
    """bpf_prog_test_run_opts on a tree's program.

    Attributes:
        answers: (what is returned, status, number of rows) of each run; the last goes on.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, int, int]] = [(0, _wire.DONE, 1)]
        self.ran: list[tuple[int, int]] = []  # the program's descriptor, the cgroup's id

    def runner(self, program_fd: int, call: bytearray) -> Callable[[], int]:
        def run() -> int:
            cgroup_id, key, _, _ = _wire.CALL.unpack_from(call)
            assert key == 1 << 63
            self.ran.append((program_fd, cgroup_id))
            error, status, rows = self.answers[0]
            if len(self.answers) > 1:
                self.answers.pop(0)
            if not error:
                _wire.CALL.pack_into(call, 0, cgroup_id, key, status, rows)
            return error

        return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(_libbpf_programs, "runner", made.runner)
    return made


@pytest.fixture
def walker(
    programs: list[FakeProgram], runs: Runs, v2: Path, opened: Opened
) -> Iterator[RunWalker]:
    made = RunWalker(Setup(_options.POST, {"nr_terms": b"1234"}), ROOM, opened(v2))
    yield made
    made.close()
    made.close()


def test_a_run_s_program(programs: list[FakeProgram], walker: RunWalker) -> None:
    (program,) = programs
    assert (program.name, program.constants, program.maps) == (
        _program.RUN_TREE,
        {"nr_terms": b"1234", "calls_loop": b"\1"},
        ROOM,
    )
    assert program.attached == [] and (len(walker.rows), len(walker.names)) == (400, 300)


@pytest.mark.parametrize("rows", [0, 1, 11, (1 << 32) - 1])
def test_a_run_that_is_done(rows: int, walker: RunWalker, runs: Runs, v2: Path) -> None:
    runs.answers = [(0, _wire.DONE, rows)]
    assert [walker.walk(), walker.walk()] == [rows] * 2
    assert runs.ran == [(33, v2.stat().st_ino)] * 2


def test_a_run_that_finds_no_cgroup(walker: RunWalker, runs: Runs, v2: Path) -> None:
    runs.answers = [(0, _wire.GONE, 0)]
    with pytest.raises(BackendUnavailableError, match="outside of the cgroup namespace"):
        walker.walk()
    (v2 / "memory.stat").unlink()
    with pytest.raises(CgroupRemovedError, match=f"the cgroup {v2} was removed"):
        walker.walk()
    shutil.rmtree(v2)
    make_v2(v2)
    with pytest.raises(CgroupRemovedError):
        walker.walk()
    runs.answers = [(0, _wire.DONE, 4)]
    assert walker.walk() == 4


def test_a_busy_program_is_run_again(
    walker: RunWalker, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("pymemcgbpf._sources.tree_walkers.time.sleep", slept.append)
    runs.answers = [(0, _wire.BUSY, 0)] * 5 + [(0, _wire.DONE, 6)]
    assert walker.walk() == 6
    assert len(runs.ran) == 6
    assert slept == [_one_bpf.BUSY_SECONDS] * 5


@pytest.mark.parametrize("status", [_wire.NOT_RUN, _wire.BAD_ORDER, 77])
def test_a_status_that_should_not_be_is_an_error(
    status: int, walker: RunWalker, runs: Runs
) -> None:
    runs.answers = [(0, status, 3)]
    with pytest.raises(MemcgError, match=rf"status {status}\b"):
        walker.walk()


def test_an_older_answer_is_not_taken_for_a_new_one(walker: RunWalker, runs: Runs) -> None:
    runs.answers = [(0, _wire.DONE, 3), (-errno.EPERM, 0, 0)]
    assert walker.walk() == 3
    with pytest.raises(MemcgError) as caught:
        walker.walk()
    assert (caught.value.errno, caught.value.call) == (errno.EPERM, "bpf_prog_test_run_opts")


def test_a_closed_walker_lets_go_of_its_program_and_runs_no_other(
    programs: list[FakeProgram], walker: RunWalker, runs: Runs
) -> None:
    (program,) = programs
    assert program.closes == 0
    walker.close()
    assert program.closes == 1, "and its memory with it"
    with pytest.raises(MemcgError):
        walker.walk()
    assert runs.ran == []


@pytest.mark.parametrize("transport", [IteratorWalker, RunWalker])
def test_a_walker_s_map_is_as_large_as_asked_for_and_cannot_be_written_to(
    transport: type[Any],
    v2: Path,
    opened: Opened,
    stream: Stream,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "object").write_bytes(b"an object")
    monkeypatch.setattr(_program, "CORE_FILE", str(tmp_path / "object"))
    monkeypatch.setattr(_capabilities, "missing", list)
    cgroup = opened(v2)
    before = open_files()
    with installed(monkeypatch) as lib:
        maps = {"rows": MapSize(RECIPE.row_size, 123), "names": MapSize(300, 1)}
        constants = RECIPE.constants(FLUSH_NONE, _options.PRE)
        walker = transport(Setup(_options.PRE, constants), maps, cgroup)
        assert lib.sizes["rows"] == {"value_size": 40, "max_entries": 123}
        assert lib.autocreate == {
            "rows": True,
            "names": True,
            "scratches": transport is RunWalker,
        }
        assert [name for name, wanted in lib.autoload.items() if wanted] == [
            _program.SHARE if transport is IteratorWalker else _program.RUN_TREE
        ]
        assert lib.constant("header")[:24] == constants["header"]
        assert (len(walker.rows), len(walker.names)) == (40 * 123, 300)
        os.pwrite(lib.memory["rows"].fileno(), b"from the kernel", 40)
        assert walker.rows[40:55] == b"from the kernel"
        with pytest.raises(TypeError):
            walker.rows[0] = 1
        walker.names[:5] = b"to it"
        assert os.pread(lib.memory["names"].fileno(), 5, 0) == b"to it"
        walker.close()
        assert walker.rows.closed and walker.names.closed
        assert lib.opened() == 0
    assert open_files() == before
