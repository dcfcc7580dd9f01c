# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The lab's own tests: what decides that a guest passed must be able to fail."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, ClassVar

import pytest

from . import (
    __main__,
    cache,
    guest,
    kernel_table,
    kernels,
    lab,
    records,
    report,
    sources,
    spec,
    userland,
)
from .errors import LabError, need_tool
from .kernels import Package
from .records import Compared, Ending, Expected, GuestResult, Origin, TestResult

EXPECTED = Expected("6.12@trixie", "pytest", series="6.12", python="3.13", libbpf="1.5")
CLEAN = Ending(0)
QUIET = "#[    0.0] Linux version 6.12\n"


def who(kernel: str = "6.12.9+deb13", python: str = "3.13.5", libbpf: str = "1.5") -> str:
    return line("guest", kernel=kernel, python=python, libbpf=libbpf, filesystems=["ext4"])


def line(record: str, **fields: object) -> str:
    return json.dumps({"record": record, **fields}) + "\n"


def result(test: str, outcome: str = "passed", text: str = "") -> str:
    start = line("start", test=test)
    return start + line("result", test=test, outcome=outcome, seconds=0.5, text=text)


def judged(
    *parts: str, console: str = "", ending: Ending = CLEAN, expected: Expected = EXPECTED
) -> GuestResult:
    return records.judge(expected, "".join(parts), console, ending)


def failed_names(guest_result: GuestResult) -> list[str]:
    return [failure.name for failure in guest_result.failures]


COLLECTED = line("collected", tests=["a", "b"])
END = "\n" + QUIET + line("end", status=0)


class TestVerdict:
    def test_all_passed(self) -> None:
        got = judged(who(), COLLECTED, result("a"), result("b"), END)
        assert got.ok
        assert (got.passed, got.failures) == (2, [])
        assert (got.kernel, got.python, got.libbpf) == ("6.12.9+deb13", "3.13.5", "1.5")
        assert got.tests[0].seconds == 0.5

    def test_carriage_returns_do_not_matter(self) -> None:
        text = (who() + COLLECTED + result("a") + result("b") + END).replace("\n", "\r\n")
        assert judged(text).ok

    @pytest.mark.parametrize("outcome", ["failed", "error", "skipped", "anything else"])
    def test_everything_but_a_pass_fails(self, outcome: str) -> None:
        status = line("end", status=0 if outcome == "skipped" else 1)
        got = judged(who(), COLLECTED, result("a"), result("b", outcome, "why"), QUIET, status)
        assert not got.ok
        assert failed_names(got) == ["b"]
        assert got.failures[0].text == "why"
        assert got.passed == 1

    def test_module_that_skips_itself(self) -> None:
        skip = line("uncollected", test="m.py", outcome="skipped", text="no reason")
        got = judged(who(), skip, COLLECTED, result("a"), result("b"), END)
        assert not got.ok
        assert got.count("skipped") == 1

    def test_module_that_cannot_be_imported(self) -> None:
        broken = line("uncollected", test="m.py", outcome="failed", text="ImportError")
        end = line("end", status=1)
        got = judged(who(), broken, COLLECTED, result("a"), result("b"), QUIET, end)
        assert failed_names(got) == ["m.py"]

    def test_nothing_collected(self) -> None:
        got = judged(who(), line("collected", tests=[]), QUIET, line("end", status=5))
        assert not got.ok
        assert "(guest: collection)" in failed_names(got)

    def test_collection_never_happened(self) -> None:
        got = judged(who(), QUIET, line("end", status=4), console="usage: pytest")
        assert not got.ok
        assert "usage: pytest" in report.failures([got])

    def test_nothing_at_all(self) -> None:
        assert not judged("").ok

    def test_result_missing(self) -> None:
        got = judged(who(), COLLECTED, result("a"), END)
        assert not got.ok
        assert failed_names(got) == ["b", "(guest: results)"]
        assert "never ran" in got.failures[0].text

    def test_result_twice(self) -> None:
        assert not judged(who(), COLLECTED, result("a"), result("a"), result("b"), END).ok

    def test_result_of_something_not_collected(self) -> None:
        got = judged(who(), line("collected", tests=["a"]), result("b"), END)
        assert not got.ok

    @pytest.mark.parametrize("status", [1, 2, 3, 4, 5, 134, 139])
    def test_pytest_status_must_agree(self, status: int) -> None:
        end = line("end", status=status)
        assert not judged(who(), COLLECTED, result("a"), result("b"), QUIET, end).ok

    def test_status_0_beside_a_failure(self) -> None:
        got = judged(who(), COLLECTED, result("a"), result("b", "failed"), END)
        assert "(guest: pytest)" in failed_names(got)

    def test_lost_after_every_test_passed(self) -> None:
        got = judged(who(), COLLECTED, result("a"), result("b"), console="the last words")
        assert not got.ok
        assert failed_names(got) == ["(guest)"]
        assert "lost" in got.failures[0].text
        assert "the last words" in got.failures[0].text

    def test_lost_while_a_test_ran(self) -> None:
        got = judged(who(), COLLECTED, result("a"), line("start", test="b"))
        assert "was running" in got.failures[0].text
        assert got.passed == 1

    def test_hung(self) -> None:
        got = judged(
            who(), COLLECTED, result("a"), line("start", test="b"), ending=Ending(-9, 60.0)
        )
        assert not got.ok
        assert "hung: killed after 60 s" in got.failures[-1].text

    def test_hung_after_its_closing_record(self) -> None:
        got = judged(who(), COLLECTED, result("a"), result("b"), END, ending=Ending(-9, 60.0))
        assert not got.ok

    def test_qemu_failed_after_the_closing_record(self) -> None:
        got = judged(who(), COLLECTED, result("a"), result("b"), END, ending=Ending(1))
        assert not got.ok

    def test_qemu_did_not_start(self) -> None:
        got = judged("", ending=Ending(1, stderr="no such device"))
        assert "no such device" in got.failures[-1].text

    def test_cut_off_record(self) -> None:
        got = judged(who(), COLLECTED, result("a"), '{"record": "resu\n', result("b"), END)
        assert failed_names(got) == ["(guest: results)"]

    @pytest.mark.parametrize(
        "other", [who(kernel="6.1.1"), who(python="3.11.2"), who(libbpf="1.50"), who(libbpf="none")]
    )
    def test_not_the_guest_asked_for(self, other: str) -> None:
        got = judged(other, COLLECTED, result("a"), result("b"), END)
        assert failed_names(got) == ["(guest: versions)"]


