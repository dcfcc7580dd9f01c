# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the examples of README.md and docs/, runs them, and compares their output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

# Tests run from a copy in a directory below the repository. A guest has a copy of docs/.
TOP = next(
    above for above in Path(__file__).resolve().parents if (above / "docs" / "items.md").exists()
)
DOCS = TOP / "docs"
RUN = ("python", "pycon", "sh", "console")

# Runs the statements of a session, and prints their outputs as one JSON array.
_SESSION = """
import contextlib, io, json
outputs, names = [], {"__name__": "__main__"}
for source in json.loads(SOURCES):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, source, "single"), names)
    outputs.append(out.getvalue())
print(json.dumps(outputs))
"""


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: the file's name.
        line: the number of the block's first line.
        head: the last heading above the block.
        language: what follows the opening fence.
        text: the lines between the fences.
    """

    page: str
    line: int
    head: str
    language: str
    text: str


class Step(NamedTuple):
    """A statement or command of a session, and the output that the page shows for it."""

    source: str
    shown: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```$", text, re.MULTILINE):
        above = text[: match.start()]
        heads = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", above, flags=re.M | re.S), re.M
        )
        head = heads[-1] if heads else ""
        found.append(Block(path.name, above.count("\n") + 1, head, match[1], match[2]))
    return found


def needs_packages(block: Block) -> bool:
    """Whether an example imports a package that is neither this one nor of the standard library.
    A guest has none."""
    return bool(
        re.search(r"^(?:from|import) (?:opentelemetry|prometheus_client)\b", block.text, re.M)
    )


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def session(language: str, text: str) -> list[Step]:
    """The steps of a session in Python (">>>") or in a shell ("$")."""
    prompts = {"pycon": (">>> ", "... "), "console": ("$ ", "> ")}[language]
    steps: list[Step] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(prompts[0]):
            steps.append(Step(line[len(prompts[0]) :], ""))
            continue
        source, shown = steps.pop()
        if line.startswith(prompts[1].rstrip()) and not shown:
            steps.append(Step(source + line[len(prompts[1]) :], shown))
        else:
            steps.append(Step(source, shown + line))
    return steps


def run_session(
    steps: list[Step], *, before: str = "", env: Optional[Mapping[str, str]] = None
) -> list[str]:
    """Runs a Python session in a new process, and returns the output of each step.

    Args:
        before: code to run first.
        env: the environment variables; None for those of this process.
    """
    sources = json.dumps([step.source for step in steps])
    # A page's tree that the kernel refreshes need not be closed; on cgroup v1 this process does.
    warnings = ["-W", "error", "-W", "ignore:unclosed <PinnedTree:ResourceWarning"]
    ran = subprocess.run(
        [sys.executable, *warnings, "-c", f"{before}SOURCES = {sources!r}\n{_SESSION}"],
        capture_output=True,
        text=True,
        cwd="/",
        env=env,
        timeout=60,
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    outputs: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return outputs


def shape(output: str) -> str:
    """The output with placeholders for what differs between machines: numbers, names of cgroups,
    backends and transports. Repeated rows become one."""
    output = re.sub(r"(?<!\w)'?/(?:[\w.-]+/)*[\w.-]+'?", "PATH", output)
    output = re.sub(r"\b[\w-]+\.(?:service|slice|scope)\b", "CGROUP", output)
    output = re.sub(r"\b(?:kfunc|rfc|core|text)\b(?:/\w+)?", "WAY", output)
    output = re.sub(r"\b\d[\d,.]*", "N", output)
    output = re.sub(r"\bN(?:,? N)+", "N", " ".join(output.split()))
    return re.sub(r"\b((?:PATH )?N)(?: \1)+", r"\1", output)


def assert_alike(outputs: list[str], steps: list[Step]) -> None:
    """Asserts that the shape of each output is that of the page, where "..." matches anything."""
    for output, step in zip(outputs, steps):
        pattern = ".*".join(map(re.escape, shape(step.shown).split("...")))
        assert re.fullmatch(pattern, shape(output)), f"{step.source}{output}"
