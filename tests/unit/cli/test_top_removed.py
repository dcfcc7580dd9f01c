# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which cgroups top takes for removed ones, with a reader that sees what a test has removed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import BackendUnavailableError, CgroupRemovedError, Departed, MemcgError, _wire
from pymemcgbpf._cli import top_removed
from pymemcgbpf._cli.top_removed import RemovedCgroup, RemovedCgroups

from ..tree_rows import departed_rows, snapshot_of

PEAK, KILLS = "memory.peak", "memory.events.local.oom_kill"


def departed(*names: str, items: tuple[str, ...] = (PEAK, KILLS)) -> Departed:
    """Cgroups that were removed at 1, 2, 3 ns, and so on, with these numbers times 10 and 100."""
    numbers = range(1, len(names) + 1)
    return departed_rows(
        [
            _wire.RawRow(at, 1, 1, 0, tuple(at * each for each in (10, 100)[-len(items) :]))
            for at in numbers
        ],
        list(numbers),
        items,
        paths=[f"/nowhere/{name}" for name in names],
    )


class Reader:
    """Answers as the test says."""

    def __init__(self, *answers: object) -> None:
        self._answers = iter(answers)
        self.closes = 0

    def read(self) -> Any:
        answer: Any = next(self._answers)
        if isinstance(answer, MemcgError):
            raise answer
        return snapshot_of([], departed=answer)

    def close(self) -> None:
        self.closes += 1


def removed_of(
    monkeypatch: pytest.MonkeyPatch, reader: Optional[Reader], backend: str = "auto"
) -> RemovedCgroups:
    """With this reader; None if it cannot be made."""

    def make(*_: object) -> Reader:
        if reader is None:
            raise BackendUnavailableError("not here")
        return reader

    monkeypatch.setattr(top_removed, "departed_reader", make)
    return RemovedCgroups("/nowhere", argparse.Namespace(backend=backend, depth=None))


def test_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    many = departed(*map(str, range(150)))
    made = removed_of(monkeypatch, Reader(departed(), departed("a", "b/c"), many))
    made.refresh()
    assert not made.last
    made.refresh()
    assert [*made.last] == [RemovedCgroup("a", 1, 10, 100), RemovedCgroup("b/c", 2, 20, 200)]
    made.refresh()
    assert (len(made.last), made.last[-1].name) == (100, "149")


def test_many_without_kills_push_none_away_that_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [_wire.RawRow(at, 1, 1, 0, (10, 0)) for at in range(2, 300)]
    others = departed_rows(quiet, range(2, 300), (PEAK, KILLS), root=Path("/nowhere"))
    made = removed_of(monkeypatch, Reader(departed("killed"), others))
    made.refresh()
    made.refresh()
    assert (len(made.last), made.last[0].name, made.last[0].kills) == (101, "killed", 100)


def test_an_item_that_the_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = removed_of(monkeypatch, Reader(departed("a", items=(KILLS,))))
    made.refresh()
    assert [*made.last] == [RemovedCgroup("a", 1, None, 100)]


@pytest.mark.parametrize("answer", [None, CgroupRemovedError("removed"), MemcgError("short")])
def test_where_they_cannot_be_seen_any_more_the_reader_is_closed(
    answer: Optional[MemcgError], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(departed("a"), answer)
    made = removed_of(monkeypatch, reader)
    for _ in range(3):
        made.refresh()
    made.close()
    assert [each.name for each in made.last] == ["a"] and reader.closes == 1


def test_where_they_cannot_be_seen_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unused = Reader(departed("a"))
    for made in (removed_of(monkeypatch, None), removed_of(monkeypatch, unused, "text")):
        made.refresh()
        made.close()
        assert not made.last
