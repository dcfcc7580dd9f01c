# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf top, on fake cgroup directories; the whole program in a terminal of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

import pymemcgbpf
from pymemcgbpf import Snapshot, TreeReader
from pymemcgbpf._cli import top_terminal
from pymemcgbpf._cli.main import main
from pymemcgbpf._cli.top_numbers import Numbers
from pymemcgbpf._cli.top_page import KEYS
from pymemcgbpf._sources import choose as _choose

from ...terminal import COLOUR_NAME, NAME, Terminal, terminal
from ..commands import TEXT, Captured, RefuseBpf, failed
from ..conftest import RunPython
from ..directories import make_v1, make_v2


def stat(anon: int, faults: int) -> str:
    return f"anon {anon}\nfile 0\npgfault {faults}\npgmajfault 0\n"


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """A root and 40 cgroups, the later the larger."""
    root = make_v2(tmp_path / "root", stat=stat(1 << 30, 0), current=None, kind=None)
    for number in range(40):
        make_v2(root / f"g{number}", stat=stat(number << 20, 1000), current=f"{number << 10}")
    return root


def test_items_that_only_bpf_has_on_v1_are_missed_aloud(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())

    @contextlib.contextmanager
    def quits() -> Iterator[top_terminal.Terminal]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(top_terminal, "check", lambda: None)
    monkeypatch.setattr(top_terminal, "opened", quits)
    path = str(make_v1(tmp_path / "v1"))
    assert main(["top", path, "anon", "slab*"]) == 0
    said = "as text, up to 3 of 4 items are missing (slab_reclaimable, slab_unreclaimable, slab)"
    assert capsys.readouterr().err == f"pymemcgbpf: {said}\n"
    assert main(["top", path, "anon", "file"]) == 0
    assert capsys.readouterr().err == ""


# --- the numbers ------------------------------------------------------------------------


class Shown:
    """The numbers of a tree's walks, by the cgroups' names."""

    growth = False

    def __init__(self, reader: TreeReader) -> None:
        self._reader = reader
        self._before: Optional[Snapshot] = None

    def next(self, seconds: int = 2) -> dict[str, tuple[Optional[float], ...]]:
        """After so many seconds."""
        snapshot, before = self._reader.read(), self._before
        if before is not None:
            began = snapshot.started_ns - seconds * 1_000_000_000
            before._times = before._times._replace(started_ns=began)
        numbers, self._before = Numbers(snapshot, before), snapshot
        columns = [numbers.column(name, self.growth) for name in snapshot.item_names]
        return {row.relative_path or "": values for row, values in zip(snapshot, zip(*columns))}


@pytest.fixture
def shown(forest: Path) -> Iterator[Shown]:
    items = ["memory.current", "pgfault"]
    with TreeReader(forest, items, backend="text") as reader:
        yield Shown(reader)


def test_counters_are_rates_and_gauges_values(forest: Path, shown: Shown) -> None:
    assert shown.next()["g3"] == (3072, None)
    (forest / "g3" / "memory.stat").write_text(stat(0, 1050))
    (forest / "g3" / "memory.current").write_text("7\n")
    assert shown.next(2)["g3"] == (7, 25)
    assert shown.next(4)["g3"] == (7, 0)
    assert shown.next()["."] == (None, 0)


def test_a_counter_that_restarts_has_no_negative_rate(forest: Path, shown: Shown) -> None:
    shown.next()
    (forest / "g3" / "memory.stat").write_text(stat(0, 10))
    assert shown.next()["g3"] == (3072, 5)


def test_another_cgroup_at_the_same_path_has_a_rate_of_its_own(forest: Path, shown: Shown) -> None:
    shown.next()
    os.rename(forest / "g3", forest / "renamed")
    make_v2(forest / "g3", stat=stat(0, 90), current="1")
    (forest / "renamed" / "memory.stat").write_text(stat(0, 1002))
    found = shown.next()
    assert found["g3"] == (1, 45)
    assert found["renamed"] == (3072, 1)
    assert shown.next()["g3"] == (1, 0)


def test_with_growth_gauges_show_their_change_per_second(forest: Path, shown: Shown) -> None:
    shown.growth = True
    assert shown.next()["g3"] == (None, None)
    (forest / "g3" / "memory.current").write_text("2072\n")
    assert shown.next(2)["g3"] == (-500, 0)


