# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Memory-cgroup statistics as numbers, through a BPF cgroup iterator."""

from ._cached_readers import clear_cache, read_stats
from ._catalogue import UNLIMITED, Item
from ._offer import items, unknown_keys
from ._version import VERSION
from .errors import (
    BackendUnavailableError,
    BpfObjectError,
    BpfPermissionError,
    BtfNotFoundError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    ClosedError,
    ItemUnavailableError,
    LibbpfNotFoundError,
    LibbpfTooOldError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    StreamError,
    TreeTooLargeError,
    UnknownItemError,
    VerifierError,
)
from .reader import StatsReader, TreeReader
from .snapshot import ABSENT, Row, Snapshot

__version__ = VERSION

__all__ = [
    "ABSENT",
    "BackendUnavailableError",
    "BpfObjectError",
    "BpfPermissionError",
    "BtfNotFoundError",
    "CgroupNotFoundError",
    "CgroupPermissionError",
    "CgroupRemovedError",
    "ClosedError",
    "Item",
    "ItemUnavailableError",
    "LibbpfNotFoundError",
    "LibbpfTooOldError",
    "MemcgError",
    "MemoryControllerError",
    "NotACgroupError",
    "Row",
    "Snapshot",
    "StatsReader",
    "StreamError",
    "TreeReader",
    "TreeTooLargeError",
    "UNLIMITED",
    "UnknownItemError",
    "VerifierError",
    "__version__",
    "clear_cache",
    "items",
    "read_stats",
    "unknown_keys",
]
