# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins: created by root, read by user nobody, and their lifetime."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    ItemUnavailableError,
    PinExistsError,
    PinnedReader,
    PinNotFoundError,
    PinPathError,
    Snapshot,
    StreamError,
    TreeReader,
    TreeTooLargeError,
    UnknownItemError,
    _options,
    pin,
    pin_tree,
    unpin,
)
from pymemcgbpf._pins import pin_stream as _pin_stream

from .cgroups import (
    Worker,
    cgroup,
    enable_memory,
    fault_in,
    in_child,
    in_threads,
    is_dying,
    is_fresh_at_once,
    memory_stat,
    processes,
    remove,
)
from .forest import Forest, storm
from .oracle import by_text, everything
from .pins import CAN_FLUSH, NOBODY, READ_ERROR, Nobody
from .surroundings import HIERARCHY, IN_LAB, VERSION
from .test_freshness import ANON, CHARGE
from .test_tree_storms import check

Busy = tuple[Path, Worker]

pytestmark = pytest.mark.needs_iterator

SECONDS = 28.0 if IN_LAB else 6.0  # a guest takes many for a Python to begin


def read_one(path: Path) -> dict[str, int]:
    with PinnedReader(path) as reader:
        values = reader.read()
    assert isinstance(values, dict)
    return values


def read_tree(path: Path) -> Snapshot:
    with PinnedReader(path) as reader:
        values = reader.read()
    assert isinstance(values, Snapshot)
    return values


READ_ONE = "print(json.dumps(memcg.PinnedReader(sys.argv[1]).read()))"
READ_TREE = """
snapshot = memcg.PinnedReader(sys.argv[1]).read()
print(json.dumps([[row.id, row.parent_id, row.level, row.path, dict(row)] for row in snapshot]))
"""


# --- the numbers, and who may read them -----------------------------------------------


def test_user_nobody_reads_the_numbers_of_memory_stat_from_a_pin(
    busy: Busy, pins: Path, nobody: Nobody, one_backend: str
) -> None:
    path, _ = busy
    compared = set()
    pin(path, pins / "deep" / "down" / "busy", flush=CAN_FLUSH)
    try:
        for _ in range(5):
            before = by_text(path)
            values = nobody.run(READ_ONE, pins / "deep" / "down" / "busy")
            after = by_text(path)
            for name, value in before.items():
                if value == after[name] and name in values:
                    assert values[name] == value, name
                    compared.add(name)
        expected = [name for name in by_text(path) if name not in ("sock", "hugetlb")]
        assert set(values) >= {name for name in expected if not name.startswith("zswap")}
    finally:
        unpin(pins / "deep" / "down" / "busy")
        assert [each.stat().st_mode & 0o777 for each in (pins / "deep").rglob("*")] == [0o755]
        (pins / "deep" / "down").rmdir()
        (pins / "deep").rmdir()
    assert len(compared) >= (14 if VERSION == 1 else 45)


def test_a_pin_has_the_numbers_of_every_file(busy: Busy, pins: Path) -> None:
    path, _ = busy
    pin(path, pins / "all", ["*"], flush=False)
    try:
        compared = 0
        for _ in range(20):
            before, values, after = everything(path), read_one(pins / "all"), everything(path)
            compared = sum(
                values[name] == value
                for name, value in before.items()
                if value == after[name] and name in values
            )
            if compared >= 0.9 * len(before):
                break
            time.sleep(0.2)
        assert compared >= 0.9 * len(before)
        assert len(values) > len(before) - 12  # without those of which the kernel has no counter
    finally:
        unpin(pins / "all")


