# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf pins, on directories that look like a bpffs."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import pins
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins import find, map_ids

from ...published_tree import PublishedTree
from ..commands import Captured, failed, printed
from ..pin_files import ROW, TREE, TREE_NAMES, pinned_file, pinned_tree, stream
from ..tree_rows import pack

pytestmark = pytest.mark.usefixtures("on_bpffs")


@pytest.fixture
def timers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The maps of the kernel, by id: each with its name, or the path where it is pinned."""
    maps: dict[int, str] = {5: "other"}

    def kernel_maps() -> Iterator[map_ids.MapName]:
        for number, name in maps.items():
            yield map_ids.MapName(number, pins.TIMER_MAP if "/" in name else name)

    def map_at(path: str) -> map_ids.MapName:
        for number, name in maps.items():
            if name == path:
                return map_ids.MapName(number, pins.TIMER_MAP)
        raise FileNotFoundError(errno.ENOENT, "none", path)

    monkeypatch.setattr(map_ids, "kernel_maps", kernel_maps)
    monkeypatch.setattr(map_ids, "map_at", map_at)
    monkeypatch.setattr(find, "bpffs_mounts", lambda: [str(tmp_path)])
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: None)
    return maps


def add_tree(path: Path, seconds_ago: float = 0) -> None:
    tree = PublishedTree(flags=3)
    began = time.monotonic_ns() - round(seconds_ago * 1e9)
    tree.publish(pack(*TREE), TREE_NAMES, started_ns=began)
    tree.set("walks", 1)
    tree.set("walks_ns", 2_500_000)
    pinned_file(pinned_tree(path, tree) / "timer", b"")


@pytest.mark.usefixtures("timers")
def test_pins_are_listed_in_a_table(tmp_path: Path, capsys: Captured) -> None:
    add_tree(tmp_path / "all")
    pinned_file(tmp_path / "one", stream([ROW]))
    head, tree, one = (line.split("  ") for line in printed(capsys, "pins").splitlines())
    heads, tree, one = ([cell.strip() for cell in line if cell] for line in (head, tree, one))
    assert heads == [
        *("pin", "cgroup", "kind", "items", "refreshed by", "every", "age"),
        *("last walk", "CPU", "cgroups", "memory", "state"),
    ]
    assert tree[:6] == [
        *(str(tmp_path / "all"), "/sys/fs/cgroup/root", "tree", "2", "kernel", "1 s"),
    ]
    assert tree[7:10] == ["0.00 ms", "0.25 %", "4"]
    assert tree[10].endswith("KiB") and tree[11] == "alive"
    assert one[:7] == [str(tmp_path / "one"), "id 9", "one cgroup", "2", "each read", "-", "0.0 s"]
    assert one[7].endswith(" ms") and one[8:] == ["-", "1", "-", "alive"]


@pytest.mark.usefixtures("timers")
def test_json_has_everything(tmp_path: Path, capsys: Captured) -> None:
    add_tree(tmp_path / "all")
    (pin,) = json.loads(printed(capsys, "pins", "--json"))
    assert pin.pop("age") < 60
    assert pin.pop("memory") > 10_000
    assert pin == {
        "path": str(tmp_path / "all"),
        "kind": "tree",
        "order": "pre",
        "root_id": 10,
        "cgroup": "/sys/fs/cgroup/root",
        "refreshed_by": "kernel",
        "interval": 1.0,
        "duration": 1e-6,
        "share": 0.0025,
        "cgroups": 4,
        "state": "alive",
        "advice": "",
        "items": ["anon", "pgscan"],
    }


@pytest.mark.usefixtures("timers")
def test_a_name_of_any_bytes_is_printable(tmp_path: Path, capsys: Captured) -> None:
    pinned_file(tmp_path / os.fsdecode(b"\xff\x1b"), stream([ROW]))
    assert "/\\xff\\x1b " in printed(capsys, "pins")
    (pin,) = json.loads(printed(capsys, "pins", "--json"))
    assert pin["path"].endswith("///xff\x1b")


@pytest.mark.usefixtures("timers")
def test_what_needs_attention_is_said_with_what_to_do(tmp_path: Path, capsys: Captured) -> None:
    add_tree(tmp_path / "old", 100)
    add_tree(tmp_path / "part")
    (tmp_path / "part" / "timer").unlink()
    assert main(["pins", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()] == ["state", "stale", "incomplete"]
    stale, incomplete = err.splitlines()
    assert f"{tmp_path}/old: stale: " in stale and "unpin it" in stale
    assert f"{tmp_path}/part: incomplete: " in incomplete and "unpin it" in incomplete
    assert printed(capsys, "pins", "--json", str(tmp_path)) != "[]\n"


@pytest.mark.usefixtures("timers")
def test_no_pin_is_no_failure(capsys: Captured) -> None:
    assert main(["pins"]) == 0
    assert capsys.readouterr() == ("", "pymemcgbpf: there is no pin here\n")
    assert printed(capsys, "pins", "--json") == "[]\n"


def test_trees_that_are_not_in_the_list_are_counted(
    timers: dict[int, str], tmp_path: Path, capsys: Captured
) -> None:
    add_tree(tmp_path / "all")
    timers[7] = str(tmp_path / "all" / "timer")
    assert printed(capsys, "pins").count("\n") == 2
    timers.update({8: "/elsewhere/timer", 12: "/nowhere/timer"})
    assert main(["pins"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert "refreshes 2 more trees, by the maps with the id 8, 12: pinned in a bpffs" in err
    assert main(["pins", "--json"]) == 0
    assert "8, 12" in capsys.readouterr().err
    assert printed(capsys, "pins", str(tmp_path)).count("\n") == 2  # only of all, it can be said


def test_a_kernel_that_does_not_answer_is_not_asked_again(
    timers: dict[int, str], tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tree(tmp_path / "all")
    refusals: list[OSError] = [
        PermissionError(errno.EPERM, "no"),
        OSError(errno.ENOSYS, "no number"),
    ]
    for refusal in refusals:

        def refuse(error: OSError = refusal) -> None:
            raise error

        monkeypatch.setattr(map_ids, "kernel_maps", refuse)
        assert printed(capsys, "pins").count("\n") == 2
        assert refusal.strerror and refusal.strerror in pins.kernel_timers([]).unknown

    def short() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(map_ids, "kernel_maps", short)
    with pytest.raises(MemcgError):
        pins.kernel_timers([])
    monkeypatch.delattr("pymemcgbpf._pins.map_ids")
    monkeypatch.setitem(sys.modules, "pymemcgbpf._pins.map_ids", None)
    assert "ctypes" in pins.kernel_timers([]).unknown


@pytest.mark.usefixtures("timers")
def test_what_may_not_be_read_is_counted(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "list_pins", lambda _: find.FoundPins([], 3))
    assert main(["pins"]) == 0
    assert "may not read 3 of the files and directories" in capsys.readouterr().err


def test_a_directory_elsewhere_is_refused(tmp_path: Path, capsys: Captured) -> None:
    assert "not on a bpffs" in failed(capsys, 1, "pins", str(tmp_path.parent))
    assert "no pin at" in failed(capsys, 1, "pins", str(tmp_path / "none"))


def test_numbers_for_people() -> None:
    assert [pins.duration(each) for each in (0.00012, 0.5, 2.25)] == [
        "0.12 ms",
        "500.00 ms",
        "2.2 s",
    ]
    assert [pins.percentage(each) for each in (0.00012, 0.0512, 0.25, 1.5)] == [
        *("0.01 %", "5.12 %", "25 %", "150 %"),
    ]
