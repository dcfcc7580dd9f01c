# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""TreeReader on a fake source."""

from __future__ import annotations

import copy
import errno
import mmap
import os
import pickle
import re
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
    BpfObjectError,
    BpfPermissionError,
    BtfNotFoundError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ClosedError,
    LibbpfNotFoundError,
    MemcgError,
    NotACgroupError,
    Snapshot,
    TreeReader,
    TreeTooLargeError,
    VerifierError,
    _options,
    _wire,
)
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._options import Request
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import tree_text as _tree_text
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.tree_bpf import TreeSourceFactory

from ..open_files import open_files
from .children import ended
from .conftest import Choose
from .directories import make_v2
from .fake_sources import READ_ERRORS, TRANSIENT
from .tree_rows import NAMES, FakeTree, Trees, pack

ROWS = tuple(_wire.RawRow(100 + at, 1, 2, 0, (at, 10 * at)) for at in range(5))


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """The map that the kernel writes into."""
    made = mmap.mmap(-1, 4096)
    yield made
    made.close()  # a BufferError where a view was left


@pytest.fixture
def source(memory: mmap.mmap) -> FakeTree:
    fake = FakeTree(memory, 0)
    fill(fake, ROWS)
    return fake


def fill(source: FakeTree, rows: tuple[_wire.RawRow, ...]) -> None:
    """What the next walk finds."""
    data = pack(*rows)
    source.memory[:] = data.ljust(len(source.memory), b"\xee")
    source.number = len(rows)


@pytest.fixture
def trees(source: FakeTree, choose_with: Callable[[Choose], None]) -> Trees:
    made = Trees(source)
    choose_with(made.choose)
    return made


def values_of(snapshot: Snapshot) -> list[tuple[int, ...]]:
    return [(row.id, *row.values()) for row in snapshot]


VALUES = [(row.cgroup_id, *row.values) for row in ROWS]
OTHER = tuple(row._replace(values=(7, 8)) for row in ROWS[:3])
OTHER_VALUES = [(row.cgroup_id, 7, 8) for row in OTHER]


# --- arguments ------------------------------------------------------------------------


def test_defaults(v2: Path, trees: Trees) -> None:
    with TreeReader(v2) as tree:
        assert trees.asked == [
            (str(v2), (None, True, "auto", "auto"), TreeSourceFactory("pre", None)),
        ]
        assert (tree.order, tree.item_names) == ("pre", NAMES)


def test_arguments_reach_the_source_and_the_attributes(v2: Path, trees: Trees) -> None:
    options: dict[str, Any] = {"flush": False, "backend": "core", "transport": "run"}
    with TreeReader(v2, ["file", "anon", "file"], order="up", max_rows=9, **options) as tree:
        (asked,) = trees.asked
        assert asked == (
            str(v2),
            (("file", "anon"), False, "core", "run"),
            TreeSourceFactory("up", 9),
        )
        assert isinstance(asked[2], TreeSourceFactory)
        assert (tree.item_names, tree.order) == (("file", "anon"), "up")
        assert (tree.backend, tree.transport, tree.fallback_reason) == (
            "fake",
            "thin air",
            "because",
        )
        assert (tree.path, tree.cgroup_id) == (str(v2), v2.stat().st_ino)


@pytest.mark.parametrize("order", ["self", "pre", "post", "up", "children"])
def test_a_snapshot_has_the_order_of_its_reader(
    order: _options.Order, v2: Path, trees: Trees
) -> None:
    with TreeReader(v2, order=order) as tree:
        assert tree.order == tree.read().order == order


def test_an_unknown_order_is_an_error_that_names_the_known_ones(trees: Trees) -> None:
    wrong: list[Any] = ["PRE", "", "pre ", None, 1, b"pre"]
    for order in wrong:
        says = r"order must be one of 'self', 'pre', .*, not "
        with pytest.raises(ValueError, match=says + re.escape(repr(order))) as caught:
            TreeReader("/nowhere", order=order)
        assert not isinstance(caught.value, MemcgError)


