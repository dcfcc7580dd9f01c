# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Trees through text, on ordinary directories that look like cgroups."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    CgroupPermissionError,
    CgroupRemovedError,
    MemoryControllerError,
    TreeTooLargeError,
    _wire,
)
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._descriptors import Owned, opened_at
from pymemcgbpf._options import Order
from pymemcgbpf._sources import tree_text as _tree_text
from pymemcgbpf._sources.tree_bpf import TreeSourceFactory
from pymemcgbpf._sources.tree_text import TextTreeSource
from pymemcgbpf._wire import ABSENT

from ...open_files import open_files
from ..directories import STAT_V2, make_v1, make_v2
from ..tree_rows import unpack

Opened = Callable[[Path], Cgroup]
MakeSource = Callable[..., TextTreeSource]

ORDERS = ("self", "pre", "post", "up", "children")
CURRENT = "memory.current"


@pytest.fixture
def source(opened: Opened) -> Iterator[MakeSource]:
    """Makes sources, and closes them when the test is over."""
    made = []

    def make(
        path: Path,
        order: Order = "pre",
        names: tuple[str, ...] = ("anon", "pgfault"),
        max_rows: Optional[int] = None,
    ) -> TextTreeSource:
        tree = TreeSourceFactory(order, max_rows)
        new = TextTreeSource(opened(path), names, order, tree.check_cap)
        made.append(new)
        return new

    yield make
    for each in made:
        each.close()
        each.close()


def rows_of(source: TextTreeSource) -> list[_wire.RawRow]:
    return unpack(source.walk(), len(source.names))


def id_of(path: Path) -> int:
    return path.stat().st_ino


def stat_with(anon: int) -> str:
    return STAT_V2.replace("4096", str(anon))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A hierarchy of three levels, nine cgroups, each with its own amount of anon."""
    top = make_v2(tmp_path / "root", stat=stat_with(1), current=None, kind=None)
    number = 1
    for one in "abc":
        for name in (one, f"{one}/x", f"{one}/y") if one != "c" else (one,):
            number += 1
            make_v2(top / name, stat=stat_with(number), current=str(1000 * number))
    make_v2(top / "a/x/deep", stat=stat_with(9), current="9000")
    return top


def names_of(rows: list[_wire.RawRow], root: Path) -> list[str]:
    """The rows' paths, relative to the root's."""
    found = {id_of(root): ".", id_of(root.parent): ".."}
    for folder, names, _ in os.walk(root):
        found.update((id_of(Path(folder, name)), name) for name in names)
        found.update(
            (id_of(Path(folder, name)), os.path.relpath(Path(folder, name), root)) for name in names
        )
    return [found[row.cgroup_id] for row in rows]


def children(path: Path) -> list[Path]:
    return sorted((each for each in path.iterdir() if each.is_dir()), key=id_of)


def pre(path: Path) -> list[Path]:
    return [path, *(below for child in children(path) for below in pre(child))]


def post(path: Path) -> list[Path]:
    return [*(below for child in children(path) for below in post(child)), path]


# --- which rows, in which order -------------------------------------------------------


@pytest.mark.parametrize("start", [".", "a", "a/x", "c"])
@pytest.mark.parametrize("order", ORDERS)
def test_orders(order: Order, start: str, root: Path, source: MakeSource) -> None:
    path = root / start
    expected = {
        "self": [path],
        "pre": pre(path),
        "post": post(path),
        "up": [path, *path.parents][: len(Path(start).parts) + 1],
        "children": children(path),
    }[order]
    rows = rows_of(source(path, order))
    assert [row.cgroup_id for row in rows] == [id_of(each) for each in expected]


def test_how_many_there_are(root: Path, source: MakeSource) -> None:
    numbers = {order: len(rows_of(source(root / "a", order))) for order in ORDERS}
    assert numbers == {"self": 1, "pre": 4, "post": 4, "up": 2, "children": 2}
    numbers = {order: len(rows_of(source(root, order))) for order in ORDERS}
    assert numbers == {"self": 1, "pre": 9, "post": 9, "up": 1, "children": 3}


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_siblings_are_in_the_order_of_their_numbers(
    order: Order, tmp_path: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of a directory's listing."""
    root = make_v2(tmp_path / "root", kind=None)
    ids = sorted(id_of(make_v2(root / f"{number * 7 % 12}")) for number in range(12))
    expected = {"pre": [id_of(root), *ids], "post": [*ids, id_of(root)], "children": ids}[order]

    class Shuffled:
        def __init__(self, fd: int, backwards: bool) -> None:
            with os.scandir(fd) as entries:
                by_number = sorted(entries, key=lambda entry: entry.inode(), reverse=backwards)
            self.entries = by_number[1::2] + by_number[::2]

        def __enter__(self) -> Any:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    made = source(root, order)
    for backwards in (False, True):
        os_of_module = Patched(scandir=lambda fd: Shuffled(fd, backwards))  # noqa: B023
        monkeypatch.setattr(_tree_text, "os", os_of_module)
        assert [row.cgroup_id for row in rows_of(made)] == expected


