# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The examples of docs/guide-containers.md that need a kernel: those of pins, each in its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .forest import forest
from .pins import Nobody, bpffs

# Tests run from a copy of theirs below the repository; a guest has one of docs/, too.
GUIDE = next(
    above / "docs" / "guide-containers.md"
    for above in Path(__file__).resolve().parents
    if (above / "docs" / "guide-containers.md").exists()
)


def examples() -> dict[str, list[str]]:
    """The code below each heading of the part about pins."""
    _, _, text = GUIDE.read_text(encoding="utf-8").partition("\n## Pinned links\n")
    return {
        part.split("\n", 1)[0]: re.findall(r"^```(?:sh|python)\n(.*?)^```$", part, re.M | re.S)
        for part in re.split("^### ", text, flags=re.M)[1:]
    }


def test_the_examples_of_pins(tmp_path: Path) -> None:
    parts = examples()
    assert {head: len(code) for head, code in parts.items()} == {
        "On the host": 1,
        "In the container": 1,
        "At the end": 1,
    }
    command = tmp_path / "pymemcgbpf"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pymemcgbpf "$@"\n')
    command.chmod(0o755)
    with forest(2, 2) as quiet, bpffs() as folder:
        nobody = Nobody(folder)
        leaf = next(iter(quiet.shmem))
        places = {
            "/sys/fs/cgroup/system.slice": quiet.paths[leaf],
            "/sys/fs/cgroup": quiet.root,
            "/sys/fs/bpf/stats": folder / "stats",
            "/stats": folder / "stats",
        }

        def placed(code: str) -> str:
            return re.sub("|".join(places), lambda found: str(places[found[0]]), code)

        def as_root(code: str) -> str:
            path = f"{tmp_path}:{os.environ['PATH']}"
            ran = subprocess.run(
                ["sh", "-eu", "-c", placed(code)],
                capture_output=True,
                text=True,
                cwd="/",
                env={**os.environ, "PATH": path},
            )
            assert ran.returncode == 0 and not ran.stderr, ran.stderr
            return ran.stdout

        try:
            assert as_root(parts["On the host"][0]).split() == ["all", "system"]
            process = nobody.start(placed(parts["In the container"][0]))
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            first, *rows = out.splitlines()
            assert int(first) >= 0
            assert {int(row.split()[0]) for row in rows} == quiet.paths.keys()
            as_root(parts["At the end"][0])
            assert not any((folder / "stats").iterdir())
            (folder / "stats").rmdir()
        finally:
            nobody.close()
