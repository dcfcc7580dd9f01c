# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""serve and export --every count removed cgroups, whatever becomes of their readers."""

from __future__ import annotations

import contextlib
import errno
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupNotFoundError,
    CgroupRemovedError,
    MemcgError,
    Snapshot,
    _openmetrics,
    _wire,
)
from pymemcgbpf._cli import departed_counter, export, own_metrics, readers, serve, signals
from pymemcgbpf._cli.departed_reader import KILLS
from pymemcgbpf._cli.walks import WalkResult, Walks
from pymemcgbpf.departed import Departed

from ...published_tree import PublishedTree
from ..commands import Captured
from ..directories import make_v2
from ..pin_files import TREE, TREE_NAMES, pinned_tree
from ..tree_rows import departed_rows, pack, snapshot_of

ITEMS = ("anon",)


class Reader:
    """Stands in for a TreeReader: what its reads return and raise is in a list."""

    transport, fallback_reason, _missing = "thin air", "", ""

    def __init__(self, tree: FakeKernel, backend: str, *, sees_removals: bool) -> None:
        self.backend, self._tree, self._sees_removals = backend, tree, sees_removals
        self.is_closed = False

    def read(self) -> Snapshot:
        assert not self.is_closed, "read after close"
        tree = self._tree
        failures = tree.failures_to_see if self._sees_removals else tree.failures
        if failures:
            failure = failures.pop(0)
            if isinstance(failure, CgroupRemovedError) and self._sees_removals:
                failure.departed = tree.departed()
            raise failure
        departed = tree.departed() if self._sees_removals else None
        paths = [tree.path(name) for name in tree.exists]
        rows = [_wire.RawRow(at, 0, 0, 0, (7,)) for at in range(len(paths))]
        return snapshot_of(rows, tree.root, ITEMS, paths=paths, departed=departed)

    def close(self) -> None:
        self.is_closed = True


