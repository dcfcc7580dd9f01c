# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Tests which source is chosen, when the kernel is built again, and the guest's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import spec
from tests.vm.errors import LabError
from tests.vm.kernels import Package
from tests.vm.lab import Prepared
from tests.vm.userland import Userland

from . import build

SOURCE = Package("linux-source-7.10", "7.10.4-1~bpo13+1", "all")
FUNCTIONS = (
    "memcg_flush_stats",
    "memcg_node_stat_fetch",
    "memcg_stat_fetch",
    "memcg_vm_event_fetch",
)


def test_the_newest_series_is_chosen() -> None:
    names = ("linux-source", "linux-source-7.9", "linux-source-7.10", "linux-source-6.12")
    sources = [Package(name, SOURCE.version, "all") for name in names]
    assert build.newest(sources) == SOURCE
    assert build.series(SOURCE) == "7.10"
    with pytest.raises(LabError, match="apt has no package of Linux's source"):
        build.newest(sources[:1])


def test_the_cache_key_covers_everything_that_the_kernel_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build.place(tmp_path, SOURCE)
    assert first == build.place(tmp_path, SOURCE)
    places = {first, build.place(tmp_path, Package(SOURCE.name, "7.10.5-1", "all"))}
    for name in ("FUNCTIONS", "CONFIG"):
        changed = tmp_path / name
        changed.write_bytes(getattr(build, name).read_bytes() + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(build, name, changed)
            places.add(build.place(tmp_path, SOURCE))
    monkeypatch.setattr(build, "MAKEFILE_LINE", "obj-y += memcg_fetch.o\n")
    places.add(build.place(tmp_path, SOURCE))
    assert len(places) == 5


def test_the_lab_says_how_to_build_a_missing_kernel(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"linux-source-7\.10 is not built: run make seed-kernel"):
        build.built(tmp_path, SOURCE)
    kernel = build.place(tmp_path, SOURCE)
    kernel.parent.mkdir()
    kernel.touch()
    assert build.built(tmp_path, SOURCE) == kernel


def test_an_option_that_the_kernel_cannot_have_is_an_error() -> None:
    asked = build.CONFIG.read_text(encoding="utf-8")
    build.check_config(asked + "CONFIG_MORE=y\n")
    without = asked.replace("CONFIG_ZSWAP=y\n", "# CONFIG_ZSWAP is not set\n")
    with pytest.raises(LabError, match="cannot have CONFIG_ZSWAP=y, "):
        build.check_config(without)


def test_the_functions_are_those_that_the_bpf_object_calls() -> None:
    kernel = build.FUNCTIONS.read_text(encoding="utf-8")
    for function in FUNCTIONS:
        assert f" {function}(struct cgroup *cgrp" in kernel
        assert f"BTF_ID_FLAGS(func, {function})" in kernel


def test_the_name_seed_is_parsed_and_stands_for_the_series_of_its_source() -> None:
    seed = spec.parse_spec("seed@bookworm")
    assert (str(seed), seed.is_seed, seed.expected_backend) == ("seed@bookworm", True, "kfunc")
    assert str(spec.parse_spec("seed")) == "seed@trixie"
    assert not spec.parse_spec("newest").is_seed
    prepared = Prepared(seed, SOURCE, Path("kernel"), Userland("bookworm", (), "3.11", "1.1"))
    assert prepared.series == "7.10"


def test_the_command_names_a_missing_program(tmp_path: Path) -> None:
    environment = {
        "XDG_CACHE_HOME": str(tmp_path),
        "PATH": "",
        "PYMEMCGBPF_DEBIAN_MIRROR": "http://x",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.seed_kernel"], capture_output=True, text=True, env=environment
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("seed kernel: the lab needs ")