def compared(test: str, backend: str, reader: str, items: int, outcome: str = "passed") -> str:
    properties = [
        ["other", 1],
        ["compared", vars(Compared(reader, backend, "run", "", items))],
    ]
    return line("start", test=test) + line(
        "result", test=test, outcome=outcome, seconds=0.5, text="", properties=properties
    )


class TestParity:
    EXPECTED = Expected("6.12@trixie", "pytest", backends=("core",), tree_backends=("core",))

    def run(self, *parts: str, status: int = 0, expected: Expected = EXPECTED) -> GuestResult:
        end = line("end", status=status)
        return judged(who(), COLLECTED, *parts, QUIET, end, expected=expected)

    def test_compared(self) -> None:
        got = self.run(compared("a", "core", "stats", 51), compared("b", "core", "tree", 50))
        assert got.ok
        assert (got.items_compared("core"), got.items_compared("core", "tree")) == (51, 50)
        assert got.items_compared("kfunc") == 0

    def test_the_least_counts(self) -> None:
        got = self.run(compared("a", "core", "stats", 51), compared("b", "core", "stats", 3))
        assert got.items_compared("core") == 3

    def test_a_backend_that_compared_nothing_fails_the_guest(self) -> None:
        got = self.run(compared("a", "text", "stats", 51), compared("b", "text", "tree", 51))
        assert failed_names(got) == ["(guest: parity)"] * 2

    @pytest.mark.parametrize("reader", ["stats", "tree"])
    def test_both_readers_must_have_been_compared(self, reader: str) -> None:
        got = self.run(compared("a", "core", reader, 51), result("b"))
        assert failed_names(got) == ["(guest: parity)"]

    def test_a_backend_may_be_one_of_single_cgroups_alone(self) -> None:
        expected = dataclasses.replace(self.EXPECTED, tree_backends=("text",))
        whole = [compared("a", "core", "stats", 51), compared("b", "text", "tree", 50)]
        assert self.run(*whole, expected=expected).ok
        got = self.run(whole[0], result("b"), expected=expected)
        assert failed_names(got) == ["(guest: parity)"]
        assert "text: no items of a tree's rows" in got.failures[0].text

    def test_nothing_equal_is_nothing_compared(self) -> None:
        got = self.run(compared("a", "core", "stats", 0), compared("b", "core", "tree", 50))
        assert not got.ok

    def test_a_failed_test_has_compared_nothing(self) -> None:
        got = self.run(
            compared("a", "core", "stats", 51, "failed"), compared("b", "core", "tree", 5), status=1
        )
        assert got.compared == [Compared("tree", "core", "run", "", 5)]

    def test_matrix(self) -> None:
        got = self.run(compared("a", "core", "stats", 51), compared("b", "text", "stats", 51))
        got.backends = ["kfunc", "core"]
        assert report.matrix([got]).splitlines()[-1].split()[2:] == ["0", "–", "51", "51"]
        assert report.matrix([GuestResult("a script's")]) == ""


