# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the running kernel's BTF says: enumerators, members of structures, functions.

It is read once per process. The type information itself takes megabytes and is freed afterwards.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Sequence
from struct import Struct
from typing import Any, Callable, Optional, TypeVar

from .. import _fork, _signals
from .._descriptors import opened_at
from .._records import Record
from ..errors import (
    BtfNotFoundError,
    MemcgError,
    errno_text,
    is_transient,
    raise_if_transient,
    shortage,
)
from . import raw_btf as _raw_btf
from .bindings import libbpf as _libbpf
from .bindings import libbpf_log as _libbpf_log
from .bindings import libbpf_maps as _libbpf_maps
from .btf_types import Lookups, Type
from .btf_types import Member as Member
from .features import FEATURES

VMLINUX = "/sys/kernel/btf/vmlinux"

_COUNTER_ENUMS = ("node_stat_item", "memcg_stat_item", "vm_event_item")

# Other enums whose values are indices or arguments, and the structures with numbers in them.
_ENUMS = ("memcg_memory_event", "psi_states")
_STRUCTS = (
    "cgroup",
    "mem_cgroup",
    "mem_cgroup_per_node",
    "page_counter",
    "psi_group",
    "task_struct",
)
# Further structures, each behind a member of one that is listed before it. To follow a member is
# much faster than to search for a name.
_STRUCTS_BEHIND = (
    ("mem_cgroup", "vmstats", "memcg_vmstats"),
    ("mem_cgroup", "vmstats_percpu", "memcg_vmstats_percpu"),
    ("mem_cgroup_per_node", "lruvec_stats", "lruvec_stats"),
    ("cgroup", "self", "cgroup_subsys_state"),
    ("cgroup", "kn", "kernfs_node"),
    ("task_struct", "files", "files_struct"),
    ("files_struct", "fdt", "fdtable"),
    ("fdtable", "fd", "file"),
    ("file", "f_inode", "inode"),
    ("inode", "i_sb", "super_block"),
)

HUGE_PAGE_SIZE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"


class KernelTypes(Record):
    """The facts about the running kernel that the readers need.

    Attributes:
        counters: the enum and the value of each memory counter, by the enumerator's name.
        memory_cgrp_id: the number of the memory controller; None if the kernel has none.
        functions: the functions of the table of features that the kernel has.
        iterator_orders: the orders that a cgroup iterator can walk in, of enum
            bpf_cgroup_iter_order.
        enumerators: the values of the other enumerators that are needed, by name.
        structs: the members of each structure that is needed and that the kernel has, by name.
        words_type: the number of a structure that begins with words, struct memcg_vmstats; 0 if
            the kernel has none.
        huge_page_size: the size of a huge page in bytes (HPAGE_PMD_SIZE), if some counter may be in
            huge pages; 0 if that is unknown, or if none is.
    """

    counters: dict[str, tuple[str, int]]
    memory_cgrp_id: Optional[int]
    functions: frozenset[str]
    iterator_orders: frozenset[int]
    enumerators: dict[str, int]
    structs: dict[str, dict[str, Member]]
    words_type: int = 0
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


_Answer = TypeVar("_Answer")

_lock = _fork.renewed_lock(__name__, "_lock")
_kernel: Optional[KernelTypes] = None


def kernel() -> KernelTypes:
    """The running kernel's types, read on the first call.

    Raises:
        BtfNotFoundError: the kernel has no BTF, or it cannot be read or understood.
        LibbpfNotFoundError, LibbpfTooOldError: libbpf cannot be used.
    """
    global _kernel
    if _kernel is None:
        with _lock:
            if _kernel is None:
                _kernel = _read_kernel()
    return _kernel


@functools.cache
def members_of(name: str) -> dict[str, Member]:
    """The members of another structure of the running kernel, which few readers need; empty if the
    kernel has no such structure.

    Raises:
        BtfNotFoundError: the kernel has no BTF, or it cannot be read or understood.
        LibbpfNotFoundError, LibbpfTooOldError: libbpf cannot be used.
    """

    def members(types: Lookups) -> dict[str, Member]:
        type_id = types.struct_id(name)
        return dict(types.members_of(type_id)) if type_id else {}

    return _ask(members)


def _read_kernel() -> KernelTypes:
    found = _ask(_facts)
    return found if found.uses_rstat else found._replace(huge_page_size=_huge_page_size())


def _ask(question: Callable[[Lookups], _Answer]) -> _Answer:
    """Asks the kernel's BTF: its bytes, or libbpf if those are not understood."""
    lib = _libbpf.load()
    data = _vmlinux()
    if data is not None:
        try:
            return question(_raw_btf.RawTypes(data))
        except MemoryError as error:
            raise _short_of_memory() from error
        except (ValueError, LookupError, struct.error):
            pass  # libbpf is asked instead
    return _signals.held_back(
        lambda: _libbpf_log.run_with_log(lambda log: _ask_libbpf(lib, data, question, log))
    )


