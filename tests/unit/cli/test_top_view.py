# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What top shows and how keys change it, without a terminal."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import UNLIMITED, CgroupRemovedError, MemcgError, Row, Snapshot, _wire
from pymemcgbpf._cli import top_numbers, top_screen
from pymemcgbpf._cli.top_details import Details, Reading
from pymemcgbpf._cli.top_numbers import SHARE
from pymemcgbpf._cli.top_page import (
    BACKSPACE,
    DOWN,
    END,
    ENTER,
    ERASE,
    ESCAPE,
    HOME,
    KEYS,
    LEFT,
    PAGE_DOWN,
    PAGE_UP,
    RIGHT,
    UP,
    Page,
)
from pymemcgbpf._cli.top_removed import RemovedCgroup
from pymemcgbpf._cli.top_screen import ALERT, REVERSE, Line
from pymemcgbpf._cli.top_view import View
from pymemcgbpf._cli.units import columns
from pymemcgbpf.snapshot import Times

from ..tree_rows import snapshot_of

MIB = 1 << 20
LIMIT = "derived.effective_limit"
ITEMS = ("memory.current", "anon", "pgfault")
ROOT = Path("/tree")

# Of each cgroup: id, parent, path below the root, then memory.current in MiB, anon, pgfault and the
# limit in MiB; None where it has no such number.
Cgroup = tuple[int, int, str, Optional[int], int, int, Optional[int]]
TREE: list[Cgroup] = [
    (1, 0, "", None, 900, 0, None),
    (2, 1, "a", 300, 0, 10, None),
    (3, 2, "a/x", 100, 70, 0, 110),
    (4, 2, "a/y", 200, 50, 20, 400),
    (5, 1, "b", 400, 0, 0, None),
    (6, 1, "idle", 0, 0, 0, None),
]


def walk(cgroups: Sequence[Cgroup], second: int = 1) -> Snapshot:
    """A walk at some second."""

    def size(number: Optional[int], absent: int) -> int:
        return absent if number is None else number * MIB

    rows = [
        _wire.RawRow(
            *(each[0], each[1], each[2].count("/"), 0),
            (size(each[3], _wire.ABSENT), each[4], each[5], size(each[6], UNLIMITED)),
        )
        for each in cgroups
    ]
    paths = [f"{ROOT}/{each[2]}".rstrip("/") for each in cgroups]
    times = Times(second * 10**9, second * 10**9 + 1, 0)
    return snapshot_of(rows, ROOT, (*ITEMS, LIMIT), paths=paths, times=times)


def view(*keys: str, has_share: bool = True, room: int = 20, **options: Any) -> View:
    """A view of TREE after these keys."""
    made = View(ITEMS, has_share, lambda row: Page(f"page of {row.path}", ()), **options)
    made.show(walk(TREE), "core/run, every 2 s")
    made.fit(room, room + 1)
    press(made, *keys)
    return made


def press(of: View, *keys: str) -> None:
    for key in keys:
        of.press(key)


def ids(of: View) -> list[int]:
    """The ids of the cgroups that are listed."""
    return [of.snapshot.ids[place] for place in of.order.places]


def selected(of: View) -> int:
    return of.snapshot.ids[of.order.places[of.at]]


def text(lines: Sequence[Line]) -> list[str]:
    return ["".join(piece for piece, _ in line).rstrip() for line in lines]


def screen(of: View, height: int = 12, width: int = 100) -> list[str]:
    return text(top_screen.lines(of, height, width))


# --- orders -----------------------------------------------------------------------------


def test_the_largest_come_first_and_those_without_the_item_last() -> None:
    shown = view()
    assert ids(shown) == [5, 2, 4, 3, 6, 1]
    press(shown, "r")
    assert ids(shown) == [6, 3, 4, 2, 5, 1]


def test_keys_choose_the_column_and_stop_at_the_ends() -> None:
    shown = view("l")  # without the share
    for keys, column in (
        ([">"], "anon"),
        (["."], "pgfault"),
        (["right", "right"], "pgfault"),
        (["<", ","], "memory.current"),
        (["left", "left"], "memory.current"),
    ):
        press(shown, *keys)
        assert shown.sort == column
    assert view(sort="anon").sort == "anon"


