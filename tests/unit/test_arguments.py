# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Arguments of a wrong type: each is a TypeError that names the argument."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    PinnedReader,
    Snapshot,
    StatsReader,
    TreeReader,
    cgroup_of,
    clear_cache,
    list_items,
    pin,
    pin_tree,
    read_stats,
    unknown_keys,
    unpin,
)

from .pin_files import ROW, pinned_file, stream

pytestmark = pytest.mark.usefixtures("on_bpffs")


class Calls:
    """What takes arguments, on the directory of a cgroup and on what was made of it."""

    def __init__(self, v2: Path, pinned: Path) -> None:
        self.v2 = v2
        self.stats = StatsReader(v2, ["anon"], backend="text")
        self.tree = TreeReader(v2, ["anon"], backend="text")
        self.pinned = PinnedReader(pinned)
        snapshot = self.tree.read()
        assert isinstance(snapshot, Snapshot)
        self.snapshot = snapshot
        self.new = pinned.with_name("new")

    def close(self) -> None:
        for each in (self.stats, self.tree, self.pinned):
            each.close()
        clear_cache()


@pytest.fixture
def calls(v2: Path, tmp_path: Path) -> Iterator[Calls]:
    made = Calls(v2, pinned_file(tmp_path / "pin", stream([ROW])))
    yield made
    made.close()


Call = Callable[[Calls, Any], object]

INTEGERS: list[tuple[str, Call]] = [
    ("max_depth", lambda its, given: TreeReader(its.v2, max_depth=given)),
    ("max_rows", lambda its, given: TreeReader(its.v2, max_rows=given)),
    ("n", lambda its, given: its.snapshot.top("anon", given)),
    ("absent", lambda its, given: its.snapshot.column("anon", given)),
    ("pid", lambda its, given: cgroup_of(given)),
    ("fd", lambda its, given: PinnedReader.from_fd(given)),
    ("mode", lambda its, given: pin(its.v2, its.new, mode=given)),
    ("mode", lambda its, given: pin_tree(its.v2, its.new, mode=given)),
    ("max_depth", lambda its, given: pin_tree(its.v2, its.new, max_depth=given)),
    ("room", lambda its, given: pin_tree(its.v2, its.new, room=given)),
]
NUMBERS: list[tuple[str, Call]] = [
    ("seconds", lambda its, given: its.stats.every(given)),
    ("seconds", lambda its, given: its.tree.every(given)),
    ("seconds", lambda its, given: its.pinned.every(given)),
    ("timeout", lambda its, given: its.pinned.wait(given)),
    ("every", lambda its, given: pin_tree(its.v2, its.new, every=given)),
]
SWITCHES: list[tuple[str, Call]] = [
    ("flush", lambda its, given: StatsReader(its.v2, flush=given)),
    ("flush", lambda its, given: TreeReader(its.v2, flush=given)),
    ("flush", lambda its, given: read_stats(its.v2, flush=given)),
    ("flush", lambda its, given: pin(its.v2, its.new, flush=given)),
    ("flush", lambda its, given: pin_tree(its.v2, its.new, flush=given)),
    ("names", lambda its, given: pin_tree(its.v2, its.new, names=given)),
    ("copy", lambda its, given: its.tree.read(copy=given)),
    ("copy", lambda its, given: its.tree.every(1, copy=given)),
    ("identity", lambda its, given: its.snapshot.dicts(identity=given)),
]
PATHS: list[tuple[str, Call]] = [
    ("cgroup_path", lambda its, given: StatsReader(given)),
    ("cgroup_path", lambda its, given: TreeReader(given)),
    ("cgroup_path", lambda its, given: read_stats(given)),
    ("cgroup_path", lambda its, given: list_items(given)),
    ("cgroup_path", lambda its, given: unknown_keys(given)),
    ("pin_path", lambda its, given: pin(its.v2, given)),
    ("pin_path", lambda its, given: pin_tree(its.v2, given)),
    ("pin_path", lambda its, given: unpin(given)),
    ("pin_path", lambda its, given: PinnedReader(given)),
    ("path", lambda its, given: its.snapshot.find(given)),
]
A_PATH = "a path (str, bytes or os.PathLike)"
CASES = [
    *((*each, "an integer", ["x", b"1", 1.5, [], object()]) for each in INTEGERS),
    *((*each, "a number", ["x", b"1", [], None]) for each in NUMBERS),
    *((*each, "True or False", ["no", 0, 1, None, []]) for each in SWITCHES),
    *((*each, A_PATH, [1, 1.5, [], object()]) for each in PATHS),
]


@pytest.mark.parametrize(("name", "call", "what", "wrong"), CASES)
def test_an_argument_of_a_wrong_type_is_named(
    name: str, call: Call, what: str, wrong: list[object], calls: Calls
) -> None:
    for given in wrong:
        if name == "timeout" and given is None:
            continue  # for ever
        says = f"^{name} must be {re.escape(what)}, not {re.escape(repr(given))}$"
        with pytest.raises(TypeError, match=says):
            call(calls, given)


@pytest.mark.parametrize(("name", "call"), [*INTEGERS, *NUMBERS])
@pytest.mark.parametrize("given", [True, False])
def test_a_bool_is_no_number(name: str, call: Call, given: bool, calls: Calls) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be an? \\w+, not the bool {given}$"):
        call(calls, given)


def test_every_kind_of_number_is_one(calls: Calls) -> None:
    class Index:
        def __index__(self) -> int:
            return 1

    index: Any = Index()
    assert len(calls.snapshot.top("anon", index)) == 1
    TreeReader(calls.v2, max_depth=index, max_rows=index, backend="text").close()
    for seconds in (1, 0.5, Fraction(1, 2), Decimal("0.5")):
        interval: Any = seconds
        calls.stats.every(interval)


def test_what_cannot_be_the_name_of_an_item_was_not_read(calls: Calls) -> None:
    wrong: list[Any] = [None, 1, [], {}]
    for given in wrong:
        for read in (calls.snapshot.column, calls.snapshot.top):
            with pytest.raises(KeyError, match="was not read: this snapshot has anon"):
                read(given)