# --- the program ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _the_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(pymemcgbpf.__file__).resolve().parents[1]))


@pytest.fixture
def run(forest: Path, tmp_path: Path) -> Iterator[Terminal]:
    """top in a terminal of 12 lines, of which 9 are cgroups."""
    with started(tmp_path, str(forest)) as made:
        made.wait_for(is_drawn)
        yield made


def started(
    folder: Path, *arguments: str, term: str = NAME, prefix: tuple[str, ...] = ()
) -> contextlib.AbstractContextManager[Terminal]:
    command = (
        *prefix,
        sys.executable,
        "-m",
        "pymemcgbpf",
        "top",
        *TEXT,
        "--interval",
        "0.1",
        *arguments,
    )
    return terminal(command, folder, rows=12, term=term)


def is_drawn(lines: list[str]) -> bool:
    return lines[-1].startswith("q quit")


def cgroups(lines: list[str]) -> list[str]:
    return [line.split()[-1] for line in lines[2:-1] if line]


def test_the_screen_shows_the_largest_cgroups(run: Terminal, forest: Path) -> None:
    lines = run.wait_for(lambda lines: "0.0" in lines[3])
    assert lines[:4] == [
        "41 cgroups by memory.current, largest first (text, every 0.1 s)",
        "   current       anon       file  pgfault/s pgmajfault/s cgroup",
        "  39.0 KiB   39.0 MiB        0 B        0.0          0.0 g39",
        "  38.0 KiB   38.0 MiB        0 B        0.0          0.0 g38",
    ]
    assert cgroups(lines) == [f"g{number}" for number in range(39, 30, -1)]
    assert run.screen.is_alternate and not run.screen.cursor_is_shown


@pytest.mark.parametrize("how", ["q", "Q", "\x03", "SIGTERM"])
def test_top_restores_the_terminal(how: str, run: Terminal) -> None:
    if how == "SIGTERM":
        run.process.send_signal(signal.SIGTERM)
    else:
        run.type(how)
    assert run.wait() == (143 if how == "SIGTERM" else 0, "")
    assert run.is_as_before


def test_keys_change_the_item_and_the_direction_of_sorting(run: Terminal, forest: Path) -> None:
    run.type(">")
    lines = run.wait_for(lambda lines: "by anon, largest" in lines[0])
    assert cgroups(lines)[0].endswith("/root") and cgroups(lines)[1] == "g39"
    run.type("r")
    lines = run.wait_for(lambda lines: "by anon, smallest" in lines[0])
    assert cgroups(lines)[:2] == ["g0", "g1"]
    run.type("\x1b[D\x1b[D\x1b[D")
    lines = run.wait_for(lambda lines: "by memory.current, smallest" in lines[0])
    assert cgroups(lines)[0] == "g0"
    run.type("r" + ">" * 9)
    run.wait_for(lambda lines: "by pgmajfault, largest" in lines[0])


def test_keys_move_the_cursor_and_the_screen_follows(run: Terminal, forest: Path) -> None:
    for keys, first, at in (
        ("", "g39", "g39"),
        ("\x1b[B", "g39", "g38"),
        ("\x1b[6~", "g30", "g29"),
        ("\x1b[5~", "g39", "g38"),
        ("\x1b[A\x1b[A\x1b[A", "g39", "g39"),
        ("\x1b[6~" * 9, "g7", str(forest)[-4:]),  # the root, without the item, is at the end
    ):
        run.type(keys)
        run.wait_for(first_and_cursor(run, first, at))


def first_and_cursor(run: Terminal, first: str, at: str) -> Callable[[list[str]], bool]:
    """Whether the first cgroup's name is so, and that at the cursor ends so."""

    def are_shown(lines: list[str]) -> bool:
        reversed_ = [line[-len(at) :] for line in run.screen.reversed]
        return cgroups(lines)[:1] == [first] and reversed_ == [at]

    return are_shown


def test_a_filter_is_typed(run: Terminal) -> None:
    run.type("/g1")
    run.wait_for(lambda lines: lines[-1].startswith("/g1_") and cgroups(lines)[-1] == "g11")
    run.type("x\x7f2\r")
    lines = run.wait_for(lambda lines: is_drawn(lines) and cgroups(lines) == ["g12"])
    assert lines[0].startswith("1 of 41 cgroups with 'g12' by memory.current")
    run.type("\x1b")
    run.wait_for(lambda lines: lines[0].startswith("41 cgroups by"))


