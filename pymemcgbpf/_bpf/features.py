# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What pymemcgbpf can use of a kernel: one table, with how each feature is recognised.

btf.py looks for the functions that are named here. The choice of a backend, ``pymemcgbpf doctor``,
the errors of pins and docs/limits.md take from here what a feature needs and what to do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .. import _options
from .._records import Record


class ProbedTypes(Protocol):
    """What a probe asks; btf.KernelTypes has it."""

    @property
    def functions(self) -> frozenset[str]:
        """The probed functions that the kernel has."""

    @property
    def iterator_orders(self) -> frozenset[int]:
        """The orders that a cgroup iterator can walk in."""

    @property
    def structs(self) -> Mapping[str, Mapping[str, object]]:
        """Structure's name → member's name → something."""


class Feature(Record):
    """Something that only some kernels have.

    Attributes:
        name: what it is called in the documentation.
        linux: the first release that has it; "" if no release has it.
        last: the last release that has it; "" if it is still there.
        origin: the commit that added it to Linux, or its title.
        without: what happens where it is missing.
        functions: all of these functions are in the kernel's BTF.
        beside: a function without which the others are not looked for; "" for none.
        orders: a cgroup iterator can walk in all of these orders.
        members: a structure and its members, all of which are in the kernel's BTF.
    """

    name: str
    linux: str
    origin: str
    without: str
    last: str = ""
    functions: tuple[str, ...] = ()
    beside: str = ""
    orders: tuple[int, ...] = ()
    members: tuple[str, tuple[str, ...]] = ("", ())

    def missing(self, types: ProbedTypes) -> tuple[str, ...]:
        """The names of what the kernel would need and does not have."""
        struct, members = self.members
        known = types.structs.get(struct, {})
        return (
            *sorted(name for name in self.functions if name not in types.functions),
            *(_ORDER_NAMES[order] for order in self.orders if order not in types.iterator_orders),
            *(f"{name} in struct {struct}" for name in members if name not in known),
        )

    def is_in(self, types: ProbedTypes) -> bool:
        """Whether the kernel has it."""
        return not self.missing(types)

    @property
    def kernels(self) -> str:
        """Which kernels have it."""
        if not self.linux:
            return "no released kernel"
        if self.last:
            return f"Linux {self.linux} to {self.last}"
        return f"Linux {self.linux} or later"

    @property
    def probe(self) -> str:
        """How it is recognised, for the documentation."""
        struct, members = self.members
        return ", ".join(
            (
                *(f"`{name}()`" for name in self.functions),
                *(f"`{_ORDER_NAMES[order]}`" for order in self.orders),
                *(f"`{name}` in `struct {struct}`" for name in members),
            )
        )

    def explain(self, types: ProbedTypes) -> str:
        """Why it cannot be used on a kernel that does not have it."""
        kernels = self.kernels if self.linux else "which no released kernel has"
        return f"this kernel has no {' and no '.join(self.missing(types))} ({kernels})"


_ORDER_NAMES = {
    _options.SELF: "BPF_CGROUP_ITER_SELF_ONLY",
    _options.CHILDREN: "BPF_CGROUP_ITER_CHILDREN",
}

