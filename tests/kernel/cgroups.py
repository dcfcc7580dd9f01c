# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Cgroups made for the tests, with real memory in them; they are always removed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import mmap
import os
import platform
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from .surroundings import FLUSHES, HIERARCHY, IN_LAB, VERSION

MIB = 1 << 20
ANON_BYTES = 8 * MIB
FILE_BYTES = 3 * MIB
SHMEM_BYTES = 2 * MIB
SECONDS_TO_LAG = 3  # the kernel's flush is due every 2
SPELL = 0.025  # seconds, some ticks
# What one CPU charges in portions of this size is all in memory.stat.
PORTION = mmap.PAGESIZE if FLUSHES else 33 * mmap.PAGESIZE
EXACT_MIB = MIB // PORTION * PORTION
# How far memory.stat may be behind, flushed or not, in pages or events.
LAG = 0 if FLUSHES else 32 * (os.cpu_count() or 1)

_names = itertools.count()


@contextlib.contextmanager
def cgroup(parent: Path = HIERARCHY) -> Iterator[Path]:
    """A new cgroup with the memory controller, removed with all below it."""
    path = parent / f"pymemcgbpf-test-{os.getpid()}-{next(_names)}"
    path.mkdir()
    try:
        yield path
    finally:
        remove(path)


def remove(path: Path) -> None:
    """Removes a cgroup and its descendants, if they still exist."""
    if not path.exists():
        return
    for child in [entry for entry in path.iterdir() if entry.is_dir()]:
        remove(child)
    for _ in range(500):
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # a process that was killed just now is still on its way out
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"{path} could not be removed")


@functools.cache
def has_file(name: str) -> bool:
    """Whether a cgroup of this kernel has such a file."""
    with cgroup() as path:
        return (path / name).exists()


def enable_memory(path: Path) -> None:
    """Enables the memory controller for the children of a cgroup."""
    if VERSION == 2:
        (path / "cgroup.subtree_control").write_text("+memory")


