# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""TreeReader on a fake source."""

from __future__ import annotations

import copy
import errno
import mmap
import os
import pickle
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ClosedError,
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
from .directories import make_v2
from .fake_sources import READ_ERRORS
from .tree_rows import NAMES, FakeTree, Trees, pack

ORDERS = ("self", "pre", "post", "up", "children")
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
def trees(source: FakeTree, monkeypatch: pytest.MonkeyPatch) -> Trees:
    made = Trees(source)
    monkeypatch.setattr(_choose, "choose", made.choose)
    return made


def values_of(snapshot: Snapshot) -> list[tuple[int, ...]]:
    return [(row.id, *row.values()) for row in snapshot]


# What passes.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)

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


def test_what_it_was_made_with(v2: Path, trees: Trees) -> None:
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


@pytest.mark.parametrize("order", ORDERS)
def test_every_order(order: _options.Order, v2: Path, trees: Trees) -> None:
    with TreeReader(v2, order=order) as tree:
        assert tree.order == tree.read().order == order


@pytest.mark.parametrize("order", ["PRE", "", "pre ", "down", None, 1, b"pre"])
def test_no_such_order(order: Any, trees: Trees) -> None:
    with pytest.raises(ValueError, match=r"order must be one of 'self', 'pre', .*, not ") as caught:
        TreeReader("/nowhere", order=order)
    assert repr(order) in str(caught.value)
    assert not isinstance(caught.value, MemcgError)


@pytest.mark.parametrize("max_rows", [0, -1, -(1 << 80), False])
def test_a_cap_of_nothing_is_none(max_rows: int, trees: Trees) -> None:
    with pytest.raises(ValueError, match="max_rows must be at least 1") as caught:
        TreeReader("/nowhere", max_rows=max_rows)
    assert not isinstance(caught.value, MemcgError)


@pytest.mark.parametrize("max_rows", ["x", "5", 1.0, 2.5, b"1", [1], float("inf")])
def test_a_cap_is_a_whole_number(max_rows: Any, trees: Trees) -> None:
    with pytest.raises(TypeError):
        TreeReader("/nowhere", max_rows=max_rows)


