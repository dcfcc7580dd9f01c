# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Looks up the kernel's types in the raw bytes of its BTF, without libbpf.

libbpf reads and indexes all of the kernel's BTF, more than a hundred thousand types, before the
first look-up. Here only as many types are indexed as are needed. In the order in which pahole has
written them up to Linux 6.19, the types of the first file that was compiled come first, and they
have nearly everything; the farthest type that is needed is the 17,000th or so.

Nothing is guessed. A type is recognised by its name only if it begins where the index says that a
type begins. The exception are functions, which are spread over the whole: see
:meth:`RawTypes.has_function`.

Whatever is unusual is a ValueError, and libbpf is asked instead. So it is from Linux 7.0 on, where
the types are sorted by name.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Union

from .._descriptors import opened_at
from .bindings import libbpf_maps as _libbpf_maps
from .btf_types import FUNC, Lookups, Type

# struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_HEADER = struct.Struct("=HBB5I")
_MAGIC = 0xEB9F

# The number of 32-bit words of a type by its kind: always, and for each of its members.
_ALWAYS = {1: 4, 3: 6, 14: 4, 17: 4}
_FOR_EACH = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
_KINDS = range(1, 20)

# Beyond this part of the types, in bytes and in types, libbpf is quicker.
_FARTHEST, _MOST = 1_000_000, 25_000

# How much sooner a function's type may come than its name, as a share of all types and names.
_DEVIATION = 0.05

Data = Union[bytearray, mmap.mmap]


def vmlinux(path: str) -> Data:
    """The kernel's BTF.

    Raises:
        OSError: the file cannot be read.
    """
    with opened_at(path, os.O_RDONLY) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        try:
            # From Linux 6.16 on, a539e2a6d51d (btf: Allow mmap of vmlinux btf). A read of it gives
            # 4 KiB at most, and takes longer than all look-ups.
            return _libbpf_maps.map_memory(fd, size, shared=False)
        except OSError:
            data = bytearray(size)
            view, at = memoryview(data), 0
            while at < size:
                count = os.readv(fd, [view[at:]])
                if not count:
                    raise ValueError(f"{path} is shorter than it was") from None
                at += count
            return data


