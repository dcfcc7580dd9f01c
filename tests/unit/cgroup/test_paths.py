# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Paths are found by ids; ordinary directories, which have inode numbers too, stand for cgroups."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._cgroup import paths as _paths
from pymemcgbpf._cgroup.paths import Paths
from pymemcgbpf._descriptors import Owned, opened_at

from ..fake_sources import TRANSIENT

SECOND = 1_000_000_000


class System:
    """The modules os and time, and opened_at(), as _paths.py sees them.

    Its file system ends at a directory (what is above is another device's, as it is above
    a mounted hierarchy), listings are counted, and the clock goes as the test says.

    Attributes:
        listed: the ids of the directories listed, in order.
        now: the clock, in ns; it goes on by *tick* with each look at it.
        opening: called with each path before it is opened.
    """

    def __init__(self, top: Path) -> None:
        self.top = os.path.realpath(top)
        self.listed: list[int] = []
        self.now, self.tick = 1000 * SECOND, 1
        self.opening: Any = lambda path: None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def stat(self, path: str) -> os.stat_result:
        status = os.stat(path)
        if f"{os.path.realpath(path)}/".startswith(f"{self.top}/"):
            return status
        mode, number, device, *rest = status[:10]
        return os.stat_result((mode, number, device + 1, *rest))

    def opened_at(self, path: str, flags: int) -> Owned:
        self.opening(path)
        return opened_at(path, flags)

    def scandir(self, fd: int) -> Any:
        self.listed.append(os.fstat(fd).st_ino)
        return os.scandir(fd)

    def monotonic_ns(self) -> int:
        self.now += self.tick
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "top" / "root"
    path.mkdir(parents=True)
    return path


@pytest.fixture(autouse=True)
def system(root: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    fake = System(root.parent)
    monkeypatch.setattr(_paths, "os", fake)
    monkeypatch.setattr(_paths, "time", fake)
    monkeypatch.setattr(_paths, "opened_at", fake.opened_at)
    return fake


def id_of(path: Path) -> int:
    return path.stat().st_ino


class Walk:
    """What a walk of all directories below one found, and when."""

    def __init__(self, root: Path, system: System) -> None:
        self.paths: dict[int, Path] = {id_of(root): root}
        self.parents = {id_of(root): 0}
        for folder, names, _ in os.walk(root):
            for name in names:
                path = Path(folder, name)
                self.paths[id_of(path)] = path
                self.parents[id_of(path)] = id_of(path.parent)
        self.seen_ns = system.monotonic_ns()

    def relative(
        self, paths: Paths, cgroup_id: int, ids: Optional[Collection[int]] = None
    ) -> Optional[str]:
        """A cgroup's path, looked up as a snapshot does it."""
        kept = self.parents.keys() if ids is None else ids
        return paths.look_up(cgroup_id, self.parents.get, self.seen_ns, kept)

    def all(self, paths: Paths) -> dict[int, Optional[str]]:
        return {cgroup_id: self.relative(paths, cgroup_id) for cgroup_id in self.paths}

    def expected(self, root: Path) -> dict[int, str]:
        return {each: os.path.relpath(path, root) for each, path in self.paths.items()}


def paths_of(directory: Path) -> Paths:
    """The paths below a directory."""
    status = directory.stat()
    return Paths(str(directory), (status.st_dev, status.st_ino))


def make(root: Path, *names: str) -> list[Path]:
    """Creates directories, with those above them."""
    for name in names:
        (root / name).mkdir(parents=True)
    return [root / name for name in names]


def replace(path: Path, away: Path) -> None:
    """Moves a directory away, and creates another in its place.

    The old one is not removed, because the new one could get its inode number.
    """
    path.rename(away)
    path.mkdir()


def nobody(cgroup_id: int) -> Optional[int]:
    """The parent of a cgroup, for a snapshot in which no parent has a row."""
    return None


# --- what is there --------------------------------------------------------------------


def test_every_path_below_the_root_is_found(root: Path, system: System) -> None:
    make(root, "a/b/c/d", "a/b/e", "f/g", "f/h")
    paths, walk = paths_of(root), Walk(root, system)
    assert len(walk.paths) == 9
    assert walk.all(paths) == walk.expected(root)
    for cgroup_id, path in walk.paths.items():
        relative = walk.relative(paths, cgroup_id)
        assert relative is not None and paths.absolute(relative) == str(path)


def test_the_deepest_first_lists_its_ancestors_only(root: Path, system: System) -> None:
    leaf, *_ = make(root, "a/b/c", "a/x/y", "z/w")
    paths, walk = paths_of(root), Walk(root, system)
    assert walk.relative(paths, id_of(leaf)) == "a/b/c"
    assert system.listed == [id_of(path) for path in (root, root / "a", root / "a/b")]
    assert walk.relative(paths, id_of(root / "a" / "x")) == "a/x"
    assert walk.relative(paths, id_of(root / "z")) == "z"
    assert len(system.listed) == 3, "their directories were listed before"


def test_the_root_needs_no_listing(root: Path, system: System) -> None:
    paths, walk = paths_of(root), Walk(root, system)
    assert walk.relative(paths, id_of(root)) == "."
    assert (paths.absolute("."), paths.root, system.listed) == (str(root), str(root), [])


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "line\nfeed",
        "tab\t",
        " ",
        "\n",
        "-",
        "..x",
        "...",
        ".hidden",
        "..x y",
        "ünïcode",
        "back\\slash",
        "{0}%s*?[]",
        "~",
        "x" * 255,
        os.fsdecode(b"\xff\xfe bytes"),
        os.fsdecode(b"\xed\xb2\x80"),
    ],
)
def test_any_name_is_a_path(name: str, root: Path, system: System) -> None:
    child, below = root / name, root / name / name
    below.mkdir(parents=True)
    paths, walk = paths_of(root), Walk(root, system)
    for path, relative in ((child, name), (below, f"{name}/{name}")):
        assert walk.relative(paths, id_of(path)) == relative
        assert paths.absolute(relative) == f"{root}/{name}" + ("" if path is child else f"/{name}")
    below.rmdir()
    assert walk.relative(paths, id_of(child)) == name
    assert walk.relative(paths, walk_id(walk, below)) is None


