# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Type information as bytes, as the kernel shows it."""

from __future__ import annotations

import struct
from typing import Any

MAGIC = 0xEB9F
# The number of words of each member, by the kind.
_MEMBERS = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}

Described = tuple[int, str, int, tuple[Any, ...]]
"""A type: kind, name, size or type, and the words of the members. A string is a name."""


class Names:
    """A table of names, each of which is there once."""

    def __init__(self) -> None:
        self.data = b"\0"
        self._places = {"": 0}

    def __getitem__(self, name: str) -> int:
        if name not in self._places:
            self._places[name] = len(self.data)
            self.data += name.encode() + b"\0"
        return self._places[name]


def encode(*types: Described, before: str = "") -> bytearray:
    """The bytes of these types. The number of a type is its place, from 1 on.

    Args:
        types: the types.
        before: a name that comes first in the table of names, so that other names come later.
    """
    names = Names()
    assert names[before] or not before
    data = b""
    for kind, name, size, members in types:
        words = [names[word] if isinstance(word, str) else word for word in members]
        count = len(words) // _MEMBERS[kind] if kind in _MEMBERS else 0
        data += struct.pack(f"={3 + len(words)}I", names[name], kind << 24 | count, size, *words)
    return with_header(data, names.data)


def with_header(types: bytes, names: bytes) -> bytearray:
    """A BTF of these two sections."""
    header = struct.pack("=HBB5I", MAGIC, 1, 0, 24, 0, len(types), len(types), len(names))
    return bytearray(header + types + names)
