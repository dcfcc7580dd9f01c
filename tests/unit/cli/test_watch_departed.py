# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf watch --departed, with readers that see what a test has removed."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import pytest

from pymemcgbpf import UNLIMITED, CgroupRemovedError, Departed, MemcgError, Snapshot, _wire
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import watch_departed
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins import bpffs as _bpffs
from pymemcgbpf._sources import choose as _choose

from ..commands import TEXT, Captured, RefuseBpf, failed
from ..directories import make_v2
from ..tree_rows import departed_rows, snapshot_of

NAMES = ("memory.peak", "memory.max")
QUICK = ("--interval", "0.001")
ROOT = Path("/tree")


def departed(*names: str, at: int = 4, lost: int = 0, root: Path = ROOT) -> Departed:
    """Cgroups of these names, which were removed from second *at* on, one each millisecond."""
    return departed_rows(
        [_wire.RawRow(100 + each, 7, 2, 0, (4096 + each, UNLIMITED)) for each in range(len(names))],
        [at * 10**9 + each * 10**6 for each in range(len(names))],
        NAMES,
        paths=[f"{root}/{name}" for name in names],
        lost=lost,
        began=5 * 10**9,
        root=root,
    )


Answer = Union[Departed, MemcgError, None]


class Reader:
    """Answers as the test says; after that, its cgroup is removed."""

    def __init__(self, path: str, answers: Sequence[Answer]) -> None:
        self.path, self._answers = path, iter(answers)
        self.item_names, self.fallback_reason = NAMES, "departed: it is a fake"
        self.is_closed = False

    def read(self) -> Snapshot:
        answer = next(self._answers, CgroupRemovedError(f"{self.path} was removed"))
        if isinstance(answer, MemcgError):
            raise answer
        return snapshot_of([], Path(self.path), NAMES, departed=answer)

    def close(self) -> None:
        self.is_closed = True