def walk_id(walk: Walk, path: Path) -> int:
    """The id that a path had at the walk."""
    return next(cgroup_id for cgroup_id, each in walk.paths.items() if each == path)


def test_files_and_links_are_not_cgroups(root: Path, system: System) -> None:
    (inside,) = make(root, "a/inside")
    (root / "file").write_text("")
    (root / "link").symlink_to(root / "a")
    paths, walk = paths_of(root), Walk(root, system)
    (inside / "loop").symlink_to(root)
    assert walk.relative(paths, id_of(inside)) == "a/inside"
    assert walk.relative(paths, id_of(root / "a")) == "a"
    assert walk.relative(paths, id_of(root / "file")) is None


# --- what is gone ---------------------------------------------------------------------


def test_a_removed_cgroup_has_no_path(root: Path, system: System) -> None:
    leaf, other = make(root, "a/b/c", "a/d")
    paths, walk = paths_of(root), Walk(root, system)
    gone = id_of(leaf)
    assert walk.relative(paths, gone) == "a/b/c"
    leaf.rmdir()
    for _ in range(2):
        assert walk.relative(paths, gone) is None
    assert walk.relative(paths, id_of(other)) == "a/d"


def test_a_cgroup_removed_with_its_ancestors_has_no_path(root: Path, system: System) -> None:
    (leaf,) = make(root, "a/b/c")
    paths, walk = paths_of(root), Walk(root, system)
    middle, gone = id_of(leaf.parent), id_of(leaf)
    shutil.rmtree(root / "a")
    assert walk.relative(paths, gone) is None
    assert walk.relative(paths, middle) is None
    assert walk.relative(paths, id_of(root)) == "."


def test_everything_is_gone_with_the_root(root: Path, system: System) -> None:
    make(root, "a/b")
    paths, walk = paths_of(root), Walk(root, system)
    known = walk.all(paths)
    assert None not in known.values()
    shutil.rmtree(root)
    assert set(walk.all(paths).values()) == {None}


