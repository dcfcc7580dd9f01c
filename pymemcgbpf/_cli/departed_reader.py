# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes the readers of removed cgroups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from .._items import CURRENT
from .._options import AUTO, BACKENDS

if TYPE_CHECKING:
    from .._tree_reader import TreeReader

PEAK, KILLS = "memory.peak", "memory.events.local.oom_kill"
"""The kills are those in the cgroup itself, on both versions of cgroups: on cgroup v2
memory.events.oom_kill has those below it, too, which would be told of twice."""

LAST_ITEMS = (f"{PEAK}*", f"{KILLS}*")
"""What says how a cgroup ended, as groups: they are skipped where a kernel lacks them."""
DEFAULT_ITEMS = (PEAK, KILLS, CURRENT, "anon", "file")
DEFAULT_ITEMS_READ = (*LAST_ITEMS, CURRENT, "anon", "file")


def departed_reader(
    directory: str, items: Sequence[str], backend: str, depth: Optional[int] = None
) -> TreeReader:
    """A reader whose snapshots have the cgroups removed below one, and no other row than its own.

    Args:
        directory: the path of the cgroup, which is no pin.
        items: the names of items and groups.
        backend: the backend's name, or "auto".
        depth: how many levels below; None for all.
    """
    from .._tree_reader import TreeReader

    named = next(each for each in (AUTO, *BACKENDS) if each == backend)
    # Without a flush, as the numbers of removed cgroups do not depend on it.
    return TreeReader(
        directory,
        items,
        order="self",
        flush=False,
        backend=named,
        max_depth=depth,
        departed=True,
    )
