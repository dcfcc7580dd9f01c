# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The paths of rows, from the names that a fake walk writes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymemcgbpf import _wire
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.walk_paths import WalkPaths
from pymemcgbpf._sources.tree_paths import NameRoom, TreePaths, WrittenNames

from ..tree_rows import NamedRow, pack, write_names

ROOT = 1000
ROOT_PATH = os.path.dirname(__file__)
WIDTH = 4  # words of a row with one item


class Node:
    """A cgroup of the fake kernel."""

    def __init__(self, cgroup_id: int, parent: Optional[Node], name: str) -> None:
        self.id, self.parent, self.name, self.renames = cgroup_id, parent, name, 0
        self.children: list[Node] = []
        self.has_row = True

    @property
    def path(self) -> str:
        return ROOT_PATH if self.parent is None else f"{self.parent.path}/{self.name}"

    @property
    def row(self) -> NamedRow:
        tag = self.renames << _wire.ROW_TAG_SHIFT
        return NamedRow(self.id, self.parent.id if self.parent else 1, tag, self.name)


class Kernel:
    """A tree of cgroups, and a reader's walks through it.

    Attributes:
        walks: how many walks the last read took.
        named: how many names they wrote.
    """

    def __init__(self, order: str, version: int = 2, room: int = 1) -> None:
        self.root = Node(ROOT, None, "root")
        self.nodes = {ROOT: self.root}
        self.next_id = ROOT + 1
        self.order = order
        cgroup = Cgroup(ROOT_PATH, -1, (os.stat(ROOT_PATH).st_dev, ROOT), version, False)
        self.paths = TreePaths(cgroup, order)
        self.make_room(room)
        self.walks = self.named = 0

    def make_room(self, names: int, name_size: int = 1) -> None:
        self.room = NameRoom.for_names(names, name_size)
        self.memory = mmap.mmap(-1, self.room.map_size.value_size)

    def create(self, parent: Node, name: str) -> Node:
        node = Node(self.next_id, parent, name)
        self.next_id += 1
        parent.children.append(node)
        self.nodes[node.id] = node
        return node

    def remove(self, node: Node) -> None:
        assert node.parent is not None and not node.children
        node.parent.children.remove(node)
        del self.nodes[node.id]

    def walked(self, node: Optional[Node] = None) -> Iterator[Node]:
        node = node or self.root
        if self.order == "pre":
            yield node
        for child in node.children:
            if self.order == "children":
                yield child
            else:
                yield from self.walked(child)
        if self.order == "post":
            yield node

    def rows(self) -> list[Node]:
        return [node for node in self.walked() if node.has_row]

    def read(self) -> WalkPaths:
        """Does what MapSource.walk() does with names."""
        self.walks = self.named = 0
        while True:
            self.walks += 1
            assert self.walks < 10, "it never ends"
            self.paths.begin(self.memory)
            rows = [node.row for node in self.rows()]
            write_names(self.memory, self.room.constants(self.paths.can_rename), rows)
            unchanged = self.paths.unchanged(self.memory, len(rows))
            if unchanged is not None:
                return unchanged
            written = WrittenNames.of(self.memory)
            self.named += written.nr_names
            if not self.room.holds(written):
                self.make_room(max(len(rows), written.nr_names), written.name_size)
                continue
            data = pack(*(_wire.RawRow(row[0], row[1], 1, row[2], (0,)) for row in rows))
            memory = mmap.mmap(-1, len(data) + 1)
            memory[: len(data)] = data
            paths = self.paths.of_walk(memory, len(rows), WIDTH, self.memory, written, self.room)
            if paths is not None:
                return paths

    def expected(self) -> tuple[str, ...]:
        return tuple(node.path for node in self.rows())


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_every_row_has_its_path(order: str) -> None:
    kernel = Kernel(order)
    first = kernel.create(kernel.root, "a b")
    kernel.create(kernel.create(first, os.fsdecode(b'\xff\\"\n')), "x" * 255)
    kernel.create(kernel.root, "é")
    found = kernel.read()
    assert found.paths == kernel.expected()
    assert found.root == ROOT_PATH
    assert found.device == os.stat(ROOT_PATH).st_dev


def test_a_tree_that_did_not_change_costs_nothing() -> None:
    kernel = Kernel("pre", room=100)
    kernel.create(kernel.root, "a")
    first = kernel.read()
    assert (kernel.walks, kernel.named) == (1, 2)
    for _ in range(2):
        assert kernel.read() is first
        assert (kernel.walks, kernel.named) == (1, 0)


def test_only_new_cgroups_are_named() -> None:
    kernel = Kernel("pre", room=100)
    for at in range(10):
        kernel.create(kernel.root, f"c{at}")
    first = kernel.read()
    kernel.remove(kernel.root.children[0])
    kernel.create(kernel.root, "c0")
    second = kernel.read()
    assert second.paths == kernel.expected() and second is not first
    assert second.origin is first.origin
    assert (kernel.walks, kernel.named) == (1, 1)
    assert [a is b for a, b in zip(first.paths[2:], second.paths[1:])] == [True] * 9, "not copied"


def test_a_cgroup_that_had_no_row_before_is_named_by_a_second_walk() -> None:
    kernel = Kernel("pre", room=100)
    hidden = kernel.create(kernel.root, "hidden")
    hidden.has_row = False
    kernel.create(kernel.root, "newer")
    assert kernel.read().paths == kernel.expected()
    hidden.has_row = True
    assert kernel.read().paths == kernel.expected()
    assert kernel.walks == 2
    kernel.read()
    assert (kernel.walks, kernel.named) == (1, 0)