class Readers:
    """Stands in for departed_reader()."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Sequence[Answer]] = {}
        self.made: list[Reader] = []
        self.asked: list[Any] = []
        monkeypatch.setattr(watch_departed, "departed_reader", self.make)

    def make(self, path: str, items: Sequence[str], backend: str, depth: object) -> Reader:
        self.asked.append((path, items, backend, depth))
        self.made.append(Reader(path, self.answers.get(path, ())))
        return self.made[-1]


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Readers:
    return Readers(monkeypatch)


def run(captured: Captured, *arguments: str, status: int = 1) -> tuple[list[list[str]], str]:
    """The lines of CSV of a command, and what it says on stderr."""
    assert main(["watch", "--departed", *QUICK, *arguments]) == status
    out, err = captured.readouterr()
    return list(csv.reader(io.StringIO(out, newline=""))), err


def test_a_line_for_each_removed_cgroup_in_order(readers: Readers, capsys: Captured) -> None:
    readers.answers["/tree"] = [departed(), departed("a", 'b,"\r/c'), departed(), departed("d")]
    lines, err = run(capsys, "/tree")
    assert lines == [
        ["time", "path", *NAMES],
        ["1970-01-01T00:16:39.000Z", "/tree/a", "4096", str(UNLIMITED)],
        ["1970-01-01T00:16:39.001Z", '/tree/b,"\r/c', "4097", str(UNLIMITED)],
        ["1970-01-01T00:16:39.000Z", "/tree/d", "4096", str(UNLIMITED)],
    ]
    assert err == "pymemcgbpf: /tree was removed\n"
    assert readers.made[0].is_closed


def test_as_json(readers: Readers, capsys: Captured) -> None:
    readers.answers["/tree"] = [departed("a")]
    assert main(["watch", "--departed", "--json", *QUICK, "/tree"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    assert list(shown.items()) == [
        ("time", "1970-01-01T00:16:39.000Z"),
        ("path", "/tree/a"),
        ("id", 100),
        ("parent_id", 7),
        ("items", {"memory.peak": 4096, "memory.max": None}),
    ]


def test_count_is_that_of_removed_cgroups(readers: Readers, capsys: Captured) -> None:
    readers.answers["/tree"] = [departed("a"), departed(), departed("b", "c", "d")]
    lines, err = run(capsys, "--count", "3", "/tree", status=0)
    assert [line[1] for line in lines[1:]] == ["/tree/a", "/tree/b", "/tree/c"] and err == ""


def test_a_path_that_is_unknown_is_an_id(readers: Readers, capsys: Captured) -> None:
    unknown = departed_rows([_wire.RawRow(9, 1, 2, 0, (1, 2))], [1], NAMES, paths=[None])
    readers.answers["/tree"] = [unknown]
    lines, _ = run(capsys, "/tree")
    assert lines[1][1] == "cgroup 9"


@pytest.mark.parametrize(("lost", "said"), [(1, "1 removed cgroup was"), (7, "7 removed cgroups")])
def test_losses_are_told(lost: int, said: str, readers: Readers, capsys: Captured) -> None:
    readers.answers["/tree"] = [departed("a", lost=lost)]
    lines, err = run(capsys, "/tree")
    assert len(lines) == 2
    first, last = err.splitlines()
    assert said in first and "not seen" in first and last == "pymemcgbpf: /tree was removed"


def test_what_was_removed_with_the_root_is_printed_first(
    readers: Readers, capsys: Captured
) -> None:
    error = CgroupRemovedError("/tree was removed")
    error.departed = departed("a", "b")
    readers.answers["/tree"] = [departed(), error]
    lines, err = run(capsys, "/tree")
    assert [line[1] for line in lines[1:]] == ["/tree/a", "/tree/b"]
    assert err == "pymemcgbpf: /tree was removed\n"


def test_where_removals_cannot_be_seen_the_reason_is_the_one_line(
    readers: Readers, capsys: Captured
) -> None:
    readers.answers["/tree"] = [None]
    said = failed(capsys, 1, "watch", "--departed", "/tree")
    assert "removed below /tree cannot be seen: departed: it is a fake" in said
    assert readers.made[0].is_closed


def test_several_are_printed_in_the_order_of_removal_and_go_on_without_removed_ones(
    readers: Readers, capsys: Captured
) -> None:
    one, two = Path("/one"), Path("/two")
    last = CgroupRemovedError("/one was removed")
    last.departed = departed("z", root=one)
    readers.answers["/one"] = [departed("b", at=3, root=one), last]
    readers.answers["/two"] = [departed("a", at=2, root=two), None, departed("c", root=two)]
    lines, err = run(capsys, "/one", "/two", "/one")
    assert [line[1] for line in lines[1:]] == ["/two/a", "/one/b", "/one/z"]
    assert [path for path, *_ in readers.asked] == ["/one", "/two"]
    assert [line.split(" ")[1] for line in err.splitlines()] == ["/one", "cgroups"]


def test_a_shortage_ends_all_of_several_after_their_lines(
    readers: Readers, capsys: Captured
) -> None:
    readers.answers["/one"] = [MemcgError("no descriptor is left", errno=errno.EMFILE)]
    readers.answers["/two"] = [departed("a")] * 5
    lines, err = run(capsys, "/one", "/two")
    assert [line[1] for line in lines[1:]] == ["/tree/a"]
    assert err == "pymemcgbpf: no descriptor is left\n"


def test_the_arguments_of_the_reader(
    readers: Readers, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "--depth", "3", "--backend", "core", "/tree", "anon", "memory.events.*")
    asked = readers.asked.pop()
    assert asked == ("/tree", ["anon", "memory.events.*"], "core", 3)
    monkeypatch.setattr(_mounts, "cgroup_of", lambda pid: f"/of/{pid}")
    run(capsys, "--pid", "5")
    path, items, *_ = readers.asked.pop()
    assert path == "/of/5"
    kept = ("memory.current", "anon", "file")
    assert items == ("memory.peak*", "memory.events.local.oom_kill*", *kept)


def test_default_is_the_topmost_cgroup(
    readers: Readers, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_v2(tmp_path / "top", kind=None)
    own = make_v2(make_v2(top / "a") / "b")
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(own))
    monkeypatch.setattr(_mounts, "hierarchy_root", {str(own): str(top)}.__getitem__)
    run(capsys)
    assert readers.asked[0][0] == str(top)


# --- what cannot be watched


def test_files_cannot_tell(v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    said = failed(capsys, 2, "watch", "--departed", *TEXT, str(v2))
    assert "--backend text: files do not tell" in said
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    said = failed(capsys, 1, "watch", "--departed", str(v2), "anon")
    assert "lacks CAP_BPF" in said and "files do not tell which cgroups were removed" in said


def test_a_pin_is_refused(v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bpffs, "leads_to_bpffs", lambda path: path.endswith("pin"))
    said = failed(capsys, 2, "watch", "--departed", str(v2 / "pin"))
    assert f"--departed cannot be used with a pin, and {v2 / 'pin'} is on a bpffs" in said


def test_an_error_is_one_line_and_a_status(v2: Path, capsys: Captured) -> None:
    assert "no such cgroup" in failed(capsys, 1, "watch", "--departed", str(v2 / "none"))
    assert "'anon'" in failed(capsys, 2, "watch", "--departed", str(v2), "annon")
    assert "is not a number of" in failed(capsys, 2, "watch", "--departed", "--count", "0")
