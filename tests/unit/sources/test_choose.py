# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The choice of where a reader's numbers come from."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    BtfNotFoundError,
    CgroupRemovedError,
    ItemUnavailableError,
    LibbpfNotFoundError,
    LibbpfTooOldError,
    MemcgError,
    TreeTooLargeError,
    UnknownItemError,
    VerifierError,
    _options,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import counter_slots as _counter_slots
from pymemcgbpf._bpf.plan import ReadPlan
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup import present_items as _present_items
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._items import CATALOGUE, CURRENT, MEMORY_STAT
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import slot_discovery as _slot_discovery
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.one_bpf import StatSourceFactory

from ..directories import make_v1, make_v2
from ..fake_sources import READ_ERRORS, TRANSIENT
from ..kernels import DIRECT, KERNELS, LINUX_6_1, LINUX_6_12, LINUX_6_18, LINUX_7_3, Kernel

Opened = Callable[[Path], Cgroup]
BPF = ("kfunc", "rfc", "core")
PROBED = frozenset(
    {
        "bpf_get_mem_cgroup",
        "memcg_node_stat_fetch",
        "bpf_mem_cgroup_flush_stats",
        "bpf_cgroup_from_id",
        "bpf_iter_css_new",
        "bpf_prog_test_run_raw_tp",
    }
)


def choose(
    cgroup: Cgroup,
    names: Optional[tuple[str, ...]],
    flush: bool,
    backend: str,
    transport: str = "auto",
) -> Selection[Any]:
    return _choose.choose(
        cgroup, _options.Request(names, flush, backend, transport), StatSourceFactory()
    )


class World:
    """What the kernel has, and the BPF sources made on it."""

    def __init__(self) -> None:
        self.types = LINUX_6_18.types()._replace(functions=PROBED)
        self.refuses: dict[str, Exception] = {}  # making the source
        self.fails: dict[str, Exception] = {}  # its first read
        self.absent: set[str] = set()
        self.made: list[str] = []
        self.open = 0
        self.declined = ""  # why run is not the best
        self.layout_error: Optional[Exception] = None

    def btf(self) -> _btf.KernelTypes:
        return self.types

    def layout(self, types: _btf.KernelTypes, cgroup: Cgroup) -> _counter_slots.Layout:
        if self.layout_error is not None:
            raise self.layout_error
        return _counter_slots.Layout(LINUX_6_18.slots(), False)

    def source(self, cgroup: Cgroup, plan: ReadPlan, flush: bool, transport: str) -> Any:
        return Source(self, plan.backend, transport, plan.terms)

    def reason_to_avoid(self, cgroup: Cgroup, backend: str, flush: bool, transport: str) -> str:
        return self.declined if transport == "run" else ""


class Source:
    def __init__(self, world: World, backend: str, transport: str, terms: Iterable[str]) -> None:
        self.world, self.backend, self.names = world, backend, tuple(terms)
        self.transport = transport
        world.made.append(backend if transport == "stream" else f"{backend}/{transport}")
        for who in (backend, transport):
            if who in world.refuses:
                raise world.refuses[who]
        world.open += 1

    def probe_missing(self) -> set[str]:
        for who in (self.backend, self.transport):
            if who in self.world.fails:
                raise self.world.fails[who]
        return {name for name in self.names if name in self.world.absent}

    def close(self) -> None:
        self.world.open -= 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(_btf, "kernel", made.btf)
    monkeypatch.setattr(_slot_discovery, "find", made.layout)
    monkeypatch.setattr(StatSourceFactory, "bpf", lambda _, *arguments: made.source(*arguments))
    monkeypatch.setattr(
        StatSourceFactory, "reason_to_avoid", lambda _, *arguments: made.reason_to_avoid(*arguments)
    )
    monkeypatch.setattr(StatSourceFactory, "transports", ("stream",))
    return made