def test_the_path_of_a_cgroup_whose_parent_has_no_row_is_unknown() -> None:
    """Another cgroup's path would be the only other answer. The next walk asks again."""
    kernel = Kernel("pre", room=100)
    parent = kernel.create(kernel.root, "parent")
    kernel.create(parent, "child")
    parent.has_row = False
    assert kernel.read().paths == (ROOT_PATH, None)
    parent.has_row = True
    assert kernel.read().paths == kernel.expected()


def test_names_that_do_not_fit_are_written_again() -> None:
    kernel = Kernel("pre", room=1)
    for at in range(500):
        kernel.create(kernel.root, f"{at:0200}")
    assert kernel.read().paths == kernel.expected()
    assert kernel.walks == 2, "the first walk has told the size"


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_renamed_cgroup_and_those_below_have_new_paths(order: str) -> None:
    kernel = Kernel(order, 1, room=100)
    parent = kernel.create(kernel.root, "old")
    kernel.create(parent, "below")
    before = kernel.read().paths
    parent.name, parent.renames = "new", 1
    kernel.create(kernel.root, "old")
    assert kernel.read().paths == kernel.expected() != before
    assert kernel.walks == 2
    kernel.read()
    assert (kernel.walks, kernel.named) == (1, 0)


def test_an_interrupted_walk_does_not_harm_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("pre", room=100)
    kernel.create(kernel.root, "a")
    kernel.read()
    kernel.create(kernel.root, "b")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TreePaths, "_learn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kernel.read()
    assert kernel.read().paths == kernel.expected()


def test_what_is_remembered_is_bounded_by_the_tree() -> None:
    kernel = Kernel("pre", 1, room=100)
    for at in range(50):
        nodes = [kernel.create(kernel.root, f"{at}-{each}") for each in range(20)]
        assert kernel.read().paths == kernel.expected()
        for node in nodes:
            kernel.remove(node)
    assert len(kernel.paths._path_of) <= 2 * 21 + 64
    assert len(kernel.paths._tags) <= 2 * 21 + 64


def test_a_cgroup_that_was_renamed_while_it_had_no_row_has_its_new_path() -> None:
    kernel = Kernel("pre", 1)
    node = kernel.create(kernel.root, "a")
    kernel.create(node, "b")
    kernel.read()
    node.has_row = False
    kernel.read()
    node.name, node.renames, node.has_row = "renamed", 1, True
    assert kernel.read().paths == kernel.expected()


def test_a_walk_without_rows_is_never_taken_for_unchanged() -> None:
    kernel = Kernel("children", room=100)
    assert kernel.read().paths == ()
    assert kernel.paths.unchanged(kernel.memory, 0) is None  # its root may have been removed
    kernel.create(kernel.root, "a")
    found = kernel.read()
    assert kernel.paths.unchanged(kernel.memory, 1) is found
    assert kernel.paths.unchanged(kernel.memory, 2) is None


def test_a_root_directory_has_one_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("pre", room=100)
    kernel.create(kernel.create(kernel.root, "a"), "b")
    kernel.paths._root.path = "/"
    kernel.paths._forget()
    assert kernel.read().paths == ("/", "/a", "/a/b")


def test_paths_upwards_end_at_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "mount", tmp_path / "mount/a", tmp_path / "mount/a/b"):
        path.mkdir()
        (path / "memory.stat").touch()
    leaf = tmp_path / "mount/a/b"
    link = tmp_path / "link"
    link.symlink_to(leaf)
    status = os.stat(leaf)
    for given_path in (leaf, link):
        cgroup = Cgroup(str(given_path), -1, (status.st_dev, status.st_ino), 2, False)
        paths = TreePaths(cgroup, "up")
        room = NameRoom.for_names(4)
        memory, rows = (mmap.mmap(-1, 4096) for _ in range(2))
        above = (str(leaf.parent), str(tmp_path / "mount"))
        for count in (1, 3, 4):
            paths.begin(memory)
            met = [NamedRow(cgroup_id, 0, 0, "n") for cgroup_id in range(1, count + 1)]
            write_names(memory, room.constants(False), met)
            written = WrittenNames.of(memory)
            found = paths.of_walk(rows, count, WIDTH, memory, written, room)
            assert found is not None
            assert found.paths == (str(leaf), *above, None)[:count]


names = st.text(st.sampled_from("ab\xe9"), min_size=1, max_size=3)


@settings(max_examples=200)
@given(st.sampled_from(["pre", "post", "children"]), st.sampled_from([1, 2]), st.data())
def test_no_storm_gives_a_wrong_path(order: str, version: int, data: st.DataObject) -> None:
    kernel = Kernel(order, version)
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(0, 8))):
            node = data.draw(st.sampled_from(list(kernel.nodes.values())))
            action = data.draw(st.sampled_from(["create", "create", "remove", "rename", "hide"]))
            name = data.draw(names)
            taken = {each.name for each in (node.parent or node).children}
            if action == "create" and name not in {each.name for each in node.children}:
                kernel.create(node, name)
            elif action == "remove" and node is not kernel.root and not node.children:
                kernel.remove(node)
            elif action == "rename" and version == 1 and node.parent and name not in taken:
                node.name, node.renames = name, node.renames + 1
            elif action == "hide" and node is not kernel.root and not node.children:
                node.has_row = not node.has_row
        for node in kernel.nodes.values():  # a parent of a row has a row
            if node.children:
                node.has_row = True
        assert kernel.read().paths == kernel.expected()
        assert kernel.walks <= 3
