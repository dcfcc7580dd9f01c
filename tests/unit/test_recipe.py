# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a program is to compute: the terms of an item, and the constants that say so."""

from __future__ import annotations

import mmap

import pytest

from pymemcgbpf import BackendUnavailableError, _btf, _layout, _program, _wire
from pymemcgbpf._recipe import Recipe, Terms, terms_of
from pymemcgbpf.items import CATALOGUE, CURRENT

from .fake_libbpf import RODATA
from .kernels import LINUX_6_18, LINUX_7_3

# --- terms ---------------------------------------------------------------------------


def test_terms_are_enumerators_for_kfuncs_and_places_for_core() -> None:
    types, slots = LINUX_7_3.types(), LINUX_7_3.slots()
    layout = _layout.Layout(slots, 0, False)
    for name in LINUX_7_3.printed.split():
        plain = terms_of(name, types, None)
        placed = terms_of(name, types, layout)
        parts = [part for parts in CATALOGUE[name].parts for part in parts if part in slots]
        assert [term.counter for term in plain] == [types.counters[part][1] for part in parts]
        assert [term.counter for term in placed] == [slots[part] for part in parts]
        assert [term.last for term in plain] == [False] * (len(parts) - 1) + [True]
        assert {term.unit for term in plain} == {1}, "the kfuncs apply the unit themselves"


@pytest.mark.parametrize(
    ("name", "unit"),
    [("anon", mmap.PAGESIZE), ("kernel_stack", 1024), ("slab", 1), ("pgfault", 1)],
)
def test_core_applies_the_unit(name: str, unit: int) -> None:
    layout = _layout.Layout(LINUX_6_18.slots(), 0, False)
    terms = terms_of(name, LINUX_6_18.types(), layout)
    assert {term.unit for term in terms} == {unit}


def test_what_is_not_in_the_catalogue_has_no_terms() -> None:
    assert terms_of("an_item_of_tomorrow", LINUX_7_3.types(), None) == ()


@pytest.mark.parametrize("layout", [None, _layout.Layout(LINUX_6_18.slots(), 0, False)])
def test_the_memory_in_use_is_a_counter_of_its_own(layout: _layout.Layout) -> None:
    assert terms_of(CURRENT, LINUX_6_18.types(), layout) == (
        _program.Term(_program.KIND_USAGE, True, 0, 1),
    )


def test_a_counter_that_this_kernel_lacks_is_no_term() -> None:
    types = LINUX_6_18.types()
    assert terms_of("zswap_incomp", types, None) == ()
    layout = _layout.Layout({"NR_SLAB_RECLAIMABLE_B": 5}, 0, False)
    (term,) = terms_of("slab", types, layout)
    assert (term.counter, term.last) == (5, True), "the last that there is closes the item"


@pytest.mark.parametrize(
    ("item", "kind"),
    [("anon", "node_stat_item"), ("sock", "memcg_stat_item"), ("pgfault", "vm_event_item")],
)
def test_a_term_s_kind_is_its_counter_s_enum(item: str, kind: str) -> None:
    assert [term.kind for term in terms_of(item, LINUX_6_18.types(), None)] == [
        _program.KINDS[kind]
    ]


# --- constants ------------------------------------------------------------------------


SLAB = (_program.Term(1, False, 5, 1), _program.Term(1, True, 6, 1))
TERMS: Terms = {"slab": SLAB, "pgfault": (_program.Term(3, True, 20, 1),)}


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)


def test_constants() -> None:
    layout = _layout.Layout({}, 568, False)
    constants = Recipe("core", TERMS, layout).constants(_program.FLUSH_RSTAT, _program.POST)
    assert {name: constants.pop(name) for name in ("header", "terms")} == {
        "header": _wire.encode_header(
            [CATALOGUE["slab"].number, CATALOGUE["pgfault"].number], _program.POST
        ),
        "terms": _program.encode_terms([*SLAB, *TERMS["pgfault"]]),
    }
    assert {name: int.from_bytes(data, "little") for name, data in constants.items()} == {
        "backend": _program.BACKENDS["core"],
        "flush": _program.FLUSH_RSTAT,
        "memory_cgrp_id": 4,
        "page_size": mmap.PAGESIZE,
        "vmstats_size": 8 * 21,
        "nr_terms": 3,
    }
    assert {len(data) for data in constants.values()} == {4}


def test_no_more_counters_are_copied_than_are_asked_for() -> None:
    layout = _layout.Layout({}, 568, False)
    usage = (_program.Term(_program.KIND_USAGE, True, 0, 1),)
    cases: list[tuple[Terms, int]] = [
        ({CURRENT: usage}, 0),
        ({"pgfault": TERMS["pgfault"], CURRENT: usage}, 21),
        ({"slab": SLAB}, 7),
    ]
    for terms, counters in cases:
        constants = Recipe("core", terms, layout).constants(0)
        assert constants["vmstats_size"] == _program.u32(8 * counters), terms
    assert Recipe("kfunc", TERMS, None).constants(0)["vmstats_size"] == _program.u32(0)


def test_one_cgroup_s_constants() -> None:
    constants = Recipe("kfunc", TERMS, None).constants(_program.FLUSH_NONE)
    assert constants["vmstats_size"] == bytes(4), "there is no layout"
    assert _wire.decode_header(constants["header"]).order == _program.SELF


def test_an_item_without_a_number_has_none() -> None:
    # A line of v1's memory.stat, while a layout is checked.
    recipe = Recipe("core", {"total_pgpgin": TERMS["pgfault"], **TERMS}, None)
    header = _wire.decode_header(recipe.constants(0)["header"])
    assert header.items == (0, CATALOGUE["slab"].number, CATALOGUE["pgfault"].number)
    assert 0 not in {item.number for item in CATALOGUE.values()}


def some_terms(items: int, terms: int) -> Terms:
    """So many items of so many terms in all."""
    more = terms - items
    return {
        str(at): (TERMS["slab"][0],) * (more if at == 0 else 0) + TERMS["pgfault"]
        for at in range(items)
    }


@pytest.mark.parametrize(
    ("items", "terms"), [(_wire.MAX_ITEMS, _wire.MAX_ITEMS), (3, _wire.MAX_TERMS)]
)
def test_as_many_items_as_there_is_room_for(items: int, terms: int) -> None:
    recipe = Recipe("core", some_terms(items, terms), None)
    for name, data in recipe.constants(0).items():
        assert len(data) <= RODATA[name]
    assert recipe.row_size == _wire.ROW.size + 8 * items


@pytest.mark.parametrize(
    ("items", "terms"), [(_wire.MAX_ITEMS + 1, _wire.MAX_ITEMS + 1), (3, _wire.MAX_TERMS + 1)]
)
def test_too_many_items(items: int, terms: int) -> None:
    with pytest.raises(BackendUnavailableError, match=f"{items} items are too many"):
        Recipe("core", some_terms(items, terms), None).constants(0)


def test_all_that_any_kernel_prints_fits() -> None:
    types = LINUX_7_3.types()
    names = (*LINUX_7_3.printed.split(), CURRENT)
    terms = {name: terms_of(name, types, None) for name in names}
    assert all(terms.values())
    assert len(Recipe("kfunc", terms, None).constants(0)["terms"]) < RODATA["terms"] // 2
