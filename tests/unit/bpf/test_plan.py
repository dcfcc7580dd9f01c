# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a program is to compute: the terms of an item, and the constants that say so."""

from __future__ import annotations

import mmap
import struct
from typing import Optional

import pytest

from pymemcgbpf import BackendUnavailableError, _options, _wire
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import counter_slots as _counter_slots
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import Planner, PointerPath, ReadPlan, Term, Terms, guessed
from pymemcgbpf._items import CATALOGUE, CURRENT, Counters

from ..fake_libbpf import RODATA
from ..kernels import (
    DIRECT,
    HUGE_PAGE,
    KERNELS,
    LINUX_5_10,
    LINUX_5_15,
    LINUX_6_1,
    LINUX_6_18,
    LINUX_7_3,
    NODE_STATS_AT,
    VMSTATS_AT,
    Kernel,
)

PAGE = mmap.PAGESIZE
VMSTATS = PointerPath(_terms.START_MEMCG, (880,))
MEMCG = PointerPath(_terms.START_MEMCG, ())


def source(backend: str, kernel: Kernel = LINUX_6_18, *functions: str) -> Planner:
    types = kernel.types()
    types = types._replace(functions=types.functions | set(functions))
    layout = None
    if backend == "core":
        layout = _counter_slots.Layout(kernel.slots(), False)
    return Planner(backend, types, layout)


# --- memory.stat -----------------------------------------------------------------------


def parts_kept(name: str, slots: dict[str, int]) -> list[str]:
    of = CATALOGUE[name].source
    assert isinstance(of, Counters)
    return [part for parts in of.parts for part in parts if part in slots]


def test_terms_are_enumerators_for_kfuncs_and_words_for_core() -> None:
    types, slots = LINUX_7_3.types(), LINUX_7_3.slots()
    for name in LINUX_7_3.printed.split():
        parts = parts_kept(name, slots)
        asked = [
            Term(_terms.KINDS[types.counters[part][0]], types.counters[part][1]) for part in parts
        ]
        assert list(source("kfunc", LINUX_7_3).terms_of(name)) == asked
        assert list(source("rfc", LINUX_7_3).terms_of(name)) == asked
        placed = source("core", LINUX_7_3).terms_of(name)
        assert [(term.at, term.base) for term in placed] == [
            (8 * slots[part], VMSTATS) for part in parts
        ]


@pytest.mark.parametrize(
    ("name", "unit", "kind"),
    [
        ("anon", PAGE, _terms.KIND_SIGNED),
        ("sock", PAGE, _terms.KIND_SIGNED),
        ("kernel_stack", 1024, _terms.KIND_SIGNED),
        ("slab", 1, _terms.KIND_SIGNED),
        ("pgfault", 1, _terms.KIND_WORD),
    ],
)
def test_core_applies_the_unit_and_the_sign(name: str, unit: int, kind: int) -> None:
    terms = source("core").terms_of(name)
    assert {(term.unit, term.kind) for term in terms} == {(unit, kind)}
    assert {term.unit for term in source("kfunc").terms_of(name)} == {1}, "the kernel does"


@pytest.mark.parametrize("backend", ["kfunc", "core"])
@pytest.mark.parametrize("name", ["zswap_incomp", "an_item_of_tomorrow", "memory.numa_stat.x.N0"])
def test_what_this_kernel_lacks_has_no_terms(backend: str, name: str) -> None:
    assert source(backend).terms_of(name) == ()


def test_a_counter_that_this_kernel_does_not_keep_is_no_term() -> None:
    only = _counter_slots.Layout({"NR_SLAB_RECLAIMABLE_B": 5}, False)
    made = Planner("core", LINUX_6_18.types(), only)
    assert made.terms_of("slab") == (Term(_terms.KIND_SIGNED, 40, 1, VMSTATS),)
    assert made.terms_of("anon") == ()


