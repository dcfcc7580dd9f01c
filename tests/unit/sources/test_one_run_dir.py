# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup read by a program that finds it by its open directory, and what can go wrong."""

from __future__ import annotations

import errno
import functools
import gc
import os
import shutil
import struct
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    CgroupRemovedError,
    MemcgError,
    StatsReader,
    _wire,
)
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf import run_dir as _run_dir
from pymemcgbpf._bpf import terms as _terms
from pymemcgbpf._bpf.plan import PointerPath, ReadPlan, Term, Terms
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import flush as _flush
from pymemcgbpf._sources import one_run_dir as _one_run_dir
from pymemcgbpf._sources import program_cache as _program_cache
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.one_run_dir import RunDirSource

from ...open_files import open_files
from ..directories import make_v1, make_v2
from ..kernels import LINUX_6_18, LINUX_7_3

Opened = Callable[[Path], Cgroup]

VMSTATS = PointerPath(_terms.START_MEMCG, (880,))
TERMS: Terms = {
    "anon": (Term(_terms.KIND_SIGNED, 8 * 14, 4096, VMSTATS),),
    "pgfault": (Term(_terms.KIND_WORD, 8 * 16, 1, VMSTATS),),
}
PLAN = ReadPlan("core", TERMS)
PRESSURE = "memory.pressure.some.total"
WITH_PRESSURE = ReadPlan(
    "core",
    {
        "anon": TERMS["anon"],
        PRESSURE: (
            Term(_terms.KIND_NANOSECONDS, 240, 1, PointerPath(_terms.START_CGROUP, (1272,), 8)),
        ),
    },
)
CPUS = 4
SEQUENCES = 1 << _run_dir.SEQUENCE_BITS


class Asked(NamedTuple):
    """What a program was run with: its own number, the directory's inode, the id and the key."""

    program: int
    inode: int
    cgroup_id: int
    key: int


class Slots:
    """A program, the slots that it writes into, and other callers that use them, too.

    Attributes:
        values: what it finds.
        cpu: which CPU it runs on.
        error: what a run of it fails with; 0 for not at all.
        status: its answer in place of values; 0 for values.
        overwritten: how many of the next answers another call overwrites before they are read.
        anothers: the id of the cgroup that those calls are for; 0 for the same one.
        asked: what it was run with.
    """

    is_lost = False
    fd, key = 6, 1 << 63 | 5

    def __init__(self) -> None:
        self.values: Sequence[int] = (4096, 3)
        self.cpu = self.error = self.status = self.overwritten = self.anothers = 0
        self.asked: list[Asked] = []
        self.sequences = [0] * CPUS
        self.slot_size = _run_dir.slot_size(PLAN)
        self.memory = bytearray(self.slot_size * CPUS)

    def shared_map(self, name: str) -> bytearray:
        assert name == _program.ANSWERS
        return self.memory

    def unpackers(self, name: str, layout: str) -> list[Callable[[], tuple[int, ...]]]:
        memory, unpack = self.shared_map(name), struct.Struct(layout).unpack_from
        return [functools.partial(unpack, memory, cpu * self.slot_size) for cpu in range(CPUS)]

    def runner(self, program_fd: int, arguments: tuple[int, int, int]) -> Runner:
        return Runner(self, program_fd, *arguments)

    def write(self, cgroup_id: int, values: Sequence[int]) -> int:
        """What one call does."""
        self.sequences[self.cpu] = (self.sequences[self.cpu] + 1) % SEQUENCES
        number = self.cpu * SEQUENCES + self.sequences[self.cpu]
        at = self.cpu * self.slot_size
        # Behind them are the words that it copies from the kernel's structures.
        words = (self.slot_size - 8 * (len(values) + 2)) // 8
        content = (*values, cgroup_id, number, *[77] * words)
        struct.pack_into(f"={len(content)}Q", self.memory, at, *content)
        return number


