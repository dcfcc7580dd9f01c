# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The examples of README.md and docs/ on real cgroups, those of pins too, each in its place."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import unpin

from ..doc_examples import (
    DOCS,
    TOP,
    Block,
    assert_alike,
    blocks,
    needs_packages,
    run_session,
    session,
)
from .cgroups import Worker, cgroup, enable_memory, fault_in
from .forest import forest
from .oracle import V1_FILES
from .pins import CAN_FLUSH, Nobody, bpffs
from .published import wait_until
from .surroundings import IN_LAB, VERSION
from .test_departed import attached, remove_when_empty
from .test_oom_kills import LIMIT, kill_one

# A guest has a copy of docs/, not of README.md, whose examples the live machine runs.
PAGES = [page for page in (TOP / "README.md", *sorted(DOCS.glob("*.md"))) if page.exists()]
BLOCKS = [block for page in PAGES for block in blocks(page)]
OF_PINNED_LINKS = ("On the host", "In the container", "At the end")
ENDLESS = "Killed and gone"
SESSIONS: dict[str, str] = {}
for each in BLOCKS:
    if each.language == "pycon":
        SESSIONS[each.page] = SESSIONS.get(each.page, "") + each.text


def needs(text: str) -> list[pytest.MarkDecorator]:
    """What an example needs of the kernel."""
    marks = []
    if re.search(r"\bpin(_tree)?\(", text):
        marks.append(pytest.mark.needs_iterator)
    if "departed=" in text:
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


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    """A shell that runs an example."""
    command = folder / "pymemcgbpf"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pymemcgbpf "$@"\n')
    command.chmod(0o755)
    return subprocess.Popen(
        ["sh", "-eu", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )


def as_root(code: str, folder: Path) -> str:
    """What a shell prints that runs an example."""
    ran = started(code, folder)
    out, err = ran.communicate(timeout=300)
    assert ran.returncode == 0 and not err, err
    return out


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=needs(block.text), id=f"{block.page}:{block.line}")
        for block in BLOCKS
        if block.language == "python"
        and block.head not in (*OF_PINNED_LINKS, ENDLESS)
        and block.page != "pins.md"
        and not needs_packages(block)
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
    # Why a faster way is unavailable, who refreshes a tree, and which events there are: that
    # differs from kernel to kernel.
    steps = [
        step._replace(shown="...")
        if re.search("fallback_reason|refreshed_by|memory.events", step.source)
        else step
        for step in steps
    ]
    assert_alike(outputs, steps)


@pytest.mark.needs_iterator
def test_the_watcher_of_oom_kills_tells_of_a_cgroup_that_is_gone_at_once() -> None:
    (block,) = (one for one in blocks(DOCS / "agents.md") if one.head == ENDLESS)
    assert len(block.text.splitlines()) <= 15
    with cgroups() as root:
        watcher = start_python(in_place(block.text, {"/sys/fs/cgroup": root}))
        try:
            wait_until(lambda: attached(watcher.pid) == 1)
            path = root / "system.slice" / "pod.slice" / "container.scope"
            path.parent.mkdir()
            enable_memory(path.parent)
            path.mkdir()
            began = time.monotonic()
            kill_one(path)
            remove_when_empty(path)
            took = time.monotonic() - began
            path.parent.rmdir()
            time.sleep(5 if IN_LAB else 1.5)
        finally:
            watcher.kill()
            out, err = watcher.communicate()
    # Within a second, if the machine is not busy with other things. Only once: not for its parent.
    assert took < (60 if IN_LAB else 5)
    assert re.fullmatch(rf"{str(path)!r}: 1 killed, peak \d+ bytes\n", out), (out, err)
    assert int(out.split()[-2]) >= LIMIT // 2


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
            # Where the kernel does not refresh the tree, the command does, until it is unpinned.
            host = started(in_place(parts["On the host"][0], places), tmp_path)
            wait_until(lambda: is_complete(folder / "stats" / "all"))
            process = nobody.start(in_place(parts["In the container"][0], places))
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            first, *rows = out.splitlines()
            assert int(first) >= 0
            paths = {str(path) for path in quiet.paths.values()}
            assert rows and {row.split()[0] for row in rows} <= paths
            as_root(in_place(parts["At the end"][0], places), tmp_path)
            said = host.communicate(timeout=60)[1]
            assert host.returncode == 0 and ("the kernel cannot refresh" in said or not said)
            assert not any((folder / "stats").iterdir())
            (folder / "stats").rmdir()
        finally:
            nobody.close()


@pytest.mark.needs_iterator
def test_the_programs_of_the_pins_page_run() -> None:
    """The one that pins a tree, the one that hands over a descriptor, and the one that waits."""
    found = [one.text for one in blocks(DOCS / "pins.md") if one.language == "python"]
    assert len(found) == 3
    with cgroups() as root, bpffs() as folder:
        hierarchy = {"/sys/fs/cgroup/memory": root, "/sys/fs/cgroup": root}
        places = {**hierarchy, "/sys/fs/bpf": folder}
        maker, sender, waiter = (in_place(text, places) for text in found)
        maker = maker.replace("every=5", "every=0.1")
        if not CAN_FLUSH:
            maker = maker.replace("every=", "flush=False, every=")
        import_it = "import pymemcgbpf as memcg\n"
        holder = start_python(maker)
        wait_until(lambda: is_complete(folder / "stats" / "all"))
        try:
            sent = start_python(sender)
            assert int(sent.communicate(timeout=60)[0]) > 1 and sent.returncode == 0
            waiting = start_python(import_it + waiter)
            assert waiting.stdout is not None
            for _ in range(3):
                assert int(waiting.stdout.readline()) > 1
            waiting.kill()
            waiting.communicate()
        finally:
            unpin(folder / "stats" / "all")
        said = holder.communicate(timeout=60)[1]
        assert "was unpinned" in said if holder.returncode else not said
        (folder / "stats").rmdir()


def is_complete(tree: Path) -> bool:
    """Whether others may enter the directory of a pinned tree."""
    return tree.exists() and bool(tree.stat().st_mode & 0o001)


def start_python(program: str) -> subprocess.Popen[str]:
    """Starts a Python program."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program], text=True, stdout=pipe, stderr=pipe, cwd="/"
    )