class TestKernelTable:
    """From the lab's JSON to docs/kernels.md."""

    ORDERS = ("self", "pre", "post", "up", "children")
    PACKAGES: ClassVar = {"python3.13": "3.13.5-2", "libbpf1": "1:1.5.0-3"}

    def guest(self, series: str = "6.12", architecture: str = "amd64") -> GuestResult:
        slash = "" if architecture == "amd64" else f"/{architecture}"
        return GuestResult(
            f"{series}@trixie{slash}",
            f"{series}.9+deb13-cloud-{architecture}",
            "3.13.5",
            "1.5",
            tests=[TestResult("a", "passed"), TestResult("b", "passed")],
            command="python3 -m tests.vm --all",
            backends=["core", "text"],
            compared=[
                Compared("stats", "core", "run", "", 51),
                Compared("stats", "core", "stream", "", 51),
                Compared("stats", "text", "text", "", 51),
                *(Compared("tree", "core", "shared", order, 51) for order in self.ORDERS),
            ],
            origin=Origin(
                series, architecture, "trixie", "k", {"k": f"{series}.9-1~bpo", **self.PACKAGES}
            ),
        )

    def made(self, tmp_path: Path, *guests: GuestResult) -> str:
        file = tmp_path / "record.json"
        file.write_text(json.dumps([lab.as_data(one) for one in guests]))
        return kernel_table.document(kernel_table.load([file]))

    def rows(self, text: str) -> list[list[str]]:
        table = text.split("\n\n|")[1].split("\n\n")[0]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]

    def test_a_row_for_each_guest(self, tmp_path: Path) -> None:
        text = self.made(
            tmp_path, self.guest("6.12", "arm64"), self.guest("6.12"), self.guest("6.1")
        )
        assert [row[:3] for row in self.rows(text)[2:]] == [
            ["6.1.9", "x86-64", "trixie"],
            ["6.12.9", "x86-64", "trixie"],
            ["6.12.9", "arm64", "trixie"],
        ]
        assert "`make docs-kernels` writes" in text
        assert text.count("- `python3 -m tests.vm --all`\n") == 1

    def test_a_kernel_that_is_not_debian_s(self, tmp_path: Path) -> None:
        seed = self.guest("7.3")
        seed.label = "seed@trixie"
        assert seed.origin is not None
        seed.origin = dataclasses.replace(seed.origin, series="seed")
        rows = self.rows(self.made(tmp_path, seed, self.guest("7.3")))
        assert [row[0] for row in rows[2:]] == ["7.3.9", "7.3.9 (seed)"]

    def test_what_works(self, tmp_path: Path) -> None:
        (row,) = self.rows(self.made(tmp_path, self.guest()))[2:]
        cells = ["–", "–", "51: run, stream, shared", "51", "all", "2 passed"]
        assert row[3:] == cells

    def test_nothing_is_said_to_work_that_was_not_compared(self, tmp_path: Path) -> None:
        guest = self.guest()
        guest.compared = [
            Compared("stats", "core", "run", "", 51),
            Compared("tree", "core", "run", "pre", 50),
            Compared("tree", "core", "shared", "pre", 51),
            Compared("tree", "core", "shared", "post", 51),
        ]
        guest.tests[1] = TestResult("b", "failed")
        guest.select = "not b"
        text = self.made(tmp_path, guest)
        (row,) = self.rows(text)[2:]
        assert row[5:] == [
            *("50–51: run, shared", "nothing compared", "pre", "1 passed, 1 failed (part)")
        ]
        assert "- 6.12@trixie: b\n" in text
        assert "- `not b`\n" in text

    def test_what_was_not_tested_is_named(self, tmp_path: Path) -> None:
        lacking = self.made(tmp_path, self.guest()).split("not tested: ")[1].split(".\n")[0]
        assert "6.1@bookworm/arm64" in lacking.split(", ")
        assert "6.12@trixie" not in lacking.split(", ")
        assert "newest" not in lacking

    def test_packages(self, tmp_path: Path) -> None:
        text = self.made(tmp_path, self.guest())
        assert "| `k` | 6.12.9-1~bpo |" in text
        assert "| trixie | x86-64 | python3.13 3.13.5-2 | libbpf1 1:1.5.0-3 | libc6 – |" in text

    def test_a_later_record_replaces(self, tmp_path: Path) -> None:
        names = ("one", "two")
        for number, name in enumerate(names):
            guest = self.guest()
            guest.kernel = name
            guest.seconds = number
            (tmp_path / name).write_text(json.dumps([lab.as_data(guest)]))
        (got,) = kernel_table.load([tmp_path / name for name in names])
        assert got["kernel"] == "two"

    def test_no_record(self, tmp_path: Path) -> None:
        (tmp_path / "record").write_text("[]")
        with pytest.raises(LabError):
            kernel_table.load([tmp_path / "record"])


class TestCommand:
    def test_what_is_recorded_of_the_command_line(self) -> None:
        def recorded(*words: str) -> str:
            return __main__.command(__main__.parse_arguments(words))

        assert recorded("--all", "--wheel", "/a/b.whl") == "python3 -m tests.vm --all"
        assert recorded("6.1", "-k", "a or b") == "python3 -m tests.vm 6.1 -k 'a or b'"


