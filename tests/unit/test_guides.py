# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The examples of docs/guide-*.md: each is run as it stands, on fake cgroup directories.

Those of pins need a kernel: tests/kernel/test_guide.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import pymemcgbpf

from .directories import make_v2

# Tests run from a copy of theirs below the repository.
DOCS = next(
    above / "docs"
    for above in Path(__file__).resolve().parents
    if (above / "docs" / "guide-agents.md").exists()
)
GUIDES = ("guide-agents.md", "guide-containers.md")
NOT_RUN = {"text", "dockerfile", "yaml", "ini"}

# What is read are no cgroups: BPF would say so.
NO_LIBBPF = "import pymemcgbpf._bpf.libbpf as lib; lib.SONAME = 'libnone.so.9'\n"
COMMAND = f"{NO_LIBBPF}import sys; from pymemcgbpf._cli.main import main; sys.exit(main())\n"


class Block(NamedTuple):
    """An example."""

    guide: str
    line: int
    language: str
    text: str


def blocks() -> list[Block]:
    found = []
    for guide in GUIDES:
        text, _, _ = (DOCS / guide).read_text(encoding="utf-8").partition("\n## Pinned links\n")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(guide, line, match[1], match[2]))
    return found


BLOCKS = blocks()


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """An example's run, with cgroups in a folder instead of /sys/fs/cgroup."""
    root = make_v2(folder / "cgroups", kind=None, current=None)
    for name in ("system.slice", "user.slice"):
        make_v2(root / name)
    (folder / "command.py").write_text(COMMAND)
    script = f'#!/bin/sh\nexec {sys.executable} {folder}/command.py "$@"\n'
    (folder / "pymemcgbpf").write_text(script)
    (folder / "pymemcgbpf").chmod(0o755)
    text = block.text.replace("/sys/fs/cgroup", str(root))
    arguments = ["sh", "-eu", "-c", text]
    if block.language == "python":
        arguments = [sys.executable, "-W", "error", "-c", NO_LIBBPF + text]
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(pymemcgbpf.__file__).resolve().parents[1]),
        },
        timeout=60,
    )


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("python", "sh")],
    ids=lambda block: f"{block.guide}:{block.line}",
)
def test_an_example_runs(block: Block, tmp_path: Path) -> None:
    ran = run(block, tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stderr.splitlines() if "read as text" not in line]
    assert said == [], ran.stderr


def test_every_block_is_of_a_known_language() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "sh"} | NOT_RUN
    for guide in GUIDES:
        languages = [block.language for block in BLOCKS if block.guide == guide]
        assert languages.count("python") and languages.count("sh")


@pytest.mark.parametrize("path", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))])
def test_examples_are_of_the_console_script(path: Path) -> None:
    """Not of python3 -m or -c, which imports what lies in the current directory, also as root."""
    text = path.read_text(encoding="utf-8")
    for code in re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL):
        assert not re.search("python3? -(m pymemcgbpf|c )", code)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guides_links_lead_somewhere(guide: str) -> None:
    text = (DOCS / guide).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        found = (DOCS / target).read_text(encoding="utf-8")
        heads = [
            re.sub("[^a-z0-9 -]", "", head.lower()).replace(" ", "-")
            for head in re.findall(r"^#+ (.*)$", found, re.MULTILINE)
        ]
        assert not anchor or anchor in heads
