# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Trees by `core` and `run`: a walk in many pieces, between which cgroups come, go and are renamed.

Every cgroup that lives throughout is in the walk exactly once, below its parent, wherever the walk
was when others went.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, ClassVar, Optional

import pytest

from pymemcgbpf import BackendUnavailableError, TreeReader
from pymemcgbpf._bpf import walk_dir as _walk_dir

from .cgroups import cgroup, enable_memory, processes, remove
from .forest import Forest, forest, storm
from .surroundings import HAS_ITERATOR, IN_LAB, RUN_BACKENDS, VERSION
from .test_tree_storms import check, swell
from .ways import BY_DIRECTORY, TEXT

ORDERS = ("self", "pre", "post", "up", "children")
SECONDS = 2.0
LEAST_WALKS = 2 if IN_LAB else 20
# One suffices, unless the machine is busy with other things.
MOST_STORMS = 5

Pieces = Callable[[int], None]

if "core" not in RUN_BACKENDS:
    pytest.skip("this kernel runs no such program", allow_module_level=True)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    """Lets the readers that are made next walk in pieces of so many steps."""

    def of(steps: int) -> None:
        monkeypatch.setattr(_walk_dir, "LONGEST_NS", 0)
        monkeypatch.setattr(_walk_dir, "STEPS_AT_ONCE", steps)

    return of


@pytest.fixture(scope="module")
def quiet() -> Iterator[Forest]:
    """Cgroups that stay."""
    with forest(6, 5) as made:
        yield made


def by_directory(path: Path, **options: Any) -> TreeReader:
    """A reader that walks by this program."""
    return BY_DIRECTORY.tree(path, ["shmem"], flush=False, **options)


def rows_of(tree: TreeReader, quiet: Forest) -> list[tuple[object, ...]]:
    """What the rows of a walk say, and of cgroups where nothing happens, the number."""
    return [
        (row.id, row.parent_id, row.level, row.path, row.id in quiet.paths and row["shmem"])
        for row in tree.read()
    ]


def calls_of(tree: TreeReader) -> list[int]:
    """Counts the calls of the program for each walk of a reader from now on."""
    walker: Any = tree._source._walker  # type: ignore[union-attr]
    begin, resume = walker._begin, walker._resume
    calls: list[int] = []

    def beginning() -> int:
        calls.append(1)
        return begin()  # type: ignore[no-any-return]

    def resuming() -> int:
        calls[-1] += 1
        return resume()  # type: ignore[no-any-return]

    walker._begin, walker._resume = beginning, resuming
    return calls


# --- nothing changes ------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("max_depth", [None, 0, 1, 2])
def test_the_rows_are_the_same_in_pieces_of_any_size(
    quiet: Forest, pieces: Pieces, order: str, max_depth: Optional[int]
) -> None:
    depth = None if order in ("self", "up", "children") else max_depth
    with TEXT.tree(quiet.root, ["shmem"], order=order, max_depth=depth) as text:
        expected = rows_of(text, quiet)
    for steps in (1, 2, 3, 7, 64):
        pieces(steps)
        with by_directory(quiet.root, order=order, max_depth=depth) as tree:
            calls = calls_of(tree)
            for _ in range(2):
                assert rows_of(tree, quiet) == expected
            if order == "up":
                assert calls == [1, 1], "the ancestors are read at once"
            elif depth != 0:
                assert min(calls) >= len(expected) / steps - 1


def test_a_call_is_over_soon(quiet: Forest) -> None:
    """It takes a few calls to walk ten thousand cgroups, and one for a small tree."""
    with cgroup() as root:
        enable_memory(root)
        for number in range(100 if IN_LAB else 10000):
            (root / str(number)).mkdir()
        with by_directory(root) as tree, by_directory(quiet.root) as small:
            calls, calls_of_small = calls_of(tree), calls_of(small)
            assert len(tree.read()) == (101 if IN_LAB else 10001)
            assert len(small.read()) == len(quiet.paths)
        assert IN_LAB or (calls[0] >= 2 and calls_of_small == [1])


# --- one change, wherever the walk is -------------------------------------------------


class Garden:
    """A small tree, to which one thing happens in the middle of a walk."""

    # parent → children
    SHAPE: ClassVar = {
        "": ("a", "b", "c", "d"),
        "b": ("k", "l", "m"),
        "b/l": ("x", "y"),
        "d": ("z",),
    }

    def __init__(self, root: Path) -> None:
        self.root = root
        self.grow()

    def grow(self) -> None:
        """Makes what is missing."""
        for parent, children in self.SHAPE.items():
            enable_memory(self.root / parent)
            for name in children:
                (self.root / parent / name).mkdir(exist_ok=True)

    def ids(self) -> dict[str, int]:
        """The cgroups that there are now."""
        every = ["", *(f"{up}/{name}".lstrip("/") for up in self.SHAPE for name in self.SHAPE[up])]
        found = {}
        for path in every:
            with contextlib.suppress(FileNotFoundError):
                found[path] = (self.root / path).stat().st_ino
        return found


