# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The examples of README.md and docs/: each is run as it stands, on fake cgroup directories.

tests/kernel/test_guide.py runs them on real cgroups, and those of pins, which need a kernel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.metrics import container_metrics

import pymemcgbpf

from ..doc_examples import DOCS, RUN, TOP, Block, assert_alike, blocks, prose, run_session, session
from .directories import STAT_V2, make_v2

PAGES = (TOP / "README.md", *sorted(DOCS.glob("*.md")))
# Pins and removed cgroups need a kernel.
BLOCKS = [
    block
    for page in PAGES
    for block in blocks(page)
    if page.name != "pins.md"
    and block.head not in ("On the host", "In the container", "At the end")
    and "departed=" not in block.text
]
NOT_RUN = {"text", "dockerfile", "yaml", "ini", "c", "promql"}
NEEDED = {
    "README.md": {"pycon", "console"},
    "agents.md": {"python", "sh"},
    "command-line.md": {"console"},
    "containers.md": {"python", "sh"},
    "errors.md": {"pycon"},
    "items.md": {"pycon"},
    "limits.md": {"pycon"},
    "pins.md": {"pycon", "console", "python"},
    "trees.md": {"pycon", "python"},
}
"""The languages of examples that a page must have: that none is missed."""

# What is read are no cgroups: BPF would say so.
NO_LIBBPF = "import pymemcgbpf._bpf.libbpf as lib; lib.SONAME = 'libnone.so.9'\n"
COMMAND = f"{NO_LIBBPF}import sys; from pymemcgbpf._cli.main import main; sys.exit(main())\n"

REFAULTS = "workingset_refault_anon 0\nworkingset_refault_file 0\n"
STAT = f"{STAT_V2}{REFAULTS}pgscan 0\ninactive_file 0\npgmajfault 0\n"
EVENTS = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill", "sock_throttled")


SERVICES = ("cron", "dbus", "web")


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """Fake cgroups, to be read instead of /sys/fs/cgroup."""
    root = make_v2(tmp_path / "cgroups", stat=STAT, kind=None, current=None)
    names = ("system.slice", "user.slice", *(f"system.slice/{one}.service" for one in SERVICES))
    for name in names:
        path = make_v2(root / name, stat=STAT)
        (path / "memory.max").write_text("67108864\n")
        (path / "memory.peak").write_text("67108864\n")
        (path / "memory.events").write_text("".join(f"{event} 0\n" for event in EVENTS))
    return root


def environment(folder: Path) -> dict[str, str]:
    """The environment of examples, with the command in it."""
    (folder / "command.py").write_text(COMMAND)
    script = f'#!/bin/sh\nexec {sys.executable} {folder}/command.py "$@"\n'
    (folder / "pymemcgbpf").write_text(script)
    (folder / "pymemcgbpf").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(pymemcgbpf.__file__).resolve().parents[1]),
    }


def run(arguments: list[str], folder: Path) -> str:
    """What an example prints."""
    ran = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(folder),
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stderr.splitlines() if "read as text" not in line]
    assert said == [], ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("python", "sh")],
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_an_example_runs(block: Block, cgroups: Path, tmp_path: Path) -> None:
    text = block.text.replace("/sys/fs/cgroup", str(cgroups))
    if block.language == "python":
        run([sys.executable, "-W", "error", "-c", NO_LIBBPF + text], tmp_path)
    else:
        run(["sh", "-eu", "-c", text], tmp_path)


# Those for Python 3.9 have another name for the last one.
CONVENTIONS = {*map(str, vars(container_metrics).values()), "container.paging.faults"}


