# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""list_pins() and describe(), on directories that look like a bpffs."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pymemcgbpf import (
    MemcgError,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    StreamError,
    TreeTooLargeError,
)
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._pins import find
from pymemcgbpf._pins import pin_stream as _pin_stream
from pymemcgbpf._pins import tree_layout as _layout

from ...published_tree import ANON, PGSCAN, PublishedTree
from ..conftest import RunPython
from ..pin_files import ROW, TREE, TREE_NAMES, pinned_file, pinned_tree, stream
from ..tree_rows import pack

SECOND = 1_000_000_000
BY_KERNEL = _layout.BY_KERNEL | _layout.HAS_NAMES


@pytest.fixture(autouse=True)
def invisible(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The cgroups that are visible here: none, until a test adds some."""
    visible: dict[int, str] = {}

    def find_cgroup(cgroup_id: int) -> Any:
        return (visible[cgroup_id], 1) if cgroup_id in visible else None

    monkeypatch.setattr(_mounts, "find_cgroup", find_cgroup)
    return visible


def by_kernel(path: Path, seconds_ago: float = 0, **options: Any) -> PublishedTree:
    """A pinned tree that the kernel refreshes, with the files of one walk."""
    tree = PublishedTree(flags=BY_KERNEL, **options)
    began = time.monotonic_ns() - round(seconds_ago * SECOND)
    tree.publish(pack(*TREE), TREE_NAMES, started_ns=began)
    tree.set("walks", 4)
    tree.set("walks_ns", SECOND // 100)
    with_timer(path, tree)
    return tree


def with_timer(path: Path, tree: PublishedTree) -> None:
    pinned_file(pinned_tree(path, tree) / "timer", b"")


def paths(bpffs: Path) -> list[str]:
    """The pins below a directory, by their paths in it."""
    return [os.path.relpath(pin.path, bpffs) for pin in find.list_pins(bpffs).pins]


def test_a_tree_that_the_kernel_refreshes(bpffs: Path) -> None:
    tree = by_kernel(bpffs / "all", 0.5)
    (pin,) = find.list_pins(bpffs).pins
    assert pin.age is not None and 0.5 <= pin.age < 60
    assert pin._replace(age=None) == find.FoundPin(
        path=str(bpffs / "all"),
        kind="tree",
        order="pre",
        item_names=("anon", "pgscan"),
        root_id=10,
        cgroup="/sys/fs/cgroup/root",
        refreshed_by="kernel",
        interval=1.0,
        age=None,
        duration=1e-6,
        share=0.0025,
        cgroups=4,
        memory=tree.division.size,
        state="alive",
        advice="",
    )


def test_a_tree_that_a_process_refreshes_at_no_interval(bpffs: Path) -> None:
    tree = PublishedTree(interval_ns=0)
    tree.publish(pack(*TREE), TREE_NAMES, started_ns=1)
    pinned_tree(bpffs / "all", tree)
    (pin,) = find.list_pins(bpffs).pins
    assert (pin.refreshed_by, pin.interval, pin.share, pin.state) == ("holder", None, None, "alive")


def test_a_tree_without_names_has_the_path_that_is_visible_here(
    bpffs: Path, invisible: dict[int, str]
) -> None:
    tree = PublishedTree(flags=0)
    tree.publish(pack(*TREE), root_path=b"")
    pinned_tree(bpffs / "all", tree)
    assert find.list_pins(bpffs).pins[0].cgroup is None
    invisible[10] = "/cgroup/it"
    assert find.list_pins(bpffs).pins[0].cgroup == "/cgroup/it"


def test_one_cgroup_and_a_walk_are_read(bpffs: Path, invisible: dict[int, str]) -> None:
    invisible[9] = "/cgroup/nine"
    pinned_file(bpffs / "one", stream([ROW]))
    pinned_file(bpffs / "post", stream([*reversed(TREE)], 3))
    pinned_file(bpffs / "children", stream(TREE[1:3], 5))
    pinned_file(bpffs / "none", stream([], 5))
    children, none, one, post = find.list_pins(bpffs).pins
    assert (one.kind, one.order, one.root_id, one.cgroup) == ("cgroup", "self", 9, "/cgroup/nine")
    assert (one.refreshed_by, one.interval, one.age, one.share) == ("read", None, 0.0, None)
    assert (one.cgroups, one.memory, one.state, one.item_names) == (
        *(1, 0, "alive"),
        ("anon", "pgscan"),
    )
    assert one.duration is not None and one.duration > 0
    assert (post.kind, post.root_id, post.cgroups, post.cgroup) == ("walk", 10, 4, None)
    assert (children.kind, children.root_id, children.cgroups) == ("walk", 10, 2)
    assert (none.root_id, none.cgroups, none.state) == (0, 0, "alive")


def test_a_pin_whose_cgroup_was_removed_or_that_is_too_small(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pinned_file(bpffs / "it", stream([], 2))
    gone = find.describe(path)

    def read(_: object) -> NoReturn:
        raise TreeTooLargeError("it does not fit")

    monkeypatch.setattr(_pin_stream.PinFile, "read", read)
    large = find.describe(path)
    assert (gone.state, gone.cgroups, gone.advice) == (
        *("removed", None),
        "its cgroup was removed: unpin it",
    )
    assert (large.state, large.cgroups, large.age) == ("too large", None, None)
    assert large.advice.endswith("pin it again with --tree")


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (_layout.REMOVED, "removed"),
        (_layout.TOO_LARGE, "too large"),
        (_layout.ENDED, "ended"),
        (77, "incomplete"),
    ],
)
def test_the_state_of_a_tree(number: int, state: str, bpffs: Path) -> None:
    tree = by_kernel(bpffs / "all")
    tree.set("state", number)
    with_timer(bpffs / "all", tree)
    (pin,) = find.list_pins(bpffs).pins
    assert pin.state == state and "unpin it" in pin.advice
    assert pin.cgroups == 4


def test_a_tree_before_its_first_walk(bpffs: Path) -> None:
    with_timer(bpffs / "all", PublishedTree(flags=BY_KERNEL))
    (pin,) = find.list_pins(bpffs).pins
    assert (pin.state, pin.age, pin.duration, pin.cgroups) == ("new", None, None, None)
    assert pin.cgroup is None and pin.share is None


def test_a_tree_is_stale_after_three_intervals(bpffs: Path) -> None:
    by_kernel(bpffs / "a", 2)
    by_kernel(bpffs / "b", 4)
    fresh, stale = find.list_pins(bpffs).pins
    assert (fresh.state, stale.state) == ("alive", "stale")
    assert "unpin it" in stale.advice


def test_the_last_walk_says_when_the_next_one_is_due(bpffs: Path) -> None:
    tree = by_kernel(bpffs / "all", 10)
    tree.set("walks_ns", 40 * SECOND)  # 10 s on average; the last one took a microsecond
    with_timer(bpffs / "all", tree)
    assert find.list_pins(bpffs).pins[0].state == "stale"
    assert find.is_stale(3.1, 1, 0) and not find.is_stale(2.9, 1, 0)
    assert find.is_stale(121, 1, 10) and not find.is_stale(119, 1, 10)
    assert not find.is_stale(1e9, None, 0)


def test_walks_that_take_longer_than_the_interval_are_made_less_often(bpffs: Path) -> None:
    tree = by_kernel(bpffs / "all")
    began = time.monotonic_ns() - 4 * SECOND
    tree.publish(pack(*TREE), TREE_NAMES, started_ns=began, took_ns=SECOND)
    tree.set("walks_ns", 4 * SECOND)  # a second each
    with_timer(bpffs / "all", tree)
    (pin,) = find.list_pins(bpffs).pins
    assert (pin.state, pin.share) == ("alive", 0.25)


@pytest.mark.parametrize("missing", ["timer", "map"])
def test_a_tree_whose_creation_was_interrupted_is_incomplete(missing: str, bpffs: Path) -> None:
    by_kernel(bpffs / "all")
    (bpffs / "all" / missing).unlink()
    (pin,) = find.list_pins(bpffs).pins
    assert pin.state == "incomplete" and "unpin it" in pin.advice


def test_what_is_no_pin_is_skipped(bpffs: Path, tmp_path: Path) -> None:
    pinned_file(bpffs / "text", b"x" * 10_000)
    pinned_file(bpffs / "empty", b"")
    (bpffs / "empty_directory").mkdir()
    pinned_file(bpffs / "maps.debug", stream([ROW]))
    os.mkfifo(bpffs / "fifo")
    (bpffs / "loop").symlink_to(bpffs)
    pinned_file(tmp_path / "one", stream([ROW]))
    (bpffs / "link").symlink_to(tmp_path / "one")
    damaged = by_kernel(bpffs / "damaged")
    damaged.memory[0] = 0
    with_timer(bpffs / "damaged", damaged)
    assert find.list_pins(bpffs) == find.FoundPins([], 0)


def test_directories_are_searched(bpffs: Path) -> None:
    (bpffs / "a" / "b").mkdir(parents=True)
    pinned_file(bpffs / "a" / "b" / "one", stream([ROW]))
    by_kernel(bpffs / "a" / "tree")
    pinned_file(bpffs / "a" / "stream", stream([ROW]))  # no tree has such a stream
    assert paths(bpffs) == ["a/b/one", "a/stream", "a/tree"]
    assert paths(bpffs / "a" / "tree") == ["."]
    assert paths(bpffs / "a" / "stream") == ["."]


def test_a_bpffs_that_is_mounted_twice_is_searched_once(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_file(bpffs / "one", stream([ROW]))
    monkeypatch.setattr(find, "bpffs_mounts", lambda: [str(bpffs), str(bpffs)])
    assert len(find.list_pins().pins) == 1


def test_a_bpffs_that_something_is_mounted_over_is_not_searched(
    tmp_path: Path, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_file(tmp_path / "one", stream([ROW]))
    monkeypatch.setattr(find, "bpffs_mounts", lambda: [str(tmp_path), str(tmp_path / "none")])
    assert find.list_pins() == find.FoundPins([], 0)


def test_mounts_are_found_by_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "1 2 0:30 / /sys/fs/bpf rw shared:9 - bpf bpf rw",
        "2 2 0:31 / /run/x\\040bpf rw - bpf none rw",
        "3 2 0:32 / /bpf rw - tmpfs bpf rw",
        "",
    ]
    monkeypatch.setattr(find, "contents", lambda path: "\n".join(lines))
    assert find.bpffs_mounts() == ["/sys/fs/bpf", "/run/x bpf"]
    monkeypatch.setattr(find, "contents", lambda path: None)
    with pytest.raises(MemcgError, match=r"no pin can be looked for, because .*: mount /proc"):
        find.bpffs_mounts()


def test_what_this_user_may_not_read_is_counted(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        pinned_file(bpffs / name, stream([ROW]))
    (bpffs / "private").mkdir()
    read_pin, listdir = _bpffs.read_pin, os.listdir

    def refuse(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("b"):
            raise PinPermissionError("no")
        return read_pin(path, *arguments, **options)

    def refuse_list(path: Any) -> list[str]:
        if str(path).endswith("private"):
            raise PermissionError(errno.EACCES, "no")
        return listdir(path)

    monkeypatch.setattr(_bpffs, "read_pin", refuse)
    monkeypatch.setattr(os, "listdir", refuse_list)
    found = find.list_pins(bpffs)
    assert [os.path.basename(pin.path) for pin in found.pins] == ["a", "c"]
    assert found.unreadable == 2


def test_a_shortage_is_an_error_and_no_shorter_list(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned_file(bpffs / "one", stream([ROW]))

    def short(*_: object, **__: object) -> Any:
        raise MemcgError("short", errno=errno.EMFILE)

    monkeypatch.setattr(_bpffs, "read_pin", short)
    with pytest.raises(MemcgError, match="short"):
        find.list_pins(bpffs)


def test_only_a_bpffs_can_be_searched(bpffs: Path, tmp_path: Path) -> None:
    with pytest.raises(PinPathError, match="not on a bpffs, so there are no pins in it"):
        find.list_pins(tmp_path)
    with pytest.raises(PinNotFoundError):
        find.list_pins(bpffs / "none")
    with pytest.raises(PinPathError):
        find.list_pins("a\0b")


def test_one_pin_is_described_or_refused(bpffs: Path, tmp_path: Path) -> None:
    by_kernel(bpffs / "all")
    pinned_file(bpffs / "one", stream([ROW]))
    pinned_file(bpffs / "text", b"x" * 100)
    assert find.describe(bpffs / "all").kind == "tree"
    assert find.describe(bpffs / "one").kind == "cgroup"
    for path, error in (
        (bpffs / "none", PinNotFoundError),
        (bpffs / "text", StreamError),
        (bpffs, PinNotFoundError),  # a directory without a stream
        (tmp_path, PinPathError),
    ):
        with pytest.raises(error):
            find.describe(path)


def test_an_item_of_a_newer_version_has_its_number(bpffs: Path) -> None:
    pinned_file(bpffs / "one", stream([ROW], items=(ANON, 9999)))
    assert find.describe(bpffs / "one").item_names == ("anon", "#9999")
    tree = PublishedTree(items=(PGSCAN, 9999))
    pinned_tree(bpffs / "all", tree)
    assert find.describe(bpffs / "all").item_names == ("pgscan", "#9999")


def test_a_head_is_read_again_if_a_walk_was_published_meanwhile(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = by_kernel(bpffs / "all")
    tree.word(1, tree.number + 1)  # published, it seems, but its half has another number
    with_timer(bpffs / "all", tree)
    read_pin = _bpffs.read_pin
    reads = []

    def read(*arguments: Any, **options: Any) -> Any:
        reads.append(1)
        if len(reads) == 3:
            tree.publish(pack(*TREE), TREE_NAMES)
            with_timer(bpffs / "all", tree)
        return read_pin(*arguments, **options)

    monkeypatch.setattr(_bpffs, "read_pin", read)
    (pin,) = find.list_pins(bpffs).pins
    assert len(reads) == 3 and pin.cgroups == 4


def test_pins_are_listed_without_ctypes(run_python: RunPython, tmp_path: Path) -> None:
    pinned_file(tmp_path / "one", stream([ROW]))
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "from pymemcgbpf._pins import bpffs as _bpffs, find\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "print([pin.kind for pin in find.list_pins('one').pins])\n"
    )
    ran = run_python("-c", code)
    assert (ran.stdout, ran.stderr) == ("['cgroup']\n", "")
