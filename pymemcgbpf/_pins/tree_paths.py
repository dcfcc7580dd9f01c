# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The paths of a pinned tree's rows, from the names that are published with them."""

from __future__ import annotations

import os
import threading
from typing import Optional

from .. import _fork, _lookup, _options
from .._cgroup.walk_paths import Origin, Paths, WalkPaths
from .._records import Record
from . import tree_layout as _layout


class NamesKey(Record):
    """What tells the names of one walk from those of others.

    Attributes:
        pin: what tells the pin from one that replaces it.
        signature: as in the head of the half.
        nr_rows: the number of rows.
        root_path: the path of the root, filled up to PATH_SIZE bytes.
    """

    pin: object
    signature: int
    nr_rows: int
    root_path: bytes


class NamedPaths(WalkPaths):
    """The paths of a walk that was published with names, made when they are first used.

    Until then the rows and the names are kept.
    """

    def __init__(
        self,
        origin: Origin,
        head: _layout.Head,
        root_path: bytes,
        rows: bytes,
        names: list[bytes],
    ) -> None:
        root_path = root_path.partition(b"\0")[0]
        can_rename = bool(head.flags & _layout.CAN_RENAME)
        super().__init__(origin, os.fsdecode(root_path) or None, None, (), can_rename)
        self._root_id, self._is_post = head.root_id, head.order == _options.POST
        self._width = head.geometry.row_size // 8
        self._waiting: Optional[tuple[bytes, list[bytes]]] = (rows, names)
        self._lock = threading.RLock()
        _fork.renew_in_child(self)

    @property
    def device(self) -> Optional[int]:
        """The device of the hierarchy, if this process sees the walk's root at its path."""
        if self._device is None and self._root:
            found = _lookup.identity(self._root)
            procs = _lookup.identity(os.path.join(self._root, "cgroup.procs"))
            if found is not None and found[1] == self._root_id and procs is not None:
                self._device = found[0]
        return self._device

    @property
    def paths(self) -> Paths:
        """As :attr:`WalkPaths.paths`."""
        with self._lock:
            if self._waiting is not None:
                self._paths = self._made(*self._waiting)
                self._waiting = None
        return self._paths

    def _made(self, rows: bytes, names: list[bytes]) -> Paths:
        words = memoryview(rows).cast("Q")
        ids, parents = words[:: self._width].tolist(), words[1 :: self._width].tolist()
        text = os.fsdecode(b"\0".join(names)).split("\0")
        root_id, root = self._root_id, self._root
        path_of = {root_id: "" if root == "/" else root}
        found: list[Optional[str]] = []
        size = 0
        rows_of = zip(ids, parents, text)
        # Parents come before their children, but for "post".
        for cgroup_id, parent, name in reversed([*rows_of]) if self._is_post else rows_of:
            path = root
            if cgroup_id != root_id:
                above = path_of.get(parent)
                path = f"{above}/{name}" if above is not None and _is_name(name) else None
                if path is not None:
                    size += len(path)
                    if len(path) >= _layout.PATH_SIZE or size > _MOST_TEXT:
                        path = None  # the kernel takes no such path, or the names are a trap
                path_of[cgroup_id] = path
            found.append(path)
        return tuple(reversed(found) if self._is_post else found)


# The characters of all paths of a walk. In a chain of cgroups with long names they would grow with
# the square of its length.
_MOST_TEXT = 64 << 20


def _is_name(name: str) -> bool:
    """Whether a directory can have this name."""
    return name not in ("", ".", "..") and "/" not in name
