# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The commands that read cgroups, with a pin in place of the cgroup."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import UNLIMITED, MemcgError, PinnedReader, _wire
from pymemcgbpf._cli import pinned, readers, top, top_screen, watch
from pymemcgbpf._cli.main import main
from pymemcgbpf._cli.pinned import PinnedRows
from pymemcgbpf._cli.top_numbers import SHARE
from pymemcgbpf._cli.top_view import View
from pymemcgbpf._items import CATALOGUE
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._selection import CgroupSelection, with_items

from ...published_tree import ANON, PublishedTree
from ..commands import Captured, failed, printed
from ..conftest import RunPython
from ..directories import make_v2
from ..pin_files import ROW, TREE, TREE_NAMES, pinned_file, pinned_tree, published, stream
from ..tree_rows import pack

ROOT = "/sys/fs/cgroup/root"
HEAD = "time,path,anon,pgscan"


@pytest.fixture
def tree(bpffs: Path) -> str:
    """A pinned tree of four cgroups."""
    return str(pinned_tree(bpffs / "all", published()))


def old(path: Path, seconds: float, **options: Any) -> str:
    """A pinned tree whose last walk began some seconds ago."""
    made = PublishedTree(**options)
    began = time.monotonic_ns() - round(seconds * 1e9)
    made.publish(pack(*TREE), TREE_NAMES, started_ns=began)
    return str(pinned_tree(path, made))


# --- trees ------------------------------------------------------------------------------


def test_tree_draws_a_pin(tree: str, capsys: Captured) -> None:
    text = printed(capsys, "tree", tree, "anon")
    assert [line.rsplit(None, 2)[0] for line in text.splitlines()[1:]] == [
        ROOT,
        "├─ one.service",
        "└─ two.slice",
        "   └─ three.service",
    ]
    shown = json.loads(printed(capsys, "tree", "--json", tree, "pgscan"))
    assert [row["path"] for row in shown] == [
        *(ROOT, f"{ROOT}/one.service", f"{ROOT}/two.slice", f"{ROOT}/two.slice/three.service"),
    ]
    assert [row["items"] for row in shown] == [{"pgscan": number} for number in range(4)]


def test_tree_lists_the_largest_cgroups_of_a_pin(tree: str, bpffs: Path, capsys: Captured) -> None:
    text = printed(capsys, "tree", "--top", "2", tree)
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        *("two.slice/three.service", "two.slice")
    ]
    walk = str(pinned_file(bpffs / "walk", stream(TREE, 2)))
    text = printed(capsys, "tree", "--top", "2", "--bytes", walk, "pgscan", "anon")
    assert text.splitlines()[1:] == ["cgroup 13       3   103", "cgroup 12       2   102"]


def test_cat_takes_one_pin(tree: str, capsys: Captured) -> None:
    said = failed(capsys, 2, "cat", tree, "anon", "/sys/fs/bpf/other")
    assert "cat takes one PIN, and /sys/fs/bpf/other is another one" in said


def test_default_items_that_a_pin_lacks_are_left_out(
    tree: str, bpffs: Path, capsys: Captured
) -> None:
    assert printed(capsys, "tree", tree).split("\n", 1)[0].split() == ["anon"]
    other = pinned_file(bpffs / "other", stream(TREE, 2, items=(51, 52)))
    assert printed(capsys, "tree", str(other)).split("\n", 1)[0].split() == ["pgscan", "pgsteal"]


def test_items_choose_among_those_of_the_pin(tree: str, capsys: Captured) -> None:
    assert printed(capsys, "tree", tree, "pg*", "anon").split()[:2] == ["pgscan", "anon"]
    assert printed(capsys, "tree", tree, "pgscan", "--sort", "anon").split()[:2] == [
        *("pgscan", "anon"),
    ]
    for words in (["file"], ["file*"], ["--sort", "file"]):
        assert f"{tree} does not have 'file" in failed(capsys, 2, "tree", tree, *words)
        assert "it has anon, pgscan" in failed(capsys, 2, "tree", tree, *words)