def test_a_filter_can_have_any_letters(forest: Path, tmp_path: Path) -> None:
    make_v2(forest / "日本", stat=stat(9, 9), current="9")
    with started(tmp_path, str(forest)) as run:
        run.wait_for(is_drawn)
        run.type("/本")
        run.wait_for(lambda lines: cgroups(lines) == ["日本"])


def test_a_tree_is_drawn(run: Terminal, forest: Path) -> None:
    make_v2(forest / "g7" / "below", stat=stat(9, 9), current="9999999")
    run.type("tz/g7\r")
    lines = run.wait_for(lambda lines: len(cgroups(lines)) == 3)
    assert lines[0].startswith("3 of 42 cgroups with 'g7' without zeros by memory.current")
    assert lines[3].endswith(" └─ g7") and lines[4].endswith("    └─ below")


def test_a_tree_is_drawn_in_the_letters_of_the_terminal(forest: Path, tmp_path: Path) -> None:
    environment = ("env", "LC_ALL=C", "PYTHONIOENCODING=utf-8")
    with started(tmp_path, str(forest), prefix=environment) as run:
        run.wait_for(is_drawn)
        run.type("tz/g7\r")
        lines = run.wait_for(lambda lines: len(cgroups(lines)) == 2)
        assert lines[3].endswith(" `- g7")


def test_enter_shows_all_items_of_a_cgroup_live(run: Terminal, forest: Path) -> None:
    run.type("\x1b[B\r")
    run.wait_for(lambda lines: lines[0] == f"{forest}/g38")
    lines = run.wait_for(lambda lines: any(line.endswith(" 0.0") for line in lines))  # read twice
    shown = {line.split()[0]: line.split()[1:] for line in lines[2:-1] if line}
    assert shown["memory.current"] == ["38.0", "KiB", "0", "B"]
    assert shown["pgfault"] == ["1,000", "0.0"]
    assert lines[-1].startswith("q back")
    (forest / "g38" / "memory.stat").write_text(stat(0, 1234))
    run.wait_for(
        lambda lines: any(line.startswith("pgfault") and "1,234" in line for line in lines)
    )
    run.type("q")
    run.wait_for(is_drawn)
    run.type("q")
    assert run.wait() == (0, "")


def test_the_details_of_a_cgroup_that_was_replaced_say_that_it_was_removed(
    run: Terminal, forest: Path
) -> None:
    run.type("p")
    run.wait_for(lambda lines: lines[0].startswith("paused: "))
    os.rename(forest / "g39", forest.parent / "elsewhere")
    make_v2(forest / "g39", stat=stat(0, 0), current="1")
    run.type("\r")
    run.wait_for(lambda lines: "was removed" in " ".join(lines[1:4]))


def test_a_pause_keeps_the_numbers(run: Terminal, forest: Path) -> None:
    run.type("p")
    run.wait_for(lambda lines: lines[0].startswith("paused: 41 cgroups"))
    (forest / "g0" / "memory.current").write_text("999999999\n")
    run.type("\x1b[B")
    run.wait_for(lambda lines: run.screen.reversed[0].endswith("g38"))
    time.sleep(0.3)
    assert cgroups(run.wait_for(is_drawn))[0] == "g39"
    run.type(" ")
    run.wait_for(lambda lines: cgroups(lines)[0] == "g0" and lines[0].startswith("41 cgroups"))


def test_the_help_shows_the_keys(run: Terminal) -> None:
    run.type("?")
    run.wait_for(lambda lines: lines[0] == "Keys of pymemcgbpf top" and "Enter" in lines[2])
    run.type("\x1b")
    run.wait_for(is_drawn)


@pytest.mark.parametrize("paused", [False, True])
def test_a_signal_ends_top_at_once(paused: bool, forest: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(forest), "--interval", "1000") as run:
        run.wait_for(is_drawn)
        if paused:
            run.type("p")
            run.wait_for(lambda lines: lines[0].startswith("paused: "))
        run.process.send_signal(signal.SIGTERM)
        assert run.wait(10) == (143, "")
        assert run.is_as_before


def test_closing_the_terminal_ends_top(run: Terminal) -> None:
    run.hang_up()
    assert run.process.wait(30) == 128 + signal.SIGHUP
    assert run.process.stderr is not None and run.process.stderr.read() == ""