def test_a_tree_sorts_siblings_and_draws_what_is_below_what() -> None:
    shown = view("t")
    assert ids(shown) == [1, 5, 2, 4, 3, 6]
    drawn = [line[line.index(mark) :] for line, mark in zip(screen(shown)[2:8], "/├├││└")]
    assert drawn == ["/tree", "├─ b", "├─ a", "│  ├─ y", "│  └─ x", "└─ idle"]
    press(shown, "t")
    assert shown.order.branches is None


@pytest.mark.parametrize("width", [40, 80])
def test_a_deep_tree_keeps_its_names(width: int) -> None:
    deep: list[Cgroup] = [(1, 0, "", None, 1, 1, None)]
    for level in range(1, 20):
        path = f"{deep[-1][2]}/level-{level:02}.slice".lstrip("/")
        deep.append((level + 1, level, path, 100, 1, 1, None))
    of = view("t")
    of.show(walk(deep, 2), "")
    shown = screen(of, 30, width)
    for level in range(1, 20):
        assert any(line.endswith(f"{level:02}.slice") for line in shown), level
    assert "column" in shown[-1]


def test_a_tree_keeps_the_ancestors_of_what_a_filter_leaves() -> None:
    shown = view("t", part="/x")
    assert ids(shown) == [1, 2, 3]
    assert screen(shown)[0].startswith("3 of 6 cgroups with '/x' by memory.current")


def test_zeros_are_hidden_by_a_key_and_the_head_says_so() -> None:
    shown = view("z")
    assert ids(shown) == [5, 2, 4, 3, 1]
    assert screen(shown)[0].startswith("5 of 6 cgroups without zeros by memory.current")
    press(shown, "z")
    assert len(ids(shown)) == 6


def test_with_growth_zeros_are_cgroups_that_do_not_change() -> None:
    shown = view("g", "z")
    assert ids(shown) == []  # nothing is known yet
    later = [(*each[:4], each[4] + 50 * (each[0] == 5), *each[5:]) for each in TREE]
    shown.show(walk(later, 3), "")
    assert ids(shown) == [5]
    assert screen(shown)[0].startswith("1 of 6 cgroups without zeros by growth of memory.current")
    assert screen(shown)[1].split()[:4] == ["current/s", "%limit", "anon/s", "pgfault/s"]
    assert screen(shown)[2].split() == ["0", "B", "-", "+25", "B", "0.0", "b"]


def test_a_walk_that_is_shown_again_changes_nothing() -> None:
    shown = view()
    numbers, order = shown.numbers, shown.order
    shown.show(walk(TREE), "stale")
    assert (shown.numbers, shown.order, shown.status) == (numbers, order, "stale")


def test_a_walk_of_another_root_or_an_earlier_one_has_no_rates() -> None:
    shown = view()
    for cgroups, second in ((TREE[1:], 5), (TREE[1:], 4)):
        shown.show(walk(cgroups, second), "")
        assert set(shown.column("pgfault")) == {None}
    shown.show(walk(TREE[1:], 6), "")
    assert set(shown.column("pgfault")) == {0.0}


def test_moving_the_cursor_sorts_nothing_again() -> None:
    shown = view()
    order = shown.order
    press(shown, "down", "page down", "up", "home", "end", "?", "q", "p", "enter", "escape", "/")
    assert shown.order is order


# --- filter -----------------------------------------------------------------------------


def test_a_filter_is_typed_on_the_bottom_line_and_takes_effect_at_once() -> None:
    shown = view("/")
    assert screen(shown)[-1].startswith("/_  (Enter keeps")
    for key, found in (("a", [2, 4, 3]), ("/", [4, 3]), ("y", [4]), ("backspace", [4, 3])):
        press(shown, key)
        assert ids(shown) == found
    press(shown, "q", "enter")  # q is a letter here
    assert (ids(shown), shown.part, shown.is_over) == ([], "a/q", False)
    assert screen(shown)[0].startswith("0 of 6 cgroups with 'a/q'")
    assert screen(shown)[-1].startswith("q quit")
    press(shown, "escape")
    assert len(ids(shown)) == 6
    press(shown, "/", "x", "erase", "b", "up", "日", "left", "")
    assert shown.part == "b日"
    assert screen(shown, 12, 4)[-1] == "/.._"  # the end is shown, where there is no room for all
    press(shown, "escape")
    assert (shown.part, shown.is_typing) == ("", False)