def test_what_is_not_proved_of_a_rebuilt_order_is_withheld() -> None:
    slots = {"NR_SLAB_RECLAIMABLE_B": 5, "NR_ANON_MAPPED": 14}
    layout = _counter_slots.Layout(slots, True, not_kept=frozenset({"PSWPIN"}))
    made = Planner("core", LINUX_6_18.types(), layout)
    assert made.terms_of("anon") == (Term(_terms.KIND_SIGNED, 112, PAGE, VMSTATS),)
    assert made.terms_of("slab_reclaimable")
    assert made.terms_of("slab") == (), "half of a sum is a wrong number"
    assert made.lacks_proof("slab") and made.lacks_proof("vmalloc")
    assert made.lacks_proof("memory.numa_stat.file.N0")
    assert made.terms_of("pswpin") == ()
    assert not made.lacks_proof("pswpin"), "this kernel does not keep it"
    assert not made.lacks_proof("anon")
    assert not made.lacks_proof("memory.current")
    assert not made.lacks_proof("an_item_of_tomorrow")
    by_kfunc = made._replace(backend="kfunc")
    assert by_kfunc.terms_of("slab") and not by_kfunc.lacks_proof("slab")
    assert by_kfunc.lacks_proof("memory.numa_stat.file.N0"), "no kfunc reads a node's"


@pytest.mark.parametrize(
    ("name", "enumerator", "unit"),
    [
        ("pgtomorrow", "PGTOMORROW", "count"),
        ("tomorrow", "NR_TOMORROW", "bytes"),
        ("tomorrow", "MEMCG_TOMORROW", "bytes"),
        ("tomorrow", "NR_TOMORROW_B", "bytes"),
        ("tomorrow", "MEMCG_TOMORROW_B", "bytes"),
        ("tomorrow", "NR_TOMORROW_KB", "bytes"),
    ],
)
def test_an_item_of_tomorrow_is_guessed_by_its_enumerator(
    name: str, enumerator: str, unit: str
) -> None:
    item = guessed(name, ["OTHER", enumerator])
    assert item is not None
    assert (item.name, item.unit, item.number) == (name, unit, 0)
    factors = {"NR_TOMORROW": PAGE, "MEMCG_TOMORROW": PAGE, "NR_TOMORROW_KB": 1024}
    types = LINUX_6_18.types()
    types = types._replace(counters={**types.counters, enumerator: ("node_stat_item", 999)})
    made = Planner("core", types, _counter_slots.Layout({enumerator: 3}, False))
    assert [term.unit for term in made.terms_of(name)] == [factors.get(enumerator, 1)]
    assert guessed(name, ["OTHER"]) is None


# --- kernels before 6.1 ---------------------------------------------------------------


def old(kernel: Kernel) -> Planner:
    types = kernel.types()
    return Planner("core", types, _counter_slots.direct(types))


WITHIN = PointerPath(_terms.START_MEMCG, (), offset=VMSTATS_AT)


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_older_counters_are_within_struct_mem_cgroup(kernel: Kernel) -> None:
    made, slots = old(kernel), kernel.slots()
    for name in kernel.printed.split():
        placed = [(term.at, term.base) for term in made.terms_of(name)]
        assert placed == [(8 * slots[part], WITHIN) for part in parts_kept(name, slots)]


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_an_older_kernel_has_the_items_that_it_counts_and_no_others(kernel: Kernel) -> None:
    stat = [item.name for item in CATALOGUE.values() if item.file == "memory.stat"]
    parts = {"pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd", "pgsteal_direct"}  # sums only
    counted = {*kernel.printed.split(), *parts, "swap"}  # which only cgroup v1 shows
    assert {name for name in stat if old(kernel).terms_of(name)} == counted


def test_a_block_of_them_has_its_own_offset_in_struct_mem_cgroup() -> None:
    made = old(LINUX_5_10)
    names = ("anon", "pgfault", CURRENT)
    plan = ReadPlan("core", {name: made.terms_of(name) for name in names})
    slots = LINUX_5_10.slots()
    first, last = slots["NR_ANON_MAPPED"], slots["PGFAULT"]
    size = last - first + 1
    assert wire_blocks(plan) == [
        _terms.Block(_terms.START_MEMCG, 0, 0, 0, VMSTATS_AT + 8 * first, 8 * size, 0, 0),
        _terms.Block(_terms.START_MEMCG, 0, 0, 0, 256, 8, size, 0),
    ]
    words = [(term.block, term.counter) for term in wire_terms(plan)]
    assert words == [(0, 0), (0, size - 1), (1, size)]


