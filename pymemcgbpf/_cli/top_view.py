# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What top shows, and how keys change it. Nothing here knows of terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from .._items import CURRENT, EFFECTIVE_LIMIT
from ..snapshot import Row, Snapshot
from . import rows, top_order
from .top_numbers import SHARE, Numbers
from .top_order import Order
from .top_page import (
    BACKSPACE,
    DOWN,
    ENTER,
    ERASE,
    ESCAPE,
    LEFT,
    MOVES,
    PAGE_DOWN,
    PAGE_UP,
    RIGHT,
    UP,
    Page,
    help_page,
    moved,
)

if TYPE_CHECKING:
    from .top_removed import RemovedCgroup

_NO_SHARE = f"the share needs {CURRENT} and {EFFECTIVE_LIMIT}"


class View:
    """What is shown, on a screen that has room for some cgroups.

    Args:
        items: the items that have columns.
        has_share: whether the walks have what the share of the limit is computed from.
        open_page: makes the page with the details of a row.
        sort: the item to sort by; None for the first one.
        part: what the paths of the listed cgroups contain.

    Attributes:
        numbers: those of the walk that is shown.
        encoding: that of the terminal; None for that of standard output.
        status: where the numbers come from, and how old they are.
        removed: the cgroups that were removed, the last of them last.
        page: the page that is shown in place of the list, if any.
        notice: what the last key has to say, on the bottom line.
        is_over: whether the user has quit.
        room, page_room: how many cgroups the screen shows, and how many lines of a page.
        top: the number of cgroups above the first one on the screen.
    """

    def __init__(
        self,
        items: Sequence[str],
        has_share: bool,
        open_page: Callable[[Row], Page],
        *,
        sort: Optional[str] = None,
        part: str = "",
    ) -> None:
        self._items, self._has_share, self._open_page = items, has_share, open_page
        self._sort, self.part = sort or items[0], part
        self.smallest_first = self.hides_zeros = self.is_tree = self.shows_growth = False
        self.shows_share: Optional[bool] = None  # None until a walk tells whether there are limits
        self.is_paused = self.is_typing = self.is_over = False
        self.removed: Iterable[RemovedCgroup] = ()
        self.shows_removed = True
        self.numbers: Optional[Numbers] = None
        self.encoding: Optional[str] = None
        self.status, self.notice = "", ""
        self.page: Optional[Page] = None
        self.room, self.page_room, self.top = 1, 1, 0
        self._at = 0  # the line of the cursor in the order
        self._bound: Optional[int] = None  # the id of the cgroup that the cursor stays with
        self._order: Optional[Order] = None
        self._names: Sequence[str] = ()
        self._named: object = None  # the paths that the names were made of

    # --- what is shown

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        found = list(self._items)
        if self.shows_share:
            found.insert(found.index(CURRENT) + 1 if CURRENT in found else 0, SHARE)
        return found

    @property
    def sort(self) -> str:
        """The column that cgroups are sorted by."""
        return self._sort if self._sort in self.columns else self.columns[0]

    @property
    def snapshot(self) -> Snapshot:
        """The walk that is shown."""
        assert self.numbers is not None, "show() comes first"
        return self.numbers.snapshot

    @property
    def order(self) -> Order:
        """The cgroups that are listed. It is made when it is first used after a change."""
        if self._order is None:
            self._order = self._made_order()
            self._follow(self._order.places)
        return self._order

    @property
    def at(self) -> int:
        """The line of the cursor among those listed."""
        return self._at if self.order.places else 0

    def column(self, name: str) -> Sequence[Optional[float]]:
        """The numbers of a column, for all rows."""
        assert self.numbers is not None, "show() comes first"
        return self.numbers.column(name, self.shows_growth)

    def show(self, snapshot: Snapshot, status: str) -> None:
        """Takes another walk. A pin can show the same walk as before."""
        self.status = status
        if self.numbers is None or self.snapshot.started_ns != snapshot.started_ns:
            before = None if self.numbers is None else self.snapshot
            self.numbers = Numbers(snapshot, before)
            self._order = None
            if self.shows_share is None and self._has_share:
                shares = self.numbers.column(SHARE, False)
                self.shows_share = any(share is not None for share in shares)
        if self.page is not None:
            self.page.refresh()

    def last_removed(self, most: int) -> list[RemovedCgroup]:
        """Those of the cgroups removed last that are shown, at most so many: first of all those in
        which processes were killed, which others shall not push away."""
        if not self.shows_removed or most <= 0:
            return []
        found = [each for each in self.removed if self.part in each.name]
        first = sorted(found, key=lambda each: (each.kills == 0, -each.removed_ns))
        return sorted(first[:most], key=lambda each: each.removed_ns)

    def fit(self, room: int, page_room: int) -> None:
        """Takes the number of cgroups that the screen has room for, and of lines of a page."""
        self.room, self.page_room = max(room, 1), max(page_room, 1)
        self._scroll()

    def _made_order(self) -> Order:
        places: Sequence[int] = range(len(self.snapshot))
        if self.part:
            names = self._known_names()
            places = [place for place in places if self.part in names[place]]
        if self.hides_zeros:
            columns = [self.column(name) for name in self._items]
            places = [place for place in places if any(column[place] for column in columns)]
        values = self.column(self.sort)
        if self.is_tree:
            return top_order.as_tree(
                places, values, self.smallest_first, self.snapshot, self.encoding
            )
        return top_order.as_list(places, values, self.smallest_first)

    def _known_names(self) -> Sequence[str]:
        """The names of all rows. While the tree does not change, neither do they."""
        if self._named is not self.snapshot.paths:
            self._names = list(map(rows.name_of, self.snapshot))
            self._named = self.snapshot.paths
        return self._names

    # --- the cursor

    def _follow(self, places: Sequence[int]) -> None:
        """Moves the cursor to the cgroup that it is bound to. If that is not listed any more, the
        cursor stays on its line."""
        try:
            self._at = places.index(self.snapshot.ids.tolist().index(self._bound or 0))
        except ValueError:
            self._at = max(min(self._at, len(places) - 1), 0)
            self._bind()
        self._scroll()

    def _bind(self) -> None:
        """Binds the cursor to the cgroup on its line; on the first line it is bound to none."""
        places = self.order.places
        if self._at == 0 or not places:
            self._bound = None
        else:
            self._bound = self.snapshot.ids[places[self._at]]

    def _scroll(self) -> None:
        """Scrolls so that the cursor is on the screen, which is as full as possible."""
        self.top = min(max(self.top, self.at - self.room + 1), self.at)
        self.top = max(min(self.top, len(self.order.places) - self.room), 0)

    # --- keys

    def press(self, key: str) -> None:
        """Does what a key stands for: a character, or one of the names of top_page."""
        self.notice = ""
        if self.page is not None:
            if self.page.press(key, self.page_room):
                self.close_page()
        elif self.is_typing and key not in (UP, DOWN):
            self._type(key)
        elif key in (LEFT, RIGHT) or (len(key) == 1 and key in "<,>."):
            self._sort_by(-1 if key in (LEFT, "<", ",") else 1)
        elif key == ENTER:
            self._open_details()
        elif key == ESCAPE:
            self._filter("")
        else:
            self._command(key)

    def _command(self, key: str) -> None:
        if key in ("q", "Q"):
            self.is_over = True
        elif key in ("?", "h"):
            self.page = help_page()
        elif key in ("p", " "):
            self.is_paused = not self.is_paused
        elif key == "/":
            self.is_typing = True
        elif key == "l":
            self._toggle_share()
        elif key in _TOGGLES:
            name = _TOGGLES[key]
            setattr(self, name, not getattr(self, name))
            self._order = None
        elif key in MOVES:
            self._move(key)

    def _move(self, key: str) -> None:
        last = len(self.order.places) - 1
        to = moved(key, self._at, self.room, last)
        if key in (PAGE_UP, PAGE_DOWN):
            self.top += to - self._at
        self._at = to
        self._bind()
        self._scroll()

    def _sort_by(self, step: int) -> None:
        columns = self.columns
        at = columns.index(self.sort) + step
        self._sort = columns[max(min(at, len(columns) - 1), 0)]
        self._order = None

    def _toggle_share(self) -> None:
        if self._has_share:
            self.shows_share = not self.shows_share
            self._order = None
        else:
            self.notice = _NO_SHARE

    def _type(self, key: str) -> None:
        if key in (ENTER, ESCAPE):
            self.is_typing = False
        if key == BACKSPACE:
            self._filter(self.part[:-1])
        elif key in (ESCAPE, ERASE):
            self._filter("")
        elif len(key) == 1 and key.isprintable():
            self._filter(self.part + key)

    def _filter(self, part: str) -> None:
        if part != self.part:
            self.part, self._order = part, None

    def _open_details(self) -> None:
        places = self.order.places
        if places:
            self.page = self._open_page(self.snapshot[places[self.at]])

    def close_page(self) -> None:
        """Returns from a page to the list."""
        page, self.page = self.page, None
        if page is not None:
            page.close()


_TOGGLES = {
    "r": "smallest_first",
    "z": "hides_zeros",
    "t": "is_tree",
    "g": "shows_growth",
    "d": "shows_removed",
}
