# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""python3 -m pymemcgbpf tree, on fake cgroup directories."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli.main import main
from pymemcgbpf._cli.units import columns
from pymemcgbpf._sources import choose as _choose

from .. import commands
from ..commands import TEXT, Captured, RefuseBpf, failed
from ..conftest import RunPython
from ..directories import make_v2


def stat(anon: int) -> str:
    return f"anon {anon}\nfile 0\npgfault {anon // 1024}\n"


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """A hierarchy of six cgroups, one of them without the memory controller."""
    root = make_v2(tmp_path / "root", stat=stat(1 << 30), current=None, kind=None)
    make_v2(root / "b", stat=stat(3 << 20))
    make_v2(root / "b" / "x", stat=stat(1 << 20))
    make_v2(root / "b" / "y", stat=stat(2 << 20))
    make_v2(root / "a", stat=stat(1 << 20))
    make_v2(root / "off", stat=None, current=None)
    return root


def printed(captured: Captured, *arguments: str) -> str:
    return commands.printed(captured, "tree", *TEXT, *arguments)


def refused(captured: Captured, status: int, *arguments: str) -> str:
    return failed(captured, status, "tree", *TEXT, *arguments)


def names(text: str) -> list[str]:
    """The first column of a table, without its header."""
    return [re.split(r"  +(?=[\d-])", line)[0] for line in text.splitlines()[1:]]


def test_the_tree_is_drawn_and_aligned(forest: Path, capsys: Captured) -> None:
    text = printed(capsys, str(forest), "anon", "pgfault", "memory.current")
    width = len(str(forest))
    assert [(line[:width].rstrip(), line[width:]) for line in text.splitlines()] == [
        ("", "     anon    pgfault  memory.current"),
        (str(forest), "  1.0 GiB  1,048,576           -"),
        ("├─ a", "  1.0 MiB      1,024        12.0 KiB"),
        ("└─ b", "  3.0 MiB      3,072        12.0 KiB"),
        ("   ├─ x", "  1.0 MiB      1,024        12.0 KiB"),
        ("   └─ y", "  2.0 MiB      2,048        12.0 KiB"),
    ]


def test_siblings_are_sorted_on_request(forest: Path, capsys: Captured) -> None:
    text = printed(capsys, str(forest), "anon", "--sort", "anon")
    assert names(text)[1:] == ["├─ b", "│  ├─ y", "│  └─ x", "└─ a"]


def test_the_item_to_sort_by_is_shown(forest: Path, capsys: Captured) -> None:
    text = printed(capsys, str(forest), "anon", "--sort", "pgfault")
    assert text.split()[:2] == ["anon", "pgfault"]


def test_a_cgroup_without_the_item_is_sorted_last(forest: Path, capsys: Captured) -> None:
    (forest / "a" / "memory.stat").write_text("file 1\n")
    (forest / "b" / "memory.stat").write_text("anon 0\n")
    text = printed(capsys, str(forest), "anon", "--sort", "anon", "--depth", "1")
    assert names(text)[1:] == ["├─ b", "└─ a"]
    assert text.splitlines()[-1].split()[-1] == "-"


def test_depth_limits_the_levels_shown(forest: Path, capsys: Captured) -> None:
    cases: list[tuple[str, int]] = [("0", 1), ("1", 3), ("2", 5), ("99", 5)]
    for depth, count in cases:
        assert len(names(printed(capsys, str(forest), "--depth", depth))) == count


def test_json_is_exact(forest: Path, capsys: Captured) -> None:
    shown = json.loads(printed(capsys, str(forest), "--json", "anon", "memory.current"))
    below = [str(forest / name) for name in ("a", "b", "b/x", "b/y")]
    assert [one["path"] for one in shown] == [str(forest), *below]
    assert shown[0]["items"] == {"anon": 1 << 30}
    assert shown[4] == {
        "path": str(forest / "b" / "y"),
        "id": (forest / "b" / "y").stat().st_ino,
        "parent_id": (forest / "b").stat().st_ino,
        "level": 2,
        "items": {"anon": 2 << 20, "memory.current": 12288},
    }


def test_default_is_the_topmost_cgroup(
    forest: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(forest / "b" / "x"))
    shown = json.loads(printed(capsys, "--json"))
    assert shown[0]["path"] == str(forest)
    assert list(shown[1]["items"]) == ["memory.current", "anon", "file"]


