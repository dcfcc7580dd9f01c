# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""How many CPUs the kernel may ever use."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest

from pymemcgbpf._bpf import cpus as _cpus


@pytest.mark.parametrize(
    ("shown", "number"),
    [("0\n", 1), ("0-3\n", 4), ("0-1,4-7\n", 8), ("0-1,9\n", 10), ("0-8191\n", 8192)],
)
def test_the_highest_possible_number_counts(
    shown: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str, **_: Any) -> io.StringIO:
        assert path == "/sys/devices/system/cpu/possible"
        return io.StringIO(shown)

    monkeypatch.setattr(_cpus, "open", opened, raising=False)
    assert _cpus.possible() == number


@pytest.mark.parametrize("shown", [None, "", "all\n"], ids=["no file", "empty", "words"])
def test_without_sys_those_that_are_configured_count(
    shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str, **_: Any) -> io.StringIO:
        if shown is None:
            raise FileNotFoundError(path)
        return io.StringIO(shown)

    monkeypatch.setattr(_cpus, "open", opened, raising=False)
    assert _cpus.possible() == os.sysconf("SC_NPROCESSORS_CONF")


def test_without_sys_the_kernel_s_masks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: str, **_: Any) -> io.StringIO:
        if path.startswith("/sys"):
            raise FileNotFoundError(path)
        return io.StringIO("Cpus_allowed_list:\t0-1\nCpus_allowed:\tffff,ffffffff,00000003\n")

    monkeypatch.setattr(_cpus, "open", opened, raising=False)
    assert _cpus.possible() == max(80, os.sysconf("SC_NPROCESSORS_CONF"))


@pytest.mark.parametrize(
    ("shown", "numbers"),
    [
        ("0\n", [0]),
        ("0-3\n", [0, 1, 2, 3]),
        ("0-1,4,6-7\n", [0, 1, 4, 6, 7]),
        ("\n", []),
        ("all\n", []),
        (None, []),
    ],
)
def test_the_numbers_of_all(
    shown: Any, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str, **_: Any) -> io.StringIO:
        if shown is None:
            raise FileNotFoundError(path)
        return io.StringIO(shown)

    monkeypatch.setattr(_cpus, "open", opened, raising=False)
    assert _cpus.numbers() == numbers


def test_this_machine_s_own_cpus_are_among_them() -> None:
    assert max(os.sched_getaffinity(0)) < _cpus.possible()
