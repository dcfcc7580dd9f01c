# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf completion: its scripts in the shells that they are for."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf._cli import completion, parsers
from pymemcgbpf._cli.completion_scripts import SHELLS
from pymemcgbpf._cli.main import COMMANDS, main
from pymemcgbpf._items import CATALOGUE

from ..commands import Captured, failed, printed

Complete = Callable[..., list[str]]
ALL = completion._completions()
SWAP_EVENTS = [f"memory.swap.events.{key}" for key in ("high", "max", "fail", "*")]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the script for a shell; returns its path."""

    def write(shell: str) -> Path:
        path = tmp_path / f"script.{shell}"
        path.write_text(SHELLS[shell](ALL) + "\n")
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a directory and a file in it."""
    made = tmp_path / "folder"
    (made / "my dir").mkdir(parents=True)
    (made / "my file").write_text("")
    return made


def ran(folder: Path, *words: str) -> str:
    """What a shell prints that has nothing to complain about."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- bash


@pytest.fixture
def bash(script: Callable[[str], Path], folder: Path) -> Complete:
    """What bash offers for the last of the words of a command line."""
    path = script("bash")

    def complete(*words: str) -> list[str]:
        code = (
            f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pymemcgbpf; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        shown = ran(folder, "bash", "-c", code, "bash", "pymemcgbpf", *words)
        return [line for line in shown.split("\n") if line]

    return complete


def options_of(word: str) -> list[str]:
    """The long options of a command's parser."""
    module, function, _ = COMMANDS[word]
    run = getattr(__import__(f"pymemcgbpf._cli.{module}", fromlist=["x"]), function)
    names = parsers.parser_of(run)._option_string_actions
    return [name for name in names if name.startswith("--")]


@needs("bash")
@pytest.mark.parametrize("word", COMMANDS)
def test_bash_completes_every_option_of_every_command(word: str, bash: Complete) -> None:
    assert bash(word, "-") == options_of(word)
    assert len(options_of(word)) >= 2


@needs("bash")
def test_bash_completes_what_an_option_takes(bash: Complete) -> None:
    assert bash("tree", "--backend", "") == ["auto", "kfunc", "rfc", "core", "text"]
    assert bash("tree", "--backend", "=", "c") == ["core"]
    assert len(bash("tree", "--backend", "=")) == 5
    assert bash("pin", "--order", "po") == ["post"]
    assert bash("tree", "--sort", "memory.events.oom") == [
        *("memory.events.oom", "memory.events.oom_kill", "memory.events.oom_group_kill")
    ]
    assert bash("tree", "--sort", "memory.events.*") == []  # a group is refused there
    assert bash("tree", "--depth", "") == []
    assert bash("export", "--output", "my") == ["my dir", "my file"]
    assert str(os.getpid()) in bash("stat", "--pid", str(os.getpid())[:-1])


@needs("bash")
def test_bash_completes_commands_directories_and_items(bash: Complete) -> None:
    assert {*COMMANDS, *CATALOGUE} <= {*bash("")}
    assert bash("tre") == ["tree"]
    assert bash("my") == ["my dir"] == bash("tree", "my")  # a file is no cgroup
    assert bash("cat", "my") == ["my dir", "my file"]
    assert bash("pins", "") == ["my dir"]
    assert bash("items", "an") == []
    assert bash("stat", "--json", "pgfa") == ["pgfault"]
    assert bash("watch", "my dir", "'memory.swap.events.") == SWAP_EVENTS
    assert bash("completion", "") == ["bash", "zsh", "fish"]


HOSTILE = "$(touch ran).service"
ESCAPED = r"dev-disk-by\x2duuid-1.swap"


@pytest.fixture
def units(script: Callable[[str], Path], tmp_path: Path) -> Path:
    """The script for bash, with a directory of cgroups of this test."""
    slice_ = tmp_path / "cgroups" / "system.slice"
    for name in (HOSTILE, ESCAPED, "two words.service", "`touch ran`.scope", "*.service"):
        (slice_ / name).mkdir(parents=True)
    (slice_ / "a file.service").write_text("")
    path = script("bash")
    path.write_text(path.read_text().replace("/sys/fs/cgroup/", f"{tmp_path}/cgroups/"))
    return path