if CAN_FLUSH:

    @pytest.mark.parametrize("order", ["self", "pre", "post", "up", "children"])
    def test_the_program_flushes_by_itself(
        order: _options.Order, empty_cgroup: Path, pins: Path, one_backend: str
    ) -> None:
        enable_memory(empty_cgroup)
        with cgroup(empty_cgroup) as child:
            enable_memory(child)
            with (
                cgroup(child) as leaf,
                Worker(leaf, lambda: None, lambda: fault_in(CHARGE)) as worker,
            ):
                pin(child if order == "up" else empty_cgroup, pins / "it", ["anon"], order=order)
                try:
                    reader = PinnedReader(pins / "it")

                    def anon() -> dict[int, int]:
                        values = reader.read()
                        if isinstance(values, dict):
                            return {empty_cgroup.stat().st_ino: values["anon"]}
                        return {row.id: row["anon"] for row in values}

                    inside = {path.stat().st_ino: path for path in (empty_cgroup, child, leaf)}

                    def charge(_: int) -> bool:
                        before = anon()
                        worker.step()
                        after = anon()
                        grown = {at: after[at] - before[at] for at in inside.keys() & after.keys()}
                        assert len(grown) == {"self": 1, "children": 1, "up": 2}.get(order, 3)
                        fresh = min(grown.values()) >= CHARGE * 0.9
                        for at in grown:
                            text = memory_stat(inside[at])[ANON]
                            fresh &= abs(after[at] - text) <= 64 * 4096
                        return fresh

                    assert is_fresh_at_once(charge)
                finally:
                    unpin(pins / "it")

else:

    def test_what_bpf_cannot_flush_is_refused_and_says_how(quiet: Forest, pins: Path) -> None:
        with pytest.raises(BackendUnavailableError, match=r"no flush.*flush=False"):
            pin(quiet.root, pins / "new" / "pin", ["anon"])
        assert not os.listdir(pins)
        pin(quiet.root, pins / "exact", ["memory.current"])  # which needs none
        assert list(read_one(pins / "exact")) == ["memory.current"]
        unpin(pins / "exact")


def test_a_pin_outlives_the_process_that_created_it(quiet: Forest, pins: Path) -> None:
    leaf, size = next(iter(quiet.shmem.items()))

    def make() -> None:
        pin(quiet.paths[leaf], pins / "one", ["shmem"], flush=False)
        pin(quiet.root, pins / "all", ["shmem"], flush=False, order="pre")

    assert in_child(make) == 0
    assert read_one(pins / "one") == {"shmem": size}
    assert set(read_tree(pins / "all").ids) == quiet.paths.keys()
    assert in_child(lambda: unpin(pins / "all")) == 0
    unpin(pins / "one")


def test_a_pin_has_the_mode_that_was_asked_for(quiet: Forest, pins: Path, nobody: Nobody) -> None:
    umask = os.umask(0o077)
    try:
        pin(quiet.root, pins / "a" / "secret", ["anon"], mode=0o440, flush=False)
        pin(quiet.root, pins / "a" / "open", ["anon"], flush=False)
    finally:
        os.umask(umask)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(pins / "a") == 0o755
    assert (mode(pins / "a" / "secret"), mode(pins / "a" / "open")) == (0o440, 0o444)
    assert nobody.run(READ_ONE, pins / "a" / "open").keys() == {"anon"}
    kind, message = nobody.run(READ_ERROR, pins / "a" / "secret")
    assert kind == "PinPermissionError" and str(pins / "a" / "secret") in message
    # Its owner's choice, too.
    os.chown(pins / "a" / "secret", NOBODY, -1)
    assert nobody.run(READ_ONE, pins / "a" / "secret").keys() == {"anon"}
    os.chmod(pins / "a", 0o700)
    assert nobody.run(READ_ERROR, pins / "a" / "open")[0] == "PinPermissionError"
    for name in ("secret", "open"):
        unpin(pins / "a" / name)
    (pins / "a").rmdir()


def test_user_nobody_may_neither_create_nor_remove_a_pin(
    quiet: Forest, pins: Path, nobody: Nobody
) -> None:
    pin(quiet.root, pins / "one", ["anon"], flush=False)
    code = """
    try:
        memcg.unpin(sys.argv[1])
    except memcg.MemcgError as error:
        print(json.dumps(type(error).__name__))
    """
    found = nobody.run(code.replace("\n    ", "\n"), pins / "one")
    assert found == "PinPermissionError"
    unpin(pins / "one")


