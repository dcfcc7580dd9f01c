# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Decides from a guest's output which tests passed. A test without a result has failed.

The guest's second serial port carries JSON objects, one a line, followed by the guest's kernel
log, in which each line begins with "#".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What the kernel logs when it has a bug. The OOM killer of a memory cgroup, which some tests
# provoke, prints a call trace but none of these.
KERNEL_TROUBLE = re.compile(
    r"\bWARNING:|\bBUG:|\bkernel BUG\b|\b(?:KASAN|KCSAN|KMSAN|UBSAN|KFENCE):|\bOops\b"
    r"|\[ cut here \]|Kernel panic|general protection fault|[Uu]nable to handle|double fault"
    r"|Bad page|refcount_t|refcount (?:error|bug|leak|saturated|underflow)"
    r"|list_(?:add|del) corruption"
    r"|possible (?:recursive locking|circular locking|deadlock)|suspicious RCU usage"
    r"|soft lockup|hard LOCKUP|workqueue lockup|detected stall|self-detected stall"
    r"|blocked for more than|scheduling while atomic|sleeping function called"
    r"|Out of memory: Killed"
)
_CONTEXT = 40

COMPARED = "compared"  # the name of the property that parity tests record
PASSED, FAILED, ERROR, SKIPPED = "passed", "failed", "error", "skipped"


@dataclass(frozen=True)
class TestResult:
    """One test in one guest. Every outcome but "passed" is a failure, also a skip."""

    __test__ = False  # the name is not meant for pytest

    name: str
    outcome: str
    seconds: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Compared:
    """How many items a test found equal to memory.stat, for one reader, backend and transport."""

    reader: str  # "stats" (one cgroup) or "tree"
    backend: str
    transport: str
    order: str  # of a tree
    items: int


@dataclass(frozen=True)
class Origin:
    """The Debian packages that a guest consisted of, with their versions."""

    series: str
    architecture: str
    userland: str
    kernel_package: str
    packages: Mapping[str, str]


@dataclass
class GuestResult:
    """One guest: its versions, and the outcome of every test."""

    label: str
    kernel: str = "?"
    python: str = "?"
    libbpf: str = "?"
    seconds: float = 0.0
    tests: list[TestResult] = field(default_factory=list)
    troubles: list[TestResult] = field(default_factory=list)  # failures of the guest itself
    backends: list[str] = field(default_factory=list)  # that must have compared items
    compared: list[Compared] = field(default_factory=list)
    origin: Origin | None = None
    select: str = ""  # pytest's -k; empty for all tests
    command: str = ""  # the command that tests the same again
    output: str = ""  # of a script
    filesystems: list[str] = field(default_factory=list)
    dmesg: list[str] = field(default_factory=list)

    def count(self, *outcomes: str) -> int:
        """Return how many tests had one of these outcomes."""
        return sum(test.outcome in outcomes for test in self.tests)

    @property
    def passed(self) -> int:
        """Return how many tests passed."""
        return self.count(PASSED)

    @property
    def failures(self) -> list[TestResult]:
        """Return the tests that did not pass, and the failures of the guest itself."""
        return [test for test in self.tests if test.outcome != PASSED] + self.troubles

    @property
    def ok(self) -> bool:
        """Tell whether tests ran and everything passed."""
        return bool(self.tests) and not self.failures

    def items_compared(self, backend: str, reader: str = "stats") -> int:
        """Return how many items of a backend were compared by every transport and order."""
        return min(
            (one.items for one in self.compared if (one.backend, one.reader) == (backend, reader)),
            default=0,
        )

    def trouble(self, name: str, text: str) -> None:
        """Add a failure of the guest itself."""
        self.troubles.append(TestResult(name, FAILED, text=text))


@dataclass(frozen=True)
class Expected:
    """What a guest must be like, and what it must have run."""

    label: str
    kind: str  # "pytest" or "script"
    script: str = ""
    series: str = ""
    python: str = ""
    libbpf: str = ""
    backends: Sequence[str] = ()  # that must compare items of a cgroup with memory.stat
    tree_backends: Sequence[str] = ()  # the same of a tree's rows


@dataclass(frozen=True)
class Ending:
    """How QEMU ended: by itself with a status, or killed after *hung_after* seconds."""

    status: int | None
    hung_after: float | None = None
    stderr: str = ""


def kernel_trouble(lines: Sequence[str]) -> str:
    """Return the first part of a kernel log that reports a bug, or ""."""
    for number, line in enumerate(lines):
        if KERNEL_TROUBLE.search(line):
            return "\n".join(lines[max(0, number - 2) : number + _CONTEXT])
    return ""


