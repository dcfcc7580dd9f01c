# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""First of all: is this the environment that the other tests take for granted?"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pymemcgbpf
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import program as _program

from .surroundings import (
    BEST_BACKEND,
    EXPECTED_BACKEND,
    FLUSHES,
    HAS_ITERATOR,
    HAS_RFC,
    IN_LAB,
    VERSION,
    symbols,
)


def test_the_tests_run_as_root_on_a_kernel_with_btf() -> None:
    assert os.geteuid() == 0
    assert Path("/sys/kernel/btf/vmlinux").stat().st_size > 1_000_000


def test_the_installed_package_is_what_is_tested() -> None:
    package = Path(pymemcgbpf.__file__).parent
    objects = {file.name: file.stat().st_size for file in (package / "_bpf" / "objects").iterdir()}
    assert objects.keys() == {os.path.basename(file) for file in _program.OBJECT_FILES}
    assert max(objects.values()) < 160 * 1024
    assert (package / "py.typed").exists()
    # Not the source tree, where the BPF object may be an old one.
    assert not (package.parent / "bpf_src").exists()


def test_the_guest_is_the_one_that_the_lab_meant() -> None:
    if not IN_LAB:
        assert not EXPECTED_BACKEND
        return
    assert VERSION == 2
    series = os.environ["PYMEMCGBPF_LAB_KERNEL"]
    assert platform.release().startswith(series + "."), platform.release()
    python = os.environ.get("PYMEMCGBPF_LAB_PYTHON")
    assert python in (None, f"{sys.version_info[0]}.{sys.version_info[1]}")
    libbpf = os.environ.get("PYMEMCGBPF_LAB_LIBBPF")
    assert libbpf in (None, _libbpf.load().version)
    assert bool(symbols("bpf_mem_cgroup_page_state")) == (BEST_BACKEND == "kfunc")
    # What the other tests take from the kernel's symbols.
    version = tuple(map(int, series.split(".")))
    assert (version >= (6, 1)) == HAS_ITERATOR
    assert (version >= (5, 13)) == FLUSHES
    expects_rfc = os.environ["PYMEMCGBPF_LAB_EXPECT_RFC"] == "1"
    assert expects_rfc == HAS_RFC