def test_the_opentelemetry_example_follows_the_conventions(cgroups: Path, tmp_path: Path) -> None:
    (block,) = (one for one in blocks(DOCS / "agents.md") if "opentelemetry" in one.text)
    ids = [digit * 64 for digit in "0ac"]
    names = (f"docker-{ids[0]}.scope", ids[1], f"cri-containerd-{ids[2]}.scope")
    stat = STAT.replace("inactive_file 0", "inactive_file 1024").replace("fault 0", "fault 1")
    for name in names:
        make_v2(cgroups / "system.slice" / name, stat=stat)
    text = block.text.replace("/sys/fs/cgroup", str(cgroups))
    printed = json.loads(run([sys.executable, "-W", "error", "-c", NO_LIBBPF + text], tmp_path))
    (of_resource,) = printed["resource_metrics"]
    (scope,) = of_resource["scope_metrics"]
    assert scope["scope"]["name"] == "pymemcgbpf"
    found: dict[tuple[str, ...], int] = {}
    for metric in scope["metrics"]:
        name, data = metric["name"], metric["data"]
        assert name in CONVENTIONS
        is_counter = name == "container.paging.faults"
        assert (data["is_monotonic"], metric["unit"]) == (
            is_counter,
            "{fault}" if is_counter else "By",
        )
        for point in data["data_points"]:
            who = dict(point["attributes"])
            found[(name, who.pop("container.id"), *who.values())] = point["value"]
    expected: dict[tuple[str, ...], int] = {}
    for one in ids:
        expected["container.memory.usage", one] = 12288
        expected["container.memory.working_set", one] = 12288 - 1024
        expected["container.memory.rss", one] = 4096
        expected["container.paging.faults", one, "major"] = 1
        expected["container.paging.faults", one, "minor"] = 2
    assert found == expected


@pytest.mark.parametrize("page", [name for name, has in NEEDED.items() if "pycon" in has])
def test_a_pages_session_prints_what_it_shows(page: str, cgroups: Path, tmp_path: Path) -> None:
    text = "".join(
        block.text for block in BLOCKS if (block.page, block.language) == (page, "pycon")
    )
    steps = session("pycon", text.replace("/sys/fs/cgroup", str(cgroups)))
    outputs = run_session(steps, before=NO_LIBBPF, env=environment(tmp_path))
    # Why text is read here is not why it is on a kernel.
    steps = [
        step._replace(shown="...") if "fallback_reason" in step.source else step for step in steps
    ]
    assert_alike(outputs, steps)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "console"],
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_a_command_prints_what_is_shown(block: Block, cgroups: Path, tmp_path: Path) -> None:
    steps = session("console", block.text.replace("/sys/fs/cgroup", str(cgroups)))
    for step in steps:
        shown, printed = step.shown, run(["sh", "-eu", "-c", step.source], tmp_path)
        assert len(printed.splitlines()) == len(shown.splitlines())
        assert _words(printed) == _words(shown)


def _words(output: str) -> list[str]:
    """An output's names, without numbers and their units."""
    unit = r"\b(?:[KMG]iB|B)(?=\s|$)"
    return re.findall(r"[a-zA-Z_][\w.]*", re.sub(f"{unit}|T[0-9:.]+Z", "", _no_paths(output)))


def _no_paths(output: str) -> str:
    return re.sub(r"\S*system\.slice\S*", "", re.sub(r"(cron|dbus|web)\.service", "", output))


def test_every_block_is_of_a_known_language() -> None:
    found: dict[str, set[str]] = {}
    for page in PAGES:
        found[page.name] = {block.language for block in blocks(page)}
        assert found[page.name] <= {*RUN, *NOT_RUN}, page
    assert {page: found[page] & set(RUN) for page in NEEDED} == NEEDED


def test_examples_use_the_console_script() -> None:
    """Not of python3 -m or -c, which imports what lies in the current directory, also as root."""
    for path in PAGES:
        for block in blocks(path):
            assert not re.search("python3? -(m pymemcgbpf|c )", block.text), (path, block.line)


def test_links_lead_to_files_and_headings() -> None:
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", prose(path)):
            if "://" in target:
                continue
            found = path.parent / target if target else path
            assert found.exists(), (path, target)
            if found.suffix != ".md":
                continue
            heads = [
                re.sub("[^a-z0-9 _-]", "", head.lower()).replace(" ", "-")
                for head in re.findall(r"^#+ (.*)$", prose(found), re.MULTILINE)
            ]
            assert not anchor or anchor in heads, (path, target, anchor)


def test_the_readme_is_short() -> None:
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