class Patched:
    """The module os, with some of its functions replaced."""

    def __init__(self, **functions: Any) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_names_of_all_kinds(tmp_path: Path, source: MakeSource) -> None:
    root = make_v2(tmp_path / "root", kind=None)
    for name in ("..x", ".y", "a b", "line\nfeed", "-", os.fsdecode(b"\xff")):
        make_v2(make_v2(root / name) / name)
    rows = rows_of(source(root))
    assert len(rows) == 13
    assert [row.cgroup_id for row in rows] == [id_of(path) for path in pre(root)]


def test_files_and_links_are_no_cgroups(root: Path, source: MakeSource) -> None:
    (root / "link").symlink_to(root / "a")
    (root / "loop").symlink_to(root)
    assert len(rows_of(source(root))) == 9
    assert len(rows_of(source(root, "children"))) == 3


def test_a_cgroup_with_none_below_is_not_listed(
    root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    scandir = os.scandir

    def listing(fd: int) -> Any:
        listed.append(os.fstat(fd).st_ino)
        return scandir(fd)

    rows = rows_of(source(root))
    every = pre(root)
    parents = [path for path in every if children(path)]
    monkeypatch.setattr(os, "scandir", listing)
    assert rows_of(source(root)) == rows
    assert sorted(listed) == sorted(map(id_of, parents))
    # A file system that does not count them, as btrfs, has a 1 there.
    monkeypatch.setattr(_tree_text, "_NO_DIRECTORY_BELOW", -1)
    listed.clear()
    assert rows_of(source(root)) == rows
    assert sorted(listed) == sorted(map(id_of, every))


@pytest.mark.parametrize("order", ORDERS)
def test_levels_and_parents(order: Order, root: Path, source: MakeSource) -> None:
    for start in (".", "a", "a/x/deep"):
        for row in rows_of(source(root / start, order)):
            (path,) = (each for each in pre(root) if id_of(each) == row.cgroup_id)
            assert row.level == len(path.relative_to(root).parts)
            assert row.parent_id == (0 if path == root else id_of(path.parent))
            assert row.flags == (_wire.ROW_ROOT if path == root else 0)


def test_one_that_was_made_since_is_met(root: Path, source: MakeSource) -> None:
    made = source(root)
    assert len(rows_of(made)) == 9
    new = make_v2(root / "c" / "new")
    assert id_of(new) in {row.cgroup_id for row in rows_of(made)}


def test_a_walk_goes_by_the_directory_not_by_its_path(
    root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    made = source(Path("a"))
    monkeypatch.chdir("/")
    assert len(rows_of(made)) == 4


# --- values ---------------------------------------------------------------------------


def test_values_are_those_of_the_files(root: Path, source: MakeSource) -> None:
    made = source(root, names=("pgfault", CURRENT, "anon"))
    for row in rows_of(made):
        (path,) = (each for each in pre(root) if id_of(each) == row.cgroup_id)
        anon = int((path / "memory.stat").read_text().split()[1])
        assert row.values == (3, ABSENT if path == root else 1000 * anon, anon)
    (root / "a" / "memory.stat").write_text(stat_with(77))
    assert 77 in {row.values[2] for row in rows_of(made)}


def test_only_a_hierarchy_s_root_lacks_memory_current(tmp_path: Path, source: MakeSource) -> None:
    """The topmost that is visible, in a cgroup namespace, is no root: it shows its own."""
    top = make_v2(tmp_path / "top", kind="domain", current="5000")
    make_v2(top / "a", current="3000")
    for order, values in (("self", [5000]), ("pre", [5000, 3000]), ("post", [3000, 5000])):
        rows = rows_of(source(top, order, (CURRENT,)))
        assert [row.values[0] for row in rows] == values
    rows = rows_of(source(top / "a", "up", (CURRENT,)))
    assert [row.values[0] for row in rows] == [3000, 5000]


@pytest.mark.parametrize("version", [1, 2])
def test_a_hierarchy_s_root_has_no_memory_current(
    version: int, tmp_path: Path, source: MakeSource
) -> None:
    """v1's has the file, but what it shows there is something else."""
    path = tmp_path / "root"
    if version == 2:
        root, child = make_v2(path, kind=None, current=None), make_v2(path / "a")
    else:
        root, child = make_v1(path, root=True), make_v1(path / "a")
    for order, expected in (("pre", [root, child]), ("post", [child, root])):
        values = {row.cgroup_id: row.values for row in rows_of(source(root, order, (CURRENT,)))}
        assert values == {id_of(root): (ABSENT,), id_of(child): (12288,)}
        assert list(values) == [id_of(each) for each in expected]
    rows = rows_of(source(child, "up", (CURRENT,)))
    assert [row.values for row in rows] == [(12288,), (ABSENT,)]


def test_an_item_that_another_cgroup_does_not_show_is_absent_there(
    root: Path, source: MakeSource
) -> None:
    (root / "c" / "memory.stat").write_text("pgfault 8\n")
    rows = {row.cgroup_id: row for row in rows_of(source(root))}
    assert rows[id_of(root / "c")].values == (ABSENT, 8)
    assert rows[id_of(root / "b")].values[0] != ABSENT


def test_v1_has_the_totals(tmp_path: Path, source: MakeSource) -> None:
    root = make_v1(tmp_path / "root", root=True)
    make_v1(root / "a", stat="rss 1\ntotal_rss 6\ncache 1\ntotal_cache 5\n")
    rows = rows_of(source(root, names=("file", "anon")))
    assert [row.values for row in rows] == [(8192, 4096), (5, 6)]


@pytest.mark.parametrize("order", ["pre", "post", "up"])
@pytest.mark.parametrize("version", [1, 2])
def test_derived_items_are_computed_in_every_order(
    version: int, order: Order, tmp_path: Path, source: MakeSource
) -> None:
    path, stat = tmp_path / "root", "inactive_file 288\ntotal_inactive_file 288\nanon 7\n"
    if version == 2:
        places = [make_v2(path, kind=None, current=None, stat=stat)]
        places += [make_v2(path / "a", stat=stat), make_v2(path / "a" / "b", stat=stat)]
    else:
        places = [make_v1(path, root=True, stat=stat)]
        places += [make_v1(path / "a", stat=stat), make_v1(path / "a" / "b", stat=stat)]
    file = "memory.max" if version == 2 else "memory.limit_in_bytes"
    for place, limit in zip(places[1:], ("40960", "81920")):
        (place / file).write_text(f"{limit}\n")
    names = ("derived.effective_limit", "inactive_file", "derived.working_set")
    made = source(places[-1] if order == "up" else places[0], order, names)
    values = {row.cgroup_id: row.values for row in rows_of(made)}
    assert values == {
        id_of(places[0]): (ABSENT, 288, ABSENT),
        id_of(places[1]): (40960, 288, 12000),
        id_of(places[2]): (40960, 288, 12000),
    }
    (places[1] / file).write_text("20480\n")
    assert {row.values[0] for row in rows_of(made)} == {ABSENT, 20480}
    (places[2] / file).unlink()
    if order != "up":  # there it is the root of the walk
        removed = id_of(places[2])
        assert removed not in {row.cgroup_id for row in rows_of(made)}


def test_numbers_of_64_bits(tmp_path: Path, source: MakeSource) -> None:
    most = (1 << 64) - 2
    root = make_v2(tmp_path / "root", stat=f"anon {most}\npgfault 0\n", kind=None)
    assert [row.values for row in rows_of(source(root))] == [(most, 0)]


def test_a_long_cgroup_files(tmp_path: Path, source: MakeSource) -> None:
    text = "".join(f"item-{number:05} {number}\n" for number in range(5000)) + "anon 6\npgfault 7\n"
    root = make_v2(tmp_path / "root", stat=text, kind=None)
    assert [row.values for row in rows_of(source(root))] == [(6, 7)]


def test_all_is_kept(root: Path, source: MakeSource) -> None:
    assert source(root, names=("anon", CURRENT)).probe_missing() == set()


# --- who has no row -------------------------------------------------------------------


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_a_cgroup_without_cgroup_files_has_no_row(
    order: Order, root: Path, source: MakeSource
) -> None:
    (root / "a" / "memory.stat").unlink()
    (root / "c" / "memory.stat").unlink()
    found = {row.cgroup_id: row for row in rows_of(source(root, order))}
    left_out = {id_of(root / "a"), id_of(root / "c")}
    expected = set(map(id_of, children(root) if order == "children" else pre(root)))
    assert found.keys() == expected - left_out
    if order != "children":
        below = found[id_of(root / "a/x")]
        assert (below.parent_id, below.level) == (id_of(root / "a"), 2), "those below have theirs"


def test_a_directory_without_any_file_has_no_row(root: Path, source: MakeSource) -> None:
    (root / "c" / "going").mkdir()
    assert len(rows_of(source(root))) == 9


def test_no_children_are_no_rows(root: Path, source: MakeSource) -> None:
    rows = source(root / "c", "children").walk()
    assert (rows.number, rows.memory) == (0, b"")


# --- who goes while the walk goes on --------------------------------------------------


def before_opening(monkeypatch: pytest.MonkeyPatch, wanted: str, action: Callable[[], Any]) -> Any:
    """Does something once, just before something of this name is opened."""
    calls: list[str] = []

    def opening(path: str, flags: int, directory: int) -> Owned:
        if path == wanted:
            if not calls:
                action()
            calls.append(path)
        return opened_at(path, flags, directory)

    for module in (_tree_text, _files):
        monkeypatch.setattr(module, "opened_at", opening)
    return calls


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_one_that_vanishes_after_the_listing_has_no_row(
    order: Order, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, order)
    expected = {row.cgroup_id for row in rows_of(made)} - set(map(id_of, pre(root / "b")))
    calls = before_opening(monkeypatch, "b", lambda: shutil.rmtree(root / "b"))
    assert {row.cgroup_id for row in rows_of(made)} == expected
    assert calls


@pytest.mark.parametrize("what", ["memory.stat", "memory.current"])
@pytest.mark.parametrize("order", ["pre", "post", "children", "up"])
def test_a_cgroup_whose_files_vanish_has_no_row(
    order: Order, what: str, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = root / "a/x" if order == "up" else root
    made = source(start, order, ("anon", CURRENT))
    before = {row.cgroup_id for row in rows_of(made)}
    (root / "a" / what).unlink()
    assert {row.cgroup_id for row in rows_of(made)} == before - {id_of(root / "a")}


def test_one_that_vanishes_between_two_files_has_no_row(
    root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, "children", ("anon", CURRENT))
    first, *others = children(root)
    calls = before_opening(monkeypatch, CURRENT, lambda: shutil.rmtree(first))
    ids = [id_of(path) for path in others]
    assert [row.cgroup_id for row in rows_of(made)] == ids
    assert len(calls) == 3


def test_one_that_vanishes_between_its_row_and_its_children_keeps_its_row(
    root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, opened_before = source(root), 0
    ids = [id_of(path) for path in (root, root / "a")]
    shutil.rmtree(root / "b")
    shutil.rmtree(root / "c")

    def opening(path: str, flags: int, directory: int) -> Owned:
        nonlocal opened_before
        if path == "a":
            opened_before += 1
            if opened_before == 2:
                shutil.rmtree(root / "a")
        return opened_at(path, flags, directory)

    monkeypatch.setattr(_tree_text, "opened_at", opening)
    assert [row.cgroup_id for row in rows_of(made)] == ids
    assert opened_before == 2


def test_one_that_vanishes_while_it_is_listed_has_no_children(
    root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root)
    below = set(map(id_of, pre(root / "a")[1:]))
    before = {row.cgroup_id for row in rows_of(made)}

    def listing(fd: int) -> Any:
        if os.fstat(fd).st_ino == id_of_a:
            shutil.rmtree(root / "a")
        return os.scandir(fd)

    id_of_a = id_of(root / "a")
    monkeypatch.setattr(_tree_text, "os", Patched(scandir=listing))
    assert {row.cgroup_id for row in rows_of(made)} == before - below
    assert not (root / "a").exists() and len(below) == 3


@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_another_directory_in_the_way_is_passed_over(
    order: Order, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, order)
    expected = {row.cgroup_id for row in rows_of(made)} - set(map(id_of, pre(root / "b")))

    def swap() -> None:
        (root / "b").rename(root.parent / "kept")  # so that its number is not given again
        make_v2(make_v2(root / "b") / "x")

    calls = before_opening(monkeypatch, "b", swap)
    found = {row.cgroup_id for row in rows_of(made)}
    assert found == expected
    assert calls and id_of(root / "b") not in found and id_of(root / "b/x") not in found


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENOENT])
@pytest.mark.parametrize("order", ["pre", "post", "children"])
def test_a_dying_cgroup_whose_open_files_cannot_be_read_has_no_row(
    order: Order, number: int, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, order)
    before = {row.cgroup_id for row in rows_of(made)}
    failing_reads(monkeypatch, root / "b" / "memory.stat", number)
    assert {row.cgroup_id for row in rows_of(made)} == before - {id_of(root / "b")}


def failing_reads(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """To read one file fails so."""
    read_whole = _files.read_whole

    def read(fd: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(path):
            raise OSError(number, os.strerror(number))
        return read_whole(fd)

    monkeypatch.setattr(_files, "read_whole", read)


# --- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("what", ["b", "memory.stat", "memory.current"])
def test_a_failure_to_open_is_not_taken_for_a_removal(
    what: str, number: int, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, names=("anon", CURRENT))

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    before = open_files()
    before_opening(monkeypatch, what, refuse)
    with pytest.raises(OSError) as caught:
        made.walk()
    assert caught.value.errno == number
    assert open_files() == before
    for module in (_tree_text, _files):
        monkeypatch.setattr(module, "opened_at", opened_at)
    assert made.walk().number == 9, "the next walk is a new one"


@pytest.mark.parametrize("what", ["memory.stat", "."])
def test_what_may_not_be_read_is_named(
    what: str, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root, names=("anon", CURRENT))
    refused = root / "a" / what

    def opening(path: str, flags: int, directory: int) -> Owned:
        place = os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path))
        if place == str(refused):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened_at(path, flags, directory)

    for module in (_tree_text, _files):
        monkeypatch.setattr(module, "opened_at", opening)
    with pytest.raises(CgroupPermissionError, match=f"^{root}/a cannot be read: Permission"):
        made.walk()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_failure_to_read_is_not_taken_for_a_removal(
    number: int, root: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(root)
    before = open_files()
    failing_reads(monkeypatch, root / "a" / "memory.stat", number)
    with pytest.raises(OSError) as caught:
        made.walk()
    assert caught.value.errno == number
    assert open_files() == before


def test_a_cgroup_files_that_is_none_is_an_error(root: Path, source: MakeSource) -> None:
    (root / "a" / "memory.stat").write_text("anon many\n")
    with pytest.raises(OSError, match="not as expected"):
        source(root).walk()


@pytest.mark.parametrize("order", ORDERS)
def test_a_removed_root_is_a_clear_error(order: Order, root: Path, source: MakeSource) -> None:
    path = root / "a"
    made = source(path, order)
    assert made.walk().number > 0
    shutil.rmtree(path)
    for _ in range(2):
        with pytest.raises(CgroupRemovedError, match="was removed"):
            made.walk()
    make_v2(make_v2(path) / "below")
    with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
        made.walk()


@pytest.mark.parametrize("order", ORDERS)
def test_a_root_that_lost_the_controller_is_told_what_to_do(
    order: Order, root: Path, source: MakeSource
) -> None:
    path = root / "a"
    made = source(path, order)
    for each in pre(path):
        (each / "memory.stat").unlink()
    (path / "cgroup.controllers").write_text("pids\n")
    with pytest.raises(MemoryControllerError, match=r"\+memory"):
        made.walk()


@pytest.mark.parametrize("order", ORDERS)
def test_a_cap_is_obeyed(order: Order, root: Path, source: MakeSource) -> None:
    start = root / "a"
    number = source(start, order).walk().number
    assert source(start, order, max_rows=number).walk().number == number
    if number > 1:
        with pytest.raises(TreeTooLargeError) as caught:
            source(start, order, max_rows=number - 1).walk()
        assert (caught.value.rows, caught.value.max_rows) == (number, number - 1)
        assert str(start) in str(caught.value)


def test_rows_that_are_not_there_do_not_count(root: Path, source: MakeSource) -> None:
    (root / "c" / "memory.stat").unlink()
    assert source(root, max_rows=8).walk().number == 8


# --- open files -----------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_one_descriptor_is_kept_and_it_is_the_root_s(
    order: Order, root: Path, source: MakeSource
) -> None:
    before = open_files()
    made = source(root / "a", order, ("anon", CURRENT))
    kept = {fd: path for fd, path in open_files().items() if fd not in before}
    assert list(kept.values()) == [str(root / "a")] * 2, "one is the test's own"
    for _ in range(3):
        made.walk()
    assert open_files() == {**before, **kept}
    made.close()
    assert len(open_files()) == len(before) + 1


def test_a_path_longer_than_the_kernel_takes_is_no_hindrance(
    tmp_path: Path, source: MakeSource
) -> None:
    """The kernel accepts paths of at most 4096 bytes."""
    root = make_v2(tmp_path / "root", kind=None)
    name, levels = "d" * 250, 40
    fds = [os.open(root, os.O_RDONLY)]
    for level in range(levels):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
        make_v2(Path(f"/proc/self/fd/{fds[-1]}"), current=str(level))
    ids = [os.fstat(fd).st_ino for fd in fds]
    for fd in fds:
        os.close(fd)
    before = open_files()
    for order, expected in (("pre", ids), ("post", ids[::-1])):
        made = source(root, order, (CURRENT,))
        rows = rows_of(made)
        assert [row.cgroup_id for row in rows] == expected
        assert sorted(row.values[0] for row in rows) == [*range(levels), ABSENT]
        made.close()
    assert len(open_files()) == len(before) + 2, "those of the test's own cgroups"


def test_a_deep_tree_takes_few_descriptors(
    tmp_path: Path, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root = make_v2(tmp_path / "root", kind=None)
    for _ in range(60):
        path = make_v2(path / "d")
    most = 0

    def opening(path: str, flags: int, directory: int) -> Owned:
        nonlocal most
        made = opened_at(path, flags, directory)
        most = max(most, len(open_files()))
        return made

    for order in ("pre", "post"):
        made = source(root, order)
        before = len(open_files())
        monkeypatch.setattr(_tree_text, "opened_at", opening)
        rows = rows_of(made)
        monkeypatch.setattr(_tree_text, "opened_at", opened_at)
        assert len(rows) == 61
        assert {row.level for row in rows} == set(range(61))
        assert before < most <= before + 2
        most = 0
