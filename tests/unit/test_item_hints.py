# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A name that no item has is answered with the item that is meant."""

from __future__ import annotations

import pytest

from pymemcgbpf._item_hints import Hint, by_meaning, by_spelling
from pymemcgbpf._items import CATALOGUE, CURRENT

# As memory.stat of cgroup v1 has them in Linux 5.10 to 6.18. The pages that went in and out
# (pgpgin, pgpgout) are no items, nor is the limit for memory and swap of all ancestors.
V1_KEYS = """
    cache rss rss_huge shmem mapped_file dirty writeback workingset_refault_anon
    workingset_refault_file swap swapcached pgfault pgmajfault inactive_anon active_anon
    inactive_file active_file unevictable
"""


def test_every_key_of_v1_s_memory_stat_leads_to_an_item() -> None:
    for key in V1_KEYS.split():
        hint = by_meaning(f"total_{key}")
        assert hint is not None and set(hint.suggestions) < set(CATALOGUE)
        (name,) = hint.suggestions
        assert CATALOGUE[name].v1 == f"total_{key}"
        assert hint.remark == f": use {name!r}, which cgroup v1 shows under that name"


def test_a_key_of_one_cgroup_alone_is_told_from_that_of_the_subtree() -> None:
    hint = by_meaning("rss")
    assert hint is not None and hint.suggestions == ("anon",)
    assert "one cgroup alone; use 'anon', which counts the cgroups below it" in hint.remark


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("memory.usage_in_bytes", CURRENT),
        ("memory.limit_in_bytes", "memory.max"),
        ("memory.max_usage_in_bytes", "memory.peak"),
        ("memory.oom_control", "memory.events.oom_kill"),
        ("memory.oom_control.oom_kill", "memory.events.oom_kill"),
        ("hierarchical_memory_limit", "derived.effective_limit"),
    ],
)
def test_a_file_or_line_of_v1_is_answered_with_the_item_of_the_same_number(
    name: str, meant: str
) -> None:
    for spelt in (name, name.upper()):
        hint = by_meaning(spelt)
        assert hint == Hint(f": use {meant!r}, which cgroup v1 shows under that name", (meant,))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("usage", CURRENT),
        ("limit", "memory.max"),
        ("oom_kill", "memory.events.oom_kill"),
        ("OOM_KILL", "memory.events.oom_kill"),
        ("working_set", "derived.working_set"),
        ("failcnt", "memory.failcnt"),
        ("memsw", "memory.memsw.usage_in_bytes"),
        ("hierarchical_memsw_limit", "memory.memsw.limit_in_bytes"),
        ("memory.kmem.usage_in_bytes", "kernel"),
    ],
)
def test_a_common_word_is_answered_with_the_item_that_is_meant(word: str, meant: str) -> None:
    assert by_meaning(word) == Hint(f"; did you mean {meant!r}?", (meant,))
    assert meant in CATALOGUE and word not in CATALOGUE


def test_other_names_have_no_meaning_but_may_be_misspelt() -> None:
    for name in ("", "total_", "anno", "xyzzy", "memory.failcount"):
        assert by_meaning(name) is None
    assert by_spelling("xyzzy", CATALOGUE) is None
    hint = by_spelling("pgfalt", CATALOGUE)
    assert hint is not None and hint.suggestions[0] == "pgfault"
    assert hint.remark.startswith("; did you mean 'pgfault'") and hint.remark.endswith("?")


def test_the_file_before_a_key_is_left_out() -> None:
    for name, meant in (("memory.stat.anon", "anon"), ("memory.stat.total_cache", "file")):
        hint = by_meaning(name)
        assert hint is not None and hint.suggestions == (meant,)
