# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Makes the readers of removed cgroups."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._items import CURRENT

if TYPE_CHECKING:
    from .._tree_reader import TreeReader

PEAK, KILLS = "memory.peak", "memory.events.oom_kill"
LAST_ITEMS = (f"{PEAK}*", f"{KILLS}*")
"""What says how a cgroup ended, as groups: they are skipped where a kernel lacks them."""
DEFAULT_ITEMS = (PEAK, KILLS, CURRENT, "anon", "file")
DEFAULT_ITEMS_READ = (*LAST_ITEMS, CURRENT, "anon", "file")


def departed_reader(
    directory: str, items: Sequence[str], options: argparse.Namespace
) -> TreeReader:
    """A reader whose snapshots have the cgroups removed below one, and no other row than its own.

    Args:
        directory: the path of the cgroup, which is no pin.
        items: the names of items and groups.
        options: the command's parsed arguments, with the options of a reader, and the depth.
    """
    from .._tree_reader import TreeReader

    # Without a flush, as the numbers of removed cgroups do not depend on it.
    return TreeReader(
        directory,
        items,
        order="self",
        flush=False,
        backend=options.backend,
        max_depth=options.depth,
        departed=True,
    )