@pytest.mark.parametrize(
    ("without", "huge_page", "unit"),
    [
        ((), HUGE_PAGE, HUGE_PAGE),
        ((), 0, 0),  # sysfs does not say how large a huge page is
        (("SWAP_RA",), HUGE_PAGE, 0),  # the kernel has no swap, and may be 5.12
    ],
)
@pytest.mark.parametrize("name", ["anon_thp", "memory.numa_stat.anon_thp.N0"])
def test_before_5_12_huge_pages_are_counted_as_such(
    name: str, without: tuple[str, ...], huge_page: int, unit: int
) -> None:
    made = old(LINUX_5_10)
    counters = {key: value for key, value in made.types.counters.items() if key not in without}
    types = made.types._replace(counters=counters, huge_page_size=huge_page)
    made = made._replace(types=types)
    assert [term.unit for term in made.terms_of(name)] == [unit] * bool(unit)
    assert [term.unit for term in made.terms_of("anon")] == [PAGE]


def test_from_5_12_on_huge_pages_are_counted_as_pages() -> None:
    types = LINUX_5_10.types()
    types = types._replace(counters={**types.counters, "NR_SWAPCACHE": ("node_stat_item", 30)})
    for made in (old(LINUX_5_10)._replace(types=types), old(LINUX_5_15), source("core")):
        assert [term.unit for term in made.terms_of("anon_thp")] == [PAGE]


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_an_older_node_s_counter(kernel: Kernel) -> None:
    (term,) = old(kernel).terms_of("memory.numa_stat.file.N2")
    start = NODE_STATS_AT + (16 if kernel is LINUX_5_15 else 0)
    at = start + 8 * kernel.types().counters["NR_FILE_PAGES"][1]
    nodeinfo = PointerPath(_terms.START_MEMCG, (1984 + 8 * 2,))
    assert term == Term(_terms.KIND_SIGNED, at, PAGE, nodeinfo)


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_older_pressure_is_within_struct_cgroup_and_not_that_of_the_root(kernel: Kernel) -> None:
    name = "memory.pressure.full.total"
    terms = old(kernel).terms_of(name)
    base = PointerPath(_terms.START_CGROUP, (), None, 1272)
    assert terms == (Term(_terms.KIND_NANOSECONDS, 240 + 8 * 3, 1, base),)
    plan = ReadPlan("core", {name: terms})
    assert wire_blocks(plan) == [_terms.Block(1, 0, 0, 0, 1272 + 264, 8, 0, 0)]
    assert [term.flags for term in wire_terms(plan)] == [_terms.TERM_LAST | _terms.TERM_NOT_ON_ROOT]


def test_pressure_that_cannot_be_switched_off_has_no_byte_for_that() -> None:
    types = LINUX_6_18.types()  # 6.0: a pointer, without the byte
    structs = {**types.structs, "psi_group": {"total": _btf.Member(240, 2)}}
    (term,) = Planner("core", types._replace(structs=structs), None).terms_of(
        "memory.pressure.some.total"
    )
    assert term.base == PointerPath(_terms.START_CGROUP, (1272,))


@pytest.mark.parametrize("kernel", [*DIRECT.values(), *KERNELS.values()])
def test_before_rstat_nothing_needs_a_flush(kernel: Kernel) -> None:
    plan = ReadPlan("core", TERMS, kernel.types().uses_rstat)
    assert plan.needs_flush is (kernel is not LINUX_5_10)