def test_a_filter_does_not_look_above_the_root() -> None:
    assert ids(view(part="tree")) == []


# --- the cursor -------------------------------------------------------------------------


def test_the_cursor_stays_with_its_cgroup_and_the_screen_follows() -> None:
    shown = view("down", room=2)
    assert (selected(shown), shown.at, shown.top) == (2, 1, 0)
    press(shown, "r")
    assert (selected(shown), shown.at, shown.top) == (2, 3, 2)
    smaller = [(*each[:3], 1, *each[4:]) if each[0] == 2 else each for each in TREE]
    shown.show(walk(smaller, 2), "")
    assert (selected(shown), shown.at) == (2, 1)
    press(shown, "t")
    assert selected(shown) == 2


def test_on_the_first_line_the_cursor_stays_there_until_it_is_moved() -> None:
    shown = view()
    assert selected(shown) == 5
    press(shown, "r")
    assert (selected(shown), shown.at, shown.top) == (6, 0, 0)
    press(shown, "down", "up", "r")
    assert (selected(shown), shown.at) == (5, 0)


def test_a_cgroup_that_rises_to_the_first_line_keeps_the_cursor() -> None:
    shown = view("down")
    larger = [(*each[:3], 500, *each[4:]) if each[0] == 2 else each for each in TREE]
    shown.show(walk(larger, 2), "")
    press(shown, "", "x")  # keys that mean nothing
    assert (selected(shown), shown.at) == (2, 0)
    shown.show(walk(TREE, 3), "")
    assert (selected(shown), shown.at) == (2, 1)


def test_if_its_cgroup_is_gone_the_cursor_stays_on_its_line() -> None:
    shown = view("down", "down")
    assert selected(shown) == 4
    shown.show(walk([each for each in TREE if each[0] != 4], 2), "")
    assert (selected(shown), shown.at) == (3, 2)
    shown.show(walk(TREE[:2], 3), "")
    assert (selected(shown), shown.at) == (1, 1)
    shown.show(walk(TREE, 4), "")
    assert selected(shown) == 1


def test_keys_move_the_cursor_and_stop_at_the_ends() -> None:
    shown = view(room=2)
    for keys, at, top in (
        (["up"], 0, 0),
        (["down"], 1, 0),
        (["down"], 2, 1),
        (["page down"], 4, 3),
        (["page down"], 5, 4),
        (["page up"], 3, 2),
        (["up"], 2, 2),
        (["home"], 0, 0),
        (["end"], 5, 4),
        (["down"], 5, 4),
    ):
        press(shown, *keys)
        assert (shown.at, shown.top) == (at, top)


def test_a_larger_screen_is_filled() -> None:
    shown = view("end", room=2)
    shown.fit(4, 5)
    assert (shown.at, shown.top) == (5, 2)
    shown.fit(100, 101)
    assert (shown.at, shown.top) == (5, 0)


def test_an_empty_list_can_be_used() -> None:
    shown = view(part="nowhere")
    press(shown, "down", "up", "end", "page up", "enter", "t", "z", "g", "r", "enter")
    assert (shown.at, shown.page) == (0, None)
    assert screen(shown)[0].startswith("0 of 6 cgroups")


# --- the share of the limit -------------------------------------------------------------


def test_the_share_is_shown_if_a_cgroup_has_a_limit() -> None:
    shown = view()
    assert shown.columns == ["memory.current", SHARE, "anon", "pgfault"]
    assert [round(share, 2) if share else share for share in shown.column(SHARE)] == [
        *(None, None, 0.91, 0.5, None, None),
    ]
    press(shown, ">")
    assert ids(shown)[:2] == [3, 4]
    assert screen(shown)[0].startswith("6 cgroups by share of limit, largest first")
    press(shown, "l")
    assert (shown.columns, shown.sort) == ([*ITEMS], "memory.current")


def test_without_any_limit_the_share_is_shown_on_demand() -> None:
    shown = View(ITEMS, True, lambda row: Page("", ()))
    shown.show(walk([(*each[:6], None) for each in TREE]), "")
    assert shown.columns == [*ITEMS]
    press(shown, "l")
    assert SHARE in shown.columns