KFUNC = Feature(
    "backend `kfunc`",
    "7.0",
    "99430ab8b804, mm: introduce BPF kfuncs to access memcg statistics and events",
    "core reads the same counters",
    functions=("bpf_get_mem_cgroup",),
)
RFC = Feature(
    "backend `rfc`",
    "",
    "the first form of the patch behind `kfunc`, which was not merged",
    "core reads the same counters",
    functions=("memcg_node_stat_fetch",),
)
CORE = Feature(
    "backend `core`",
    "5.10",
    "2d146aa3aa84, mm: memcontrol: switch to rstat (5.13), 410f8e82689e, memcg: extract "
    "memcg_vmstats from struct mem_cgroup (6.1); older kernels keep arrays",
    "the files are read as text",
    members=("mem_cgroup", ("vmstats",)),
)
ITERATOR = Feature(
    "transports `stream` and `shared`, and pins",
    "6.1",
    "d4ccaf58a847, bpf: Introduce cgroup iter",
    "the files are read as text",
    orders=(_options.SELF,),
)
RUN_DIR = Feature(
    "transport `run` of backend `core`",
    "5.10",
    "1b4d60ec162f, bpf: Enable BPF_PROG_TEST_RUN for raw_tracepoint",
    "a cgroup iterator is used: `stream` for one cgroup, `shared` for a tree",
    functions=("bpf_prog_test_run_raw_tp",),
)
RUN = Feature(
    "transport `run` of backend `kfunc`, on cgroup v2",
    "6.12",
    "7251d0905e75, bpf: Introduce css open-coded iterator kfuncs (6.7); "
    "a8e03b6bbb2c, bpf: Allow invoking kfuncs from BPF_PROG_TYPE_SYSCALL progs (6.10); "
    "the oldest kernel tested is 6.12",
    "a cgroup iterator is used: `stream` for one cgroup, `shared` for a tree",
    functions=("bpf_cgroup_from_id", "bpf_iter_css_new"),
)
CHILDREN = Feature(
    'order "children" in the iterator',
    "7.0",
    "752b807028e6, bpf: add new BPF_CGROUP_ITER_CHILDREN control option",
    "the iterator walks the whole tree, and the program skips all but the children",
    orders=(_options.CHILDREN,),
)
KFUNC_FLUSH = Feature(
    "flush by `bpf_mem_cgroup_flush_stats()`",
    "7.0",
    KFUNC.origin,
    "cgroup_rstat_flush() flushes, or the reader reads a file that flushes",
    functions=("bpf_mem_cgroup_flush_stats",),
    beside="bpf_get_mem_cgroup",
)
RSTAT_FLUSH = Feature(
    "flush by `cgroup_rstat_flush()`, from an iterator",
    "6.1",
    "a319185be9f5, cgroup: bpf: enable bpf programs to integrate with rstat",
    "bpf_mem_cgroup_flush_stats() flushes, or the reader reads a file that flushes; "
    "a pin needs flush=False",
    last="6.15",
    functions=("cgroup_rstat_flush",),
    orders=(_options.SELF,),  # older kernels have the function, but no BPF program may call it
)
EVENTS_KFUNC = Feature(
    "`memory.events` by kfunc",
    "7.0",
    KFUNC.origin,
    "the program reads the same numbers from struct mem_cgroup",
    functions=("bpf_mem_cgroup_memory_events",),
    beside="bpf_get_mem_cgroup",
)

PUBLISH = Feature(
    "pinned trees",
    "6.1",
    "e6f2dd0f8067, bpf: Add bpf_loop helper (5.17); the oldest kernel tested is 6.1",
    "each reader walks by itself",
    functions=("bpf_loop",),
)
KERNEL_REFRESH = Feature(
    "pinned trees that the kernel refreshes, on cgroup v2",
    "6.12",
    "bpf: wq: add bpf_wq_start (6.10); the oldest kernel tested is 6.12",
    "the process that pinned the tree refreshes it",
    functions=("bpf_wq_start", "bpf_cgroup_from_id", "bpf_iter_css_new"),
)
NEW_WORK = Feature(
    "work queues by `bpf_wq_set_callback()`",
    "7.0",
    "bpf: verifier: support for kfuncs with implicit arguments",
    "`bpf_wq_set_callback_impl()` does the same",
    functions=("bpf_wq_set_callback",),
    beside="bpf_wq_start",
)
DEPARTED = Feature(
    "`departed`: the cgroups that were removed between two reads",
    "6.1",
    "d4ccaf58a847, bpf: Introduce cgroup iter; 07343110b293, bpf: add bpf_map_lookup_percpu_elem "
    "for percpu map (5.19)",
    "it is None, or an error if a backend was named",
    orders=(_options.SELF,),
)

FEATURES = (
    CORE,
    RUN_DIR,
    ITERATOR,
    RUN,
    KFUNC,
    RFC,
    EVENTS_KFUNC,
    KFUNC_FLUSH,
    RSTAT_FLUSH,
    CHILDREN,
    PUBLISH,
    KERNEL_REFRESH,
    NEW_WORK,
    DEPARTED,
)

BACKENDS = {"kfunc": KFUNC, "rfc": RFC, "core": CORE}
"""The feature behind each BPF backend."""

NO_FLUSH = (
    "this kernel has no flush that a BPF program may call "
    f"({RSTAT_FLUSH.kernels} and {KFUNC_FLUSH.kernels} have one)"
)
