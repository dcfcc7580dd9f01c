# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What several tests of pins need."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..directories import said_to_be


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a bpffs."""
    made = tmp_path / "bpf"
    made.mkdir()
    said_to_be(monkeypatch, made)
    return made