def test_without_its_items_there_is_no_share_and_the_key_says_why() -> None:
    shown = view("l", has_share=False)
    assert shown.columns == [*ITEMS]
    assert screen(shown)[-1].endswith(f"needs memory.current and {LIMIT}")
    press(shown, "down")
    assert screen(shown)[-1].startswith("q quit  ? help  /")


def test_a_share_of_nine_tenths_stands_out() -> None:
    shown = view()
    lines = top_screen.lines(shown, 12, 100)
    alerts = [piece.strip() for line in lines for piece, style in line if style & ALERT]
    assert alerts == ["90.9"]


# --- the screen -------------------------------------------------------------------------


def test_the_screen_has_a_head_columns_and_keys() -> None:
    assert screen(view(), 10, 100) == [
        "6 cgroups by memory.current, largest first (core/run, every 2 s)",
        "   current %limit       anon  pgfault/s cgroup",
        " 400.0 MiB      -        0 B          - b",
        " 300.0 MiB      -        0 B          - a",
        " 200.0 MiB   50.0       50 B          - a/y",
        " 100.0 MiB   90.9       70 B          - a/x",
        "       0 B      -        0 B          - idle",
        "         -      -      900 B          - /tree",
        "",
        "q quit  ? help  / filter  Enter details  t tree  z zeros  g growth  p pause",
    ]


def test_the_cursor_is_a_line_in_reverse() -> None:
    lines = top_screen.lines(view("down"), 12, 60)
    reverse = [all(style & REVERSE for _, style in line) for line in lines if line]
    assert reverse.index(True) == 3 and reverse.count(True) == 1
    assert sum(columns(piece) for piece, _ in lines[3]) == 60


def test_columns_that_do_not_fit_are_announced() -> None:
    shown = view("l")
    for width, heads, bottom in (
        (49, "current anon pgfault/s cgroup", "q quit  ? help  / filter  Enter details  t tree"),
        (48, "current anon cgroup", "q quit  ? help  +1 column (widen): pgfault/s"),
        (30, "current cgroup", "q quit  ? help  +2 columns (wi"),
    ):
        lines = screen(shown, 12, width)
        assert lines[1].split() == heads.split()
        assert lines[-1].startswith(bottom) and len(lines[-1]) <= width
    press(shown, ">", ">")  # the column to sort by is shown
    assert screen(shown, 12, 30)[1].split() == ["pgfault/s", "cgroup"]
    items = [*ITEMS, *(f"memory.events.{key}" for key in ("low", "high", "max"))]
    few = View(items, False, lambda row: Page("", ()))
    rows = [_wire.RawRow(1, 0, 0, 0, (0,) * len(items))]
    few.show(snapshot_of(rows, ROOT, tuple(items), paths=[str(ROOT)]), "")
    assert screen(few, 12, 80)[-1] == (
        "q quit  ? help  +1 column: events.max/s (widen, or name fewer items)"
    )


def test_pause_is_said_first() -> None:
    shown = view("p")
    assert shown.is_paused and screen(shown)[0].startswith("paused: 6 cgroups by")
    press(shown, " ")
    assert not shown.is_paused and screen(shown)[0].startswith("6 cgroups")


NAMES = ["日本語" * 5, "e\u0301" * 20, "\x1b[2J\n", "\udcff\udc80", "plain" * 8, "\u200b\u202e"]


@pytest.mark.parametrize("keys", ["", "t", "g", "z/日", "?", "lp"])
def test_no_line_is_longer_than_the_screen_is_wide(keys: str) -> None:
    named = [(*each[:2], name, *each[3:]) for each, name in zip(TREE, ["", *NAMES])]
    shown = View(ITEMS, True, lambda row: Page("", ()))
    shown.show(walk(named), "x")
    press(shown, *keys)
    for height, width in itertools.product(range(1, 9), range(1, 70)):
        lines = top_screen.lines(shown, height, width)
        assert len(lines) == height
        for line in lines:
            assert sum(columns(piece) for piece, _ in line) <= width
            assert "".join(piece for piece, _ in line).isprintable()


