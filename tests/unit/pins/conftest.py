# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What several tests of pins need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from pymemcgbpf import PinnedReader
from pymemcgbpf._descriptors import Owned, opened_at
from pymemcgbpf._pins import tree_map as _tree_map

from ...published_tree import PublishedTree
from ..pin_files import pinned_tree, published


@pytest.fixture(autouse=True)
def _readers_may_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests make readers in passing. What caught an exception keeps some of them until garbage
    is collected, in whatever test that is."""
    monkeypatch.setattr(PinnedReader, "_is_to_be_closed", lambda reader: None)


class MappedTrees:
    """Directories of pinned trees whose maps are memory of this process.

    Attributes:
        windows: the parts of maps that were mapped: their first byte and their size.
        opened: how often a map was opened.
        error: what opening a map raises.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._trees: dict[str, PublishedTree] = {}
        self._of_descriptor: dict[int, PublishedTree] = {}
        self.windows: list[tuple[int, int]] = []
        self.opened = 0
        self.error: Optional[BaseException] = None
        monkeypatch.setattr(_tree_map, "_open_object", self._open)
        monkeypatch.setattr(_tree_map, "_map_size", self._size)
        monkeypatch.setattr(_tree_map, "map_window", self._window)

    def add(self, tree: PublishedTree, name: str = "tree") -> Path:
        """Makes the directory of a tree that has at least one walk."""
        path = pinned_tree(self._folder / name, tree)
        self._trees[str(path / "map")] = tree
        return path

    def register(self, fd: int, tree: PublishedTree) -> None:
        """Makes a descriptor one of a tree's map."""
        self._of_descriptor[fd] = tree

    def _open(self, path: str, name: str) -> Owned:
        if self.error is not None:
            raise self.error
        self.opened += 1
        owned = opened_at(path, os.O_RDONLY)
        self._of_descriptor[owned.fileno()] = self._trees[name]
        return owned

    def _size(self, fd: int, path: str) -> tuple[int, int]:
        division = self._of_descriptor[fd].division
        return division.chunk_size, division.chunks

    def _window(self, fd: int, start: int, size: int) -> memoryview:
        assert start % 4096 == size % 4096 == 0
        self.windows.append((start, size))
        memory = self._of_descriptor[fd].memory
        assert start + size <= len(memory)
        return memory[start : start + size].toreadonly()


@pytest.fixture
def mapped(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> MappedTrees:
    """Pinned trees whose maps can be mapped."""
    return MappedTrees(bpffs, monkeypatch)


@pytest.fixture
def tree() -> PublishedTree:
    """A tree of four cgroups, of which one walk is published."""
    return published()
