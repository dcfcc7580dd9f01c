# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Times the package against its alternatives, and prints tables. No time is asserted."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from . import one_cgroup, runner, tree
from .c_programs import Programs
from .errors import BenchError


def main() -> int:
    arguments = _arguments()
    pid = os.getpid()
    # The cgroups are removed all the same; a process in them just ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1) if os.getpid() == pid else os._exit(1))
    try:
        if arguments.lab:
            from . import lab  # which no guest needs

            return lab.run(arguments.lab, arguments.wheel, _for_guest(arguments))
        report = _run(arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _for_guest(arguments: argparse.Namespace) -> list[str]:
    """A few rounds tell as much as many, where the clock counts instructions."""
    if arguments.json:
        raise BenchError("--json is not brought home from a guest")
    only = ["--only", arguments.only] if arguments.only else []
    reads = ["--iterations", str(arguments.iterations or 60)]
    rounds = ["--rounds", str(arguments.rounds or 4)]
    return [*only, *reads, *rounds, "--sizes", *map(str, arguments.sizes)]


def _run(arguments: argparse.Namespace) -> dict[str, object]:
    report: dict[str, object] = {}
    reads, rounds = arguments.iterations or 300, arguments.rounds or 60
    runner.pin()
    with _directory(arguments.built) as directory:
        programs = Programs(directory)
        if arguments.only != "tree":
            report["one_cgroup"] = one_cgroup.one_cgroup(programs, reads, rounds)
        if arguments.only is None:
            print()
        if arguments.only != "one":
            walks = max(reads // 30, 1)
            report["tree"] = tree.trees(programs, arguments.sizes, walks, max(rounds // 2, 1))
    return report


@contextlib.contextmanager
def _directory(built: Optional[Path]) -> Iterator[Path]:
    """Where the C programs are, or a new one that is removed."""
    if built is not None:
        yield built
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the times of every round there")
    parser.add_argument("--iterations", type=_positive, help="reads per round (300)")
    parser.add_argument("--rounds", type=_positive, help="(60)")
    parser.add_argument("--only", choices=("one", "tree"), help="one cgroup, or trees")
    parser.add_argument(
        "--sizes", type=_positive, nargs="+", default=[1000, 10000], help="cgroups in a tree"
    )
    parser.add_argument("--built", type=Path, help="a folder with the C programs (in a guest)")
    parser.add_argument(
        "--lab", metavar="GUEST", nargs="+", help="run in guests, counting instructions"
    )
    parser.add_argument("--wheel", type=Path, help="with --lab: the package")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
