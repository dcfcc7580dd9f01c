# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""StatsReader on a fake source."""

from __future__ import annotations

import contextlib
import copy
import errno
import itertools
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from pymemcgbpf import (
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupRemovedError,
    ClosedError,
    MemcgError,
    NotACgroupError,
    StatsReader,
    StreamError,
)
from pymemcgbpf._sources import one_bpf as _one_bpf
from pymemcgbpf._sources import program_cache as _program_cache
from pymemcgbpf._sources import slot_discovery as _slot_discovery
from pymemcgbpf._sources.choose import Selection

from ..open_files import open_files
from .conftest import Choose
from .directories import make_v2
from .fake_sources import READ_ERRORS, TRANSIENT, FakeSource, Sources


@pytest.fixture
def sources(choose_with: Callable[[Choose], None]) -> Sources:
    made = Sources()
    choose_with(made.choose)
    return made


def test_wrong_items_are_reported_before_a_wrong_path(sources: Sources) -> None:
    wrong: list[Any] = ["anon", b"anon", [], [1]]
    for items in wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            StatsReader("/nowhere", items)
        assert not isinstance(caught.value, MemcgError)


def test_a_wrong_path_makes_no_source(tmp_path: Path, sources: Sources) -> None:
    with pytest.raises(CgroupNotFoundError):
        StatsReader(tmp_path / "none")
    with pytest.raises(NotACgroupError):
        StatsReader(tmp_path)
    assert sources.made == []


@pytest.mark.parametrize("error", [MemcgError("no"), ValueError("no"), KeyboardInterrupt()])
def test_a_reader_that_cannot_be_made_leaves_nothing_open(
    error: BaseException, v2: Path, sources: Sources
) -> None:
    sources.error = error
    before = open_files()
    with pytest.raises(type(error)):
        StatsReader(v2)
    assert open_files() == before


def test_the_directory_is_not_kept_open(v2: Path, sources: Sources) -> None:
    before = open_files()
    reader = StatsReader(v2)
    assert open_files() == before
    reader.close()


def test_arguments_reach_the_source_and_the_attributes(v2: Path, sources: Sources) -> None:
    options: dict[str, Any] = {"flush": False, "backend": "core", "transport": "run"}
    with StatsReader(v2, ["file", "anon", "file"], **options) as reader:
        assert sources.asked == [(str(v2), (("file", "anon"), False, "core", "run"))]
        assert isinstance(sources.factories[0], _one_bpf.StatSourceFactory)
        assert (reader.item_names, reader.backend, reader.fallback_reason) == (
            ("file", "anon"),
            "fake",
            "because",
        )
        assert reader.transport == "thin air"
        assert (reader.path, reader.cgroup_id) == (str(v2), v2.stat().st_ino)


def test_defaults(v2: Path, sources: Sources) -> None:
    with StatsReader(v2):
        assert sources.asked == [(str(v2), (None, True, "auto", "auto"))]


def test_attributes_are_read_only(v2: Path, sources: Sources) -> None:
    names = ("item_names", "backend", "transport", "fallback_reason", "path", "cgroup_id")
    with StatsReader(v2) as reader:
        for name in names:
            with pytest.raises(AttributeError):
                setattr(reader, name, "x")


def test_options_are_given_by_name(v2: Path, sources: Sources) -> None:
    with pytest.raises(TypeError):
        StatsReader(v2, ["anon"], False)  # type: ignore[call-arg,misc,unused-ignore]  # the code differs by mypy's version


def test_reading_a_closed_reader_is_a_closed_error(v2: Path, sources: Sources) -> None:
    reader = StatsReader(v2)
    reader.close()
    with pytest.raises(ClosedError, match="closed") as caught:
        reader.read()
    assert str(v2) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert sources.made[0].reads == 0


def test_closing_twice_closes_once(v2: Path, sources: Sources) -> None:
    reader = StatsReader(v2)
    reader.close()
    reader.close()
    assert sources.made[0].closes == 1


def test_a_with_block_closes_the_reader(v2: Path, sources: Sources) -> None:
    with pytest.raises(ZeroDivisionError), StatsReader(v2) as reader:
        assert reader.read() == {"anon": 1}
        _ = 1 // 0
    assert sources.made[0].closes == 1
    with pytest.raises(ClosedError):
        reader.read()


def test_a_closed_reader_keeps_its_attributes(v2: Path, sources: Sources) -> None:
    reader = StatsReader(v2)
    reader.close()
    assert (reader.backend, reader.transport, reader.item_names) == ("fake", "thin air", ("anon",))


def test_repr_of_a_text_reader_says_text_once(v2: Path) -> None:
    with StatsReader(v2, ["anon"], backend="text") as reader:
        assert repr(reader) == f"<StatsReader {str(v2)!r} text, 1 items>"