# --- other files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "at", "unit"),
    [
        (CURRENT, _terms.KIND_WORD, 256, PAGE),
        ("memory.peak", _terms.KIND_WORD, 256 + 64, PAGE),
        ("memory.min", _terms.KIND_LIMIT, 256 + 88, 1),
        ("memory.low", _terms.KIND_LIMIT, 256 + 96, 1),
        ("memory.high", _terms.KIND_LIMIT, 256 + 112, 1),
        ("memory.max", _terms.KIND_LIMIT, 256 + 104, 1),
        ("memory.swap.current", _terms.KIND_WORD, 512, PAGE),
        ("memory.swap.max", _terms.KIND_LIMIT, 512 + 104, 1),
        ("memory.failcnt", _terms.KIND_WORD, 256 + 72, 1),
        ("memory.memsw.usage_in_bytes", _terms.KIND_WORD, 512, PAGE),
        ("memory.memsw.max_usage_in_bytes", _terms.KIND_WORD, 512 + 64, PAGE),
        ("memory.memsw.limit_in_bytes", _terms.KIND_LIMIT, 512 + 104, 1),
        ("memory.memsw.failcnt", _terms.KIND_WORD, 512 + 72, 1),
        ("memory.zswap.max", _terms.KIND_LIMIT, 800, 1),
        ("memory.events.oom_kill", _terms.KIND_WORD, 896 + 8 * 4, 1),
        ("memory.events.local.low", _terms.KIND_WORD, 968, 1),
        ("memory.swap.events.fail", _terms.KIND_WORD, 896 + 8 * 8, 1),
    ],
)
@pytest.mark.parametrize("backend", ["rfc", "core"])
def test_a_field_of_struct_mem_cgroup(
    backend: str, name: str, kind: int, at: int, unit: int
) -> None:
    assert source(backend).terms_of(name) == (Term(kind, at, unit, MEMCG),)


@pytest.mark.parametrize(
    ("name", "term"),
    [
        (CURRENT, Term(_terms.KIND_USAGE, 0)),
        ("memory.events.oom_kill", Term(_terms.KIND_MEMORY_EVENT, 4)),
        ("memory.swap.events.max", Term(_terms.KIND_MEMORY_EVENT, 7)),
        ("memory.events.local.oom", Term(_terms.KIND_WORD, 968 + 24, 1, MEMCG)),
        ("memory.swap.current", Term(_terms.KIND_WORD, 512, PAGE, MEMCG)),
        ("memory.zswap.current", Term(2, LINUX_7_3.counters()["MEMCG_ZSWAP_B"][1])),
        ("swap", Term(2, LINUX_7_3.counters()["MEMCG_SWAP"][1])),
        ("memory.failcnt", Term(_terms.KIND_WORD, 256 + 72, 1, MEMCG)),
    ],
)
def test_what_the_kernel_has_a_function_for_it_is_asked(name: str, term: Term) -> None:
    made = source("kfunc", LINUX_7_3, "bpf_mem_cgroup_memory_events")
    assert made.terms_of(name) == (term,)


def test_without_the_function_events_are_fields() -> None:
    types = LINUX_7_3.types()._replace(functions=frozenset())
    (term,) = Planner("kfunc", types, None).terms_of("memory.events.oom_kill")
    assert (term.kind, term.base) == (_terms.KIND_WORD, MEMCG)


def test_an_event_that_this_kernel_does_not_count() -> None:
    assert source("core").terms_of("memory.events.sock_throttled") == ()


def test_pressure_is_the_cgroup_s_own() -> None:
    base = PointerPath(_terms.START_CGROUP, (1272,), 8)
    for at, name in ((2, "some"), (3, "full")):
        assert source("kfunc").terms_of(f"memory.pressure.{name}.total") == (
            Term(_terms.KIND_NANOSECONDS, 240 + 8 * at, 1, base),
        )


@pytest.mark.parametrize(
    ("backend", "usage", "unit"),
    [
        ("kfunc", Term(_terms.KIND_USAGE, 0), 1),
        ("rfc", Term(_terms.KIND_WORD, 256, PAGE, MEMCG), 1),
        ("core", Term(_terms.KIND_WORD, 256, PAGE, MEMCG), PAGE),
    ],
)
def test_the_working_set_is_the_usage_less_a_counter(backend: str, usage: Term, unit: int) -> None:
    made = source(backend)
    (part,) = made.terms_of("inactive_file")
    assert part.unit == unit
    assert made.terms_of("derived.working_set") == (usage, part._replace(unit=-unit))
    plan = ReadPlan(backend, {"derived.working_set": made.terms_of("derived.working_set")})
    first, second = wire_terms(plan)
    assert (first.flags, first.unit) == (_terms.TERM_NOT_ON_ROOT, usage.unit)
    last = _terms.TERM_LAST | _terms.TERM_NOT_ON_ROOT | _terms.TERM_AT_LEAST_0
    assert (second.flags, second.unit) == (last, (1 << 64) - unit)


