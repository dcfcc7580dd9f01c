# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The names of the table's sections (what is read) and rows (how it is read)."""

from __future__ import annotations

from typing import Optional

Items = Optional[tuple[str, ...]]

SIX, ALL = "6 items", "all items"

ITEMS: dict[str, Items] = {
    # The memory.stat of cgroup v1 has these too.
    SIX: ("anon", "file", "shmem", "file_mapped", "pgfault", "pgmajfault"),
    ALL: None,
}

ONE, TREE = "one cgroup, {}", "{:,} cgroups, {}, each"

# C programs with the package's BPF object, without a flush (False) and with one (True). The other
# rows are compared with these.
C_ITERATOR = {
    flush: f"C: iterator create + read + close{', flush' * flush}" for flush in (False, True)
}
C_RUN = {flush: f"C: program run{', flush' * flush}" for flush in (False, True)}

READER = {flush: f"StatsReader by stream, flush={flush}" for flush in (False, True)}
RUN_READER = {flush: f"StatsReader by run, flush={flush}" for flush in (False, True)}
READ_STATS = "read_stats, flush=True"
CTYPES_CALLS = "ctypes: create + read + close"

KEPT_OPEN = "Python: memory.stat kept open, decoded"
OPENED_EACH_TIME = "Python: memory.stat opened each time, decoded"
C_RAW = "C: memory.stat kept open, not decoded"
C_DECODED = "C: memory.stat kept open, decoded"

# Rows of a tree. by() adds the transport and the backend to these.
VIEW = "TreeReader.read(copy=False)"
COPY = "TreeReader.read()"
DICTS = "TreeReader.read(copy=False).dicts()"
ROW_DICTS = "TreeReader.read(copy=False), dict(row) of each"
COLUMNS = "TreeReader.read(copy=False).to_columns()"
BY_PATH = "TreeReader.read(copy=False), {path: dict}"
BY_PATH_CHANGED = "{path: dict}, 1 % of the cgroups are new"
BY_PATH_FIRST = "{path: dict}, all names are new"
NEW_READER = "TreeReader(), its first {path: dict}, close()"
METRICS = "TreeReader.read(copy=False), openmetrics()"
RATES = "Snapshot.since(), rates() of 3 counters"
C_MAP = "C: walk into a mapped array"
C_COPY = "C: walk that only copies the counters"
C_HASH = "C: hash map, drained key by key"

PINNED = "{:,} cgroups, {}, pinned, each"
PINNED_TREE_READER = COPY + " of root"
PINNED_READ = {
    transport: f"PinnedReader.read() of nobody by {transport}" for transport in ("map", "stream")
}

TREE_TEXT = "TreeReader, backend text"
OS_WALK = "Python: os.walk, open, decode"


def by(transport: str, backend: str = "") -> str:
    """The end of a row's name. The backend is left out if it is the best one."""
    return f" by {transport}" + (f", {backend}" if backend else "")
