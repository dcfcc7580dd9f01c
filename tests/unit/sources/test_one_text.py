# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup as text, read from fake cgroup directories."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import UNLIMITED, ItemUnavailableError, MemcgError, StreamError
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.files import parse
from pymemcgbpf._items import CATALOGUE, CURRENT
from pymemcgbpf._sources.one_text import TextSource

from ...open_files import open_files
from ..directories import make_v1, make_v2

Opened = Callable[[Path], Cgroup]


def test_values_in_the_order_asked_for(v2: Path, opened: Opened) -> None:
    source = TextSource(opened(v2), ("pgfault", CURRENT, "anon"))
    assert list(source.read().items()) == [("pgfault", 3), (CURRENT, 12288), ("anon", 4096)]
    source.close()


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ((CURRENT,), {CURRENT: 12288}),
        (("anon", CURRENT), {"anon": 4096, CURRENT: 12288}),
        ((CURRENT, "file"), {CURRENT: 12288, "file": 8192}),
        (("file",), {"file": 8192}),
    ],
)
@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_current(
    make: Callable[[Path], Path],
    names: tuple[str, ...],
    values: dict[str, int],
    tmp_path: Path,
    opened: Opened,
) -> None:
    source = TextSource(opened(make(tmp_path / "cgroup")), names)
    assert list(source.read().items()) == list(values.items())
    source.close()


def test_v1_reads_the_hierarchical_lines(tmp_path: Path, opened: Opened) -> None:
    lines = [(item.v1, item.number) for item in CATALOGUE.values() if item.v1]
    text = "".join(f"{(key or '').replace('total_', '')} 0\n" for key, _ in lines)
    text += "".join(f"{key} {number}\n" for key, number in reversed(lines))
    cgroup = opened(make_v1(tmp_path / "v1", stat=text))
    names = tuple(item.name for item in CATALOGUE.values() if item.v1)
    source = TextSource(cgroup, names)
    assert source.read() == {name: CATALOGUE[name].number for name in names}
    source.close()


def test_each_read_sees_the_current_values(v2: Path, opened: Opened) -> None:
    source = TextSource(opened(v2), ("anon", CURRENT))
    assert source.read() == {"anon": 4096, CURRENT: 12288}
    (v2 / "memory.stat").write_text("anon 1\nfile 2\npgfault 3\n")
    (v2 / "memory.current").write_text("9\n")
    assert source.read() == {"anon": 1, CURRENT: 9}
    source.close()


def test_lines_that_change_their_order_or_number(v2: Path, opened: Opened) -> None:
    source = TextSource(opened(v2), ("anon", "pgfault"))
    for text in (
        "pgfault 7\nanon 5\n",
        "new 1\nanon 6\nnewer 2\npgfault 8\n",
        "anon 1\npgfault 2\n",
    ):
        (v2 / "memory.stat").write_text(text)
        assert source.read() == {name: parse(text.encode())[name] for name in ("anon", "pgfault")}
    source.close()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("anon 1\nfile 2\npgfault x\n", id="no number where one is wanted"),
        pytest.param("anon 1\nfile 2\npgfault\n", id="the last value missing"),
        pytest.param("file 2\nanon 1\n", id="a line gone"),
        pytest.param("", id="empty"),
        pytest.param("anon 1\nfile\n", id="odd"),
    ],
)
def test_text_damaged_between_reads_is_one_of_our_errors(
    text: str, v2: Path, opened: Opened
) -> None:
    source = TextSource(opened(v2), ("anon", "pgfault"))
    source.read()
    (v2 / "memory.stat").write_text(text)
    try:
        with pytest.raises(MemcgError):
            source.read()
    finally:
        source.close()


@pytest.mark.parametrize("text", ["", "much\n", "1\n2\n"])
def test_a_usage_that_is_no_number_is_one_of_our_errors(
    text: str, v2: Path, opened: Opened
) -> None:
    source = TextSource(opened(v2), (CURRENT,))
    (v2 / "memory.current").write_text(text)
    try:
        with pytest.raises(MemcgError):
            source.read()
    finally:
        source.close()


