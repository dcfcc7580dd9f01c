# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The text of a cgroup's files is parsed into items."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import UNLIMITED, StreamError
from pymemcgbpf._cgroup import files as _files
from pymemcgbpf._cgroup.files import StatLines, name_of, parse, parse_items, stat_key
from pymemcgbpf._items import CATALOGUE, CURRENT, FILES, MEMORY_STAT

OF_V1 = [file for file in FILES if file.startswith("memory.memsw.") or file == "memory.failcnt"]
V1_MAX = UNLIMITED // mmap.PAGESIZE * mmap.PAGESIZE


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
def test_data_in_another_format_is_a_stream_error(data: bytes) -> None:
    with pytest.raises(StreamError, match=r"memory\.stat is not as expected"):
        parse(data)


def test_a_key_without_a_value_is_named() -> None:
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
def test_keys_and_numbers_are_parsed(data: bytes, parsed: dict[str, int]) -> None:
    assert parse(data) == parsed
    assert list(parse(data)) == list(parsed)


@given(
    st.dictionaries(
        st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1), st.integers(0, (1 << 64) - 1)
    )
)
def test_whatever_is_printed_is_parsed(values: dict[str, int]) -> None:
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    assert list(parse(text.encode()).items()) == list(values.items())


# --- items ----------------------------------------------------------------------------


def test_memory_stat_s_lines_are_the_items() -> None:
    found = parse_items(MEMORY_STAT, 2, b"zeta 1\nanon 2\nalpha 3\n")
    assert list(found.items()) == [("zeta", 1), ("anon", 2), ("alpha", 3)]


def test_v1_s_lines_have_other_names_and_the_catalogue_s_order() -> None:
    data = b"cache 1\nrss 2\ntotal_pgfault 5\ntotal_cache 3\ntotal_rss 4\n"
    assert list(parse_items(MEMORY_STAT, 1, data).items()) == [
        ("anon", 4),
        ("file", 3),
        ("pgfault", 5),
    ]
    for name in ("anon", "pgfault"):
        assert stat_key(name, 1) == CATALOGUE[name].v1
        assert stat_key(name, 2) == name
    assert (stat_key("tomorrow", 2), stat_key("slab", 1)) == ("tomorrow", "")


def test_values_are_picked_by_position_and_changed_lines_are_noticed() -> None:
    lines = StatLines(["file", "anon"], 2)
    assert lines.values(b"anon 1\nfile 2\npgfault 3\n") == [2, 1]
    assert lines.values(b"anon 4\nfile 5\npgfault 6\n") == [5, 4]
    assert lines.values(b"file 7\nnew 8\nanon 9\n") == [7, 9]
    with pytest.raises(StreamError, match=r"memory\.stat is not as expected: 'file'"):
        lines.values(b"anon 1\n")
    assert lines.values(b"file 7\nanon 8\n") == [7, 8]


def test_a_missing_line_has_the_value_for_absent_items() -> None:
    lines = StatLines(["file", "anon", "shmem"], 2, absent=77)
    for _ in range(2):
        assert lines.values(b"anon 1\nshmem 2\n") == [77, 1, 2]
    assert lines.values(b"") == [77, 77, 77]
    assert StatLines(["anon", "file_dirty", "kernel"], 1, absent=77).values(
        b"rss 1\ntotal_rss 2\ntotal_dirty 3\n"
    ) == [2, 3, 77]


@pytest.mark.parametrize("data", [b"anon", b"anon x", b"anon 1 file", b"anon 1\nfile -\n"])
@pytest.mark.parametrize("absent", [None, 77])
def test_a_value_that_is_not_a_number_is_an_error(data: bytes, absent: Optional[int]) -> None:
    with pytest.raises(StreamError, match=r"memory\.stat is not as expected"):
        StatLines(["anon", "file"], 2, absent).values(data)


