# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times the readers of a pinned tree, which have no privileges, beside a TreeReader of root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pymemcgbpf import PinnedReader, Snapshot, TreeReader, pin_tree, unpin
from pymemcgbpf._bench import rounds as package
from tests.kernel.forest import forest
from tests.kernel.pins import CAN_FLUSH, NOBODY, bpffs

from . import runner, table
from .errors import BenchError
from .names import ALL, PINNED, PINNED_READ, PINNED_TREE_READER
from .runner import Contestant

_LEAVES = 99  # below each inner cgroup
_ITEMS: dict[str, Any] = {"3 items": ["memory.current", "anon", "file"], ALL: None}
_SECONDS = 600.0  # between two walks, so that none of them disturbs the others


def readers(sizes: Sequence[int], reads: int, rounds: int) -> tuple[list[table.Result], list[str]]:
    """Times all readers for each size of tree; returns their results, and notes about them."""
    entrants: list[Contestant] = []
    by = ""
    for size in sizes:
        with forest(size // (1 + _LEAVES), _LEAVES) as made, bpffs() as folder:
            for title, items in _ITEMS.items():
                with ExitStack() as stack:
                    pin = folder / "tree"
                    tree = stack.enter_context(
                        pin_tree(made.root, pin, items, every=_SECONDS, flush=CAN_FLUSH)
                    )
                    stack.callback(_removed, pin)
                    by = tree.refreshed_by
                    section = PINNED.format(len(made.paths), title)
                    here = list(
                        _contestants(section, made.root, pin, items, len(made.paths), stack)
                    )
                    runner.run(here, reads, rounds)
                    entrants += here
    note = f"pinned trees, refreshed by the {by}: best of {rounds} rounds of {reads} reads"
    return table.results(entrants), [note]


def _removed(pin: Path) -> None:
    if pin.exists():
        unpin(pin)


def _contestants(
    section: str, root: Path, pin: Path, items: Any, cgroups: int, stack: ExitStack
) -> Iterator[Contestant]:
    tree = stack.enter_context(TreeReader(root, items, flush=CAN_FLUSH))
    if len(tree.read()) != cgroups:
        raise BenchError("the tree has changed")

    def batch(reads: int) -> float:
        return runner.timed(tree.read)(reads) / cgroups

    yield Contestant(PINNED_TREE_READER, section, batch, None, PINNED_TREE_READER)
    for transport, name in PINNED_READ.items():
        reader = _Unprivileged(pin, transport, cgroups)
        stack.callback(reader.close)
        yield Contestant(name, section, reader.batch, None, PINNED_TREE_READER)


class _Unprivileged:
    """A process of user nobody that reads a pinned tree and says how long that took."""

    def __init__(self, pin: Path, transport: Any, cgroups: int) -> None:
        self._cgroups = cgroups
        ours, theirs = os.pipe(), os.pipe()
        self._child = os.fork()
        if not self._child:
            with contextlib.suppress(BaseException):
                os.close(ours[1])
                self._serve(ours[0], theirs[1], pin, transport)
            os._exit(1)
        os.close(ours[0])
        os.close(theirs[1])
        self._ask, self._answer = os.fdopen(ours[1], "w"), os.fdopen(theirs[0])

    def _serve(self, asked: int, answer: int, pin: Path, transport: Any) -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        reader = PinnedReader(pin, transport=transport)
        snapshot = reader.read()
        assert isinstance(snapshot, Snapshot) and len(snapshot) == self._cgroups
        assert snapshot.paths[-1] is not None and reader.transport == transport
        with os.fdopen(asked) as lines:
            for line in lines:
                package.timed(reader.read, int(line) // 10)
                os.write(answer, f"{package.timed(reader.read, int(line)).real}\n".encode())
        os._exit(0)

    def batch(self, reads: int) -> float:
        """Reads this many times; returns the nanoseconds that a cgroup took, times the reads."""
        print(reads, file=self._ask, flush=True)
        answer = self._answer.readline()
        if not answer:
            raise BenchError("a reader of the pinned tree has failed")
        return float(answer) / self._cgroups

    def close(self) -> None:
        """Ends the process."""
        self._ask.close()
        self._answer.close()
        os.waitpid(self._child, 0)