@pytest.fixture
def two_ways(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world with run as well."""
    monkeypatch.setattr(StatSourceFactory, "transports", ("run", "stream"))
    return world


def no_bpf(world: World, error: Exception) -> None:
    world.refuses = dict.fromkeys(BPF, error)


# --- bad values -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["", "bpf", "AUTO", "kfunc ", None, 0, True])
def test_no_such_backend(backend: Any, world: World, v2: Path, opened: Opened) -> None:
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'kfunc'") as caught:
        choose(opened(v2), None, True, backend)
    assert repr(backend) in str(caught.value)
    assert not isinstance(caught.value, MemcgError)
    assert world.made == []


@pytest.mark.parametrize("backend", ["auto", *BPF, "text"])
def test_an_unknown_name_lists_the_close_ones(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    with pytest.raises(UnknownItemError, match="'pgfalt'; did you mean 'pgfault'") as caught:
        choose(opened(v2), ("anon", "pgfalt"), True, backend)
    assert caught.value.item == "pgfalt"
    assert caught.value.suggestions[0] == "pgfault"
    assert world.made == []


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("rss", "anon"),
        ("total_rss", "anon"),
        ("cache", "file"),
        ("total_cache", "file"),
        ("mapped_file", "file_mapped"),
        ("total_pgfault", "pgfault"),
        ("total_swap", "swap"),
    ],
)
def test_a_name_of_cgroup_v1_is_answered_with_the_item_to_use(
    name: str, own: str, world: World, v2: Path, opened: Opened
) -> None:
    with pytest.raises(UnknownItemError) as caught:
        choose(opened(v2), (name,), True, "auto")
    said = str(caught.value)
    assert said.startswith(f"no item is called {name!r}: ") and f"use {own!r}" in said
    assert ("counts the cgroups below it, too" in said) == (not name.startswith("total_"))
    assert caught.value.suggestions == (own,)


def test_an_unknown_name_with_nothing_close(world: World, v2: Path, opened: Opened) -> None:
    with pytest.raises(UnknownItemError) as caught:
        choose(opened(v2), ("xyzzy",), True, "auto")
    assert str(caught.value) == "no item is called 'xyzzy'"
    assert caught.value.suggestions == ()


def test_only_who_asks_for_a_missing_backend_is_told_to_use_auto(
    world: World, v2: Path, opened: Opened
) -> None:
    world.types = world.types._replace(functions=frozenset())
    for backend in ("kfunc", "rfc"):
        advice = r'\): use backend="auto" \(--backend auto; core reads'
        with pytest.raises(BackendUnavailableError, match=advice):
            choose(opened(v2), ("anon",), True, backend)
    world.refuses = {"core": VerifierError("refused")}
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.backend == "text" and "use backend" not in choice.fallback_reason
    choice.source.close()


@pytest.mark.parametrize("backend", ["auto", *BPF, "text"])
def test_an_item_that_this_kernel_lacks_is_named(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    with pytest.raises(ItemUnavailableError, match="'zswap_incomp', 'hugetlb'") as caught:
        choose(opened(v2), ("anon", "zswap_incomp", "hugetlb"), True, backend)
    assert caught.value.item_names == ("zswap_incomp", "hugetlb")
    assert world.open == 0


def test_only_what_the_best_backend_lacks_is_named(
    world: World, tmp_path: Path, opened: Opened
) -> None:
    names = ("kernel", "slab", "memory.events.oom")  # as text, cgroup v1 has none of these
    with pytest.raises(
        ItemUnavailableError, match=r"does not have 'memory\.events\.oom'"
    ) as caught:
        choose(opened(make_v1(tmp_path / "v1")), names, True, "auto")
    assert caught.value.item_names == ("memory.events.oom",)
    assert world.open == 0


@pytest.mark.parametrize("backend", BPF)
def test_an_item_that_the_kernel_answers_absent_for(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    world.absent = {"file"}
    with pytest.raises(ItemUnavailableError, match="'file'") as caught:
        choose(opened(v2), ("anon", "file"), True, backend)
    assert caught.value.item_names == ("file",)
    assert world.open == 0


@pytest.mark.parametrize("backend", BPF)
def test_an_item_of_tomorrow_is_text_s_alone(
    backend: str, world: World, tmp_path: Path, opened: Opened
) -> None:
    cgroup = opened(make_v2(tmp_path / "new", stat="anon 4096\nof_tomorrow 5\n"))
    with pytest.raises(
        ItemUnavailableError, match=f"the {backend} backend.*'of_tomorrow'"
    ) as caught:
        choose(cgroup, ("anon", "of_tomorrow"), True, backend)
    assert caught.value.item_names == ("of_tomorrow",)
    assert world.made == []
    choice = choose(cgroup, ("of_tomorrow", "anon"), True, "auto")
    assert (choice.backend, choice.source.read()) == ("text", {"of_tomorrow": 5, "anon": 4096})
    choice.source.close()
    choice = choose(cgroup, None, True, backend)
    assert choice.names == ("anon", CURRENT)
    choice.source.close()


@pytest.mark.parametrize("backend", ["auto", "core", "text"])
def test_an_item_whose_file_went_with_its_cgroup(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    (v2 / "memory.current").unlink()
    with pytest.raises(CgroupRemovedError) as caught:
        choose(cgroup, (CURRENT,), True, backend)
    assert isinstance(caught.value.__cause__, ItemUnavailableError)


@pytest.mark.parametrize(
    ("make", "where"),
    [(make_v2, "this kernel's memory.stat does"), (make_v1, "this kernel's cgroup v1 memory.stat")],
)
def test_whose_lack_it_is(
    make: Callable[..., Path], where: str, world: World, tmp_path: Path, opened: Opened
) -> None:
    cgroup = opened(make(tmp_path / "cgroup"))
    for backend in ("core", "text"):
        with pytest.raises(ItemUnavailableError, match=f"^{where}.*'zswap'"):
            choose(cgroup, ("zswap",), True, backend)


def test_the_root_has_no_current(world: World, tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v2(tmp_path / "root", kind=None))
    for backend in ("auto", "core", "text"):
        with pytest.raises(ItemUnavailableError, match="the root cgroup") as caught:
            choose(cgroup, (CURRENT,), True, backend)
        assert caught.value.item_names == (CURRENT,)


# --- auto -----------------------------------------------------------------------------


@pytest.mark.parametrize("refused", range(4))
def test_auto_takes_the_best_that_works(
    refused: int, world: World, v2: Path, opened: Opened
) -> None:
    order = ("kfunc", "rfc", "core", "text")
    world.refuses = {name: VerifierError(f"no {name} here") for name in order[:refused]}
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.backend == order[refused]
    assert choice.fallback_reason == "; ".join(
        f"{name}: no {name} here" for name in order[:refused]
    )
    assert world.made == list(order[: refused + 1])[:3]
    choice.source.close()
    assert world.open == 0


def test_auto_asks_btf_before_it_loads(world: World, v2: Path, opened: Opened) -> None:
    world.types = LINUX_6_18.types()
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert (choice.backend, world.made) == ("core", ["core"])
    assert choice.fallback_reason == "kfunc: needs Linux 7.0 or later"
    choice.source.close()


@pytest.mark.parametrize(
    "error",
    [
        LibbpfNotFoundError("no libbpf"),
        LibbpfTooOldError("an old libbpf"),
        BtfNotFoundError("no BTF"),
    ],
)
def test_without_libbpf_or_btf_auto_reads_text_and_says_why(
    error: Exception, monkeypatch: pytest.MonkeyPatch, v2: Path, opened: Opened
) -> None:
    def refuse() -> _btf.KernelTypes:
        raise error

    monkeypatch.setattr(_btf, "kernel", refuse)
    choice = choose(opened(v2), None, True, "auto")
    assert choice.backend == "text"
    assert str(error) in choice.fallback_reason
    assert choice.source.read() == {"anon": 4096, "file": 8192, "pgfault": 3, CURRENT: 12288}
    choice.source.close()
    for backend in BPF:
        with pytest.raises(type(error)):
            choose(opened(v2), None, True, backend)


@pytest.mark.parametrize(
    "error",
    [
        BpfPermissionError("no CAP_BPF", errno=errno.EPERM),
        VerifierError("refused"),
        BackendUnavailableError("no"),
        # A kernel whose iterators know no cgroups, a security module, and the like.
        MemcgError("attach", errno=errno.EINVAL, call="bpf_link_create"),
        MemcgError("attach", errno=errno.EACCES, call="bpf_link_create"),
    ],
)
def test_auto_falls_back_where_bpf_refuses(
    error: MemcgError, world: World, v2: Path, opened: Opened
) -> None:
    no_bpf(world, error)
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.backend == "text" and str(error) in choice.fallback_reason
    choice.source.close()
    for backend in BPF:
        with pytest.raises(type(error)):
            choose(opened(v2), ("anon",), True, backend)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_auto_falls_back_where_the_first_read_fails(
    number: int, world: World, v2: Path, opened: Opened
) -> None:
    world.fails = dict.fromkeys(BPF, MemcgError("x", errno=number, call="bpf_iter_create"))
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.backend == "text" and choice.fallback_reason
    assert world.open == 0
    choice.source.close()


@pytest.mark.parametrize("number", TRANSIENT)
@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_a_transient_error_does_not_choose_text(
    when: str, number: int, world: World, v2: Path, opened: Opened
) -> None:
    setattr(world, when, dict.fromkeys(BPF, MemcgError("not now", errno=number)))
    for backend in ("auto", "kfunc"):
        with pytest.raises(MemcgError, match="not now") as caught:
            choose(opened(v2), ("anon",), True, backend)
        assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    assert (world.made, world.open) == (["kfunc"] * 2, 0)
    setattr(world, when, {})
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert (choice.backend, choice.fallback_reason) == ("kfunc", ""), "the next one is the best"
    choice.source.close()


@pytest.mark.parametrize("number", TRANSIENT)
def test_btf_that_cannot_be_read_now_is_no_reason_to_read_as_text(
    number: int, world: World, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> _btf.KernelTypes:
        raise MemcgError("not now", errno=number, call="btf__load_vmlinux_btf")

    with monkeypatch.context() as patch:
        patch.setattr(_btf, "kernel", refuse)
        with pytest.raises(MemcgError, match="not now") as caught:
            choose(opened(v2), ("anon",), True, "auto")
    assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.backend == "kfunc"
    choice.source.close()


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_file_that_cannot_be_opened_now_is_no_reason_to_read_as_text(
    number: int, world: World, v2: Path, opened: Opened
) -> None:
    # One that is read for the kernel to flush: not libbpf's error, but the system's.
    world.refuses = {"kfunc": OSError(number, os.strerror(number))}
    with pytest.raises(MemcgError) as caught:
        choose(opened(v2), ("anon",), True, "auto")
    assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    assert world.made == ["kfunc"]


def test_auto_does_not_hide_that_the_cgroup_is_gone(world: World, v2: Path, opened: Opened) -> None:
    no_bpf(world, CgroupRemovedError("gone"))
    with pytest.raises(CgroupRemovedError):
        choose(opened(v2), ("anon",), True, "auto")
    assert world.made == ["kfunc"]


def test_auto_goes_on_where_a_backend_lacks_an_item(world: World, v2: Path, opened: Opened) -> None:
    world.absent = {"file"}
    choice = choose(opened(v2), ("anon", "file"), True, "auto")
    assert choice.backend == "text" and "'file'" in choice.fallback_reason
    assert world.open == 0
    choice.source.close()


@pytest.mark.parametrize("backend", ["auto", "core"])
def test_no_layout(backend: str, world: World, v2: Path, opened: Opened) -> None:
    world.types = LINUX_6_18.types()
    world.layout_error = BackendUnavailableError("counters not found")
    if backend == "core":
        with pytest.raises(BackendUnavailableError, match="counters not found"):
            choose(opened(v2), ("anon",), True, backend)
    else:
        choice = choose(opened(v2), ("anon",), True, backend)
        assert choice.backend == "text" and "core: counters not found" in choice.fallback_reason
        choice.source.close()


# --- explicit -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BPF)
def test_an_explicit_backend_raises(backend: str, world: World, v2: Path, opened: Opened) -> None:
    no_bpf(world, VerifierError("refused"))
    with pytest.raises(VerifierError, match="refused"):
        choose(opened(v2), ("anon",), True, backend)
    assert world.made == [backend]


@pytest.mark.parametrize("backend", [*BPF, "text"])
def test_an_explicit_backend_needs_no_why(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    choice = choose(opened(v2), ("pgfault", "anon"), True, backend)
    assert (choice.backend, choice.names, choice.fallback_reason) == (
        backend,
        ("pgfault", "anon"),
        "",
    )
    choice.source.close()


@pytest.mark.parametrize(("backend", "function"), [("kfunc", "bpf_get"), ("rfc", "memcg_node")])
def test_an_explicit_backend_that_btf_denies(
    backend: str, function: str, world: World, v2: Path, opened: Opened
) -> None:
    world.types = LINUX_6_18.types()
    with pytest.raises(BackendUnavailableError, match=f"no {function}"):
        choose(opened(v2), ("anon",), True, backend)
    assert world.made == []


@pytest.mark.parametrize("backend", BPF)
def test_a_kernel_without_the_memory_controller(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    world.types = world.types._replace(memory_cgrp_id=None)
    with pytest.raises(BackendUnavailableError, match="without the memory controller"):
        choose(opened(v2), ("anon",), True, backend)


def test_text_needs_nothing_of_bpf(
    monkeypatch: pytest.MonkeyPatch, v2: Path, opened: Opened
) -> None:
    def never() -> Any:
        raise AssertionError("the text backend asked for BTF")

    monkeypatch.setattr(_btf, "kernel", never)
    choice = choose(opened(v2), ("anon",), True, "text")
    assert choice.source.read() == {"anon": 4096}
    choice.source.close()


# --- transports -----------------------------------------------------------------------


def test_the_best_transport_is_taken(two_ways: World, v2: Path, opened: Opened) -> None:
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert (choice.backend, choice.transport, choice.fallback_reason) == ("kfunc", "run", "")
    assert two_ways.made == ["kfunc/run"]
    choice.source.close()


@pytest.mark.parametrize(
    ("kernel", "make", "backend", "transport"),
    [
        (LINUX_6_1, make_v2, "core", "run"),
        (LINUX_6_1, make_v1, "core", "run"),
        (LINUX_6_12, make_v2, "core", "run"),
        (LINUX_6_12, make_v1, "core", "run"),
        (LINUX_6_18, make_v2, "core", "run"),
        (LINUX_6_18, make_v1, "core", "run"),
        (LINUX_7_3, make_v2, "kfunc", "run"),
        (LINUX_7_3, make_v1, "kfunc", "stream"),
        *(
            (kernel, make, "core", "run")
            for kernel in DIRECT.values()
            for make in (make_v2, make_v1)
        ),
    ],
    ids=[f"{name}-{version}" for name in (*KERNELS, *DIRECT) for version in ("v2", "v1")],
)
def test_the_best_on_each_kernel(
    kernel: Kernel,
    make: Callable[[Path], Path],
    backend: str,
    transport: str,
    two_ways: World,
    tmp_path: Path,
    opened: Opened,
) -> None:
    two_ways.types = kernel.types()
    choice = choose(opened(make(tmp_path / "cgroup")), ("anon",), True, "auto")
    assert (choice.backend, choice.transport) == (backend, transport)
    choice.source.close()


@pytest.mark.parametrize("make", [make_v2, make_v1], ids=["v2", "v1"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_core_runs_a_program_first_and_streams_after_that(
    kernel: Kernel,
    make: Callable[[Path], Path],
    two_ways: World,
    tmp_path: Path,
    opened: Opened,
) -> None:
    two_ways.types = kernel.types()
    cgroup = opened(make(tmp_path / "cgroup"))
    choice = choose(cgroup, ("anon",), True, "core")
    assert (choice.transport, choice.fallback_reason) == ("run", "")
    choice.source.close()
    two_ways.refuses = {"run": VerifierError("refused")}
    choice = choose(cgroup, ("anon",), True, "core")
    assert (choice.transport, choice.fallback_reason) == ("stream", "run: refused")
    choice.source.close()
    assert two_ways.made == ["core/run", "core/run", "core"]


@pytest.mark.parametrize("transport", ["run", "stream"])
@pytest.mark.parametrize("backend", ["auto", "kfunc", "core"])
def test_a_transport_can_be_forced(
    backend: str, transport: str, two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.declined = "not the best"
    choice = choose(opened(v2), ("anon",), True, backend, transport)
    assert (choice.transport, choice.fallback_reason) == (transport, "")
    choice.source.close()


@pytest.mark.parametrize("transport", ["", "shared", "RUN", None, 1])
def test_no_such_transport(transport: Any, two_ways: World, v2: Path, opened: Opened) -> None:
    with pytest.raises(ValueError, match="transport must be one of 'auto', 'run', 'stream'"):
        choose(opened(v2), None, True, "auto", transport)
    assert two_ways.made == []


def test_text_has_no_transport(two_ways: World, v2: Path, opened: Opened) -> None:
    with pytest.raises(ValueError, match="text backend has no transport 'run'"):
        choose(opened(v2), None, True, "text", "run")
    choice = choose(opened(v2), None, True, "text")
    assert choice.transport == "text"
    choice.source.close()


def cannot_run(case: str, world: World, tmp_path: Path) -> Path:
    if case == "old":
        lacks = {"bpf_cgroup_from_id", "bpf_prog_test_run_raw_tp"}
        world.types = world.types._replace(functions=PROBED - lacks)
    elif case == "declined":
        world.declined = "not the best"
    elif case == "refused":
        world.refuses = {"run": VerifierError("refused")}
    elif case == "fails":
        world.fails = {"run": MemcgError("failed", errno=errno.EPERM, call="test_run")}
    make = make_v1 if case == "v1" else make_v2
    return make(tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("old", "needs Linux 6.12 or later"),
        ("v1", "on cgroup v2 only"),
        ("declined", "not the best"),
        ("refused", "refused"),
        ("fails", "failed"),
    ],
)
def test_where_a_program_cannot_be_run_the_stream_is_read(
    case: str, why: str, two_ways: World, tmp_path: Path, opened: Opened
) -> None:
    cgroup = opened(cannot_run(case, two_ways, tmp_path))
    choice = choose(cgroup, ("anon",), True, "auto")
    assert (choice.backend, choice.transport) == ("kfunc", "stream")
    assert choice.fallback_reason.startswith("run: ") and choice.fallback_reason.endswith(why)
    choice.source.close()
    assert two_ways.open == 0


@pytest.mark.parametrize(
    ("backend", "case", "why"),
    [
        ("auto", "old", "no bpf_cgroup_from_id .*; core: .*no bpf_prog_test_run_raw_tp "),
        ("auto", "refused", "refused"),
        ("auto", "fails", "failed"),
        ("kfunc", "old", "no bpf_cgroup_from_id "),
        ("kfunc", "v1", "on cgroup v2 only"),
        ("kfunc", "refused", "refused"),
        ("kfunc", "fails", "failed"),
        ("core", "old", r"no bpf_prog_test_run_raw_tp \(Linux 5\.10 or later\)"),
        ("core", "refused", "refused"),
        ("core", "fails", "failed"),
    ],
)
def test_a_forced_transport_never_becomes_another(
    backend: str, case: str, why: str, two_ways: World, tmp_path: Path, opened: Opened
) -> None:
    cgroup = opened(cannot_run(case, two_ways, tmp_path))
    with pytest.raises(MemcgError, match=why) as caught:
        choose(cgroup, ("anon",), True, backend, "run")
    if backend == "auto":
        assert type(caught.value) is BackendUnavailableError
        for each in ("kfunc", "rfc", "core"):
            assert each in str(caught.value)
    assert {name.partition("/")[2] for name in two_ways.made} <= {"run"}
    assert two_ways.open == 0


@pytest.mark.parametrize("transport", ["run", "stream"])
def test_a_forced_transport_without_bpf_says_why(
    transport: str, two_ways: World, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> _btf.KernelTypes:
        raise LibbpfNotFoundError("no libbpf")

    monkeypatch.setattr(_btf, "kernel", refuse)
    with pytest.raises(BackendUnavailableError, match="kfunc, rfc, core: no libbpf"):
        choose(opened(v2), ("anon",), True, "auto", transport)


@pytest.mark.parametrize("transport", ["run", "stream"])
@pytest.mark.parametrize("functions", [frozenset(), PROBED])
def test_a_forced_transport_without_privileges_says_what_to_grant(
    functions: frozenset[str], transport: str, two_ways: World, v2: Path, opened: Opened
) -> None:
    kinds = frozenset({"cgroup_iter_seq_next", "bpf_prog_test_run_raw_tp"})
    two_ways.types = two_ways.types._replace(functions=functions | kinds)
    no_bpf(
        two_ways,
        BpfPermissionError("no", remedy="grant it", errno=errno.EPERM, call="bpf_object__load"),
    )
    with pytest.raises(BpfPermissionError, match=r"core: no: grant it$") as caught:
        choose(opened(v2), ("anon",), True, "auto", transport)
    assert caught.value.remedy == "grant it"
    assert (caught.value.errno, caught.value.call) == (errno.EPERM, "bpf_object__load")


def test_a_forced_transport_goes_with_the_best_backend_that_has_it(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.refuses = {"kfunc": VerifierError("no kfunc")}
    choice = choose(opened(v2), ("anon",), True, "auto", "run")
    assert (choice.backend, choice.transport) == ("core", "run")
    assert choice.fallback_reason == (
        "kfunc: no kfunc; rfc: the kernel offers the rfc functions to iterators only"
    )
    choice.source.close()


def test_only_core_runs_on_cgroup_v1(two_ways: World, tmp_path: Path, opened: Opened) -> None:
    choice = choose(opened(make_v1(tmp_path / "v1")), ("anon",), True, "auto", "run")
    assert (choice.backend, choice.transport) == ("core", "run")
    why = "kfunc, rfc: the kernel finds a cgroup by its id on cgroup v2 only"
    assert choice.fallback_reason == why
    choice.source.close()
    assert two_ways.made == ["core/run"]


def test_core_runs_where_kfunc_cannot(two_ways: World, v2: Path, opened: Opened) -> None:
    functions = PROBED - {"bpf_cgroup_from_id", "bpf_iter_css_new"}
    two_ways.types = two_ways.types._replace(functions=functions)
    choice = choose(opened(v2), ("anon",), True, "core")
    assert (choice.transport, choice.fallback_reason) == ("run", "")
    choice.source.close()


def test_core_streams_where_no_raw_tracepoint_can_be_run(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    functions = PROBED - {"bpf_prog_test_run_raw_tp"}
    two_ways.types = two_ways.types._replace(functions=functions)
    choice = choose(opened(v2), ("anon",), True, "core")
    assert (choice.transport, two_ways.made) == ("stream", ["core"])
    assert choice.fallback_reason == "run: needs Linux 5.10 or later"
    choice.source.close()


@pytest.mark.parametrize("make", [make_v2, make_v1], ids=["v2", "v1"])
def test_core_runs_where_there_are_no_cgroup_iterators(
    make: Callable[[Path], Path], two_ways: World, tmp_path: Path, opened: Opened
) -> None:
    # Before Linux 6.1.
    two_ways.types = two_ways.types._replace(
        functions=frozenset({"bpf_prog_test_run_raw_tp"}), iterator_orders=frozenset()
    )
    cgroup = opened(make(tmp_path / "cgroup"))
    for backend in ("auto", "core"):
        choice = choose(cgroup, ("anon",), True, backend)
        assert (choice.backend, choice.transport) == ("core", "run")
        choice.source.close()
    assert two_ways.made == ["core/run"] * 2


def test_a_refusal_is_not_hidden_by_a_transport_that_the_kernel_lacks(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    # Before Linux 6.1, without CAP_BPF for instance.
    two_ways.types = two_ways.types._replace(
        functions=frozenset({"bpf_prog_test_run_raw_tp"}), iterator_orders=frozenset()
    )
    two_ways.refuses = {"run": BpfPermissionError("no CAP_BPF")}
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert (choice.backend, choice.fallback_reason) == ("text", "core: no CAP_BPF")
    choice.source.close()
    with pytest.raises(BpfPermissionError, match="no CAP_BPF"):
        choose(opened(v2), ("anon",), True, "core")
    assert two_ways.made == ["core/run"] * 2
    assert two_ways.open == 0


@pytest.mark.parametrize("backend", BPF)
def test_an_iterator_is_looked_for_before_it_is_asked(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    world.types = world.types._replace(iterator_orders=frozenset())
    with pytest.raises(BackendUnavailableError, match=r"Linux 6\.1 or later"):
        choose(opened(v2), ("anon",), True, backend, "stream")
    assert world.made == []


@pytest.mark.parametrize("lacking", ["bpf_cgroup_from_id", "bpf_iter_css_new"])
def test_the_functions_that_a_run_needs_are_named(
    lacking: str, two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.types = two_ways.types._replace(functions=PROBED - {lacking})
    with pytest.raises(BackendUnavailableError, match=f"this kernel has no {lacking} "):
        choose(opened(v2), ("anon",), True, "kfunc", "run")
    neither = PROBED - {"bpf_cgroup_from_id", "bpf_iter_css_new"}
    two_ways.types = two_ways.types._replace(functions=neither)
    both = "no bpf_cgroup_from_id and no bpf_iter_css_new "
    with pytest.raises(BackendUnavailableError, match=both):
        choose(opened(v2), ("anon",), True, "kfunc", "run")
    assert two_ways.made == []


def test_where_both_transports_fail_the_next_backend_is_tried(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.refuses = {"run": VerifierError("no run"), "stream": VerifierError("no stream")}
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert two_ways.made == ["kfunc/run", "kfunc", "rfc", "core/run", "core"]
    assert (choice.backend, choice.transport) == ("text", "text")
    assert "kfunc, rfc, core: " in choice.fallback_reason and "no stream" in choice.fallback_reason
    choice.source.close()


@pytest.mark.parametrize("transport", ["auto", "run", "stream"])
def test_an_item_that_no_transport_brings_is_named(
    transport: str, two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.absent = {"file"}
    with pytest.raises(ItemUnavailableError, match="'file'") as caught:
        choose(opened(v2), ("anon", "file"), True, "core", transport)
    assert caught.value.item_names == ("file",)
    choice = choose(opened(v2), None, True, "core", transport)
    assert choice.names == ("anon", "pgfault", CURRENT)
    choice.source.close()
    assert two_ways.open == 0


@pytest.mark.parametrize(
    "error",
    [CgroupRemovedError("gone"), TreeTooLargeError("12 cgroups", rows=12, max_rows=10)],
)
@pytest.mark.parametrize("when", ["refuses", "fails"])
@pytest.mark.parametrize("backend", ["auto", "core"])
def test_an_error_of_the_cgroup_does_not_choose_another_transport(
    backend: str,
    when: str,
    error: MemcgError,
    two_ways: World,
    v2: Path,
    opened: Opened,
) -> None:
    cgroup = opened(v2)
    (v2 / "memory.current").unlink()  # it is being removed
    setattr(two_ways, when, {"run": error})
    with pytest.raises(type(error)) as caught:
        choose(cgroup, ("anon",), True, backend)
    assert caught.value is error and error.__cause__ is None
    assert len(two_ways.made) == 1
    assert two_ways.open == 0


@pytest.mark.parametrize("number", TRANSIENT)
@pytest.mark.parametrize("when", ["refuses", "fails"])
@pytest.mark.parametrize("backend", ["auto", "core"])
def test_a_transient_error_does_not_choose_another_transport(
    backend: str, when: str, number: int, two_ways: World, v2: Path, opened: Opened
) -> None:
    setattr(two_ways, when, {"run": MemcgError("not now", errno=number)})
    with pytest.raises(MemcgError, match="not now") as caught:
        choose(opened(v2), ("anon",), True, backend)
    assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    best = "kfunc" if backend == "auto" else backend
    assert (two_ways.made, two_ways.open) == ([f"{best}/run"], 0)
    setattr(two_ways, when, {})
    choice = choose(opened(v2), ("anon",), True, backend)
    assert (choice.backend, choice.transport, choice.fallback_reason) == (best, "run", "")
    choice.source.close()


@pytest.mark.parametrize("when", ["refuses", "fails"])
def test_an_interrupt_leaves_no_source(
    when: str, two_ways: World, v2: Path, opened: Opened
) -> None:
    setattr(two_ways, when, {"run": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        choose(opened(v2), ("anon",), True, "auto")
    assert (two_ways.made, two_ways.open) == (["kfunc/run"], 0)


def test_what_the_maker_is_asked_for(
    two_ways: World, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool, str]] = []

    def reason_to_avoid(
        _: StatSourceFactory, cgroup: Cgroup, backend: str, flush: bool, transport: str
    ) -> str:
        asked.append((backend, flush, transport))
        return ""

    monkeypatch.setattr(StatSourceFactory, "reason_to_avoid", reason_to_avoid)
    choose(opened(v2), ("anon",), False, "core").source.close()
    assert asked == [("core", False, "run"), ("core", False, "stream")]
    choose(opened(v2), ("anon",), False, "core", "run").source.close()
    assert len(asked) == 2, "not where it is forced"


def test_a_transport_that_is_avoided_is_better_than_none(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.declined = "run costs more"
    choice = choose(opened(v2), ("anon",), True, "core")
    assert (choice.transport, choice.fallback_reason) == ("stream", "run: run costs more")
    choice.source.close()
    two_ways.refuses = {"stream": BpfPermissionError("it needs CAP_SYS_ADMIN")}
    two_ways.made.clear()
    choice = choose(opened(v2), ("anon",), True, "core")
    assert two_ways.made == ["core", "core/run"]
    assert (choice.transport, choice.fallback_reason) == ("run", "stream: it needs CAP_SYS_ADMIN")
    choice.source.close()
    two_ways.refuses["run"] = VerifierError("run is refused, too")
    with pytest.raises(VerifierError, match="run is refused, too"):
        choose(opened(v2), ("anon",), True, "core")


def test_rfc_functions_serve_iterators_only(two_ways: World, v2: Path, opened: Opened) -> None:
    with pytest.raises(BackendUnavailableError, match="to iterators only"):
        choose(opened(v2), ("anon",), True, "rfc", "run")
    choice = choose(opened(v2), ("anon",), True, "rfc")
    assert (choice.transport, two_ways.made) == ("stream", ["rfc"])
    choice.source.close()


def test_backends_come_before_transports_in_why(two_ways: World, v2: Path, opened: Opened) -> None:
    two_ways.refuses = {
        "kfunc": VerifierError("no kfunc"),
        "rfc": VerifierError("no rfc"),
        "run": VerifierError("no run"),
    }
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.fallback_reason == "kfunc: no kfunc; rfc: no rfc; run: no run"
    choice.source.close()


def test_a_program_that_does_not_find_the_cgroup_is_no_removal(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.fails = {"run": BackendUnavailableError("not found")}
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert (choice.transport, two_ways.open) == ("stream", 1)
    assert "run: not found" in choice.fallback_reason
    choice.source.close()
    for backend in ("auto", "core"):
        with pytest.raises(BackendUnavailableError, match="not found"):
            choose(opened(v2), ("anon",), True, backend, "run")
    assert two_ways.open == 0


def test_a_removed_cgroup_is_looked_for_no_further(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    two_ways.fails = {"run": CgroupRemovedError("gone")}
    with pytest.raises(CgroupRemovedError, match="gone"):
        choose(opened(v2), ("anon",), True, "auto")
    assert (two_ways.made, two_ways.open) == (["kfunc/run"], 0)


# --- all items ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [*BPF, "text"])
def test_all_items_are_memory_stat_s_in_its_order_and_current(
    backend: str, world: World, tmp_path: Path, opened: Opened
) -> None:
    printed = LINUX_6_18.printed.split()
    stat = "".join(f"{name} 1\n" for name in printed)
    choice = choose(opened(make_v2(tmp_path / "all", stat=stat)), None, True, backend)
    assert choice.names == (*printed, CURRENT)
    choice.source.close()


@pytest.mark.parametrize("backend", BPF)
def test_what_the_kernel_does_not_keep_is_left_out(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    world.absent = {"file", CURRENT}
    choice = choose(opened(v2), None, True, backend)
    assert choice.names == ("anon", "pgfault")
    choice.source.close()
    assert world.open == 0


@pytest.mark.parametrize("backend", BPF)
def test_v1_offers_all_that_is_kept_on_bpf(
    backend: str, world: World, tmp_path: Path, opened: Opened
) -> None:
    choice = choose(opened(make_v1(tmp_path / "v1")), None, True, backend)
    kept = set(LINUX_6_18.printed.split())
    kept -= {"hugetlb", "sock", "zswap", "zswapped"}  # counted per cgroup on v2 only
    assert set(choice.names) == kept | {CURRENT}
    assert list(choice.names) == [name for name in CATALOGUE if name in choice.names]
    choice.source.close()


def test_v1_offers_its_own_lines_as_text(world: World, tmp_path: Path, opened: Opened) -> None:
    choice = choose(opened(make_v1(tmp_path / "v1")), None, True, "text")
    assert choice.source.read() == {"anon": 4096, "file": 8192, "pgfault": 3, CURRENT: 12288}
    choice.source.close()


def test_v1_says_why_bpf_could_not_give_what_its_text_lacks(
    world: World, tmp_path: Path, opened: Opened
) -> None:
    no_bpf(world, BpfPermissionError("no CAP_BPF"))
    with pytest.raises(ItemUnavailableError, match="no CAP_BPF") as caught:
        choose(opened(make_v1(tmp_path / "v1")), ("slab",), True, "auto")
    assert caught.value.item_names == ("slab",)


@pytest.mark.parametrize(
    ("make", "name", "backend"),
    [
        (make_v2, "zswap", "auto"),  # v2's text shows all that there is
        (make_v1, "sock", "auto"),  # nor would BPF have it
        (make_v1, "sock", "text"),
    ],
)
def test_why_bpf_could_not_is_not_said_where_it_would_not_help(
    make: Callable[..., Path],
    name: str,
    backend: str,
    world: World,
    tmp_path: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if make is make_v2:
        world.types = world.types._replace(memory_cgrp_id=None)
    with pytest.raises(ItemUnavailableError) as caught:
        choose(opened(make(tmp_path / "cgroup")), (name,), True, backend)
    assert str(caught.value).endswith(f"memory.stat does not have {name!r}")


def test_on_v1_who_asks_for_text_is_told_what_bpf_alone_may_have(
    world: World, tmp_path: Path, opened: Opened
) -> None:
    names = ("anon", "slab", "sock", "pgscan", "memory.high")
    with pytest.raises(ItemUnavailableError) as caught:
        choose(opened(make_v1(tmp_path / "v1")), names, True, "text")
    assert str(caught.value).endswith("'memory.high'; BPF alone may have 'slab', 'pgscan'")
    assert caught.value.item_names == ("slab", "sock", "pgscan", "memory.high")


@pytest.mark.parametrize(
    ("make", "name", "other"),
    [
        (make_v1, "memory.swap.current", "on cgroup v1 'swap'"),
        (make_v1, "memory.events.max", "on cgroup v1 'memory.failcnt'"),
        (make_v2, "swap", "on cgroup v2 'memory.swap.current'"),
        (make_v2, "memory.failcnt", "on cgroup v2 'memory.events.max'"),
        (make_v2, "memory.memsw.usage_in_bytes", ""),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "core", "text"])
def test_an_item_of_the_other_version_is_answered_with_the_nearest_of_this_one(
    backend: str,
    make: Callable[..., Path],
    name: str,
    other: str,
    world: World,
    tmp_path: Path,
    opened: Opened,
) -> None:
    with pytest.raises(ItemUnavailableError) as caught:
        choose(opened(make(tmp_path / "cgroup")), (name,), True, backend)
    end = f"; {other} takes the place of {name!r}" if other else f"does not have {name!r}"
    assert str(caught.value).endswith(end)


# --- what another backend may have ------------------------------------------------------


def counted_on_v1() -> set[str]:
    """The items of memory.stat and memory.current that BPF has of Linux 6.18 on cgroup v1."""
    kept = set(LINUX_6_18.printed.split())
    return (kept - {"hugetlb", "sock", "zswap", "zswapped"}) | {CURRENT}


MISSING = re.compile(r"as text, up to (\d+) of (\d+) items are missing \((.*)\)$")


@pytest.mark.parametrize("names", [None, ("*",), ("memory.stat.*", CURRENT)])
def test_v1_s_text_says_how_many_items_are_missing(
    names: Optional[tuple[str, ...]], world: World, tmp_path: Path, opened: Opened
) -> None:
    no_bpf(world, BpfPermissionError("no CAP_BPF"))
    choice = choose(opened(make_v1(tmp_path / "v1")), names, True, "auto")
    assert choice.backend == "text"
    found = MISSING.search(choice.fallback_reason)
    assert found and choice.fallback_reason.endswith(f"; {choice.missing}")
    assert choice.fallback_reason.startswith("kfunc, rfc, core: no CAP_BPF; ")
    several, of, listed = int(found[1]), int(found[2]), found[3]
    assert of == several + len(choice.names)
    if names is None:
        # Some enumerators exist in the kernel that no cgroup counts, which only BPF would tell.
        assert len(counted_on_v1()) <= of <= len(counted_on_v1()) + 10
    assert listed == "kernel, kernel_stack, pagetables, ..."
    choice.source.close()


def test_the_missing_items_are_those_of_the_wanted_groups(
    world: World, tmp_path: Path, opened: Opened
) -> None:
    no_bpf(world, BpfPermissionError("no CAP_BPF"))
    cgroup = opened(make_v1(tmp_path / "v1"))
    for names, missing in (
        (
            ("anon", "slab*"),
            "3 of 4 items are missing (slab_reclaimable, slab_unreclaimable, slab)",
        ),
        (("anon", "kernel*"), "2 of 3 items are missing (kernel, kernel_stack)"),
        (("anon", "file"), ""),
    ):
        choice = choose(cgroup, names, True, "auto")
        assert choice.missing == (f"as text, up to {missing}" if missing else "")
        choice.source.close()


def test_without_btf_the_missing_items_are_all_that_v1_may_count(
    world: World, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise BtfNotFoundError("this kernel has no BTF")

    monkeypatch.setattr(_btf, "kernel", refuse)
    choice = choose(opened(make_v1(tmp_path / "v1")), None, True, "auto")
    found = MISSING.search(choice.fallback_reason)
    stat = [item for item in CATALOGUE.values() if item.file == MEMORY_STAT]
    not_on_v1 = 6  # hugetlb, sock, three of zswap; and swap, which this cgroup's file lacks
    assert found and int(found[2]) == len(stat) - not_on_v1 + 1
    choice.source.close()


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_no_item_is_said_to_be_missing_where_none_can_be(
    make: Callable[..., Path], world: World, tmp_path: Path, opened: Opened
) -> None:
    cgroup = opened(make(tmp_path / "cgroup"))
    for backend in ("core", "text", "auto"):
        choice = choose(cgroup, None, True, backend)
        assert choice.missing == "" and "missing" not in choice.fallback_reason
        choice.source.close()
    no_bpf(world, BpfPermissionError("no CAP_BPF"))
    choice = choose(cgroup, None, True, "auto")
    assert ("missing" in choice.fallback_reason) == (make is make_v1)
    choice.source.close()


# --- groups ---------------------------------------------------------------------------


def with_files(path: Path) -> Path:
    (path / "memory.events").write_text("low 1\noom 2\ntomorrow 3\n")
    (path / "memory.max").write_text("max\n")
    (path / "memory.swap.max").write_text("max\n")
    (path / "memory.numa_stat").write_text("anon N0=1 N1=2\nfile N0=3 N1=4\n")
    return path


NUMA = tuple(f"memory.numa_stat.{name}" for name in ("anon.N0", "anon.N1", "file.N0", "file.N1"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (("memory.events.*",), ("memory.events.low", "memory.events.oom")),
        (("pgfault", "*fil*", "anon"), ("pgfault", "file", *NUMA[2:], "anon")),
        (("memory.*max",), ("memory.max", "memory.swap.max")),
        (("file", "memory.stat.*"), ("file", "anon", "pgfault")),
        (
            ("memory.max", "memory.*"),
            (
                "memory.max",
                CURRENT,
                "memory.swap.max",
                "memory.events.low",
                "memory.events.oom",
                *NUMA,
            ),
        ),
        (("memory.numa_stat.*",), NUMA),
        (("*.N1",), (NUMA[1], NUMA[3])),
    ],
)
@pytest.mark.parametrize("backend", ["kfunc", "core", "text"])
def test_a_group_stands_for_all_its_members(
    backend: str,
    asked: tuple[str, ...],
    names: tuple[str, ...],
    world: World,
    v2: Path,
    opened: Opened,
) -> None:
    choice = choose(opened(with_files(v2)), asked, True, backend)
    more = ("memory.events.tomorrow",) if backend == "text" else ()
    assert [name for name in choice.names if name not in more] == list(names)
    choice.source.close()


@pytest.mark.parametrize("backend", ["auto", "core", "text"])
def test_a_group_without_known_members_is_an_unknown_item(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    with pytest.raises(UnknownItemError, match=r"no item matches 'nothing\*'") as caught:
        choose(opened(v2), ("anon", "nothing*"), True, backend)
    assert (caught.value.item, caught.value.suggestions) == ("nothing*", ())


@pytest.mark.parametrize("backend", ["auto", "core", "text"])
def test_a_group_of_which_nothing_is_here(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    with pytest.raises(ItemUnavailableError, match=r"does not have 'memory\.swap\.\*'") as caught:
        choose(opened(v2), ("memory.swap.*",), True, backend)
    assert caught.value.item_names == ("memory.swap.*",)
    choice = choose(opened(v2), ("memory.swap.*", "anon"), True, backend)
    assert choice.names == ("anon",)
    choice.source.close()


def test_what_a_group_has_and_the_kernel_does_not_keep_is_left_out(
    world: World, v2: Path, opened: Opened
) -> None:
    world.absent = {"file", CURRENT}
    choice = choose(opened(v2), ("anon", "*"), True, "core")
    assert choice.names == ("anon", "pgfault")
    choice.source.close()
    with pytest.raises(ItemUnavailableError, match="'file'"):
        choose(opened(v2), ("file", "*"), True, "core")


def with_pressure(path: Path) -> Path:
    (path / "memory.pressure").write_text("some avg10=0.00 total=7\nfull avg10=0.00 total=5\n")
    return path


PRESSURE = ("memory.pressure.some.total", "memory.pressure.full.total")


@pytest.mark.parametrize("backend", BPF)
def test_a_request_of_which_bpf_keeps_nothing_is_refused(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    cgroup = opened(with_pressure(v2))
    world.absent = set(PRESSURE)
    message = rf"the {backend} backend on {v2} does not have 'memory\.pressure\.\*'"
    with pytest.raises(ItemUnavailableError, match=message) as caught:
        choose(cgroup, ("memory.pressure.*",), True, backend)
    assert caught.value.item_names == ("memory.pressure.*",)
    assert world.open == 0
    choice = choose(cgroup, ("memory.pressure.*", "anon"), True, backend)
    assert choice.names == ("anon",)
    choice.source.close()


def test_auto_reads_as_text_what_bpf_keeps_nothing_of(
    two_ways: World, v2: Path, opened: Opened
) -> None:
    cgroup = opened(with_pressure(v2))
    two_ways.absent = set(PRESSURE)
    choice = choose(cgroup, ("memory.pressure.*",), True, "auto")
    assert (choice.backend, choice.transport) == ("text", "text")
    assert choice.names == PRESSURE
    assert list(choice.source.read().values()) == [7, 5]
    assert (
        "the core backend on" in choice.fallback_reason
        and "memory.pressure.*" in choice.fallback_reason
    )
    choice.source.close()
    assert two_ways.open == 0


@pytest.mark.parametrize("backend", ["kfunc", "rfc"])
def test_a_group_of_items_that_need_a_layout_is_refused_without_one(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    cgroup = opened(with_files(v2))
    world.layout_error = BackendUnavailableError("not to be found")
    with pytest.raises(ItemUnavailableError, match=f"the {backend} backend on") as caught:
        choose(cgroup, ("memory.numa_stat.*",), True, backend)
    assert caught.value.item_names == ("memory.numa_stat.*",)
    assert world.made == []
    choice = choose(cgroup, ("memory.numa_stat.*",), True, "auto")
    assert (choice.backend, choice.names) == ("text", NUMA)
    choice.source.close()


@pytest.mark.parametrize("backend", ["kfunc", "rfc"])
def test_a_node_s_items_need_a_layout_on_every_backend(
    backend: str, world: World, v2: Path, opened: Opened
) -> None:
    cgroup = opened(with_files(v2))
    world.layout_error = BackendUnavailableError("not to be found")
    with pytest.raises(ItemUnavailableError, match=f"the {backend} backend.*anon.N0"):
        choose(cgroup, (NUMA[0],), True, backend)
    choice = choose(cgroup, ("anon", *NUMA[:1]), True, "auto")
    assert choice.backend == "text"
    choice.source.close()
    choice = choose(cgroup, ("*",), True, backend)
    assert not set(NUMA) & set(choice.names)
    choice.source.close()
    choice = choose(cgroup, (CURRENT, "memory.max"), True, "core")
    assert choice.backend == "core", "these are no counters"
    choice.source.close()


def test_a_guess_must_agree_with_memory_stat(
    world: World, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = opened(make_v2(tmp_path / "new", stat="anon 1\npgright 2\npgwrong 3\n"))
    counters = {**world.types.counters, "PGRIGHT": ("vm_event_item", 1)}
    counters["PGWRONG"] = ("vm_event_item", 2)
    world.types = world.types._replace(counters=counters)
    compared: list[set[str]] = []

    def comparisons(_: Cgroup, plan: ReadPlan) -> Any:
        compared.append(set(plan.terms))
        yield set()
        yield {"pgright"}

    monkeypatch.setattr(_slot_discovery, "comparisons", comparisons)
    choice = choose(cgroup, None, True, "kfunc")
    assert choice.names == ("anon", "pgright", CURRENT)
    choice.source.close()
    assert compared == [{"pgright", "pgwrong"}]
    with pytest.raises(ItemUnavailableError, match=r"does not know 'pgwrong'.*other than 0"):
        choose(cgroup, ("pgwrong",), True, "kfunc")
    for names in (None, ("pgwrong",)):
        choice = choose(cgroup, names, True, "auto")
        assert choice.backend == "text"
        assert re.match(
            "kfunc, rfc.*: this version does not know 'pgwrong'", choice.fallback_reason
        )
        assert "pgwrong" in choice.names
        choice.source.close()


@pytest.mark.parametrize(
    ("before", "value", "after", "proves"),
    [
        pytest.param(3, 3, 3, True, id="the same"),
        pytest.param(0, 0, 0, False, id="0"),
        pytest.param(3, 3, 4, False, id="it moves"),
        pytest.param(3, 4, 5, False, id="between"),
        pytest.param(3, 12288, 3, False, id="another unit"),
    ],
)
def test_a_guess_is_proved_by_a_number_alone(
    before: int, value: int, after: int, proves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File:
        def __init__(self, *_: object) -> None:
            self.texts = [f"pgnew {before}\n".encode(), f"pgnew {after}\n".encode()]

        def read(self) -> bytes:
            self.texts.reverse()
            return self.texts[1]

        def close(self) -> None: ...

    class Stream:
        def __init__(self, *_: object) -> None: ...

        def read(self) -> dict[str, int]:
            return {"pgnew": value}

        def close(self) -> None: ...

    monkeypatch.setattr(_files, "CgroupFile", File)
    monkeypatch.setattr(_slot_discovery, "open_without_flush", Stream)
    cgroup: Any = None
    plan = ReadPlan("core", {"pgnew": ()})
    found = set[str]().union(*_slot_discovery.comparisons(cgroup, plan))
    assert found == ({"pgnew"} if proves else set())


# --- errors of reading ----------------------------------------------------------------


@pytest.mark.parametrize(("number", "kind"), READ_ERRORS)
def test_an_os_error_of_the_files_becomes_an_error_of_this_package(
    number: int,
    kind: type[MemcgError],
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int, name: str) -> bytes:
        raise OSError(number, "words")

    monkeypatch.setattr(_present_items, "read_at", refuse)
    with pytest.raises(MemcgError) as caught:
        choose(opened(v2), None, True, "text")
    assert type(caught.value) is kind
    assert str(v2) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


# --- where the counters lie -----------------------------------------------------------


@pytest.fixture
def unknown_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slot_discovery, "_discovery", _slot_discovery.Discovery())


@pytest.mark.usefixtures("unknown_layout")
def test_an_unknown_vmstats_is_said(v2: Path, opened: Opened) -> None:
    types = LINUX_6_18.types()._replace(structs={})
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="struct memcg_vmstats"):
            _slot_discovery.find(types, opened(v2))


@pytest.mark.usefixtures("unknown_layout")
@pytest.mark.parametrize("kernel", DIRECT.values(), ids=DIRECT)
def test_where_the_enumerators_tell_all_no_program_runs(
    kernel: Kernel, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, rebuilt(PGFAULT=1))
    types = kernel.types()
    found = _slot_discovery.find(types, opened(v2))
    assert found == _counter_slots.direct(types)
    assert _slot_discovery.find(types, opened(v2)) is found
    assert len(looks.coming) == 1


class Looks:
    """What comes of one look for the rebuilt order after the other."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *found: Optional[_counter_slots.Layout]
    ) -> None:
        self.coming = list(found)
        monkeypatch.setattr(_slot_discovery, "from_kernel_tables", lambda types: None)
        monkeypatch.setattr(_slot_discovery, "_rebuilt_layout", lambda *_: self.coming.pop(0))