@pytest.mark.parametrize("size", [-1, 0, 1, 16384, 40000])
def test_a_file_as_long_as_the_chunk_or_longer(size: int, tmp_path: Path, opened: Opened) -> None:
    head, line = "anon 4096\n", "filler_{:06} 00000000\n"
    wanted = _files._CHUNK + size
    text = head
    while len(text) + 40 < wanted:
        text += line.format(len(text))
    text += "last " + "9".rjust(wanted - len(text) - 6, "0") + "\n"
    assert len(text) == wanted
    cgroup = opened(make_v2(tmp_path / "v2", stat=text))
    source = TextSource(cgroup, ("last", "anon"))
    assert source.read() == {"last": 9, "anon": 4096}
    source.close()


def test_close_twice(v2: Path, opened: Opened) -> None:
    source = TextSource(opened(v2), ("anon", CURRENT))
    before = open_files()
    source.close()
    assert len(before) - len(open_files()) == 2
    with open(os.devnull), open(os.devnull):  # these have the numbers now
        between = open_files()
        source.close()
        assert open_files() == between, "the reader closed a descriptor of another file"


def test_a_forgotten_source_closes_its_files(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    before = open_files()
    source = TextSource(cgroup, ("anon", CURRENT))
    assert len(open_files()) == len(before) + 2
    del source
    gc.collect()
    assert open_files() == before


def test_a_failure_to_open_leaves_nothing_open(tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v2(tmp_path / "v2", current=None))
    before = open_files()
    with pytest.raises(FileNotFoundError):
        TextSource(cgroup, ("anon", CURRENT))
    gc.collect()
    assert open_files() == before


def test_files_do_not_outlive_an_exec(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    before = set(open_files())
    source = TextSource(cgroup, ("anon", CURRENT))
    for fd in set(open_files()) - before:
        assert not os.get_inheritable(int(fd))
    assert not os.get_inheritable(cgroup.fd)
    source.close()


# --- other files ----------------------------------------------------------------------


def write(path: Path, **files: str) -> None:
    for name, text in files.items():
        (path / f"memory.{name}".replace("__", ".")).write_text(text)


def test_several_files_in_the_order_asked_for(v2: Path, opened: Opened) -> None:
    write(v2, max="max\n", events="low 1\noom 2\n", numa_stat="anon N0=5\n")
    names = ("memory.events.oom", "file", "memory.max", "memory.numa_stat.anon.N0", "anon")
    source = TextSource(opened(v2), names)
    assert list(source.read().items()) == list(zip(names, (2, 8192, UNLIMITED, 5, 4096)))
    write(v2, max="4096\n", events="low 1\noom 3\n")
    assert list(source.read().items()) == list(zip(names, (3, 8192, 4096, 5, 4096)))
    source.close()


def test_a_key_that_is_no_longer_there(v2: Path, opened: Opened) -> None:
    write(v2, events="low 1\n")
    cgroup = opened(v2)
    with pytest.raises(ItemUnavailableError, match=r"memory\.events no longer has memory.*oom"):
        TextSource(cgroup, ("anon", "memory.events.oom"))
    source = TextSource(cgroup, ("memory.events.low",))
    write(v2, events="oom 1\n")
    with pytest.raises(StreamError, match=r"memory\.events is not as expected"):
        source.read()
    source.close()


PRESSURE = "memory.pressure.full.total"


@pytest.mark.parametrize("names", [(PRESSURE,), (PRESSURE, "memory.events.low")])
def test_pressure_can_be_switched_off_and_on(
    names: tuple[str, ...], v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "some avg10=0 total=7\nfull avg10=0 total={}\n"
    write(v2, pressure=text.format(5), events="low 1\n")
    before = open_files()
    cgroup = opened(v2)
    source = TextSource(cgroup, names)
    all_values = dict(zip(names, (5, 1)))
    assert source.read() == all_values
    read_whole, old = _files.read_whole, (v2 / "memory.pressure").stat().st_ino

    def read(fd: int) -> bytes:
        if os.fstat(fd).st_ino == old:  # a hidden file is never to be read again
            raise OSError(errno.ENODEV, "No such device")
        return read_whole(fd)

    monkeypatch.setattr(_files, "read_whole", read)
    os.rename(v2 / "memory.pressure", v2 / "hidden")
    for _ in range(2):
        assert source.read() == {name: 1 for name in names if name != PRESSURE}
    write(v2, pressure=text.format(6))
    assert source.read() == {**all_values, PRESSURE: 6}
    (v2 / "memory.pressure").unlink()
    (v2 / "memory.stat").unlink()
    old = -1
    monkeypatch.setattr(_files, "read_whole", failing(errno.ENODEV))
    with pytest.raises(OSError, match="No such device"):
        source.read()
    source.close()
    source.close()
    assert len(open_files()) == len(before) + 1, "the cgroup's own"


def failing(number: int) -> Callable[[int], bytes]:
    def fail(_: int) -> bytes:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
def test_another_failure_to_read_pressure_is_one(
    number: int, v2: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(v2, pressure="some avg10=0 total=7\nfull avg10=0 total=5\n")
    source = TextSource(opened(v2), (PRESSURE,))
    monkeypatch.setattr(_files, "read_whole", failing(number))
    with pytest.raises(OSError) as caught:
        source.read()
    assert caught.value.errno == number
    source.close()


# --- derived items --------------------------------------------------------------------


WORKING_SET, EFFECTIVE_LIMIT = "derived.working_set", "derived.effective_limit"


@pytest.mark.parametrize(
    "names",
    [
        (WORKING_SET,),
        (EFFECTIVE_LIMIT,),
        (EFFECTIVE_LIMIT, "anon"),
        ("anon", WORKING_SET, EFFECTIVE_LIMIT, CURRENT),
    ],
)
def test_derived_items_in_the_order_asked_for(
    names: tuple[str, ...], tmp_path: Path, opened: Opened
) -> None:
    top = make_v2(tmp_path / "top")
    path = make_v2(top / "a", stat="anon 1\ninactive_file 288\n")
    write(top, max="8192\n")
    write(path, max="max\n")
    source = TextSource(opened(path), names)
    values = {WORKING_SET: 12000, EFFECTIVE_LIMIT: 8192, "anon": 1, CURRENT: 12288}
    assert list(source.read().items()) == [(name, values[name]) for name in names]
    write(top, max="max\n")
    write(path, max="4096\n", current="200\n")
    values.update({WORKING_SET: 0, EFFECTIVE_LIMIT: 4096, CURRENT: 200})
    assert list(source.read().items()) == [(name, values[name]) for name in names]
    source.close()


def test_an_effective_limit_is_of_the_cgroup_that_was_opened(
    tmp_path: Path, opened: Opened
) -> None:
    path = make_v2(tmp_path / "a")
    write(path, max="4096\n")
    source = TextSource(opened(path), (EFFECTIVE_LIMIT,))
    path.rename(tmp_path / "b")
    write(make_v2(path), max="1\n")
    assert source.read() == {EFFECTIVE_LIMIT: 4096}
    (tmp_path / "b" / "memory.max").unlink()
    with pytest.raises(FileNotFoundError):
        source.read()
    source.close()


def test_a_directory_that_other_code_has_closed_is_noticed(tmp_path: Path, opened: Opened) -> None:
    path = make_v2(tmp_path / "a")
    write(path, max="4096\n")
    source = TextSource(opened(path), (EFFECTIVE_LIMIT,))
    assert source._directory is not None and not source.is_lost
    number = source._directory.fd
    kept, other = os.dup(number), os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, number)
    assert source.is_lost
    with pytest.raises(OSError, match="Bad file descriptor"):
        source.read()
    os.dup2(kept, number)
    for each in (kept, other):
        os.close(each)
    assert not source.is_lost
    source.close()
