# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the command line shows of removed cgroups, while it runs."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cgroups import MIB, cgroup, enable_memory
from .oracle import everything
from .test_departed import attached, remove_when_empty
from .test_oom_kills import KILLS, LIMIT, OWN_KILLS, kill_one

pytestmark = pytest.mark.needs_iterator
PEAK = "memory.peak"


@contextlib.contextmanager
def watching(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """watch --departed, once it sees what is removed."""
    with subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", "watch", "--departed", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not attached(process.pid):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "it does not attach"
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def test_a_cgroup_that_is_killed_for_memory_and_removed_at_once_has_a_line(
    empty_cgroup: Path,
) -> None:
    enable_memory(empty_cgroup)
    began = time.time()
    with watching("--json", "--count", 2, empty_cgroup) as process:
        short, quiet = empty_cgroup / "short", empty_cgroup / "quiet"
        short.mkdir()
        cgroup_id = short.stat().st_ino
        kill_one(short)
        peak = everything(short).get(PEAK)
        remove_when_empty(short)
        quiet.mkdir()
        quiet.rmdir()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert (first["path"], first["id"]) == (str(short), cgroup_id)
    assert first["parent_id"] == empty_cgroup.stat().st_ino
    assert first["items"][OWN_KILLS] == 1 and first["items"]["anon"] == 0
    if peak is not None:
        assert LIMIT - MIB <= first["items"][PEAK] == peak <= LIMIT
    assert (second["path"], second["items"][OWN_KILLS]) == (str(quiet), 0)
    assert began - 1 <= seconds_of(first["time"]) <= seconds_of(second["time"]) <= time.time() + 1


def seconds_of(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_lines_come_at_once_and_ctrl_c_is_quiet(empty_cgroup: Path) -> None:
    enable_memory(empty_cgroup)
    with watching("--depth", 1, empty_cgroup, KILLS, "memory.max") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"time,path,{KILLS},memory.max\n"
        for name in ("a", "b"):
            path = empty_cgroup / name
            path.mkdir()
            enable_memory(path)
            (path / "deeper").mkdir()
            (path / "deeper").rmdir()
            path.rmdir()
            (line,) = csv.reader([process.stdout.readline()])
            assert line[1:3] == [str(path), "0"]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_removed_until_it_is_stopped_is_printed(
    number: signal.Signals, empty_cgroup: Path
) -> None:
    enable_memory(empty_cgroup)
    with watching("--interval", 3600, empty_cgroup, KILLS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"time,path,{KILLS}\n"
        for name in ("a", "b"):
            (empty_cgroup / name).mkdir()
            (empty_cgroup / name).rmdir()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert [line[1] for line in csv.reader(out.splitlines())] == [
        f"{empty_cgroup}/{name}" for name in ("a", "b")
    ]
    assert err == "" and process.returncode in (-number, 128 + number)


def test_after_the_removal_of_the_root_all_are_printed() -> None:
    with cgroup() as root:
        enable_memory(root)
        with watching("--interval", 2, root, KILLS) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"time,path,{KILLS}\n"
            for name in ("a", "b"):
                (root / name).mkdir()
                (root / name).rmdir()
            root.rmdir()
            out, err = process.communicate(timeout=60)
        assert [line[1] for line in csv.reader(out.splitlines())] == [f"{root}/a", f"{root}/b"]
        assert err == f"pymemcgbpf: the cgroup {root} was removed\n"
        assert process.returncode == 1
