# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The package's types, as mypy and pyright see them in the programs of tests/typing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = sorted(Path(__file__).resolve().parents[1].joinpath("typing").glob("*.py"))

# A program, and a line of it.
Line = tuple[str, int]


def checked(*command: str, **environment: str) -> str:
    """What a type checker prints about the programs."""
    ran = subprocess.run(
        [sys.executable, "-m", *command, *map(str, PROGRAMS)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout


def mypy() -> dict[Line, str]:
    """The errors that mypy reports."""
    options = ("--strict", "--config-file=", f"--cache-dir={os.devnull}", "--no-error-summary")
    found = {}
    for text in checked("mypy", *options).splitlines():
        file, line, kind, message = re.split(r":(\d+): (\w+): ", text, maxsplit=1)
        if kind == "error":
            found[Path(file).name, int(line)] = message
    return found


def pyright() -> dict[Line, str]:
    """The errors that pyright reports. It comes with all that it needs, and downloads nothing."""
    output = checked(
        *("pyright", "--outputjson", f"--pythonpath={sys.executable}"),
        PYRIGHT_PYTHON_IGNORE_WARNINGS="1",
    )
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"]
        for each in json.loads(output)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_type_checker_refuses_the_marked_lines_and_no_others(checker: object) -> None:
    assert callable(checker)
    expected = {
        (path.name, number)
        for path in PROGRAMS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("# error")
    }
    assert len(expected) > 20
    found = checker()
    unexpected = {line: found[line] for line in found.keys() - expected}
    assert (sorted(expected - found.keys()), unexpected) == ([], {})