class FakeKernel:
    """A tree of cgroups in which things happen, and which makes the readers of the commands.

    Attributes:
        exists: the paths of the cgroups relative to the root.
        removed: those that were removed since the last read, and their own kills; None for a
            cgroup that does not have that item.
        lost: how many others were.
        backend: that of the reader of the walks.
        failures, failures_to_see: what the next reads of the walks and of removals raise.
        error: what making a reader of removals raises.
        made: the readers of removals.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.backend = root, "core"
        self.exists = [".", "a", "a/b"]
        self.removed: list[tuple[Optional[str], Optional[int]]] = []
        self.lost = 0
        self.failures: list[BaseException] = []
        self.failures_to_see: list[BaseException] = []
        self.error: Optional[BaseException] = None
        self.made: list[Reader] = []
        self.asked: list[tuple[str, list[str], str]] = []

    def path(self, name: str) -> str:
        return str(self.root / name)

    def departed(self) -> Departed:
        rows = [
            _wire.RawRow(at, 0, 0, 0, (_wire.ABSENT if kills is None else kills,))
            for at, (_, kills) in enumerate(self.removed, 100)
        ]
        paths = [None if name is None else self.path(name) for name, _ in self.removed]
        found = departed_rows(
            rows, [1] * len(rows), (KILLS,), paths=paths, lost=self.lost, root=self.root
        )
        self.removed, self.lost = [], 0
        return found

    def walker(self, *_: object) -> Any:
        return Reader(self, self.backend, sees_removals=False)

    def departed_reader(self, directory: str, items: Sequence[str], backend: str) -> Any:
        self.asked.append((directory, [*items], backend))
        if self.error is not None:
            raise self.error
        reader = Reader(self, backend, sees_removals=True)
        self.made.append(reader)
        return reader

    def open(self) -> int:
        """How many readers of removals are open."""
        return sum(not reader.is_closed for reader in self.made)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel(make_v2(tmp_path / "root"))
    monkeypatch.setattr(readers, "tree_reader_of", made.walker)
    monkeypatch.setattr(departed_counter, "departed_reader", made.departed_reader)
    return made


@contextlib.contextmanager
def walking(root: Union[Path, str], *options: str, count_departed: bool = True) -> Iterator[Walks]:
    words = serve._parser().parse_words([*options, str(root), *ITEMS])
    with contextlib.closing(Walks(words, True, count_departed)) as walks:
        yield walks


def text_of(walk: WalkResult, form: _openmetrics.Format = "prometheus") -> str:
    """The metrics of a walk."""
    return own_metrics.with_cgroups(walk.own, walk.snapshot, form, departed=walk.departed).decode()


def counts(walk: WalkResult) -> dict[str, tuple[int, int]]:
    """The two counts by cgroup, as their metrics have them."""
    text = text_of(walk)
    found = [
        dict(re.findall(rf'^{name}_total{{cgroup="(.*)"}} (\d+)$', text, re.MULTILINE))
        for name in ("cgroup_departed", "cgroup_departed_oom_kills")
    ]
    assert [*found[0]] == [*found[1]]
    return {path: (int(found[0][path]), int(found[1][path])) for path in found[0]}


# --- what is counted -----------------------------------------------------------------------


def test_removed_cgroups_and_their_kills_count_for_all_above(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        assert counts(walks.read()) == {"/": (0, 0), "/a": (0, 0), "/a/b": (0, 0)}
        kernel.removed = [("a/b/x", 2), ("a/y", None), ("z", 1)]
        assert counts(walks.read()) == {"/": (3, 3), "/a": (2, 2), "/a/b": (1, 2)}
        assert counts(walks.read()) == {"/": (3, 3), "/a": (2, 2), "/a/b": (1, 2)}
        assert kernel.asked == [(str(kernel.root), [KILLS], "core")]
    assert kernel.open() == 0


def test_a_removed_parent_leaves_what_it_had_to_those_above(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        walks.read()
        kernel.removed = [("a/b/x", 2)]
        walks.read()
        kernel.exists, kernel.removed = [".", "a"], [("a/b", 0)]
        assert counts(walks.read()) == {"/": (2, 2), "/a": (2, 2)}
        kernel.exists, kernel.removed = ["."], [("a/c", 1), ("a", 0)]
        assert counts(walks.read()) == {"/": (4, 3)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--match", "/a"), {"/a": (2, 3)}),
        (("--exclude", "/a"), {"/": (2, 3), "/a/b": (1, 1)}),
        (("--match", "/nothing"), {}),
    ],
)
def test_the_counts_have_the_cgroups_that_are_chosen(
    options: tuple[str, ...], expected: dict[str, tuple[int, int]], kernel: FakeKernel
) -> None:
    with walking(kernel.root, *options) as walks:
        walks.read()
        kernel.removed = [("a/b/x", 1), ("a/y", 2)]
        assert counts(walks.read()) == expected


@pytest.mark.parametrize("form", ["prometheus", "openmetrics"])
def test_the_text_is_valid_and_escaped(
    form: _openmetrics.Format, kernel: FakeKernel, tmp_path: Path
) -> None:
    kernel.exists = [".", 'a"\\b', "ä\udcff"]
    with walking(kernel.root) as walks:
        walks.read()
        kernel.removed, kernel.lost = [('a"\\b/c', 1)], 5
        text = text_of(walks.read(), form)
    parse = parse_openmetrics if form == "openmetrics" else parse_prometheus
    families = {family.name: family for family in parse(text)}
    for name in ("cgroup_departed", "cgroup_departed_oom_kills"):
        family = families[name]
        assert family.type == "counter" and family.documentation
        assert {one.labels["cgroup"]: one.value for one in family.samples} == {
            "/": 1,
            '/a"\\b': 1,
            "/ä//xff": 0,
        }
    (lost,) = families["pymemcgbpf_departed_lost"].samples
    assert (lost.name, lost.labels, lost.value) == ("pymemcgbpf_departed_lost_total", {}, 5)
    if form == "prometheus":
        command = ["promtool", "check", "metrics"]
        ran = subprocess.run(command, input=text, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_page_of_serve_has_the_counts(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        kernel.removed = [("a/x", 1)]
        with serve._Walker(walks, walks.read(), 60) as walker:
            for accept in (None, "application/openmetrics-text;version=1.0.0"):
                answer = walker.answer("/metrics", accept)
                assert answer is not None
                assert b'\ncgroup_departed_oom_kills_total{cgroup="/a"} 1\n' in answer.body
    assert kernel.open() == 0


def test_those_that_were_lost_add_up(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        assert walks.read().own.departed_lost == 0
        for lost in (3, 0, 4):
            kernel.lost = lost
            walks.read()
        kernel.failures = [MemcgError("odd")]
        assert walks.take().own.departed_lost == 7


# --- failures ------------------------------------------------------------------------------


def test_counts_outlive_the_root(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        kernel.removed = [("a/x", 1)]
        walks.read()
        kernel.removed = [("a/b", 1), ("a", 0)]
        for failures in (kernel.failures, kernel.failures_to_see):
            failures.append(CgroupRemovedError("the root was removed"))
        failed = walks.take()
        assert failed.snapshot is None and counts(failed) == {}
        assert "pymemcgbpf_departed_lost_total 0\n" in text_of(failed)
        assert kernel.open() == 0
        kernel.exists, kernel.removed = ["."], [("new", 1)]
        assert counts(walks.read()) == {"/": (4, 3)}
        assert len(kernel.made) == 2


def test_a_root_that_is_removed_after_the_walk_is_no_failure(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        walks.read()
        kernel.removed = [("a/b", 1)]
        kernel.failures_to_see = [CgroupRemovedError("the root was removed")]
        assert counts(walks.read())["/"] == (1, 1)
        assert kernel.open() == 0
        assert counts(walks.read())["/"] == (1, 1)
        assert kernel.open() == 1


def test_a_walk_that_fails_otherwise_loses_no_removal(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        walks.read()
        kernel.failures = [MemcgError("too many", errno=errno.EMFILE), ZeroDivisionError("odd")]
        for _ in range(2):
            kernel.removed.append(("a/x", 1))
            assert walks.take().error is not None
        assert counts(walks.read())["/a"] == (2, 2)
        assert len(kernel.made) == 1


def test_removals_that_cannot_be_read_are_a_failed_walk(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        kernel.removed = [("a/x", 1)]
        walks.read()
        kernel.failures_to_see = [MemcgError("odd", errno=errno.EIO)]
        failed = walks.take()
        assert str(failed.error).startswith("odd") and failed.departed is None
        kernel.removed = [("a/x", 1)]
        assert counts(walks.read())["/a"] == (2, 2)
        assert len(kernel.made) == 2


def test_a_shortage_fails_no_walk_and_is_told_of_once(kernel: FakeKernel, capsys: Captured) -> None:
    said = "pymemcgbpf: removed cgroups are not counted for now: too many open files\n"
    with walking(kernel.root) as walks:
        kernel.error = MemcgError("too many open files", errno=errno.EMFILE)
        for _ in range(2):
            assert counts(walks.read()) == {}
        assert capsys.readouterr().err == said
        kernel.error = None
        kernel.removed = [("a/x", 1)]
        assert counts(walks.read())["/a"] == (1, 1)
        kernel.failures_to_see = [MemcgError("too many open files", errno=errno.EMFILE)] * 2
        kernel.removed = [("a/x", 1)]
        for _ in range(2):
            assert counts(walks.read())["/a"] == (1, 1)
        assert capsys.readouterr().err == said
        assert counts(walks.read())["/a"] == (2, 2)
        assert len(kernel.made) == 1


def test_a_root_that_is_made_again_after_another_failure_is_seen_anew(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        walks.read()
        kernel.failures = [CgroupNotFoundError("gone")]
        assert walks.take().error is not None
        assert kernel.open() == 0
        kernel.removed = [("a/x", 1)]
        assert counts(walks.read())["/a"] == (1, 1)
        assert len(kernel.made) == 2


def test_a_root_that_is_missing_for_a_moment_is_no_refusal(
    kernel: FakeKernel, capsys: Captured
) -> None:
    with walking(kernel.root) as walks:
        for kernel.error in (CgroupNotFoundError("gone"), CgroupRemovedError("gone")):
            walk = walks.read()
            assert counts(walk) == {} and walk.own.departed_lost is None
        kernel.error = None
        assert counts(walks.read())["/"] == (0, 0)
    assert capsys.readouterr() == ("", "")


# --- where nothing is counted --------------------------------------------------------------


def test_the_reason_is_printed_once_where_removals_cannot_be_seen(
    kernel: FakeKernel, capsys: Captured
) -> None:
    kernel.error = BackendUnavailableError("this kernel does not tell")
    with walking(kernel.root) as walks:
        for _ in range(3):
            assert "departed" not in text_of(walks.read())
    said = "pymemcgbpf: removed cgroups are not counted: this kernel does not tell\n"
    assert capsys.readouterr() == ("", said) and len(kernel.asked) == 1


def test_what_is_read_as_text_counts_nothing(kernel: FakeKernel, capsys: Captured) -> None:
    kernel.backend = "text"
    with walking(kernel.root) as walks:
        assert "departed" not in text_of(walks.read())
    assert capsys.readouterr() == ("", "") and not kernel.asked


def test_a_reader_that_changes_to_text_goes_on_counting(kernel: FakeKernel) -> None:
    with walking(kernel.root) as walks:
        walks.read()
        kernel.backend, kernel.failures = "text", [ZeroDivisionError("so that there is a new one")]
        walks.take()
        kernel.removed = [("a/x", 1)]
        assert counts(walks.read())["/a"] == (1, 1)


def test_a_pin_counts_nothing(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(departed_counter, "departed_reader", pytest.fail)
    made = PublishedTree()
    made.publish(pack(*TREE), TREE_NAMES)
    with walking(pinned_tree(bpffs / "all", made)) as walks:
        assert "departed" not in text_of(walks.read())
    assert capsys.readouterr() == ("", "")


def test_one_export_counts_nothing_and_a_repeated_one_does(
    kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    file = tmp_path / "it.prom"
    words = ["--output", str(file), str(kernel.root), *ITEMS]
    assert export.main(words) == 0
    assert "cgroup_memory_anon_bytes" in file.read_text() and "departed" not in file.read_text()
    assert not kernel.asked

    @contextlib.contextmanager
    def stopped_after_two() -> Iterator[Any]:
        answers = iter([False, True])
        yield lambda _: next(answers)

    monkeypatch.setattr(signals, "held_to_stop", stopped_after_two)
    kernel.removed = [("a/x", 1)]
    assert export.main(["--every", "1", *words]) == 0
    text = file.read_text()
    assert 'cgroup_departed_oom_kills_total{cgroup="/a"} 1\n' in text
    assert 'pymemcgbpf_departed_lost_total{file="it.prom"} 0\n' in text
    assert kernel.open() == 0 and capsys.readouterr() == ("", "")
