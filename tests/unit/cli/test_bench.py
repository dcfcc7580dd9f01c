# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf bench, on fake cgroup directories; and what its parts make of given times."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import StreamError
from pymemcgbpf._bench import benchmark, contestants, control, formatting, rounds
from pymemcgbpf._bench.rounds import Batch, Contestant
from pymemcgbpf._cli import bench, bench_report
from pymemcgbpf._cli.main import main
from pymemcgbpf._sources import choose as _choose

from ..commands import Captured, RefuseBpf, failed, printed
from ..directories import make_v1, make_v2

STAT = "anon 4096\nfile 8192\nshmem 0\nfile_mapped 0\npgfault 3\npgmajfault 1\nslab 7\n"
QUICK = ("--seconds", "0.2")
NO_PERF = formatting.Formatting(None, why="perf is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root and three cgroups."""
    path = make_v2(tmp_path / "root", stat=STAT, current=None, kind=None)
    for number in range(3):
        make_v2(path / f"g{number}", stat=STAT)
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    monkeypatch.setattr(formatting, "share", lambda read: NO_PERF)
    monkeypatch.setattr(rounds, "_CALIBRATION_NS", 10_000)


# --- what is printed --------------------------------------------------------------------


def test_the_report_as_text(root: Path, capsys: Captured) -> None:
    text = printed(capsys, "bench", *QUICK, str(root))
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    heads = [line.split() for line in lines if " real " in line]
    assert heads == [
        ["6", "items", "real", "user", "sys", "raw", "decoded", "opened"],
        ["all", "of", "memory.stat", "real", "user", "sys", "raw", "decoded", "opened"],
        ["4", "cgroups,", "6", "items", "real", "user", "sys", "walked"],
    ]
    for name in (
        contestants.RAW,
        contestants.DECODED,
        contestants.OPENED,
        "StatsReader, text",
        "read_stats(), text",
    ):
        assert sum(line.startswith(f"{name}  ") for line in lines) == 4  # two tables, two charts
    for name in (contestants.WALKED, "TreeReader, text", "TreeReader, text, {path: dict}"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 2
    # Each way that is not here is named, once, with the reason.
    said = " ".join(text.split())
    assert said.count("lacks CAP_BPF") == 1
    assert "kfunc/run, kfunc/stream, rfc/run, rfc/stream, core/run, core/stream, " in said
    assert "formatting of text is this part of raw: unknown, because perf" in said
    # Six items of opened, StatsReader and read_stats(); seven of all; six sums and the cgroups.
    assert f"{3 * (6 + 7) + 7} values and sums of memory.stat compared" in said


def test_the_report_explains_its_words_and_what_follows(root: Path, capsys: Captured) -> None:
    text = printed(capsys, "bench", *QUICK, str(root))
    (words,) = re.findall(r"^The words:\n((?:  .*\n)+)", text, re.MULTILINE)
    explained = re.findall(r"^  (\S.*?)  +\S", words, re.MULTILINE)
    assert explained == [
        *("raw", "decoded", "opened", "walked", "StatsReader", "read_stats()", "TreeReader"),
        *("kfunc", "rfc", "core", "text", "run", "shared", "stream", "copy=False", "dicts"),
    ]
    # Every part of a name in the tables is explained.
    for name in re.findall(r"^(\w.*?)  +\d.*×$", text, re.MULTILINE):
        for word in re.findall(r"[\w()=]+", "" if name.startswith("control") else name):
            assert word in {*explained, "path", "dict", "StatsReader"}, name
    *_, last = text.split("\n\n")
    said = re.sub(r"[\d.]+ (µs|times)", r"N \1", " ".join(last.split()))
    assert said.startswith(
        "In short: for 6 items of one cgroup, what most programs do (opened) takes N µs, and "
        "StatsReader, text N µs, which is N times as fast. For a tree, it takes N µs a cgroup, and "
        "TreeReader, text N µs, which is N times as fast. BPF is not used here: pymemcgbpf doctor "
        "says what can be done. A program need not choose"
    )


def test_the_report_as_json(root: Path, capsys: Captured) -> None:
    report = json.loads(printed(capsys, "bench", "--json", *QUICK, str(root)))
    assert report["machine"]["path"] == str(root) and report["machine"]["cgroup"] == "cgroup v2"
    assert report["formatting"] == {"share": None, "samples": 0, "why": NO_PERF.why}
    assert report["values_compared"] == 46
    assert [part["part"] for part in report["parts"]] == [
        "6 items",
        "all of memory.stat",
        "4 cgroups, 6 items",
    ]
    for part, per in zip(report["parts"], (1, 1, 4)):
        real = {one["name"]: one["real_us"] for one in part["results"]}
        for one in part["results"]:
            assert one["reads"] == sum(each["reads"] for each in one["rounds"]) > 0
            total = sum(each["real"] for each in one["rounds"])
            assert one["real_us"] == pytest.approx(total / 1000 / one["reads"] / per)
            for column, faster in one["times_faster"].items():
                control = {**benchmark.CONTROLS, "walked": contestants.WALKED}[column]
                assert faster == pytest.approx(real[control] / one["real_us"])


def test_iterations_sets_the_number_of_reads(root: Path, capsys: Captured) -> None:
    arguments = ("bench", "--json", *QUICK, "--iterations", "47", str(root))
    report = json.loads(printed(capsys, *arguments))
    for part in report["parts"][:-1]:
        assert {one["reads"] for one in part["results"]} == {47}
        assert {len(one["rounds"]) for one in part["results"]} == {16}  # of 3, but the last


def test_a_tree_that_is_read_wrongly_is_not_timed(
    root: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = control.walked

    def one_less(*arguments: Any) -> Any:
        read = walked(*arguments)
        return lambda: dict(list(read().items())[1:])

    monkeypatch.setattr(control, "walked", one_less)
    monkeypatch.setattr(contestants, "_PAUSE", 0)
    said = failed(capsys, 1, "bench", *QUICK, str(root))
    assert "TreeReader, text, copy=False: anon is " in said and "nothing was timed" in said


def test_cgroup_v1_is_timed_with_its_own_items(tmp_path: Path, capsys: Captured) -> None:
    root = make_v1(tmp_path / "root", root=True)
    report = json.loads(printed(capsys, "bench", "--json", *QUICK, str(root)))
    assert report["machine"]["cgroup"] == "cgroup v1"
    assert [part["part"] for part in report["parts"]][::2] == ["3 items", "1 cgroup, 3 items"]
    assert report["values_compared"] == 3 * (3 + 3) + 4


def test_a_missing_cgroup_is_status_1(tmp_path: Path, capsys: Captured) -> None:
    assert "does not exist" in failed(capsys, 1, "bench", str(tmp_path / "none"))


def test_a_cgroup_removed_during_the_command_is_an_error_in_one_line(
    root: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(rounds, "race", gone)
    assert "can no longer be read: No such device" in failed(capsys, 1, "bench", str(root))


def test_wrong_usage_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [("--seconds", "x"), ("--iterations", "0"), ("a", "b")]
    for arguments in cases:
        assert "--help" in failed(capsys, 2, "bench", *arguments)


def test_progress_is_one_line_that_goes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen:
        encoding = "ascii"
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(bench, "_BETWEEN", 0.0)
    assert main(["bench", *QUICK, str(root)]) == 0
    begun, *told, end = screen.text.split("\r\x1b[K")
    assert begun == end == ""
    assert f"6 items: {contestants.RAW}: round 1 of {rounds.ROUNDS}" in told
    assert all("\n" not in line and len(line) < 80 for line in told)


def test_ctrl_c(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    killed: list[int] = []
    monkeypatch.setattr(rounds, "race", interrupted)
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    assert main(["bench", str(root)]) == 130 and len(killed) == 1


# --- the numbers must agree -------------------------------------------------------------


def counting(name: str, *values: int) -> Contestant:
    each = itertools.chain(values, itertools.repeat(values[-1]))
    return Contestant(name, lambda: None, lambda: {"anon": next(each)})


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_changing_values_that_overlap_agree(no_pause: None) -> None:
    # Between 1 and 3; and once the first has come to rest.
    assert contestants.compare([counting("a", 1, 3), counting("b", 2)]) == 1
    assert contestants.compare([counting("a", 1, 2, 3, 3), counting("b", 9, 3)]) == 1


def test_a_value_that_disagrees_is_named(no_pause: None) -> None:
    with pytest.raises(StreamError, match=r"^b: anon is 4, not 1 to 3: nothing was timed$"):
        contestants.compare([counting("a", *([1, 3] * 40)), counting("b", 4)])


# --- rounds -----------------------------------------------------------------------------


def sleeping(name: str, seconds: float) -> Contestant:
    return Contestant(name, lambda: time.sleep(seconds))


def test_every_contestant_gets_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = sleeping("quick", 0.0005), sleeping("slow", 0.05)
    rounds.race([quick, slow], 0.2)
    assert 1 <= len(quick.batches) <= rounds.ROUNDS
    assert 1 <= slow.reads < quick.reads <= 400 and {batch.reads for batch in slow.batches} == {1}
    assert slow.microseconds("real") >= 50_000
    assert slow.microseconds("user") + slow.microseconds("system") < 10_000


def test_a_race_does_exactly_the_reads_asked_for() -> None:
    for reads in (1, 20, 21, 1000):
        done: list[None] = []
        one = Contestant("one", functools.partial(done.append, None))
        rounds.race([one], 9.0, reads)
        assert one.reads == len(done) == reads


def test_a_walk_is_divided_by_its_cgroups() -> None:
    one = Contestant("one", lambda: None, per=4, batches=[Batch(2, 80_000, 8000, 0)])
    assert one.microseconds("real") == 10 and one.microseconds("user") == 1


# --- the table and the chart ------------------------------------------------------------


def given(**times: int) -> benchmark.ReportSection:
    made = [
        Contestant(name, lambda: None, batches=[Batch(10, 10_000 * time, 2000, 1000)])
        for name, time in times.items()
    ]
    return benchmark.ReportSection("title", made, {"than a": "a", "than b": "b"})


def test_a_table_has_times_and_ratios() -> None:
    assert bench_report.times(given(a=12, b=6)) == (
        "title   real  user   sys  than a  than b\n"
        "a      12.00  0.20  0.10    1.0×    0.5×\n"
        "b       6.00  0.20  0.10    2.0×    1.0×"
    )


def test_a_chart_has_bars_in_proportion() -> None:
    lines = bench_report.chart(given(a=34, long=17, c=0), "#").splitlines()
    assert lines == [
        f"a     {'#' * 68} 34.00",
        f"long  {'#' * 34} 17.00",
        "c     # 0.00",
    ]


def test_blocks_are_what_the_output_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    class Out:
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Out)
    assert bench_report._block() == "#"
    Out.encoding = "utf-8"
    assert bench_report._block() == "█"


# --- perf -------------------------------------------------------------------------------


def sample(*functions: str) -> str:
    """As ``perf script -F ip,sym`` has it."""
    return "\n" + "".join(f"\tffffffff8224ba89 {each}\n" for each in functions)


FORMATTED = sample("format_decode", "vsnprintf", "seq_buf_printf", "memory_stat_show", "[unknown]")
COPIED = sample("strlen", "memory_stat_show")
PYTHON = sample("_Py_NewReference")


def test_samples_within_printing_are_counted() -> None:
    found = formatting.of_samples("\n".join([FORMATTED] * 60 + [COPIED] * 30 + [PYTHON] * 10))
    assert found == formatting.Formatting(0.6, 100)


def test_too_few_or_blind_samples_of_perf_are_explained() -> None:
    few = formatting.of_samples("\n".join([FORMATTED] * 49))
    assert few.share is None and "49 samples only" in few.why
    blind = formatting.of_samples("\n".join([PYTHON] * 100))
    assert blind.share is None and "does not see into the kernel" in blind.why


@pytest.fixture
def perf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a perf of this shell script the only one."""
    monkeypatch.undo()
    monkeypatch.setattr(formatting, "_SECONDS", "0.1")

    def make(script: str) -> None:
        (tmp_path / "perf").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "perf").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


def test_perf_is_asked_about_this_process(perf: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("\n".join([FORMATTED] * 50 + [COPIED] * 50))
    perf(
        f'case "$1" in record) echo "$@" > {tmp_path}/asked; shift 8; exec "$@";; '
        f"script) cat {tmp_path}/samples;; esac"
    )
    read: list[None] = []
    assert formatting.share(lambda: read.append(None)) == formatting.Formatting(0.5, 100)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[asked.index("-p") + 1] == str(os.getpid()) and len(read) >= 1000


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo; echo Error: >&2; echo 'No permission.' >&2; exit 1", "perf record: Error"),
        ('[ "$1" = record ] || { echo bad data >&2; exit 2; }', "perf script: bad data"),
        ("exit 3", "perf record: it failed"),
    ],
)
def test_the_message_of_a_failing_perf_is_kept(
    script: str, why: str, perf: Callable[[str], None]
) -> None:
    perf(script)
    assert formatting.share(lambda: None) == formatting.Formatting(None, why=why)


def test_a_perf_that_does_not_end_is_stopped(
    perf: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formatting, "_PATIENCE", 0.1)
    perf("exec sleep 60")
    assert formatting.share(lambda: None).why == "perf record does not end"


def test_a_missing_perf_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in formatting.share(lambda: None).why
