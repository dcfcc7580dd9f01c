# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line with pins: created, read by nobody, listed, and removed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import pin, unpin
from pymemcgbpf._pins import map_ids

from .forest import Forest
from .pins import CAN_FLUSH, Nobody, hiding
from .published import BY_KERNEL, maps_called, published, wait_until
from .surroundings import HIERARCHY
from .test_command import command

pytestmark = pytest.mark.needs_iterator

TIMER = "memcg_timer"


@pytest.fixture(scope="module")
def tree(quiet: Forest, folder: Path) -> Iterator[Path]:
    """A pinned tree of them."""
    with published(quiet.root, folder / "tree", ["shmem", "pgfault"]):
        yield folder / "tree"


RUN = """
import contextlib, io
from pymemcgbpf._cli.main import main
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    status = main(sys.argv[1:])
print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def by_nobody(nobody: Nobody, *arguments: object) -> str:
    """What a command prints for nobody, who sees no cgroup."""
    status, out, err = nobody.run(RUN, *arguments, hide=HIERARCHY)
    assert (status, err) == (0, "")
    return str(out)


def pins_listed(*arguments: object) -> dict[str, Any]:
    run = command("pins", "--json", *arguments)
    assert run.returncode == 0, run.stderr
    return {os.path.basename(each["path"]): each for each in json.loads(run.stdout)}


def test_nobody_lists_a_tree_with_names(quiet: Forest, tree: Path, nobody: Nobody) -> None:
    for words in (["tree"], ["cat"]):
        shown = json.loads(by_nobody(nobody, *words, "--json", tree))
        by_path = {row["path"]: row for row in shown}
        assert set(by_path) == set(map(str, quiet.paths.values()))
        for cgroup_id, size in quiet.shmem.items():
            row = by_path[str(quiet.paths[cgroup_id])]
            assert (row["id"], row["items"]["shmem"]) == (cgroup_id, size)


def test_nobody_watches_each_walk_of_a_tree(quiet: Forest, tree: Path, nobody: Nobody) -> None:
    text = by_nobody(nobody, "watch", "--depth", "9", "--count", "5", tree, "shmem")
    head, *lines = csv.reader(text.splitlines())
    assert head == ["time", "path", "shmem"]
    assert len(lines) == 5 * len(quiet.paths)
    assert len({when for when, _, _ in lines}) == 5
    root = json.loads(by_nobody(nobody, "watch", "--json", "--count", "1", tree, "shmem"))
    assert root["items"]["shmem"] == sum(quiet.shmem.values())


def test_nobody_exports_a_tree(quiet: Forest, tree: Path, nobody: Nobody) -> None:
    samples = re.findall(r'{cgroup="(.*)"} (\d+)\n', by_nobody(nobody, "export", tree, "shmem"))
    leaf = next(iter(quiet.shmem))
    shown = {os.path.basename(path): int(value) for path, value in samples}
    assert len(samples) == len(quiet.paths)
    assert shown[quiet.paths[leaf].name] >= 0
    assert sum(quiet.shmem.values()) == max(int(value) for _, value in samples)


def test_the_doctor_tries_each_way_to_read_a_pin(tree: Path, nobody: Nobody) -> None:
    run = command("doctor", "--json", tree)
    verdicts = {each["check"]: each["verdict"] for each in json.loads(run.stdout)["checks"]}
    assert run.returncode == 0 and set(verdicts.values()) == {"ok"}
    shown = json.loads(by_nobody(nobody, "doctor", "--json", tree))
    found = {each["check"]: each for each in shown["checks"]}
    assert found["read by map"]["verdict"] == "no" and "ctypes" in found["read by map"]["found"]
    assert found["read by stream"]["verdict"] == "ok"
    assert found["in use"]["found"].startswith("stream, 2 items of ")


def test_the_doctor_says_what_runs(tree: Path) -> None:
    checks = json.loads(command("doctor", "--json").stdout)["checks"]
    found = {each["check"]: each for each in checks}
    assert found["refresh by the kernel"]["verdict"] == ("ok" if BY_KERNEL else "no")
    assert f"{tree}, refreshed by " in found["pins"]["found"]


def test_pins_lists_what_there_is(quiet: Forest, tree: Path, folder: Path) -> None:
    pin(quiet.root, folder / "one", ["shmem"], flush=False)
    try:
        found = pins_listed()
        one, whole = found["one"], found["tree"]
        assert (one["kind"], one["refreshed_by"], one["cgroups"]) == ("cgroup", "read", 1)
        assert (one["cgroup"], one["state"]) == (str(quiet.root), "alive")
        assert whole["refreshed_by"] == ("kernel" if BY_KERNEL else "holder")
        assert (whole["kind"], whole["cgroups"]) == ("tree", len(quiet.paths))
        assert (whole["cgroup"], whole["items"]) == (str(quiet.root), ["shmem", "pgfault"])
        assert whole["state"] == "alive" and whole["age"] < 60 and 0 < whole["share"] <= 0.26
        assert 0 < whole["duration"] < 1 and whole["memory"] > 4096
        assert list(pins_listed(folder / "one")) == ["one"]
        assert set(pins_listed(folder)) == {"one", "tree"}
    finally:
        unpin(folder / "one")


def test_every_map_of_the_kernel_is_seen(tree: Path) -> None:
    names = [each.name for each in map_ids.kernel_maps()]
    assert names.count(TIMER) == maps_called(TIMER)
    assert map_ids.map_at(str(tree / "map")).id in {each.id for each in map_ids.kernel_maps()}


def test_a_tree_that_is_not_visible_is_counted(tree: Path, folder: Path) -> None:
    said = "the kernel refreshes 1 more tree, by the map with the id "
    assert said not in command("pins").stderr
    hidden = subprocess.run(
        [sys.executable, "-m", "pymemcgbpf", "pins"],
        capture_output=True,
        text=True,
        preexec_fn=hiding(folder),
    )
    assert hidden.returncode == 0 and str(tree) not in hidden.stdout
    assert (said in hidden.stderr) == BY_KERNEL


@contextlib.contextmanager
def refreshing(path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command that pins a tree and, unless the kernel does, refreshes it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", "pin", "--tree", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell ignores SIGINT, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            wait_until(lambda: (path / "stream").exists() or process.poll() is not None)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_refreshes_a_tree_until_it_is_ended(
    number: signal.Signals, quiet: Forest, folder: Path
) -> None:
    path = folder / "mine"
    flush = [] if CAN_FLUSH else ["--no-flush"]
    with refreshing(path, "--every", "0.1", *flush, quiet.root, path, "shmem") as process:
        if BY_KERNEL:
            assert process.wait(timeout=60) == 0
        else:
            wait_until(lambda: bool(pins_listed(path)["mine"]["age"]))
            assert process.stderr is not None
            assert "the kernel cannot refresh" in process.stderr.readline()
            assert json.loads(command("stat", "--json", path).stdout) == {
                "shmem": sum(quiet.shmem.values())
            }
            process.send_signal(number)
            ended = process.wait(timeout=60)
            assert ended == (0 if number == signal.SIGTERM else -number)
            assert path.exists() == (number == signal.SIGKILL)
    if path.exists():
        if not BY_KERNEL:
            wait_until(lambda: pins_listed(path)["mine"]["state"] == "stale")
            assert f"{path} is stale" in command("cat", path).stderr
        assert command("unpin", path).returncode == 0
    assert not path.exists()