def test_without_its_counter_there_is_no_working_set() -> None:
    types = LINUX_6_18.types()
    slots = {name: at for name, at in LINUX_6_18.slots().items() if name != "NR_INACTIVE_FILE"}
    made = Planner("core", types, _counter_slots.Layout(slots, True))
    assert made.terms_of("inactive_file") == made.terms_of("derived.working_set") == ()
    assert made.lacks_proof("derived.working_set")
    assert not made.lacks_proof("derived.effective_limit")
    assert not source("core").lacks_proof("derived.working_set")


@pytest.mark.parametrize("backend", ["kfunc", "rfc", "core"])
def test_the_effective_limit_is_a_walk_that_only_the_program_can_take(backend: str) -> None:
    made = source(backend)
    walk = Term(_terms.KIND_LEAST_LIMIT, 256)
    assert made.terms_of("derived.effective_limit") == (walk,)
    constants = ReadPlan(backend, {"derived.effective_limit": (walk,)}).constants(0)
    assert (constants["counter_max"], constants["counter_parent"]) == (
        _terms.u32(104),
        _terms.u32(128),
    )
    for member in ("max", "parent"):
        types = LINUX_6_18.types()
        counter = dict(types.structs["page_counter"])
        del counter[member]
        structs = {**types.structs, "page_counter": counter}
        without = made._replace(types=types._replace(structs=structs))
        assert without.terms_of("derived.effective_limit") == ()


@pytest.mark.parametrize("struct_", ["mem_cgroup", "page_counter", "psi_group", "cgroup"])
def test_a_kernel_without_a_structure_has_none_of_its_items(struct_: str) -> None:
    types = LINUX_6_18.types()
    without = {name: members for name, members in types.structs.items() if name != struct_}
    made = Planner("core", types._replace(structs=without), None)
    lost = {
        "mem_cgroup": "memory.max",
        "page_counter": "memory.max",
        "psi_group": "memory.pressure.full.total",
        "cgroup": "memory.pressure.full.total",
    }
    assert made.terms_of(lost[struct_]) == ()


@pytest.mark.parametrize("kernel", [LINUX_6_1, LINUX_6_18, LINUX_7_3])
@pytest.mark.parametrize("backend", ["kfunc", "core"])
def test_a_node_s_counter(backend: str, kernel: Kernel) -> None:
    types, slots = kernel.types(), kernel.slots()
    made = Planner(backend, types, _counter_slots.Layout(slots, False))
    for key, enumerator, unit in (
        ("anon", "NR_ANON_MAPPED", PAGE),
        ("kernel_stack", "NR_KERNEL_STACK_KB", 1024),
        ("workingset_nodereclaim", "WORKINGSET_NODERECLAIM", 1),
    ):
        (term,) = made.terms_of(f"memory.numa_stat.{key}.N3")
        assert term.base is not None
        nodeinfo = 1984 + 8 * 3
        if kernel is LINUX_6_1:  # the statistics are in the structure itself
            assert term.base.steps == (nodeinfo,)
            assert term.at == 888 + 16 + 8 * types.counters[enumerator][1]
        else:
            assert term.base.steps == (nodeinfo, 888)
            assert term.at == 8 * slots[enumerator]
        assert (term.unit, term.kind) == (unit, _terms.KIND_SIGNED)


def test_what_is_not_counted_by_node_has_no_node_s_counter() -> None:
    for kernel in KERNELS.values():
        made = Planner("core", kernel.types(), _counter_slots.Layout(kernel.slots(), False))
        for key in ("sock", "percpu", "pgfault", "kernel"):
            assert made.terms_of(f"memory.numa_stat.{key}.N0") == ()


def test_without_a_layout_there_is_no_node_s_counter() -> None:
    assert source("kfunc", LINUX_7_3).terms_of("memory.numa_stat.anon.N0") == ()


# --- constants ------------------------------------------------------------------------


