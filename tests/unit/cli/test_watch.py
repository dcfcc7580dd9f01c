# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf watch, on fake cgroup directories."""

from __future__ import annotations

import csv
import datetime
import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pymemcgbpf
from pymemcgbpf import CgroupRemovedError, MemcgError
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli.main import main
from pymemcgbpf._sources import choose as _choose

from .. import commands
from ..commands import TEXT, Captured, RefuseBpf, failed
from ..directories import make_v2

QUICK = ("--interval", "0.001")


def printed(captured: Captured, *arguments: str) -> str:
    return commands.printed(captured, "watch", *TEXT, *QUICK, *arguments)


def test_count_limits_the_samples(v2: Path, capsys: Captured) -> None:
    for count in (1, 3):
        assert printed(capsys, "--count", str(count), str(v2)).count("\n") == 1 + count


def test_samples_are_lines_of_csv(v2: Path, capsys: Captured) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    header, *rows = csv.reader(printed(capsys, "--count", "3", str(v2)).splitlines())
    assert header == ["time", "anon", "file", "pgfault", "memory.current"]
    assert [row[1:] for row in rows] == [["4096", "8192", "3", "12288"]] * 3
    times = [datetime.datetime.fromisoformat(row[0].replace("Z", "+00:00")) for row in rows]
    assert sorted(times) == times and all(row[0].endswith("Z") for row in rows)
    assert abs(times[0] - before) < datetime.timedelta(minutes=1)


def test_json_lines(v2: Path, capsys: Captured) -> None:
    lines = printed(capsys, "--count", "2", "--json", str(v2), "file", "anon").splitlines()
    assert len(lines) == 2
    for line in map(json.loads, lines):
        assert list(line) == ["time", "items"]
        assert list(line["items"].items()) == [("file", 8192), ("anon", 4096)]


def test_depth_adds_the_cgroups_below(v2: Path, capsys: Captured) -> None:
    make_v2(make_v2(v2 / 'a,"\rb') / "c")
    options = ("--count", "2", "--depth", "1", str(v2), "anon")
    header, *rows = csv.reader(io.StringIO(printed(capsys, *options), newline=""))
    assert header == ["time", "path", "anon"]
    below = str(v2 / 'a,"\rb')
    assert [row[1:] for row in rows] == [[str(v2), "4096"], [below, "4096"]] * 2
    lines = [json.loads(line) for line in printed(capsys, "--json", *options).splitlines()]
    assert [line["path"] for line in lines] == [str(v2), below] * 2
    assert list(lines[0]) == ["time", "path", "items"] and lines[0]["items"] == {"anon": 4096}