def test_any_keys_walks_and_sizes_leave_a_screen_that_can_be_drawn() -> None:
    chance = random.Random(16)
    keys = [*"qQ?hp /lrztg<,>.xa日", UP, DOWN, LEFT, RIGHT, PAGE_UP, PAGE_DOWN, HOME, END]
    keys += [ENTER, ESCAPE, BACKSPACE, ERASE, ""]
    shown = view()
    for second in range(2, 1500):
        if chance.random() < 0.3:
            cgroups = [
                (*each[:3], each[3] and chance.randrange(500), *each[4:])
                for each in chance.sample(TREE, chance.randrange(len(TREE) + 1))
            ]
            shown.show(walk(sorted(cgroups), second), "")
        press(shown, chance.choice(keys))
        height, width = chance.randrange(1, 14), chance.randrange(1, 100)
        lines = top_screen.lines(shown, height, width)
        assert len(lines) == height
        if shown.page is None and height > 3 and shown.order.places:
            assert 0 <= shown.top <= shown.at < shown.top + shown.room
            assert sum(bool(line and line[0][1] & REVERSE) for line in lines[2:-1]) == 1


def test_very_long_names_are_cut_quickly() -> None:
    name = "日/" * 2000
    assert top_screen.end_of(name, 11) == "..日/日/日/"
    assert top_screen.beginning_of(name, 10) == "日/日/日/"


# --- pages ------------------------------------------------------------------------------


def test_the_help_describes_each_key_within_80_columns() -> None:
    for key in ("?", "h"):
        shown = view(key)
        assert shown.page is not None
        lines = shown.page.lines
        assert [line.split("  ")[0] for line in lines] == [*KEYS]
        assert max(map(len, lines)) <= 78
        assert screen(shown, 30)[1 : len(lines) + 1] == lines


@pytest.mark.parametrize("key", ["q", "Q", "escape", "enter"])
def test_a_page_scrolls_and_is_left(key: str) -> None:
    shown = view("?")
    screen(shown, 6)
    page = shown.page
    assert page is not None
    for press_this, top in (("down", 1), ("page down", 5), ("up", 4), ("home", 0), ("up", 0)):
        press(shown, press_this)
        assert page.top == top
    press(shown, "end")
    assert screen(shown, 6)[-2].startswith("q") and screen(shown, 6)[-1].startswith("q back")
    press(shown, "t", "r")
    assert not shown.is_tree and not shown.smallest_first
    press(shown, key)
    assert not shown.page and not shown.is_over and not shown.part


def test_enter_opens_the_cgroup_at_the_cursor() -> None:
    shown = view("down", "enter")
    assert shown.page is not None and shown.page.title == "page of /tree/a"
    assert screen(view("p", "?"))[-1].endswith("(paused)")


def test_q_quits() -> None:
    assert view("q").is_over and view("Q").is_over and not view("x").is_over


class OneCgroup:
    """What a page of details reads: each time the next of these values."""

    def __init__(self, *readings: Any) -> None:
        self.readings, self.closed = list(readings), 0

    def read(self) -> Reading:
        found = self.readings.pop(0)
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Reading)
        return found

    def close(self) -> None:
        self.closed += 1


def cells(page: Page) -> dict[str, list[str]]:
    """A page's numbers, by the first words of their lines."""
    return {line[:30].rstrip(): line[30:].split() for line in page.lines}


FIRST = {
    "memory.current": 7 * MIB,
    LIMIT: 8 * MIB,
    "memory.max": UNLIMITED,
    "anon": 4096,
    "pgfault": 5,
    "memory.pressure.some.total": 0,
    "pgtomorrow": 1,
}


def test_details_have_values_and_their_changes_per_second() -> None:
    second = {**FIRST, "anon": 2048, "pgfault": 25, "memory.max": MIB, "pgtomorrow": 3}
    second["memory.pressure.some.total"] = 500_000
    page = Details("/tree/a", OneCgroup(Reading(1, FIRST), Reading(3, second)).read)
    assert page.title == "/tree/a"
    assert cells(page)["anon"] == ["4.0", "KiB", "-"]
    page.refresh()
    shown = {line.split("  ")[0]: line.split()[-4:] for line in page.lines}
    assert shown["anon"][-4:] == ["2.0", "KiB", "-1.0", "KiB"]
    assert shown["pgfault"][-2:] == ["25", "10"]
    assert shown["memory.max"][-3:] == ["1.0", "MiB", "-"]  # a limit that was set is no growth
    assert shown["memory.pressure.some.total"][-2:] == ["25.0", "%"]
    assert shown["pgtomorrow"][-2:] == ["3", "-"]
    assert shown["memory.current, of this limit"][-2:] == ["87.5", "%"]


