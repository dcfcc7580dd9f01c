# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Memory-cgroup statistics as numbers, through a BPF cgroup iterator."""

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
    UnknownItemError,
    VerifierError,
)
from .reader import StatsReader, clear_cache, read_stats

__version__ = VERSION

__all__ = [
    "BackendUnavailableError",
    "BpfObjectError",
    "BpfPermissionError",
    "BtfNotFoundError",
    "CgroupNotFoundError",
    "CgroupPermissionError",
    "CgroupRemovedError",
    "ClosedError",
    "ItemUnavailableError",
    "LibbpfNotFoundError",
    "LibbpfTooOldError",
    "MemcgError",
    "MemoryControllerError",
    "NotACgroupError",
    "StatsReader",
    "StreamError",
    "UnknownItemError",
    "VerifierError",
    "__version__",
    "clear_cache",
    "read_stats",
]
