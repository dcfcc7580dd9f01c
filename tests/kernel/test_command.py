# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from .cgroups import Worker
from .oracle import by_text
from .surroundings import HAS_RFC, HIERARCHY


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pymemcgbpf", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_json_has_memory_stats_numbers(busy: tuple[Path, Worker], backend: str) -> None:
    path, _ = busy
    names = ["pgfault", "shmem", "file_mapped"]  # not anon: khugepaged makes it grow
    run = command("--json", "--backend", backend, path, *names)
    assert (run.returncode, run.stderr) == (0, "")
    expected = by_text(path)
    assert json.loads(run.stdout) == {name: expected[name] for name in names}


def test_the_default_path_is_the_callers_own_cgroup() -> None:
    run = command()
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("anon ")
    assert len(lines) >= 45
    assert len({len(line.rsplit(" ", 1)[0]) for line in lines if line.endswith("iB")}) == 1


def test_errors_are_one_line_and_a_status() -> None:
    for arguments, status in (
        (["/no/such/path"], 1),
        ([HIERARCHY / "memory.stat"], 1),
        ([HIERARCHY, "no_such_item"], 2),
        ([HIERARCHY, "memory.current"], 2),
        *(() if HAS_RFC else [(["--backend", "rfc", HIERARCHY], 1)]),
        (["--backend", "nonsense"], 2),
        (["--nonsense"], 2),
    ):
        run = command(*arguments)
        assert (run.returncode, run.stdout) == (status, ""), arguments
        assert len(run.stderr.splitlines()) == 1, run.stderr
        assert run.stderr.startswith("pymemcgbpf: "), run.stderr


def test_the_console_script_is_the_same_program() -> None:
    scripts = metadata.distribution("pymemcgbpf").entry_points
    (script,) = (one for one in scripts if one.group == "console_scripts")
    assert (script.name, script.value) == ("pymemcgbpf", "pymemcgbpf._cli.main:main")
    code = "import sys; from pymemcgbpf._cli.main import main; sys.exit(main())"
    ran = [
        subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True)
        for start in (("-m", "pymemcgbpf"), ("-c", code))
    ]
    assert ran[0].stdout == ran[1].stdout and ran[0].stdout.startswith("usage: pymemcgbpf ")
