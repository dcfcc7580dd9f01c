# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which cgroup a command reads: that of --pid, or of a systemd unit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pymemcgbpf._bench import benchmark as _benchmark
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import top_terminal
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins import create as _create
from pymemcgbpf._pins import create_tree as _create_tree

from ..commands import TEXT, Captured, failed, printed
from ..directories import make_v2

PID = 77


@pytest.fixture
def cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cgroup of cron.service, and of the process PID, in a mounted hierarchy."""
    root = make_v2(tmp_path / "root", kind=None)
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter([("/", str(root))]))
    path = make_v2(make_v2(root / "system.slice") / "cron.service", stat="anon 7\nfile 8\n")
    monkeypatch.setattr(_mounts, "cgroup_of", {PID: str(path)}.__getitem__)
    return path


WAYS = (("--pid", str(PID)), ("cron.service",))


@pytest.mark.parametrize("way", WAYS)
def test_every_command_that_takes_a_path_takes_a_process_and_a_unit(
    way: tuple[str, ...], cron: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: str) -> str:
        return printed(capsys, arguments[0], *way, *arguments[1:])

    assert json.loads(shown("stat", *TEXT, "--json", "anon")) == {"anon": 7}
    (row,) = json.loads(shown("tree", *TEXT, "--json", "anon"))
    assert (row["path"], row["items"]) == (str(cron), {"anon": 7})
    (line,) = shown("watch", *TEXT, "--json", "--count", "1", "file").splitlines()
    assert json.loads(line)["items"] == {"file": 8}
    label = '{cgroup="/system.slice/cron.service"}'
    assert f"cgroup_memory_anon_bytes{label} 7\n" in shown("export", *TEXT, "anon")
    assert [one["name"] for one in json.loads(shown("items", "--json"))][:2] == ["anon", "file"]
    asked = []

    def run(path: str, *_: object) -> Any:
        asked.append(path)
        raise OSError

    monkeypatch.setattr(_benchmark, "run", run)
    failed(capsys, 1, "bench", *way)
    assert asked == [str(cron)]


@pytest.mark.parametrize("way", WAYS)
def test_the_doctor_examines_the_cgroup_of_a_process_or_unit(
    way: tuple[str, ...], cron: Path, capsys: Captured
) -> None:
    main(["doctor", *way])
    assert f"{cron}/memory.stat\n" in capsys.readouterr().out


@pytest.mark.parametrize("way", WAYS)
def test_pin_takes_a_process_or_a_unit_instead_of_a_path(
    way: tuple[str, ...], cron: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(_create, "pin", lambda *arguments, **_: asked.append(arguments))
    tree = SimpleNamespace(refreshed_by="kernel")

    def pin_tree(*arguments: object, **_: object) -> SimpleNamespace:
        asked.append(arguments)
        return tree

    monkeypatch.setattr(_create_tree, "pin_tree", pin_tree)
    printed(capsys, "pin", *way, "/bpf/it")
    printed(capsys, "pin", "--tree", *way, "/bpf/it", "anon", "file")
    assert asked == [(str(cron), "/bpf/it", None), (str(cron), "/bpf/it", ["anon", "file"])]


def test_the_option_may_stand_anywhere(
    cron: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(3):
        words = ["anon", "file"]
        words[place:place] = ["--pid", str(PID)]
        assert json.loads(printed(capsys, *TEXT, "--json", *words)) == {"anon": 7, "file": 8}
    asked = []
    monkeypatch.setattr(_create, "pin", lambda *arguments, **_: asked.append(arguments))
    for place in range(3):
        words = ["/bpf/it", "anon"]
        words[place:place] = ["--pid", str(PID)]
        printed(capsys, "pin", *words)
    assert asked == [(str(cron), "/bpf/it", ["anon"])] * 3


def test_a_path_and_a_process_are_refused(
    cron: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_terminal, "check", lambda: None)
    for path in (str(cron), "cron.service"):
        for command in ("stat", "tree", "top", "watch", "export", "items", "doctor", "bench"):
            said = failed(capsys, 2, command, "--pid", str(PID), path)
            assert said == (
                "pymemcgbpf: PATH and --pid cannot be combined, as each names the cgroup "
                "(see --help)\n"
            )
        said = failed(capsys, 2, "pin", "--pid", str(PID), path, "/bpf/it", "anon")
        assert "PATH and --pid cannot be combined" in said
    assert "required: PIN (" in failed(capsys, 2, "pin", "--pid", str(PID))


def test_what_is_no_process_id_is_status_2(capsys: Captured) -> None:
    for word in ("0", "-1", "x", "", "1.0", "٧", "99999999999", "9" * 5000, "+1", "2147483648"):
        said = failed(capsys, 2, f"--pid={word}")
        assert re.search(r"--pid: '.*' is not a process id", said)


def test_a_process_that_does_not_exist_is_status_1(capsys: Captured) -> None:
    assert "there is no process 4194305" in failed(capsys, 1, "--pid", "4194305")
    assert "there is no process 4194305" in failed(capsys, 1, "pin", "--pid", "4194305", "/bpf/x")


def test_a_unit_that_does_not_exist_is_status_1(cron: Path, capsys: Captured) -> None:
    said = failed(capsys, 1, *TEXT, "at.service", "anon")
    assert "'at.service' is neither a directory nor a unit with a cgroup" in said


def test_a_directory_comes_before_a_unit_and_a_unit_before_a_file(
    cron: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cron.service").write_text("")  # as in /etc/systemd/system
    assert json.loads(printed(capsys, *TEXT, "--json", "cron.service", "anon")) == {"anon": 7}
    (tmp_path / "cron.service").unlink()
    make_v2(tmp_path / "cron.service", stat="anon 5\n")
    assert json.loads(printed(capsys, *TEXT, "--json", "cron.service", "anon")) == {"anon": 5}
