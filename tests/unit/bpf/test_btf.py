# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is read of the kernel's type information, and what is made of its lack."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import BtfNotFoundError, MemcgError, _options
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import btf_types as _btf_types
from pymemcgbpf._bpf import raw_btf as _raw_btf

from ..fake_libbpf import FakeLibbpf, installed
from ..kernels import DIRECT, HUGE_PAGE, KERNELS, LINUX_5_10, LINUX_5_15, VMSTATS_AT, Kernel
from .btf_bytes import Described, encode

VMLINUX = _btf._vmlinux


class Kernels:
    """One kernel's types, instead of those that _btf.Types reads."""

    def __init__(self, kernel: Kernel) -> None:
        self.types = kernel.types()
        self.types = self.types._replace(words_type=self.struct_id("memcg_vmstats"))

    def __call__(self, lib: Any, btf: Any) -> Kernels:
        return self

    def enumerators(self, enum: str) -> dict[str, int]:
        if enum == "cgroup_subsys_id":
            return {"cpu_cgrp_id": 1, "memory_cgrp_id": self.types.memory_cgrp_id or 0}
        if enum in _btf._ENUMS:
            mine = "MEMCG_" if enum == "memcg_memory_event" else "PSI_"
            others = self.types.enumerators.items()
            return {name: value for name, value in others if name.startswith(mine)}
        if enum == "bpf_cgroup_iter_order":
            return {f"order {value}": value for value in self.types.iterator_orders}
        counters = self.types.counters.items()
        return {name: value for name, (its, value) in counters if its == enum}

    def struct_id(self, struct: str) -> int:
        structs = [*self.types.structs]
        return structs.index(struct) + 1 if struct in structs else 0

    def id_behind(self, type_id: int, member: str) -> int:
        structs = [*self.types.structs]
        behind = {(struct, name): found for struct, name, found in _btf._STRUCTS_BEHIND}
        return self.struct_id(behind[structs[type_id - 1], member]) if type_id else 0

    def members_of(self, type_id: int) -> Iterator[tuple[str, _btf.Member]]:
        yield from [*self.types.structs.values()][type_id - 1].items()

    def has_function(self, name: str) -> bool:
        return name in self.types.functions


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibbpf]:
    monkeypatch.setattr(_btf, "_kernel", None)
    monkeypatch.setattr(_btf, "_vmlinux", lambda: None)
    with installed(monkeypatch) as fake:
        yield fake


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_all_that_is_needed_is_read_once(
    kernel: Kernel, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "Types", Kernels(kernel))
    types = _btf.kernel()
    assert types == Kernels(kernel).types
    assert _btf.kernel() is types
    read = [call for call in lib.calls if call.startswith("btf__")]
    assert read == ["btf__load_vmlinux_btf", "btf__free"], "the megabytes of BTF are freed"


def test_libbpf_is_given_the_bytes_where_it_must_be_asked(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "Types", Kernels(KERNELS["6.1"]))
    monkeypatch.setattr(_btf, "_vmlinux", lambda: bytearray(100))
    assert _btf.kernel() == Kernels(KERNELS["6.1"]).types
    assert [call for call in lib.calls if call.startswith("btf__")] == ["btf__new", "btf__free"]
    lib.calls.clear()
    lib.fails["btf__new"] = errno.EINVAL
    monkeypatch.setattr(_btf, "_kernel", None)
    assert _btf.kernel() == Kernels(KERNELS["6.1"]).types
    read = [call for call in lib.calls if call.startswith("btf__")]
    assert read == ["btf__new", "btf__load_vmlinux_btf", "btf__free"], "it says what is wrong"


@pytest.mark.parametrize("where", ["file", "look-ups", "libbpf"])
def test_a_lack_of_memory_is_no_damage(
    where: str, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: object) -> bytearray:
        raise MemoryError

    monkeypatch.setattr(_btf, "_vmlinux", VMLINUX)
    if where == "file":
        monkeypatch.setattr(_raw_btf, "vmlinux", give_up)
    else:
        monkeypatch.setattr(_raw_btf, "vmlinux", lambda path: bytearray(100))
    if where == "look-ups":
        monkeypatch.setattr(_raw_btf, "RawTypes", give_up)
    lib.fails["btf__new"] = errno.ENOMEM
    with pytest.raises(MemcgError) as caught:
        _btf.kernel()
    assert (type(caught.value), caught.value.errno) == (MemcgError, errno.ENOMEM)


