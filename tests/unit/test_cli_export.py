# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf export, on fake cgroup directories; promtool (Debian: prometheus) reads it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from pymemcgbpf import UNLIMITED, Snapshot
from pymemcgbpf._catalogue import CATALOGUE, item_named
from pymemcgbpf._cli import export

from . import commands
from .commands import TEXT, Captured, failed
from .conftest import RunPython
from .directories import make_v2

FORMATS = ("prometheus", "openmetrics")


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """Three cgroups with every kind of file; the root has memory.stat alone."""
    root = make_v2(tmp_path / "root", kind=None, current=None)
    (root / "memory.numa_stat").write_text("anon N0=4096 N1=0\nlater N0=7\n")
    for path in (root / "a.slice", root / "a.slice" / "b"):
        make_v2(path, stat="anon 4096\npgfault 3\npgtomorrow 5\n")
        (path / "memory.max").write_text("max\n")
        (path / "memory.events").write_text("low 0\noom_kill 2\n")
        (path / "memory.numa_stat").write_text("anon N0=4096 N1=0\nlater N0=7\n")
        (path / "memory.pressure").write_text(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\n"
        )
    return root


def printed(captured: Captured, *arguments: object) -> str:
    return commands.printed(captured, "export", *TEXT, *map(str, arguments))


def promtool(*arguments: str, text: str = "") -> str:
    """What promtool has to say; it has to be content."""
    ran = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def check_openmetrics(text: str, folder: Path) -> None:
    """Has Prometheus' own OpenMetrics parser read it, which wants times to make blocks of it."""
    path = folder / "metrics.om"
    path.write_text(re.sub(r"^([^#].*)$", r"\1 1700000000", text, flags=re.MULTILINE))
    said = promtool("tsdb", "create-blocks-from", "openmetrics", str(path), str(folder / "blocks"))
    assert said.count("\n") == 2, said  # a header and one block


def test_the_prometheus_text(forest: Path, capsys: Captured) -> None:
    assert printed(capsys, forest, "anon", "memory.max", "memory.events.oom_kill") == (
        "# HELP cgroup_memory_anon_bytes anonymous memory in use\n"
        "# TYPE cgroup_memory_anon_bytes gauge\n"
        'cgroup_memory_anon_bytes{cgroup="/"} 4096\n'
        'cgroup_memory_anon_bytes{cgroup="/a.slice"} 4096\n'
        'cgroup_memory_anon_bytes{cgroup="/a.slice/b"} 4096\n'
        "# HELP cgroup_memory_max_bytes the hard limit\n"
        "# TYPE cgroup_memory_max_bytes gauge\n"
        'cgroup_memory_max_bytes{cgroup="/a.slice"} +Inf\n'
        'cgroup_memory_max_bytes{cgroup="/a.slice/b"} +Inf\n'
        "# HELP cgroup_memory_events_oom_kill_total processes killed by any OOM killer, "
        "of the subtree\n"
        "# TYPE cgroup_memory_events_oom_kill_total counter\n"
        'cgroup_memory_events_oom_kill_total{cgroup="/a.slice"} 2\n'
        'cgroup_memory_events_oom_kill_total{cgroup="/a.slice/b"} 2\n'
    )


