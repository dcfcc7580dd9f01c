# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The examples of README.md and docs/ on real cgroups, those of pins too, each in its place."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..doc_examples import DOCS, TOP, Block, assert_alike, blocks, run_session, session
from .cgroups import Worker, cgroup, enable_memory, fault_in
from .forest import forest
from .oracle import V1_FILES
from .pins import Nobody, bpffs
from .surroundings import VERSION

# A guest has a copy of docs/, not of README.md, whose examples the live machine runs.
PAGES = [page for page in (TOP / "README.md", *sorted(DOCS.glob("*.md"))) if page.exists()]
BLOCKS = [block for page in PAGES for block in blocks(page)]
OF_PINNED_LINKS = ("On the host", "In the container", "At the end")
SESSIONS: dict[str, str] = {}
for each in BLOCKS:
    if each.language == "pycon":
        SESSIONS[each.page] = SESSIONS.get(each.page, "") + each.text


def needs(text: str) -> list[pytest.MarkDecorator]:
    """What an example needs of the kernel."""
    marks = []
    if re.search(r"\bpin(_tree)?\(", text):
        marks.append(pytest.mark.needs_iterator)
    if "memory.peak" in text:
        marks.append(pytest.mark.needs_peak)
    return marks


@contextlib.contextmanager
def cgroups() -> Iterator[Path]:
    """Real cgroups, to be read instead of /sys/fs/cgroup."""
    with cgroup() as root:
        enable_memory(root)
        for name in ("system.slice", "user.slice"):
            (root / name).mkdir()
        enable_memory(root / "system.slice")
        limit = "memory.max" if VERSION == 2 else V1_FILES["memory.max"]
        (root / "system.slice" / limit).write_text(str(64 << 20))
        for name in ("cron", "dbus", "web"):
            (root / "system.slice" / f"{name}.service").mkdir()
        with Worker(root / "system.slice" / "web.service", lambda: fault_in(1 << 20)):
            yield root


def in_place(text: str, places: dict[str, Path]) -> str:
    """An example, with the paths of this machine in it."""
    return re.sub("|".join(places), lambda found: str(places[found[0]]), text)


def as_root(code: str, folder: Path) -> str:
    """What a shell prints that runs an example."""
    command = folder / "pymemcgbpf"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pymemcgbpf "$@"\n')
    command.chmod(0o755)
    ran = subprocess.run(
        ["sh", "-eu", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=needs(block.text), id=f"{block.page}:{block.line}")
        for block in BLOCKS
        if block.language == "python" and block.head not in OF_PINNED_LINKS
    ],
)
def test_an_example_runs(block: Block) -> None:
    with cgroups() as root:
        code = in_place(block.text, {"/sys/fs/cgroup": root})
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="/"
        )
    assert ran.returncode == 0 and not ran.stderr, ran.stderr


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=needs(text), id=page) for page, text in SESSIONS.items()]
)
def test_a_pages_session_prints_what_it_shows(text: str) -> None:
    with cgroups() as root, bpffs() as folder:
        places = {"/sys/fs/cgroup": root, "/sys/fs/bpf": folder}
        steps = session("pycon", in_place(text, places))
        outputs = run_session(steps)
        if (folder / "stats").exists():
            assert not any((folder / "stats").iterdir())
            (folder / "stats").rmdir()
    # Why a faster way is unavailable, and which events there are, differs from kernel to kernel.
    steps = [
        step._replace(shown="...")
        if "fallback_reason" in step.source or "memory.events" in step.source
        else step
        for step in steps
    ]
    assert_alike(outputs, steps)


@pytest.mark.needs_iterator
def test_the_commands_of_the_pins_page_print_what_they_show(tmp_path: Path) -> None:
    (block,) = (one for one in blocks(DOCS / "pins.md") if one.language == "console")
    with cgroups() as root, bpffs() as folder:
        places = {"/sys/fs/cgroup": root, "/sys/fs/bpf": folder}
        for step in session("console", in_place(block.text, places)):
            printed = as_root(step.source, tmp_path)
            assert re.findall("^[a-z]+", printed, re.M) == re.findall("^[a-z]+", step.shown, re.M)
        assert not any((folder / "stats").iterdir())
        (folder / "stats").rmdir()


@pytest.mark.needs_iterator
def test_the_examples_of_pinned_links_run(tmp_path: Path) -> None:
    parts: dict[str, list[str]] = {head: [] for head in OF_PINNED_LINKS}
    for block in blocks(DOCS / "containers.md"):
        if block.head in parts and block.language in ("sh", "python"):
            parts[block.head].append(block.text)
    assert {head: len(code) for head, code in parts.items()} == dict.fromkeys(OF_PINNED_LINKS, 1)
    with forest(2, 2) as quiet, bpffs() as folder:
        nobody = Nobody(folder)
        places = {
            "/sys/fs/cgroup/system.slice": quiet.paths[next(iter(quiet.shmem))],
            "/sys/fs/cgroup": quiet.root,
            "/sys/fs/bpf/stats": folder / "stats",
            "/stats": folder / "stats",
        }
        try:
            host = as_root(in_place(parts["On the host"][0], places), tmp_path)
            assert host.split() == ["all", "system"]
            process = nobody.start(in_place(parts["In the container"][0], places))
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            first, *rows = out.splitlines()
            assert int(first) >= 0
            assert {int(row.split()[0]) for row in rows} == quiet.paths.keys()
            as_root(in_place(parts["At the end"][0], places), tmp_path)
            assert not any((folder / "stats").iterdir())
            (folder / "stats").rmdir()
        finally:
            nobody.close()