def test_another_directory_in_the_root_s_place_is_not_the_root(root: Path, system: System) -> None:
    make(root, "a/b")
    paths, walk = paths_of(root), Walk(root, system)
    walk.all(paths)
    kept = root.rename(root.parent / "kept")
    make(root, "a/b")
    assert set(walk.all(paths).values()) == {None}
    shutil.rmtree(root)
    kept.rename(root)
    assert walk.all(paths) == walk.expected(root), "it is there again"


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("which", ["a", "a/b", "a/b/c"])
def test_another_cgroup_s_path_is_never_returned(
    which: str, known: bool, root: Path, system: System
) -> None:
    make(root, "a/b/c")
    paths, walk = paths_of(root), Walk(root, system)
    old = {str(path.relative_to(root)): each for each, path in walk.paths.items()}
    if known:
        walk.all(paths)
    replace(root / which, root.parent / "away")
    (root / "a/b/c").mkdir(parents=True, exist_ok=True)
    for name in ("a/b/c", "a/b", "a"):
        expected = None if name.startswith(which) else name
        assert walk.relative(paths, old[name]) == expected
    again = Walk(root, system)
    for name in ("a", "a/b", "a/b/c"):
        assert again.relative(paths, id_of(root / name)) == name


def test_a_path_is_checked_at_every_call(root: Path, system: System) -> None:
    (path,) = make(root, "a")
    paths, walk = paths_of(root), Walk(root, system)
    first = id_of(path)
    assert walk.relative(paths, first) == "a"
    replace(path, root.parent / "away")
    assert walk.relative(paths, first) is None
    path.rename(root / "b")
    assert walk.relative(paths, first) is None


# --- renamed (cgroup v1 can) ----------------------------------------------------------


@pytest.mark.parametrize("renamed", ["a", "a/b", "a/b/c"])
def test_a_renamed_cgroup_is_found_by_the_next_snapshot(
    renamed: str, root: Path, system: System
) -> None:
    make(root, "a/b/c", "z")
    paths = paths_of(root)
    walk = Walk(root, system)
    assert None not in walk.all(paths).values()
    (root / renamed).rename((root / renamed).parent / "new name")
    walk = Walk(root, system)
    assert walk.all(paths) == walk.expected(root)
    assert any("new name" in path for path in walk.expected(root).values())


def test_a_renamed_cgroup_is_found_by_the_same_snapshot_within_a_second(
    root: Path, system: System
) -> None:
    make(root, "a/b/c", "z")
    paths, walk = paths_of(root), Walk(root, system)
    leaf = id_of(root / "a/b/c")
    assert walk.relative(paths, leaf) == "a/b/c"
    (root / "a").rename(root / "y")
    system.now += SECOND
    assert walk.relative(paths, leaf) == "y/b/c"


def test_two_cgroups_that_exchanged_names_are_told_apart(root: Path, system: System) -> None:
    one, two = make(root, "one/x", "two/x")
    paths, walk = paths_of(root), Walk(root, system)
    first, second = id_of(one), id_of(two)
    assert None not in walk.all(paths).values()
    (root / "one").rename(root / "three")
    (root / "two").rename(root / "one")
    (root / "three").rename(root / "two")
    again = Walk(root, system)
    assert again.relative(paths, first) == "two/x"
    assert again.relative(paths, second) == "one/x"


# --- the root's own path --------------------------------------------------------------


def test_a_relative_root_stays_where_it_was(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root, "a/b")
    monkeypatch.chdir(root.parent)
    status = root.stat()
    for spelled in ("root", "./root", "root/", "root/a/.."):
        monkeypatch.chdir(root.parent)
        paths = Paths(spelled, (status.st_dev, status.st_ino))
        monkeypatch.chdir("/")
        assert paths.root == str(root)
        walk = Walk(root, system)
        assert walk.all(paths) == walk.expected(root)
        assert paths.absolute("a/b") == str(root / "a/b")


