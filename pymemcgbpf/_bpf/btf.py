# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the running kernel's BTF says: enumerators, members of structures, functions.

It is read once per process. The type information itself takes megabytes and is freed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from .. import _fork, _signals
from ..errors import BtfNotFoundError, MemcgError, is_transient
from .bindings import libbpf as _libbpf
from .bindings import libbpf_log as _libbpf_log
from .features import FEATURES

VMLINUX = "/sys/kernel/btf/vmlinux"

# enum btf_kind
_POINTER, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC, _DATASEC, _ENUM64 = 2, 3, 4, 5, 6, 12, 15, 19

# pointer, typedef, volatile, const, restrict, type tag
_LEADS_ON = (_POINTER, 8, 9, 10, 11, 18)

_COUNTER_ENUMS = ("node_stat_item", "memcg_stat_item", "vm_event_item")

# Other enums whose values are indices or arguments, and the structures with numbers in them.
_ENUMS = ("memcg_memory_event", "psi_states")
_STRUCTS = (
    "cgroup",
    "lruvec_stats",
    "mem_cgroup",
    "mem_cgroup_per_node",
    "memcg_vmstats",
    "page_counter",
    "psi_group",
    "task_struct",
)
# Further structures, each behind a member of one that is listed before it. To follow a member is
# much faster than to search for a name.
_STRUCTS_BEHIND = (
    ("cgroup", "self", "cgroup_subsys_state"),
    ("cgroup", "kn", "kernfs_node"),
    ("task_struct", "files", "files_struct"),
    ("files_struct", "fdt", "fdtable"),
    ("fdtable", "fd", "file"),
    ("file", "f_inode", "inode"),
    ("inode", "i_sb", "super_block"),
)

HUGE_PAGE_SIZE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"


class Member(NamedTuple):
    """A member of a structure: its offset in bytes, and the number of elements of an array."""

    offset: int
    length: int = 0
    is_pointer: bool = False


class KernelTypes(NamedTuple):
    """The facts about the running kernel that the readers need.

    Attributes:
        counters: the enum and the value of each memory counter, by the enumerator's name.
        memory_cgrp_id: the number of the memory controller; None if the kernel has none.
        functions: the functions of the table of features that the kernel has.
        iterator_orders: the orders that a cgroup iterator can walk in, of enum
            bpf_cgroup_iter_order.
        enumerators: the values of the other enumerators that are needed, by name.
        structs: the members of each structure that is needed and that the kernel has, by name.
        huge_page_size: the size of a huge page in bytes (HPAGE_PMD_SIZE), if some counter may be in
            huge pages; 0 if that is unknown, or if none is.
    """

    counters: dict[str, tuple[str, int]]
    memory_cgrp_id: Optional[int]
    functions: frozenset[str]
    iterator_orders: frozenset[int]
    enumerators: dict[str, int]
    structs: dict[str, dict[str, Member]]
    huge_page_size: int = 0

    @property
    def vmstats(self) -> dict[str, Member]:
        """The arrays ``state`` and ``events`` that have the counters of a cgroup and its
        descendants; empty if the kernel has none that are known.

        Since Linux 5.13 they are members of struct memcg_vmstats (2d146aa3aa84, mm: memcontrol:
        switch to rstat). Before, they are the members ``vmstats`` and ``vmevents`` of struct
        mem_cgroup, and their offsets count from ``vmstats``.
        """
        found = self.structs.get("memcg_vmstats", {})
        own = self.structs.get("mem_cgroup", {})
        if found or not {"vmstats", "vmevents"} <= own.keys():
            return found
        state, events = own["vmstats"], own["vmevents"]
        return {
            "state": state._replace(offset=0),
            "events": events._replace(offset=events.offset - state.offset),
        }

    @property
    def uses_rstat(self) -> bool:
        """Whether updates of the counters may wait for a flush, as they do since Linux 5.13.

        Before, each CPU adds its updates in batches, and neither memory.stat nor anything else
        flushes them.
        """
        return "vmevents" not in self.structs.get("mem_cgroup", {})


_lock = _fork.renewed_lock(__name__, "_lock")
_kernel: Optional[KernelTypes] = None


def kernel() -> KernelTypes:
    """The running kernel's types, read on the first call.

    Raises:
        BtfNotFoundError: the kernel has no BTF.
        LibbpfNotFoundError, LibbpfTooOldError: libbpf cannot be used.
    """
    global _kernel
    if _kernel is None:
        with _lock:
            if _kernel is None:
                _kernel = _read_kernel()
    return _kernel


def _read_kernel() -> KernelTypes:
    lib = _libbpf.load()
    return _signals.held_back(lambda: _libbpf_log.run_with_log(lambda log: _read_vmlinux(lib, log)))