def rebuilt(unproved: Iterable[str] = (), **slots: int) -> _counter_slots.Layout:
    return _counter_slots.Layout(slots, True, frozenset(unproved))


@pytest.mark.usefixtures("unknown_layout")
def test_no_order_that_is_proved_is_said_and_looked_for_again(
    v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, None, rebuilt(PGFAULT=1))
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="CONFIG_KALLSYMS_ALL"):
            _slot_discovery.find(LINUX_6_18.types(), opened(v2))
    assert len(looks.coming) == 1, "the answer is kept for a while"
    _choose.forget()
    for _ in range(2):
        found = _slot_discovery.find(LINUX_6_18.types(), opened(v2))
        assert found.slots == {"PGFAULT": 1}
    _choose.forget()
    assert _slot_discovery.find(LINUX_6_18.types(), opened(v2)) is found, "it is complete"


@pytest.mark.usefixtures("unknown_layout")
def test_what_is_not_proved_yet_is_looked_for_again(
    v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    looks = Looks(
        monkeypatch,
        rebuilt(["PSWPIN", "PSWPOUT"], PGFAULT=1),
        rebuilt(["PGFAULT", "PSWPOUT"], PSWPIN=5),
        None,
        rebuilt(["PSWPOUT"], PGFAULT=2),
    )

    def slots() -> dict[str, int]:
        return _slot_discovery.find(LINUX_6_18.types(), opened(v2)).slots

    assert slots() == slots() == {"PGFAULT": 1}
    now += 61
    assert slots() == {"PGFAULT": 1, "PSWPIN": 5}, "what was proved stays so"
    assert _slot_discovery.find(LINUX_6_18.types(), opened(v2)).unproved == {"PSWPOUT"}
    now += 61
    assert slots() == {"PGFAULT": 1, "PSWPIN": 5}
    now += 61
    with pytest.raises(BackendUnavailableError):
        slots()  # a contradiction: nothing is believed
    assert looks.coming == []


VMALLOC_UNPROVED = _counter_slots.Layout(
    {name: at for name, at in LINUX_6_18.slots().items() if name != "MEMCG_VMALLOC"},
    True,
    frozenset({"MEMCG_VMALLOC"}),
)
NOT_PROVED = r"order of counters could not be proved for 'vmalloc': .*CONFIG_KALLSYMS_ALL"


def test_an_item_that_is_not_proved(
    world: World, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.types = world.types._replace(functions=frozenset())
    monkeypatch.setattr(_slot_discovery, "find", lambda *_: VMALLOC_UNPROVED)
    cgroup = opened(make_v2(tmp_path / "new", stat="anon 1\nvmalloc 2\nfile 3\n"))
    with pytest.raises(ItemUnavailableError, match=NOT_PROVED) as caught:
        choose(cgroup, ("anon", "vmalloc"), True, "core")
    assert caught.value.item_names == ("vmalloc",)
    choice = choose(cgroup, None, True, "core")
    assert choice.names == ("anon", "file", CURRENT), "the backend that was asked for"
    choice.source.close()
    for names in (None, ("*",), ("vmalloc",), ("anon", "vm*")):
        choice = choose(cgroup, names, True, "auto")
        assert choice.backend == "text", "no key of memory.stat is lost"
        assert re.search(NOT_PROVED, choice.fallback_reason)
        assert "vmalloc" in choice.names
        choice.source.close()
    choice = choose(cgroup, ("anon", "fil*"), True, "auto")
    assert choice.backend == "core"
    choice.source.close()
    choice = choose(cgroup, None, True, "auto", "stream")
    assert choice.backend == "core", "text has no transport"
    assert choice.names == ("anon", "file", CURRENT)
    choice.source.close()


def test_an_item_that_is_not_proved_and_that_no_file_shows(
    world: World, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.types = world.types._replace(functions=frozenset())
    monkeypatch.setattr(_slot_discovery, "find", lambda *_: VMALLOC_UNPROVED)
    cgroup = opened(make_v1(tmp_path / "old"))
    choice = choose(cgroup, None, True, "auto")
    assert choice.backend == "core"
    assert "kernel" in choice.names and "vmalloc" not in choice.names
    choice.source.close()
    with pytest.raises(ItemUnavailableError, match=NOT_PROVED):
        choose(cgroup, ("vmalloc",), True, "auto")


def test_v1_s_text_has_fewer_items_than_are_not_proved(
    world: World, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.types = world.types._replace(functions=frozenset())
    slots = {name: at for name, at in LINUX_6_18.slots().items() if name != "NR_FILE_PAGES"}
    layout = _counter_slots.Layout(slots, True, frozenset({"NR_FILE_PAGES"}))
    monkeypatch.setattr(_slot_discovery, "find", lambda *_: layout)
    cgroup = opened(make_v1(tmp_path / "old"))
    choice = choose(cgroup, None, True, "auto")
    assert choice.backend == "core" and "file" not in choice.names
    assert choice.missing == "core does not have 1 of text's items (file)"
    assert choice.fallback_reason.endswith(choice.missing)
    choice.source.close()
    choice = choose(cgroup, ("file",), True, "auto")
    assert choice.backend == "text"
    assert "could not be proved for 'file'" in choice.fallback_reason
    choice.source.close()


@pytest.mark.usefixtures("unknown_layout")
def test_a_failure_to_look_is_not_taken_for_a_no(
    v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise BpfPermissionError("no CAP_BPF")

    monkeypatch.setattr(_slot_discovery, "from_kernel_tables", refuse)
    for _ in range(2):
        with pytest.raises(BpfPermissionError):
            _slot_discovery.find(LINUX_6_18.types(), opened(v2))


def test_one_reason_for_all_is_said_once(world: World, v2: Path, opened: Opened) -> None:
    no_bpf(world, BpfPermissionError("no CAP_BPF"))
    choice = choose(opened(v2), ("anon",), True, "auto")
    assert choice.fallback_reason == "kfunc, rfc, core: no CAP_BPF"
    choice.source.close()