def test_libbpf_is_not_asked_where_the_bytes_tell_all(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No name is there but these, so that no function has to be looked for.
    memcg = (_btf_types.STRUCT, "mem_cgroup", 8, ("vmstats", 2, 0))
    monkeypatch.setattr(_btf, "_vmlinux", lambda: encode(memcg, (1, "int", 4, (32,))))
    assert _btf.kernel().structs == {"mem_cgroup": {"vmstats": _btf.Member(0)}}
    assert not [call for call in lib.calls if call.startswith("btf__")]


@pytest.mark.parametrize(
    ("text", "size"), [(f"{HUGE_PAGE}\n", HUGE_PAGE), ("", 0), ("none\n", 0), (None, 0)]
)
def test_the_size_of_a_huge_page_is_asked_for_where_it_matters(
    text: Optional[str],
    size: int,
    lib: FakeLibbpf,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "hpage_pmd_size"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(_btf, "HUGE_PAGE_SIZE", str(file))
    for kernel in DIRECT.values():
        monkeypatch.setattr(_btf, "_kernel", None)
        monkeypatch.setattr(_btf, "Types", Kernels(kernel))
        expected = size if kernel is LINUX_5_10 else 0
        assert _btf.kernel() == Kernels(kernel).types._replace(huge_page_size=expected)


def test_a_shortage_does_not_hide_the_size_of_a_huge_page(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(_btf, "Types", Kernels(LINUX_5_10))
    monkeypatch.setattr(_btf, "open", refuse, raising=False)
    with pytest.raises(OSError, match="too many"):
        _btf.kernel()
    assert _btf._kernel is None


def test_the_arrays_of_counters_of_each_form() -> None:
    for kernel in (*DIRECT.values(), *KERNELS.values()):
        types = kernel.types()
        state, events = types.vmstats["state"], types.vmstats["events"]
        assert (state.offset, events.offset) == (0, 8 * state.length)
        assert types.uses_rstat is (kernel is not LINUX_5_10)
    own = LINUX_5_10.types().structs["mem_cgroup"]
    assert own["vmevents"].offset == VMSTATS_AT + 8 * own["vmstats"].length


@pytest.mark.parametrize("without", ["vmstats", "vmevents"])
def test_one_array_alone_is_not_enough(without: str) -> None:
    types = LINUX_5_10.types()
    own = {key: value for key, value in types.structs["mem_cgroup"].items() if key != without}
    assert types._replace(structs={**types.structs, "mem_cgroup": own}).vmstats == {}
    assert LINUX_5_15.types()._replace(structs={}).vmstats == {}


def test_only_newer_iterators_walk_children() -> None:
    orders = {name: kernel.types().iterator_orders for name, kernel in KERNELS.items()}
    common = {_options.SELF, _options.PRE, _options.POST, _options.UP}
    assert all(common <= each for each in orders.values())
    assert [name for name, each in orders.items() if _options.CHILDREN in each] == ["7.3"]


def test_an_older_kernel_s_iterators_know_no_cgroups(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Kernels(KERNELS["6.1"])
    old.types = old.types._replace(iterator_orders=frozenset(), functions=frozenset())
    monkeypatch.setattr(_btf, "Types", old)
    assert _btf.kernel().iterator_orders == frozenset()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL, errno.ESRCH])
def test_a_kernel_without_btf(
    number: int, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_btf, "VMLINUX", str(tmp_path / "btf" / "vmlinux"))
    lib.fails["btf__load_vmlinux_btf"] = number
    with pytest.raises(BtfNotFoundError, match="CONFIG_DEBUG_INFO_BTF") as caught:
        _btf.kernel()
    assert (caught.value.errno, caught.value.call) == (number, "btf__load_vmlinux_btf")
    assert _btf._kernel is None


def test_btf_that_is_there_and_cannot_be_understood_is_not_called_missing(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vmlinux").write_bytes(b"garbage")
    monkeypatch.setattr(_btf, "VMLINUX", str(tmp_path / "vmlinux"))
    lib.fails["btf__load_vmlinux_btf"] = errno.ESRCH
    with pytest.raises(BtfNotFoundError, match=r"vmlinux, .* is damaged or .*newer libbpf$"):
        _btf.kernel()
    lib.fails.clear()
    for error in (ValueError("x"), IndexError(), MemcgError("x", errno=errno.EINVAL)):
        monkeypatch.setattr(_btf, "_facts", raising(error))
        with pytest.raises(BtfNotFoundError, match="is damaged") as caught:
            _btf.kernel()
        assert caught.value.errno == (getattr(error, "errno", None) or errno.EOPNOTSUPP)
    shortage = MemcgError("x", errno=errno.ENOMEM)
    monkeypatch.setattr(_btf, "_facts", raising(shortage))
    with pytest.raises(MemcgError) as raised:
        _btf.kernel()
    assert raised.value is shortage
    opened = lib.calls.count("btf__load_vmlinux_btf") - 2  # the first failed, twice
    assert lib.calls.count("btf__free") == opened


def raising(error: Exception) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise error

    return refuse


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_btf_that_cannot_be_read_is_not_called_missing(
    number: int, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "opened_at", raising(OSError(number, os.strerror(number), "it")))
    lib.fails["btf__load_vmlinux_btf"] = errno.ESRCH
    with pytest.raises(BtfNotFoundError, match=rf"cannot be read \(.* \({number}\)\): ") as caught:
        _btf.kernel()
    assert (caught.value.errno, caught.value.call) == (number, "open")


def test_btf_that_cannot_be_opened_now_is_a_shortage(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "opened_at", raising(OSError(errno.EMFILE, "too many", "it")))
    lib.fails["btf__load_vmlinux_btf"] = errno.ESRCH
    with pytest.raises(MemcgError) as caught:
        _btf.kernel()
    assert (type(caught.value), caught.value.errno) == (MemcgError, errno.EMFILE)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_is_no_lack_of_btf(
    number: int, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib.fails["btf__load_vmlinux_btf"] = number
    with pytest.raises(MemcgError) as caught:
        _btf.kernel()
    assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    lib.fails.clear()
    monkeypatch.setattr(_btf, "Types", Kernels(KERNELS["6.1"]))
    assert _btf.kernel() == Kernels(KERNELS["6.1"]).types, "asked again"


def test_types_that_cannot_be_read_are_let_go(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise MemcgError("no", errno=errno.EINVAL, call="btf__type_by_id")

    monkeypatch.setattr(_btf, "Types", refuse)
    with pytest.raises(MemcgError):
        _btf.kernel()
    assert lib.calls.count("btf__load_vmlinux_btf") == lib.calls.count("btf__free") > 0


# --- structures -----------------------------------------------------------------------


class RawTypes:
    """A libbpf whose BTF has these types: kind, name, size or type, and the words of the members.

    The number of a type is its place, from 1 on. 0 is void.
    """

    def __init__(self, *types: tuple[int, str, int, tuple[Any, ...]]) -> None:
        self.names: list[str] = []
        self._types = [self._encode(*each) for each in ((0, "", 0, ()), *types)]
        self._kinds = [(kind, name) for kind, name, _, _ in types]

    def _encode(self, kind: int, name: str, size: int, members: tuple[Any, ...]) -> Any:
        words = [self._offset(word) if isinstance(word, str) else word for word in members]
        count = len(words) // 3 if kind in (_btf_types.STRUCT, _btf_types.UNION) else 0
        head = [self._offset(name), kind << 24 | count, size]
        return (ctypes.c_uint32 * (len(head) + len(words)))(*head, *words)

    def _offset(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def btf__type_by_id(self, btf: Any, type_id: int) -> int:
        return ctypes.addressof(self._types[type_id])

    def btf__name_by_offset(self, btf: Any, offset: int) -> bytes:
        return self.names[offset].encode()

    def btf__find_by_name_kind(self, btf: Any, name: bytes, kind: int) -> int:
        wanted = (kind, name.decode())
        return self._kinds.index(wanted) + 1 if wanted in self._kinds else -errno.ENOENT


MakeTypes = Callable[..., _btf_types.Lookups]


@pytest.fixture(params=["through libbpf", "in the bytes"])
def raw_types(request: pytest.FixtureRequest) -> MakeTypes:
    """Makes look-ups in some types."""

    def make(*types: Described) -> _btf_types.Lookups:
        if request.param == "in the bytes":
            return _raw_btf.RawTypes(encode(*types))
        lib: Any = RawTypes(*types)
        return _btf.Types(lib, None)

    return make


INT, POINTER, FORWARD, TYPEDEF, VOLATILE, CONST, TYPE_TAG = 1, _btf_types.POINTER, 7, 8, 9, 10, 18
STRUCT, UNION = _btf_types.STRUCT, _btf_types.UNION
FILE = (STRUCT, "file", 8, ("f_flags", 2, 0))  # always the first
NUMBER = (INT, "int", 4, (32,))

# What a member of struct outer, the third type, is: the types from the fourth on.
LEADS = {
    "the structure itself": ([], 1),
    "a pointer": ([(POINTER, "", 1, ())], 4),
    "a pointer to a pointer": ([(POINTER, "", 5, ()), (POINTER, "", 1, ())], 4),
    "a pointer to const": ([(POINTER, "", 5, ()), (CONST, "", 1, ())], 4),
    "a volatile pointer": ([(VOLATILE, "", 5, ()), (POINTER, "", 1, ())], 4),
    "a typedef": ([(TYPEDEF, "file_t", 1, ())], 4),
    # struct file __rcu **fd of struct fdtable
    "with a type tag": (
        [(POINTER, "", 5, ()), (POINTER, "", 6, ()), (TYPE_TAG, "rcu", 1, ())],
        4,
    ),
    "with a type tag between": (
        [(POINTER, "", 5, ()), (TYPE_TAG, "rcu", 6, ()), (POINTER, "", 1, ())],
        4,
    ),
}


@pytest.mark.parametrize(("more", "type_id"), LEADS.values(), ids=LEADS)
def test_a_member_leads_to_its_structure(
    more: list[Any], type_id: int, raw_types: MakeTypes
) -> None:
    outer = (STRUCT, "outer", 16, ("other", 2, 0, "member", type_id, 64))
    types = raw_types(FILE, NUMBER, outer, *more)
    assert types.id_behind(types.struct_id("outer"), "member") == 1
    assert dict(types.members_of(1)) == {"f_flags": _btf.Member(0)}


def test_members_of_an_unnamed_member_lead_on_as_well(raw_types: MakeTypes) -> None:
    # As in a kernel with CONFIG_RANDSTRUCT.
    outer = (STRUCT, "outer", 16, ("other", 2, 0, "", 4, 64))
    inner = (STRUCT, "", 8, ("a", 2, 0, "member", 5, 0))
    types = raw_types(FILE, NUMBER, outer, inner, (POINTER, "", 1, ()))
    assert types.id_behind(3, "member") == 1
    assert types.id_behind(3, "none") == 0


NOWHERE = {
    "a number": ([], 2),
    "a pointer to a number": ([(POINTER, "", 2, ())], 4),
    "a pointer to void": ([(POINTER, "", 0, ())], 4),
    "a structure that is only declared": ([(POINTER, "", 5, ()), (FORWARD, "file", 0, ())], 4),
    "a union": ([(UNION, "u", 8, ("a", 2, 0))], 4),
}


@pytest.mark.parametrize(("more", "type_id"), NOWHERE.values(), ids=NOWHERE)
def test_a_member_that_leads_to_no_structure(
    more: list[Any], type_id: int, raw_types: MakeTypes
) -> None:
    outer = (STRUCT, "outer", 16, ("member", type_id, 0))
    assert raw_types(FILE, NUMBER, outer, *more).id_behind(3, "member") == 0


def test_a_member_that_is_missing_leads_nowhere(raw_types: MakeTypes) -> None:
    types = raw_types(FILE, NUMBER)
    assert types.id_behind(1, "f_inode") == 0
    assert types.struct_id("inode") == 0
    assert types.struct_id("int") == 0, "it is no structure"
    assert types.id_behind(0, "f_flags") == 0, "nor does one of a structure that is missing"


def test_what_leads_nowhere_is_left_out_of_the_structures(raw_types: MakeTypes) -> None:
    kernfs_node = (STRUCT, "kernfs_node", 8, ("id", 2, 0))
    cgroup = (STRUCT, "cgroup", 16, ("self", 2, 0, "kn", 4, 64))
    types = raw_types(kernfs_node, NUMBER, cgroup, (POINTER, "", 1, ()))
    found = _btf._facts(types)
    assert found.structs == {
        "cgroup": {"self": _btf.Member(0), "kn": _btf.Member(8, 0, True)},
        "kernfs_node": {"id": _btf.Member(0)},
    }
    assert found.words_type == 0


def test_the_structure_of_words_is_told_by_its_number(raw_types: MakeTypes) -> None:
    vmstats = (STRUCT, "memcg_vmstats", 8, ("state", 2, 0))
    memcg = (STRUCT, "mem_cgroup", 8, ("vmstats", 4, 0))
    types = raw_types(vmstats, NUMBER, memcg, (POINTER, "", 1, ()))
    assert _btf._facts(types).words_type == 1


def test_the_members_of_unnamed_members_belong_to_the_structure(raw_types: MakeTypes) -> None:
    unnamed = (UNION, "", 8, ("number", 2, 0, "", 4, 0))
    inner = (STRUCT, "", 8, ("low", 2, 0, "high", 2, 32))
    outer = (STRUCT, "outer", 16, ("first", 2, 0, "", 1, 64))
    types = raw_types(unnamed, NUMBER, outer, inner)
    assert dict(types.members_of(types.struct_id("outer"))) == {
        "first": _btf.Member(0),
        "number": _btf.Member(8),
        "low": _btf.Member(8),
        "high": _btf.Member(12),
    }


def test_each_structure_behind_another_is_listed_after_it() -> None:
    known = {*_btf._STRUCTS}
    for struct, _, behind in _btf._STRUCTS_BEHIND:
        assert struct in known
        known.add(behind)
