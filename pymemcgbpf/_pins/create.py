# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Creates pins: BPF iterator links in a bpffs, which other processes read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, SupportsIndex

from .. import _items, _options
from .._cgroup import directory as _directory
from .._lookup import Path
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import transaction as _transaction
from .pin_source import PinSourceFactory, chosen


def pin(
    cgroup_path: Path,
    pin_path: Path,
    items: Optional[Iterable[str]] = None,
    *,
    order: _options.Order = "self",
    flush: bool = True,
    mode: int = 0o444,
) -> None:
    """Creates a file in a bpffs, a pin, from which a cgroup's statistics can be read.

    Any user with read permission can read it; no privileges and no running process are needed::

        >>> pin("/sys/fs/cgroup/system.slice", "/sys/fs/bpf/stats/system", ["anon", "file"])
        >>> with PinnedReader("/sys/fs/bpf/stats/system") as reader:  # any user, any process
        ...     reader.read()
        {'anon': 17727488, 'file': 708608}

    The pin stays until :func:`unpin` removes it or the machine restarts. A reader needs
    permission to read the file and to search the directories above it. It needs no libbpf and no
    BTF, and the cgroup need not be visible to it.

    Everybody who may read a pin can make the kernel walk these cgroups and flush their statistics
    as often as they like. The kernel holds its cgroup_mutex meanwhile. Readers learn the values,
    the ids of the cgroups and which cgroup is below which, but no names. While a pin exists, the
    kernel does not free its cgroup, even if the cgroup is removed.

    Args:
        cgroup_path: the directory of the cgroup, or of the walk's root.
        pin_path: the path of the new file, in a bpffs. Nothing may exist there. Missing
            directories above it are created with mode 0755. Names in a bpffs have no dots. A
            directory in which other users could replace the file is refused. Many systems let
            only root search /sys/fs/bpf: for other users, mount another bpffs, or bind-mount a
            directory of this one.
        items: as for :class:`StatsReader`. Items of a newer kernel that this version of the
            package does not know cannot be pinned; groups and None leave them out.
        order: "self" for this cgroup alone, or the order of a walk, as for :class:`TreeReader`.
        flush: True for values as fresh as those of memory.stat at each read: the program flushes
            the walk's root once, or, with "post", "up" and "children", each cgroup that it
            visits. False for values up to about 2 s old. Values of memory.pressure can be 2 s old
            either way. Linux 6.16 to 6.19 offer BPF no flush: use False there.
        mode: the file's permissions. os.chmod() can change them, and os.chown() the owner.

    Raises:
        PinExistsError, PinPathError, PinPermissionError: nothing can be created at *pin_path*.
        BackendUnavailableError: BPF does not work here (a subclass says why), or offers no flush.
        TreeTooLargeError: the walk does not fit into the kernel's buffer of 8 pages; use
            :func:`pin_tree`.
        CgroupNotFoundError, NotACgroupError, CgroupPermissionError, MemoryControllerError,
        CgroupRemovedError: *cgroup_path* is not a cgroup with memory statistics.
        UnknownItemError, ItemUnavailableError: an item cannot be read here.
        ValueError: *order* or *mode* is not one of those allowed.
    """
    _options.check("order", order, _options.ORDERS)
    names = _items.requested_names(items)
    flush = _options.switch("flush", flush)
    path, bits = _bpffs.absolute(pin_path), permissions(mode)
    _bpffs.check_free(path)
    cgroup = _directory.open_cgroup(cgroup_path)
    try:
        source = chosen(cgroup, names, PinSourceFactory(order, flush, True))
        made = _transaction.PinTransaction()
        try:
            source.pin(made.above(path), bits, made)
        except BaseException as error:
            made.undo()
            _diagnosis.raise_creation_error(path, error)
        finally:
            made.close()
            source.close()
    finally:
        cgroup.close()


def permissions(mode: SupportsIndex) -> int:
    """The permissions of a new file.

    Raises:
        TypeError, ValueError: *mode* is not a file's permissions.
    """
    bits = _options.integer("mode", mode)
    if not 0 <= bits <= 0o777:
        raise ValueError(f"mode must be permissions, 0 to 0o777, not {bits:#o}")
    return bits