class TestKernelLog:
    @pytest.mark.parametrize(
        "trouble",
        [
            "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/bpf/core.c:1 foo+0x1/0x2",
            "[    1.0] ------------[ cut here ]------------",
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[    1.0] kernel BUG at mm/slub.c:1!",
            "[    1.0] Oops: 0000 [#1] PREEMPT SMP",
            "[    1.0] BUG: KASAN: use-after-free in foo",
            "[    1.0] refcount_t: underflow; use-after-free.",
            "[    1.0] UBSAN: array-index-out-of-bounds in mm/x.c:1:1",
            "[    1.0] WARNING: possible circular locking dependency detected",
            "[    1.0] WARNING: suspicious RCU usage",
            "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[    1.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    1.0] INFO: task python3:1 blocked for more than 120 seconds.",
            "[    1.0] list_add corruption. prev->next should be next",
            "[    1.0] Kernel panic - not syncing: Attempted to kill init!",
            "[    1.0] Out of memory: Killed process 1 (python3)",
        ],
    )
    def test_trouble_fails_a_guest_whose_tests_passed(self, trouble: str) -> None:
        dmesg = f"#{trouble}\n#[    1.1] next\n"
        end = line("end", status=0)
        got = judged(who(), COLLECTED, result("a"), result("b"), dmesg, end)
        assert failed_names(got) == ["(guest: kernel log)"]
        assert trouble in got.failures[0].text

    @pytest.mark.parametrize(
        "fine",
        [
            "[    1.0] Memory cgroup out of memory: Killed process 9 (python3)",
            "[    1.0] python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0",
            "[    1.0] Call Trace:",
            "[    1.0] warning: `python3' uses something old",
            "[    1.0] x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
            "[    1.0] debugfs: BUGGY driver ignored",
        ],
    )
    def test_what_is_no_trouble(self, fine: str) -> None:
        assert records.kernel_trouble([fine]) == ""

    def test_console_of_a_lost_guest(self) -> None:
        got = judged(who(), COLLECTED, console="x\n[ 1.0] Kernel panic - not syncing: y\n")
        assert "(guest: kernel log)" in failed_names(got)


class TestScript:
    EXPECTED = Expected("7.3@trixie", "script", script="bench.py", series="7.3")

    def run(self, *parts: str) -> GuestResult:
        return judged(who("7.3.4"), *parts, expected=self.EXPECTED)

    def test_output_comes_back(self) -> None:
        output = line("output", text="one\n") + line("output", text="two\n")
        got = self.run(output, END)
        assert got.ok
        assert got.output == "one\ntwo\n"

    @pytest.mark.parametrize("status", [1, 139])
    def test_exit_status(self, status: int) -> None:
        assert not self.run(QUIET, line("end", status=status)).ok

    def test_lost(self) -> None:
        assert not self.run(line("output", text="one\n")).ok


class TestReport:
    GOOD = GuestResult("6.1@bookworm", tests=[TestResult("a", "passed")])
    BAD = GuestResult(
        "6.12@trixie",
        tests=[TestResult("tests/x.py::b", "failed", text="assert 0"), TestResult("c", "skipped")],
        troubles=[TestResult("(guest)", "failed", text="lost")],
    )
    EMPTY = GuestResult("7.0@trixie")

    def test_every_failure_by_name(self) -> None:
        text = report.failures([self.GOOD, self.BAD])
        assert "FAILED 6.12@trixie tests/x.py::b\n    assert 0" in text
        assert "SKIPPED 6.12@trixie c" in text
        assert "6.1@bookworm" not in text

    def test_last_line(self) -> None:
        assert report.last_line([self.GOOD, self.BAD]) == "1 passed, 3 failed"

    def test_exit_status(self) -> None:
        assert report.all_passed([self.GOOD], 1)
        assert not report.all_passed([self.GOOD, self.BAD], 2)
        assert not report.all_passed([self.GOOD, self.EMPTY], 2)
        assert not report.all_passed([self.GOOD], 2)
        assert not report.all_passed([], 0)

    def test_table(self) -> None:
        rows = report.table([self.GOOD, self.BAD]).splitlines()
        assert len(rows) == 4
        assert rows[3].split()[-5:-2] == ["0", "2", "1"]


