# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The readers: of one cgroup, and of a tree of cgroups.

``from pymemcgbpf import StatsReader`` imports what that reader needs and no more.
"""

from __future__ import annotations

from ._stats_reader import StatsReader
from ._tree_reader import TreeReader

__all__ = ["StatsReader", "TreeReader"]