def _read_vmlinux(lib: _libbpf.Libbpf, log: list[str]) -> KernelTypes:
    try:
        btf = lib.btf__load_vmlinux_btf()
    except MemcgError as error:
        if is_transient(error):
            raise
        raise BtfNotFoundError(
            f"this kernel offers no BTF type information ({VMLINUX})",
            remedy="use a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys",
            errno=error.errno,
            call=error.call,
            log="".join(log),
        ) from error
    try:
        types = Types(lib, btf)
        counters = {}
        for enum in _COUNTER_ENUMS:
            for name, value in types.enumerators(enum).items():
                counters[name] = (enum, value)
        found = KernelTypes(
            counters,
            types.enumerators("cgroup_subsys_id").get("memory_cgrp_id"),
            _functions(types),
            frozenset(types.enumerators("bpf_cgroup_iter_order").values()),
            {name: at for enum in _ENUMS for name, at in types.enumerators(enum).items()},
            _structs(types),
        )
    finally:
        lib.btf__free(btf)
    return found if found.uses_rstat else found._replace(huge_page_size=_huge_page_size())


def _huge_page_size() -> int:
    try:
        with open(HUGE_PAGE_SIZE, encoding="ascii") as file:
            return int(file.read())
    except ValueError:
        return 0
    except OSError as error:  # no huge pages, or no /sys
        if is_transient(error):
            raise
        return 0


def _structs(types: Types) -> dict[str, dict[str, Member]]:
    """The members of each structure that is needed and that the kernel has."""
    ids = {struct: types.struct_id(struct) for struct in _STRUCTS}
    for struct, member, behind in _STRUCTS_BEHIND:
        ids[behind] = types.id_behind(ids[struct], member)
    return {struct: dict(types.members_of(at)) for struct, at in ids.items() if at}


def _functions(types: Types) -> frozenset[str]:
    """The functions of the table of features that the kernel has."""
    # A search for a function that is missing takes longest, because it goes through all BTF.
    first = {name for feature in FEATURES if not feature.beside for name in feature.functions}
    found = set(filter(types.has_function, first))
    for feature in FEATURES:
        if feature.beside in found:
            found.update(filter(types.has_function, feature.functions))
    return frozenset(found)


class Types:
    """Look-ups in one ``struct btf``, that of the kernel or of an object."""

    def __init__(self, lib: _libbpf.Libbpf, btf: Any) -> None:
        self._lib = lib
        self._btf = btf

    def _find(self, name: str, *kinds: int) -> int:
        for kind in kinds:
            type_id: int = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
            if type_id > 0:
                return type_id
        return 0

    def _type(self, type_id: int) -> tuple[int, int, int, int, Any]:
        """The kind, the number of members, the offset of the name, the size or type, and the
        address of the members of a type."""
        pointer = self._lib.btf__type_by_id(self._btf, type_id)
        head = pointer.contents
        kind, count = head.info >> 24 & 0x1F, head.info & 0xFFFF
        return kind, count, head.name_off, head.size_or_type, _libbpf.address_after(pointer)

    def _words(self, address: int, count: int) -> list[int]:
        data = _libbpf.peek(address, 4 * count)
        return list(memoryview(data).cast("I"))

    def _name(self, offset: int) -> str:
        name: Optional[bytes] = self._lib.btf__name_by_offset(self._btf, offset)
        return (name or b"").decode()

    def has_function(self, name: str) -> bool:
        """Whether a function of this name exists. BPF may be forbidden to call it."""
        return self._find(name, _FUNC) > 0

    def enumerators(self, enum: str) -> dict[str, int]:
        """The values of an enum by name; empty if there is no such enum."""
        type_id = self._find(enum, _ENUM, _ENUM64)
        if not type_id:
            return {}
        kind, count, _, _, members = self._type(type_id)
        stride = 2 if kind == _ENUM else 3  # name, value (and its upper half)
        words = self._words(members, stride * count)
        return {self._name(words[at]): words[at + 1] for at in range(0, stride * count, stride)}

    def struct_id(self, struct: str) -> int:
        """The number of a structure's type; 0 if there is no such structure."""
        return self._find(struct, _STRUCT)

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
                while kind in _LEADS_ON:
                    type_id = behind
                    kind, _, _, behind, _ = self._type(type_id)
                return type_id if kind == _STRUCT else 0
            if kind in (_STRUCT, _UNION):  # unnamed: its members are the structure's own
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
            if not name and kind in (_STRUCT, _UNION):
                yield from self.members_of(words[at + 1], offset)
            elif kind == _ARRAY:
                yield name, Member(offset, self._words(after, 3)[2])  # element, index, length
            else:
                yield name, Member(offset, 0, kind == _POINTER)

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """The offset and size of each global variable in a section of an object, by name."""
        type_id = self._find(section, _DATASEC)
        if not type_id:
            return {}
        _, count, _, _, members = self._type(type_id)
        words = self._words(members, 3 * count)  # type, offset, size
        found = {}
        for at in range(0, 3 * count, 3):
            _, _, name, _, _ = self._type(words[at])
            found[self._name(name)] = (words[at + 1], words[at + 2])
        return found
