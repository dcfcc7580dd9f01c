# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""read_stats() and its cache of readers."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    CgroupNotFoundError,
    CgroupRemovedError,
    MemcgError,
    NotACgroupError,
    clear_cache,
    read_stats,
)
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._sources import program_cache as _program_cache

from .conftest import Choose, RunPython
from .directories import make_v2
from .fake_sources import Sources


@pytest.fixture
def sources(choose_with: Callable[[Choose], None]) -> Sources:
    clear_cache()
    made = Sources()
    choose_with(made.choose)
    return made


def replaced(path: Path) -> None:
    """The cgroup is removed, and another made at its path."""
    path.rename(path.with_name("old"))
    make_v2(path)


def test_a_second_call_uses_the_same_reader(v2: Path, sources: Sources) -> None:
    for path in (v2, str(v2), os.fsencode(v2)):
        assert read_stats(path, ["anon"]) == {"anon": 1}
    assert len(sources.made) == 1
    assert sources.made[0].reads == 3


def test_the_best_backend_and_transport_are_asked_for(v2: Path, sources: Sources) -> None:
    read_stats(v2, ["anon"], flush=False)
    assert sources.asked == [(str(v2), (("anon",), False, "auto", "auto"))]


def test_a_transport_can_be_asked_for(v2: Path, sources: Sources) -> None:
    for _ in range(2):
        read_stats(v2, ["anon"], transport="stream")
    read_stats(v2, ["anon"])
    asked = [request[1] for request in sources.asked]
    assert asked == [(("anon",), True, "auto", "stream"), (("anon",), True, "auto", "auto")]


def test_another_path_flush_or_list_of_items_uses_another_reader(
    v2: Path, sources: Sources
) -> None:
    make_v2(v2.with_name("other"))
    read_stats(v2, ["anon"])
    read_stats(v2, ["anon"], flush=False)
    read_stats(v2)
    read_stats(v2, ["anon", "file"])
    read_stats(v2, ["file", "anon"])
    read_stats(v2.with_name("other"), ["anon"])
    assert len(sources.made) == 6
    assert sources.open() == 6


def test_the_same_names_however_given_use_the_same_reader(v2: Path, sources: Sources) -> None:
    for same in (["anon"], ["anon", "anon"], ("anon",), iter(["anon"])):
        read_stats(v2, same)
    assert len(sources.made) == 1


def test_wrong_items_make_no_reader(v2: Path, sources: Sources) -> None:
    wrong: list[Any] = ["anon", [], [1], [["anon"]]]
    for items in wrong:
        with pytest.raises((TypeError, ValueError)):
            read_stats(v2, items)
    assert sources.made == []


def test_the_least_recently_used_reader_is_closed_when_the_cache_is_full(
    tmp_path: Path, sources: Sources
) -> None:
    paths = [make_v2(tmp_path / str(number)) for number in range(34)]
    for path in paths[:32]:
        read_stats(path)
    assert sources.open() == 32
    read_stats(paths[0])  # used again, so that the second is the oldest
    assert len(sources.made) == 32
    read_stats(paths[32])
    assert [source.closes for source in sources.made] == [0, 1, *[0] * 31]
    read_stats(paths[33])
    assert [source.closes for source in sources.made[:4]] == [0, 1, 1, 0]
    assert sources.open() == 32


