# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command: ``python3 -m tests.vm [SERIES[@USERLAND][/ARCHITECTURE] ...] --wheel FILE``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from . import report
from .errors import LabError
from .lab import DEFAULT_TIMEOUT, REPOSITORY, Job, Lab, Prepared, Script, Tests, as_data
from .records import GuestResult
from .spec import ARCHITECTURES, DEFAULT_MATRIX


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.vm",
        description="Run the tests with the installed wheel on Debian's kernels, in QEMU.",
    )
    add = parser.add_argument
    add(
        "guests",
        nargs="*",
        metavar="SERIES[@USERLAND][/ARCHITECTURE]",
        help="for example 6.12, 6.12@trixie, newest, seed, 6.12@trixie/arm64"
        f" (default: {' '.join(DEFAULT_MATRIX)})",
    )
    add("--all", action="store_true", help="all kernels, userlands and architectures")
    add("--wheel", type=Path, help="the wheel to install (default: the only one in dist/)")
    add("--list", action="store_true", help="print the newest kernel of each series that apt has")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="guests at a time (default: cores)")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds for one guest")
    add("-k", dest="select", default="", metavar="EXPR", help="passed to pytest")
    add("--tests", type=Path, default=REPOSITORY / "tests" / "kernel", help="tests to run")
    add("--run", type=Path, metavar="SCRIPT", help="run SCRIPT instead, and print its output")
    add("--arg", action="append", default=[], help="an argument for the script")
    add("--icount", action="store_true", help="one CPU, whose clock counts instructions")
    add("--extra", type=Path, action="append", default=[], help="put this into the guest's /extra")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="set this in the guest")
    add("--memory", default="2G", help="the guest's memory (default: 2G)")
    add("--refresh", action="store_true", help="fetch the package lists even if they are fresh")
    add("--results", type=Path, default=REPOSITORY / "build" / "lab", help="folder for the logs")
    add("--json", type=Path, metavar="FILE", help="write the results to FILE as JSON")
    add("-v", "--shell-log", action="store_true", help="print the guests' consoles")
    return parser.parse_args(arguments)


def find_wheel(given: Path | None) -> Path:
    """Return the wheel to test."""
    if given is not None:
        return given
    wheels = sorted((REPOSITORY / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise LabError(f"dist/ holds {len(wheels)} wheels: name one with --wheel")
    return wheels[0]


def command(options: argparse.Namespace) -> str:
    """Return the command that tests the same, without the paths that this machine needs."""
    words = ["--all"] if options.all else [*options.guests]
    if options.select:
        words += ["-k", options.select]
    return shlex.join(["python3", "-m", "tests.vm", *words])


def boot_all(
    lab: Lab, prepared: Sequence[Prepared], job: Job, options: argparse.Namespace
) -> list[GuestResult]:
    """Boot the guests, a few at a time, and print a line when one has ended."""
    jobs, shell_log = options.jobs, options.shell_log
    results: dict[int, GuestResult] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        running = {pool.submit(lab.boot, one, job): index for index, one in enumerate(prepared)}
        try:
            for future in as_completed(running):
                index = running[future]
                result = results[index] = future.result()
                result.command = command(options)
                print(report.progress(result), flush=True)
                save([results[index] for index in sorted(results)], options.json)
                if shell_log:
                    print((lab.results / f"{result.label}.console").read_text(errors="replace"))
        except BaseException:
            lab.stop.set()
            for future in running:
                future.cancel()
            raise
    return [results[index] for index in sorted(results)]


def save(results: Sequence[GuestResult], place: Path | None) -> None:
    """Write the results so far as JSON, if a file for them was named."""
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps([as_data(result) for result in results], indent=1)
        place.write_text(data + "\n", encoding="utf-8")


def run(options: argparse.Namespace) -> int:
    """Run the command with these options; return the exit status."""
    lab = Lab(
        wheel=None,
        timeout=options.timeout,
        extra=options.extra,
        environment=dict(pair.partition("=")[::2] for pair in options.env),
        results=options.results,
        memory=options.memory,
        refresh=options.refresh,
    )
    if options.list:
        for architecture in ARCHITECTURES:
            for series, package in lab.available(architecture).items():
                print(f"{series:6} {package.version:24} {package.name}")
        for warning in lab.warnings:
            print(f"warning: {warning}")
        return 0
    job: Job
    if options.run is not None:
        job = Script(options.run, tuple(options.arg), icount=options.icount)
        lab.wheel = options.wheel
    else:
        job = Tests(options.tests, select=options.select, icount=options.icount)
        lab.wheel = find_wheel(options.wheel)
    if options.all:
        prepared = lab.prepare_all()
    elif options.guests:
        prepared = lab.prepare(options.guests)
    else:
        prepared = lab.prepare_default()
    for warning in lab.warnings:
        print(f"warning: {warning}")
    for missing in lab.missing:
        print(f"{missing}: not available: apt has no such kernel")
    results = boot_all(lab, prepared, job, options)
    if options.run is not None:
        for result in results:
            print(f"--- {result.label}\n{result.output}", end="")
    print(f"\n{report.table(results)}\n")
    matrix = report.matrix(results)
    if matrix:
        print(f"{matrix}\n")
    if any(result.failures for result in results):
        print(report.failures(results))
        print(f"consoles and kernel logs are in {options.results}")
    if lab.missing:
        print(f"not available: {', '.join(lab.missing)}")
    print(report.last_line(results))
    return 0 if report.all_passed(results, len(prepared)) and not lab.missing else 1


def main() -> int:
    """Run the command."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    # SIGTERM then ends the guests as Ctrl-C does.
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return run(parse_arguments(sys.argv[1:]))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