def test_openmetrics(forest: Path, capsys: Captured) -> None:
    items = ("memory.pressure.some.total", "memory.numa_stat.anon.*", "pgtomorrow")
    shown = printed(capsys, "--format", "openmetrics", forest / "a.slice" / "b", *items)
    cgroup = 'cgroup="/a.slice/b"'
    assert shown == (
        "# HELP cgroup_memory_pressure_some_seconds time in which some tasks waited for memory\n"
        "# TYPE cgroup_memory_pressure_some_seconds counter\n"
        "# UNIT cgroup_memory_pressure_some_seconds seconds\n"
        f"cgroup_memory_pressure_some_seconds_total{{{cgroup}}} 1.234567\n"
        "# HELP cgroup_memory_numa_stat_anon_bytes anonymous memory in use, on a NUMA node\n"
        "# TYPE cgroup_memory_numa_stat_anon_bytes gauge\n"
        "# UNIT cgroup_memory_numa_stat_anon_bytes bytes\n"
        f'cgroup_memory_numa_stat_anon_bytes{{{cgroup},node="0"}} 4096\n'
        f'cgroup_memory_numa_stat_anon_bytes{{{cgroup},node="1"}} 0\n'
        "# HELP cgroup_memory_pgtomorrow not known to this version\n"
        "# TYPE cgroup_memory_pgtomorrow unknown\n"
        f"cgroup_memory_pgtomorrow{{{cgroup}}} 5\n"
        "# EOF\n"
    )


def test_promtool_is_content(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    text = printed(capsys, forest, "*")
    assert 'cgroup_memory_numa_stat_later{cgroup="/a.slice",node="0"} 7\n' in text
    assert promtool("check", "metrics", text=text) == ""
    check_openmetrics(printed(capsys, "--format", "openmetrics", forest, "*"), tmp_path)


def test_promtool_is_content_with_every_name(tmp_path: Path, capsys: Captured) -> None:
    path = make_v2(tmp_path / "root", stat="".join(f"{name} 1\n" for name in _of("memory.stat")))
    for file in ("memory.events", "memory.events.local", "memory.swap.events"):
        keys = (name[len(file) + 1 :] for name in _of(file))
        (path / file).write_text("".join(f"{key} 1\n" for key in keys))
    numa = (name for name in _of("memory.stat") if item_named(f"memory.numa_stat.{name}.N0"))
    (path / "memory.numa_stat").write_text("".join(f"{name} N0=1\n" for name in numa))
    (path / "memory.pressure").write_text("some total=1\nfull total=1\n")
    for item in CATALOGUE.values():
        if item.name == item.file:
            (path / item.file).write_text("1\n")
    text = printed(capsys, path, "*")
    assert promtool("check", "metrics", text=text) == ""
    assert text.count("\n# TYPE ") + 1 > 150
    check_openmetrics(printed(capsys, "--format", "openmetrics", path, "*"), tmp_path)


def _of(file: str) -> list[str]:
    return [item.name for item in CATALOGUE.values() if item.file == file]


def test_no_two_items_have_one_name() -> None:
    families = [export._metric(name).family for name in CATALOGUE]
    families += {
        export._metric(f"memory.numa_stat.{name}.N{node}").family
        for name in _of("memory.stat")
        for node in (0, 12)
    }
    assert len(set(families)) == len(families)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"),
        ((1 << 64) - 2, "", str((1 << 64) - 2)),
        (UNLIMITED, "bytes", "+Inf"),
        (UNLIMITED, "", str(UNLIMITED)),
        (UNLIMITED - 1, "bytes", str(UNLIMITED - 1)),
        (0, "seconds", "0.000000"),
        (1, "seconds", "0.000001"),
        (12_345_678_901, "seconds", "12345.678901"),
    ],
)
def test_values(value: int, unit: str, text: str) -> None:
    assert export._number(value, unit) == text


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_of_any_bytes(form: str, forest: Path, tmp_path: Path, capsys: Captured) -> None:
    for name in (b'"q"\\', b"\xff\n", b"\\xff\n", "ä{} 1".encode()):
        os.mkdir(os.fsencode(forest) + b"/" + name)
        make_v2(forest / os.fsdecode(name))
    text = printed(capsys, "--format", form, forest, "anon")
    for label in (r"/\"q\"\\", r"///xff\n", r"/\\xff\n", "/ä{} 1"):
        assert text.count(f'{{cgroup="{label}"}} 4096\n') == 1
    if form == "prometheus":
        assert promtool("check", "metrics", text=text) == ""
    else:
        check_openmetrics(text, tmp_path)