class TestWatching:
    """Python plays QEMU: what counts is how it ends."""

    def run(self, tmp_path: Path, code: str, timeout: float = 30) -> guest.Transcript:
        return guest.run([sys.executable, "-c", code], tmp_path, timeout, threading.Event())

    def test_ports_are_read(self, tmp_path: Path) -> None:
        code = f"open({str(tmp_path / 'results')!r}, 'wb').write(b'\\xff!')"
        got = self.run(tmp_path, code)
        assert (got.results, got.console) == ("\ufffd!", "")
        assert got.ending == Ending(0, None, "")

    def test_lost(self, tmp_path: Path) -> None:
        got = self.run(tmp_path, "import sys; sys.exit('no such device')")
        assert got.ending == Ending(1, None, "no such device\n")

    def test_hung(self, tmp_path: Path) -> None:
        got = self.run(tmp_path, "import time; time.sleep(600)", timeout=0.3)
        assert got.ending.status == -9
        assert got.ending.hung_after is not None

    def test_stopped(self, tmp_path: Path) -> None:
        stop = threading.Event()
        stop.set()
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        assert guest.run(sleep, tmp_path, 600, stop).ending.status == -9

    def test_one_cpu_where_instructions_are_counted(self, tmp_path: Path) -> None:
        machine = spec.Machine(
            *("amd64", "x86-64", sys.executable, "none", (), "ttyS0"),
            *("ttyS1", ("-serial", "file:{}")),
        )
        hardware = guest.Hardware(cpus=2, icount=True)
        command = guest.qemu_command(machine, hardware, Path("k"), Path("i"), tmp_path)
        assert command[command.index("-smp") + 1] == "1"
        assert command[command.index("-icount") + 1] == "shift=0,sleep=off"

    def test_two_ports_on_each_machine(self, tmp_path: Path) -> None:
        for machine in spec.MACHINES.values():
            fake = dataclasses.replace(machine, qemu=sys.executable)
            command = guest.qemu_command(fake, guest.Hardware(), Path("k"), Path("i"), tmp_path)
            console, results = str(tmp_path / "console"), str(tmp_path / "results")
            assert f"file:{console}" in command
            assert sum(results in word for word in command) == 1
            assert f"console={machine.console} " in command[-1]
            assert machine.console != machine.results


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
THIRD_PARTY = """\
Types: deb
URIs: http://vendor.invalid/stable/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg
"""
UBUNTU = """\
Types: deb
URIs: http://mirror.invalid/ubuntu
Suites: noble noble-updates
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""


class TestSources:
    def machine(self, tmp_path: Path, **files: str) -> Path:
        (tmp_path / "sources.list.d").mkdir()
        for name, text in files.items():
            path = tmp_path / "sources.list"
            if name != "main":
                path = tmp_path / "sources.list.d" / name.replace("_", ".")
            path.write_text(text)
        return tmp_path

    def test_deb822(self, tmp_path: Path) -> None:
        machine = self.machine(tmp_path, a_sources=THIRD_PARTY, debian_sources=DEB822)
        assert sources.find_archive({}, machine) == "http://mirror.invalid/debian"

    def test_one_line(self, tmp_path: Path) -> None:
        text = (
            "#deb http://commented.invalid/debian trixie main\n"
            "deb-src http://source.invalid/debian trixie main\n"
            "deb http://security.invalid/debian-security bookworm-security main\n"
            "deb [arch=amd64 signed-by=/k/vendor.gpg] http://vendor.invalid/debian bookworm main\n"
            "deb [ arch=amd64 ] https://mirror.invalid/debian/ bookworm main contrib # ours\n"
        )
        machine = self.machine(tmp_path, main=text)
        assert sources.find_archive({}, machine) == "https://mirror.invalid/debian/"

    def test_updates_tell_the_archive_from_an_unsigned_vendor(self, tmp_path: Path) -> None:
        text = (
            "deb http://vendor.invalid/debian bookworm main\n"
            "deb http://mirror.invalid/debian bookworm main\n"
            "deb http://mirror.invalid/debian bookworm-updates main\n"
        )
        machine = self.machine(tmp_path, main=text)
        assert sources.find_archive({}, machine) == "http://mirror.invalid/debian"

    def test_disabled(self, tmp_path: Path) -> None:
        machine = self.machine(tmp_path, a_sources="Enabled: no\n" + DEB822.split("\n", 1)[1])
        with pytest.raises(LabError):
            sources.find_archive({}, machine)

    def test_inline_key(self) -> None:
        text = THIRD_PARTY.replace("/usr/share/keyrings/vendor.gpg", "\n -----BEGIN\n .\n x")
        (source,) = sources.parse_deb822(text)
        assert source.signed_by.startswith("\n-----BEGIN")

    @pytest.mark.parametrize("files", [{}, {"a_sources": UBUNTU}, {"a_sources": THIRD_PARTY}])
    def test_no_debian_archive(self, tmp_path: Path, files: dict[str, str]) -> None:
        machine = self.machine(tmp_path, **files)
        with pytest.raises(LabError, match=sources.MIRROR_VARIABLE):
            sources.find_archive({}, machine)

    def test_the_security_archive(self, tmp_path: Path) -> None:
        def archive(environment: dict[str, str], machine: Path) -> str:
            main = "http://mirror.invalid/debian/"
            return sources.find_security_archive(main, environment, machine)

        line = "deb http://{}.invalid/x {} main\n"
        vendor = "deb [signed-by=/k/vendor.gpg] http://vendor.invalid/x trixie-security main\n"
        text = line.format("a", "noble-security") + line.format("b", "bookworm") + vendor
        machine = self.machine(tmp_path, main=text)
        assert archive({}, machine) == "http://mirror.invalid/debian-security"
        (machine / "sources.list").write_text(text + line.format("security", "trixie-security"))
        assert archive({}, machine) == "http://security.invalid/x"
        chosen = {sources.MIRROR_VARIABLE: "http://mirror.invalid/debian/"}
        assert archive(chosen, machine) == "http://mirror.invalid/debian-security"

    def test_the_environment_is_first(self, tmp_path: Path) -> None:
        machine = self.machine(tmp_path, a_sources=DEB822)
        chosen = {sources.MIRROR_VARIABLE: "http://chosen.invalid/debian"}
        assert sources.find_archive(chosen, machine) == "http://chosen.invalid/debian"

    @pytest.mark.parametrize("bad", ["http://a b", "[trusted=yes] http://a", 'http://a"'])
    def test_an_address_cannot_smuggle_options(self, tmp_path: Path, bad: str) -> None:
        with pytest.raises(LabError):
            sources.find_archive({sources.MIRROR_VARIABLE: bad}, tmp_path)


def package(name: str, version: str) -> Package:
    return Package(name, version, "amd64")


class TestKernels:
    def test_newest_of_each_series(self) -> None:
        got = kernels.newest_of_each_series(
            [
                package("linux-image-6.12.94+deb13-cloud-amd64", "6.12.94-1"),
                package("linux-image-6.12.107+deb13-cloud-amd64", "6.12.107-1"),
                package("linux-image-6.12.107+deb13-cloud-amd64-unsigned", "6.12.107-1"),
                package("linux-image-6.12.200+deb13-cloud-amd64-dbg", "6.12.200-1"),
                package("linux-image-6.12.300+deb13-cloud-arm64", "6.12.300-1"),
                package("linux-image-6.12.300+deb13-amd64", "6.12.300-1"),
                package("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1"),
                package("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
                package("linux-image-7.0.4+deb13-cloud-amd64", "7.0.4-1~bpo13+1"),
                package("linux-binary-7.0.4+deb13-cloud-amd64", "7.0.4-1~bpo13+1"),
                package("linux-binary-unsigned-7.0.9+deb13-cloud-amd64", "7.0.9-1"),
            ],
            "amd64",
        )
        assert {series: one.name for series, one in got.items()} == {
            "6.1": "linux-image-6.1.0-50-cloud-amd64",
            "6.12": "linux-image-6.12.107+deb13-cloud-amd64",
            "7.0": "linux-binary-7.0.4+deb13-cloud-amd64",
        }
        assert list(got) == ["6.1", "6.12", "7.0"]

    @pytest.mark.parametrize(
        ("lower", "higher"),
        [("6.12.94-1", "6.12.107-1"), ("7.0.4-1~bpo13+1", "7.0.4-1"), ("9", "1:1")],
    )
    def test_order(self, lower: str, higher: str) -> None:
        assert kernels.compare_versions(lower, higher) < 0
        assert kernels.compare_versions(higher, lower) > 0
        assert kernels.compare_versions(lower, lower) == 0

    def test_find_series(self) -> None:
        available = {series: package(series, "1") for series in ("6.9", "6.12", "7.10", "7.9")}
        assert kernels.find_series("6.12", available) == ("6.12", available["6.12"])
        assert kernels.find_series("newest", available) == ("7.10", available["7.10"])
        with pytest.raises(LabError, match=r"6\.5.*6\.9"):
            kernels.find_series("6.5", available)
        with pytest.raises(LabError):
            kernels.find_series("newest", {})


class TestSpec:
    def test_parse(self) -> None:
        assert spec.parse_spec("6.12@bookworm") == spec.Spec("6.12", "bookworm")
        assert spec.parse_spec("6.1") == spec.Spec("6.1", "bookworm")  # as in the matrix
        assert str(spec.parse_spec("6.19")) == "6.19@trixie"
        for text in spec.DEFAULT_MATRIX:
            spec.parse_spec(text)

    def test_architecture(self) -> None:
        assert spec.parse_spec("6.12@forky/arm64") == spec.Spec("6.12", "forky", "arm64")
        assert spec.parse_spec("6.1/arm64") == spec.Spec("6.1", "bookworm", "arm64")
        assert spec.parse_spec("6.12/amd64") == spec.parse_spec("6.12")
        arm = spec.parse_spec("6.12@forky/arm64")
        assert (str(arm), arm.filename) == ("6.12@forky/arm64", "6.12@forky-arm64")
        assert arm.machine.qemu == "qemu-system-aarch64"
        assert str(spec.parse_spec("6.12@forky/amd64")) == "6.12@forky"

    def test_whole_matrix(self) -> None:
        specs = {spec.parse_spec(text): select for text, select in spec.WHOLE_MATRIX.items()}
        assert {one.userland for one in specs} == set(spec.USERLANDS)
        assert {one.architecture for one in specs} == set(spec.ARCHITECTURES)
        whole = {one for one, select in specs.items() if not select}
        for text in spec.DEFAULT_MATRIX:
            one = spec.parse_spec(text)
            assert one in whole or one.series == spec.NEWEST
        # Wherever it is chosen from, what must be compared is among it.
        assert not any("parity" in select for select in specs.values())
        assert not any("parity" in select for select in spec.DEFAULT_MATRIX.values())

    def test_default_matrix(self) -> None:
        partly = [select for select in spec.DEFAULT_MATRIX.values() if select]
        assert partly and "" in spec.DEFAULT_MATRIX.values(), "one guest at least runs all tests"
        tests = {path.stem for path in (lab.REPOSITORY / "tests" / "kernel").glob("test_*.py")}
        for select in partly:
            left_out = set(re.findall(r"not (\w+)", select))
            assert left_out and left_out <= tests

    def test_default_guests_run_their_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted: list[Mapping[spec.Spec, str]] = []
        fake = lab.Lab(None)

        def prepared(find: Callable[[], Mapping[spec.Spec, str]]) -> list[lab.Prepared]:
            wanted.append(find())
            return []

        monkeypatch.setattr(fake, "_prepared", prepared)
        fake.prepare_default()
        fake.prepare(["newest@trixie"])
        by_default, named = wanted
        assert {str(one): select for one, select in by_default.items()} == spec.DEFAULT_MATRIX
        assert list(named.values()) == [""], "a guest that is named runs all tests"

    @pytest.mark.parametrize(
        "text",
        [
            *("", "6", "6.12.1", "a.whl", "6.12@", "6.12@sarge", "@trixie"),
            *("6.12/", "6.12@trixie/", "6.12@trixie/vax", "/arm64", "seed/arm64"),
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(LabError):
            spec.parse_spec(text)

    def test_backend(self) -> None:
        backends = {text: spec.parse_spec(text).expected_backend for text in ("6.19", "7.0")}
        assert backends == {"6.19": "core", "7.0": "kfunc"}
        assert spec.parse_spec("6.19").backends == ("core", "text")
        assert spec.parse_spec("7.0").backends == ("kfunc", "core", "text")
        assert spec.parse_spec("seed").backends == ("kfunc", "rfc", "core", "text")
        for text in ("6.1", "6.19", "7.0", "seed"):
            assert spec.parse_spec(text).tree_backends == spec.parse_spec(text).backends
        assert spec.parse_spec("5.10").backends == ("core", "text")
        assert spec.parse_spec("5.10").tree_backends == ("text",)

    def test_an_old_series_is_in_no_suite_of_the_others(self) -> None:
        for series, suites in spec.OLD_KERNEL_SUITES.items():
            assert not set(suites) & {*spec.KERNEL_SUITES, *spec.USERLANDS}
            assert spec.parse_spec(series).userland == "bookworm"


class FakeLab(lab.Lab):
    """Whose apt has what the test says."""

    have: ClassVar[dict[str, tuple[str, ...]]] = {}
    with_old_suites: tuple[str, ...] = ("amd64",)

    def _apt(self, architecture: str, old_series: str = "") -> Any:
        if old_series and architecture not in self.with_old_suites:
            raise LabError(f"no suite with {old_series}")
        return architecture, old_series

    def _available(self, apt: Any) -> dict[str, Package]:
        architecture, old_series = apt
        # An old suite has a kernel of a series that is elsewhere too, and a newer one of it.
        series = (old_series, "6.1", "99.0") if old_series else self.have[architecture]
        return {one: package(one, f"{old_series or 1}") for one in series}


class TestWholeMatrix:
    def matrix(
        self, monkeypatch: pytest.MonkeyPatch, **have: tuple[str, ...]
    ) -> tuple[dict[str, str], list[str]]:
        monkeypatch.setattr(FakeLab, "have", have)
        fake = FakeLab(None)
        found = fake._whole_matrix()
        return {str(one): select for one, select in found.items()}, fake.missing

    def test_what_apt_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        series = ["6.1", "6.12", *(f"6.{n}" for n in range(16, 20)), *(f"7.{n}" for n in range(4))]
        found, missing = self.matrix(monkeypatch, amd64=tuple(series), arm64=tuple(series))
        assert (list(found), missing) == (list(spec.WHOLE_MATRIX), [])

    def test_what_apt_lacks_and_what_is_new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found, missing = self.matrix(
            monkeypatch, amd64=("5.9", "5.15", "6.12", "6.13", "7.4"), arm64=("6.18",)
        )
        assert "6.1@bookworm" in missing and "6.1@bookworm/arm64" in missing
        assert "6.12@trixie" in found and "6.18@forky/arm64" in found
        assert found["7.4@trixie"] == found["6.13@trixie"] == found["5.15@trixie"] == spec.PART
        assert not any(one.startswith("5.9") for one in found), "older than the oldest"
        assert found["5.10@bookworm"] == "", "from suites of its own"
        assert not set(found) & set(missing)
        assert set(found) | set(missing) >= set(spec.WHOLE_MATRIX)

    def test_suites_that_the_mirror_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeLab, "have", {"amd64": ("6.1", "7.4"), "arm64": ()})
        fake = FakeLab(None)
        fake.with_old_suites = ()
        assert "5.10@bookworm" not in map(str, fake._whole_matrix())
        assert "5.10@bookworm" in fake.missing
        assert fake.warnings == ["no suite with 5.10"]


class TestOldKernels:
    """Of suites that have nothing else to give."""

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLab:
        monkeypatch.setattr(FakeLab, "have", {"amd64": ("6.1", "7.3"), "arm64": ()})
        monkeypatch.setattr(
            FakeLab, "_kernel", lambda self, apt, spec, package: Path("/".join((*apt, spec.series)))
        )
        monkeypatch.setattr(
            userland,
            "prepare",
            lambda apt, native, cache, release: userland.Userland(release, apt, "3", "1"),
        )
        return FakeLab(None, cache=tmp_path)

    def test_only_their_own_series_is_taken_from_them(self, fake: FakeLab) -> None:
        made = fake.prepare(["5.10", "6.1", "newest"])
        assert [(str(one.spec), one.package.version, str(one.kernel)) for one in made] == [
            ("5.10@bookworm", "5.10", "amd64/5.10/5.10"),
            ("6.1@bookworm", "1", "amd64/6.1"),
            ("7.3@trixie", "1", "amd64/7.3"),
        ]
        assert {str(one.userland.archives) for one in made} == {"('amd64', '')"}

    def test_suites_that_are_missing_are_an_error_for_those_who_need_them(
        self, fake: FakeLab
    ) -> None:
        fake.with_old_suites = ()
        assert len(fake.prepare(["6.1", "newest"])) == 2
        assert list(fake.available("amd64")) == ["6.1", "7.3"]
        with pytest.raises(LabError, match="no suite with 5"):
            fake.prepare(["6.1", "5.10"])


class TestPieces:
    def test_short_version(self) -> None:
        packages = [package("libbpf1", "1:1.1.2-0+deb12u1"), package("python3", "3.13.5-1")]
        assert userland.short_version(packages, "libbpf1") == "1.1"
        assert userland.short_version(packages, "python3") == "3.13"

    def test_missing_tool(self) -> None:
        with pytest.raises(LabError, match=r"no-such-tool.*install.*some-package"):
            need_tool("no-such-tool", "some-package")

    def test_archives_start_at_multiples_of_four(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"12345")
        (tmp_path / "b").write_bytes(b"6789")
        userland.concatenate([tmp_path / "a", tmp_path / "b"], tmp_path / "whole")
        assert (tmp_path / "whole").read_bytes() == b"12345\0\0\0" + b"6789"

    def test_unfinished_work_is_never_in_its_place(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), cache.scratch(tmp_path) as folder:
            (folder / "half").write_text("half")
            raise RuntimeError
        assert list((tmp_path / "unfinished").iterdir()) == []

    def test_published_files_are_new_ones(self, tmp_path: Path) -> None:
        made = tmp_path / "made"
        made.write_text("whole")
        os.utime(made, (0, 0))  # as tar leaves it
        place = tmp_path / "kernels" / "one"
        cache.publish(made, place)
        cache.prune(tmp_path)
        assert cache.in_cache(place)
        os.utime(place, (0, 0))
        cache.prune(tmp_path)
        assert not cache.in_cache(place)

    def test_the_lock_excludes(self, tmp_path: Path) -> None:
        code = "import fcntl, sys\nfcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        with cache.locked(tmp_path):
            assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0

    def test_tests_alone_go_into_the_guest(self, tmp_path: Path) -> None:
        folder = tmp_path / "kernel"
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "test_x.py").write_text("")
        words = lab._tests_inside(lab.Tests(folder, select="a and b"), tmp_path / "root")
        assert words[-1] == "tests/kernel"
        assert words[words.index("-k") + 1] == "a and b"
        inside = sorted(path.name for path in (tmp_path / "root").rglob("*") if path.is_file())
        assert inside == ["pytest.ini", "test_x.py"]

    def test_no_tests(self, tmp_path: Path) -> None:
        with pytest.raises(LabError):
            lab._tests_inside(lab.Tests(tmp_path / "none"), tmp_path / "root")


class TestPlugin:
    """The plugin in a real pytest run, with a file for a serial port."""

    TESTS = """
