# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Every way that a kernel offers to read the same numbers: a backend and a transport."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pymemcgbpf import StatsReader, TreeReader, _options

from .surroundings import BPF_BACKENDS, RUN_BACKENDS, STAT_TRANSPORTS, TREE_TRANSPORTS

Items = Optional[Iterable[str]]


class Way(NamedTuple):
    """A backend and a transport, by their names."""

    backend: _options.Backend
    transport: Any  # which of them, depends on the kind of reader

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
        )


def _ways(transports: list[str]) -> list[Way]:
    return [
        Way(backend, each)
        for backend in BPF_BACKENDS
        for each in transports
        if each != "run" or backend in RUN_BACKENDS
    ]


TEXT = Way("text", "auto")
STAT_BPF_WAYS = _ways(STAT_TRANSPORTS)
TREE_BPF_WAYS = _ways(TREE_TRANSPORTS)
# Each backend's first is the one that it does best.
STAT_BEST_WAYS = list({way.backend: way for way in reversed(STAT_BPF_WAYS)}.values())[::-1]