class Number:
    """As numpy's integers: no int, but to be used as one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("given", "cap"), [(1, 1), (Number(8), 8), (True, 1), (1 << 70, 1 << 70), (None, None)]
)
def test_caps(given: Any, cap: Optional[int], v2: Path, trees: Trees) -> None:
    with TreeReader(v2, max_rows=given):
        assert trees.asked[0][2] == TreeSourceFactory("pre", cap)
    if cap is None:
        return
    with pytest.raises(ValueError, match="at least 1"):
        TreeReader(v2, max_rows=Number(0))


@pytest.mark.parametrize("items", ["anon", b"anon", [], [1]])
def test_bad_items_are_seen_before_the_path(items: Any, trees: Trees) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        TreeReader("/nowhere", items)
    assert not isinstance(caught.value, MemcgError)


def test_options_are_given_by_name(v2: Path, trees: Trees) -> None:
    with pytest.raises(TypeError):
        TreeReader(v2, ["anon"], "pre")  # type: ignore[call-arg,misc,unused-ignore]  # the code differs by mypy's version
    with TreeReader(v2) as tree, pytest.raises(TypeError):
        tree.read(False)  # type: ignore[call-arg,misc,unused-ignore]


def test_a_bad_path_makes_no_source(tmp_path: Path, trees: Trees) -> None:
    with pytest.raises(CgroupNotFoundError):
        TreeReader(tmp_path / "none")
    with pytest.raises(NotACgroupError):
        TreeReader(tmp_path)
    assert trees.asked == []


@pytest.mark.parametrize(
    "error", [MemcgError("no"), TreeTooLargeError("no", rows=2, max_rows=1), KeyboardInterrupt()]
)
def test_a_refusal_leaves_nothing_open(error: BaseException, v2: Path, trees: Trees) -> None:
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


@pytest.mark.parametrize(
    "name", ["item_names", "backend", "transport", "fallback_reason", "path", "cgroup_id", "order"]
)
def test_attributes_are_read_only(name: str, v2: Path, trees: Trees) -> None:
    with TreeReader(v2) as tree, pytest.raises(AttributeError):
        setattr(tree, name, "x")


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("by_copy", [True, False])
def test_what_a_walk_found(by_copy: bool, v2: Path, trees: Trees, source: FakeTree) -> None:
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


def test_a_whole_map_of_rows(v2: Path, trees: Trees, source: FakeTree) -> None:
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


def test_a_copy_holds_no_map(v2: Path, trees: Trees, memory: mmap.mmap) -> None:
    with TreeReader(v2) as tree:
        snapshot = tree.read()
        memory.resize(8192)  # a BufferError while anybody looks into it
        assert values_of(snapshot) == VALUES


def test_a_view_is_the_map_itself(
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
        memory.resize(8192)  # the reader has let go of it


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
    """Who knows how far the kernel had written."""
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
def test_rows_that_are_bytes(by_copy: bool, v2: Path, trees: Trees, source: FakeTree) -> None:
    """As text makes them."""
    source.memory = pack(*ROWS)
    with TreeReader(v2) as tree:
        snapshot = tree.read(copy=by_copy)
        assert values_of(snapshot) == VALUES
        source.memory, source.number = b"", 0
        assert values_of(tree.read(copy=by_copy)) == []


def test_when_it_was_taken(v2: Path, trees: Trees, source: FakeTree) -> None:
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


def test_paths_are_those_of_the_directory(
    tmp_path: Path, trees: Trees, source: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_v2(tmp_path / "root", kind=None)
    child = make_v2(root / "a b")
    ids = [path.stat().st_ino for path in (root, child)]
    fill(
        source, (_wire.RawRow(ids[0], 0, 0, 1, (1, 2)), _wire.RawRow(ids[1], ids[0], 1, 0, (3, 4)))
    )
    monkeypatch.chdir(tmp_path)
    with TreeReader("root") as tree:
        monkeypatch.chdir("/")
        assert tree.path == "root"
        first, second = tree.read(), tree.read()
        for snapshot in (first, second):
            assert snapshot.path == str(root)
            assert [row.path for row in snapshot] == [str(root), str(child)]
            assert list(snapshot.by_path()) == [str(root), str(child)]
            found = snapshot.find("a b")
            assert found is not None and found["anon"] == 3
    shutil.rmtree(child)
    assert [row.relative_path for row in first] == [".", None], "the closed reader's, too"


def test_text_needs_no_kernel(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("number", "kind"), READ_ERRORS)
def test_errors_are_translated(
    number: int, kind: type[MemcgError], v2: Path, trees: Trees, source: FakeTree
) -> None:
    with TreeReader(v2) as tree:
        source.error = OSError(number, "words")
        with pytest.raises(MemcgError) as caught:
            tree.read()
        assert type(caught.value) is kind
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
def test_what_fails_because_a_descriptor_is_lost_says_so(
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
def test_an_error_of_ours_passes_as_it_is(
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


# --- when BPF can no longer be had ----------------------------------------------------

REFUSED = BpfPermissionError("it lacks CAP_BPF", errno=errno.EPERM)
ITEMS = ["file", "anon"]


@pytest.fixture
def choosing(
    source: FakeTree, v2: Path, opened: Callable[[Path], Cgroup], monkeypatch: pytest.MonkeyPatch
) -> list[Request]:
    """A reader is made on *source*; what is asked for beyond that, is got, and listed here."""
    choose = _choose.choose
    asked: list[Request] = []

    def choose_first(cgroup: Cgroup, request: Request, maker: Any) -> Selection[Any]:
        if not source.walks:
            names = request.names or NAMES
            return Selection(source, names, "core", "shared", "kfunc: no such function")
        asked.append(request)
        assert cgroup is source.root
        return choose(cgroup, request, maker)

    source.root = opened(v2)
    monkeypatch.setattr(_choose, "choose", choose_first)
    return asked


def test_a_reader_that_lost_its_rights_reads_text(
    choosing: list[Request], v2: Path, source: FakeTree
) -> None:
    before = open_files()
    with TreeReader(v2, ITEMS, flush=False) as tree:
        assert (tree.backend, tree.transport) == ("core", "shared")
        assert values_of(tree.read()) == VALUES
        view = tree.read(copy=False)
        source.error = REFUSED
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
def test_what_was_asked_for_by_name_is_not_replaced(
    asked: dict[str, Any], choosing: list[Request], v2: Path, source: FakeTree
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
        *(MemcgError("short", errno=number) for number in SHORT),
        *(BpfPermissionError("short", errno=number) for number in SHORT),
        *(OSError(number, "short") for number in SHORT),
        BackendUnavailableError("no", errno=errno.EPERM),
        VerifierError("no", errno=errno.EACCES),
        CgroupPermissionError("no", errno=errno.EACCES),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.errno}",
)
def test_what_passes_is_no_reason_to_read_as_text(
    error: OSError, choosing: list[Request], v2: Path, source: FakeTree
) -> None:
    with TreeReader(v2, ITEMS) as tree:
        source.error = error
        for _ in range(2):
            with pytest.raises(MemcgError) as caught:
                tree.read()
            assert caught.value.errno == error.errno
        source.error = None
        assert values_of(tree.read()) == VALUES
        assert tree.backend == "core"
    assert choosing == []


@pytest.mark.parametrize("lack", ["item", "rights"])
def test_rights_lost_where_text_cannot_serve(
    lack: str, choosing: list[Request], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
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


def test_rights_lost_with_the_cgroup(choosing: list[Request], v2: Path, source: FakeTree) -> None:
    with TreeReader(v2, ITEMS) as tree:
        source.error = REFUSED
        shutil.rmtree(v2)
        with pytest.raises(CgroupRemovedError):
            tree.read()
        assert tree.backend == "core"


def test_rights_lost_in_a_shortage_of_files(
    choosing: list[Request], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
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


def test_a_reader_that_is_closed_while_it_turns_to_text_stays_closed(
    choosing: list[Request], v2: Path, source: FakeTree, monkeypatch: pytest.MonkeyPatch
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


# --- closing --------------------------------------------------------------------------


def test_use_after_close(v2: Path, trees: Trees, source: FakeTree) -> None:
    tree = TreeReader(v2)
    tree.close()
    for by_copy in (True, False):
        with pytest.raises(ClosedError, match="closed") as caught:
            tree.read(copy=by_copy)
        assert str(v2) in str(caught.value)
        assert isinstance(caught.value, ValueError)
    assert source.walks == 0


def test_close_twice(v2: Path, trees: Trees, source: FakeTree) -> None:
    tree = TreeReader(v2)
    tree.close()
    tree.close()
    assert source.closes == 1


def test_with(v2: Path, trees: Trees, source: FakeTree) -> None:
    with pytest.raises(ZeroDivisionError), TreeReader(v2) as tree:
        assert isinstance(tree, TreeReader)
        tree.read()
        _ = 1 // 0
    assert source.closes == 1
    with pytest.raises(ClosedError):
        tree.read()


def test_a_closed_reader_can_still_be_asked_what_it_was(v2: Path, trees: Trees) -> None:
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


def test_threads_share_one_reader_and_walk_one_at_a_time(
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


def test_close_while_others_read(v2: Path, trees: Trees, source: FakeTree) -> None:
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


def test_a_signal_handler_s_read_in_the_middle_of_one_is_a_clear_error(
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


def test_a_thread_that_waits_its_turn_is_not_refused(
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


def ended(work: Callable[[], None]) -> int:
    """Runs *work* in a forked child; returns its exit status."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a deadlock ends by this
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(tree: TreeReader) -> int:
    """Reads in a forked child; returns its exit status."""

    def work() -> None:
        assert values_of(tree.read()) == values_of(tree.read(copy=False)) == VALUES

    return ended(work)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads(v2: Path, trees: Trees) -> None:
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
def test_a_child_s_own_view_is_good_in_the_child(v2: Path, trees: Trees) -> None:
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