class Runner:
    """Stands in for _libbpf_programs.ArgumentRunner."""

    def __init__(
        self, slots: Slots, program_fd: int, directory_fd: int, cgroup_id: int, key: int
    ) -> None:
        self._slots, self._program, self._key = slots, program_fd, key
        self._directory, self._id = directory_fd, cgroup_id
        self.returned = [0]
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def run(self) -> int:
        slots = self._slots
        if self.closed:
            return -errno.EINVAL
        if slots.error:
            return -slots.error
        try:
            inode = os.fstat(self._directory).st_ino
        except OSError:
            inode = -1
        slots.asked.append(Asked(self._program, inode, self._id, self._key))
        if slots.status:
            self.returned[0] = _run_dir.FAILED | slots.status
            return 0
        self.returned[0] = slots.write(self._id, slots.values)
        if slots.overwritten:
            slots.overwritten -= 1
            slots.write(slots.anothers or self._id, [1 << 40] * len(slots.values))
        return 0


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Slots:
    fake = Slots()
    monkeypatch.setattr(_libbpf_programs, "ArgumentRunner", fake.runner)
    monkeypatch.setattr(_program_cache, "cached", lambda *_: fake)
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    return fake


@pytest.fixture
def source(slots: Slots, v2: Path, opened: Opened) -> Iterator[RunDirSource]:
    made = RunDirSource(opened(v2), PLAN, False)
    yield made
    made.close()


@pytest.mark.parametrize("make", [make_v2, make_v1], ids=["v2", "v1"])
def test_one_call_gives_the_values(
    make: Callable[[Path], Path], slots: Slots, tmp_path: Path, opened: Opened
) -> None:
    path = make(tmp_path / "cgroup")
    source = RunDirSource(opened(path), PLAN, False)
    assert list(source.read().items()) == [("anon", 4096), ("pgfault", 3)]
    slots.values = (0, (1 << 64) - 2)
    assert source.read() == {"anon": 0, "pgfault": (1 << 64) - 2}
    inode = path.stat().st_ino
    assert slots.asked == [Asked(slots.fd, inode, inode, slots.key)] * 2
    source.close()


def test_the_words_that_a_program_has_copied(slots: Slots, source: RunDirSource) -> None:
    assert source.read_words() == (77,) * PLAN.nr_words
    assert PLAN.nr_words == 3, "from the 14th to the 16th"


def test_words_that_another_call_overwrites_are_read_again(
    slots: Slots, source: RunDirSource
) -> None:
    look = source._slots[0]
    looks = 0

    def overwrite() -> tuple[int, ...]:
        nonlocal looks
        looks += 1
        if looks == 2:  # The words were read, and the number is looked at again.
            slots.write(12345, (1, 2))
        return look()

    source._slots[0] = overwrite
    assert source.read_words() == (77,) * PLAN.nr_words
    assert (looks, len(slots.asked)) == (4, 2)

    def always() -> tuple[int, ...]:
        nonlocal looks
        looks += 1
        if looks % 2 == 0:
            slots.write(12345, (1, 2))
        return look()

    source._slots[0] = always
    with pytest.raises(MemcgError, match="always quicker"):
        source.read_words()


