# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the pins of this package, and what each of them costs. Works without libbpf and ctypes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable, Literal, Optional

from .. import _items, _options, _wire
from .._cgroup import mounts as _mounts
from .._lookup import Path, contents
from .._records import Record
from ..errors import (
    CgroupRemovedError,
    MemcgError,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    StreamError,
    TreeTooLargeError,
    is_transient,
)
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis
from . import pin_stream as _pin_stream
from . import tree_layout as _layout

if TYPE_CHECKING:
    from ..snapshot import Snapshot

Kind = Literal["cgroup", "walk", "tree"]
Refresher = Literal["kernel", "holder", "read"]
State = Literal["alive", "stale", "new", "removed", "too large", "ended", "incomplete"]

STALE = 3
"""After so many intervals without a walk, a pinned tree is stale."""

FRESH = 3
"""The seconds after which a stale tree may be refused: where it is refreshed many times a second, a
walk may be late."""

_LONGEST_PART = 4  # the walks take at most a quarter of the time: if they are slow, fewer are made
_TRIES = 10  # a head is read again, if a walk was published meanwhile

_UNPIN = "unpin it"
_ADVICE: dict[State, str] = {
    "alive": "",
    "stale": f"whoever refreshed it may have ended: {_UNPIN}, and pin the tree again",
    "new": "its first walk is yet to come",
    "removed": f"its cgroup was removed: {_UNPIN}",
    "too large": "it has more cgroups than room: unpin it, and pin it again with more --room",
    "ended": f"whoever refreshed it has ended: {_UNPIN}",
    "incomplete": f"it is being created, or its creation was interrupted: {_UNPIN}",
}
_STATES: dict[int, State] = {
    _layout.NEW: "new",
    _layout.ALIVE: "alive",
    _layout.REMOVED: "removed",
    _layout.TOO_LARGE: "too large",
    _layout.ENDED: "ended",
}


class FoundPin(Record):
    """A pin, and what is known of it without its numbers.

    Attributes:
        path: the path of the file, or of the directory of a pinned tree.
        kind: "cgroup" for one cgroup and "walk" for several, both read by the kernel at each read;
            "tree" for a pinned tree.
        order: the order of the walk.
        item_names: the items.
        root_id: the id of the walk's root; 0 if it is not known.
        cgroup: the path of the walk's root; None if it is not known.
        refreshed_by: "kernel", "holder" for a process, "read" for each reader.
        interval: the seconds from one walk to the next; None if there are none.
        age: the seconds since the last walk began; None if there was none.
        duration: the seconds that the last walk took; None if there was none.
        share: which part of a CPU's time the walks take; None if that depends on the readers.
        cgroups: the number of rows; None if it is not known.
        memory: the bytes of the map of a pinned tree.
        state: "alive"; or "stale", "new", "removed", "too large", "ended" or "incomplete".
        advice: what that state means and what to do; "" if there is nothing to do.
    """

    path: str
    kind: Kind
    order: str
    item_names: tuple[str, ...]
    root_id: int
    cgroup: Optional[str]
    refreshed_by: Refresher
    interval: Optional[float]
    age: Optional[float]
    duration: Optional[float]
    share: Optional[float]
    cgroups: Optional[int]
    memory: int
    state: State
    advice: str


class FoundPins(Record):
    """The pins that were found.

    Attributes:
        pins: in the order of their paths.
        unreadable: how many files and directories this user may not read.
    """

    pins: list[FoundPin]
    unreadable: int


def list_pins(directory: Optional[Path] = None) -> FoundPins:
    """All pins of this package in the bpffs mounts that this process sees.

    Args:
        directory: look at, and below, this file or directory only.

    Raises:
        PinPathError: *directory* is not on a bpffs.
        PinNotFoundError, PinPermissionError: *directory* cannot be looked at.
        MemcgError: the mount table cannot be read, or the process is short of file descriptors or
            memory.
    """
    search = _Search()
    if directory is not None:
        top = _bpffs.absolute(directory)
        _require_bpffs(top, _diagnosis.no_place_of_pins)
        search.look(top)
    else:
        for mount_point in bpffs_mounts():
            search.look(mount_point)
    return FoundPins(sorted(search.pins), search.unreadable)