def test_repr(v2: Path, sources: Sources) -> None:
    reader = StatsReader(v2)
    assert repr(reader) == f"<StatsReader {str(v2)!r} fake/thin air, 1 items>"
    reader.close()
    assert repr(reader) == f"<StatsReader {str(v2)!r} closed, 1 items>"


def test_an_error_of_the_files_becomes_one_of_the_package(v2: Path, sources: Sources) -> None:
    with StatsReader(v2) as reader:
        for number, kind in READ_ERRORS:
            sources.made[0].error = OSError(number, "words")
            with pytest.raises(MemcgError) as caught:
                reader.read()
            assert type(caught.value) is kind, errno.errorcode[number]
            assert str(v2) in str(caught.value)
            assert caught.value.__cause__ is sources.made[0].error


def test_an_error_of_the_package_is_raised_unchanged(v2: Path, sources: Sources) -> None:
    with StatsReader(v2) as reader:
        sources.made[0].error = error = CgroupRemovedError("gone")
        with pytest.raises(CgroupRemovedError) as caught:
            reader.read()
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad file descriptor"),
        MemcgError("bpf_iter_create: failed", errno=errno.EINVAL, call="bpf_iter_create"),
        StreamError("not as expected"),
        CgroupRemovedError("gone"),
    ],
)
def test_a_read_that_fails_because_its_descriptor_was_closed_says_so(
    error: OSError, v2: Path, sources: Sources
) -> None:
    with StatsReader(v2) as reader:
        (source,) = sources.made
        source.error, source.is_lost = error, True
        for _ in range(2):
            with pytest.raises(MemcgError, match="make another reader") as caught:
                reader.read()
            assert (type(caught.value), caught.value.errno) == (MemcgError, errno.EBADF)
            assert str(v2) in str(caught.value) and caught.value.__cause__ is error
    assert source.closes == 1


def test_a_failed_read_does_not_lock_the_reader(v2: Path, sources: Sources) -> None:
    with StatsReader(v2) as reader:
        sources.made[0].error = OSError(errno.EIO, "words")
        with pytest.raises(MemcgError):
            reader.read()
        sources.made[0].error = None
        assert reader.read() == {"anon": 1}


# --- a process that loses its privileges ----------------------------------------------

REFUSALS = [
    MemcgError("no", errno=errno.EPERM, call="bpf_iter_create"),
    BpfPermissionError("no", errno=errno.EPERM),
    BpfPermissionError("no", errno=errno.EACCES),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: f"{error.call}-{error.errno}")