@pytest.mark.parametrize("ending", ["", "/", "//", "/."])
def test_a_root_s_path_may_end_in_slashes(ending: str, root: Path, system: System) -> None:
    make(root, "a")
    status = root.stat()
    paths = Paths(f"{root}{ending}", (status.st_dev, status.st_ino))
    assert (paths.absolute("."), paths.absolute("a")) == (str(root), str(root / "a"))
    walk = Walk(root, system)
    assert walk.all(paths) == walk.expected(root)


def test_the_root_may_be_the_root_directory() -> None:
    status = os.stat("/")
    paths = Paths("/", (status.st_dev, status.st_ino))
    assert (paths.absolute("."), paths.absolute("proc")) == ("/", "/proc")


def test_a_root_reached_through_a_link_keeps_its_name(root: Path, system: System) -> None:
    make(root, "a/b", "..x/..y")
    link = root.parent / "link"
    link.symlink_to(root)
    paths, walk = paths_of(link), Walk(root, system)
    assert paths.root == str(link)
    assert walk.all(paths) == walk.expected(root)
    for name in ("a/b", "..x", "..x/..y"):
        assert paths.absolute(name) == f"{link}/{name}"
    other = root.parent / "other"
    make(other, "a/b")
    link.unlink()
    link.symlink_to(other)
    assert set(walk.all(paths).values()) == {None}, "it leads elsewhere now"


def test_dots_after_a_link_are_resolved_at_the_link_s_target(root: Path, system: System) -> None:
    """The kernel does the same: ".." is not the directory that contains the link."""
    make(root, "a")
    (root.parent / "far").mkdir()
    link = root.parent / "far" / "link"
    link.symlink_to(root / "a")
    spelled = f"{link}/.."
    assert os.path.samefile(spelled, root)
    status = os.stat(spelled)
    paths, walk = Paths(spelled, (status.st_dev, status.st_ino)), Walk(root, system)
    assert walk.all(paths) == walk.expected(root)


# --- above the root -------------------------------------------------------------------


@pytest.fixture
def up(root: Path) -> dict[int, Path]:
    """A deep directory and its ancestors up to the root of the file system, by id."""
    (leaf,) = make(root, "a/b/leaf")
    return {id_of(path): path for path in (leaf, *list(leaf.parents)[:4])}


def test_the_paths_of_ancestors_are_found(up: dict[int, Path], system: System) -> None:
    leaf, *above = up.values()
    ids = list(up)
    parents = dict(zip(ids, [*ids[1:], 0]))
    paths = paths_of(leaf)
    found = [paths.look_up(each, parents.get, 1, parents.keys()) for each in ids]
    assert found == [".", "..", "../..", "../../..", "../../../.."]
    assert [paths.absolute(each or "?") for each in found] == [str(leaf), *map(str, above)]
    assert above[-1] == Path(system.top)


def test_ancestors_of_a_root_reached_through_a_link_are_the_real_ones(
    up: dict[int, Path], root: Path
) -> None:
    leaf, *above = up.values()
    link = root / "link"
    link.symlink_to(leaf)
    paths = paths_of(link)
    relative = paths.look_up(id_of(above[0]), nobody, 1, up.keys())
    assert relative is not None and paths.absolute(relative) == str(above[0])


def test_a_cgroup_above_the_mount_is_not_found(up: dict[int, Path], system: System) -> None:
    paths = paths_of(next(iter(up.values())))
    beyond = os.stat(f"{system.top}/..").st_ino
    assert paths.look_up(beyond, nobody, 1, up.keys()) is None


