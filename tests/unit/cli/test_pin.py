# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""python3 -m pymemcgbpf pin, unpin and cat."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import BackendUnavailableError, ItemUnavailableError, _wire
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins import create as _create

from ..conftest import RunPython
from ..directories import said_to_be
from ..pin_files import ROW, TREE, pinned_file, pinned_parts, stream

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("on_bpffs")


class Pinned:
    """Stands in for pin() and pin_tree()."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: Any = None

    def of(self, name: str) -> Any:
        def make(*arguments: Any, **options: Any) -> None:
            self.asked.append((name, arguments, options))
            if self.error is not None:
                raise self.error

        return make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Pinned:
    fake = Pinned()
    monkeypatch.setattr(_create, "pin", fake.of("pin"))
    monkeypatch.setattr(_create, "pin_tree", fake.of("pin_tree"))
    return fake


def refused(captured: Captured, status: int, *arguments: object) -> str:
    """The one line that a failing command prints."""
    try:
        assert main(list(map(str, arguments))) == status
    except SystemExit as exit_:
        assert exit_.code == status
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("pymemcgbpf: ") and err.count("\n") == 1
    return err


def printed(captured: Captured, *arguments: object) -> str:
    assert main(list(map(str, arguments))) == 0
    out, err = captured.readouterr()
    assert err == ""
    return out


def test_wrong_usage_is_status_2(made: Pinned, capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [
        ("pin",),
        ("pin", "a"),
        ("pin", "a", "b", "--mode", "-1"),
        ("pin", "a", "b", "--mode", "٧"),
        ("pin", "a", "b", "--order", "sideways"),
        ("pin", "a", "b", "--mode", "0999"),
        ("pin", "a", "b", "--mode", "1777"),
        ("pin", "a", "b", "--mode", "rw"),
        ("pin", "a", "b", "--room", "5"),
        ("pin", "a", "b", "--tree", "--room", "0"),
        ("pin", "a", "b", "--tree", "--room", "x"),
        ("pin", "a", "b", "--tree", "--order", "pre"),
        ("pin", "a", "b", "--nonsense"),
        ("unpin",),
        ("unpin", "a", "b"),
        ("cat",),
        ("cat", "a", "--yaml"),
    ]
    for arguments in cases:
        assert "--help" in refused(capsys, 2, *arguments)
        assert made.asked == []


def test_a_failure_is_status_1_and_an_unavailable_item_status_2(
    made: Pinned, capsys: Captured, tmp_path: Path
) -> None:
    made.error = BackendUnavailableError("no\nflush")
    assert refused(capsys, 1, "pin", "a", "b") == "pymemcgbpf: no flush\n"
    made.error = ItemUnavailableError("does not have 'x'", item_names=["x"])
    assert "'x'" in refused(capsys, 2, "pin", "a", "b", "x")
    assert "no pin at" in refused(capsys, 1, "unpin", tmp_path / "none")
    assert "no pin at" in refused(capsys, 1, "cat", tmp_path / "none")
    assert "not on a bpffs" in refused(capsys, 1, "unpin", tmp_path.parent)
    assert "not on a bpffs" in refused(capsys, 1, "cat", tmp_path.parent)
    assert "not a statistics stream" in refused(
        capsys, 1, "cat", pinned_file(tmp_path / "it", b"x" * 40)
    )


def test_an_impossible_path_is_reported_in_one_line(capsys: Captured) -> None:
    for command in (["unpin"], ["cat"], ["pin", "/"]):
        for path in ("a\0b", ""):
            assert "cannot be a path" in refused(capsys, 1, *command, path)


def test_only_the_missing_argument_is_named(capsys: Captured) -> None:
    assert "required: PIN (" in refused(capsys, 2, "pin", "a")
    assert "required: PATH, PIN (" in refused(capsys, 2, "pin")


def test_a_link_is_not_followed(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_to_be(monkeypatch, tmp_path)
    path = pinned_file(tmp_path / "it", stream([ROW]))
    (tmp_path / "link").symlink_to(path)
    assert "symbolic link" in refused(capsys, 1, "unpin", tmp_path / "link")
    assert path.exists() and (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_pin_by_an_exception(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    seconds = 60.0

    def slow(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(seconds)

    monkeypatch.setattr(_create, "pin_tree", slow)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        main(["pin", "--tree", "a", "b"])
    assert caught.value.code == 128 + number and signal.getsignal(number) == before
    signal.signal(number, signal.SIG_IGN)  # nohup
    try:
        seconds = 0
        if number == signal.SIGHUP:
            assert main(["pin", "--tree", "a", "b"]) == 0
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_options_of_pin_reach_the_library(made: Pinned, capsys: Captured) -> None:
    assert printed(capsys, "pin", "a", "b") == ""
    assert printed(capsys, "pin", "a", "--mode", "0440", "b", "anon", "pgscan", "--no-flush") == ""
    assert printed(capsys, "pin", "a", "b", "--order", "post") == ""
    assert printed(capsys, "pin", "--tree", "a", "b", "--room", "70", "anon") == ""
    assert made.asked == [
        ("pin", ("a", "b", None), {"order": "self", "flush": True, "mode": 0o444}),
        ("pin", ("a", "b", ["anon", "pgscan"]), {"order": "self", "flush": False, "mode": 0o440}),
        ("pin", ("a", "b", None), {"order": "post", "flush": True, "mode": 0o444}),
        ("pin_tree", ("a", "b", ["anon"]), {"flush": True, "mode": 0o444, "room": 70}),
    ]


def test_unpin_says_what_to_do_with_an_empty_directory(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_to_be(monkeypatch, tmp_path)
    (tmp_path / "it").mkdir()
    assert "nothing was removed; it is empty, so rmdir can remove it" in refused(
        capsys, 1, "unpin", tmp_path / "it"
    )


def test_room_must_be_a_possible_number_of_cgroups(capsys: Captured) -> None:
    cases: list[str] = ["0", "-1", "1" + "0" * 400, "10000000000000"]
    for room in cases:
        assert "is not a number of cgroups from 1" in refused(
            capsys, 2, "pin", "--tree", "--room", room, "a", "b"
        )


def test_unpin_removes_the_pin(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_to_be(monkeypatch, tmp_path)
    path = pinned_file(tmp_path / "it", stream([ROW]))
    assert printed(capsys, "unpin", path) == ""
    assert not path.exists()


def test_cat_prints_a_pin_as_text_and_as_json(capsys: Captured, tmp_path: Path) -> None:
    path = pinned_file(tmp_path / "it", stream([ROW]))
    assert printed(capsys, "cat", path) == "anon    4.0 KiB\npgscan    3\n"
    assert json.loads(printed(capsys, "cat", "--json", path)) == {"anon": 4096, "pgscan": 3}
    rows = [TREE[0]._replace(values=(1 << 30, _wire.ABSENT)), *TREE[1:]]
    pinned_file(path, stream(rows, 2))
    assert printed(capsys, "cat", path) == (
        "              anon  pgscan\n"
        "cgroup 10  1.0 GiB       -\n"
        "cgroup 11  101 B         1\n"
        "cgroup 12  102 B         2\n"
        "cgroup 13  103 B         3\n"
    )
    shown = json.loads(printed(capsys, "cat", "--json", pinned_parts(tmp_path / "parts", rows)))
    assert shown[0]["items"] == {"anon": 1 << 30}
    assert shown[3] == {
        "path": None,
        "id": 13,
        "parent_id": 12,
        "level": 3,
        "items": {"anon": 103, "pgscan": 3},
    }


def test_help_describes_the_command_and_its_exit_status(capsys: Captured) -> None:
    cases: list[str] = ["pin", "unpin", "cat"]
    for command in cases:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert f"pymemcgbpf {command}" in out and "Exit status" in out


def test_cat_works_without_ctypes(run_python: RunPython, tmp_path: Path) -> None:
    pinned_file(tmp_path / "it", stream([ROW]))
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "from pymemcgbpf._pins import bpffs as _bpffs\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "from pymemcgbpf._cli.main import main; sys.exit(main(['cat', 'it']))\n"
    )
    ran = run_python("-c", code)
    assert (ran.returncode, ran.stdout.split()[0], ran.stderr) == (0, "anon", "")
    assert sys.modules.get("ctypes") is not None
