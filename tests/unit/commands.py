# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs the command line in this process and returns what it prints."""

from __future__ import annotations

from typing import NoReturn

import pytest

from pymemcgbpf import BpfPermissionError
from pymemcgbpf._cli.main import main
from pymemcgbpf._sources import choose as _choose

Captured = pytest.CaptureFixture[str]
TEXT = ("--backend", "text")


def printed(captured: Captured, *arguments: str) -> str:
    """What a command prints that succeeds and prints no warning."""
    assert main(arguments) == 0
    out, err = captured.readouterr()
    assert err == ""
    return out


def failed(captured: Captured, status: int, *arguments: str) -> str:
    """The one line that a failing command prints."""
    try:
        assert main(arguments) == status
    except SystemExit as exit_:
        assert exit_.code == status
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("pymemcgbpf: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


class RefuseBpf(_choose.BpfOpener):
    """Replaces choose.BPF_OPENER: every BPF backend is refused."""

    def open(self, selector: object, backend: str) -> NoReturn:
        raise BpfPermissionError("lacks\nCAP_BPF")
