# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Look-ups in the bytes of a BTF: what is found, and what is left to libbpf."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import btf_types as _btf_types
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._bpf import raw_btf as _raw_btf
from pymemcgbpf._bpf.btf_types import ENUM, ENUM64, FUNC, STRUCT
from pymemcgbpf._bpf.raw_btf import RawTypes

from .btf_bytes import Described, encode, with_header

INT: Described = (1, "int", 4, (32,))
PROTOTYPE: Described = (13, "", 1, ("argument", 1))
# Functions are recognised without an index if the offsets of their names are higher than any number
# of a type, as they always are in a kernel.
LONG = "a_name_that_comes_first_" * 8


def test_each_kind_of_type_has_its_length() -> None:
    kinds: list[Described] = [
        INT,
        (2, "", 1, ()),  # pointer
        (3, "", 0, (1, 1, 5)),  # array
        (STRUCT, "s", 8, ("a", 1, 0, "b", 1, 32)),
        (5, "u", 4, ("a", 1, 0)),
        (ENUM, "e", 4, ("E0", 0, "E1", 7)),
        (7, "forward", 0, ()),
        (8, "typedef", 1, ()),
        (9, "", 1, ()),
        (10, "", 1, ()),
        (11, "", 1, ()),
        PROTOTYPE,
        (FUNC, "f", 12, ()),
        (14, "v", 1, (1,)),
        (15, ".data", 4, (14, 0, 4)),
        (16, "float", 4, ()),
        (17, "tag", 4, (0,)),
        (18, "type tag", 1, ()),
        (ENUM64, "e64", 8, ("BIG", 9, 1)),
        (STRUCT, "last", 4, ("x", 1, 0)),
    ]
    types = RawTypes(encode(*kinds, before=LONG))
    assert [types._type(at + 1).kind for at in range(len(kinds))] == [each[0] for each in kinds]
    assert types.struct_id("last") == len(kinds)
    assert dict(types.members_of(types.struct_id("s"))) == {
        "a": _btf_types.Member(0),
        "b": _btf_types.Member(4),
    }
    assert types.enumerators("e") == {"E0": 0, "E1": 7}
    assert types.enumerators("e64") == {"BIG": 9}
    assert types.variables(".data") == {"v": (0, 4)}
    assert types.has_function("f") and not types.has_function("s")


def test_what_is_not_there() -> None:
    types = RawTypes(encode(INT, (STRUCT, "file", 4, ("f", 1, 0)), before=LONG))
    assert types.struct_id("none") == types.struct_id("int") == types.struct_id("f") == 0
    assert types.enumerators("file") == {}
    assert not types.has_function("none")


def test_a_name_is_whole() -> None:
    file: Described = (STRUCT, "my_file", 4, ("f", 1, 0))
    types = RawTypes(encode(INT, file, (FUNC, "my_open", 1, ()), before=LONG))
    for part in ("file", "my_fil", "my_", "e"):
        assert types.struct_id(part) == 0
    for part in ("open", "my_ope"):
        assert not types.has_function(part)


def test_the_first_of_two_counts_as_with_libbpf() -> None:
    one: Described = (STRUCT, "twice", 4, ("a", 1, 0))
    other: Described = (STRUCT, "twice", 4, ("b", 1, 0))
    assert RawTypes(encode(INT, one, other)).struct_id("twice") == 2


def test_a_type_begins_only_where_the_index_says_so() -> None:
    # The words of an enumerator: the name "cgroup", and a value that looks like a structure of two
    # members. The next words look like its size and its first member.
    as_if = STRUCT << 24 | 2
    enum: Described = (ENUM, "e", 4, ("cgroup", as_if, "x", 1, "y", 2, "z", 3))
    assert RawTypes(encode(INT, enum)).struct_id("cgroup") == 0
    real: Described = (STRUCT, "cgroup", 4, ("self", 1, 0))
    assert RawTypes(encode(INT, enum, real)).struct_id("cgroup") == 3


def test_a_function_must_be_aligned() -> None:
    name_at = 1 + len(LONG) + 1
    needle = struct.pack("=2I", name_at, FUNC << 24)
    shifted = b"\0" * 3 + needle + b"\0" * 5
    names = b"\0" + LONG.encode() + b"\0f\0" + b"g\0"
    assert not RawTypes(with_header(shifted, names)).has_function("f")
    both = shifted + needle + bytes(4)
    assert RawTypes(with_header(both, names)).has_function("f")


@pytest.mark.parametrize("linkage", [0, 1, 2])
def test_a_function_of_any_linkage(linkage: int) -> None:
    names = b"\0" + LONG.encode() + b"\0f\0"
    head = struct.pack("=3I", 2 + len(LONG), FUNC << 24 | linkage, 1)
    assert RawTypes(with_header(head, names)).has_function("f")


