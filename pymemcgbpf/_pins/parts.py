# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The names of a pinned tree's parts, which are the files of one directory."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .._records import Record

MOST_PARTS = 1024
"""How many parts a tree can have: pin_tree() creates no more, PinnedReader accepts no more."""


class Part(Record):
    """One of the several pins of a tree.

    Attributes:
        number: counted from 0.
        of: how many parts the tree has.
    """

    number: int
    of: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"part-{self.number:04}-of-{self.of:04}"


_PART = re.compile(r"part-([0-9]{4})-of-([0-9]{4})", re.ASCII)


def parts_of(names: Iterable[str]) -> list[Part]:
    """The parts that these names are, in their order; other names are skipped."""
    matches = map(_PART.fullmatch, names)
    return sorted(Part(int(match[1]), int(match[2])) for match in matches if match)


def are_whole(parts: list[Part]) -> bool:
    """Whether these are all parts of one tree."""
    return bool(parts) and parts == [Part(at, parts[0].of) for at in range(parts[0].of)]
