# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the running kernel's BTF says: enumerators, array lengths, functions.

Read once per process; the type information itself (megabytes) is let go at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from . import _fork, _libbpf
from .errors import SHORTAGES, BtfNotFoundError, MemcgError

VMLINUX = "/sys/kernel/btf/vmlinux"

# enum btf_kind
_ARRAY, _STRUCT, _ENUM, _FUNC, _DATASEC, _ENUM64 = 3, 4, 6, 12, 15, 19

_COUNTER_ENUMS = ("node_stat_item", "memcg_stat_item", "vm_event_item")
_PROBED_FUNCTIONS = (
    "bpf_get_mem_cgroup",
    "bpf_mem_cgroup_flush_stats",
    "memcg_node_stat_fetch",
    "cgroup_rstat_flush",
    "bpf_cgroup_from_id",
    "bpf_iter_css_new",
)


class ArrayMember(NamedTuple):
    """An array in a structure: its offset in bytes and its length in elements."""

    offset: int
    length: int


class KernelTypes(NamedTuple):
    """The facts about the running kernel that the readers need.

    Attributes:
        counters: enumerator's name → (its enum's name, value), of the enums that
            hold memory counters.
        memory_cgrp_id: the memory controller's number, or None.
        vmstats: the array members of struct memcg_vmstats by name.
        functions: those of the probed functions that the kernel has.
        iterator_orders: what a cgroup iterator can walk in, enum bpf_cgroup_iter_order.
    """

    counters: dict[str, tuple[str, int]]
    memory_cgrp_id: Optional[int]
    vmstats: dict[str, ArrayMember]
    functions: frozenset[str]
    iterator_orders: frozenset[int]


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
    return _libbpf.explained(lambda log: _read_vmlinux(lib, log))


def _read_vmlinux(lib: _libbpf.Libbpf, log: list[str]) -> KernelTypes:
    try:
        btf = lib.btf__load_vmlinux_btf()
    except MemcgError as error:
        if error.errno in SHORTAGES:
            raise
        raise BtfNotFoundError(
            f"this kernel offers no BTF type information ({VMLINUX}): "
            "it needs CONFIG_DEBUG_INFO_BTF=y, and /sys mounted",
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
        return KernelTypes(
            counters,
            types.enumerators("cgroup_subsys_id").get("memory_cgrp_id"),
            types.array_members("memcg_vmstats"),
            frozenset(name for name in _PROBED_FUNCTIONS if types.has_function(name)),
            frozenset(types.enumerators("bpf_cgroup_iter_order").values()),
        )
    finally:
        lib.btf__free(btf)


class Types:
    """Look-ups in one ``struct btf``, the kernel's or an object's own."""

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
        """(kind, number of members, name's offset, size or type, address of the members)"""
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
        """Whether there is a function of this name (not whether it may be called)."""
        return self._find(name, _FUNC) > 0

    def enumerators(self, enum: str) -> dict[str, int]:
        """Name → value; empty where there is no such enum."""
        type_id = self._find(enum, _ENUM, _ENUM64)
        if not type_id:
            return {}
        kind, count, _, _, members = self._type(type_id)
        stride = 2 if kind == _ENUM else 3  # name, value (and its upper half)
        words = self._words(members, stride * count)
        return {self._name(words[at]): words[at + 1] for at in range(0, stride * count, stride)}

    def array_members(self, struct: str) -> dict[str, ArrayMember]:
        """The members of a structure that are arrays; empty where there is no such one."""
        type_id = self._find(struct, _STRUCT)
        if not type_id:
            return {}
        _, count, _, _, members = self._type(type_id)
        words = self._words(members, 3 * count)  # name, type, offset in bits
        arrays = {}
        for at in range(0, 3 * count, 3):
            kind, _, _, _, after = self._type(words[at + 1])
            if kind == _ARRAY:
                length = self._words(after, 3)[2]  # element type, index type, length
                # The upper byte is a bit field's size where the structure has any.
                offset = (words[at + 2] & 0xFFFFFF) // 8
                arrays[self._name(words[at])] = ArrayMember(offset, length)
        return arrays

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Name → (offset, size) of the global variables in one of an object's sections."""
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
