# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is read of the kernel's type information, and what is made of its lack."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import BtfNotFoundError, MemcgError, _options
from pymemcgbpf._bpf import btf as _btf

from ..fake_libbpf import FakeLibbpf, installed
from ..kernels import DIRECT, HUGE_PAGE, KERNELS, LINUX_5_10, LINUX_5_15, VMSTATS_AT, Kernel


class Kernels:
    """One kernel's types, instead of those that _btf.Types reads."""

    def __init__(self, kernel: Kernel) -> None:
        self.types = kernel.types()

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

    def members(self, struct: str) -> dict[str, _btf.Member]:
        return self.types.structs.get(struct, {})

    def has_function(self, name: str) -> bool:
        return name in self.types.functions


@pytest.fixture
def lib(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibbpf]:
    monkeypatch.setattr(_btf, "_kernel", None)
    with installed(monkeypatch) as fake:
        yield fake


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_all_that_is_needed_is_read_once(
    kernel: Kernel, lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "Types", Kernels(kernel))
    types = _btf.kernel()
    assert types == kernel.types()
    assert _btf.kernel() is types
    read = [call for call in lib.calls if call.startswith("btf__")]
    assert read == ["btf__load_vmlinux_btf", "btf__free"], "the megabytes of BTF are freed"


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
        assert _btf.kernel() == kernel.types()._replace(huge_page_size=expected)


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
def test_a_kernel_without_btf(number: int, lib: FakeLibbpf) -> None:
    lib.fails["btf__load_vmlinux_btf"] = number
    with pytest.raises(BtfNotFoundError, match="CONFIG_DEBUG_INFO_BTF") as caught:
        _btf.kernel()
    assert (caught.value.errno, caught.value.call) == (number, "btf__load_vmlinux_btf")
    assert _btf._kernel is None


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
    assert _btf.kernel() == KERNELS["6.1"].types(), "asked again"


def test_types_that_cannot_be_read_are_let_go(
    lib: FakeLibbpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise MemcgError("no", errno=errno.EINVAL, call="btf__type_by_id")

    monkeypatch.setattr(_btf, "Types", refuse)
    with pytest.raises(MemcgError):
        _btf.kernel()
    assert lib.calls.count("btf__load_vmlinux_btf") == lib.calls.count("btf__free") > 0