@pytest.mark.parametrize(
    ("file", "version", "data", "value"),
    [
        (CURRENT, 2, b"12288\n", 12288),
        (CURRENT, 1, b"0\n", 0),
        ("memory.max", 2, b"max\n", UNLIMITED),
        ("memory.max", 2, b"4096\n", 4096),
        ("memory.max", 2, f"{V1_MAX}\n".encode(), V1_MAX),
        ("memory.max", 1, f"{V1_MAX}\n".encode(), UNLIMITED),
        ("memory.max", 1, f"{V1_MAX - mmap.PAGESIZE}\n".encode(), V1_MAX - mmap.PAGESIZE),
        ("memory.swap.high", 2, b"max\n", UNLIMITED),
        ("memory.memsw.limit_in_bytes", 1, f"{V1_MAX}\n".encode(), UNLIMITED),
        ("memory.memsw.usage_in_bytes", 1, b"8192\n", 8192),
        ("memory.failcnt", 1, b"7\n", 7),
    ],
)
def test_a_file_with_a_single_number_is_parsed(
    file: str, version: int, data: bytes, value: int
) -> None:
    assert parse_items(file, version, data) == {file: value}


def test_the_form_of_no_limit_is_documented() -> None:
    assert UNLIMITED == 2**63 - 1 == 9223372036854775807


def test_a_file_of_keys_is_parsed() -> None:
    assert parse_items("memory.events.local", 2, b"low 0\nhigh 7\n") == {
        "memory.events.local.low": 0,
        "memory.events.local.high": 7,
    }


def test_v1_s_oom_control_has_one_event_beside_its_settings() -> None:
    data = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
    assert parse_items("memory.events", 1, data) == {"memory.events.oom_kill": 3}
    assert parse_items("memory.events.local", 1, data) == {"memory.events.local.oom_kill": 3}
    for wrong in (b"oom_kill_disable 0\noom_kill\n", b"oom_kill many\n"):
        with pytest.raises(StreamError, match="is not as expected"):
            parse_items("memory.events", 1, wrong)


def test_a_file_of_nodes_is_parsed() -> None:
    found = parse_items("memory.numa_stat", 2, b"anon N0=4096 N1=0\nfile N0=1 N1=2\n")
    assert list(found.items()) == [
        ("memory.numa_stat.anon.N0", 4096),
        ("memory.numa_stat.anon.N1", 0),
        ("memory.numa_stat.file.N0", 1),
        ("memory.numa_stat.file.N1", 2),
    ]


def test_pressure_is_parsed() -> None:
    data = (
        b"some avg10=0.12 avg60=0.00 avg300=0.00 total=7742\n"
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=18\n"
    )
    assert parse_items("memory.pressure", 2, data) == {
        "memory.pressure.some.total": 7742,
        "memory.pressure.full.total": 18,
    }


@pytest.mark.parametrize(
    ("file", "data"),
    [
        (CURRENT, b""),
        (CURRENT, b"max memory\n"),
        (CURRENT, b"1\n2\n"),
        ("memory.events", b"low\n"),
        ("memory.events", b"low many\n"),
        ("memory.numa_stat", b"anon N0\n"),
        ("memory.numa_stat", b"anon N0=x\n"),
        ("memory.numa_stat", b"\n"),
        ("memory.pressure", b"some avg10=0.00\n"),
        ("memory.pressure", b"some avg10=0.00 total=x\n"),
        ("memory.pressure", b"\n"),
    ],
)
def test_the_error_names_the_file(file: str, data: bytes) -> None:
    with pytest.raises(StreamError, match=r"is not as expected"):
        parse_items(file, 2, data)


def test_v1_has_few_of_the_files() -> None:
    assert {file: name_of(file, 1) for file in FILES if name_of(file, 1)} == {
        MEMORY_STAT: MEMORY_STAT,
        CURRENT: "memory.usage_in_bytes",
        "memory.peak": "memory.max_usage_in_bytes",
        "memory.max": "memory.limit_in_bytes",
        "memory.events": "memory.oom_control",
        "memory.events.local": "memory.oom_control",
        **{file: file for file in OF_V1},
    }


def test_v2_has_all_files_but_those_of_v1() -> None:
    assert len(OF_V1) == 5
    assert [file for file in FILES if name_of(file, 2) != file] == OF_V1
    assert all(name_of(file, 2) is None for file in OF_V1)


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0, 1, 16384, 40000])
def test_a_file_of_any_length_is_read_as_a_whole(size: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * 256
    data = data[: _files._CHUNK + size]
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        assert _files.read_whole(file.fileno()) == data
