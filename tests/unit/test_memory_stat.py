# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""memory.stat as text: parsed, and read from fake cgroup directories."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import MemcgError, StreamError, _memory_stat
from pymemcgbpf._cgroupfs import Cgroup
from pymemcgbpf._memory_stat import TextSource, parse
from pymemcgbpf.items import CATALOGUE, CURRENT

from ..open_files import open_files
from .directories import make_v1, make_v2

Opened = Callable[[Path], Cgroup]


@pytest.mark.parametrize(
    "data",
    [
        b"anon",
        b"anon 1 file",
        b"anon 1\nfile\nslab 2\n",
        b"anon one\n",
        b"anon 1.5\n",
        b"anon 0x10\n",
        b"4096 anon\n",
        b"\xff\xfe\x00",
        b"anon \xff\n",
    ],
)
def test_garbage_is_an_error(data: bytes) -> None:
    with pytest.raises(StreamError, match=r"memory\.stat is not as expected"):
        parse(data)


def test_the_odd_word_is_named() -> None:
    with pytest.raises(StreamError, match="'file' has no value"):
        parse(b"anon 1\nfile")


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        (b"", {}),
        (b"anon 4096\n", {"anon": 4096}),
        (b"b 1\na 2\n", {"b": 1, "a": 2}),
        (b"anon 18446744073709551615\n", {"anon": (1 << 64) - 1}),
        (b"anon 1", {"anon": 1}),
    ],
)
def test_parse(data: bytes, parsed: dict[str, int]) -> None:
    assert parse(data) == parsed
    assert list(parse(data)) == list(parsed)


@given(
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1), st.integers(0, (1 << 64) - 1)
    )
)
def test_parse_round_trip(values: dict[str, int]) -> None:
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    assert list(parse(text.encode()).items()) == list(values.items())


# --- keys -----------------------------------------------------------------------------


def test_keys_of_v2_are_the_lines(tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v2(tmp_path / "v2", stat="zeta 1\nanon 2\nalpha 3\n"))
    assert list(_memory_stat.keys(cgroup).items()) == [
        ("zeta", "zeta"),
        ("anon", "anon"),
        ("alpha", "alpha"),
    ]


def test_keys_of_v1_are_mapped(tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v1(tmp_path / "v1"))
    assert _memory_stat.keys(cgroup) == {
        "anon": "total_rss",
        "file": "total_cache",
        "pgfault": "total_pgfault",
    }


def test_keys_close_their_file_on_failure(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    (v2 / "memory.stat").write_text("anon\n")
    before = open_files()
    with pytest.raises(StreamError):
        _memory_stat.keys(cgroup)
    assert open_files() == before


# --- the source -----------------------------------------------------------------------


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


def test_each_read_is_anew(v2: Path, opened: Opened) -> None:
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


@pytest.mark.parametrize("text", ["", "max\n"])
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
    wanted = _memory_stat._CHUNK + size
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
        assert open_files() == between, "closed a descriptor of somebody else's"


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