SLAB = (Term(1, 5), Term(1, 6))
TERMS: Terms = {"slab": SLAB, "pgfault": (Term(3, 20),)}


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)


def wire_terms(plan: ReadPlan) -> list[_terms.EncodedTerm]:
    return [
        _terms.EncodedTerm(*values)
        for values in struct.iter_unpack(_terms.TERM.format, plan.constants(0)["terms"])
    ]


def wire_blocks(plan: ReadPlan) -> list[_terms.Block]:
    return [
        _terms.Block(*values)
        for values in struct.iter_unpack(_terms.BLOCK.format, plan.constants(0)["blocks"])
    ]


def test_constants() -> None:
    constants = ReadPlan("kfunc", TERMS).constants(_terms.FLUSH_RSTAT, _options.POST)
    last = _terms.TERM_LAST
    wire = [
        _terms.EncodedTerm(1, 0, 0, 5, 1),
        _terms.EncodedTerm(1, last, 0, 6, 1),
        _terms.EncodedTerm(3, last, 0, 20, 1),
    ]
    assert {name: constants.pop(name) for name in ("header", "terms", "blocks")} == {
        "header": _wire.encode_header(
            [CATALOGUE["slab"].number, CATALOGUE["pgfault"].number], _options.POST
        ),
        "terms": _terms.encode_terms(wire),
        "blocks": b"",
    }
    assert {name: int.from_bytes(data, "little") for name, data in constants.items()} == {
        "backend": _terms.BACKEND_NUMBERS["kfunc"],
        "flush": _terms.FLUSH_RSTAT,
        "memory_cgrp_id": 4,
        "page_size": PAGE,
        "counter_max": 104,
        "counter_parent": 128,
        "nr_blocks": 0,
        "nr_terms": 3,
    }
    assert {len(data) for data in constants.values()} == {4}


def test_one_cgroup_s_constants() -> None:
    constants = ReadPlan("kfunc", TERMS).constants(_terms.FLUSH_NONE)
    assert _wire.decode_header(constants["header"]).order == _options.SELF


def test_from_each_structure_one_block_is_copied_and_no_more_of_it_than_needed() -> None:
    made = source("core")
    names = ("file", "memory.max", "anon", "memory.pressure.some.total", CURRENT)
    plan = ReadPlan("core", {name: made.terms_of(name) for name in names})
    slots = LINUX_6_18.slots()
    anon, file = slots["NR_ANON_MAPPED"], slots["NR_FILE_PAGES"]
    assert wire_blocks(plan) == [
        _terms.Block(_terms.START_MEMCG, 1, 880, 0, 8 * anon, 8 * (file - anon + 1), 0, 0),
        _terms.Block(_terms.START_MEMCG, 0, 0, 0, 256, 112, file - anon + 1, 0),
        _terms.Block(_terms.START_CGROUP, 1, 1272, 0, 256, 8, file - anon + 15, 9),
    ]
    words = {name: (term.block, term.counter) for name, term in zip(names, wire_terms(plan))}
    assert words == {
        "file": (0, file - anon),
        "anon": (0, 0),
        "memory.max": (1, file - anon + 1 + 13),
        CURRENT: (1, file - anon + 1),
        "memory.pressure.some.total": (2, file - anon + 15),
    }


def test_what_the_root_does_not_have_is_marked() -> None:
    made = source("core")
    names = ("anon", CURRENT, "memory.events.low", "memory.pressure.full.total")
    plan = ReadPlan("core", {name: made.terms_of(name) for name in names})
    marked = [bool(term.flags & _terms.TERM_NOT_ON_ROOT) for term in wire_terms(plan)]
    assert marked == [False, True, True, False]


@pytest.mark.parametrize(
    ("names", "flush", "pressure"),
    [
        (["anon"], True, False),
        (["total_pgpgin"], True, False),
        ([CURRENT, "memory.events.low", "memory.max"], False, False),
        (["memory.zswap.current"], True, False),
        (["memory.numa_stat.anon.N0", CURRENT], True, False),
        (["memory.pressure.some.total"], False, True),
        (["derived.working_set"], True, False),
        (["derived.effective_limit"], False, False),
    ],
)
def test_what_needs_a_flush(names: list[str], flush: bool, pressure: bool) -> None:
    plan = ReadPlan("core", dict.fromkeys(names, SLAB))
    assert (plan.needs_flush, plan.has_pressure) == (flush, pressure)