def test_a_pin_gives_paths_where_the_hierarchy_is_visible(
    quiet: Forest, pins: Path, nobody: Nobody
) -> None:
    pin(quiet.root, pins / "tree", ["shmem"], flush=False, order="pre")
    rows = nobody.run(READ_TREE, pins / "tree")
    assert {row[0]: row[3] for row in rows} == {at: str(path) for at, path in quiet.paths.items()}
    hidden = nobody.run(READ_TREE, pins / "tree", hide=HIERARCHY)
    assert [row[:3] + row[4:] for row in hidden] == [row[:3] + row[4:] for row in rows]
    assert {row[3] for row in hidden} == {None}
    unpin(pins / "tree")


# --- what is refused, and leaves nothing behind ---------------------------------------


def test_pin_overwrites_nothing(quiet: Forest, pins: Path) -> None:
    first, second = list(quiet.shmem)[:2]
    pin(quiet.paths[first], pins / "one", ["shmem"], flush=False)
    with pytest.raises(PinExistsError, match="exists already"):
        pin(quiet.paths[second], pins / "one", ["anon"], flush=False)
    assert read_one(pins / "one") == {"shmem": quiet.shmem[first]}
    unpin(pins / "one")
    pin(quiet.paths[second], pins / "one", ["shmem"], flush=False)
    assert read_one(pins / "one") == {"shmem": quiet.shmem[second]}
    unpin(pins / "one")


def test_the_later_of_two_concurrent_pins_leaves_the_first_in_place(
    quiet: Forest, pins: Path
) -> None:
    outcomes: list[str] = []

    def make() -> None:
        try:
            pin(quiet.root, pins / "a" / "b" / "one", ["anon"], flush=False)
        except PinExistsError:
            outcomes.append("exists")
        else:
            outcomes.append("made")

    in_threads(4, make)
    assert sorted(outcomes) == ["exists"] * 3 + ["made"]
    assert read_one(pins / "a" / "b" / "one").keys() == {"anon"}
    unpin(pins / "a" / "b" / "one")
    (pins / "a" / "b").rmdir()
    (pins / "a").rmdir()