def test_a_group_of_one_file_chooses_the_items_of_that_file(bpffs: Path, capsys: Captured) -> None:
    events = CATALOGUE["memory.events.oom"].number, CATALOGUE["memory.events.max"].number
    rows = [ROW._replace(values=(1, 2, 3))]
    path = str(pinned_file(bpffs / "one", stream(rows, items=(ANON, *events))))
    shown = json.loads(printed(capsys, "cat", "--json", path, "memory.events.*"))
    assert shown == {"memory.events.oom": 2, "memory.events.max": 3}
    assert "does not have 'memory.swap.events.*'" in failed(
        capsys, 2, "cat", path, "memory.swap.events.*"
    )


def test_what_only_a_cgroup_can_be_read_with_is_wrong_usage(tree: str, capsys: Captured) -> None:
    for command in ("tree", "stat", "watch", "export"):
        for option in (["--no-flush"], ["--backend", "core"]):
            said = failed(capsys, 2, command, tree, *option)
            assert f"{option[0]} cannot be used with a pin, and {tree} is on a bpffs" in said


def test_depth_limits_the_levels_of_a_pin(bpffs: Path, tree: str, capsys: Captured) -> None:
    for depth, count in ((0, 1), (1, 3), (2, 4), (9, 4)):
        shown = json.loads(printed(capsys, "tree", "--json", "--depth", str(depth), tree))
        assert len(shown) == count
    shallow = old(bpffs / "shallow", 0, max_depth=1)
    said = failed(capsys, 2, "tree", "--depth", "2", shallow)
    assert f"--depth 2 is more than {shallow} has, which is 1" in said
    assert main(["tree", "--depth", "1", shallow]) == 0


@pytest.mark.parametrize(
    ("order", "rows", "names"),
    [
        (2, TREE, ["cgroup 10", "├─ cgroup 11", "└─ cgroup 12", "   └─ cgroup 13"]),
        (3, [*reversed(TREE)], ["cgroup 10", "├─ cgroup 11", "└─ cgroup 12", "   └─ cgroup 13"]),
        (4, [TREE[3], TREE[2], TREE[0]], ["cgroup 10", "└─ cgroup 12", "   └─ cgroup 13"]),
        (5, TREE[1:3], ["cgroup 11", "cgroup 12"]),
    ],
)
def test_tree_draws_walks_in_any_order_and_without_names(
    order: int, rows: list[_wire.RawRow], names: list[str], bpffs: Path, capsys: Captured
) -> None:
    path = str(pinned_file(bpffs / "walk", stream(rows, order)))
    text = printed(capsys, "tree", path, "pgscan")
    assert [line.rsplit(None, 1)[0] for line in text.splitlines()[1:]] == names
    shown = json.loads(printed(capsys, "tree", "--json", path))
    assert {row["path"] for row in shown} == {None}
    one_level = {2: 3, 3: 3, 4: 2, 5: 2}[order]
    shown = json.loads(printed(capsys, "tree", "--json", "--depth", "1", path))
    assert len(shown) == one_level