def judge(expected: Expected, results: str, console: str, ending: Ending) -> GuestResult:
    """Turn the output of the two serial ports into a result."""
    records, dmesg, unparsed = _parse(results)
    guest = GuestResult(expected.label, dmesg=dmesg)
    end = _last(records, "end")
    versions = _last(records, "guest") or {}
    guest.kernel = str(versions.get("kernel", "?"))
    guest.python = str(versions.get("python", "?"))
    guest.libbpf = str(versions.get("libbpf", "?"))
    guest.filesystems = [str(name) for name in versions.get("filesystems", [])]
    guest.output = "".join(str(one["text"]) for one in records if one["record"] == "output")

    status = None if end is None else int(end["status"])
    if expected.kind == "pytest":
        _judge_tests(guest, records, status, console)
    else:
        _judge_script(guest, expected.script, status)
    if unparsed:
        guest.trouble("(guest: results)", f"a line is not a record:\n{unparsed[0][:500]}")
    guest.backends = list(expected.backends)
    if end is not None:
        _check_versions(guest, expected)
        _check_parity(guest, expected)
    _check_ending(guest, end is not None, console, ending)

    trouble = kernel_trouble(dmesg)
    if not trouble and end is None:
        trouble = kernel_trouble(console.splitlines())
    if trouble:
        guest.trouble("(guest: kernel log)", trouble)
    return guest


def _parse(results: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    records: list[dict[str, Any]] = []
    dmesg: list[str] = []
    unparsed: list[str] = []
    for line in results.split("\n"):
        line = line.rstrip("\r")
        if line.startswith("#"):
            dmesg.append(line[1:])
        elif line:
            try:
                record = json.loads(line)
                record["record"]
            except (ValueError, TypeError, KeyError):
                unparsed.append(line)
            else:
                records.append(record)
    return records, dmesg, unparsed


def _last(records: Sequence[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((one for one in reversed(records) if one["record"] == kind), None)


def _judge_tests(
    guest: GuestResult, records: Sequence[dict[str, Any]], status: int | None, console: str
) -> None:
    for one in records:
        if one["record"] == "uncollected":
            outcome = SKIPPED if one["outcome"] == SKIPPED else ERROR
            guest.tests.append(TestResult(one["test"], outcome, text=one["text"]))
    results = [one for one in records if one["record"] == "result"]
    for one in results:
        outcome = one["outcome"] if one["outcome"] in (PASSED, FAILED, SKIPPED) else ERROR
        guest.tests.append(TestResult(one["test"], outcome, float(one["seconds"]), one["text"]))
        if outcome == PASSED:
            guest.compared += [
                Compared(**value) for name, value in one.get("properties", ()) if name == COMPARED
            ]
    failed = guest.count(FAILED, ERROR)
    if status is not None and (status not in (0, 1) or (status == 1) != bool(failed)):
        # 134 is SIGABRT: Python aborted, or init.sh ended the job at the time limit.
        why = " (aborted, or out of time)" if status == 134 else ""
        text = f"pytest ended with status {status}{why}, {failed} failed. The end of the console:"
        guest.trouble("(guest: pytest)", f"{text}\n{_tail(console)}")

    collected = _last(records, "collected")
    if collected is None:
        guest.trouble("(guest: collection)", "pytest ended before it had collected the tests")
        return
    names = list(collected["tests"])
    if not names:
        guest.trouble("(guest: collection)", "no test was collected")
    started = _last(records, "start")
    done = {one["test"] for one in results}
    for name in names:
        if name not in done:
            here = started is not None and started["test"] == name
            why = "was running when the guest ended" if here else "never ran"
            guest.tests.append(TestResult(name, ERROR, text=f"no result: it {why}"))
    if len(results) != len(names) or len(done) != len(results) or not done.issubset(names):
        guest.trouble(
            "(guest: results)", f"{len(names)} tests collected, {len(results)} results received"
        )


def _judge_script(guest: GuestResult, script: str, status: int | None) -> None:
    text = "" if status == 0 else f"exit status {status}" if status is not None else "no result"
    guest.tests.append(TestResult(script, PASSED if status == 0 else FAILED, text=text))


def _check_versions(guest: GuestResult, expected: Expected) -> None:
    """Check that the guest has the kernel, Python and libbpf that were asked for."""
    for name, have, want in (
        ("kernel", guest.kernel, expected.series),
        ("Python", guest.python, expected.python),
        ("libbpf", guest.libbpf, expected.libbpf),
    ):
        if want and not re.match(rf"{re.escape(want)}(?:\D|$)", have):
            guest.trouble("(guest: versions)", f"{name} is {have}, expected {want}")


def _check_parity(guest: GuestResult, expected: Expected) -> None:
    """Check that tests compared items of every backend, for both readers."""
    for reader, kind, backends in (
        ("stats", "of a cgroup", expected.backends),
        ("tree", "of a tree's rows", expected.tree_backends),
    ):
        for backend in backends:
            if not guest.items_compared(backend, reader):
                text = f"{backend}: no items {kind} were compared with memory.stat"
                guest.trouble("(guest: parity)", text)


def _check_ending(guest: GuestResult, ended: bool, console: str, ending: Ending) -> None:
    tail = "\n".join([_tail(console), *ending.stderr.splitlines()[-5:]])
    if ending.hung_after is not None:
        text = f"hung: killed after {ending.hung_after:.0f} s. The end of its console:\n{tail}"
        guest.trouble("(guest)", text)
    elif not ended:
        text = f"lost: QEMU ended with status {ending.status} and no closing record came."
        guest.trouble("(guest)", f"{text} The end of its console:\n{tail}")
    elif ending.status != 0:
        guest.trouble("(guest)", f"QEMU ended with status {ending.status}:\n{tail}")


def _tail(console: str) -> str:
    return "\n".join(console.splitlines()[-_CONTEXT:])
