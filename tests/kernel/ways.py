# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Every way that a kernel offers to read the same numbers: a backend and a transport."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pymemcgbpf import StatsReader, TreeReader, _options

from .surroundings import (
    BPF_BACKENDS,
    HAS_ITERATOR,
    RUN_BACKENDS,
)

Items = Optional[Iterable[str]]


class Way(NamedTuple):
    """A backend and a transport, by their names."""

    backend: _options.Backend
    transport: Any  # which of them, depends on the kind of reader

    @property
    def shown(self) -> tuple[str, str]:
        """What a reader that goes this way has as its backend and its transport."""
        return ("text", "text") if self == TEXT else (self.backend, self.transport)

    def stats(self, path: Path, items: Items = None, *, flush: bool = True) -> StatsReader:
        """A reader of one cgroup that goes this way."""
        backend, transport = self
        return StatsReader(path, items, flush=flush, backend=backend, transport=transport)

    def tree(
        self,
        path: Path,
        items: Items = None,
        *,
        order: Any = "pre",
        flush: bool = True,
        max_depth: Optional[int] = None,
        max_rows: Optional[int] = None,
        departed: bool = False,
    ) -> TreeReader:
        """A reader of a tree that goes this way."""
        backend, transport = self
        return TreeReader(
            path,
            items,
            order=order,
            flush=flush,
            backend=backend,
            transport=transport,
            max_depth=max_depth,
            max_rows=max_rows,
            departed=departed,
        )


def _ways(iterator: str) -> list[Way]:
    """The ways through BPF, each backend's best first."""
    ways = []
    for backend in BPF_BACKENDS:
        if backend in RUN_BACKENDS:
            ways.append(Way(backend, "run"))
        if HAS_ITERATOR:
            ways.append(Way(backend, iterator))
    return ways


TEXT = Way("text", "auto")
STAT_BPF_WAYS = _ways("stream")
TREE_BPF_WAYS = _ways("shared")
STAT_BEST_WAYS = list({way.backend: way for way in reversed(STAT_BPF_WAYS)}.values())[::-1]
BY_DIRECTORY = Way("core", "run")  # a program of its own
# Every transport of trees, with the best backend.
TREE_TRANSPORT_WAYS = [
    way for way in TREE_BPF_WAYS if way.backend == TREE_BPF_WAYS[0].backend or way == BY_DIRECTORY
]
# What "auto" chooses.
BEST_STAT_WAY = [*STAT_BPF_WAYS, TEXT][0]
BEST_TREE_WAY = [*TREE_BPF_WAYS, TEXT][0]