def test_details_of_a_walk_that_is_read_again_keep_their_rates() -> None:
    later = {**FIRST, "pgfault": 9}
    source = OneCgroup(Reading(1, FIRST), Reading(3, later), Reading(3, later))
    page = Details("/tree/a", source.read)
    page.refresh()
    before = page.lines
    page.refresh()
    assert page.lines == before and any(line.split()[-1:] == ["2.0"] for line in before)


def test_details_of_a_removed_cgroup_say_so_and_keep_the_last_values() -> None:
    source = OneCgroup(Reading(1, FIRST), CgroupRemovedError("the cgroup\n/tree/a was removed"))
    page = Details("/tree/a", source.read, source.close)
    values = page.lines
    page.refresh()
    assert page.lines == ["the cgroup /tree/a was removed", *values]
    page.refresh()  # is not read again
    page.close()
    assert source.closed == 1


def test_details_are_read_again_after_a_shortage() -> None:
    short = MemcgError("too many open files", errno=errno.EMFILE)
    source = OneCgroup(Reading(1, FIRST), short, Reading(3, {**FIRST, "pgfault": 9}))
    page = Details("/tree/a", source.read, source.close)
    values = page.lines
    page.refresh()
    assert page.lines == ["too many open files", *values]
    page.refresh()
    assert source.closed == 0 and len(page.lines) == len(values)
    assert any(line.split()[-1:] == ["2.0"] for line in page.lines)


def test_details_that_cannot_be_read_at_all_say_why() -> None:
    source = OneCgroup(CgroupRemovedError("it was removed"))
    page = Details("/tree/a", source.read, source.close)
    assert (page.lines, source.closed) == (["it was removed"], 1)


def test_leaving_the_details_closes_what_they_read_from() -> None:
    source = OneCgroup(*(Reading(second, FIRST) for second in range(1, 4)))

    def details(row: Row) -> Page:
        return Details(row.path or "", source.read, source.close)

    shown = View(ITEMS, True, details)
    shown.show(walk(TREE), "")
    press(shown, "enter")
    shown.show(walk(TREE, 2), "")
    assert len(source.readings) == 1  # each walk reads the cgroup again
    press(shown, "q")
    assert source.closed == 1
    shown.close_page()
    assert source.closed == 1


# --- numbers as text --------------------------------------------------------------------


def test_heads_and_cells_of_the_table() -> None:
    cases: list[tuple[str, Optional[float], str, str]] = [
        ("memory.current", 1 << 20, "current", "1.0 MiB"),
        ("memory.swap.current", 0, "swap.current", "0 B"),
        ("memory.max", UNLIMITED, "max", "max"),
        ("anon", None, "anon", "-"),
        ("pgfault", 0.0, "pgfault/s", "0.0"),
        ("pgfault", 9.94, "pgfault/s", "9.9"),
        ("pgfault", 9.96, "pgfault/s", "10"),
        ("pgfault", 1234567.8, "pgfault/s", "1,234,568"),
        ("memory.pressure.some.total", 12_345.0, "pressure.some.total/s", "1.2 %"),
        ("pgtomorrow", 1234, "pgtomorrow", "1,234"),
        (SHARE, 0.875, "%limit", "87.5"),
        (SHARE, None, "%limit", "-"),
    ]
    for name, value, head, cell in cases:
        assert top_numbers.head(name, False) == head
        assert top_numbers.cell(name, value, False) == cell


def test_heads_and_cells_with_growth() -> None:
    cases: list[tuple[str, Optional[float], str, str]] = [
        ("anon", 0.3, "anon/s", "0 B"),
        ("anon", 1536.0, "anon/s", "+1.5 KiB"),
        ("anon", -1536.0, "anon/s", "-1.5 KiB"),
        ("memory.max", None, "max/s", "-"),
        ("pgtomorrow", -1234, "pgtomorrow/s", "-1,234"),
        ("pgfault", 9.94, "pgfault/s", "9.9"),
        (SHARE, 1.0, "%limit", "100.0"),
    ]
    for name, value, head, cell in cases:
        assert top_numbers.head(name, True) == head
        assert top_numbers.cell(name, value, True) == cell


