# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Readers and pinned trees that are forgotten without close() warn, as files do."""

from __future__ import annotations

import contextlib
import gc
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    MemcgError,
    PinnedReader,
    StatsReader,
    TreeReader,
    clear_cache,
    list_items,
    read_stats,
)
from pymemcgbpf._closable import Closable
from pymemcgbpf._pins.create_tree import PinnedTree

from .children import ended
from .conftest import RunPython
from .pin_files import ROW, pinned_file, stream


class Holder:
    """What refreshes a pinned tree in this process."""

    directory = (0, 0)

    def close(self, end: bool) -> None:
        assert end


Make = Callable[[], Closable]


@pytest.fixture(params=["StatsReader", "TreeReader", "PinnedReader", "PinnedTree"])
def make(request: pytest.FixtureRequest, v2: Path, tmp_path: Path, on_bpffs: None) -> Make:
    """Makes one of each kind."""
    pin = pinned_file(tmp_path / "pin", stream([ROW]))
    holder: Any = Holder()
    kinds: dict[str, Make] = {
        "StatsReader": lambda: StatsReader(v2, ["anon"], backend="text"),
        "TreeReader": lambda: TreeReader(v2, ["anon"], backend="text"),
        "PinnedReader": lambda: PinnedReader(pin),
        "PinnedTree": lambda: PinnedTree("/no/such/tree", ("anon",), 1.0, "no timer", holder),
    }
    return kinds[request.param]


def warned(work: Callable[[], object]) -> list[warnings.WarningMessage]:
    """The warnings while some code runs, and garbage is collected after it."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
        gc.collect()
    return found


def test_a_forgotten_one_warns_and_says_which_it_is(make: Make) -> None:
    said = repr(make_and_keep := make())
    make_and_keep.close()
    del make_and_keep
    (found,) = warned(lambda: (make(), None)[1])
    assert found.category is ResourceWarning
    kind = said.partition(" ")[0]
    assert str(found.message).startswith(f"unclosed {kind} ")
    assert "closed" not in str(found.message).removeprefix("unclosed")
    assert type(found.source).__name__ == kind[1:], "tracemalloc says where it was made"


def test_a_closed_one_does_not_warn(make: Make) -> None:
    def close() -> None:
        made = make()
        made.close()
        made.close()

    def leave() -> None:
        with make(), make():
            pass

    def fail() -> None:
        with contextlib.suppress(ZeroDivisionError), make():
            raise ZeroDivisionError

    for work in (close, leave, fail):
        assert warned(work) == []


def test_a_child_does_not_warn_of_what_belongs_to_its_parent(make: Make) -> None:
    kept = [make()]

    def child() -> None:
        assert warned(kept.clear) == []
        assert len(warned(lambda: (make(), None)[1])) == 1, "it has made this one"

    assert ended(child) == 0
    kept[0].close()


def test_one_that_was_not_made_does_not_warn(v2: Path, tmp_path: Path) -> None:
    def fail() -> None:
        wrong: list[Callable[[], object]] = [
            lambda: StatsReader(v2 / "no"),
            lambda: StatsReader(v2, ["no such item"]),
            lambda: StatsReader(v2, backend="no"),  # type: ignore[arg-type]
            lambda: TreeReader(v2, order="no"),  # type: ignore[arg-type]
            lambda: TreeReader(v2, max_rows=0),
            lambda: PinnedReader(tmp_path / "no"),
            lambda: PinnedReader(""),
        ]
        for each in wrong:
            with contextlib.suppress(MemcgError, ValueError):
                each()
                raise AssertionError

    assert warned(fail) == []
    assert warned(lambda: StatsReader.__new__(StatsReader)) == []


def test_functions_that_keep_readers_do_not_warn(v2: Path) -> None:
    def call() -> None:
        for number in range(40):  # more than are kept
            read_stats(v2, ["anon", "file"][: 1 + number % 2], flush=bool(number % 4 // 2))
        list_items(v2)
        clear_cache()

    assert warned(call) == []


def test_a_tree_that_the_kernel_refreshes_need_not_be_kept() -> None:
    assert warned(lambda: PinnedTree("/no/such/tree", ("anon",), 1.0)) == []


AT_THE_END = """
import sys
from pymemcgbpf import StatsReader, TreeReader, read_stats
read_stats(sys.argv[1])
readers = [StatsReader(sys.argv[1], backend="text"), TreeReader(sys.argv[1], backend="text")]
cycle = [readers]
cycle.append(cycle)
"""


def test_at_the_end_of_the_program_it_is_a_warning_or_nothing(
    run_python: RunPython, v2: Path
) -> None:
    for options, expected in (((), False), (("-W", "always"), True), (("-X", "dev"), True)):
        ran = run_python(*options, "-c", AT_THE_END, str(v2))
        assert ran.returncode == 0 and "Traceback" not in ran.stderr
        for kind in ("StatsReader", "TreeReader"):
            assert ran.stderr.count(f"ResourceWarning: unclosed <{kind} ") == expected
    ran = run_python("-W", "error", "-c", AT_THE_END, str(v2))
    assert ran.returncode == 0 and ran.stderr.count("\nResourceWarning: unclosed <") == 2


def test_commands_close_what_they_open(run_python: RunPython, v2: Path) -> None:
    for words in (
        ("stat", "--backend", "text"),
        ("tree", "--backend", "text"),
        ("watch", "--backend", "text", "--count", "1"),
        ("export", "--backend", "text"),
        ("items",),
        ("doctor",),
    ):
        ran = run_python("-W", "error::ResourceWarning", "-m", "pymemcgbpf", *words, str(v2))
        assert "ResourceWarning" not in ran.stderr and ran.stdout, (words, ran.stderr)
