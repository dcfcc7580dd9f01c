# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which command is meant; what all of them have in common."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

import pymemcgbpf
from pymemcgbpf._cli import parsers
from pymemcgbpf._cli.main import COMMANDS, main

from ..commands import TEXT, Captured, failed, printed
from ..conftest import RunPython

WORDS = sorted(COMMANDS)


def helped(captured: Captured, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    out, err = captured.readouterr()
    assert err == "" and out.isascii() and max(map(len, out.splitlines())) <= 80
    return out


def test_help_without_a_word_lists_the_commands(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(capsys)
    assert text.startswith("usage: pymemcgbpf [options] [PATH] [ITEM ...]")
    for word, (_, _, what) in COMMANDS.items():
        assert f"\n  {word} " in text and f" {what}\n" in text


def test_every_command_has_a_help_of_its_own(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in WORDS:
        monkeypatch.setenv("COLUMNS", "80")
        text = helped(capsys, word)
        assert text.startswith(f"usage: pymemcgbpf {word} [options]")
        assert "Exit status: 0" in text.replace("\n", " ")
        assert "\ncommands" not in text


@pytest.mark.parametrize("columns", ["60", "120", "0", "", "many"])
def test_the_help_is_as_wide_as_the_terminal(
    columns: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert parsers._terminal_width() == shutil.get_terminal_size().columns
    with pytest.raises(SystemExit):
        main(["tree", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= parsers._terminal_width()


def test_every_command_refuses_a_wrong_option_and_knows_its_version(capsys: Captured) -> None:
    for word in WORDS:
        assert "--help" in failed(capsys, 2, word, "--nonsense")
        with pytest.raises(SystemExit):
            main([word, "--version"])
        assert capsys.readouterr().out == f"pymemcgbpf {pymemcgbpf.__version__}\n"


def test_stat_is_the_default_command(v2: Path, capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [("anon",), ("--json",), ("--json", "anon", "file")]
    for arguments in cases:
        without = printed(capsys, *TEXT, str(v2), *arguments)
        assert printed(capsys, "stat", *TEXT, str(v2), *arguments) == without


def test_a_directory_that_is_called_like_a_command(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    v2.rename(v2.parent / "tree")
    monkeypatch.chdir(v2.parent)
    assert json.loads(printed(capsys, *TEXT, "--json", "./tree", "anon")) == {"anon": 4096}


def test_the_entry_point_imports_nothing_that_takes_time(run_python: RunPython) -> None:
    """A Ctrl-C before main() runs would print a traceback."""
    code = "import sys; before = set(sys.modules); import pymemcgbpf._cli.main\n"
    ran = run_python("-c", f"{code}print(*sorted(sys.modules.keys() - before))")
    names = ("", "._cli", "._cli.main", "._version")
    own = [f"pymemcgbpf{name}" for name in names]
    assert [name for name in ran.stdout.split() if name != "__future__"] == own


def test_ctrl_c_while_a_command_is_imported_ends_it_by_the_signal(
    run_python: RunPython, v2: Path
) -> None:
    code = """
import sys, pymemcgbpf._cli.main as m
class Interrupted:
    left = int(sys.argv[1])
    def find_spec(self, name, *_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
sys.exit(m.main(["stat", "--backend", "text", sys.argv[2], "anon"]))
"""
    for number in (1, 2, 3, 5, 10, 20, 40):
        ran = run_python("-c", code, str(number), str(v2))
        assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", ""), number


def test_ctrl_c_ends_the_command_by_the_signal(run_python: RunPython) -> None:
    code = (
        "import pymemcgbpf._cli.main as m\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "m.list_of_commands = interrupted\n"
    )
    ran = run_python("-c", f"{code}m.main([])")
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")
    # As a container's first process, which a signal does not end.
    ran = run_python("-c", f"{code}m.os.kill = interrupted = lambda *_: None\nprint(m.main([]))")
    assert (ran.stdout, ran.stderr) == ("130\n", "")
