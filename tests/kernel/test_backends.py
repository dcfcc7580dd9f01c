# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which backend is chosen, and why no better one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymemcgbpf import BackendUnavailableError, ItemUnavailableError, StatsReader, VerifierError
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import ReadPlan, Term
from pymemcgbpf._options import BACKENDS, Backend

from .surroundings import BEST_BACKEND, BPF_BACKENDS, HAS_RFC, HIERARCHY, RUN_BACKENDS
from .ways import BEST_STAT_WAY


def test_auto_chooses_the_expected_backend(empty_cgroup: Path) -> None:
    with StatsReader(empty_cgroup, flush=False) as reader:
        assert (reader.backend, reader.transport) == BEST_STAT_WAY.shown
        better = BACKENDS[: BACKENDS.index(BEST_BACKEND)]
        assert ";" not in reader.fallback_reason, "one short clause"
        assert "rfc" not in reader.fallback_reason
        assert bool(reader.fallback_reason) == bool(better or reader.transport != "run")


@pytest.mark.parametrize("name", ["kfunc", "rfc"])
def test_a_backend_that_is_not_here_raises_and_says_what_is_missing(
    empty_cgroup: Path, name: Backend
) -> None:
    if name in BPF_BACKENDS:
        with StatsReader(empty_cgroup, backend=name) as reader:
            assert (reader.backend, not reader.fallback_reason) == (name, name in RUN_BACKENDS)
        return
    with pytest.raises(
        BackendUnavailableError, match=r"this kernel has no \w+ \(.*\"auto\""
    ) as caught:
        StatsReader(empty_cgroup, backend=name)
    assert "\n" not in str(caught.value)


@pytest.mark.needs_iterator
def test_a_verifier_refusal_keeps_the_log() -> None:
    # No released kernel has the first patch's functions, so calling one is refused; where they
    # are, so is a call from anything but an iterator.
    program = _program.RUN_ONE if HAS_RFC else _program.STREAM
    term = Term(_terms.KINDS["node_stat_item"], 0)
    with pytest.raises(VerifierError) as caught:
        plan = ReadPlan("rfc", {"anon": (term,)})
        _program.Program(program, plan.constants(_terms.FLUSH_NONE))
    assert caught.value.call == "bpf_object__load"
    assert program in caught.value.log
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the kernel refused the BPF program")


def test_the_root_cgroup_has_no_memory_current() -> None:
    with StatsReader(HIERARCHY) as reader:
        assert reader.backend == BEST_BACKEND
        assert "memory.current" not in reader.read()
    with pytest.raises(ItemUnavailableError, match=r"root cgroup .* 'memory\.current'") as caught:
        StatsReader(HIERARCHY, ["anon", "memory.current"], backend=BEST_BACKEND)
    assert caught.value.item_names == ("memory.current",)
