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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from . import goals, one_cgroup, pinned, runner, table, tree
from .c_programs import Programs
from .errors import BenchError
from .machine import label, machine


def main() -> int:
    arguments = _arguments()
    pid = os.getpid()
    # SIGTERM raises SystemExit here, so that the cgroups are removed; a child process only ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1) if os.getpid() == pid else os._exit(1))
    try:
        reports = [each for file in arguments.beside for each in json.loads(file.read_text())]
        if arguments.lab:
            from . import lab  # imported here because a guest cannot import it

            for guest in arguments.lab:
                reports.append(lab.run(guest, arguments.wheel, _for_guest(arguments)))
        else:
            reports.append(_run(arguments))
        if arguments.for_lab:
            print(json.dumps(reports[0]))
            return 0
        if arguments.json:
            arguments.json.write_text(json.dumps(reports, indent=1) + "\n")
    except (BenchError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print(reports)
    return 0


def _print(reports: Sequence[table.Report]) -> None:
    print(table.table(reports))
    print()
    print("ratio: the time divided by that of the C program that does the same with the same BPF")
    print("object. Reading one cgroup as text is compared with the iterator that flushes, reading")
    print("a tree as text with the walk. In the lab the clock counts instructions: 1 µs stands for")
    print("1,000 of them.")
    for report in reports:
        print(f"\n{report['label']}: {report['machine']}")
        for line in (*goals.goals(report), *report["notes"]):
            print(f"  {line}")


def _for_guest(arguments: argparse.Namespace) -> list[str]:
    """The arguments for a guest. Its clock counts instructions, so a few rounds are enough."""
    only = ["--only", arguments.only] if arguments.only else []
    reads = ["--iterations", str(arguments.iterations or 60)]
    rounds = ["--rounds", str(arguments.rounds or 4)]
    return ["--for-lab", *only, *reads, *rounds, "--sizes", *map(str, arguments.sizes)]


def _run(arguments: argparse.Namespace) -> table.Report:
    report: table.Report = {"label": label(), "machine": "", "notes": [], "results": []}
    reads, rounds = arguments.iterations or 300, arguments.rounds or 60
    runner.pin()
    report["machine"] = machine()
    with _directory(arguments.built) as directory:
        programs = Programs(directory)
        parts = []
        if arguments.only in (None, "one"):
            parts.append(one_cgroup.one_cgroup(programs, reads, rounds))
        walks = max(reads // 30, 1)
        if arguments.only in (None, "tree"):
            parts.append(tree.trees(programs, arguments.sizes, walks, max(rounds // 2, 1)))
        if arguments.only == "pins":
            parts.append(pinned.readers(arguments.sizes, walks, max(rounds // 2, 1)))
    for results, notes in parts:
        report["results"] += results
        report["notes"] += notes
    return report


@contextlib.contextmanager
def _directory(built: Optional[Path]) -> Iterator[Path]:
    """The directory with the C programs, or a temporary one if there is none."""
    if built is not None:
        yield built
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the times of every round to FILE"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="also print these results of an earlier --json",
    )
    parser.add_argument("--iterations", type=_positive, help="reads per round (300)")
    parser.add_argument("--rounds", type=_positive, help="rounds for each contestant (60)")
    parser.add_argument(
        "--only",
        choices=("one", "tree", "pins"),
        help="time only one cgroup, trees, or readers of pinned trees (default: the first two)",
    )
    parser.add_argument(
        "--sizes", type=_positive, nargs="+", default=[1000, 10000], help="cgroups in a tree"
    )
    parser.add_argument("--built", type=Path, help="the folder of the C programs (in a guest)")
    parser.add_argument("--for-lab", action="store_true", help="print only JSON (in a guest)")
    parser.add_argument(
        "--lab", nargs="+", metavar="GUEST", help="run in these guests and count instructions"
    )
    parser.add_argument("--wheel", type=Path, help="with --lab: the wheel to install in the guest")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