def test_a_long_path_keeps_its_end() -> None:
    cases: list[tuple[str, int, str]] = [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "..def"),
        ("abcdef", 2, ".."),
        ("abcdef", 0, ".."),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "..語"),
        ("e\u0301x", 2, "e\u0301x"),
    ]
    for name, width, shown in cases:
        assert top_screen.end_of(name, width) == shown


# --- the cgroups that were removed last


def removed(name: str, ago: float, peak: Optional[int] = MIB, kills: int = 0) -> RemovedCgroup:
    """A cgroup that was removed so long before a walk at second 100,000."""
    return RemovedCgroup(name, int((100_000 - ago) * 1e9), peak, kills)


def with_removed(*found: RemovedCgroup) -> View:
    made = view()
    made.show(walk(TREE, 100_000), "")
    made.removed = found
    return made


def shown_at_bottom(of: View, height: int = 20, width: int = 80) -> list[str]:
    """The lines of removed cgroups, which are above the last line."""
    lines = ["".join(text for text, _ in line) for line in top_screen.lines(of, height, width)]
    assert len(lines) == height and lines[-1].startswith("q quit")
    found = [line for line in lines if line.startswith("removed ")]
    assert lines[height - 1 - len(found) : -1] == found
    return found


def test_the_last_removed_cgroups_are_at_the_bottom() -> None:
    made = with_removed(
        *(removed("first", 90_000), removed("a/b", 7200, None)),
        *(removed("killed", 125, 100 * MIB, 1), removed("now", -1, 2 * MIB, 1200)),
    )
    assert shown_at_bottom(made) == [
        "removed   2 h ago, peak         -                   a/b",
        "removed 2 min ago, peak 100.0 MiB  1 OOM kill       killed",
        "removed   0 s ago, peak   2.0 MiB  1,200 OOM kills  now",
    ]
    styles = [
        style for line in top_screen.lines(made, 20, 80) for text, style in line if "OOM" in text
    ]
    assert styles == [ALERT, ALERT]


def test_kills_are_not_pushed_away_by_removals_without_any() -> None:
    made = with_removed(
        *(
            removed("killed", 90, MIB, 2),
            *(removed(f"a{number}", number) for number in range(9, 0, -1)),
        )
    )
    assert [line.split()[-1] for line in shown_at_bottom(made)] == ["killed", "a2", "a1"]


def test_without_kills_there_is_no_column_for_them() -> None:
    assert shown_at_bottom(with_removed(removed("b", 90_000), removed("a", 3))) == [
        "removed 1 d ago, peak 1.0 MiB  b",
        "removed 3 s ago, peak 1.0 MiB  a",
    ]


def test_a_key_hides_removed_cgroups_and_the_filter_chooses() -> None:
    made = with_removed(removed("job-1", 3), removed("other", 2), removed("job-2", 1))
    press(made, "d")
    assert shown_at_bottom(made) == []
    press(made, "d", "/", *"job", ENTER)
    assert [line.split()[-1] for line in shown_at_bottom(made)] == ["job-1", "job-2"]


def test_removed_cgroups_leave_room_for_the_others() -> None:
    made = with_removed(*(removed(f"a{number}", 1) for number in range(9)))
    for height, expected in ((1, 0), (3, 0), (8, 0), (9, 1), (10, 2), (11, 3), (40, 3)):
        lines = top_screen.lines(made, height, 80)
        found = [line for line in lines if line and line[0][0].startswith("removed ")]
        assert (len(lines), len(found)) == (height, expected)
        assert made.room >= min(5, max(height - 3, 1))
    name = "b" * 100 + "\n"
    made.removed = [removed(name, 1)]
    for width in (1, 20, 40, 80):
        lines = top_screen.lines(made, 20, width)
        assert all(sum(columns(text) for text, _ in line) <= width for line in lines)
    press(made, "?")
    assert not any(line and line[0][0].startswith("removed ") for line in lines_of_page(made))


def lines_of_page(of: View) -> list[Line]:
    assert of.page is not None
    return top_screen.lines(of, 20, 80)