class Worker:
    """A forked process in a cgroup: runs *setup*, then *again* at each :meth:`step`.

    Between steps it sleeps in a read(), so its cgroup is quiet. It keeps to one CPU where each CPU
    counts for itself (see :data:`PORTION`).
    """

    def __init__(
        self,
        path: Path,
        setup: Callable[[], object],
        again: Callable[[], object] = lambda: None,
    ) -> None:
        to_child_read, self._to_child = os.pipe()
        self._from_child, from_child_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._to_child)
                os.close(self._from_child)
                self._run(path, setup, again, to_child_read, from_child_write)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(to_child_read)
        os.close(from_child_write)
        self._await()

    @staticmethod
    def _run(
        path: Path,
        setup: Callable[[], object],
        again: Callable[[], object],
        commands: int,
        answers: int,
    ) -> None:
        (path / "cgroup.procs").write_text("0")
        if not FLUSHES:  # after the move, by which a cpuset gives it all its CPUs
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        kept = [setup()]  # what it returns stays charged
        os.write(answers, b".")
        while os.read(commands, 1):
            kept.append(again())
            os.write(answers, b".")

    def _await(self) -> None:
        if os.read(self._from_child, 1) != b".":
            raise AssertionError("the worker died; its traceback is above")

    def step(self) -> None:
        """Runs *again* once, and waits for its end."""
        os.write(self._to_child, b"+")
        self._await()

    def close(self) -> None:
        """Ends the process."""
        for fd in (self._to_child, self._from_child):
            os.close(fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def in_child(work: Callable[[], None]) -> int:
    """Runs *work* in a forked child; returns its exit status."""
    return ended(forked(work))


def ended(pid: int) -> int:
    """Waits for a child; returns its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(work: Callable[[], None]) -> int:
    """Forks a child that runs *work*; returns its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


@contextlib.contextmanager
def processes(*works: Callable[[], None]) -> Iterator[None]:
    """A process for each of these; they must end by themselves, and well."""
    pids = [forked(work) for work in works]
    try:
        yield
    finally:
        assert [ended(pid) for pid in pids] == [0] * len(works), "a storm failed"


NOBODY = 65534


def give_up_rights() -> None:
    """Gives up all privileges: this process becomes one of user nobody."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


_BPF_OBJ_GET = 7
SYS_BPF = {"x86_64": 321, "aarch64": 280}


def may_call_bpf() -> bool:
    """Whether this process may call bpf() at all, whose arguments here lead nowhere.

    Without privileges it may since c8644cd0efe7 (bpf: refine kernel.unprivileged_bpf_disabled
    behaviour, Linux 5.19).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(SYS_BPF[platform.machine()], _BPF_OBJ_GET, bytes(16), 16)
    return ctypes.get_errno() != errno.EPERM


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Runs *work* in threads; raises what the first failing one raised."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def dying(path: Path) -> int:
    """How many removed cgroups below one the kernel still keeps (v1 does not tell)."""
    words = (path / "cgroup.stat").read_text().split()
    return int(words[words.index("nr_dying_descendants") + 1])


def is_dying(path: Path, expected: int) -> bool:
    """Whether so many are kept, soon."""
    deadline = time.monotonic() + 20
    while dying(path) != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def fault_in(size: int, *, shared: bool = False) -> mmap.mmap:
    """Anonymous (or shared: shmem) memory, every page of it touched."""
    flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    memory = mmap.mmap(-1, size, flags=flags)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def right_without_a_flush(is_right: Callable[[], bool]) -> bool:
    """Whether it becomes so within :data:`SECONDS_TO_LAG`, with the kernel's own flush alone.

    Each CPU in turn is kept busy for some ticks meanwhile: the timer of that flush is deferrable,
    so the kernel wakes no sleeping CPU for it. (The limit counts these
    spells, not the clock: a guest may be suspended.)
    """
    cpus = os.sched_getaffinity(0)
    try:
        for cpu in itertools.islice(itertools.cycle(cpus), int(SECONDS_TO_LAG / SPELL)):
            if is_right():
                return True
            os.sched_setaffinity(0, {cpu})
            moment = time.monotonic() + SPELL
            while time.monotonic() < moment:
                pass
    finally:
        os.sched_setaffinity(0, cpus)
    return is_right()


FRESH_STEPS, MOST_STEPS = 4, 12
KERNEL_FLUSHES_EVERY = 2.0  # seconds, FLUSH_TIME of mm/memcontrol.c


def is_fresh_at_once(step: Callable[[int], bool]) -> bool:
    """Whether values are fresh right after new charges. *step* charges, and says whether they were.

    It gets the number of the step, from 1 on. A step may be stale, and memory.stat with it. Another
    flush at the same time puts off ours. Worse, a flush that meets charges may set back the count
    of a cgroup's pending updates and not its child's: then the child's are counted no more, and
    whoever reads the cgroup sees it stale, however much is charged, until the kernel's own flush.
    So after a stale step one of those is waited for, and 4 of at most 12 steps must be fresh.
    Without a flush hardly one of them would be.
    """
    fresh = 0
    for number in range(1, MOST_STEPS + 1):
        if step(number):
            fresh += 1
        else:
            time.sleep(KERNEL_FLUSHES_EVERY * 1.1)
        if fresh == FRESH_STEPS:
            return True
    return False


def page_cache_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory whose files are page cache: on a disk (tmpfs counts as shmem)."""
    return tempfile.TemporaryDirectory(dir="/mnt/disk" if IN_LAB else "/var/tmp")


def use_all_kinds(files: Path) -> object:
    """Charges memory of each kind to the caller's cgroup; what is returned holds it."""
    kept: list[object] = [fault_in(ANON_BYTES), fault_in(SHMEM_BYTES, shared=True)]
    path = files / "data"
    path.write_bytes(b"x" * FILE_BYTES)
    opened = path.open("r+b")
    mapped = mmap.mmap(opened.fileno(), FILE_BYTES)
    for offset in range(0, FILE_BYTES, mmap.PAGESIZE):
        mapped[offset]
    kept += [opened, mapped]
    # Slab: dentries and inodes of files, and pipes.
    for number in range(500):
        (files / f"slab-{number}").touch()
    kept.append([os.pipe() for _ in range(100)])
    return kept


@contextlib.contextmanager
def busy_cgroup(parent: Path = HIERARCHY) -> Iterator[tuple[Path, Worker]]:
    """A cgroup with memory of every kind; each step of its worker faults 64 pages more."""
    with (
        page_cache_directory() as files,
        cgroup(parent) as path,
        Worker(
            path, lambda: use_all_kinds(Path(files)), lambda: fault_in(64 * mmap.PAGESIZE)
        ) as worker,
    ):
        yield path, worker


def memory_stat(path: Path) -> dict[str, int]:
    """memory.stat, read by code that shares nothing with the package."""
    found = {}
    for line in (path / "memory.stat").read_text().splitlines():
        key, value = line.split(" ")
        found[key] = int(value)
    return found


def current(path: Path) -> int:
    """The memory in use, from the cgroup's own file."""
    name = "memory.current" if VERSION == 2 else "memory.usage_in_bytes"
    return int((path / name).read_text())