def test_an_item_that_disappears_is_an_empty_field(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([{"anon": 1, "file": 2}, {"file": 3}])
    monkeypatch.setattr(pymemcgbpf.StatsReader, "read", lambda _: next(answers))
    lines = printed(capsys, "--count", "2", str(v2), "anon", "file").splitlines()
    assert [line.partition(",")[2] for line in lines] == ["anon,file", "1,2", ",3"]


def test_default_is_the_own_cgroup(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(v2))
    assert printed(capsys, "--count", "1", "anon").endswith(",4096\n")


def test_a_wrong_option_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [
        *(("--interval", value) for value in ("0", "-1", "x", "nan", "inf", "", "1e-9", "1e7")),
        *(("--count", value) for value in ("0", "-1", "x", "1.5")),
    ]
    for arguments in cases:
        assert "is not a number of" in failed(capsys, 2, "watch", *arguments)


def test_an_error_is_one_line_and_a_status(v2: Path, capsys: Captured) -> None:
    assert "no such cgroup" in failed(capsys, 1, "watch", *TEXT, str(v2 / "none"))
    assert "'anon'" in failed(capsys, 2, "watch", *TEXT, str(v2), "annon")
    assert "'zswap'" in failed(capsys, 2, "watch", *TEXT, str(v2), "zswap")


def test_a_cgroup_removed_during_the_command_is_an_error_in_one_line(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Any = iter([{"anon": 1}, {"anon": 2}])

    def read(_: object) -> Any:
        for answer in answers:
            return answer
        raise CgroupRemovedError("it was removed")

    monkeypatch.setattr(pymemcgbpf.StatsReader, "read", read)
    assert main(["watch", *TEXT, *QUICK, str(v2), "anon"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "removed" in err and err.count("\n") == 1


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_fallback_to_text_prints_its_reason(
    extra: tuple[str, ...], v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    assert main(["watch", "--count", "1", *extra, str(v2), "anon"]) == 0
    assert ("lacks CAP_BPF" in capsys.readouterr().err) == (not extra)


def started(v2: Path, *arguments: str) -> subprocess.Popen[str]:
    package = Path(pymemcgbpf.__file__).resolve().parent
    return subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", "watch", *TEXT, *arguments, str(v2), "anon"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
    )


def test_each_line_is_written_at_once_and_ctrl_c_is_quiet(v2: Path) -> None:
    with started(v2, "--interval", "60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "time,anon\n"
        assert process.stdout.readline().endswith(",4096\n")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_a_closed_pipe_ends_watch_quietly(v2: Path) -> None:
    with started(v2, *QUICK) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


# --- several cgroups --------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two cgroups of a hierarchy, of which one lacks an item of the other."""
    root = make_v2(tmp_path / "root", kind=None)
    a, b = make_v2(root / "a", stat="anon 1\nfile 2\n"), make_v2(root / "b", stat="anon 3\n")
    return str(a), str(b)


def test_several_cgroups_have_a_line_each_with_their_paths(
    two: tuple[str, str], capsys: Captured
) -> None:
    a, b = two
    header, *rows = csv.reader(printed(capsys, "--count", "2", a, b, "anon").splitlines())
    assert header == ["time", "path", "anon"]
    assert [row[1:] for row in rows] == [[a, "1"], [b, "3"]] * 2
    times = [row[0] for row in rows]
    assert times[0] == times[1] and times[2] == times[3]  # one clock for all
    lines = printed(capsys, "--count", "1", "--json", a, b, "anon").splitlines()
    shown = [json.loads(line) for line in lines]
    assert [(each["path"], each["items"]) for each in shown] == [(a, {"anon": 1}), (b, {"anon": 3})]


def test_a_cgroup_that_is_named_twice_is_printed_once(
    two: tuple[str, str], capsys: Captured
) -> None:
    a, b = two
    rows = list(csv.reader(printed(capsys, "--count", "1", a, b, a, "anon").splitlines()))
    assert [row[1:] for row in rows[1:]] == [[a, "1"], [b, "3"]]
    assert printed(capsys, "--count", "1", a, a, "anon").startswith("time,anon\n")


def test_an_item_that_only_one_of_several_has_is_an_empty_field(
    two: tuple[str, str], capsys: Captured
) -> None:
    lines = printed(capsys, "--count", "1", *reversed(two)).splitlines()
    assert [line.partition(",")[2] for line in lines] == [
        *("path,anon,memory.current,file", f"{two[1]},3,12288,", f"{two[0]},1,12288,2"),
    ]


def test_depth_adds_the_cgroups_below_each_of_several(
    two: tuple[str, str], capsys: Captured
) -> None:
    make_v2(Path(two[0]) / "c", stat="anon 7\n")
    lines = printed(capsys, "--count", "1", "--depth", "1", *two, "anon").splitlines()
    assert [line.partition(",")[2] for line in lines[1:]] == [
        *(f"{two[0]},1", f"{two[0]}/c,7", f"{two[1]},3"),
    ]


def test_pid_may_be_given_several_times(
    two: tuple[str, str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "cgroup_of", lambda pid: two[pid - 1])
    lines = printed(capsys, "--count", "1", "--pid", "2", "--pid", "1", "anon").splitlines()
    assert [line.partition(",")[2] for line in lines[1:]] == [f"{two[1]},3", f"{two[0]},1"]
    assert "cannot be combined" in failed(capsys, 2, "watch", *TEXT, "--pid", "1", two[0])


def test_a_removed_one_of_several_is_announced_and_the_last_one_is_an_error(
    two: tuple[str, str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {two[0]: 3, two[1]: 1}

    def read(reader: Any) -> dict[str, int]:
        left[reader.path] -= 1
        if left[reader.path] < 0:
            raise CgroupRemovedError(f"{reader.path} was removed")
        return {"anon": left[reader.path]}

    monkeypatch.setattr(pymemcgbpf.StatsReader, "read", read)
    assert main(["watch", *TEXT, *QUICK, *two, "anon"]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(",")[2] for line in out.splitlines()[1:]] == [
        *(f"{two[0]},2", f"{two[1]},0", f"{two[0]},1", f"{two[0]},0"),
    ]
    assert err == f"pymemcgbpf: {two[1]} was removed\npymemcgbpf: {two[0]} was removed\n"


def test_a_shortage_ends_all_of_several(
    two: tuple[str, str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: object) -> Any:
        raise MemcgError("no descriptor is left", errno=errno.EMFILE)

    monkeypatch.setattr(pymemcgbpf.StatsReader, "read", read)
    assert main(["watch", *TEXT, *QUICK, *two, "anon"]) == 1
    assert capsys.readouterr().err == "pymemcgbpf: no descriptor is left\n"


def test_what_cannot_be_opened_of_several_is_an_error_at_once(
    two: tuple[str, str], tmp_path: Path, capsys: Captured
) -> None:
    assert "no such cgroup" in failed(capsys, 1, "watch", *TEXT, *two, str(tmp_path / "none"))


@pytest.mark.parametrize("command", ["stat", "tree", "export"])
def test_other_commands_take_one_path(command: str, two: tuple[str, str], capsys: Captured) -> None:
    said = failed(capsys, 2, command, *TEXT, *two, "anon")
    assert f"takes one PATH, and there are 2: {', '.join(two)}" in said and "watch" in said


@pytest.mark.parametrize("command", ["stat", "tree", "watch"])
def test_a_path_after_an_item_is_wrong_usage(
    command: str, two: tuple[str, str], capsys: Captured
) -> None:
    for words in ((two[0], "anon", two[1]), ("anon", "cron.service")):
        said = failed(capsys, 2, command, *TEXT, *words)
        assert f"{words[-1]} is a path, which must come before all items" in said
