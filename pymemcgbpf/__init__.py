# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads the statistics of memory cgroups as numbers, through BPF where the kernel allows it.

An example::

    >>> import pymemcgbpf as memcg
    >>> memcg.read_stats("/sys/fs/cgroup/system.slice", ["anon", "file", "pgfault"])
    {'anon': 17727488, 'file': 708608, 'pgfault': 1613}

What to use:

    read_stats      one cgroup, in one call
    StatsReader     one cgroup, again and again
    TreeReader      a tree of cgroups in one walk: a Snapshot, which has a Row for each cgroup
    Changes         what changed between two snapshots of a tree: a Change for each cgroup
    openmetrics     a Snapshot as metrics for Prometheus
    collector       a tree for the registry of prometheus_client: a Collector
    own_cgroup      the directory of this process's cgroup; cgroup_of: that of another process
    list_items      what this kernel offers: name, unit, kind and description of each Item
    unknown_keys    keys of memory.stat that this version does not know
    limit_share     the share of its effective limit that a cgroup uses
    pin, pin_tree   publish statistics as files in a bpffs; unpin removes them
    PinnedTree      what pin_tree returns
    PinnedReader    reads such a file, or such a tree, without privileges
    clear_cache     frees what read_stats keeps for the next call
    Order           the type of the option order; Backend, StatsTransport, TreeTransport and
    PinTransport    are the types of other options
    UNLIMITED       the value of a limit that is not set

Every error is a MemcgError, and so an OSError; pymemcgbpf.errors describes them.

A name is imported when it is first used. ``import pymemcgbpf`` alone therefore costs little, and
a process that only uses PinnedReader never imports ctypes. A process that changes its user or its
root directory should import what it needs before that: ``from pymemcgbpf import StatsReader``.
"""

import os

from ._version import VERSION

TYPE_CHECKING = False  # as in typing, whose import takes milliseconds

if TYPE_CHECKING:
    from ._cgroup.mounts import cgroup_of, own_cgroup
    from ._collector import Collector, collector
    from ._functions import clear_cache, limit_share, list_items, read_stats, unknown_keys
    from ._items import UNLIMITED, Item
    from ._openmetrics import openmetrics
    from ._options import Backend, Order, PinTransport, StatsTransport, TreeTransport
    from ._pins.create import pin
    from ._pins.create_tree import PinnedTree, pin_tree
    from ._pins.read import PinnedReader
    from ._pins.remove import unpin
    from ._stats_reader import StatsReader
    from ._tree_reader import TreeReader
    from .changes import Change, Changes
    from .departed import Departed, DepartedRow
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
        PinExistsError,
        PinNotFoundError,
        PinPathError,
        PinPermissionError,
        ProcessNotFoundError,
        StreamError,
        TreeTooLargeError,
        UnknownItemError,
        VerifierError,
    )
    from .snapshot import Row, Snapshot

__version__ = VERSION

__all__ = [  # in the order of help(): the most used names first, the errors last
    "read_stats",
    "StatsReader",
    "TreeReader",
    "Snapshot",
    "Row",
    "Departed",
    "DepartedRow",
    "Changes",
    "Change",
    "openmetrics",
    "collector",
    "Collector",
    "own_cgroup",
    "cgroup_of",
    "list_items",
    "unknown_keys",
    "limit_share",
    "Item",
    "pin",
    "pin_tree",
    "unpin",
    "PinnedTree",
    "PinnedReader",
    "clear_cache",
    "Order",
    "Backend",
    "StatsTransport",
    "TreeTransport",
    "PinTransport",
    "UNLIMITED",
    "__version__",
    "MemcgError",
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
    "MemoryControllerError",
    "NotACgroupError",
    "PinExistsError",
    "PinNotFoundError",
    "PinPathError",
    "PinPermissionError",
    "ProcessNotFoundError",
    "StreamError",
    "TreeTooLargeError",
    "UnknownItemError",
    "VerifierError",
]

# The module of each public name that is not in errors.py, and the public modules.
_LAZY_EXPORTS = {
    "Backend": "_options",
    "Change": "changes",
    "Changes": "changes",
    "Collector": "_collector",
    "Departed": "departed",
    "DepartedRow": "departed",
    "Item": "_items",
    "Order": "_options",
    "PinTransport": "_options",
    "PinnedReader": "_pins.read",
    "PinnedTree": "_pins.create_tree",
    "Row": "snapshot",
    "Snapshot": "snapshot",
    "StatsReader": "_stats_reader",
    "StatsTransport": "_options",
    "TreeReader": "_tree_reader",
    "TreeTransport": "_options",
    "UNLIMITED": "_items",
    "cgroup_of": "_cgroup.mounts",
    "clear_cache": "_functions",
    "collector": "_collector",
    "limit_share": "_functions",
    "list_items": "_functions",
    "openmetrics": "_openmetrics",
    "own_cgroup": "_cgroup.mounts",
    "pin": "_pins.create",
    "pin_tree": "_pins.create_tree",
    "read_stats": "_functions",
    "unknown_keys": "_functions",
    "unpin": "_pins.remove",
}
_PUBLIC_MODULES = ("changes", "departed", "errors", "reader", "snapshot")

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name):
        import importlib

        if name in _PUBLIC_MODULES:
            return importlib.import_module(f".{name}", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f".{_LAZY_EXPORTS.get(name, 'errors')}", __name__)
        value = globals()[name] = getattr(home, name)
        return value


def __dir__() -> list[str]:
    return [*__all__, *_PUBLIC_MODULES]


def _unbuilt() -> str:
    """A warning if the package was imported from a source tree that is not built; "" otherwise."""
    file = globals().get("__file__")  # tools that freeze programs may leave it out
    if not file or os.path.exists(os.path.join(os.path.dirname(file), _BPF_OBJECT)):
        return ""
    tree = os.path.dirname(os.path.dirname(os.path.abspath(file)))
    if not os.path.exists(os.path.join(tree, "bpf_src", "memcg_stats.bpf.c")):
        return ""
    return (
        f"this is the source tree of pymemcgbpf ({tree}), which has no BPF object until it is "
        "built: everything is read as text, many times slower. Start Python in another directory, "
        "with pymemcgbpf installed, or build it here (pip install -e .)"
    )


def _warn_if_unbuilt() -> None:
    """Warns on import; otherwise only a reader's ``.fallback_reason`` would say so."""
    message = _unbuilt()
    if message:
        import warnings

        warnings.warn(message, RuntimeWarning, stacklevel=3)


_BPF_OBJECT = os.path.join("_bpf", "objects", "memcg_stats.bpf.o")

_warn_if_unbuilt()