def test_a_reader_whose_process_lost_its_privileges_falls_back_to_text(
    error: MemcgError, sources: Sources, v2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(v2.parent)
    with StatsReader(v2.name, ["file", "anon"]) as reader:
        assert reader.read() == {"anon": 1}
        monkeypatch.chdir("/")
        sources.made[0].error = error
        for _ in range(2):
            assert reader.read() == {"file": 8192, "anon": 4096}
        assert (reader.backend, reader.transport) == ("text", "text")
        assert reader.fallback_reason.startswith("because; fake: this process has lost the rights")
        assert sources.made[0].closes == 1 and sources.made[0].reads == 2


@pytest.mark.parametrize("asked", [{"backend": "core"}, {"transport": "run"}])
def test_a_backend_or_transport_asked_for_by_name_is_not_replaced(
    asked: dict[str, Any], sources: Sources, v2: Path
) -> None:
    with StatsReader(v2, ["anon"], **asked) as reader:
        for error in REFUSALS:
            sources.made[0].error = error
            with pytest.raises(BpfPermissionError):
                reader.read()
        assert (reader.backend, sources.made[0].closes) == ("fake", 0)


def test_a_transient_error_does_not_make_a_reader_fall_back_to_text(
    sources: Sources, v2: Path
) -> None:
    with StatsReader(v2, ["anon"]) as reader:
        for number, call in itertools.product(TRANSIENT, ("bpf_prog_test_run_opts", "read")):
            sources.made[0].error = MemcgError("short", errno=number, call=call)
            with pytest.raises(MemcgError, match="short"):
                reader.read()
            sources.made[0].error = None
            assert (reader.read(), reader.backend) == ({"anon": 1}, "fake")


def test_members_of_groups_that_text_lacks_are_absent_from_then_on(
    choose_with: Callable[[Choose], None], v2: Path
) -> None:
    source, names = FakeSource(), ("anon", "pgscan", "memory.peak", "file")
    choose_with(lambda *_: Selection(source, names, "core", "run", ""))
    with StatsReader(v2, ["memory.*", "anon"]) as reader:
        source.error = REFUSALS[1]
        for _ in range(2):
            assert reader.read() == {"anon": 4096, "file": 8192}
        assert reader.item_names == names
        assert reader.fallback_reason.endswith(
            "with: no; as text, 2 of 4 items are missing (pgscan, memory.peak)"
        )


def test_lost_privileges_are_an_error_where_text_lacks_an_item(sources: Sources, v2: Path) -> None:
    with StatsReader(v2, ["anon", "pgscan"]) as reader:
        sources.made[0].error = REFUSALS[0]
        for _ in range(2):
            with pytest.raises(BpfPermissionError, match=r"; as text: .*'pgscan'"):
                reader.read()
        assert (reader.backend, reader.item_names) == ("fake", ("anon", "pgscan"))


def test_lost_privileges_are_an_error_where_the_cgroup_is_no_longer_visible(
    sources: Sources, v2: Path
) -> None:
    # As in a chroot, where nobody can tell whether the cgroup was removed.
    with StatsReader(v2, ["anon"]) as reader:
        sources.made[0].error = REFUSALS[0]
        shutil.rmtree(v2)
        with pytest.raises(BpfPermissionError, match="out of this process's sight"):
            reader.read()


def test_lost_privileges_and_a_removed_cgroup_are_a_removal(sources: Sources, v2: Path) -> None:
    (v2.parent / "cgroup.procs").touch()
    with StatsReader(v2, ["anon"]) as reader:
        sources.made[0].error = REFUSALS[0]
        v2.rename(v2.with_name("elsewhere"))
        make_v2(v2)
        with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
            reader.read()
        shutil.rmtree(v2)
        with pytest.raises(CgroupRemovedError):
            reader.read()
        assert (reader.backend, sources.made[0].closes) == ("fake", 0)


# --- threads and fork -----------------------------------------------------------------


def test_threads_that_share_a_reader_read_one_at_a_time(v2: Path, sources: Sources) -> None:
    failures: list[BaseException] = []

    def hammer(reader: StatsReader) -> None:
        try:
            for _ in range(300):
                assert reader.read() == {"anon": 1}
        except BaseException as error:
            failures.append(error)

    with StatsReader(v2) as reader:
        threads = [threading.Thread(target=hammer, args=(reader,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert sources.made[0].reads == 2400
    assert sources.made[0].most_at_once == 1, "a source is not made for two threads at once"


def test_a_close_ends_the_reads_of_other_threads(v2: Path, sources: Sources) -> None:
    reader = StatsReader(v2)
    outcomes: list[Optional[BaseException]] = []
    started = threading.Barrier(5)

    def hammer() -> None:
        started.wait()
        try:
            while True:
                reader.read()
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    reader.close()
    for thread in threads:
        thread.join(10)
    assert [type(outcome) for outcome in outcomes] == [ClosedError] * 4
    assert sources.made[0].closes == 1
    assert not sources.made[0].read_after_close


@pytest.fixture
def slow_read(v2: Path, sources: Sources) -> Iterator[StatsReader]:
    """A reader that another thread is reading from, its lock held, all the while."""
    reader = StatsReader(v2)
    source: FakeSource = sources.made[0]
    source.hold = threading.Event()
    thread = threading.Thread(target=reader.read)
    thread.start()
    assert source.entered.wait(10)
    yield reader
    source.hold.set()
    thread.join(10)
    reader.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_locked_out(slow_read: StatsReader, sources: Sources) -> None:
    assert not slow_read._lock.acquire(blocking=False), "the other thread holds it"
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a deadlock ends by this
        status = 1
        try:
            sources.made[0].hold = None
            if slow_read.read() == {"anon": 1}:
                slow_read.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not slow_read._lock.acquire(blocking=False), "the parent's lock is untouched"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_locked_out_by_a_thread_that_held_the_modules_locks() -> None:
    from pymemcgbpf import _functions
    from pymemcgbpf._bpf import btf as _btf
    from pymemcgbpf._bpf import libbpf as _libbpf
    from pymemcgbpf._bpf import libbpf_log as _libbpf_log

    locks = [
        (_libbpf, "_lock"),
        (_libbpf_log, "_print_lock"),
        (_btf, "_lock"),
        (_program_cache, "_programs_lock"),
        (_slot_discovery, "_lock"),
        (_functions, "_readers_lock"),
    ]
    before = [getattr(module, name) for module, name in locks]
    held, forked = threading.Event(), threading.Event()

    def hold_all() -> None:
        with contextlib.ExitStack() as stack:
            for lock in before:
                stack.enter_context(lock)
            held.set()
            forked.wait(30)

    # In another thread: the locks are re-entrant, and the forking thread lives on in the child.
    thread = threading.Thread(target=hold_all)
    thread.start()
    try:
        assert held.wait(10)
        child = os.fork()
        if child == 0:
            free = [getattr(module, name).acquire(timeout=1) for module, name in locks]
            os._exit(0 if all(free) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [getattr(module, name) for module, name in locks] == before
    finally:
        forked.set()
        thread.join(10)


def test_a_reader_cannot_be_copied_or_pickled(v2: Path, sources: Sources) -> None:
    with StatsReader(v2) as reader:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="make another"):
                attempt(reader)