def describe(path: Path) -> FoundPin:
    """What is known of one pin.

    Raises:
        MemcgError: it is no pin, or cannot be read; a subclass, as for PinnedReader.
    """
    place = _bpffs.absolute(path)
    _require_bpffs(place, _diagnosis.no_pin)
    paths = _RootPaths()
    if os.path.isdir(place):
        return _tree(place, paths)
    return _file(place, paths)


def _require_bpffs(path: str, refusal: Callable[[str], MemcgError]) -> None:
    try:
        if not _bpffs.is_bpffs(path):
            raise refusal(path)
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def bpffs_mounts() -> list[str]:
    """The mount points of all bpffs, those first that are mounted first.

    Raises:
        MemcgError: the mount table cannot be read.
    """
    found = []
    table = contents("/proc/self/mountinfo")
    if table is None:
        raise _diagnosis.no_mount_table()
    for line in table.split("\n"):
        before, _, after = line.partition(" - ")
        if after.startswith("bpf "):
            found.append(_mounts.unescaped(before.split(" ")[4]))
    return found


class _Search:
    """Looks for pins in directories, and remembers where it was: a bpffs can be mounted twice."""

    def __init__(self) -> None:
        self.pins: list[FoundPin] = []
        self.unreadable = 0
        self._seen: set[tuple[int, int]] = set()
        self._paths = _RootPaths()

    def look(self, top: str) -> None:
        """Looks at a path, and at everything below it. Symbolic links are not followed."""
        waiting = [top]
        while waiting:
            path = waiting.pop()
            try:
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                if not _bpffs.is_on_bpffs(status, path):  # something else is mounted over it
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                if stat.S_ISREG(status.st_mode):
                    self.pins.append(_file(path, self._paths))
                elif stat.S_ISDIR(status.st_mode):
                    waiting += self._directory(path)
            except (PermissionError, PinPermissionError):
                self.unreadable += 1
            except (PinNotFoundError, PinPathError, StreamError, FileNotFoundError):
                pass  # it is no pin of this package, or has just been removed
            except OSError as error:
                if is_transient(error):
                    raise

    def _directory(self, path: str) -> Iterator[str]:
        """The paths in a directory that is not that of a pinned tree."""
        names = os.listdir(path)
        if _layout.STREAM in names:
            try:
                self.pins.append(_tree(path, self._paths))
                return
            except StreamError:
                pass  # something else has this name
        # A name with a dot is one of the kernel's own, such as maps.debug.
        yield from (os.path.join(path, name) for name in names if "." not in name)


class _RootPaths:
    """Finds the paths of cgroups whose ids are known, each of them once."""

    def __init__(self) -> None:
        self._known: dict[int, Optional[str]] = {}

    def of(self, cgroup_id: int) -> Optional[str]:
        """The path; None if the cgroup is not visible."""
        if cgroup_id not in self._known:
            found = _mounts.find_cgroup(cgroup_id) if cgroup_id else None
            self._known[cgroup_id] = None if found is None else found[0]
        return self._known[cgroup_id]


# --- pins that are read by a walk


def _file(path: str, paths: _RootPaths) -> FoundPin:
    """A pin that pin() created. It is read, so the kernel walks once."""
    pin = _pin_stream.PinFile(path, _bpffs.OnBpffs())
    header = pin.header
    order = _options.ORDER_NAMES[header.order]
    began = time.monotonic_ns()
    state: State = "alive"
    rows = memoryview(b"")
    try:
        rows = pin.read()
    except CgroupRemovedError:
        state = "removed"
    except TreeTooLargeError:
        state = "too large"
    duration = time.monotonic_ns() - began
    count = len(rows) // _wire.row_size(len(header.item_numbers))
    if not count and state == "alive" and order != "children":
        state = "removed"
    root_id = _root_id(rows, order, count)
    return FoundPin(
        path=path,
        kind="cgroup" if order == "self" else "walk",
        order=order,
        item_names=_items.names_numbered(header.item_numbers),
        root_id=root_id,
        cgroup=paths.of(root_id),
        refreshed_by="read",
        interval=None,
        age=0.0 if state == "alive" else None,
        duration=duration / 1e9 if state == "alive" else None,
        share=None,
        cgroups=count if state == "alive" else None,
        memory=0,
        state=state,
        advice=_TOO_LARGE_FILE if state == "too large" else _ADVICE[state],
    )