def test_max_rows_must_be_at_least_1(trees: Trees) -> None:
    for max_rows in (0, -1, -(1 << 80), Number(0)):
        with pytest.raises(ValueError, match="max_rows must be at least 1") as caught:
            TreeReader("/nowhere", max_rows=max_rows)
        assert not isinstance(caught.value, MemcgError)


def test_max_rows_must_be_an_integer(trees: Trees) -> None:
    wrong: list[Any] = ["5", 1.0, b"1", [1], float("inf"), True, False]
    for max_rows in wrong:
        with pytest.raises(TypeError):
            TreeReader("/nowhere", max_rows=max_rows)


class Number:
    """An integer that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("given", "cap"), [(1, 1), (Number(8), 8), (1 << 70, 1 << 70), (None, None)]
)
def test_max_rows_reaches_the_source(
    given: Any, cap: Optional[int], v2: Path, trees: Trees
) -> None:
    with TreeReader(v2, max_rows=given):
        assert trees.asked[0][2] == TreeSourceFactory("pre", cap)


@pytest.mark.parametrize("option", ["max_rows", "max_depth"])
@pytest.mark.parametrize("given", [True, False])
def test_a_bool_is_no_number(given: bool, option: str, v2: Path, trees: Trees) -> None:
    options: dict[str, Any] = {option: given}
    with pytest.raises(TypeError, match=f"^{option} must be an integer, not the bool {given}$"):
        TreeReader(v2, **options)
    assert trees.asked == []


def test_wrong_items_are_reported_before_a_wrong_path(trees: Trees) -> None:
    wrong: list[Any] = ["anon", b"anon", [], [1]]
    for items in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            TreeReader("/nowhere", items)
        assert not isinstance(caught.value, MemcgError)


def test_options_are_given_by_name(v2: Path, trees: Trees) -> None:
    with pytest.raises(TypeError):
        TreeReader(v2, ["anon"], "pre")  # type: ignore[call-arg,misc,unused-ignore]  # the code differs by mypy's version
    with TreeReader(v2) as tree, pytest.raises(TypeError):
        tree.read(False)  # type: ignore[call-arg,misc,unused-ignore]


def test_a_wrong_path_makes_no_source(tmp_path: Path, trees: Trees) -> None:
    with pytest.raises(CgroupNotFoundError):
        TreeReader(tmp_path / "none")
    with pytest.raises(NotACgroupError):
        TreeReader(tmp_path)
    assert trees.asked == []


@pytest.mark.parametrize(
    "error", [MemcgError("no"), TreeTooLargeError("no", rows=2, max_rows=1), KeyboardInterrupt()]
)
def test_a_reader_that_cannot_be_made_leaves_nothing_open(
    error: BaseException, v2: Path, trees: Trees
) -> None:
    trees.error = error
    before = open_files()
    with pytest.raises(type(error)) as caught:
        TreeReader(v2)
    assert caught.value is error
    assert open_files() == before


def test_the_directory_is_not_kept_open(v2: Path, trees: Trees) -> None:
    before = open_files()
    tree = TreeReader(v2)
    assert open_files() == before
    tree.close()


def test_the_order_is_read_only(v2: Path, trees: Trees) -> None:
    with TreeReader(v2) as tree, pytest.raises(AttributeError):
        setattr(tree, "order", "up")  # noqa: B010  # mypy knows that it is read-only


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("by_copy", [True, False])
def test_a_snapshot_has_the_rows_of_its_walk(
    by_copy: bool, v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        assert source.walks == 0
        snapshot = tree.read(copy=by_copy)
        assert values_of(snapshot) == VALUES
        assert (snapshot.item_names, snapshot.order, snapshot.path) == (NAMES, "pre", str(v2))
        assert source.walks == 1
        fill(source, ())
        assert values_of(tree.read(copy=by_copy)) == []
        fill(source, OTHER)
        assert values_of(tree.read(copy=by_copy)) == OTHER_VALUES
        snapshot = tree.read()


def test_a_map_full_of_rows_is_read_to_its_end(v2: Path, trees: Trees, source: FakeTree) -> None:
    rows = tuple(_wire.RawRow(1 + at, 0, 0, 0, (at, at)) for at in range(4096 // 40))
    source.memory.resize(40 * len(rows))
    fill(source, rows)
    with TreeReader(v2) as tree:
        assert values_of(tree.read()) == [(1 + at, at, at) for at in range(102)]


def test_rows_as_wide_as_the_items(v2: Path, trees: Trees, source: FakeTree) -> None:
    rows = tuple(_wire.RawRow(at, 0, 0, 0, (at, 2 * at, 3 * at)) for at in range(1, 4))
    fill(source, rows)
    with TreeReader(v2, ["anon", "file", "shmem"]) as tree:
        snapshot = tree.read()
        assert [dict(row) for row in snapshot] == [
            {"anon": at, "file": 2 * at, "shmem": 3 * at} for at in range(1, 4)
        ]


def test_a_snapshot_never_changes(v2: Path, trees: Trees, source: FakeTree) -> None:
    with TreeReader(v2) as tree:
        first = tree.read()
        column = first.column("anon")
        fill(source, OTHER)
        second = tree.read()
        assert values_of(first) == VALUES and column.tolist() == [0, 1, 2, 3, 4]
        assert values_of(second) == OTHER_VALUES
        with pytest.raises(TypeError):
            column[0] = 1
    assert values_of(first) == VALUES, "it outlives its reader"


def test_a_copied_snapshot_does_not_hold_the_map(v2: Path, trees: Trees, memory: mmap.mmap) -> None:
    with TreeReader(v2) as tree:
        snapshot = tree.read()
        memory.resize(8192)  # a BufferError while anybody looks into it
        assert values_of(snapshot) == VALUES


def test_a_view_reads_the_map_itself(
    v2: Path, trees: Trees, source: FakeTree, memory: mmap.mmap
) -> None:
    with TreeReader(v2) as tree:
        view = tree.read(copy=False)
        assert view.ids.obj is memory
        with pytest.raises(BufferError):
            memory.resize(8192)
        column = view.column("anon")
        fill(source, OTHER + OTHER[:2])
        assert column.tolist() == [7] * 5
        column.release()
        tree.read()
        memory.resize(8192)  # the reader no longer holds it


@pytest.mark.parametrize("by_copy", [True, False])
def test_a_view_expires_with_the_next_read(
    by_copy: bool, v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        kept = tree.read()
        view = tree.read(copy=False)
        row = view[1]
        assert row["pgscan"] == 10
        fill(source, OTHER)
        after = tree.read(copy=by_copy)
        for use in (lambda: row["pgscan"], lambda: view.ids, lambda: values_of(view)):
            with pytest.raises(ClosedError, match="copy=False"):
                use()
        assert len(view) == 5
        assert values_of(kept) == VALUES and values_of(after) == OTHER_VALUES
        tree.read()
        assert values_of(kept) == VALUES


def test_a_view_expires_before_its_memory_is_overwritten(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        view = tree.read(copy=False)
        met: list[object] = []

        def during() -> None:
            try:
                met.append(values_of(view))
            except ClosedError as error:
                met.append(type(error))

        source.during = during
        tree.read()
        assert met == [ClosedError]


def test_a_view_expires_with_a_read_that_fails(v2: Path, trees: Trees, source: FakeTree) -> None:
    """The kernel may have written part of it."""
    with TreeReader(v2) as tree:
        view = tree.read(copy=False)
        source.error = OSError(errno.EIO, "words")
        with pytest.raises(MemcgError):
            tree.read()
        with pytest.raises(ClosedError):
            values_of(view)


def test_a_view_outlives_its_reader(v2: Path, trees: Trees) -> None:
    tree = TreeReader(v2)
    view = tree.read(copy=False)
    tree.close()
    assert values_of(view) == VALUES
    with pytest.raises(ClosedError, match="reader"):
        tree.read()
    assert values_of(view) == VALUES, "a read that was refused overwrites nothing"


@pytest.mark.parametrize("by_copy", [True, False])
def test_rows_in_bytes_are_read_like_rows_in_a_map(
    by_copy: bool, v2: Path, trees: Trees, source: FakeTree
) -> None:
    """The text source makes them."""
    source.memory = pack(*ROWS)
    with TreeReader(v2) as tree:
        snapshot = tree.read(copy=by_copy)
        assert values_of(snapshot) == VALUES
        source.memory, source.number = b"", 0
        assert values_of(tree.read(copy=by_copy)) == []


def test_a_walk_lies_between_the_times_of_its_snapshot(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    walked: list[int] = []
    source.during = lambda: walked.append(time.monotonic_ns())
    with TreeReader(v2) as tree:
        times = []
        for by_copy in (True, False, True):
            before = time.monotonic_ns()
            snapshot = tree.read(copy=by_copy)
            after = time.monotonic_ns()
            ended = snapshot.started_ns + snapshot.duration_ns
            times.append((before, snapshot.started_ns, walked[-1], ended, after))
    assert [list(each) for each in times] == [sorted(each) for each in times]
    assert len({each[2] for each in times}) == 3


def test_a_text_reader_reads_the_files(tmp_path: Path) -> None:
    root = make_v2(tmp_path / "root", kind=None, current=None)
    make_v2(make_v2(root / "a") / "b")
    with TreeReader(root, ["anon", "memory.current"], backend="text", order="post") as tree:
        assert (tree.backend, tree.transport) == ("text", "text")
        snapshot = tree.read()
        assert [row.relative_path for row in snapshot] == ["a/b", "a", "."]
        assert [dict(row) for row in snapshot][1:] == [
            {"anon": 4096, "memory.current": 12288},
            {"anon": 4096},
        ]
        assert repr(tree) == f"<TreeReader {str(root)!r} text, 2 items>"
        assert list(tree.read(copy=False).column("anon")) == [4096] * 3
    with (
        pytest.raises(TreeTooLargeError) as caught,
        TreeReader(root, max_rows=2, backend="text") as tree,
    ):
        tree.read()
    assert (caught.value.rows, caught.value.max_rows) == (3, 2)


# --- errors ---------------------------------------------------------------------------


def test_an_error_of_the_files_becomes_one_of_the_package(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        for number, kind in READ_ERRORS:
            source.error = OSError(number, "words")
            with pytest.raises(MemcgError) as caught:
                tree.read()
            assert type(caught.value) is kind, errno.errorcode[number]
            assert str(v2) in str(caught.value)
            assert caught.value.__cause__ is source.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad file descriptor"),
        MemcgError("no", errno=errno.EINVAL, call="bpf_iter_create"),
        CgroupRemovedError("gone"),
    ],
)
def test_a_read_that_fails_because_its_descriptor_was_closed_says_so(
    error: OSError, v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        source.error, source.is_lost = error, True
        with pytest.raises(MemcgError, match="make another reader") as caught:
            tree.read()
        assert (type(caught.value), caught.value.errno) == (MemcgError, errno.EBADF)
        assert str(v2) in str(caught.value) and caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [CgroupRemovedError("gone"), TreeTooLargeError("many", rows=2, max_rows=1)]
)
def test_an_error_of_the_package_is_raised_unchanged(
    error: MemcgError, v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        source.error = error
        with pytest.raises(type(error)) as caught:
            tree.read()
        assert caught.value is error


@pytest.mark.parametrize("error", [OSError(5, "words"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_failed_read_does_not_lock_the_reader(
    error: BaseException, v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        for _ in range(2):
            source.error = error
            with pytest.raises((type(error), MemcgError)):
                tree.read()
            source.error = None
            assert values_of(tree.read()) == VALUES


# --- a process that loses its privileges ----------------------------------------------

REFUSED = BpfPermissionError("it lacks CAP_BPF", errno=errno.EPERM)
ITEMS = ["file", "anon"]
GROUP = ("memory.*",)
MEMBERS = ("file", "pgscan", "derived.effective_limit", "anon", "slab", "sock", "memory.peak")


@pytest.fixture
def choosing(
    source: FakeTree,
    v2: Path,
    opened: Callable[[Path], Cgroup],
    choose_with: Callable[[Choose], None],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Cgroup]:
    """A reader first gets *source*. What it opens to read text afterwards is listed here."""
    asked: list[Cgroup] = []

    def choose_first(cgroup: Cgroup, request: Request, factory: Any) -> Selection[Any]:
        names = MEMBERS if request.names == GROUP else request.names or NAMES
        return Selection(source, names, "core", "shared", "kfunc: no such function")

    def choose_text(cgroup: Cgroup, *arguments: Any) -> Any:
        asked.append(cgroup)
        assert cgroup is source.root
        return real_choose_text(cgroup, *arguments)

    source.root = opened(v2)._replace(owner=None)  # the fixture keeps it open
    choose_with(choose_first)
    real_choose_text = _choose.choose_text
    monkeypatch.setattr(_choose, "choose_text", choose_text)
    return asked


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_a_reader_whose_process_lost_its_privileges_falls_back_to_text(
    number: int, choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    before = open_files()
    with TreeReader(v2, ITEMS, flush=False) as tree:
        assert (tree.backend, tree.transport) == ("core", "shared")
        assert values_of(tree.read()) == VALUES
        view = tree.read(copy=False)
        source.error = BpfPermissionError("it lacks CAP_BPF", errno=number)
        for by_copy in (True, False, True):
            snapshot = tree.read(copy=by_copy)
            assert [dict(row) for row in snapshot] == [{"file": 8192, "anon": 4096}]
            assert snapshot.item_names == tree.item_names == tuple(ITEMS)
        assert (tree.backend, tree.transport) == ("text", "text")
        assert tree.fallback_reason == (
            "kfunc: no such function; core: this process has lost the rights that its reader was "
            "made with: it lacks CAP_BPF"
        )
        assert (source.walks, source.closes, len(choosing)) == (3, 1, 1), "once for all"
        with pytest.raises(ClosedError):
            values_of(view)
    assert open_files() == before


@pytest.mark.parametrize(
    "asked",
    [{"backend": "core"}, {"transport": "shared"}, {"backend": "core", "transport": "shared"}],
    ids=lambda asked: "-".join(asked),
)
def test_a_backend_or_transport_asked_for_by_name_is_not_replaced(
    asked: dict[str, Any], choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    with TreeReader(v2, ITEMS, **asked) as tree:
        source.error = REFUSED
        for _ in range(2):
            with pytest.raises(BpfPermissionError) as caught:
                tree.read()
            assert caught.value is REFUSED
        source.error = None
        assert values_of(tree.read()) == VALUES
        assert (tree.backend, tree.fallback_reason) == ("core", "kfunc: no such function")
    assert choosing == []


@pytest.mark.parametrize(
    "error",
    [
        BackendUnavailableError("no", errno=errno.EPERM),
        BpfObjectError("no", errno=errno.ENOENT),
        BtfNotFoundError("no"),
        LibbpfNotFoundError("no"),
        VerifierError("no", errno=errno.EACCES),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_reader_that_cannot_load_its_program_again_falls_back_to_text(
    error: MemcgError, choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    """As in a forked child in another root directory."""
    with TreeReader(v2, [*ITEMS, "pgscan"]) as tree, pytest.raises(type(error)) as caught:
        source.error = error
        tree.read()
    assert "cannot be read any more: no; as text: " in str(caught.value)
    assert str(caught.value).endswith("rights, or leave out 'pgscan'")
    source.closes = 0
    with TreeReader(v2, ITEMS) as tree:
        for _ in range(2):
            assert [dict(row) for row in tree.read()] == [{"file": 8192, "anon": 4096}]
        assert tree.fallback_reason == "kfunc: no such function; core: no"
        assert (tree.backend, source.closes, len(choosing)) == ("text", 1, 2)


def test_members_of_groups_that_text_lacks_are_absent_from_then_on(
    choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    with TreeReader(v2, GROUP) as tree:
        source.error = REFUSED
        for _ in range(2):
            (row,) = tree.read()
            assert dict(row) == {"file": 8192, "anon": 4096}
        assert tree.item_names == MEMBERS
        assert tree.fallback_reason.endswith(
            "it lacks CAP_BPF; as text, 5 of 7 items are missing (pgscan, derived.effective_limit, "
            "slab, ...)"
        )


def test_an_error_other_than_lost_privileges_does_not_make_a_reader_fall_back_to_text(
    choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    errors = [
        *(MemcgError("short", errno=number) for number in TRANSIENT),
        *(BpfPermissionError("short", errno=number) for number in TRANSIENT),
        *(OSError(number, "short") for number in TRANSIENT),
        MemcgError("no", errno=errno.EPERM),
        CgroupPermissionError("no", errno=errno.EACCES),
    ]
    with TreeReader(v2, ITEMS) as tree:
        for error in errors:
            source.error = error
            with pytest.raises(MemcgError) as caught:
                tree.read()
            assert caught.value.errno == error.errno
            source.error = None
            assert values_of(tree.read()) == VALUES
            assert tree.backend == "core", repr(error)
    assert choosing == []


@pytest.mark.parametrize("lack", ["item", "rights"])
def test_lost_privileges_are_an_error_where_text_cannot_be_read(
    lack: str, choosing: list[Cgroup], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    if lack == "rights":
        monkeypatch.setattr(_tree_text, "TextTreeSource", forbid)
    with TreeReader(v2, [*ITEMS, "pgscan"] if lack == "item" else ITEMS) as tree:
        items = tree.item_names
        source.error = REFUSED
        said = "memory.stat does not have 'pgscan'" if lack == "item" else "Permission denied"
        says = rf"it lacks CAP_BPF; as text: .*{said}"
        for _ in range(2):
            with pytest.raises(BpfPermissionError, match=says) as caught:
                tree.read()
            assert caught.value.errno == errno.EPERM and str(v2) in str(caught.value)
        assert (tree.backend, tree.item_names, source.closes) == ("core", items, 0)


def test_lost_privileges_and_a_removed_cgroup_are_a_removal(
    choosing: list[Cgroup], v2: Path, source: FakeTree
) -> None:
    with TreeReader(v2, ITEMS) as tree:
        source.error = REFUSED
        shutil.rmtree(v2)
        with pytest.raises(CgroupRemovedError):
            tree.read()
        assert tree.backend == "core"


def test_a_fallback_that_fails_for_want_of_descriptors_is_tried_again(
    choosing: list[Cgroup], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with TreeReader(v2, ITEMS) as tree:
        source.error = REFUSED
        with monkeypatch.context() as patch, pytest.raises(MemcgError, match="Too many") as caught:
            patch.setattr(_tree_text, "TextTreeSource", fail)
            tree.read()
        assert type(caught.value) is MemcgError and tree.backend == "core"
        assert len(tree.read()) == 1 and tree.backend == "text"


def test_a_reader_that_is_closed_during_its_fallback_stays_closed(
    choosing: list[Cgroup], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = _tree_text.TextTreeSource

    def interrupted(*arguments: Any) -> Any:
        tree.close()  # as a signal handler may
        return make(*arguments)

    monkeypatch.setattr(_tree_text, "TextTreeSource", interrupted)
    tree = TreeReader(v2, ITEMS)
    source.error = REFUSED
    before = open_files()
    for _ in range(2):
        with pytest.raises(ClosedError, match=r"this reader of .* is closed"):
            tree.read()
    assert open_files() == before


def test_a_reader_that_is_closed_before_its_fallback_fails_says_that_it_is_closed(
    choosing: list[Cgroup], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        tree.close()  # as a signal handler may
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(_tree_text, "TextTreeSource", interrupted)
    tree = TreeReader(v2, ITEMS)
    source.error = REFUSED
    with pytest.raises(ClosedError, match=r"this reader of .* is closed"):
        tree.read()


# --- closing --------------------------------------------------------------------------


def test_reading_a_closed_reader_is_a_closed_error(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    tree = TreeReader(v2)
    tree.close()
    for by_copy in (True, False):
        with pytest.raises(ClosedError, match="closed") as caught:
            tree.read(copy=by_copy)
        assert str(v2) in str(caught.value)
        assert isinstance(caught.value, ValueError)
    assert source.walks == 0


def test_closing_twice_closes_once(v2: Path, trees: Trees, source: FakeTree) -> None:
    tree = TreeReader(v2)
    tree.close()
    tree.close()
    assert source.closes == 1


def test_a_with_block_closes_the_reader(v2: Path, trees: Trees, source: FakeTree) -> None:
    with pytest.raises(ZeroDivisionError), TreeReader(v2) as tree:
        assert isinstance(tree, TreeReader)
        tree.read()
        _ = 1 // 0
    assert source.closes == 1
    with pytest.raises(ClosedError):
        tree.read()


def test_a_closed_reader_keeps_its_attributes(v2: Path, trees: Trees) -> None:
    tree = TreeReader(v2, order="up")
    tree.close()
    assert (tree.backend, tree.transport, tree.item_names, tree.order) == (
        "fake",
        "thin air",
        NAMES,
        "up",
    )


def test_repr(v2: Path, trees: Trees) -> None:
    tree = TreeReader(v2)
    assert repr(tree) == f"<TreeReader {str(v2)!r} fake/thin air, 2 items>"
    tree.close()
    assert repr(tree) == f"<TreeReader {str(v2)!r} closed, 2 items>"


def test_a_reader_cannot_be_copied_or_pickled(v2: Path, trees: Trees) -> None:
    with TreeReader(v2) as tree:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"a TreeReader cannot .* make another"):
                attempt(tree)


# --- threads, signals, fork -----------------------------------------------------------


def test_threads_that_share_a_reader_walk_one_at_a_time(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    source.during = lambda: time.sleep(0)  # lets the others try
    failures: list[BaseException] = []

    def read_on(tree: TreeReader, by_copy: bool) -> None:
        try:
            for _ in range(100):
                snapshot = tree.read(copy=by_copy)
                if by_copy:
                    assert values_of(snapshot) == VALUES
        except BaseException as error:
            failures.append(error)

    with TreeReader(v2) as tree:
        threads = [threading.Thread(target=read_on, args=(tree, at % 4 > 0)) for at in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        tree.read()
    assert failures == []
    assert (source.walks, source.most_at_once) == (601, 1)


def test_a_close_ends_the_reads_of_other_threads(v2: Path, trees: Trees, source: FakeTree) -> None:
    tree = TreeReader(v2)
    outcomes: list[BaseException] = []
    started = threading.Barrier(5)
    deadline = time.monotonic() + 30

    def read_on() -> None:
        started.wait(10)
        try:
            while time.monotonic() < deadline:
                tree.read()
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=read_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(10)
    tree.close()
    for thread in threads:
        thread.join(40)
    assert [type(outcome) for outcome in outcomes] == [ClosedError] * 4
    assert source.closes == 1


def test_a_read_in_a_signal_handler_during_a_read_is_a_clear_error(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    met: list[MemcgError] = []

    def handler(*_: object) -> None:
        try:
            tree.read()
        except MemcgError as error:
            met.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with TreeReader(v2) as tree:
            source.during = lambda: signal.raise_signal(signal.SIGUSR1)
            snapshot = tree.read()
            source.during = None
            assert values_of(snapshot) == VALUES
            assert [type(error) for error in met] == [MemcgError]
            assert "is reading already" in str(met[0]) and str(v2) in str(met[0])
            assert source.walks == 1
            signal.raise_signal(signal.SIGUSR1)
            assert source.walks == 2 and len(met) == 1, "in between it may"
            assert values_of(tree.read()) == VALUES
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_read_during_another_thread_s_read_waits(
    v2: Path, trees: Trees, source: FakeTree
) -> None:
    source.hold = threading.Event()
    found: list[Snapshot] = []
    with TreeReader(v2) as tree:
        threads = [
            threading.Thread(target=lambda: found.append(tree.read(copy=True))) for _ in range(2)
        ]
        threads[0].start()
        assert source.entered.wait(10)
        threads[1].start()
        source.hold.set()
        for thread in threads:
            thread.join(30)
    assert [values_of(snapshot) for snapshot in found] == [VALUES] * 2


def in_child(tree: TreeReader) -> int:
    """Reads in a forked child; returns its exit status."""

    def work() -> None:
        assert values_of(tree.read()) == values_of(tree.read(copy=False)) == VALUES

    return ended(work)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_read(v2: Path, trees: Trees) -> None:
    with TreeReader(v2) as tree:
        view = tree.read(copy=False)
        assert in_child(tree) == 0
        assert values_of(view) == VALUES, "the parent's view is the parent's"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_forked_child_s_view_has_expired(closed: bool, v2: Path, trees: Trees) -> None:
    """The memory is shared with the parent, which may walk again at any time."""
    tree = TreeReader(v2)
    kept = tree.read()
    view = tree.read(copy=False)
    row = view[1]
    if closed:
        tree.close()

    def child() -> None:
        for use in (
            lambda: row["pgscan"],
            lambda: row.id,
            lambda: dict(row),
            lambda: view.ids,
            lambda: view.column("anon"),
            view.dicts,
            lambda: values_of(view),
        ):
            with pytest.raises(ClosedError, match=r"copy=False.*forked since.*its parent's"):
                use()
        assert len(view) == 5 and values_of(kept) == VALUES

    assert ended(child) == 0
    assert values_of(view) == VALUES and row["pgscan"] == 10
    tree.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_view_made_in_a_child_is_valid_in_the_child(v2: Path, trees: Trees) -> None:
    def child() -> None:
        view = tree.read(copy=False)
        assert values_of(view) == VALUES
        tree.read()
        with pytest.raises(ClosedError, match="its reader has read again since"):
            values_of(view)

    with TreeReader(v2) as tree:
        tree.read(copy=False)
        assert ended(child) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("same_id", [False, True], ids=["", "same id"])
def test_a_child_forked_while_another_thread_reads_is_not_locked_out(
    same_id: bool, v2: Path, trees: Trees, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_id:  # as in PID namespaces of their own
        monkeypatch.setattr(os, "getpid", lambda: 1)
    source.hold = hold = threading.Event()
    with TreeReader(v2) as tree:
        thread = threading.Thread(target=tree.read)
        thread.start()
        assert source.entered.wait(10)
        assert not tree._lock.acquire(blocking=False), "the other thread holds it"
        source.hold = None  # for the child
        try:
            assert in_child(tree) == 0
        finally:
            hold.set()
            thread.join(10)