def without(*paths: str) -> Callable[[Path], None]:
    """Removes these, with all below them."""

    def change(root: Path) -> None:
        for path in paths:
            remove(root / path)

    return change


def again(*paths: str) -> Callable[[Path], None]:
    """Removes these and makes others of the same names, which come last in the lists."""

    def change(root: Path) -> None:
        without(*paths)(root)
        for path in paths:
            (root / path).mkdir()
            enable_memory((root / path).parent)

    return change


CHANGES: dict[str, Callable[[Path], None]] = {
    "a leaf goes": without("b/l/x"),
    "the last leaf goes": without("b/l/y"),
    "the first child goes": without("a"),
    "the last child goes": without("d"),
    "a subtree goes": without("b"),
    "a subtree in it goes": without("b/l"),
    "all children but one go": without("a", "b", "d"),
    "all children of one go": without("b/k", "b/l", "b/m"),
    "all go": without("a", "b", "c", "d"),
    "a leaf is made again": again("b/l/x"),
    "a subtree is made again": again("b"),
    "children are made again": again("a", "c", "d"),
}


@pytest.mark.parametrize("order", ["pre", "post", "children"])
@pytest.mark.parametrize("name", CHANGES)
def test_others_are_met_whatever_goes_wherever_the_walk_is(
    pieces: Pieces, order: str, name: str
) -> None:
    pieces(1)
    with cgroup() as root:
        garden = Garden(root)
        with by_directory(root, order=order) as tree:
            walker: Any = tree._source._walker  # type: ignore[union-attr]
            calls = calls_of(tree)
            tree.read()
            # In the lab each test has every other position, most of them with a pause.
            positions = range(1, calls[0] + 1)
            if IN_LAB:
                positions = positions[len(name) % 2 :: 2]
            for at in positions:
                for waits in (bool(at % 3),) if IN_LAB else (False, True)[1 - at % 2 :]:
                    garden.grow()
                    before = garden.ids()
                    resume, taken = walker._resume, 0

                    def change_once() -> int:
                        nonlocal taken
                        taken += 1
                        if taken == at:  # noqa: B023
                            CHANGES[name](root)
                            if waits:  # noqa: B023
                                until_freed()
                        return resume()  # type: ignore[no-any-return]  # noqa: B023

                    walker._resume = change_once
                    try:
                        snapshot = tree.read()
                    finally:
                        walker._resume = resume
                    after = garden.ids()
                    lives = {path: i for path, i in before.items() if after.get(path) == i}
                    check_lives(snapshot, lives, {*before.values(), *after.values()}, order)


def check_lives(snapshot: Any, lives: dict[str, int], known: set[int], order: str) -> None:
    """All that lived throughout were met once, below their parents."""
    ids = list(snapshot.ids)
    assert len(set(ids)) == len(ids), "a cgroup twice"
    assert set(ids) <= known
    rows = snapshot.by_id()
    parents = dict(zip(ids, snapshot.parent_ids))
    levels = {row.id: row.level for row in snapshot}
    for path, cgroup_id in lives.items():
        if order == "children" and (not path or "/" in path):
            assert cgroup_id not in rows
            continue
        assert cgroup_id in rows, f"{path} is missing"
        if path:
            above = lives[os.path.dirname(path)]
            assert parents[cgroup_id] == above
            if order != "children":
                assert levels[cgroup_id] == levels[above] + 1
                assert (ids.index(above) < ids.index(cgroup_id)) == (order == "pre")


def until_freed() -> None:
    """Waits until removed cgroups have left the lists, and their memory may be used again."""
    time.sleep(0.06)
    with cgroup() as other:
        for number in range(8):
            (other / str(number)).mkdir()


# --- storms ---------------------------------------------------------------------------


