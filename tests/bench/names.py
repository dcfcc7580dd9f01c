# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is read, and by whom: the sections of the table, and their rows."""

from __future__ import annotations

from typing import Optional

Items = Optional[tuple[str, ...]]

SIX, ALL = "6 items", "all items"

ITEMS: dict[str, Items] = {
    # Those that cgroup v1's memory.stat has as well.
    SIX: ("anon", "file", "shmem", "file_mapped", "pgfault", "pgmajfault"),
    ALL: None,
}

ONE, TREE = "one cgroup, {}", "{:,} cgroups, {}, each"

# The floors: the package's own object, without Python. Without a flush, and with.
C_ITERATOR = {
    flush: f"C: iterator create + read + close{', flush' * flush}" for flush in (False, True)
}
C_RUN = {flush: f"C: program run{', flush' * flush}" for flush in (False, True)}

READER = {flush: f"StatsReader by stream, flush={flush}" for flush in (False, True)}
RUN_READER = {flush: f"StatsReader by run, flush={flush}" for flush in (False, True)}
READ_STATS = "read_stats, flush=True"
BARE = "ctypes: create + read + close"

KEPT_OPEN = "Python: memory.stat kept open, decoded"
OPENED_ANEW = "Python: memory.stat opened anew, decoded"
C_RAW = "C: memory.stat kept open, not decoded"
C_DECODED = "C: memory.stat kept open, decoded"

# Of a tree; each followed by the way in which it is read.
VIEW = "TreeReader.read(copy=False)"
COPY = "TreeReader.read()"
DICTS = "TreeReader.read(copy=False).dicts()"
ROW_DICTS = "TreeReader.read(copy=False), dict(row) of each"
C_MAP = "C: walk into a mapped array"
C_HASH = "C: hash map, drained key by key"

TREE_TEXT = "TreeReader, backend text"
WALKED = "Python: os.walk, open, decode"


def by(transport: str, backend: str = "") -> str:
    """How a row's name says in which way it is read; the best backend goes without saying."""
    return f" by {transport}" + (f", {backend}" if backend else "")