# A shell with job control: it says that a job has stopped, and "fg" and Enter continue it.
_SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    status = os.waitpid(pid, os.WUNTRACED)[1]
    os.tcsetpgrp(0, os.getpid())
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("stopped", flush=True)
    assert input() == "fg"
    os.tcsetpgrp(0, pid)
    os.kill(-pid, signal.SIGCONT)
"""


def test_top_can_be_stopped_and_continued(forest: Path, tmp_path: Path) -> None:
    program = (sys.executable, "-m", "pymemcgbpf", "top", *TEXT, "--interval", "0.1", str(forest))
    with terminal((sys.executable, "-c", _SHELL, *program), tmp_path, rows=12) as run:
        run.wait_for(is_drawn)
        for _ in range(2):
            run.type("\x1a")
            run.wait_for(lambda lines: any(line.startswith("stopped") for line in lines))
            assert run.is_as_before
            run.screen.erase_in_display(2)
            run.type("fg\n")
            lines = run.wait_for(is_drawn)
            assert cgroups(lines)[0] == "g39" and run.screen.is_alternate
        run.type("q")
        assert run.wait() == (0, "")


# --- colours ----------------------------------------------------------------------------


@pytest.fixture
def limited(forest: Path) -> Path:
    """The cgroups with limits: g39 is near its own."""
    for number in range(40):
        (forest / f"g{number}" / "memory.max").write_text("40960\n" if number > 37 else "max\n")
    return forest


def test_the_share_of_the_limit_is_shown_where_there_are_limits(
    limited: Path, tmp_path: Path
) -> None:
    with started(tmp_path, str(limited)) as run:
        lines = run.wait_for(is_drawn)
        assert lines[1] == "   current %limit       anon       file  pgfault/s pgmajfault/s cgroup"
        assert [line.split()[2] for line in lines[2:5]] == ["97.5", "95.0", "-"]
        run.type("l")
        run.wait_for(lambda lines: "%limit" not in lines[1])


@pytest.mark.parametrize(
    ("term", "no_color", "colour", "bold"),
    [
        (COLOUR_NAME, "", "red", False),
        (COLOUR_NAME, "1", "default", True),
        (NAME, "", "default", True),
    ],
)
def test_only_what_is_near_its_limit_has_a_colour(
    term: str,
    no_color: str,
    colour: str,
    bold: bool,
    limited: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (limited / "g38" / "memory.current").write_text("20480\n")
    monkeypatch.setenv("NO_COLOR", no_color)
    with started(tmp_path, str(limited), term=term) as run:
        run.wait_for(is_drawn)
        cells = [cell for line in run.screen.buffer.values() for cell in line.values()]
        assert {cell.bg for cell in cells} == {"default"}
        assert {cell.fg for cell in cells} == {"default", colour}
        share = run.screen.buffer[2][13]
        assert (share.data, share.fg, share.bold) == ("9", colour, bold)
        assert run.screen.reversed[0].endswith("g39")


def test_the_screen_follows_the_size_of_the_terminal(run: Terminal, forest: Path) -> None:
    run.resize(30, 120)
    lines = run.wait_for(is_drawn)
    assert len(cgroups(lines)) == 27
    run.resize(5, 40)
    lines = run.wait_for(is_drawn)
    assert cgroups(lines) == ["g39", "g38"]
    assert lines[1] == "   current       anon cgroup"
    assert lines[-1] == "q quit  ? help  +3 columns (widen): fil"
    run.type(">>>")  # what is sorted by is always shown
    lines = run.wait_for(lambda lines: lines[1] == "   current  pgfault/s cgroup")
    run.resize(1, 1)
    run.resize(12, 80)
    run.wait_for(lambda lines: is_drawn(lines) and len(cgroups(lines)) == 9)
    run.type("q")
    assert run.wait() == (0, "")


def test_keys_work_with_the_shortest_interval(forest: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--interval", "0.001", str(forest)) as run:
        run.wait_for(lambda lines: is_drawn(lines) and "0.0" in lines[2], settled=False)
        run.type("q")
        assert run.wait() == (0, "")


def test_new_and_removed_cgroups_are_followed(run: Terminal, forest: Path) -> None:
    make_v2(forest / "new", stat=stat(0, 5), current="999999999")
    lines = run.wait_for(lambda lines: cgroups(lines)[0] == "new" and "0.0" in lines[2])
    assert lines[0].startswith("42 cgroups")
    os.rename(forest / "new", forest.parent / "gone")
    lines = run.wait_for(lambda lines: lines[0].startswith("41 cgroups"))
    assert cgroups(lines)[0] == "g39"


def test_top_ends_with_an_error_when_its_root_is_removed(run: Terminal, forest: Path) -> None:
    shutil.rmtree(forest)
    status, said = run.wait()
    assert status == 1 and said.startswith("pymemcgbpf: ") and said.count("\n") == 1
    assert run.is_as_before


def test_the_options_of_top(forest: Path, tmp_path: Path) -> None:
    below = make_v2(forest / "g1" / "below-日本語", stat=stat(9, 9), current="9")
    make_v2(below / "deeper")
    options = ("--depth", "2", "--filter", "g1/", "--sort", "file", str(forest), "anon")
    with started(tmp_path, *options) as run:
        lines = run.wait_for(is_drawn)
        assert lines[0].startswith("1 of 42 cgroups with 'g1/' by file, largest first")
        assert lines[1] == "      anon       file cgroup"
        assert cgroups(lines) == ["g1/below-日本語"]


def test_the_filter_does_not_look_above_the_root(forest: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--filter", forest.name, str(forest)) as run:
        lines = run.wait_for(is_drawn)
        assert lines[0].startswith("0 of 41 cgroups") and cgroups(lines) == []


def test_a_hangup_ends_top(run: Terminal) -> None:
    os.kill(run.process.pid, signal.SIGHUP)
    assert run.wait()[0] == 128 + signal.SIGHUP


def test_top_in_the_test_terminal_does_not_ignore_signals(forest: Path, tmp_path: Path) -> None:
    """Whatever this process ignores."""
    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with started(tmp_path, str(forest)) as run:
            run.wait_for(is_drawn)
            os.kill(run.process.pid, signal.SIGHUP)
            assert run.wait()[0] == 128 + signal.SIGHUP
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("arguments", [("/nowhere",), ("--backend", "text", "/nowhere")])
def test_a_failed_read_does_not_touch_the_terminal(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with started(tmp_path, *arguments) as run:
        status, said = run.wait()
        assert (status, said) == (1, "pymemcgbpf: '/nowhere' does not exist: no such cgroup\n")
        assert run.is_as_before and not any(run.screen.shown)


@pytest.mark.parametrize("term", ["none-such", "dumb"])
def test_an_unsuitable_terminal_is_an_error_in_one_line(
    term: str, forest: Path, tmp_path: Path
) -> None:
    with started(tmp_path, str(forest), term=term) as run:
        status, said = run.wait()
    assert status == 1 and said.count("\n") == 1
    assert said.startswith("pymemcgbpf: this terminal cannot be drawn on: ")


# --- where there is no terminal ---------------------------------------------------------


def test_without_a_terminal_top_refuses_to_start(forest: Path, capsys: Captured) -> None:
    assert "needs a terminal" in failed(capsys, 1, "top", *TEXT, str(forest))


def test_without_curses_top_refuses_to_start(
    forest: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_terminal, "curses", None)
    assert "no curses module" in failed(capsys, 1, "top", *TEXT, str(forest))


def test_closed_standard_files_are_an_error_in_one_line(
    forest: Path, run_python: RunPython
) -> None:
    code = "import sys; sys.stdout = sys.stdin = None; from pymemcgbpf._cli.main import main; "
    ran = run_python("-c", f"{code}sys.exit(main(['top']))")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


def test_the_keys_are_in_the_help_of_the_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["top", "--help"])
    lines = capsys.readouterr().out.split("\nkeys:\n")[1].splitlines()
    assert [line[2:].split("  ")[0] for line in lines] == [*KEYS]
    assert max(map(len, lines)) <= 80


def test_a_wrong_option_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [
        ("--interval", "0"),
        ("--sort", "memory.*"),
        ("--depth", "x"),
        ("--filter",),
    ]
    for arguments in cases:
        assert "--help" in failed(capsys, 2, "top", *arguments)


def test_an_unknown_item_is_status_2(
    forest: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_terminal, "check", lambda: None)
    assert main(["top", *TEXT, str(forest), "annon"]) == 2
    assert "'anon'" in capsys.readouterr().err