@pytest.mark.parametrize("searches", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", ["pre", "post"])
def test_storms_of_removal_between_small_pieces(
    quiet: Forest,
    pieces: Pieces,
    steps: int,
    order: str,
    searches: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces(steps)
    monkeypatch.setattr(_walk_dir, "SEARCHES", searches)
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    walks = met = 0
    with by_directory(quiet.root, order=order) as tree:
        for _ in range(MOST_STORMS):
            end = time.monotonic() + SECONDS
            with processes(
                lambda: storm([quiet.root, *groups[::2]], end),  # noqa: B023
                lambda: storm(groups[1::2], end),  # noqa: B023
                lambda: swell(groups[0], 40, end),  # noqa: B023
            ):
                while time.monotonic() < end:
                    snapshot = tree.read()
                    check_storm(snapshot, quiet, order)
                    met += len(snapshot) > len(quiet.paths)
                    walks += 1
            if met and walks >= LEAST_WALKS:
                break
    assert walks >= LEAST_WALKS
    assert met


def check_storm(snapshot: Any, quiet: Forest, order: str) -> None:
    check(snapshot, quiet, mutex_held=False)
    parents = dict(zip(snapshot.ids, snapshot.parent_ids))
    for cgroup_id, path in quiet.paths.items():
        if path != quiet.root:
            assert parents[cgroup_id] == path.parent.stat().st_ino


if VERSION == 1:  # a cgroup of v2 cannot be renamed

    def rename(parents: list[Path], deadline: float) -> None:
        """Renames the children of these forth and back."""
        while time.monotonic() < deadline:
            for parent in parents:
                for number in range(3):
                    one, other = parent / f"leaf-{number}", parent / f"other-{number}"
                    one.rename(other)
                    other.rename(one)

    @pytest.mark.parametrize("steps", [1, 64])
    def test_storms_of_renames(quiet: Forest, pieces: Pieces, steps: int) -> None:
        pieces(steps)
        groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
        walks = renamed = 0
        with by_directory(quiet.root) as tree:
            end = time.monotonic() + SECONDS
            with processes(
                lambda: rename(groups[::2], end),
                lambda: rename(groups[1::2], end),
                lambda: storm(groups[:1], end),
            ):
                while time.monotonic() < end:
                    snapshot = tree.read()
                    check_storm(snapshot, quiet, "pre")
                    for row in snapshot:
                        if row.id in quiet.paths:
                            path = str(quiet.paths[row.id])
                            names = {path, re.sub("leaf-([012])$", r"other-\1", path)}
                            assert row.path in names
                            renamed += row.path != path
                    walks += 1
            assert [row.path for row in tree.read()] == list(map(str, quiet.paths.values()))
        assert walks >= LEAST_WALKS
        assert renamed, "no other name was seen"


# --- deep trees -----------------------------------------------------------------------

LEVELS = 1023  # below the root of the walk


@pytest.fixture(scope="module")
def well() -> Iterator[tuple[Path, list[Path]]]:
    """A tree of one cgroup in each of more levels than the program can remember."""
    with cgroup() as root:
        paths = [root]
        try:
            for _ in range(LEVELS + 1):
                enable_memory(paths[-1])
                paths.append(paths[-1] / "w")
                paths[-1].mkdir()
            yield root, paths
        finally:
            for path in reversed(paths[1:]):
                path.rmdir()


def test_a_deep_tree_is_walked(well: tuple[Path, list[Path]], pieces: Pieces) -> None:
    root, paths = well
    ids = [path.stat().st_ino for path in paths[1:]]
    for steps in (64, 1):
        if steps == 1:
            pieces(100)
        with by_directory(root / "w") as tree:
            assert list(tree.read().ids) == ids
    with by_directory(paths[-1], order="up") as tree:
        assert list(tree.read().ids)[: len(paths)] == [*ids[::-1], root.stat().st_ino]
    with by_directory(root, max_depth=LEVELS) as tree:
        assert len(tree.read()) == LEVELS + 1


def test_a_tree_that_is_too_deep_is_read_otherwise(well: tuple[Path, list[Path]]) -> None:
    root, paths = well
    with pytest.raises(BackendUnavailableError, match="more than 1023 levels below") as caught:
        by_directory(root)
    assert "\n" not in str(caught.value)
    backend: Any = "core" if HAS_ITERATOR else "auto"
    with TreeReader(root, ["shmem"], flush=False, backend=backend) as tree:
        assert tree.transport == ("shared" if HAS_ITERATOR else "text")
        assert "max_depth of 1023" in tree.fallback_reason
        assert len(tree.read()) == len(paths)


def test_a_tree_that_becomes_too_deep_is_an_error_until_it_is_not(
    well: tuple[Path, list[Path]],
) -> None:
    root, paths = well
    with by_directory(root / "w") as tree:
        assert len(tree.read()) == LEVELS + 1
        enable_memory(paths[-1])
        (paths[-1] / "w").mkdir()
        try:
            with pytest.raises(BackendUnavailableError, match="more than 1023 levels below"):
                tree.read()
        finally:
            (paths[-1] / "w").rmdir()
        deadline = time.monotonic() + 20
        while True:  # a removed cgroup stays in the list until it is freed
            with contextlib.suppress(BackendUnavailableError):
                assert len(tree.read()) == LEVELS + 1
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
