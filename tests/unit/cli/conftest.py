# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Fixtures of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymemcgbpf._cgroup import mounts as _mounts


@pytest.fixture
def bpffs(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a bpffs, where no cgroup of the pins is visible."""
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: None)
    return bpffs