def _vmlinux() -> Optional[_raw_btf.Data]:
    """The kernel's BTF; None if it cannot be read. libbpf will say why then.

    Raises:
        MemcgError: memory or descriptors are short.
    """
    try:
        return _raw_btf.vmlinux(VMLINUX)
    except MemoryError as error:
        raise _short_of_memory() from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise_if_transient(error, f"{VMLINUX} cannot be read", "read")
        return None


def _short_of_memory() -> MemcgError:
    return shortage(f"{VMLINUX} cannot be read", OSError(errno.ENOMEM, ""), "read")


def _load_btf(lib: _libbpf.Libbpf, data: Optional[_raw_btf.Data]) -> Any:
    """The kernel's BTF, loaded by libbpf."""
    if data is not None:
        try:
            return lib.btf__new(_libbpf_maps.address_of(data), len(data))
        except MemcgError as error:
            if is_transient(error):
                raise
    return lib.btf__load_vmlinux_btf()


def _ask_libbpf(
    lib: _libbpf.Libbpf,
    data: Optional[_raw_btf.Data],
    question: Callable[[Lookups], _Answer],
    log: list[str],
) -> _Answer:
    try:
        btf = _load_btf(lib, data)
    except MemcgError as error:
        if is_transient(error):
            raise
        raise _not_found(error, log) from error
    try:
        return question(Types(lib, btf))
    except (MemcgError, ValueError, LookupError, struct.error) as error:
        if isinstance(error, MemcgError) and is_transient(error):
            raise
        raise _not_found(error, log) from error
    finally:
        lib.btf__free(btf)


def _not_found(error: Exception, log: list[str]) -> BtfNotFoundError:
    """The exception for BTF that is not there, cannot be read, or cannot be understood."""
    number, call = getattr(error, "errno", None), getattr(error, "call", "")
    problem = f"{VMLINUX}, the kernel's BTF type information, is damaged or in an unknown form"
    remedy = "look what is mounted there, or install a newer libbpf"
    try:
        with opened_at(VMLINUX, os.O_RDONLY) as file:
            os.read(file.fileno(), 1)
    except (FileNotFoundError, NotADirectoryError):
        problem = f"this kernel offers no BTF type information ({VMLINUX})"
        remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount /sys"
    except OSError as unreadable:
        problem = f"{VMLINUX}, the kernel's BTF type information, cannot be read"
        raise_if_transient(unreadable, problem, "open")
        problem = f"{problem} ({errno_text(unreadable.errno or 0)})"
        remedy = "let this user read it, or run as root"
        number, call = unreadable.errno, "open"
    return BtfNotFoundError(problem, remedy=remedy, errno=number, call=call, log="".join(log))


def _facts(types: Lookups) -> KernelTypes:
    ids = _struct_ids(types)
    counters = {}
    for enum in _COUNTER_ENUMS:
        for name, value in types.enumerators(enum).items():
            counters[name] = (enum, value)
    return KernelTypes(
        counters,
        types.enumerators("cgroup_subsys_id").get("memory_cgrp_id"),
        _functions(types),
        frozenset(types.enumerators("bpf_cgroup_iter_order").values()),
        {name: at for enum in _ENUMS for name, at in types.enumerators(enum).items()},
        {name: dict(types.members_of(at)) for name, at in ids.items() if at},
        ids["memcg_vmstats"],
    )


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


def _struct_ids(types: Lookups) -> dict[str, int]:
    """The number of each structure that is needed; 0 if the kernel does not have it."""
    ids = {name: types.struct_id(name) for name in _STRUCTS}
    for name, member, behind in _STRUCTS_BEHIND:
        ids[behind] = types.id_behind(ids[name], member)
    return ids


def _functions(types: Lookups) -> frozenset[str]:
    """The functions of the table of features that the kernel has."""
    # A search for a function that is missing takes longest, because it goes through all BTF.
    first = {name for feature in FEATURES if not feature.beside for name in feature.functions}
    found = set(filter(types.has_function, first))
    for feature in FEATURES:
        if feature.beside in found:
            found.update(filter(types.has_function, feature.functions))
    return frozenset(found)


_TYPE = Struct("=3I")  # struct btf_type: name_off, info, size or type


class Types(Lookups):
    """Look-ups in one ``struct btf`` of libbpf, that of the kernel or of an object."""

    def __init__(self, lib: _libbpf.Libbpf, btf: Any) -> None:
        self._lib = lib
        self._btf = btf

    def _find(self, name: str, *kinds: int) -> int:
        for kind in kinds:
            type_id: int = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
            if type_id > 0:
                return type_id
        return 0

    def _type(self, type_id: int) -> Type:
        address: int = self._lib.btf__type_by_id(self._btf, type_id)
        name, info, size_or_type = _TYPE.unpack(_libbpf.peek(address, _TYPE.size))
        return Type.of(name, info, size_or_type, address + _TYPE.size)

    def _words(self, place: int, count: int) -> Sequence[int]:
        return memoryview(_libbpf.peek(place, 4 * count)).cast("I")

    def _name(self, offset: int) -> str:
        name: Optional[bytes] = self._lib.btf__name_by_offset(self._btf, offset)
        return (name or b"").decode()