def test_the_search_for_ancestors_ends_at_the_root_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With chroot(), the hierarchy can be all that a process sees."""
    looks = 0

    class Chrooted(System):
        def stat(self, path: str) -> os.stat_result:
            nonlocal looks
            looks += 1
            assert looks < 1000, "it never ends"
            status = os.stat(path)
            mode, number, _, *rest = status[:10]
            return os.stat_result((mode, number, root.stat().st_dev, *rest))

    fake = Chrooted(Path("/"))
    monkeypatch.setattr(_paths, "os", fake)
    (leaf,) = make(root, "a/b")
    paths = paths_of(leaf)
    assert paths.look_up(id_of(root), nobody, 1, ()) == "../.."
    assert paths.look_up(os.stat("/").st_ino, nobody, 1, ()) == "/".join(
        [".."] * (len(leaf.parts) - 1)
    )
    assert paths.look_up(-7, nobody, 1, ()) is None


# --- other devices --------------------------------------------------------------------


def test_the_same_inode_number_on_another_device_is_another_cgroup(
    root: Path, system: System
) -> None:
    make(root, "a")
    status = root.stat()
    walk = Walk(root, system)
    paths = Paths(str(root), (status.st_dev + 1, status.st_ino))
    assert set(walk.all(paths).values()) == {None}


def test_a_mount_over_a_cgroup_hides_it(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, other = make(root, "a", "b")
    paths, walk = paths_of(root), Walk(root, system)
    stat = system.stat

    def mounted(path: str) -> os.stat_result:
        status = stat(path)
        if not path.endswith("/a"):
            return status
        mode, number, device, *rest = status[:10]
        return os.stat_result((mode, number, device + 1, *rest))

    monkeypatch.setattr(system, "stat", mounted)
    assert walk.relative(paths, id_of(hidden)) is None
    assert walk.relative(paths, id_of(other)) == "b"


# --- what cannot be seen --------------------------------------------------------------


def looked_up(paths: Paths, walk: Walk, path: Path) -> Optional[str]:
    cgroup_id = walk_id(walk, path)
    return paths.look_up(cgroup_id, walk.parents.get, walk.seen_ns, walk.parents.keys())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO])
def test_a_directory_that_may_not_be_read_hides_only_what_is_in_it(
    number: int, root: Path, system: System
) -> None:
    hidden, gone, plain = make(root, "a/b", "c", "d")
    paths, walk = paths_of(root), Walk(root, system)
    gone.rmdir()

    def refuse(path: str) -> None:
        if path.endswith("/a"):
            raise OSError(number, os.strerror(number))

    system.opening = refuse
    assert looked_up(paths, walk, hidden) is None
    assert looked_up(paths, walk, gone) is None
    assert looked_up(paths, walk, plain) == "d"


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_shortage_is_an_error_and_not_taken_for_a_removal(
    number: int, root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = make(root, "a")
    paths, walk = paths_of(root), Walk(root, system)

    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(system, "opening", refuse)
        for _ in range(2):
            with pytest.raises(MemcgError, match="cannot be listed") as caught:
                looked_up(paths, walk, path)
            assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    assert looked_up(paths, walk, path) == "a"


# --- parents without a row ------------------------------------------------------------


def test_a_cgroup_whose_parent_has_no_row_is_found(root: Path, system: System) -> None:
    (leaf,) = make(root, "a/b/leaf", "c/d")[:1]
    paths, walk = paths_of(root), Walk(root, system)
    for missing in (id_of(root / "a"), id_of(root / "a/b")):
        parents = {key: value for key, value in walk.parents.items() if key != missing}
        found = paths.look_up(id_of(leaf), parents.get, walk.seen_ns, parents.keys())
        assert found == "a/b/leaf"
    assert paths.look_up(id_of(root / "c/d"), nobody, walk.seen_ns, ()) == "c/d"


def test_a_cgroup_whose_parent_has_no_row_is_found_after_others(root: Path, system: System) -> None:
    """A recent listing for the others does not prevent another one."""
    make(root, "a/b/c/leaf", "a/b/other")
    for first in ("a", "a/b", "a/b/other"):
        paths, walk = paths_of(root), Walk(root, system)
        assert walk.relative(paths, id_of(root / first)) == first
        del walk.parents[id_of(root / "a/b/c")]
        assert walk.relative(paths, id_of(root / "a/b/c/leaf")) == "a/b/c/leaf"


def test_cgroups_whose_parents_have_no_rows_cost_one_full_listing_per_snapshot(
    root: Path, system: System
) -> None:
    make(root, *(f"{one}/{two}" for one in "abc" for two in "xyz"))
    paths, walk = paths_of(root), Walk(root, system)
    for number in range(50):
        assert paths.look_up(-5 - number, nobody, walk.seen_ns, walk.parents.keys()) is None
    assert sorted(system.listed) == sorted(walk.paths), "each directory once"


# --- how much is remembered, and listed -----------------------------------------------


def test_many_removals_cost_one_listing_per_snapshot_and_second(root: Path, system: System) -> None:
    folders = make(root, *(f"a/{number}" for number in range(50)))
    paths, walk = paths_of(root), Walk(root, system)
    middle = id_of(root / "a")
    gone = [id_of(path) for path in folders]
    for path in folders:
        path.rmdir()

    def listings(walk: Walk) -> int:
        system.listed.clear()
        assert [walk.relative(paths, each) for each in gone] == [None] * 50
        return system.listed.count(middle)

    assert listings(walk) == 1
    assert listings(walk) == 0, "the listing after the walk has told"
    system.now += SECOND // 2
    assert listings(walk) == 0
    later = Walk(root, system)
    later.parents.update(walk.parents)
    assert listings(later) == 1, "one for what was there later"
    assert listings(walk) == listings(later) == 0
    system.now += SECOND
    assert listings(walk) == 1, "it might have been renamed"


def test_a_removed_parent_is_not_listed(root: Path, system: System) -> None:
    folders = make(root, *(f"a/{number}" for number in range(20)))
    paths, walk = paths_of(root), Walk(root, system)
    gone = [id_of(path) for path in folders]
    shutil.rmtree(root / "a")
    assert [walk.relative(paths, each) for each in gone] == [None] * 20
    assert system.listed == [id_of(root)]


def test_all_paths_cost_one_listing_per_directory(root: Path, system: System) -> None:
    make(root, *(f"{one}/{two}" for one in "abcd" for two in "xyz"))
    paths, walk = paths_of(root), Walk(root, system)
    for _ in range(3):
        assert walk.all(paths) == walk.expected(root)
    assert sorted(system.listed) == sorted(map(id_of, (root, *root.iterdir())))


@pytest.mark.parametrize("tick", [0, 1], ids=["a coarse clock", "a fine clock"])
def test_a_cgroup_created_between_a_listing_and_the_walk_is_found(
    tick: int, root: Path, system: System
) -> None:
    """That holds also within the second in which a directory is not listed again."""
    system.tick = tick
    make(root, "a/b")
    paths = paths_of(root)
    walk = Walk(root, system)
    assert None not in walk.all(paths).values()
    for number in range(3):
        make(root, f"a/new-{number}", f"new-{number}/below")
        walk = Walk(root, system)
        assert walk.all(paths) == walk.expected(root)


def test_the_number_of_remembered_paths_is_bounded(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paths, "_SPARE", 4)
    make(root, "stays/below")
    paths = paths_of(root)
    for number in range(60):
        (group,) = make(root, f"group-{number}")
        for leaf in range(3):
            (group / str(leaf)).mkdir()
        walk = Walk(root, system)
        assert len(walk.paths) == 7
        assert walk.all(paths) == walk.expected(root)
        assert len(paths._known) <= 2 * 7 + 4
        assert len(paths._listed) <= 2 * 7 + 4
        shutil.rmtree(group)


def test_the_number_of_remembered_removals_is_bounded(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every group is looked up once more after it was removed."""
    monkeypatch.setattr(_paths, "_SPARE", 4)
    make(root, "stays")
    spare = root.parent / "spare"
    spare.mkdir()
    paths = paths_of(root)
    seen: set[int] = set()
    for number in range(60):
        make(root, f"group-{number}/leaf")
        walk = Walk(root, system)
        assert walk.all(paths) == walk.expected(root)
        seen.update(walk.paths)
        # It is moved, not removed, so that no inode number is used twice.
        (root / f"group-{number}").rename(spare / f"group-{number}")
        assert list(walk.all(paths).values()).count(None) == 2
        assert len(paths._known) <= 2 * 4 + 4
        assert len(paths._listed) <= 2 * 4 + 4, "those of directories that are gone are kept"
    assert len(seen) == 122