def test_what_is_printed_is_utf_8_anywhere(forest: Path, run_python: RunPython) -> None:
    make_v2(forest / "ä")
    arguments = ("-m", "pymemcgbpf", "export", *TEXT, str(forest), "anon")
    ran = run_python(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    assert ran.returncode == 0 and '"/ä"' in ran.stdout


def test_the_label_is_the_path_from_the_hierarchys_root(forest: Path, capsys: Captured) -> None:
    (forest.parent / "link").symlink_to(forest / "a.slice")
    for path in (forest / "a.slice", forest.parent / "link", forest / "a.slice" / "b" / ".."):
        labels = re.findall('cgroup="(.*)"', printed(capsys, path, "anon"))
        assert labels == ["/a.slice", "/a.slice/b"]


def test_a_cgroup_that_is_removed_meanwhile_is_left_out(
    forest: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = export._labels

    def remove_and_go_on(snapshot: Snapshot, path: str) -> object:
        os.rename(forest / "a.slice" / "b", forest.parent / "gone")
        return labels(snapshot, path)

    monkeypatch.setattr(export, "_labels", remove_and_go_on)
    assert re.findall('cgroup="(.*)"', printed(capsys, forest, "anon")) == ["/", "/a.slice"]


# --- into a file ------------------------------------------------------------------------


def test_the_file_is_replaced_at_once(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "cgroups.prom"
    path.write_text("the old one\n")
    with path.open() as old:
        assert printed(capsys, "--output", path, forest, "anon") == ""
        assert old.read() == "the old one\n"
    assert path.read_text() == printed(capsys, forest, "anon")
    assert os.listdir(folder) == ["cgroups.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_dash_is_no_file(
    forest: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, "--output", "-", forest, "anon") == printed(capsys, forest, "anon")
    assert not os.path.lexists("-")


def test_a_link_is_followed(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    printed(capsys, "--output", tmp_path / "link", forest, "anon")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").is_file()


@pytest.mark.parametrize("name", ["none/x.prom", "folder", "/dev/full", "/dev/null/x"])
def test_a_file_that_cannot_be_written(
    name: str, forest: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    said = failed(capsys, 1, "export", *TEXT, "--output", str(path), str(forest), "anon")
    assert f"{path} cannot be written: " in said
    assert os.listdir(tmp_path / "folder") == []
    assert path.is_dir() or not path.is_file()


def test_the_old_one_s_owner_and_permissions_stay(
    forest: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("x" * 250 + ".prom")
    path.touch()
    path.chmod(0o640)
    owner = (65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    printed(capsys, "--output", path, forest, "anon")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (*owner, 0o640)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)  # as for any user but root
    printed(capsys, "--output", path, forest, "anon")
    assert path.stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_old_one_and_no_other(
    number: signal.Signals, forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "it.prom"
    path.write_text("the old one\n")
    monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        commands.printed(
            None,  # type: ignore[arg-type]
            *("export", *TEXT, "--output", str(path), str(forest), "anon"),
        )
    assert caught.value.code == 128 + number
    assert os.listdir(folder) == ["it.prom"] and path.read_text() == "the old one\n"


def test_a_failure_while_it_is_written_leaves_the_old_one(
    forest: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.prom"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    said = failed(capsys, 1, "export", *TEXT, "--output", str(path), str(forest), "anon")
    assert "No space left" in said
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["root", "x.prom"]


def test_what_cannot_be_read_leaves_the_old_one(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x.prom"
    path.write_text("old")
    output = ("--output", str(path))
    assert "no such cgroup" in failed(capsys, 1, "export", *output, str(tmp_path / "none"))
    assert "'annon'" in failed(capsys, 2, "export", *output, "annon")
    assert path.read_text() == "old"


@pytest.mark.parametrize("arguments", [("--format", "json"), ("--output",)])
def test_a_wrong_option_is_status_2(arguments: tuple[str, ...], capsys: Captured) -> None:
    assert "--help" in failed(capsys, 2, "export", *arguments)
