# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""python3 -m pymemcgbpf pin, unpin and cat."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    ItemUnavailableError,
    MemcgError,
    TreeTooLargeError,
    _wire,
)
from pymemcgbpf._cli import pin as _pin
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins import create as _create
from pymemcgbpf._pins import create_tree as _create_tree

from ..conftest import RunPython
from ..directories import said_to_be
from ..pin_files import ROW, TREE, pinned_file, pinned_tree, published, stream

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("on_bpffs")


class FakeTree:
    """Stands in for a PinnedTree.

    Attributes:
        refreshes: what each refresh() does: an error to raise, a function to call, or None.
        closed: how often it was closed.
    """

    interval, reason = 0.001, "no bpf_wq_start"

    def __init__(self, refreshed_by: str = "kernel", *refreshes: Any) -> None:
        self.refreshed_by = refreshed_by
        self.refreshes = list(refreshes)
        self.closed = 0

    def refresh(self) -> None:
        what = self.refreshes.pop(0)
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            what()

    def __enter__(self) -> FakeTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


class Pinned:
    """Stands in for pin() and pin_tree()."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: Any = None
        self.tree = FakeTree()

    def of(self, name: str) -> Any:
        def make(*arguments: Any, **options: Any) -> Any:
            self.asked.append((name, arguments, options))
            if self.error is not None:
                raise self.error
            return self.tree if name == "pin_tree" else None

        return make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Pinned:
    fake = Pinned()
    monkeypatch.setattr(_create, "pin", fake.of("pin"))
    monkeypatch.setattr(_create_tree, "pin_tree", fake.of("pin_tree"))
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
        ("pin", "a", "b", "--tree", "--order", "self"),
        ("pin", "a", "b", "--tree", "--order", "up"),
        ("pin", "a", "b", "--tree", "--every", "0"),
        ("pin", "a", "b", "--every", "1"),
        ("pin", "a", "b", "--depth", "1"),
        ("pin", "a", "b", "--no-names"),
        ("pin", "a", "b", "--nonsense"),
        ("unpin",),
        ("unpin", "a", "b"),
        ("pins", "a", "b"),
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

    def slow(*_: object, **__: object) -> FakeTree:
        os.kill(os.getpid(), number)
        time.sleep(seconds)
        return FakeTree()

    monkeypatch.setattr(_create_tree, "pin_tree", slow)
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
    assert printed(capsys, "pin", "--tree", "a", "b", "anon") == ""
    options = ["--every", "0.5", "--no-names", "--depth", "2", "--order", "post", "--room", "70"]
    assert (
        printed(capsys, "pin", "--tree", *options, "--mode", "0440", "--no-flush", "a", "b") == ""
    )
    assert made.asked == [
        ("pin", ("a", "b", None), {"order": "self", "flush": True, "mode": 0o444}),
        ("pin", ("a", "b", ["anon", "pgscan"]), {"order": "self", "flush": False, "mode": 0o440}),
        ("pin", ("a", "b", None), {"order": "post", "flush": True, "mode": 0o444}),
        (
            "pin_tree",
            ("a", "b", ["anon"]),
            {
                "every": 1.0,
                "flush": True,
                "order": "pre",
                "max_depth": None,
                "names": True,
                "mode": 0o444,
                "room": None,
            },
        ),
        (
            "pin_tree",
            ("a", "b", None),
            {
                "every": 0.5,
                "flush": False,
                "order": "post",
                "max_depth": 2,
                "names": False,
                "mode": 0o440,
                "room": 70,
            },
        ),
    ]


def test_a_tree_that_the_kernel_refreshes_is_left_alone(made: Pinned, capsys: Captured) -> None:
    assert printed(capsys, "pin", "--tree", "a", "b") == ""
    assert made.tree.closed == 0


def ending(number: signal.Signals) -> Any:
    """A function that ends this process by a signal, unless the signal is handled."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_tree_that_the_kernel_does_not_refresh_is_refreshed_until_a_signal_ends_it(
    number: signal.Signals, made: Pinned, capsys: Captured
) -> None:
    made.tree = FakeTree("holder", None, None, None, ending(number))
    assert main(["pin", "--tree", "a", "b"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "the kernel cannot refresh b, so this command does, every 0.001 s" in err
    assert "no bpf_wq_start" in err
    assert made.tree.refreshes == [] and made.tree.closed == 1


def test_ctrl_c_removes_a_tree_that_the_command_refreshes(made: Pinned) -> None:
    made.tree = FakeTree("holder", None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        _pin.main(["--tree", "a", "b"])
    assert made.tree.refreshes == [] and made.tree.closed == 1


def test_a_refresh_that_fails_for_now_is_announced_once_and_repeated(
    made: Pinned, capsys: Captured
) -> None:
    large, short = TreeTooLargeError("too large"), MemcgError("short", errno=errno.EMFILE)
    end = CgroupRemovedError("it was removed")
    made.tree = FakeTree("holder", large, large, None, large, short, end)
    assert main(["pin", "--tree", "a", "b"]) == 1
    first, *said = capsys.readouterr().err.splitlines()
    assert "cannot refresh" in first
    assert [line.rpartition(": ")[2] for line in said] == [
        *("too large", "too large", "short", "it was removed")
    ]
    assert made.tree.closed == 1


def test_unpin_removes_a_tree_and_what_its_interrupted_creation_left(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_to_be(monkeypatch, tmp_path)
    path = pinned_tree(tmp_path / "it", published())
    assert printed(capsys, "unpin", path) == ""
    path.mkdir()
    assert printed(capsys, "unpin", path) == ""
    assert not path.exists()


def test_more_room_than_the_kernel_has_cgroups_is_cut_with_a_word(
    made: Pinned, capsys: Captured
) -> None:
    assert printed(capsys, "pin", "--tree", "--room", "65536", "a", "b") == ""
    assert main(["pin", "--tree", "--room", "65537", "a", "b"]) == 0
    said = "pymemcgbpf: room for 65536 cgroups is made, as the kernel can have no more\n"
    assert capsys.readouterr() == ("", said)


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
    assert printed(capsys, "cat", "--bytes", path) == "anon    4096\npgscan     3\n"
    rows = [TREE[0]._replace(values=(1 << 30, _wire.ABSENT)), *TREE[1:]]
    pinned_file(path, stream(rows, 2))
    assert printed(capsys, "cat", path) == (
        "              anon  pgscan\n"
        "cgroup 10  1.0 GiB       -\n"
        "cgroup 11  101 B         1\n"
        "cgroup 12  102 B         2\n"
        "cgroup 13  103 B         3\n"
    )
    shown = json.loads(printed(capsys, "cat", "--json", path))
    assert shown[0]["items"] == {"anon": 1 << 30}
    assert shown[3] == {
        "path": None,
        "id": 13,
        "parent_id": 12,
        "level": 3,
        "items": {"anon": 103, "pgscan": 3},
    }


def test_cat_prints_the_items_that_are_named(capsys: Captured, tmp_path: Path) -> None:
    path = pinned_file(tmp_path / "it", stream([ROW]))
    assert printed(capsys, "cat", path, "pgscan") == "pgscan  3\n"
    assert printed(capsys, "cat", path, "pg*", "anon").split() == [
        *("pgscan", "3", "anon", "4.0", "KiB"),
    ]
    pinned_file(path, stream(TREE, 2))
    shown = json.loads(printed(capsys, "cat", "--json", path, "pgscan"))
    assert [row["items"] for row in shown] == [{"pgscan": number} for number in range(4)]
    assert f"{path} does not have 'file'; it has anon, pgscan" in refused(
        capsys, 2, "cat", path, "file"
    )


def test_cat_prints_the_age_of_a_tree(capsys: Captured, tmp_path: Path) -> None:
    path = pinned_tree(tmp_path / "it", published())
    age, *lines = printed(capsys, "cat", path).splitlines()
    assert re.match(r"[0-9]+\.[0-9] s ago +anon  pgscan$", age)
    assert lines[1].split() == ["/sys/fs/cgroup/root/one.service", "101", "B", "1"]


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