def test_a_function_whose_name_comes_too_early_is_left_to_libbpf() -> None:
    # Its offset could be the number of a type.
    types = RawTypes(encode((FUNC, "f", 1, ()), *[INT] * 30))
    with pytest.raises(ValueError, match="too few"):
        types.has_function("f")


@pytest.mark.parametrize("place", range(0, 40, 3))
def test_a_function_is_found_wherever_it_is(place: int) -> None:
    many: list[Described] = [(FUNC, f"function_{at}", 1, ()) for at in range(40)]
    types = RawTypes(encode(*reversed(many), before=LONG))
    assert types.has_function(f"function_{place}")
    types = RawTypes(encode(*many, before=LONG))
    assert types.has_function(f"function_{place}")
    assert not types.has_function("function_40")


def test_what_is_far_from_the_beginning_is_left_to_libbpf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far: Described = (STRUCT, "far", 4, ("a", 1, 0))
    data = encode(INT, (STRUCT, "near", 4, ("a", 1, 0)), *[INT] * 2000, far)
    assert RawTypes(data).struct_id("far") == 2003
    monkeypatch.setattr(_raw_btf, "_FARTHEST", 1000)
    monkeypatch.setattr(_raw_btf, "_MOST", 2000)
    types = RawTypes(data)
    assert types.struct_id("near") == 2
    with pytest.raises(ValueError, match="far is far"):
        types.struct_id("far")
    with pytest.raises(ValueError, match="2003 is far"):
        types._type(2003)
    assert len(types._begins) < 2000, "nothing was counted in vain"


def test_a_kind_of_the_future_is_left_to_libbpf() -> None:
    types = RawTypes(encode(INT, (20, "news", 0, ()), (STRUCT, "s", 4, ("a", 1, 0))))
    with pytest.raises(ValueError, match="kind 20"):
        types.struct_id("s")


GOOD = encode(INT, (STRUCT, "s", 4, ("a", 1, 0)))


@pytest.mark.parametrize(
    "data",
    [
        bytearray(),
        GOOD[:23],
        GOOD[:-1],
        bytearray(b"\x9f\xeb\x02") + GOOD[3:],  # version 2
        bytearray(b"\xeb\x9f") + GOOD[2:],  # the other byte order
        bytearray(len(GOOD)),
        GOOD[:4] + bytearray(60),  # a header of no length, and no types
    ],
)
def test_what_is_no_btf(data: bytearray) -> None:
    with pytest.raises(ValueError, match="BTF"):
        RawTypes(data)


def test_types_that_end_too_early() -> None:
    names = b"\0s\0a\0"
    cut = struct.pack("=6I", 1, STRUCT << 24 | 2, 8, 3, 1, 0)  # the second member is missing
    with pytest.raises(ValueError, match="incomplete"):
        RawTypes(with_header(cut, names)).struct_id("s")


def test_a_number_that_no_type_has() -> None:
    types = RawTypes(GOOD)
    assert types._type(2).kind == STRUCT
    for _ in range(2):
        with pytest.raises(ValueError, match="no such type"):
            types._type(3)


def test_a_name_outside_of_the_table() -> None:
    types = RawTypes(with_header(struct.pack("=6I", 1, STRUCT << 24 | 1, 8, 99, 0, 0), b"\0s\0"))
    with pytest.raises(ValueError, match="name"):
        list(types.members_of(1))


def test_a_file_that_cannot_be_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no")

    file = tmp_path / "vmlinux"
    file.write_bytes(GOOD)
    assert bytes(_raw_btf.vmlinux(str(file))[:]) == bytes(GOOD)
    monkeypatch.setattr(_libbpf_maps, "map_memory", refuse)
    read = _raw_btf.vmlinux(str(file))
    assert isinstance(read, bytearray) and read == GOOD
    with pytest.raises(OSError, match="vmlinux"):
        _raw_btf.vmlinux(str(tmp_path / "no" / "vmlinux"))


def test_the_kernel_s_btf_is_none_where_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "VMLINUX", str(tmp_path / "vmlinux"))
    assert _btf._vmlinux() is None
    (tmp_path / "vmlinux").write_bytes(b"")
    assert not _btf._vmlinux()


def test_a_name_s_offset_may_be_the_last_word_of_all() -> None:
    names = b"\0s\0"
    types = struct.pack("=4I", 0, 1 << 24, 4, 32) + struct.pack("=5I", 0, 13 << 24 | 1, 0, 0, 1)
    sizes = (24, 0, len(types), len(types), len(names))
    header = struct.pack("=HBB5I", 0xEB9F, 1, 0, *sizes)
    assert RawTypes(bytearray(header + types + names)).struct_id("s") == 0