def test_a_cgroup_made_again_at_the_same_path_gets_a_new_reader(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    replaced(v2)
    assert read_stats(v2) == {"anon": 1}
    assert [source.reads for source in sources.made] == [1, 1]
    assert [source.closes for source in sources.made] == [1, 0]


def test_the_reader_of_a_removed_path_is_closed(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    v2.rename(v2.with_name("old"))
    with pytest.raises(CgroupNotFoundError):
        read_stats(v2)
    assert sources.open() == 0


def test_a_cgroup_removed_during_the_read_is_looked_up_again(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    sources.made[0].error = CgroupRemovedError("gone")
    assert read_stats(v2) == {"anon": 1}
    assert [source.closes for source in sources.made] == [1, 0]


def test_a_path_whose_parent_became_a_file_is_not_a_cgroup(
    tmp_path: Path, sources: Sources
) -> None:
    (tmp_path / "top").mkdir()
    path = make_v2(tmp_path / "top" / "a")
    read_stats(path)
    (tmp_path / "top").rename(tmp_path / "old")
    (tmp_path / "top").write_text("")
    with pytest.raises(NotACgroupError):
        read_stats(path)


def test_a_path_that_can_no_longer_be_looked_up_is_an_error(
    v2: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_stats(v2)

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MemcgError):
        read_stats(v2)


def test_a_reader_that_could_not_be_made_is_not_cached(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    clear_cache()
    sources.error = MemcgError("no")
    with pytest.raises(MemcgError):
        read_stats(v2)
    sources.error = None
    assert read_stats(v2) == {"anon": 1}
    assert sources.open() == 1


def test_another_error_of_a_cached_reader_is_raised(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    sources.made[0].error = MemcgError("no", errno=errno.EMFILE)
    with pytest.raises(MemcgError, match="no"):
        read_stats(v2)


def test_a_cached_reader_whose_descriptor_was_closed_is_replaced(
    v2: Path, sources: Sources
) -> None:
    # As in a daemon that closed all its files.
    read_stats(v2)
    lost = sources.made[0]
    lost.is_lost, lost.error = True, OSError(errno.EBADF, "Bad file descriptor")
    for _ in range(2):
        assert read_stats(v2) == {"anon": 1}
    assert [source.closes for source in sources.made] == [1, 0]


def test_a_bad_descriptor_of_a_new_reader_is_raised(v2: Path, sources: Sources) -> None:
    sources.error = MemcgError("no", errno=errno.EBADF)
    for _ in range(2):
        with pytest.raises(MemcgError, match="no"):
            read_stats(v2)
    assert sources.made == []


# --- without a path ---------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A hierarchy of fake cgroups, and what /proc says of this process."""
    made = Here(tmp_path)
    monkeypatch.setattr(_mounts, "PROC", str(made.proc))
    made.move("a")
    return made


class Here:
    """A faked /proc/self, and a mounted hierarchy with the cgroups /a and /b."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.of_self = self.proc / "self"
        (self.of_self / "ns").mkdir(parents=True)
        self.enter_namespace("cgroup:[1]")
        self.mount(folder / "cg")

    def mount(self, at: Path) -> None:
        at.mkdir()
        self.cgroups = {name: make_v2(at / name, stat=f"anon {name}\n") for name in "ab"}
        (self.of_self / "mountinfo").write_text(f"30 1 0:26 / {at} rw - cgroup2 none rw\n")

    def move(self, name: str) -> None:
        (self.of_self / "cgroup").write_text(f"0::/{name}\n")

    def enter_namespace(self, name: str) -> None:
        link = self.of_self / "ns" / "cgroup"
        link.unlink(missing_ok=True)
        link.symlink_to(name)


def paths_of(sources: Sources) -> list[str]:
    return [path for path, _ in sources.asked]


def test_without_a_path_the_own_cgroup_is_read(here: Here, sources: Sources) -> None:
    for _ in range(3):
        assert read_stats(items=["anon"]) == {"anon": 1}
        assert read_stats(None, ["anon"], flush=True) == {"anon": 1}
    assert paths_of(sources) == [str(here.cgroups["a"])]
    assert sources.made[0].reads == 6


def test_a_process_that_was_moved_gets_the_numbers_of_its_new_cgroup(
    here: Here, sources: Sources
) -> None:
    for name in ("a", "b", "b", "a"):
        here.move(name)
        read_stats()
    assert paths_of(sources) == [str(here.cgroups["a"]), str(here.cgroups["b"])]
    assert [source.reads for source in sources.made] == [2, 2]


def test_mounts_are_searched_only_after_a_move(
    here: Here, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_stats()
    (here.of_self / "mountinfo").unlink()
    read_stats()
    here.move("b")
    with pytest.raises(CgroupNotFoundError):
        read_stats()


def test_an_own_cgroup_that_was_made_again_gets_a_new_reader(here: Here, sources: Sources) -> None:
    read_stats()
    replaced(here.cgroups["a"])
    read_stats()
    assert [source.reads for source in sources.made] == [1, 1]
    assert [source.closes for source in sources.made] == [1, 0]


def test_after_another_mount_or_namespace_the_own_cgroup_is_searched_again(
    here: Here, sources: Sources, tmp_path: Path
) -> None:
    read_stats()
    (tmp_path / "cg").rename(tmp_path / "unmounted")
    here.mount(tmp_path / "other")
    read_stats()
    here.enter_namespace("cgroup:[2]")  # in which the same path is another cgroup's
    here.mount(tmp_path / "third")
    read_stats()
    assert paths_of(sources) == [str(tmp_path / name / "a") for name in ("cg", "other", "third")]


def test_without_proc_the_own_cgroup_is_not_found(here: Here, sources: Sources) -> None:
    read_stats()
    (here.of_self / "cgroup").unlink()
    with pytest.raises(CgroupNotFoundError, match="mount /proc"):
        read_stats()


DAEMON = r"""
import errno, gc, os, sys
from pymemcgbpf import BtfNotFoundError, MemcgError, StatsReader, TreeReader, clear_cache
from pymemcgbpf import read_stats
from pymemcgbpf._bpf import btf as _btf

def no_btf():
    raise BtfNotFoundError("these cgroups are none: they can be read as text alone")

_btf.kernel = no_btf

paths, items = sys.argv[1:], ["anon", "memory.current"]
first = [read_stats(path, items) for path in paths]
assert first[0] == {"anon": 4096, "memory.current": 12288}, first
reader = StatsReader(paths[0], ["anon"], backend="text")
forgotten = StatsReader(paths[0], ["anon"], backend="text")
tree = TreeReader(paths[0], ["anon"], backend="text")
assert reader.read() == {"anon": 4096} and len(tree.read()) == 1
numbers = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
held = [fd for fd in numbers if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
assert len(held) >= 5, held

os.closerange(3, 4096)
last = max(held)
for number in range(3, last + 20):  # each another file, so that none can be mistaken
    with open(f"file-{number}", "w") as file:
        print(number, file=file)
opened = {}
for number in range(3, last + 20):
    fd = os.open(f"file-{number}", os.O_RDONLY)
    assert fd == number
    opened[fd] = f"{number}\n".encode()

def others_are_open():
    for fd, text in opened.items():
        assert os.pread(fd, 99, 0) == text, fd
    return True

for one in (reader, tree):
    for _ in range(2):
        try:
            print(one.read())
        except MemcgError as error:
            assert type(error) is MemcgError and error.errno == errno.EBADF, repr(error)
            assert "closed" in str(error), error
        else:
            raise AssertionError("it read what is another's")
assert others_are_open()
assert [read_stats(path, items) for path in paths] == first
assert [read_stats(path, items) for path in paths] == first
assert others_are_open()
del forgotten
gc.collect()
reader.close(), reader.close(), tree.close()
assert others_are_open()
clear_cache()
gc.collect()
assert others_are_open()
now = {fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")}
assert now == {0, 1, 2, *opened}, now
print("well")
"""


def test_after_a_daemon_closed_all_files_no_reader_closes_files_of_others(
    tmp_path: Path, run_python: RunPython
) -> None:
    paths = [make_v2(tmp_path / name) for name in ("a", "b", "c")]
    # One of its readers is forgotten on purpose.
    ignored = "ignore:unclosed <:ResourceWarning"
    ran = run_python("-X", "dev", "-W", ignored, "-c", DAEMON, *map(str, paths))
    assert (ran.stdout, ran.stderr) == ("well\n", "")


def test_clear_cache_closes_every_cached_reader(v2: Path, sources: Sources) -> None:
    read_stats(v2)
    clear_cache()
    clear_cache()
    assert [source.closes for source in sources.made] == [1]
    read_stats(v2)
    assert len(sources.made) == 2


def test_clear_cache_forgets_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_program_cache._programs, "key", None)
    clear_cache()
    assert not _program_cache._programs


def test_a_reader_that_another_thread_closes_before_the_read_is_replaced(
    v2: Path, sources: Sources
) -> None:
    # Another thread clears the cache between the look-up and the read.
    read_stats(v2)
    sources.made[0].error = None
    real = os.stat

    def stat_and_clear(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if path == str(v2):
            clear_cache()
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", stat_and_clear)
        assert read_stats(v2) == {"anon": 1}
    assert len(sources.made) == 2


def test_many_threads_read_through_the_cache(tmp_path: Path, sources: Sources) -> None:
    paths = [make_v2(tmp_path / str(number)) for number in range(40)]
    failures: list[BaseException] = []

    def hammer(start: int) -> None:
        try:
            for step in range(200):
                assert read_stats(paths[(start + step * 7) % len(paths)]) == {"anon": 1}
                if step % 50 == start:
                    clear_cache()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sources.open() <= 32
    assert not any(source.read_after_close for source in sources.made)
    clear_cache()
    assert {source.closes for source in sources.made} == {1}