def test_the_directory_is_the_source_s_own(slots: Slots, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = RunDirSource(cgroup, PLAN, False)
    cgroup.close()
    assert list(open_files().values()).count(str(v2)) == 1
    source.read()
    assert slots.asked[0].inode == v2.stat().st_ino
    source.close()
    assert open_files().keys() < before.keys()


@pytest.mark.parametrize("cpus", [(0, 1, 2, 3), (3, 0, 3, 3), (2, 2, 1)])
def test_the_slot_of_the_cpu_is_read(
    cpus: tuple[int, ...], slots: Slots, source: RunDirSource
) -> None:
    for cpu in cpus:
        slots.cpu, slots.values = cpu, (10 + cpu, 20 + cpu)
        assert source.read() == {"anon": 10 + cpu, "pgfault": 20 + cpu}
    assert len(slots.asked) == len(cpus)


def test_sources_of_one_program_share_its_slots(
    slots: Slots, tmp_path: Path, opened: Opened
) -> None:
    paths = [make_v2(tmp_path / name) for name in ("a", "b")]
    sources = [RunDirSource(opened(path), PLAN, False) for path in paths]
    for _ in range(3):
        for number, source in enumerate(sources):
            slots.values = (number, 7)
            assert source.read() == {"anon": number, "pgfault": 7}
    assert [asked.cgroup_id for asked in slots.asked] == [path.stat().st_ino for path in paths] * 3
    for source in sources:
        source.close()


@pytest.mark.parametrize("anothers", [0, 12345], ids=["the same cgroup", "another cgroup"])
@pytest.mark.parametrize("times", [1, 2, 50])
def test_a_slot_that_another_call_overwrites_is_filled_again(
    times: int, anothers: int, slots: Slots, source: RunDirSource
) -> None:
    slots.overwritten, slots.anothers = times, anothers
    assert source.read() == {"anon": 4096, "pgfault": 3}
    assert len(slots.asked) == times + 1


def test_an_overwritten_slot_is_looked_for_on_the_next_cpu(
    slots: Slots, source: RunDirSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.overwritten = 1
    write = slots.write

    def move(cgroup_id: int, values: Sequence[int]) -> int:
        returned = write(cgroup_id, values)
        slots.cpu = min(len(slots.asked), CPUS - 1)
        return returned

    # The first answer is in slot 0, and what overwrites it is in slot 1: nothing is lost.
    monkeypatch.setattr(slots, "write", move)
    assert source.read() == {"anon": 4096, "pgfault": 3}
    assert len(slots.asked) == 1


def test_what_overwrites_one_slot_does_not_change_another(
    slots: Slots, source: RunDirSource
) -> None:
    for cpu in (0, 2):
        slots.cpu = cpu
        slots.write(12345, (1, 2))
    slots.cpu = 1
    assert source.read() == {"anon": 4096, "pgfault": 3}


def test_a_slot_that_is_overwritten_for_ever_is_an_error(
    slots: Slots, source: RunDirSource
) -> None:
    slots.overwritten, slots.anothers = 1 << 40, 12345
    with pytest.raises(MemcgError, match="always quicker to use the program's slot") as caught:
        source.read()
    assert (caught.value.errno, caught.value.call) == (errno.EAGAIN, "bpf_prog_test_run_opts")
    assert len(slots.asked) == _one_run_dir._TRIES
    slots.overwritten = 0
    assert source.read() == {"anon": 4096, "pgfault": 3}, "the next one is another"


def test_the_sequence_begins_again(slots: Slots, source: RunDirSource) -> None:
    slots.sequences[0] = SEQUENCES - 2
    for number in range(4):
        slots.values = (number, number)
        assert source.read() == {"anon": number, "pgfault": number}
    assert slots.sequences[0] == 2


def test_the_id_tells_answers_with_the_same_sequence_apart(
    slots: Slots, source: RunDirSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many calls for another cgroup as there are numbers came between.
    slots.overwritten, slots.anothers = 1, 12345
    write = slots.write

    def write_that(cgroup_id: int, values: Sequence[int]) -> int:
        if cgroup_id == slots.anothers:
            slots.sequences[slots.cpu] -= 1
        return write(cgroup_id, values)

    monkeypatch.setattr(slots, "write", write_that)
    assert source.read() == {"anon": 4096, "pgfault": 3}
    assert len(slots.asked) == 2


@pytest.mark.parametrize("cgroup_id", [1 << 46, (1 << 46) + 1, (7 << 32) + 9, (1 << 64) - 1])
def test_an_id_need_not_fit_into_the_tag(
    cgroup_id: int, slots: Slots, v2: Path, opened: Opened
) -> None:
    # Before Linux 5.5, and where ino_t has 32 bits, its upper half is a generation number.
    cgroup = opened(v2)
    cgroup = cgroup._replace(identity=(cgroup.identity[0], cgroup_id), owner=None)
    source = RunDirSource(cgroup, PLAN, False)
    slots.overwritten = 1
    assert source.read() == {"anon": 4096, "pgfault": 3}
    assert [asked.cgroup_id for asked in slots.asked] == [cgroup_id] * 2
    source.close()


def test_a_row_of_before_is_not_taken_for_the_answer(slots: Slots, source: RunDirSource) -> None:
    source.read()
    slots.status = _wire.NOT_VISIBLE
    with pytest.raises(CgroupRemovedError):
        source.read()
    slots.status, slots.error = 0, errno.ENOMEM
    with pytest.raises(MemcgError):
        source.read()


# --- absent ---------------------------------------------------------------------------


def test_what_is_absent(slots: Slots, source: RunDirSource) -> None:
    slots.values = (4096, _wire.ABSENT)
    assert source.probe_missing() == {"pgfault"}
    slots.values = (0, _wire.ABSENT - 1)
    assert source.probe_missing() == set(), "0 is a measurement"


def test_pressure_vanishes_while_it_is_switched_off(slots: Slots, v2: Path, opened: Opened) -> None:
    slots.slot_size = _run_dir.slot_size(WITH_PRESSURE)
    slots.memory = bytearray(slots.slot_size * CPUS)
    source = RunDirSource(opened(v2), WITH_PRESSURE, False)
    slots.values = (4096, 12)
    assert list(source.read()) == ["anon", PRESSURE]
    slots.values = (4096, _wire.ABSENT)
    assert source.read() == {"anon": 4096}
    assert source.probe_missing() == {PRESSURE}
    slots.values = (4096, 13)
    assert source.read() == {"anon": 4096, PRESSURE: 13}
    source.close()


# --- failures -------------------------------------------------------------------------


def test_another_program_s_number(slots: Slots, source: RunDirSource) -> None:
    slots.status = _wire.OTHER
    with pytest.raises(MemcgError, match="belong to another reader") as caught:
        source.read()
    assert caught.value.errno == errno.EBADF
    assert len(slots.asked) == 1


@pytest.mark.parametrize("status", [_wire.NOT_OPEN, _wire.NOT_VISIBLE])
def test_a_removed_cgroup(status: int, slots: Slots, source: RunDirSource, v2: Path) -> None:
    shutil.rmtree(v2)
    slots.status = status
    with pytest.raises(CgroupRemovedError, match=f"the cgroup {v2} was removed$"):
        source.read()


def test_a_removed_cgroup_whose_path_is_another_s(
    slots: Slots, source: RunDirSource, v2: Path, tmp_path: Path
) -> None:
    v2.rename(tmp_path / "kept so that its inode is")
    make_v2(v2)
    slots.status = _wire.NOT_OPEN
    with pytest.raises(CgroupRemovedError, match="another cgroup has its path now"):
        source.read()


def test_a_cgroup_that_is_just_being_removed(slots: Slots, source: RunDirSource, v2: Path) -> None:
    # css_clear_dir() makes it invisible before it removes memory.stat.
    slots.status = _wire.NOT_VISIBLE
    with pytest.raises(CgroupRemovedError, match=f"the cgroup {v2} was removed$"):
        source.read()


def test_a_directory_that_is_not_the_kernel_s_is_no_removed_cgroup(
    slots: Slots, source: RunDirSource, v2: Path
) -> None:
    slots.status = _wire.NOT_OPEN
    with pytest.raises(BackendUnavailableError, match="not in a cgroup file system") as caught:
        source.read()
    assert str(v2) in str(caught.value)


def test_a_cpu_without_a_slot(slots: Slots, source: RunDirSource) -> None:
    slots.status = _wire.NO_SLOT
    with pytest.raises(MemcgError, match="no slot for the CPU") as caught:
        source.read()
    assert type(caught.value) is MemcgError


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.EINVAL, errno.EINTR])
def test_a_refusal_to_run(number: int, slots: Slots, source: RunDirSource) -> None:
    slots.error = number
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert (caught.value.errno, caught.value.call) == (number, "bpf_prog_test_run_opts")
    slots.error = 0
    assert source.read() == {"anon": 4096, "pgfault": 3}


# --- closed ---------------------------------------------------------------------------


def test_a_closed_source_does_not_use_the_descriptor_s_number(
    slots: Slots, v2: Path, opened: Opened
) -> None:
    # A signal handler can close it in the midst of a read.
    source = RunDirSource(opened(v2), PLAN, False)
    source.close()
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert (caught.value.errno, slots.asked) == (errno.EBADF, [])


def test_a_source_that_is_closed_while_its_slot_is_overwritten_is_not_run_again(
    slots: Slots, source: RunDirSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.overwritten = 10
    write = slots.write

    def close(cgroup_id: int, values: Sequence[int]) -> int:
        source.close()
        return write(cgroup_id, values)

    monkeypatch.setattr(slots, "write", close)
    with pytest.raises(MemcgError) as caught:
        source.read()
    assert caught.value.errno == errno.EBADF
    assert len(slots.asked) == 1


@pytest.mark.parametrize("flush", [False, True])
def test_close_twice(flush: bool, slots: Slots, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = RunDirSource(cgroup, PLAN, flush)
    assert len(open_files()) == len(before) + 1 + flush
    source.close()
    assert open_files() == before
    source.close()
    assert open_files() == before


def test_a_closed_source_lets_go_of_its_program(
    slots: Slots, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [Slots()]
    seen = weakref.ref(programs[0])
    monkeypatch.setattr(_program_cache, "cached", lambda *_: programs.pop())
    source = RunDirSource(opened(v2), PLAN, False)
    gc.collect()
    assert seen() is not None
    source.close()
    gc.collect()
    assert seen() is None


def test_a_source_is_lost_with_any_of_its_descriptors(
    slots: Slots, v2: Path, opened: Opened, tmp_path: Path
) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = RunDirSource(cgroup, PLAN, True)
    assert not source.is_lost
    slots.is_lost = True
    assert source.is_lost
    slots.is_lost = False
    own = open_files()
    numbers = sorted(map(int, own.keys() - before.keys()))
    assert {own[str(number)] for number in numbers} == {str(v2), str(v2 / "memory.stat")}
    other = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    for number in numbers:
        kept = os.dup(number)
        os.dup2(other, number, inheritable=False)
        assert source.is_lost
        os.dup2(kept, number, inheritable=False)
        os.close(kept)
        assert not source.is_lost
    for number in numbers:
        os.dup2(other, number, inheritable=False)
    os.close(other)
    source.close()
    assert sorted(map(int, open_files().keys() - before.keys())) == numbers, "they are another's"
    for number in numbers:
        os.close(number)


def test_a_directory_that_other_code_has_closed_is_said(
    slots: Slots, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = RunDirSource(cgroup, PLAN, False)
    (number,) = open_files().keys() - before.keys()
    chosen: Selection[Any] = Selection(source, source.names, "core", "run", "")
    monkeypatch.setattr(_choose, "choose", lambda *_: chosen)
    with StatsReader(v2, [*TERMS]) as reader:
        reader.read()
        os.close(int(number))
        slots.status = _wire.NOT_OPEN
        with pytest.raises(MemcgError, match="closed by other code") as caught:
            reader.read()
        assert (type(caught.value), caught.value.errno) == (MemcgError, errno.EBADF)
        assert slots.asked[-1].inode == -1
    gc.collect()
    assert open_files() == before


# --- the constructor ------------------------------------------------------------------


def refuse(*_: object) -> Any:
    raise MemcgError("refused")


def interrupt(*_: object) -> Any:
    raise KeyboardInterrupt


STEPS = {
    "opens the directory": (_files, "CgroupFile"),
    "loads the program": (_program_cache, "cached"),
    "maps the slots": (Slots, "shared_map"),
    "sizes the slots": (_run_dir, "slot_size"),
    "prepares the run": (_libbpf_programs, "ArgumentRunner"),
    "opens the files that flush": (_flush, "before_reading"),
}


@pytest.mark.parametrize("error", [refuse, interrupt])
@pytest.mark.parametrize(("where", "name"), STEPS.values(), ids=STEPS)
def test_a_constructor_that_fails_leaves_nothing_open(
    where: Any,
    name: str,
    error: Callable[..., Any],
    slots: Slots,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cgroup = opened(v2)
    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, error)
        with pytest.raises((MemcgError, KeyboardInterrupt)) as caught:
            RunDirSource(cgroup, PLAN, True)
        assert open_files() == before, "though the caught exception holds the frames"
    assert slots.asked == []
    del caught


def test_a_flushing_file_that_cannot_be_opened(slots: Slots, v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    (v2 / "memory.stat").unlink()
    before = open_files()
    with pytest.raises(FileNotFoundError):
        RunDirSource(cgroup, PLAN, True)
    assert open_files() == before


# --- flush ----------------------------------------------------------------------------


@pytest.mark.parametrize("types", [LINUX_6_18.types, LINUX_7_3.types], ids=["6.18", "7.3"])
@pytest.mark.parametrize("flush", [False, True])
def test_the_program_never_flushes_and_a_file_does(
    flush: bool,
    types: Callable[[], _btf.KernelTypes],
    slots: Slots,
    v2: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []

    def cached(*arguments: object) -> Slots:
        asked.append(arguments)
        return slots

    monkeypatch.setattr(_btf, "kernel", types)
    monkeypatch.setattr(_program_cache, "cached", cached)
    source = RunDirSource(opened(v2), PLAN, flush)
    assert asked == [(_program.RUN_DIR, PLAN, _terms.FLUSH_NONE)]
    flushed: list[str] = []
    pread = os.pread

    def watched(fd: int, size: int, at: int) -> bytes:
        assert len(slots.asked) == len(flushed), "before the read"
        flushed.append(os.readlink(f"/proc/self/fd/{fd}"))
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", watched)
    slots.overwritten = 2 if flush else 0
    source.read()
    assert flushed == ([str(v2 / "memory.stat")] if flush else []), "once for a read"
    source.close()
