# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is looked up in type information (BTF), however its types are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._records import Record

# enum btf_kind
POINTER, ARRAY, STRUCT, UNION, ENUM, FUNC, DATASEC, ENUM64 = 2, 3, 4, 5, 6, 12, 15, 19

# pointer, typedef, volatile, const, restrict, type tag
LEADS_ON = (POINTER, 8, 9, 10, 11, 18)


class Member(Record):
    """A member of a structure: its offset in bytes, and the number of elements of an array."""

    offset: int
    length: int = 0
    is_pointer: bool = False


class Type(Record):
    """A ``struct btf_type``.

    Attributes:
        kind: its kind.
        nr_members: the number of its members.
        name: where its name is.
        size_or_type: its size, or the number of the type that it leads to.
        members: where its members are.
    """

    kind: int
    nr_members: int
    name: int
    size_or_type: int
    members: int

    @classmethod
    def of(cls, name: int, info: int, size_or_type: int, members: int) -> Type:
        """The type with these three words."""
        return cls(info >> 24 & 0x1F, info & 0xFFFF, name, size_or_type, members)


class Lookups:
    """Look-ups in the types of the kernel or of an object."""

    def _find(self, name: str, *kinds: int) -> int:
        """The number of the first type of this name and one of these kinds; 0 if there is none."""
        raise NotImplementedError

    def _type(self, type_id: int) -> Type:
        """A type by its number."""
        raise NotImplementedError

    def _words(self, place: int, count: int) -> Sequence[int]:
        """The numbers at a place that a :class:`Type` names."""
        raise NotImplementedError

    def _name(self, offset: int) -> str:
        """The name at an offset in the table of names."""
        raise NotImplementedError

    def has_function(self, name: str) -> bool:
        """Whether a function of this name exists. BPF may be forbidden to call it."""
        return self._find(name, FUNC) > 0

    def enumerators(self, enum: str) -> dict[str, int]:
        """The values of an enum by name; empty if there is no such enum."""
        type_id = self._find(enum, ENUM, ENUM64)
        if not type_id:
            return {}
        kind, count, _, _, members = self._type(type_id)
        stride = 2 if kind == ENUM else 3  # name, value (and its upper half)
        words = self._words(members, stride * count)
        return {self._name(words[at]): words[at + 1] for at in range(0, stride * count, stride)}

    def struct_id(self, struct: str) -> int:
        """The number of a structure's type; 0 if there is no such structure."""
        return self._find(struct, STRUCT)

    def id_behind(self, type_id: int, member: str) -> int:
        """The number of the structure that a member of a structure is or points to; 0 if there is
        none."""
        if not type_id:
            return 0
        _, count, _, _, members = self._type(type_id)
        words = self._words(members, 3 * count)
        for at in range(0, 3 * count, 3):
            name, type_id = self._name(words[at]), words[at + 1]
            kind, _, _, behind, _ = self._type(type_id) if name in ("", member) else (0,) * 5
            if name == member:
                while kind in LEADS_ON:
                    type_id = behind
                    kind, _, _, behind, _ = self._type(type_id)
                return type_id if kind == STRUCT else 0
            if kind in (STRUCT, UNION):  # unnamed: its members are the structure's own
                found = self.id_behind(type_id, member)
                if found:
                    return found
        return 0

    def members_of(self, type_id: int, start: int = 0) -> Iterator[tuple[str, Member]]:
        """The members of a structure with their names, including those of unnamed members."""
        _, count, _, _, members = self._type(type_id)
        words = self._words(members, 3 * count)  # name, type, offset in bits
        for at in range(0, 3 * count, 3):
            name = self._name(words[at])
            # In a structure with bit fields the upper byte is the size of the bit field.
            offset = start + (words[at + 2] & 0xFFFFFF) // 8
            kind, _, _, _, after = self._type(words[at + 1])
            if not name and kind in (STRUCT, UNION):
                yield from self.members_of(words[at + 1], offset)
            elif kind == ARRAY:
                yield name, Member(offset, self._words(after, 3)[2])  # element, index, length
            else:
                yield name, Member(offset, 0, kind == POINTER)

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """The offset and size of each global variable in a section of an object, by name."""
        type_id = self._find(section, DATASEC)
        if not type_id:
            return {}
        _, count, _, _, members = self._type(type_id)
        words = self._words(members, 3 * count)  # type, offset, size
        found = {}
        for at in range(0, 3 * count, 3):
            _, _, name, _, _ = self._type(words[at])
            found[self._name(name)] = (words[at + 1], words[at + 2])
        return found