def test_rows_that_claim_to_be_below_themselves_end(bpffs: Path, capsys: Captured) -> None:
    circle = [TREE[0], _wire.RawRow(11, 12, 2, 0, (1, 1)), _wire.RawRow(12, 11, 2, 0, (1, 1))]
    double = [_wire.RawRow(1 + at // 2, at // 2, 1, 0, (1, 1)) for at in range(80)]
    for rows, lines in ((circle, 2), (double, 81)):
        path = str(pinned_file(bpffs / "walk", stream(rows, 2)))
        assert printed(capsys, "tree", path).count("\n") == lines


def test_a_pin_of_one_cgroup_is_no_tree(bpffs: Path, capsys: Captured) -> None:
    path = str(pinned_file(bpffs / "one", stream([ROW])))
    for command in ("tree", "export"):
        assert "shows one cgroup and no tree" in failed(capsys, 1, command, path)


def test_a_pin_that_is_not_there_is_said_to_be_a_pin(bpffs: Path, capsys: Captured) -> None:
    for command in ("tree", "stat", "watch", "export", "cat"):
        assert "there is no pin at" in failed(capsys, 1, command, str(bpffs / "none"))


def test_without_proc_a_cgroup_is_still_read(
    v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(status: object, path: str) -> Any:
        raise MemcgError(f"{path} may be anywhere", errno=errno.ENOENT)

    monkeypatch.setattr(_bpffs, "is_on_bpffs", refuse)
    assert printed(capsys, "stat", "--backend", "text", str(v2), "anon") == "anon  4.0 KiB\n"


def test_export_writes_the_cgroups_of_a_pin(tree: str, capsys: Captured) -> None:
    text = printed(capsys, "export", tree, "pgscan")
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == 4 and samples[1].endswith('/one.service"} 1')


def test_export_of_a_pin_without_names_says_so(bpffs: Path, capsys: Captured) -> None:
    path = str(pinned_file(bpffs / "walk", stream(TREE, 2)))
    assert "has no names" in failed(capsys, 1, "export", path)


# --- one cgroup -------------------------------------------------------------------------


def test_stat_shows_one_cgroup_or_the_root_of_a_tree(
    bpffs: Path, tree: str, capsys: Captured
) -> None:
    one = str(pinned_file(bpffs / "one", stream([ROW])))
    assert printed(capsys, "stat", one) == "anon    4.0 KiB\npgscan    3\n"
    assert json.loads(printed(capsys, "stat", "--json", one, "pgscan")) == {"pgscan": 3}
    assert json.loads(printed(capsys, tree, "--json")) == {"anon": 100, "pgscan": 0}
    post = str(pinned_file(bpffs / "post", stream([*reversed(TREE)], 3)))
    assert json.loads(printed(capsys, "stat", "--json", post)) == {"anon": 100, "pgscan": 0}
    children = str(pinned_file(bpffs / "children", stream(TREE[1:3], 5)))
    assert "and not the cgroup itself" in failed(capsys, 1, "stat", children)


# --- samples ----------------------------------------------------------------------------


def test_watch_shows_fresh_reads_of_one_cgroup_at_the_interval(
    bpffs: Path, capsys: Captured
) -> None:
    path = str(pinned_file(bpffs / "one", stream([ROW])))
    text = printed(capsys, "watch", "--interval", "0.001", "--count", "3", path, "pgscan")
    assert [line.split(",")[1] for line in text.splitlines()] == ["pgscan", "3", "3", "3"]


class Refreshed:
    """Publishes further walks while a command waits for them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._tree = path, PublishedTree()
        self.waited: list[float] = []
        self.publish()
        wait = self._wait
        monkeypatch.setattr(PinnedReader, "wait", lambda _, timeout: wait(timeout))

    def publish(self) -> None:
        number = self._tree.number + 1
        rows = [row._replace(values=(number, number)) for row in TREE]
        self._tree.publish(pack(*rows), TREE_NAMES, started_ns=time.monotonic_ns())
        pinned_tree(self._path, self._tree)

    def _wait(self, timeout: float) -> bool:
        self.waited.append(timeout)
        if len(self.waited) % 2:
            return False
        self.publish()
        return True


@pytest.mark.parametrize("options", [(), ("--interval", "0.001")])
def test_watch_shows_each_walk_of_a_tree_once(
    options: tuple[str, ...], bpffs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed = Refreshed(bpffs / "all", monkeypatch)
    text = printed(capsys, "watch", *options, "--count", "3", str(bpffs / "all"), "pgscan")
    lines = [line.split(",") for line in text.splitlines()[1:]]
    assert [value for _, value in lines] == ["1", "2", "3"]
    assert len({when for when, _ in lines}) >= 1 and all(when.endswith("Z") for when, _ in lines)
    assert refreshed.waited == [3.0] * 4


class Restarted(Refreshed):
    """Publishes a walk, takes the pin away, and pins again after some looks."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        super().__init__(path, monkeypatch)
        self._looks = looks
        monkeypatch.setattr(time, "sleep", self._sleep)
        monkeypatch.setattr(pinned, "_PATIENCE", 0.0 if looks > 9 else 60.0)

    def _wait(self, timeout: float) -> bool:
        self.waited.append(timeout)
        if len(self.waited) == 2:
            shutil.rmtree(self._path)
        elif self._path.exists():
            self.publish()
        return True

    def _sleep(self, seconds: float) -> None:
        self._looks -= 1
        if not self._looks:
            self.publish()


def test_watch_waits_for_a_pin_that_is_pinned_again(
    bpffs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bpffs / "all"
    Restarted(path, monkeypatch, 3)
    assert main(["watch", "--count", "3", str(path), "pgscan"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[1] for line in out.splitlines()] == ["pgscan", "1", "2", "4"]
    assert f"there is no pin at {path}" in err and err.count("\n") == 1
    assert err.endswith("; waiting up to 60 s for it to be pinned again\n")


def test_watch_does_not_wait_for_ever_for_a_pin(
    bpffs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bpffs / "all"
    Restarted(path, monkeypatch, 1000)
    assert main(["watch", "--count", "3", str(path), "pgscan"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    first, last = err.splitlines()
    assert "waiting up to" in first and f"there is no pin at {path}" in last


def test_watch_of_several_shows_each_walk_of_a_tree_once(
    bpffs: Path, tree: str, capsys: Captured
) -> None:
    one = str(pinned_file(bpffs / "one", stream([ROW])))
    options = ("--interval", "0.001", "--count", "3")
    lines = printed(capsys, "watch", *options, tree, one, "pgscan").splitlines()
    assert [line.partition(",")[2] for line in lines] == [
        *("path,pgscan", f"{tree},0", f"{one},3", f"{one},3", f"{one},3"),
    ]


def test_watch_shows_the_levels_of_a_tree(
    bpffs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    Refreshed(bpffs / "all", monkeypatch)
    options = ("--depth", "1", "--count", "2", str(bpffs / "all"))
    text = printed(capsys, "watch", *options)
    head, *lines = text.splitlines()
    assert head == HEAD
    assert [line.split(",", 1)[1] for line in lines] == [
        f"{ROOT}{name},{number},{number}"
        for number in (1, 2)
        for name in ("", "/one.service", "/two.slice")
    ]


def test_the_time_of_a_sample_is_that_of_the_walk(bpffs: Path, capsys: Captured) -> None:
    path = old(bpffs / "all", 3600, interval_ns=0)
    before = time.time() - 3600
    shown = json.loads(printed(capsys, "watch", "--json", "--count", "1", path))
    hour = time.strftime("%Y-%m-%dT%H:", time.gmtime(before))
    after = time.strftime("%Y-%m-%dT%H:", time.gmtime(before + 60))
    assert shown["time"].startswith((hour, after))


def test_a_stale_tree_is_announced_once(
    bpffs: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old(bpffs / "all", 10)
    for command in ("cat", "tree", "stat", "export", "watch"):
        count = ["--count", "1"] if command == "watch" else []
        assert main([command, *count, path, "anon"]) == 0
        out, err = capsys.readouterr()
        assert out and err == (
            f"pymemcgbpf: {path} is stale: the last walk began 10 s ago, and one was due every "
            "1 s\n"
        )
    assert printed(capsys, "tree", old(bpffs / "fresh", 2))
    assert printed(capsys, "tree", old(bpffs / "free", 10, interval_ns=0))
    waits = itertools.count()

    def wait(*_: object, **__: object) -> bool:
        if next(waits) == 3:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(PinnedReader, "wait", wait)
    with pinned.PinnedRows(path, pinned.Chosen()) as reader:
        samples = reader.every(None)
        next(samples)
        with pytest.raises(KeyboardInterrupt):
            next(samples)
    assert capsys.readouterr().err.count("is stale") == 1


# --- top --------------------------------------------------------------------------------


def shown_by_top(path: str, *words: str) -> tuple[View, PinnedRows]:
    """What top shows of a pin, and the reader of it; the screen has 80 columns."""
    options = top._parser().parse_words([path, *words])
    reader = readers.tree_reader(options, top._DEFAULT_ITEMS_READ)
    assert isinstance(reader, PinnedRows)
    reader.warns = False
    view = top._view(options, reader)
    view.show(reader.read(), top._status(reader, 1))
    return view, reader


def lines_of(view: View) -> list[str]:
    lines = top_screen.lines(view, 12, 80)
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def test_top_says_that_a_pin_is_stale_on_its_screen(bpffs: Path, capsys: Captured) -> None:
    view, reader = shown_by_top(old(bpffs / "all", 10))
    with reader:
        assert "(the last walk began 10 s ago, and one was" in lines_of(view)[0]
    view, reader = shown_by_top(old(bpffs / "new", 0))
    with reader:
        assert "(pin/stream, every 1 s)" in lines_of(view)[0]
    assert capsys.readouterr() == ("", "")


def test_top_names_the_cgroups_of_a_pin_without_names(bpffs: Path, tree: str) -> None:
    walk = str(pinned_file(bpffs / "walk", stream(TREE, 2)))
    for path, names, drawn in (
        (
            walk,
            ["cgroup 13", "cgroup 12", "cgroup 11", "cgroup 10"],
            ["cgroup 10", "├─ cgroup 12", "│  └─ cgroup 13", "└─ cgroup 11"],
        ),
        (
            tree,
            ["two.slice/three.service", "two.slice", "one.service", ROOT],
            [ROOT, "├─ two.slice", "│  └─ three.service", "└─ one.service"],
        ),
    ):
        view, reader = shown_by_top(path)
        with reader:
            assert [line[11:] for line in lines_of(view)[2:6]] == names
            view.press("t")
            assert [line[11:] for line in lines_of(view)[2:6]] == drawn
        view, reader = shown_by_top(path, "--filter", names[1])
        with reader:
            assert len(view.order.places) == (2 if path == tree else 1)


def test_top_shows_all_items_of_a_pin_on_the_page_of_a_cgroup(tree: str) -> None:
    view, reader = shown_by_top(tree, "anon")
    with reader:
        assert lines_of(view)[1].split() == ["anon", "cgroup"]
        view.press("down")
        view.press("enter")
        assert lines_of(view)[0] == f"{ROOT}/two.slice"
        assert [line.split()[:2] for line in lines_of(view)[2:4]] == [
            ["anon", "102"],
            ["pgscan", "2"],
        ]
        view.show(reader.read(), "")
        assert [line.split()[-1] for line in lines_of(view)[2:4]] == ["-", "-"]  # the same walk
        reader.whole = with_items(CgroupSelection(depth=0).apply(reader.read()), ("anon",))
        assert view.page is not None
        view.page.refresh()
        assert lines_of(view)[1] == "the pin does not have this cgroup any more: it was removed"
        assert ["anon", "102", "B", "-"] in [line.split() for line in lines_of(view)]


def test_top_shows_all_items_of_a_pin_that_has_none_of_the_default_items(bpffs: Path) -> None:
    numbers = [CATALOGUE[name].number for name in ("pgscan", "derived.effective_limit")]
    rows = [_wire.RawRow(10, 1, 1, 0, (75, 100))]
    view, reader = shown_by_top(str(pinned_file(bpffs / "walk", stream(rows, 2, items=numbers))))
    with reader:
        assert reader.item_names == ("pgscan", "derived.effective_limit")
        assert view.columns == ["pgscan", "derived.effective_limit"]


def test_top_shows_the_share_of_the_limit_if_the_pin_has_its_items(bpffs: Path) -> None:
    numbers = [CATALOGUE[name].number for name in ("memory.current", "derived.effective_limit")]
    rows = [_wire.RawRow(10, 1, 1, 0, (75, 100)), _wire.RawRow(11, 10, 2, 0, (5, UNLIMITED))]
    path = str(pinned_file(bpffs / "walk", stream(rows, 2, items=numbers)))
    view, reader = shown_by_top(path)
    with reader:
        assert view.columns == ["memory.current", SHARE]
        assert lines_of(view)[2].split() == ["75", "B", "75.0", "cgroup", "10"]


# --- parts of snapshots -----------------------------------------------------------------


def test_a_value_that_a_cgroup_lacks_stays_absent(bpffs: Path) -> None:
    rows = [TREE[0]._replace(values=(_wire.ABSENT, UNLIMITED - 1)), *TREE[1:]]
    path = pinned_file(bpffs / "walk", stream(rows, 2))
    with pinned.PinnedRows(str(path), pinned.Chosen(["anon"])) as reader:
        assert dict(reader.read()[0]) == {}


def test_an_empty_walk_has_no_levels(bpffs: Path, capsys: Captured) -> None:
    path = str(pinned_file(bpffs / "none", stream([], 5)))
    assert printed(capsys, "tree", "--json", "--depth", "1", path) == "[]\n"
    assert printed(capsys, "tree", path).split() == ["anon"]


# --- which path is a pin ----------------------------------------------------------------


def test_what_is_on_a_bpffs_is_a_pin(bpffs: Path, tmp_path: Path) -> None:
    for path in (bpffs, bpffs / "none" / "none"):
        assert _bpffs.leads_to_bpffs(str(path))
    for other in (str(make_v2(tmp_path / "v2")), str(tmp_path / "none"), "/", "a\0b", None):
        assert not _bpffs.leads_to_bpffs(other)


def test_a_pin_is_read_as_a_stream_without_ctypes(run_python: RunPython, tmp_path: Path) -> None:
    pinned_tree(tmp_path / "all", published())
    commands = [
        *(["tree", "all"], ["cat", "all"], ["stat", "all"], ["export", "all"]),
        ["watch", "--count", "1", "--depth", "1", "all"],
    ]
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "from pymemcgbpf._pins import bpffs as _bpffs\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "from pymemcgbpf._cli.main import main\n"
        f"print([main(words) for words in {commands}])\n"
        "print([name for name in sys.modules if '_sources' in name or '_bpf.' in name])\n"
    )
    ran = run_python("-c", code)
    assert ran.stdout.splitlines()[-2:] == ["[0, 0, 0, 0, 0]", "[]"]
    assert ran.stderr == "" and "ctypes" in sys.modules


# --- without /proc ----------------------------------------------------------------------


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the mount table unreadable, so that nobody knows what is on a bpffs."""
    real_open = open

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == "/proc/self/mountinfo":
            raise FileNotFoundError(errno.ENOENT, "x")
        return real_open(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)


@pytest.mark.usefixtures("without_proc")
def test_what_may_be_a_pin_is_said_to_need_proc(tmp_path: Path, v2: Path, capsys: Captured) -> None:
    one = str(pinned_file(tmp_path / "one", stream([ROW])))
    tree = str(pinned_tree(tmp_path / "all", published()))
    for words in (["stat", one], ["tree", tree], ["watch", tree], ["doctor", tree]):
        said = failed(capsys, 1, *words)
        assert f"whether {words[1]} is on a bpffs, as pins are, cannot be told, because" in said
        assert said.endswith(": mount /proc\n")
    # What is a cgroup, or nothing at all, is not called a pin.
    assert "4.0 KiB" in printed(capsys, "stat", "--backend", "text", str(v2), "anon")
    assert "no such cgroup" in failed(capsys, 1, "stat", str(tmp_path / "none"))


def test_samples_of_several_pins_come_with_new_walks_at_the_shortest_interval() -> None:
    class Pin(pinned.PinnedValues):
        def __init__(
            self, interval: Optional[float], walks: list[Optional[dict[str, int]]]
        ) -> None:
            self.path, self.interval, self.time, self._walks = "/pin", interval, 1.0, iter(walks)

        def read_new(self) -> Optional[dict[str, int]]:
            return next(self._walks)

        def close(self) -> None:
            pass

    pins = [Pin(5.0, [{"anon": 1}, None, None]), Pin(0.002, [{"anon": 2}, None, {"anon": 3}])]
    assert watch._interval_of(pins) == 0.002
    assert watch._interval_of([Pin(None, []), Pin(5.0, [])]) == 1
    samples = watch._samples_of_several(pins, None)
    shown = [[each.values["anon"] for each in found] for found in itertools.islice(samples, 2)]
    assert shown == [[1, 2], [3]]
