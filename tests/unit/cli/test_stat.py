# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""python3 -m pymemcgbpf, on fake cgroup directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pymemcgbpf
from pymemcgbpf import CgroupNotFoundError, _options
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._cgroup import directory as _directory
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import readers
from pymemcgbpf._cli.main import main
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources.one_text import TextSource

from .. import commands
from ..commands import TEXT, Captured, RefuseBpf, failed
from ..conftest import RunPython
from ..directories import make_v1, make_v2
from ..kernels import LINUX_6_18

# --- failures -------------------------------------------------------------------------


def test_what_cannot_be_read_is_status_1(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "memory.stat").write_text("")
    for name in ("none", "memory.stat", "."):
        assert name.strip(".") in failed(capsys, 1, *TEXT, str(tmp_path / name))


def test_an_error_message_has_no_control_characters(tmp_path: Path, capsys: Captured) -> None:
    path = str(tmp_path / "evil\x1b[2J\x9b\udcff\n" / "it.prom")
    said = failed(capsys, 1, "export", *TEXT, "--output", path, str(make_v2(tmp_path / "v2")))
    assert r"evil\x1b[2J\x9b\xff /it.prom" in said and said[:-1].isprintable()


def test_an_unknown_item_is_status_2(v2: Path, capsys: Captured) -> None:
    said = failed(capsys, 2, *TEXT, str(v2), "anon", "pgfalt")
    assert "'pgfalt'" in said and "'pgfault'" in said


def test_an_unavailable_item_is_status_2(v2: Path, capsys: Captured) -> None:
    assert "'zswap'" in failed(capsys, 2, *TEXT, str(v2), "zswap")


def test_a_wrong_option_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [
        ("--backend", "ebpf"),
        ("--backend",),
        ("--nonsense",),
        ("--json=1",),
        ("-x",),
    ]
    for arguments in cases:
        assert "--help" in failed(capsys, 2, *arguments)


