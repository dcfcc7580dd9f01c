# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Fixtures of the unit tests, which need no root and no kernel feature."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

import pymemcgbpf
from pymemcgbpf._cgroup.directory import Cgroup, open_cgroup
from pymemcgbpf._options import Request
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources.choose import Selection

from ..open_files import open_files
from .directories import make_v2, said_to_be

# Hypothesis writes nothing beside the tests, and every run tries the same examples.
set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))
settings.register_profile("unit", database=None, derandomize=True, deadline=None)
settings.load_profile("unit")

# A shell that starts the tests in the background makes them, and their children, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]
Choose = Callable[[Cgroup, Request, Any], "Selection[Any]"]


@pytest.fixture(autouse=True)
def _nothing_leaked() -> Iterator[None]:
    """Every test leaves as many open files as it found."""
    before = open_files()
    yield
    pymemcgbpf.clear_cache()
    after = open_files()
    if after != before:
        gc.collect()  # a caught exception holds the frames that it passed
        after = open_files()
    assert after == before, f"left open: {sorted(set(after.items()) - set(before.items()))}"


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Cgroup]]:
    """Opens cgroup directories, and closes them when the test is over."""
    cgroups = []

    def open_and_keep(path: Path) -> Cgroup:
        cgroup = open_cgroup(path)
        cgroups.append(cgroup)
        return cgroup

    yield open_and_keep
    for cgroup in cgroups:
        cgroup.close()


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A fake cgroup v2 directory."""
    return make_v2(tmp_path / "v2")


@pytest.fixture
def choose_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Choose], None]:
    """Has readers get their sources from a given function instead of choose.choose()."""
    return lambda choose: monkeypatch.setattr(_choose, "choose", choose)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """SIGHUP and SIGTERM end the process. Under nohup, and some supervisors, they are ignored.

    Not for all tests: a hang-up would then end a run that nohup is to keep alive.
    """
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def on_bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the test are taken for files of a bpffs."""
    said_to_be(monkeypatch, tmp_path)


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a fresh interpreter that finds the package under test."""

    def run(
        *arguments: str, stdin: Optional[str] = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        package = Path(pymemcgbpf.__file__).resolve().parent
        return subprocess.run(
            [sys.executable, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package.parent), **environment},
            timeout=60,
        )

    return run


@pytest.fixture
def bpffs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like a bpffs."""
    made = tmp_path / "bpf"
    made.mkdir()
    said_to_be(monkeypatch, made)
    return made