import pytest

def test_pass(): pass
def test_fail():
    print("captured")
    assert 0
def test_skip(): pytest.skip("no reason")
@pytest.mark.xfail(strict=False)
def test_xfail(): assert 0
@pytest.mark.xfail(strict=False)
def test_xpass(): pass
def test_property(record_property):
    ways = {"reader": "tree", "backend": "core", "transport": "run", "order": "up"}
    record_property("compared", {**ways, "items": 51})
@pytest.fixture
def broken():
    yield
    raise RuntimeError
def test_teardown(broken): pass
"""

    def test_outcomes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "test_it.py").write_text(self.TESTS)
        (tmp_path / "test_module.py").write_text(
            "import pytest\npytest.skip('whole', allow_module_level=True)\n"
        )
        (tmp_path / "test_broken.py").write_text("import no_such_module\n")
        port = tmp_path / "port"
        port.touch()
        package_name = __package__ or ""
        code = (
            "import importlib, sys, pytest;"
            f"plugin = importlib.import_module('{package_name}.guest_plugin');"
            "sys.exit(pytest.main(sys.argv[1:], plugins=[plugin.Recorder()]))"
        )
        top = Path(__file__).resolve().parents[len(package_name.split("."))]
        monkeypatch.setenv("LAB_RESULTS", str(port))
        monkeypatch.setenv("PYTHONPATH", str(top))
        options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        done = subprocess.run(
            [sys.executable, "-c", code, *options, "--rootdir", str(tmp_path), str(tmp_path)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        got = judged(who(), port.read_text(), QUIET, line("end", status=1))
        assert {one.name.split("::")[-1]: one.outcome for one in got.tests} == {
            "test_broken.py": "error",
            "test_module.py": "skipped",
            "test_pass": "passed",
            "test_property": "passed",
            "test_fail": "failed",
            "test_skip": "skipped",
            "test_xfail": "skipped",
            "test_xpass": "skipped",
            "test_teardown": "error",
        }
        assert got.compared == [Compared("tree", "core", "run", "up", 51)]
        assert got.troubles == []
        texts = {one.name.split("::")[-1]: one.text for one in got.tests}
        assert "captured" in texts["test_fail"]
        assert "no reason" in texts["test_skip"]