_TOO_LARGE_FILE = f"it has more cgroups than room: {_UNPIN}, and pin it again with --tree"


def _root_id(rows: memoryview, order: str, count: int) -> int:
    """The id of the walk's root; 0 if there are no rows."""
    if not count:
        return 0
    words = rows.cast("Q")
    width = len(words) // count
    at = {"children": 1, "post": (count - 1) * width}.get(order, 0)
    return int(words[at])


# --- pinned trees


def _tree(path: str, paths: _RootPaths) -> FoundPin:
    """A pinned tree. Only the head is read, which costs no walk."""
    stream = os.path.join(path, _layout.STREAM)
    data, number = _head(stream)
    head, progress = _layout.decode_head(data), _layout.decode_progress(data)
    half = _layout.decode_half(data, number)
    by_kernel = bool(head.flags & _layout.BY_KERNEL)
    interval = head.interval_ns / 1e9 or None
    started, ended = half.started_ns, max(half.ended_ns, half.started_ns)
    now = time.monotonic_ns()
    age = max(now - started, 0) / 1e9 if number else None
    duration = (ended - started) / 1e9 if number else None
    spent = progress.walks_ns / progress.walks / 1e9 if progress.walks else 0.0
    real = pause(interval or 0.0, spent)  # on average
    state = _STATES.get(progress.state, "incomplete")
    if not _is_complete(path, by_kernel):
        state = "incomplete"
    elif state == "alive" and age is not None and is_stale(age, interval, duration or 0.0):
        state = "stale"
    shown = _layout.root_path(data, number).partition(b"\0")[0] if number else b""
    return FoundPin(
        path=path,
        kind="tree",
        order=_options.ORDER_NAMES[head.order],
        item_names=_items.names_numbered(head.item_numbers),
        root_id=head.root_id,
        cgroup=os.fsdecode(shown) or paths.of(head.root_id),
        refreshed_by="kernel" if by_kernel else "holder",
        interval=interval,
        age=age,
        duration=duration,
        share=spent / real if real and progress.walks else None,
        cgroups=half.nr_rows if number else None,
        memory=head.geometry.size,
        state=state,
        advice=_ADVICE[state],
    )


def pause(interval: float, duration: float) -> float:
    """The seconds from one walk to the next, which are more than the interval if walks are slow."""
    return max(interval, _LONGEST_PART * duration)


def is_stale(age: float, interval: Optional[float], duration: float) -> bool:
    """Whether a pinned tree is stale.

    Args:
        age: the seconds since its last walk began.
        interval: the seconds from one walk to the next; None if there are none.
        duration: the seconds that the last walk took, by which the next one is due.
    """
    return interval is not None and age > STALE * pause(interval, duration)


def staleness(snapshot: Snapshot, interval: Optional[float]) -> str:
    """How old the last walk of a pinned tree is, if the tree is stale; "" otherwise.

    Args:
        snapshot: that walk.
        interval: as for :func:`is_stale`.
    """
    age, duration = snapshot.age, snapshot.duration_ns / 1e9
    if interval is None or not is_stale(age, interval, duration):
        return ""
    due = pause(interval, duration)
    return f"the last walk began {age:,.0f} s ago, and one was due every {due:g} s"


def _head(stream: str) -> tuple[bytes, int]:
    """The head of a pinned tree, and the number of the walk that it describes; 0 for none."""
    check = _bpffs.OnBpffs()
    for _ in range(_TRIES):
        data = _bpffs.read_pin(stream, lambda fd: os.read(fd, _layout.HEAD_SIZE), check=check)
        try:
            _layout.decode_head(data)
        except StreamError as error:
            raise _diagnosis.bad_stream(stream, error) from error
        number = _layout.decode_progress(data).written
        if not number or _layout.decode_half(data, number).number == number:
            break  # else it was read while a walk was published
    return data, number


def _is_complete(path: str, by_kernel: bool) -> bool:
    """Whether all files of a tree are there."""
    wanted = {_layout.MAP, _layout.STREAM, *([_layout.TIMER] if by_kernel else [])}
    return wanted <= set(os.listdir(path))