def test_an_item_without_a_number_has_none() -> None:
    # A line of v1's memory.stat, while a layout is checked.
    plan = ReadPlan("core", {"total_pgpgin": TERMS["pgfault"], **TERMS})
    header = _wire.decode_header(plan.constants(0)["header"])
    assert header.item_numbers == (0, CATALOGUE["slab"].number, CATALOGUE["pgfault"].number)
    assert 0 not in {item.number for item in CATALOGUE.values()}


def some_terms(items: int, terms: int, blocks: int = 0, words: int = 0) -> Terms:
    """So many items of so many terms in all, which take so many blocks and words."""
    more = terms - items
    made: Terms = {
        str(at): (TERMS["slab"][0],) * (more if at == 0 else 0) + TERMS["pgfault"]
        for at in range(items)
    }
    for block in range(blocks):
        base = PointerPath(0, (8 * block,))
        size = words - blocks + 1 if block == 0 else 1
        kind = _terms.KIND_WORD
        made[f"{block}"] = (Term(kind, 0, 1, base), Term(kind, 8 * (size - 1), 1, base))
    return made


MOST = (_wire.MAX_ITEMS, _terms.MAX_TERMS, _terms.MAX_BLOCKS, _terms.MAX_WORDS)


@pytest.mark.parametrize(
    ("items", "terms", "blocks", "words"),
    [(MOST[0], MOST[0], 0, 0), (3, MOST[1], 0, 0), (30, 30, MOST[2], MOST[3])],
)
def test_as_many_items_as_there_is_room_for(
    items: int, terms: int, blocks: int, words: int
) -> None:
    plan = ReadPlan("core", some_terms(items, terms, blocks, words))
    for name, data in plan.constants(0).items():
        assert len(data) <= RODATA[name]
    assert plan.row_size == _wire.ROW.size + 8 * items


@pytest.mark.parametrize(
    ("items", "terms", "blocks", "words"),
    [
        (MOST[0] + 1, MOST[0] + 1, 0, 0),
        (3, MOST[1] + 1, 0, 0),
        (30, 30, MOST[2] + 1, 100),
        (30, 30, 1, MOST[3] + 1),
    ],
)
def test_too_many_items(items: int, terms: int, blocks: int, words: int) -> None:
    with pytest.raises(BackendUnavailableError, match=f"{items} items are too many"):
        ReadPlan("core", some_terms(items, terms, blocks, words)).constants(0)


@pytest.mark.parametrize("backend", ["kfunc", "core"])
def test_all_items_of_a_machine_with_eight_nodes_fit(backend: str) -> None:
    layout: Optional[_counter_slots.Layout] = _counter_slots.Layout(LINUX_7_3.slots(), False)
    made = Planner(backend, LINUX_7_3.types(), layout)
    printed = LINUX_7_3.printed.split()
    nodes = [f"memory.numa_stat.{name}.N{node}" for node in range(8) for name in printed]
    terms = {name: made.terms_of(name) for name in (*CATALOGUE, *nodes)}
    kept = {name: parts for name, parts in terms.items() if parts}
    assert len(kept) > 350 and CATALOGUE.keys() - kept.keys() == {
        "memory.events.sock_throttled",
        "memory.events.local.sock_throttled",
    }
    constants = ReadPlan(backend, kept).constants(0)
    assert all(len(data) <= RODATA[name] for name, data in constants.items())


@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_all_items_of_an_older_machine_with_eight_nodes_fit(kernel: Kernel) -> None:
    made = old(kernel)
    printed = kernel.printed.split()
    nodes = [f"memory.numa_stat.{name}.N{node}" for node in range(8) for name in printed]
    terms = {name: made.terms_of(name) for name in (*CATALOGUE, *nodes)}
    kept = {name: parts for name, parts in terms.items() if parts}
    assert len(kept) > 240
    constants = ReadPlan("core", kept).constants(0)
    assert all(len(data) <= RODATA[name] for name, data in constants.items())
