# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The commands of the systemd units and of the manifest for Kubernetes, on real cgroups."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pymemcgbpf import TreeReader

from ..doc_examples import DOCS
from ..kernel.cgroups import cgroup
from ..kernel.pins import bpffs
from ..kernel.published import wait_until
from ..unit.test_prometheus_files import commands, containers, items_of, metrics_of
from .programs import command

FILES = DOCS / "prometheus"
PIN = "/sys/fs/bpf/pymemcgbpf/all"
STEADY = ("memory.", "derived.", "anon", "file", "pgfault")


@pytest.fixture
def root() -> Iterator[Path]:
    """A tree of two cgroups."""
    with cgroup() as root:
        (root / "one").mkdir()
        yield root


@pytest.fixture
def places(root: Path) -> Iterator[dict[str, str]]:
    """What stands here for the paths of the units."""
    with bpffs() as folder:
        yield {
            "/sys/fs/cgroup": str(root),
            PIN: str(folder / "all"),
            "/run/pymemcgbpf-pins/all": str(folder / "all"),
            "127.0.0.1:10753": "127.0.0.1:0",
        }


def words_of(unit: str, places: dict[str, str], at: int = 0) -> list[str]:
    """The words of a command of a unit, with the paths and the items of this machine."""
    _, *words = commands(FILES / f"{unit}.service")[at]
    named, root = items_of(words), places["/sys/fs/cgroup"]
    words = [word for word in words if "*" not in word and word not in named]
    return [places.get(word, word) for word in words] + (here(root, named) if named else [])


def here(root: str, items: Sequence[str]) -> list[str]:
    """Those of the items that this machine has, whoever looks for them.

    Where a kernel hides its index tables, each process finds for itself where a counter is. One
    that is nearly 0 may be found by one process and not by the next.
    """
    with TreeReader(root, ["*"]) as reader:
        return [item for item in items if item in reader.item_names and item.startswith(STEADY)]


def is_complete(pin: Path, old: int = 0) -> bool:
    """Whether others may enter the directory of a pinned tree that is not the old one."""
    try:
        status = pin.stat()
    except FileNotFoundError:
        return False
    return bool(status.st_mode & 0o001) and status.st_ino != old


def has_ended_or_is_complete(process: subprocess.Popen[str], pin: Path, old: int = 0) -> bool:
    """Whether there is nothing to wait for: the pin is there, or nobody makes it any more."""
    return process.poll() is not None or is_complete(pin, old)


def served(process: subprocess.Popen[str]) -> str:
    """What a process serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"serving (\S+)\n", line)
    assert found is not None, line or process.communicate()
    with urllib.request.urlopen(found[1], timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[str, int]:
    """How many cgroups each metric of a text has."""
    names = re.findall(r"^(cgroup_\w+)\{", text, re.MULTILINE)
    return {name: names.count(name) for name in names}


def test_the_unit_that_reads_cgroups_serves_them(places: dict[str, str]) -> None:
    with command(*words_of("pymemcgbpf-serve", places)) as process:
        found = samples(served(process))
    assert set(found.values()) == {2} and len(found) >= 6


def test_the_unit_for_node_exporter_replaces_its_file(
    places: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "cgroups.prom"
    places["/var/lib/prometheus/node-exporter/cgroups.prom"] = str(file)
    with command(*words_of("pymemcgbpf-export", places)) as process:
        wait_until(file.exists)
        assert process.poll() is None
    assert set(samples(file.read_text()).values()) == {2}
    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=file.read_text(), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_units_with_a_pin_publish_and_serve(places: dict[str, str]) -> None:
    pin = Path(places[PIN])
    first, last = commands(FILES / "pymemcgbpf-pin.service")[::2]
    assert first[1:] == last[1:] == ["unpin", PIN]
    with command(*words_of("pymemcgbpf-pin", places, 1)) as maker:
        wait_until(functools.partial(has_ended_or_is_complete, maker, pin))
        assert is_complete(pin), maker.communicate()
        with command(*words_of("pymemcgbpf-serve-pin", places)) as process:
            found = samples(served(process))
    assert set(found.values()) == {2} and len(found) >= 6
    if pin.exists():  # the kernel refreshes it
        with command("unpin", str(pin)) as process:
            assert process.wait(timeout=30) == 0
    assert not pin.exists()


def test_the_script_of_the_manifest_pins_and_removes_its_pin_in_the_end(
    places: dict[str, str], tmp_path: Path
) -> None:
    shell, script = containers()["pin"]["command"], "\n".join(containers()["pin"]["args"])
    (tmp_path / "pymemcgbpf").write_text(f'#!/bin/sh\nexec {sys.executable} -m pymemcgbpf "$@"\n')
    (tmp_path / "pymemcgbpf").chmod(0o755)
    pin, root = Path(places[PIN]), places["/sys/fs/cgroup"]
    chosen = " ".join(here(root, items_of(script.replace("\\\n", " ").replace("'", "").split())))
    (named,) = re.findall(r"/host/cgroup /pins/all (.*) &\n", script.replace("\\\n", " "))
    script = script.replace("\\\n", " ").replace(named, chosen)
    script = script.replace("/host/cgroup", root).replace("/pins/all", str(pin))
    old = 0
    for again in (False, True):
        process = subprocess.Popen(
            [*shell, script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            start_new_session=True,
        )
        try:
            wait_until(functools.partial(has_ended_or_is_complete, process, pin, old))
            assert process.poll() is None, process.communicate()
            old = pin.stat().st_ino
            with command("serve", "--listen", "127.0.0.1:0", str(pin)) as server:
                assert set(samples(served(server))) <= metrics_of(iter(chosen.split()))
        finally:
            if again:
                process.terminate()
            else:  # as when the machine has no memory left: the next one finds the old pin
                os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert not pin.exists() and "Traceback" not in err
