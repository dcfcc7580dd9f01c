# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which capabilities are missing, and what users read about it."""

from __future__ import annotations

import builtins
import errno
import io
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import BpfPermissionError
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import libbpf as _libbpf

Capable = Callable[[int], None]

ALL = (1 << 41) - 1
SYS_ADMIN, PERFMON, BPF = 1 << 21, 1 << 38, 1 << 39


def fake_status(monkeypatch: pytest.MonkeyPatch, text: Optional[str]) -> None:
    """Replaces the text of /proc/thread-self/status. None stands for a missing file."""

    def fake_open(path: Any, *arguments: Any, **options: Any) -> Any:
        if path != "/proc/thread-self/status":
            return builtins.open(path, *arguments, **options)
        if text is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return io.StringIO(text)

    monkeypatch.setattr(_capabilities, "open", fake_open, raising=False)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> Capable:
    """Sets the effective capabilities. At first the process has all of them."""

    def set_to(effective: int) -> None:
        text = f"Name:\tx\nCapPrm:\t{0:016x}\nCapEff:\t{effective:016x}\nCapBnd:\t{ALL:016x}\n"
        fake_status(monkeypatch, text)

    set_to(ALL)
    return set_to


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        (0, ["CAP_BPF", "CAP_PERFMON"]),
        (BPF, ["CAP_PERFMON"]),
        (PERFMON, ["CAP_BPF"]),
        (BPF | PERFMON, []),
        (SYS_ADMIN, []),
        (ALL & ~SYS_ADMIN & ~BPF, ["CAP_BPF"]),
        (ALL, []),
    ],
)
def test_missing_capabilities(effective: int, missing: list[str], capable: Capable) -> None:
    capable(effective)
    assert _capabilities.missing() == missing


@pytest.mark.parametrize("text", ["", "Name:\tx\nCapPrm:\t0\n", None])
def test_capabilities_that_cannot_be_read_are_not_missing(
    text: Optional[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_status(monkeypatch, text)
    assert _capabilities.missing() == []


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("1.5", "run as root, or grant CAP_BPF"),
        ("1.10", "run as root, or grant CAP_BPF"),
        ("1.4", "run as root, or grant CAP_BPF (with this libbpf, before 1.5, all but core/run "),
    ],
)
def test_the_check_says_what_to_grant(
    version: str, remedy: str, capable: Capable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_libbpf, "load", lambda: SimpleNamespace(version=version))
    capable(PERFMON)
    with pytest.raises(BpfPermissionError, match=r"^this process may not load BPF") as caught:
        _capabilities.check()
    assert caught.value.remedy.startswith(remedy)
    assert caught.value.errno == errno.EPERM
    capable(ALL)
    _capabilities.check()


def test_a_refusal_in_spite_of_all_capabilities_names_other_causes(capable: Capable) -> None:
    said = str(_capabilities.refused(errno.EPERM))
    assert "Operation not permitted (1)" in said and "seccomp" in said and "lockdown" in said