def test_a_name_of_any_bytes_is_printable(forest: Path, capsys: Captured) -> None:
    os.mkdir(os.fsencode(forest) + b"/a/\xff\n\x1b[31m")
    make_v2(forest / "a" / os.fsdecode(b"\xff\n\x1b[31m"))
    text = printed(capsys, str(forest), "anon")
    assert "\\xff\\n\\x1b[31m" in text and "\x1b" not in text
    # No surrogates in JSON: most other languages' readers refuse them.
    path = json.loads(printed(capsys, "--json", str(forest / "a")))[1]["path"]
    assert path == f"{forest}/a///xff\n\x1b[31m"


def test_wide_letters_take_two_columns(forest: Path, capsys: Captured) -> None:
    make_v2(forest / "日本語")
    lines = printed(capsys, str(forest), "anon").splitlines()
    assert len({columns(line) for line in lines if line.endswith("B")}) == 1


def test_the_tree_can_be_drawn_in_ascii(forest: Path, run_python: RunPython) -> None:
    make_v2(forest / "ä")
    arguments = ("tree", "--backend", "text", str(forest), "anon")
    ran = run_python("-m", "pymemcgbpf", *arguments, PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert names(ran.stdout)[1:] == ["|- a", "|- b", "|  |- x", "|  `- y", "`- \\xe4"]


def test_a_wrong_option_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [
        ("--depth", "-1"),
        ("--depth", "x"),
        ("--sort",),
        ("--sort", "memory.*"),
        ("--nonsense",),
    ]
    for arguments in cases:
        assert "--help" in refused(capsys, 2, *arguments)


def test_an_unknown_item_is_status_2(forest: Path, capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [("annon",), ("--sort", "annon")]
    for extra in cases:
        assert "'anon'" in refused(capsys, 2, str(forest), *extra)


def test_what_cannot_be_read_is_status_1(tmp_path: Path, capsys: Captured) -> None:
    assert "no such cgroup" in refused(capsys, 1, str(tmp_path / "none"))
    assert "not a cgroup" in refused(capsys, 1, str(tmp_path)).replace("but not", "not")


def test_a_fallback_to_text_prints_its_reason(
    forest: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_choose, "BPF_OPENER", RefuseBpf())
    assert main(["tree", str(forest)]) == 0
    out, err = capsys.readouterr()
    assert len(names(out)) == 5
    assert "lacks CAP_BPF" in err and err.count("\n") == 1


def test_top_lists_the_largest_cgroups_with_their_paths(forest: Path, capsys: Captured) -> None:
    text = printed(capsys, str(forest), "--top", "4", "anon")
    assert names(text) == [str(forest), "b", "b/y", "a"]
    text = printed(capsys, str(forest), "--top", "99", "--sort", "pgfault")
    assert text.split()[:4] == ["memory.current", "anon", "file", "pgfault"]
    assert names(text) == [str(forest), "b", "b/y", "a", "b/x"]
    shown = json.loads(printed(capsys, str(forest), "--top", "2", "--json", "anon"))
    assert [one["path"] for one in shown] == [str(forest), str(forest / "b")]


def test_top_sorts_by_the_first_item_and_puts_those_without_it_last(
    forest: Path, capsys: Captured
) -> None:
    (forest / "b" / "x" / "memory.current").write_text("12289\n")
    for words in ((), ("memory.current", "anon")):
        text = printed(capsys, str(forest), "--top", "5", *words)
        assert names(text) == ["b/x", "a", "b", "b/y", str(forest)]  # equal ones by path


def test_top_of_a_part_of_the_levels(forest: Path, capsys: Captured) -> None:
    text = printed(capsys, str(forest), "--top", "5", "--depth", "1", "anon")
    assert names(text) == [str(forest), "b", "a"]
    for number in ("0", "-1", "x"):
        assert "is not a number of cgroups" in refused(capsys, 2, str(forest), "--top", number)


def test_bytes_are_plain_numbers(forest: Path, capsys: Captured) -> None:
    (forest / "a" / "memory.max").write_text("max\n")
    (forest / "b" / "memory.max").write_text("1048576\n")
    words = ("--bytes", "--depth", "1", "anon", "pgfault", "memory.max")
    lines = printed(capsys, str(forest), *words).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [
        [f"{1 << 30}", f"{1 << 20}", "-"],
        [f"{1 << 20}", "1024", "max"],
        [f"{3 << 20}", "3072", "1048576"],
    ]
