# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf items, on fake cgroup directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pymemcgbpf import BtfNotFoundError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._cgroup import mounts as _mounts

from ..commands import Captured, failed, printed
from ..directories import make_v2


@pytest.fixture(autouse=True)
def _no_btf(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> _btf.KernelTypes:
        raise BtfNotFoundError("no BTF")

    monkeypatch.setattr(_btf, "kernel", refuse)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A cgroup of a newer kernel."""
    path = make_v2(tmp_path / "new", stat="anon 1\npgfault 2\npgtomorrow 3\n")
    (path / "memory.pressure").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
    return path


def test_items_prints_a_table(new: Path, capsys: Captured) -> None:
    assert printed(capsys, "items", str(new)) == (
        "name                        unit          kind     file             description\n"
        "anon                        bytes         gauge    memory.stat      "
        "anonymous memory in use\n"
        "pgfault                     count         counter  memory.stat      page faults\n"
        "pgtomorrow?                 ?             ?        memory.stat      "
        "not known to this version\n"
        "memory.current              bytes         gauge    memory.current   memory in use\n"
        "memory.pressure.some.total  microseconds  counter  memory.pressure  "
        "time in which some tasks waited for memory\n"
    )


def test_items_prints_json(new: Path, capsys: Captured) -> None:
    shown = json.loads(printed(capsys, "items", "--json", str(new)))
    assert [one["name"] for one in shown if not one["known"]] == ["pgtomorrow"]
    assert shown[0] == {
        "name": "anon",
        "unit": "bytes",
        "kind": "gauge",
        "file": "memory.stat",
        "description": "anonymous memory in use",
        "known": True,
    }


def test_default_is_the_own_cgroup(
    new: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(new))
    assert "pgtomorrow?" in printed(capsys, "items")


def test_a_wrong_path_is_status_1_and_an_extra_argument_status_2(
    new: Path, capsys: Captured
) -> None:
    assert "no such cgroup" in failed(capsys, 1, "items", str(new / "none"))
    assert "--help" in failed(capsys, 2, "items", str(new), "anon")
