# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Memory-cgroup statistics as numbers, through a BPF cgroup iterator.

A name is imported when it is first used: so this costs next to nothing, and a process that
reads pins alone (:class:`PinnedReader`) never imports ctypes. One that is to change its user or
its root directory should name what it needs before: ``from pymemcgbpf import StatsReader``.
"""

import os
from typing import TYPE_CHECKING

from ._version import VERSION

if TYPE_CHECKING:
    from ._cached_readers import clear_cache, read_stats
    from ._items import UNLIMITED, Item
    from ._offer import items, unknown_keys
    from ._pins.create import pin, pin_tree
    from ._pins.read import PinnedReader
    from ._pins.remove import unpin
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
    "PinExistsError",
    "PinNotFoundError",
    "PinPathError",
    "PinPermissionError",
    "PinnedReader",
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
    "pin",
    "pin_tree",
    "read_stats",
    "unknown_keys",
    "unpin",
]

# Where the names are that are not in errors.py, and the modules that are public themselves.
_HOMES = {
    "ABSENT": "snapshot",
    "Item": "_items",
    "PinnedReader": "_pins.read",
    "Row": "snapshot",
    "Snapshot": "snapshot",
    "StatsReader": "reader",
    "TreeReader": "reader",
    "UNLIMITED": "_items",
    "clear_cache": "_cached_readers",
    "items": "_offer",
    "pin": "_pins.create",
    "pin_tree": "_pins.create",
    "read_stats": "_cached_readers",
    "unknown_keys": "_offer",
    "unpin": "_pins.remove",
}
_ROOMS = ("errors", "reader", "snapshot")

if not TYPE_CHECKING:  # else a type checker would take any name for one of ours

    def __getattr__(name):
        import importlib

        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__)
        value = globals()[name] = getattr(home, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


def _unbuilt() -> str:
    """What to do where this is the source tree, which has no BPF object until it is built; ""
    where this is anything else."""
    file = globals().get("__file__")  # which some that freeze programs leave out
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
    """At once, as otherwise only a reader's ``.why`` would say so."""
    message = _unbuilt()
    if message:
        import warnings

        warnings.warn(message, RuntimeWarning, stacklevel=3)


_BPF_OBJECT = os.path.join("_bpf", "objects", "memcg_stats.bpf.o")

_warn_if_unbuilt()