@needs("bash")
def test_bash_runs_nothing_that_the_name_of_a_cgroup_says(units: Path, folder: Path) -> None:
    code = (
        f'source {units}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pymemcgbpf; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def offered(word: str) -> list[str]:
        shown = ran(folder, "bash", "-c", code, "bash", "pymemcgbpf", "stat", word)
        return shown.splitlines()

    assert "/sys/fs/cgroup/" not in units.read_text()
    assert {HOSTILE, ESCAPED, "two words.service", "`touch ran`.scope"} < {*offered("")}
    assert "a file.service" not in offered("")
    assert offered("$(") == [HOSTILE] == offered(r"\$\(touch")
    assert (
        offered("dev-") == [ESCAPED] == offered(r"dev-disk-by\\x2d") == offered(r"'dev-disk-by\x")
    )
    assert offered("two w") == ["two words.service"] == offered(r"two\ w")
    assert offered("*") == ["*.service"]
    assert not (folder / "ran").exists()


# --- shells at a terminal


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._fd, slave = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "HOME": str(folder), "ZDOTDIR": str(folder)}
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Types a text."""
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> str:
        """All that is shown until a text is."""
        shown, end = "", time.monotonic() + 30
        while text not in shown:
            left = end - time.monotonic()
            assert left > 0 and select.select([self._fd], [], [], left)[0], shown
            shown += os.read(self._fd, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


@contextlib.contextmanager
def terminal(folder: Path, *words: str) -> Iterator[Terminal]:
    made = Terminal(folder, *words)
    try:
        yield made
    finally:
        made.close()


SHOW = "pymemcgbpf() { printf '<%s>' \"$@\"; echo; }"
PROMPT = "ready> "


@needs("bash")
def test_bash_inserts_what_it_completes(script: Callable[[str], Path], folder: Path) -> None:
    (folder / "rc").write_text(f"source {script('bash')}\n{SHOW}\nPS1='{PROMPT}'\n")
    with terminal(folder, "bash", "--noprofile", "--rcfile", "rc", "-i") as shell:
        shell.wait_for(PROMPT)
        shell.type("pymemcgbpf tr\t--bac\ttext --sort=pgfa\tmy\t memory.pressure.f\t\n")
        shell.wait_for(
            "<tree><--backend><text><--sort=pgfault><my dir/><memory.pressure.full.total>"
        )


@needs("bash")
def test_bash_inserts_the_name_of_a_unit_as_it_is(units: Path, folder: Path) -> None:
    (folder / "rc").write_text(f"source {units}\n{SHOW}\nPS1='{PROMPT}'\n")
    with terminal(folder, "bash", "--noprofile", "--rcfile", "rc", "-i") as shell:
        shell.wait_for(PROMPT)
        shell.type("pymemcgbpf stat dev-\t two\t '$(to\t\n")
        shell.wait_for(f"<stat><{ESCAPED}><two words.service><{HOSTILE}>")
    assert not (folder / "ran").exists()


@needs("zsh")
def test_zsh_completes(script: Callable[[str], Path], folder: Path) -> None:
    start = f"autoload -Uz compinit\ncompinit -u -D\nsource {script('zsh')}\n{SHOW}\n"
    (folder / ".zshrc").write_text(f"{start}PS1='{PROMPT}'\n")
    cases = {
        "tre\t--dep\t3": "<tree><--depth=3>",
        "tree --backend te\t": "<tree><--backend><text>",
        "stat pgfa\tpgmaj\t": "<stat><pgfault><pgmajfault>",
        "tree --sort pgmaj\t": "<tree><--sort><pgmajfault>",
        "watch my\t memory.pressure.full\t": "<watch><my dir><memory.pressure.full.total>",
        "cat my\\ f\t": "<cat><my file>",
        "completion z\t": "<completion><zsh>",
    }
    with terminal(folder, "zsh", "--no-globalrcs", "-i") as shell:
        shell.wait_for(PROMPT)
        for typed, wanted in cases.items():
            shell.type(f"pymemcgbpf {typed}\n")
            if PROMPT not in shell.wait_for(wanted).partition(wanted)[2]:
                shell.wait_for(PROMPT)


# --- fish


@needs("fish")
def test_fish_completes(script: Callable[[str], Path], folder: Path) -> None:
    wanted = {
        **{f"{word} --": options_of(word) for word in COMMANDS},
        "tree --backend c": ["core"],
        "tree --sort pgfa": ["pgfault"],
        "tree --depth ": [],
        "stat my": ["my dir/"],
        "cat my": ["my dir/", "my file"],
        "export --output my": ["my dir/", "my file"],
        "stat pgfa": ["pgfault"],
        "stat memory.swap.events.": SWAP_EVENTS,
        "completion ": list(SHELLS),
        "tre": ["tree"],
    }
    lines = "; echo =; ".join(f"complete -C 'pymemcgbpf {line}'" for line in wanted)
    shown = ran(folder, "fish", "--no-config", "-c", f"source {script('fish')}; {lines}")
    for (line, words), part in zip(wanted.items(), shown.split("=\n")):
        assert {each.split("\t")[0] for each in part.splitlines()} == {*words}, line


# --- the command


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_valid_and_says_how_it_was_made(shell: str, capsys: Captured) -> None:
    text = printed(capsys, "completion", shell)
    assert f"made by: pymemcgbpf completion {shell}\n" in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@needs("shellcheck")
def test_shellcheck_accepts_the_script_for_bash(script: Callable[[str], Path]) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=bash", str(script("bash"))], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_help_says_where_each_script_belongs(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "--help"])
    out, _ = capsys.readouterr()
    for shell in SHELLS:
        assert f"\n  {shell:<4}  " in out
    assert "~/.local/share/bash-completion/completions/pymemcgbpf\n" in out


def test_another_shell_is_wrong_usage(capsys: Captured) -> None:
    assert "'bash', 'zsh', 'fish'" in failed(capsys, 2, "completion", "csh")
    assert "SHELL" in failed(capsys, 2, "completion")
    assert parsers.Parser.taken is None
