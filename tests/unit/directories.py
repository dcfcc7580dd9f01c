# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Ordinary directories that look like cgroups, or like a bpffs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from pymemcgbpf._pins import bpffs as _bpffs

STAT_V2 = "anon 4096\nfile 8192\npgfault 3\n"
STAT_V1 = "cache 1\nrss 2\ntotal_cache 8192\ntotal_rss 4096\ntotal_pgfault 3\n"


def make_v2(
    path: Path,
    *,
    stat: Optional[str] = STAT_V2,
    current: Optional[str] = "12288",
    controllers: str = "memory pids",
    kind: Optional[str] = "domain",
) -> Path:
    """A cgroup v2 directory; None leaves a file out (no *kind*: a hierarchy's root)."""
    return _make(
        path,
        {
            "cgroup.procs": "",
            "cgroup.controllers": controllers,
            "cgroup.type": kind,
            "memory.stat": stat,
            "memory.current": current,
        },
    )


def make_v1(path: Path, *, stat: Optional[str] = STAT_V1, root: bool = False) -> Path:
    """A cgroup v1 directory of the memory hierarchy."""
    return _make(
        path,
        {
            "cgroup.procs": "",
            "cgroup.sane_behavior": "0" if root else None,
            "memory.stat": stat,
            "memory.usage_in_bytes": "12288",
        },
    )


def _make(path: Path, files: dict[str, Optional[str]]) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        if text is not None:
            ending = "\n" if text and not text.endswith("\n") else ""
            (path / name).write_text(text + ending)
    return path


def said_to_be(monkeypatch: pytest.MonkeyPatch, bpffs: Path) -> None:
    """Makes the package take a directory, with everything below it, for a bpffs."""

    def is_there(_: os.stat_result, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(bpffs)

    monkeypatch.setattr(_bpffs, "is_on_bpffs", is_there)