class RawTypes(Lookups):
    """Look-ups in the bytes of a BTF.

    Raises:
        ValueError: it is not as expected, or libbpf is quicker.
    """

    def __init__(self, data: Data) -> None:
        if len(data) < _HEADER.size:
            raise ValueError("no BTF")
        magic, version, _, header, types, size, names, names_size = _HEADER.unpack_from(data)
        if (magic, version, size % 4, types % 4, header % 4) != (_MAGIC, 1, 0, 0, 0):
            raise ValueError("an unknown form of BTF")
        if header < _HEADER.size or not size:
            raise ValueError("a BTF without types")
        self._data = data
        self._types = slice(header + types, header + types + size)
        self._names = slice(header + names, header + names + names_size)
        if max(self._types.stop, self._names.stop) > len(data):
            raise ValueError("an incomplete BTF")
        self._all = memoryview(data)[self._types].cast("I")
        self._infos = self._all[1:]  # the second word of the type that begins there
        # Where each type begins, in words; the number of a type is its index. Type 0 is void.
        self._begins = [-1]
        self._next = 0
        self._sizes: dict[int, int] = {}
        self._known: dict[int, Type] = {0: Type(0, 0, 0, 0, 0)}

    def has_function(self, name: str) -> bool:
        """Whether a function of this name exists.

        Its type is found by its first two words, the offset of its name and the kind with the
        linkage. In no other place can these two follow each other: the second is too large for
        the number of a type and for the offset of a name, and the first, too, is too large for the
        number of a type.
        """
        names, types = self._names, self._types
        # Functions come later than most structures, in the same order as their names.
        offset = self._offset(name, (names.start + names.stop) // 2)
        if not offset:
            return False
        if offset <= len(self._all) // 3:  # the number of types is lower
            raise ValueError("the names are too few")
        share = max(0.0, offset / (names.stop - names.start) - _DEVIATION)
        guess = types.start + int(share * (types.stop - types.start))
        return any(
            self._has_words((offset, FUNC << 24 | linkage), first, last)
            for linkage in (0, 1, 2)  # pahole writes 0
            for first, last in ((guess, types.stop), (types.start, min(guess + 7, types.stop)))
        )

    def _has_words(self, words: tuple[int, int], first: int, last: int) -> bool:
        """Whether there are two such words in a row in some part of the types."""
        needle = struct.pack("=2I", *words)
        at = self._data.find(needle, first, last)
        while at >= 0 and (at - self._types.start) % 4:
            at = self._data.find(needle, at + 1, last)
        return at >= 0

    def _find(self, name: str, *kinds: int) -> int:
        offset = self._offset(name, self._names.start)
        if not offset:
            return 0
        # A type has at least two words after its name.
        start, end = self._types.start, self._types.stop - 8
        stop = min(end, start + _FARTHEST)
        needle = struct.pack("=I", offset)
        at = start - 1
        while True:
            at = self._data.find(needle, at + 1, stop)
            if at < 0:
                break
            word = (at - start) // 4
            if (at - start) % 4 == 0 and self._all[word + 1] >> 24 & 0x1F in kinds:
                type_id = self._beginning_at(word)
                if type_id:
                    return type_id
        if stop == end:
            return 0
        raise ValueError(f"{name} is far from the beginning, or missing")

    def _offset(self, name: str, first: int) -> int:
        """Where a name is in the table of names; 0 if it is not there.

        Args:
            name: the name.
            first: where to begin to search; what comes before is searched last.
        """
        wanted, names = b"\0" + name.encode() + b"\0", self._names
        at = self._data.find(wanted, first, names.stop)
        if at < 0:
            at = self._data.find(wanted, names.start, min(first + len(wanted), names.stop))
        return at + 1 - names.start if at >= 0 else 0

    def _beginning_at(self, word: int) -> int:
        """The number of the type that begins there; 0 if none does."""
        while self._next <= word:
            self._index()
        found = bisect.bisect_left(self._begins, word)
        return found if found < len(self._begins) and self._begins[found] == word else 0

    def _index(self) -> None:
        """Indexes some thousand more types."""
        infos, begins, sizes, at = self._infos, self._begins, self._sizes, self._next
        try:
            for _ in range(1024):
                begins.append(at)
                try:
                    at += sizes[infos[at]]
                except KeyError:
                    info = infos[at]
                    sizes[info] = size = _size(info)
                    at += size
        except IndexError:
            begins.pop()
            if at != len(self._all):
                raise ValueError("an incomplete BTF") from None
            if at == self._next:
                raise ValueError("there is no such type") from None
        finally:
            self._next = at

    def _type(self, type_id: int) -> Type:
        found = self._known.get(type_id)
        if found is None:
            if type_id > _MOST:
                raise ValueError(f"the type {type_id} is far from the beginning")
            while type_id >= len(self._begins):
                self._index()
            at = self._begins[type_id]
            name, info, size_or_type = self._all[at : at + 3]
            found = self._known[type_id] = Type.of(name, info, size_or_type, at + 3)
        return found

    def _words(self, place: int, count: int) -> Sequence[int]:
        found = self._all[place : place + count].tolist()
        if len(found) != count:
            raise ValueError("an incomplete type")
        return found

    def _name(self, offset: int) -> str:
        start = self._names.start + offset
        end = self._data.find(b"\0", start, self._names.stop)
        if end < 0:
            raise ValueError("a name is outside of the table")
        return self._data[start:end].decode()


def _size(info: int) -> int:
    """The number of words of a type, by its word info."""
    kind = info >> 24 & 0x1F
    if kind not in _KINDS:
        raise ValueError(f"types of the unknown kind {kind}")
    return _ALWAYS.get(kind, 3) + _FOR_EACH.get(kind, 0) * (info & 0xFFFF)