def test_a_pin_that_fails_leaves_nothing(
    quiet: Forest, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = pins / "new" / "folder" / "pin"
    with pytest.raises(UnknownItemError):
        pin(quiet.root, where, ["annon"], flush=False)
    with pytest.raises(ItemUnavailableError):
        pin(HIERARCHY, where, ["memory.swap.max"], order="self", flush=False)
    with pytest.raises(PinPathError, match="dot"):
        pin(quiet.root, pins / "new" / "system.slice", ["anon"], flush=False)
    for path in ("/tmp/pin", HIERARCHY / "new" / "pin"):
        with pytest.raises(PinPathError, match="mount -t bpf bpf /sys/fs/bpf"):
            pin(quiet.root, path, ["anon"], flush=False)
    assert os.listdir(pins) == []

    def interrupt(name: str, mode: int, *, dir_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "chmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pin(quiet.root, where, ["anon"], flush=False)
    assert os.listdir(pins) == []


def pin_a_map(path: Path) -> None:
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    fd = lib.bpf_map_create(2, b"foreign", 4, 8, 1, None)
    assert fd >= 0 and lib.bpf_obj_pin(fd, str(path).encode()) == 0
    os.close(fd)


def test_unpin_removes_only_pins_of_this_package(quiet: Forest, pins: Path, tmp_path: Path) -> None:
    pin_a_map(pins / "map")
    (pins / "folder").mkdir()
    pin_a_map(pins / "folder" / "stream")
    (tmp_path / "file").write_text("x")
    for path, kind in (
        (pins / "map", StreamError),
        (pins / "folder", StreamError),
        (pins, StreamError),
        (tmp_path / "file", PinPathError),
        (pins / "none", PinNotFoundError),
    ):
        with pytest.raises(kind):
            unpin(path)
    for path in (pins / "map", pins / "folder"):
        with pytest.raises(StreamError):
            PinnedReader(path)
    (pins / "folder" / "stream").unlink()
    unpin(pins / "folder")  # an empty directory is what a maker leaves that was killed
    pin_tree(quiet.root, pins / "tree", ["anon"], flush=False)
    pin_a_map(pins / "tree" / "other")
    with pytest.raises(StreamError, match="nothing was removed"):
        unpin(pins / "tree")
    (pins / "tree" / "other").unlink()
    with pytest.raises(PinPathError, match="in the directory of a pinned tree"):
        pin(quiet.root, pins / "tree" / "one", ["anon"], flush=False)
    for name in ("map", "stream"):
        with pytest.raises(PinPathError, match=f"unpin {pins / 'tree'}"):
            unpin(pins / "tree" / name)
    pin(quiet.root, pins / "walk", ["anon"], flush=False, order="pre")
    for link in (pins / "link", tmp_path / "link"):
        for target in (pins / "tree", pins / "walk"):
            link.symlink_to(target)
            with pytest.raises(PinPathError, match="symbolic link"):
                unpin(link)
            link.unlink()
    assert len(read_tree(pins / "tree")) == len(read_tree(pins / "walk")) == len(quiet.paths)
    unpin(pins / "tree")
    unpin(pins / "walk")
    (pins / "map").unlink()


def test_impossible_places_for_a_pin_are_errors(quiet: Forest, pins: Path) -> None:
    pin(quiet.root, pins / "one", ["anon"], flush=False)
    for path in (pins / "one" / "below", pins / ("x" * 256), pins / ("x" * 256) / "below"):
        with pytest.raises(PinPathError, match="cannot be a pin's path"):
            pin(quiet.root, path, ["anon"], flush=False)
    unpin(pins / "one")


# --- walks ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["pre", "post", "up", "children"])
def test_a_pinned_walk_equals_a_tree_reader_s(
    order: _options.Order, quiet: Forest, pins: Path, one_backend: str
) -> None:
    names = ["shmem", "pgfault", "memory.current"]
    pin(quiet.root, pins / "walk", names, order=order, flush=False)
    try:
        reader = PinnedReader(pins / "walk")
        assert (reader.item_names, reader.order, reader.path) == (
            tuple(names),
            order,
            str(reader.path),
        )
        snapshot = reader.read()
        assert isinstance(snapshot, Snapshot)
        with TreeReader(quiet.root, names, order=order, flush=False) as tree:
            expected = tree.read()
        assert (snapshot.order, snapshot.item_names) == (order, expected.item_names)
        assert snapshot.path == (str(quiet.root))
        assert list(snapshot.ids) == list(expected.ids)
        for ours, theirs in zip(snapshot, expected):
            who = (ours.id, ours.parent_id, ours.level, ours.path)
            assert who == (theirs.id, theirs.parent_id, theirs.level, theirs.path)
            if ours.id in quiet.shmem:
                assert ours["shmem"] == theirs["shmem"] == quiet.shmem[ours.id]
        assert snapshot.started_ns <= time.monotonic_ns() and snapshot.duration_ns > 0
    finally:
        unpin(pins / "walk")


def test_a_pinned_walk_over_no_children_is_empty(empty_cgroup: Path, pins: Path) -> None:
    pin(empty_cgroup, pins / "walk", ["anon"], order="children", flush=False)
    reader = PinnedReader(pins / "walk")
    assert (reader.item_names, len(read_tree(pins / "walk"))) == (("anon",), 0)
    enable_memory(empty_cgroup)
    (empty_cgroup / "child").mkdir()
    (row,) = read_tree(pins / "walk")
    assert row.path == str(empty_cgroup / "child")
    unpin(pins / "walk")


def test_a_pinned_walk_that_grows_too_large_is_an_error(
    empty_cgroup: Path, pins: Path, nobody: Nobody
) -> None:
    """To the very row, and one beyond it: where the trailer alone may be what does not fit."""
    enable_memory(empty_cgroup)
    # Rows of the largest size, and a few sizes below it.
    for items in (None, ["*"], [f"{name}*" for name in ("workingset", "anon", "memory.current")]):
        pin(empty_cgroup, pins / "walk", items, order="pre", flush=False)
        reader = PinnedReader(pins / "walk")
        fit = _pin_stream.capacity(len(reader.item_names))
        if fit > 400:
            unpin(pins / "walk")
            continue
        made: list[Path] = []
        while len(made) < fit - 1:
            made.append(empty_cgroup / f"child-{len(made)}")
            made[-1].mkdir()
            if len(made) > fit - 4:
                assert len(read_tree(pins / "walk")) == len(made) + 1
        for _ in range(3):
            made.append(empty_cgroup / f"child-{len(made)}")
            made[-1].mkdir()
            with pytest.raises(TreeTooLargeError, match="pin_tree") as caught:
                reader.read()
            assert caught.value.rows in (fit, fit + 1)
        assert nobody.run(READ_ERROR, pins / "walk")[0] == "TreeTooLargeError"
        with pytest.raises(TreeTooLargeError, match="pin_tree"):
            pin(empty_cgroup, pins / "another", items, order="post", flush=False)
        for path in made:
            path.rmdir()
        assert len(read_tree(pins / "walk")) == 1
        unpin(pins / "walk")


def test_a_pin_of_a_removed_cgroup_is_a_clear_error(pins: Path) -> None:
    with cgroup() as top:
        enable_memory(top)
        path = top / "path"
        order: Any
        for order in ("self", "pre", "post", "up"):
            path.mkdir()
            pin(path, pins / "it", ["anon"], order=order, flush=False)
            reader = PinnedReader(pins / "it")
            remove(path)
            if order == "up":
                assert len(read_tree(pins / "it")) >= 1, "its ancestors are there"
            else:
                with pytest.raises(CgroupRemovedError, match="unpin"):
                    reader.read()
                with pytest.raises(CgroupRemovedError, match="unpin"):
                    PinnedReader(pins / "it").read()
            if VERSION == 2:
                assert is_dying(top, 1), "a pin keeps it"
            unpin(pins / "it")
            with pytest.raises(PinNotFoundError):
                reader.read()
            if VERSION == 2:
                assert is_dying(top, 0)


def test_a_reader_follows_a_pin_that_is_created_again(quiet: Forest, pins: Path) -> None:
    first, second = list(quiet.shmem)[:2]
    pin(quiet.paths[first], pins / "one", ["shmem"], flush=False)
    reader = PinnedReader(pins / "one")
    unpin(pins / "one")
    pin(quiet.paths[second], pins / "one", ["shmem"], flush=False)
    assert reader.read() == {"shmem": quiet.shmem[second]}
    unpin(pins / "one")
    pin(quiet.paths[second], pins / "one", ["anon"], flush=False)
    with pytest.raises(StreamError, match="another pin"):
        reader.read()
    unpin(pins / "one")


def test_threads_share_a_reader(quiet: Forest, pins: Path) -> None:
    leaf, size = next(iter(quiet.shmem.items()))
    pin(quiet.paths[leaf], pins / "one", ["shmem"], flush=False)
    pin(quiet.root, pins / "all", ["pgfault", "shmem"], flush=False, order="pre")
    one, tree = PinnedReader(pins / "one"), PinnedReader(pins / "all")

    def read_on() -> None:
        for _ in range(100):
            assert one.read() == {"shmem": size}
            snapshot = tree.read()
            assert isinstance(snapshot, Snapshot)
            check(snapshot, quiet, mutex_held=True)

    in_threads(4, read_on)
    unpin(pins / "one")
    unpin(pins / "all")


# --- while cgroups come and go -------------------------------------------------------

STORM = """
import time
quiet, stop = json.loads(sys.argv[2]), float(sys.argv[3])
quiet = {int(key): value for key, value in quiet.items()}
reader, reads, most = memcg.PinnedReader(sys.argv[1]), 0, 0
while time.monotonic() < stop:
    snapshot = reader.read()
    ids = list(snapshot.ids)
    place = {cgroup_id: at for at, cgroup_id in enumerate(ids)}
    assert len(place) == len(ids), "a cgroup twice"
    assert quiet.keys() <= place.keys(), "a cgroup that stays is missing"
    orphans = False
    for at, (row, above) in enumerate(zip(ids, snapshot.parent_ids)):
        if above in place:
            assert place[above] < at
        elif at:
            orphans = True
            assert row not in quiet
    shmem = snapshot.column("shmem")
    for cgroup_id, value in quiet.items():
        assert shmem[place[cgroup_id]] == value
    for at, cgroup_id in enumerate(ids):
        assert cgroup_id in quiet or shmem[at] == 0, "a torn row"
    reads, most = reads + 1, max(most, len(ids))
print(json.dumps([reads, most]))
"""


def test_pins_are_read_right_while_cgroups_come_and_go(
    quiet: Forest, pins: Path, nobody: Nobody
) -> None:
    groups = [path for path in quiet.paths.values() if path.parent == quiet.root]
    pin(quiet.root, pins / "walk", ["pgfault", "shmem"], flush=CAN_FLUSH, order="pre")
    leaves = {**dict.fromkeys(quiet.paths, None), **quiet.shmem}
    with TreeReader(quiet.root, ["shmem"]) as tree:
        rows = tree.read().by_id()
    stay = json.dumps({at: rows[at]["shmem"] for at in leaves})
    deadline = time.monotonic() + SECONDS
    with processes(
        lambda: storm([quiet.root, *groups[::2]], deadline),
        lambda: storm(groups[1::2], deadline),
    ):
        readers = [nobody.start(STORM, pins / "walk", stay, deadline) for _ in range(3)]
        found = [nobody.end(reader) for reader in readers]
    assert all(reads >= (5 if IN_LAB else 100) for reads, _ in found), found
    assert max(most for _, most in found) > len(quiet.paths), "no storm was seen"
    unpin(pins / "walk")


# --- other readers --------------------------------------------------------------------


def test_pins_on_the_command_line(quiet: Forest, pins: Path, nobody: Nobody) -> None:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pymemcgbpf", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120)

    leaf, size = next(iter(quiet.shmem.items()))
    one, tree = pins / "one", pins / "tree"
    ran = command("pin", quiet.paths[leaf], one, "shmem", "--no-flush", "--mode", "0400")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert stat.S_IMODE(one.stat().st_mode) == 0o400
    ran = command("cat", one, "--json")
    assert (json.loads(ran.stdout), ran.returncode) == ({"shmem": size}, 0)
    ran = command("pin", "--order", "pre", quiet.root, tree, "shmem", "--no-flush")
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = json.loads(command("cat", "--json", tree).stdout)
    assert {row["path"] for row in rows} == set(map(str, quiet.paths.values()))
    code = "sys.argv[0] = 'pymemcgbpf'; from pymemcgbpf._cli.main import main; main(sys.argv[1:])"
    assert nobody.run(code, "cat", "--json", tree, hide=HIERARCHY)[0]["path"] is None
    ran = command("pin", quiet.root, one, "shmem", "--no-flush")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1) and "exists already" in ran.stderr
    for path in (one, tree):
        assert command("unpin", path).returncode == 0
    ran = command("unpin", one)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


if not IN_LAB:  # where there is no compiler

    def test_a_reader_in_c(quiet: Forest, pins: Path, tmp_path: Path) -> None:
        source = Path(__file__).resolve().parents[1] / "wire" / "read_pin.c"
        compiler = shutil.which("gcc") or shutil.which("clang")
        assert compiler is not None
        flags = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *flags, "-o", tmp_path / "read", source], check=True)
        pin(quiet.root, pins / "tree", ["shmem", "pgfault"], flush=False, order="pre")
        ran = subprocess.run(
            [tmp_path / "read", pins / "tree"], check=True, capture_output=True, text=True
        )
        lines = ran.stdout.splitlines()
        assert lines.count("items 10 55") == 1
        found = {tuple(map(int, line.split())) for line in lines if line[0] != "i"}
        snapshot = read_tree(pins / "tree")
        assert found == {
            (row.id, row.parent_id, row.level, row["shmem"], row["pgfault"]) for row in snapshot
        }
        unpin(pins / "tree")


def test_signals_and_forks_do_not_disturb_reading_a_pin(quiet: Forest, pins: Path) -> None:
    """A child forked while another thread reads; the reader is used on in both."""
    pin(quiet.root, pins / "tree", ["pgfault", "shmem"], flush=False, order="pre")
    reader = PinnedReader(pins / "tree")
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            snapshot = reader.read()
            assert isinstance(snapshot, Snapshot)
            assert snapshot[-1].path is not None

    thread = threading.Thread(target=read_on)
    thread.start()
    try:
        for _ in range(5):

            def child() -> None:
                snapshot = reader.read()
                assert isinstance(snapshot, Snapshot)
                with contextlib.suppress(KeyError):
                    assert snapshot[-1].path is not None

            assert in_child(child) == 0
    finally:
        stop.set()
        thread.join()
    unpin(pins / "tree")
