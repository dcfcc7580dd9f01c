# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The paths of the cgroups of one walk, and what is at a path now."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Optional

from .. import _lookup
from .._records import Record
from ..errors import CgroupPermissionError
from . import mounts as _mounts
from .directory import Cgroup

Paths = tuple[Optional[str], ...]


class RootPath:
    """The absolute path of the root of a walk, without symbolic links.

    On cgroup v1 the root, or a cgroup above it, can be renamed; :meth:`follow` finds it again.

    Attributes:
        path: the path.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        self._fd, self._identity = cgroup.fd, cgroup.identity
        self._can_move = cgroup.version == 1
        self.path = _lookup.resolved(cgroup.path)
        if not self._is_right():
            # A link of /proc leads to another mount namespace; or the root was just renamed.
            self.path = _lookup.absolute(cgroup.path)
            self._follow_descriptor()

    def follow(self) -> bool:
        """Finds the path again if it has changed, and returns whether it has."""
        return self._can_move and self._follow_descriptor()

    def _follow_descriptor(self) -> bool:
        """Takes the path of the open directory, if the present one leads elsewhere by now."""
        if self._is_right():
            return False
        try:
            link = os.readlink(f"/proc/self/fd/{self._fd}")
        except OSError:  # there is no /proc
            return False
        if _lookup.identity(link) != self._identity:
            return False
        self.path = link
        return True

    def _is_right(self) -> bool:
        return _lookup.identity(self.path) == self._identity


class Found(Record):
    """What is at a path: the number of the row that had it in the walk, or else the id of the
    cgroup that is there now."""

    place: Optional[int]
    cgroup_id: Optional[int]


_NOTHING = Found(None, None)


class Origin:
    """What the paths of all walks of one reader have in common. It refers to nothing."""


class WalkPaths:
    """The paths of the rows of one walk. Snapshots of an unchanged tree share one object.

    Attributes:
        origin: the same for all walks of one reader.
        can_rename: whether cgroups of this hierarchy can be renamed: on cgroup v1.
    """

    def __init__(
        self,
        origin: Origin,
        root: Optional[str],
        device: Optional[int],
        paths: Paths,
        can_rename: bool,
    ) -> None:
        self.origin, self.can_rename = origin, can_rename
        self._root, self._device, self._paths = root, device, paths
        self._places: Optional[dict[Optional[str], int]] = None
        self._texts: Optional[Paths] = None

    @property
    def root(self) -> Optional[str]:
        """The path of the walk's root; None if it is not visible."""
        return self._root

    @property
    def device(self) -> Optional[int]:
        """The device of the hierarchy's directories; None if the root is not visible."""
        return self._device

    @property
    def paths(self) -> Paths:
        """The path of each row at the time of the walk; None where it is unknown."""
        return self._paths

    @property
    def texts(self) -> Paths:
        """The paths as valid text, in which bytes that are not UTF-8 are ``//xNN``."""
        if self._texts is None:
            self._texts = tuple(path and _lookup.utf_8(path) for path in self.paths)
        return self._texts

    @property
    def places(self) -> dict[Optional[str], int]:
        """The number of the row at each path."""
        if self._places is None:
            self._places = dict(zip(self.paths, itertools.count()))
        return self._places

    def below(self, relative_paths: Iterable[Optional[str]]) -> WalkPaths:
        """The paths of other cgroups below the same root, by their paths relative to it."""
        root = self.root
        above = "" if root is None or root == "/" else root
        paths = tuple(
            None if path is None or root is None else f"{above}/{path}" for path in relative_paths
        )
        return WalkPaths(self.origin, root, self.device, paths, self.can_rename)

    def id_at(self, path: str) -> Optional[int]:
        """The id of the cgroup at an absolute path now; None if no cgroup of this hierarchy is
        there."""
        found = _lookup.identity(path)
        return found[1] if found is not None and found[0] == self.device else None

    def find(self, path: str) -> Found:
        """What is at a path, which is absolute, relative to the root, or as in /proc/PID/cgroup."""
        if self.root is None:
            return _NOTHING
        found = self._at(os.path.join(self.root, path))
        if found == _NOTHING and path.startswith("/"):
            directory = _mounts.directory_of(path)
            if directory is not None:
                return self._at(directory)
        return found

    def _at(self, path: str) -> Found:
        """What is at an absolute path."""
        place = self.places.get(os.path.normpath(path))
        return Found(place, self.id_at(path) if place is None else None)

    def exists(self, place: int, cgroup_id: int) -> bool:
        """Whether the cgroup of a row exists now, wherever it is.

        Raises:
            CgroupPermissionError: this process cannot see it.
        """
        path = self.paths[place]
        if path is not None:
            if self.id_at(path) == cgroup_id:
                return True
            found = _mounts.find_cgroup(cgroup_id) if self.can_rename else None
            if found is not None and found[1] == self.device:
                return True
            if self._is_mounted() and not _lookup.is_hidden(path):
                return False
        raise CgroupPermissionError(
            f"whether cgroup {cgroup_id} exists cannot be seen: its directory is not visible to "
            "this process"
        )

    def _is_mounted(self) -> bool:
        at = (_lookup.identity(mount_point) for _, mount_point in _mounts.memory_mounts())
        return any(each is not None and each[0] == self.device for each in at)