def test_forgotten_paths_are_found_again(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paths, "_SPARE", 0)
    make(root, *(f"{one}/{two}" for one in "abcdef" for two in "uvwxyz"))
    paths, walk = paths_of(root), Walk(root, system)
    wanted = [id_of(root / "a/u"), id_of(root / "f/z")]
    for _ in range(3):
        for each in wanted:
            assert walk.relative(paths, each, [each]) == str(walk.paths[each].relative_to(root))
            assert len(paths._known) <= 2
    assert walk.all(paths) == walk.expected(root)


# --- failures and changes during a look-up -----------------------------------------------------


def test_a_directory_that_may_not_be_listed_has_no_known_children(
    root: Path, system: System
) -> None:
    secret, open_one = make(root, "secret/a", "open/a")

    def refuse(path: str) -> None:
        if path.endswith("/secret"):
            raise PermissionError(13, "Permission denied", path)

    system.opening = refuse
    paths, walk = paths_of(root), Walk(root, system)
    assert walk.relative(paths, id_of(secret)) is None
    assert walk.relative(paths, id_of(secret.parent)) == "secret"
    assert walk.relative(paths, id_of(open_one)) == "open/a"


def test_a_failed_listing_is_empty(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = make(root, "a")
    paths, walk = paths_of(root), Walk(root, system)

    def failing(fd: int) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(system, "scandir", failing)
        assert walk.relative(paths, id_of(path)) is None
    system.now += SECOND
    assert walk.relative(paths, id_of(path)) == "a"


def test_a_directory_replaced_before_it_is_listed_is_not_taken_for_the_old(
    root: Path, system: System
) -> None:
    (leaf,) = make(root, "a/leaf")
    paths, walk = paths_of(root), Walk(root, system)
    assert walk.relative(paths, id_of(root / "a")) == "a"
    before = len(system.listed)

    def swap(path: str) -> None:
        if path == str(root / "a") and not (root / "old").exists():
            (root / "a").rename(root / "old")
            make(root, "a/leaf")

    system.opening = swap
    assert walk.relative(paths, walk_id(walk, leaf)) is None
    assert (root / "old" / "leaf").exists(), "it was swapped"
    assert len(system.listed) == before, "the other one's children are nobody's here"


# --- threads and fork -----------------------------------------------------------------


def test_threads_share_the_remembered_paths(
    root: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paths, "_SPARE", 2)
    make(root, *(f"stays-{one}/{two}" for one in range(4) for two in range(4)))
    make(root, *(f"goes/{number}" for number in range(30)))
    paths, walk = paths_of(root), Walk(root, system)
    expected = walk.expected(root)
    going = {each for each, path in expected.items() if path.startswith("goes/")}
    staying = [each for each in expected if each not in going]
    assert (len(going), len(staying)) == (30, 22)
    failures: list[BaseException] = []
    started = threading.Barrier(5)

    def look(few: bool) -> None:
        try:
            started.wait(30)
            for _ in range(10):
                for each in staying:
                    ids = [each] if few else None
                    assert walk.relative(paths, each, ids) == expected[each]
                for each in going:
                    assert walk.relative(paths, each) in (None, expected[each])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look, args=(bool(at % 2),)) for at in range(4)]
    for thread in threads:
        thread.start()
    started.wait(30)
    for number in range(30):
        (root / f"goes/{number}").rmdir()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [walk.relative(paths, each) for each in going] == [None] * 30


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_locked_out(root: Path, system: System) -> None:
    (path,) = make(root, "a/b")
    paths, walk = paths_of(root), Walk(root, system)
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with paths._lock:
            locked.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a deadlock ends by this
        status = 1
        try:
            status = 0 if walk.relative(paths, id_of(path)) == "a/b" else 1
        finally:
            os._exit(status)
    outcome = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    free = paths._lock.acquire(blocking=False)
    done.set()
    thread.join(10)
    assert outcome == 0
    assert not free, "the parent's lock is untouched"
