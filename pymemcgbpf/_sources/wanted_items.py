# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which items a caller wants, and which of them the cgroup's files have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from .. import _item_hints, _items
from .._cgroup.directory import Cgroup
from .._cgroup.present_items import PresentItems
from .._items import CATALOGUE, CURRENT, MEMORY_STAT
from ..errors import ItemUnavailableError, UnknownItemError


class WantedItems:
    """The items that a caller wants of one cgroup.

    Attributes:
        names: the names of items and groups; None for all of memory.stat and memory.current.
        required: the items among them, which must be there. Group members that this kernel
            lacks are skipped instead.
        shown: what the cgroup's files have.
    """

    def __init__(
        self, names: Optional[tuple[str, ...]], cgroup: Cgroup, shown: PresentItems
    ) -> None:
        self.names, self.shown = names, shown
        self.required = [name for name in names or () if not _items.is_group(name)]
        self._cgroup = cgroup

    def check_known(self) -> None:
        """Checks that each name is known: to the catalogue, or to the kernel's files.

        Raises:
            UnknownItemError: a name is unknown to both.
        """
        known = dict.fromkeys((*self.shown.names(MEMORY_STAT), *CATALOGUE))
        for name in self.names or ():
            if _items.is_group(name):
                files = _items.files_of_group(name)
                if len(files) == 1 or any(_items.in_group(name, one) for one in known):
                    continue
                printed = (one for file in files for one in self.shown.names(file))
                if not any(_items.in_group(name, one) for one in printed):
                    raise UnknownItemError(f"no item matches {name!r}", item=name)
            elif name not in known and not _items.item_named(name) and not self.shown.has(name):
                raise _unknown(name, known)

    def expanded(self, offered: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
        """The names of all wanted items. Each group is replaced by its members.

        Args:
            offered: returns the items of a file.

        Raises:
            ItemUnavailableError: no item is left.
        """
        if self.names is None:
            return (*offered(MEMORY_STAT), *offered(CURRENT))
        found: dict[str, None] = {}
        for name in self.names:
            members = [name]
            if _items.is_group(name):
                files = _items.files_of_group(name)
                among = [item for file in files for item in offered(file)]
                members = [item for item in among if _items.in_group(name, item)]
            found.update(dict.fromkeys(members))
        if not found:
            raise unavailable(self.names, self._cgroup.path)
        return tuple(found)

    def check_required(self, has: Callable[[str], bool]) -> None:
        """Checks that every required item is there.

        Raises:
            ItemUnavailableError: some are missing; the message says where.
        """
        missing = [name for name in self.required if not has(name)]
        if missing:
            raise unavailable(missing, self._where(missing), self._instead_of(missing))

    def _where(self, missing: Sequence[str]) -> str:
        of_stat = all(_items.file_of(name) == MEMORY_STAT for name in missing)
        if of_stat and self._cgroup.version == 1:
            return "this kernel's cgroup v1 memory.stat"
        if self._cgroup.is_root:
            return f"the root cgroup {self._cgroup.path} of this kernel"
        return "this kernel's memory.stat" if of_stat else f"the cgroup {self._cgroup.path}"

    def _instead_of(self, missing: Sequence[str]) -> str:
        """What this version of cgroups has in the place of missing items."""
        version = self._cgroup.version
        found = ((name, _COUNTERPARTS[version].get(name)) for name in missing)
        return "".join(
            f"; on cgroup v{version} {other!r} takes the place of {name!r}"
            for name, other in found
            if other is not None
        )


# Items of the other version of cgroups, and what comes nearest in this one.
_COUNTERPARTS = {
    1: {"memory.swap.current": "swap", "memory.events.max": "memory.failcnt"},
    2: {"swap": "memory.swap.current", "memory.failcnt": "memory.events.max"},
}


def unavailable(missing: Sequence[str], where: str, remark: str = "") -> ItemUnavailableError:
    """The error for known items that are missing."""
    listed = ", ".join(map(repr, missing))
    return ItemUnavailableError(f"{where} does not have {listed}{remark}", item_names=missing)


def _unknown(name: str, known: dict[str, None]) -> UnknownItemError:
    hint = _item_hints.by_meaning(name) or _item_hints.by_spelling(name, known)
    hint = hint or _item_hints.Hint("", ())
    message = f"no item is called {name!r}{hint.remark}"
    return UnknownItemError(message, item=name, suggestions=hint.suggestions)