def test_an_unavailable_backend_is_status_1(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    assert failed(capsys, 1, "--backend", "core", str(v2)) == "pymemcgbpf: lacks CAP_BPF\n"


def test_advice_to_use_another_backend_is_spelt_as_an_option_is(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    assert "--backend auto" in failed(capsys, 1, "--backend", "kfunc", str(v2))


def test_no_own_cgroup_is_status_1(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise CgroupNotFoundError("in no memory cgroup")

    monkeypatch.setattr(_mounts, "own_cgroup", refuse)
    assert "in no memory cgroup" in failed(capsys, 1, *TEXT)


# --- output ---------------------------------------------------------------------------


def printed(captured: Captured, *arguments: str) -> str:
    return commands.printed(captured, *TEXT, *arguments)


def test_the_table_is_aligned(tmp_path: Path, capsys: Captured) -> None:
    path = make_v2(
        tmp_path / "v2",
        stat="anon 21860352\nfile 0\nkernel_stack 16384\npgfault 1234567\nnew 1000\n",
        current="1073741824",
    )
    assert printed(capsys, str(path)) == (
        "anon                 20.8 MiB\n"
        "file                    0 B\n"
        "kernel_stack         16.0 KiB\n"
        "pgfault         1,234,567\n"
        "new                 1,000\n"
        "memory.current        1.0 GiB\n"
    )


def test_bytes_are_plain_numbers(tmp_path: Path, capsys: Captured) -> None:
    path = make_v2(tmp_path / "v2", stat="anon 21860352\npgfault 1234567\n", current="1073741824")
    assert printed(capsys, "--bytes", str(path)) == (
        "anon              21860352\npgfault            1234567\nmemory.current  1073741824\n"
    )


def test_the_items_asked_for_in_their_order(v2: Path, capsys: Captured) -> None:
    lines = printed(capsys, str(v2), "pgfault", "anon").splitlines()
    assert [line.split()[0] for line in lines] == ["pgfault", "anon"]


def test_json_is_exact(tmp_path: Path, capsys: Captured) -> None:
    path = make_v2(tmp_path / "v2", stat=f"file {(1 << 64) - 1}\nanon 1023\n")
    values = json.loads(printed(capsys, "--json", str(path)))
    assert list(values.items()) == [
        ("file", (1 << 64) - 1),
        ("anon", 1023),
        ("memory.current", 12288),
    ]


def test_an_option_may_stand_anywhere(v2: Path, capsys: Captured) -> None:
    for place in range(4):
        words = [str(v2), "anon", "file"]
        words.insert(place, "--json")
        assert json.loads(printed(capsys, *words)) == {"anon": 4096, "file": 8192}


def test_default_is_the_own_cgroup(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(v2))
    assert json.loads(printed(capsys, "--json"))["anon"] == 4096
    assert json.loads(printed(capsys, "--json", "file", "anon")) == {"file": 8192, "anon": 4096}


def test_a_directory_that_is_called_like_an_item(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_v2(tmp_path / "anon", stat="anon 7\n")
    monkeypatch.chdir(tmp_path)
    assert json.loads(printed(capsys, "--json", "anon", "anon")) == {"anon": 7}


@pytest.mark.parametrize("command", [(), ("tree",)])
def test_a_first_word_that_means_nothing_is_named_with_a_suggestion(
    command: tuple[str, ...], capsys: Captured
) -> None:
    said = failed(capsys, 2, *command, "anno", "file")
    known = "neither a command, a path nor an item"
    assert said.startswith(f"pymemcgbpf: 'anno' is {known}; did you mean 'anon'")


@pytest.mark.parametrize("word", [".", "..", ".hidden"])
def test_a_word_with_a_dot_is_a_path_even_if_nothing_is_seen_there(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a directory that this user may not enter.
    monkeypatch.setattr("os.path.lexists", lambda path: False)
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    assert readers.paths_and_items([word, "anon"]) == ([word], ["anon"])
    assert readers.paths_and_items(["/a", word, "anon"]) == (["/a", word], ["anon"])


def test_a_mistyped_or_late_command_is_explained(capsys: Captured) -> None:
    assert "did you mean 'stat'" in failed(capsys, 2, "sta")
    said = "pymemcgbpf: 'tree' is a command, which must come before all options\n"
    assert failed(capsys, 2, "--json", "tree", "anon") == said


@pytest.mark.parametrize("command", [(), ("stat",), ("tree",), ("watch", "--count", "1")])
def test_a_path_that_begins_with_a_dash(
    command: tuple[str, ...], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_v2(tmp_path / "-dash", stat="anon 7\n", kind=None)
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--json", "--backend", "text", "--", "-dash", "anon"]) == 0
    assert '"anon": 7' in capsys.readouterr().out


def test_with_stderr_closed_nothing_is_said_on_stdout(run_python: RunPython) -> None:
    code = "import sys; sys.stderr = None; from pymemcgbpf._cli.main import main; "
    for arguments in (["/none", "anon"], ["--nonsense"], ["anno"]):
        done = run_python("-c", f"{code}sys.exit(main({arguments!r}))")
        assert (done.stdout, done.returncode in (1, 2)) == ("", True)


def test_a_first_word_with_a_star_is_a_group_not_a_path(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (v2 / "memory.events").write_text("low 1\noom 2\n")
    (v2 / "memory.max").write_text("max\n")
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(v2))
    events = {"memory.events.low": 1, "memory.events.oom": 2}
    assert json.loads(printed(capsys, "--json", "memory.events.*")) == events
    assert json.loads(printed(capsys, "--json", str(v2), "memory.ev*")) == events
    (v2 / "memory.numa_stat").write_text("anon N0=7\n")
    assert printed(capsys, "memory.numa_stat.anon.N0", "memory.max", "memory.events.oom") == (
        "memory.numa_stat.anon.N0    7 B\n"
        "memory.max                max\n"
        "memory.events.oom           2\n"
    )


@pytest.mark.parametrize(("arguments", "flush"), [([], True), (["--no-flush"], False)])
def test_no_flush_reaches_the_reader(
    arguments: list[str],
    flush: bool,
    v2: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def choose(cgroup: _directory.Cgroup, request: _options.Request, maker: Any) -> Any:
        asked.append((request.flush, request.backend))
        return _choose.Selection(TextSource(cgroup, ("anon",)), ("anon",), "kfunc", "run", "")

    monkeypatch.setattr(_choose, "choose", choose)
    assert main([str(v2), *arguments]) == 0
    assert asked == [(flush, "auto")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_fallback_to_text_prints_its_reason(
    extra: tuple[str, ...], v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    assert main([*extra, str(v2), "anon"]) == 0
    out, err = capsys.readouterr()
    assert "anon" in out
    if extra:
        assert json.loads(out) == {"anon": 4096} and err == ""
    else:
        assert "lacks CAP_BPF" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "explains"),
    [
        (("stat",), True),
        (("stat", "--json"), False),
        (("tree",), True),
        (("tree", "--json"), False),
        (("watch", "--count", "1"), True),
        (("watch", "--count", "1", "--json"), False),
        (("export",), True),
    ],
)
def test_items_that_only_bpf_has_on_v1_are_missed_aloud(
    command: tuple[str, ...],
    explains: bool,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    path = str(make_v1(tmp_path / "v1"))
    assert main([*command, path, "anon", "slab*"]) == 0
    err = capsys.readouterr().err
    assert "as text, up to 3 of 4 items are missing (slab_reclaimable, slab_un" in err
    assert ("lacks CAP_BPF" in err) == explains and err.count("\n") == 1
    assert main([*command, path, "anon", "file"]) == 0
    assert "missing" not in capsys.readouterr().err
    assert main([*command, "--backend", "text", path, "anon", "slab*"]) == 0
    assert capsys.readouterr().err == "", "it was asked for"


@pytest.mark.parametrize("command", [(), ("tree",)])
@pytest.mark.parametrize(
    ("word", "meant"),
    [("cache", "use 'file'"), ("rss", "use 'anon'"), ("limit", "did you mean 'memory.max'?")],
)
def test_a_word_of_v1_is_no_command_but_an_item(
    word: str, meant: str, command: tuple[str, ...], v2: Path, capsys: Captured
) -> None:
    for words in ((word,), (str(v2), word)):
        said = failed(capsys, 2, *command, *words)
        assert meant in said and said.count("\n") == 1


def test_version(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pymemcgbpf {pymemcgbpf.__version__}\n"


# --- as a command ---------------------------------------------------------------------


def test_the_command(v2: Path, run_python: RunPython) -> None:
    ran = run_python("-m", "pymemcgbpf", *TEXT, "--json", str(v2), "anon")
    assert (ran.returncode, json.loads(ran.stdout), ran.stderr) == (0, {"anon": 4096}, "")


@pytest.mark.parametrize(("arguments", "status"), [(("/nowhere",), 1), (("--nonsense",), 2)])
def test_the_command_s_status(
    arguments: tuple[str, ...], status: int, run_python: RunPython
) -> None:
    ran = run_python("-m", "pymemcgbpf", *TEXT, *arguments)
    assert (ran.returncode, ran.stdout) == (status, "")
    assert ran.stderr.startswith("pymemcgbpf: ") and ran.stderr.count("\n") == 1


def test_help_can_be_printed_in_ascii(run_python: RunPython) -> None:
    ran = run_python("-m", "pymemcgbpf", "--help", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "PATH" in ran.stdout and "--no-flush" in ran.stdout


@pytest.mark.parametrize("stderr", ["/dev/full", "a closed pipe"])
def test_a_broken_standard_error_is_not_a_failure(stderr: str, v2: Path) -> None:
    """BPF is unavailable, which is a warning; the numbers are printed nevertheless."""
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys; from pymemcgbpf import errors\n"
        "from pymemcgbpf._bpf import libbpf as _libbpf\n"
        "def load(): raise errors.BackendUnavailableError('x')\n"
        "_libbpf.load = load\n"
        "from pymemcgbpf._cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    with open("/dev/full", "w") as full:
        for words, status, printed in (((v2, "anon"), 0, "anon"), (("--nonsense",), 2, "")):
            ran = subprocess.run(
                [sys.executable, "-c", code, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=full if stderr == "/dev/full" else writing,
                text=True,
                env={**os.environ, "PYTHONPATH": package_folder()},
                timeout=60,
            )
            assert ran.returncode == status and ran.stdout.startswith(printed)
    os.close(writing)


def package_folder() -> str:
    return str(Path(pymemcgbpf.__file__).resolve().parents[1])


def command(stdout: int, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pymemcgbpf", *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": package_folder()},
        timeout=60,
    )


def test_a_broken_pipe_is_quiet(v2: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = command(writing, *TEXT, v2)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [
        ((*TEXT, ""), ""),
        ((*TEXT, ""), "1"),
        (("--help",), ""),
        (("tree", "--help"), "1"),
        (("items", "--version"), "1"),
    ],
)
def test_a_full_disk_is_reported_in_one_line(
    words: tuple[str, ...], unbuffered: str, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Unbuffered, a write fails inside argparse, which ignores that since Python 3.11.
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        ran = command(full.fileno(), *(word or v2 for word in words))
    assert (ran.returncode, ran.stderr) == (
        1,
        "pymemcgbpf: cannot write: No space left on device\n",
    )
