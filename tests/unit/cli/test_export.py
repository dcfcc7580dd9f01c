# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf export, on fake cgroup directories; promtool (Debian: prometheus) reads it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import pymemcgbpf
from pymemcgbpf import MemcgError
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import output_file
from pymemcgbpf._cli.main import main
from pymemcgbpf._items import CATALOGUE, item_named

from ...terminal import terminal
from .. import commands
from ..commands import TEXT, Captured, failed
from ..conftest import RunPython
from ..directories import make_v2

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


def without_own(text: str) -> str:
    """The metrics of cgroups alone."""
    return "".join(line for line in text.splitlines(True) if "pymemcgbpf_" not in line)


def own(text: str) -> dict[str, str]:
    """The program's own metrics: name and labels → number."""
    lines = [line for line in text.splitlines() if line.startswith("pymemcgbpf_")]
    return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}


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
        "of the subtree (v1: here alone)\n"
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


def test_promtool_accepts_the_output(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    text = printed(capsys, forest, "*")
    assert 'cgroup_memory_numa_stat_later{cgroup="/a.slice",node="0"} 7\n' in text
    assert promtool("check", "metrics", text=text) == ""
    check_openmetrics(printed(capsys, "--format", "openmetrics", forest, "*"), tmp_path)


def test_promtool_accepts_every_item(tmp_path: Path, capsys: Captured) -> None:
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


@pytest.mark.parametrize("form", FORMATS)
def test_a_cgroup_name_of_any_bytes_is_a_valid_label(
    form: str, forest: Path, tmp_path: Path, capsys: Captured
) -> None:
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


EVIL = "evil\x1b[2J\x07\x9b1m\x7f\rx"


def test_control_characters_are_printed_as_they_are(forest: Path, capsys: Captured) -> None:
    make_v2(forest / EVIL)
    assert f'cgroup_memory_anon_bytes{{cgroup="/{EVIL}"}} 4096\n' in printed(capsys, forest, "anon")


def test_a_terminal_gets_no_control_characters(
    forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_v2(forest / EVIL)
    monkeypatch.setenv("PYTHONPATH", str(Path(pymemcgbpf.__file__).resolve().parents[1]))
    arguments = (sys.executable, "-m", "pymemcgbpf", "export", *TEXT, str(forest), "anon")
    with terminal(arguments, tmp_path, columns=100) as run:
        assert run.wait() == (0, "")
        shown = r'cgroup_memory_anon_bytes{cgroup="/evil\x1b[2J\x07\x9b1m\x7f\rx"} 4096'
        assert shown in run.screen.shown, run.screen.shown


def test_the_output_is_utf_8_in_any_locale(forest: Path, run_python: RunPython) -> None:
    make_v2(forest / "ä")
    arguments = ("-m", "pymemcgbpf", "export", *TEXT, str(forest), "anon")
    ran = run_python(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    assert ran.returncode == 0 and '"/ä"' in ran.stdout


def test_the_label_is_the_path_from_the_hierarchys_root(forest: Path, capsys: Captured) -> None:
    (forest.parent / "link").symlink_to(forest / "a.slice")
    for path in (forest / "a.slice", forest.parent / "link", forest / "a.slice" / "b" / ".."):
        labels = re.findall('cgroup="(.*)"', printed(capsys, path, "anon"))
        assert labels == ["/a.slice", "/a.slice/b"]


@pytest.mark.parametrize(
    ("mounted", "labels"),
    [
        ("/", ["/a.slice", "/a.slice/b"]),
        ("/docker/x", ["/docker/x/a.slice", "/docker/x/a.slice/b"]),  # a bind mount
        ("/../..", ["/a.slice", "/a.slice/b"]),  # from outside of the cgroup namespace
    ],
)
def test_the_label_is_the_path_in_the_hierarchy_that_a_mount_shows(
    mounted: str,
    labels: list[str],
    forest: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = [(mounted, str(forest))]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(mounts))
    assert re.findall('cgroup="(.*)"', printed(capsys, forest / "a.slice", "anon")) == labels


def test_depth_limits_the_levels_exported(forest: Path, capsys: Captured) -> None:
    for depth, labels in (("0", ["/"]), ("1", ["/", "/a.slice"])):
        text = printed(capsys, forest, "anon", "--depth", depth)
        assert re.findall('cgroup="(.*)"', text) == labels


def labels_of(captured: Captured, forest: Path, *options: object) -> list[str]:
    return re.findall('cgroup="(.*)"', printed(captured, forest, "anon", *options))


def test_patterns_and_leaves_choose_the_cgroups_exported(forest: Path, capsys: Captured) -> None:
    make_v2(forest / "c.slice")
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        (("--match", "/a*"), ["/a.slice", "/a.slice/b"]),
        (("--match", "*/b", "--match", "/c*"), ["/a.slice/b", "/c.slice"]),
        (("--exclude", "/a.slice/*", "--exclude", "/"), ["/a.slice", "/c.slice"]),
        (("--match", "/*.slice", "--exclude", "/c*"), ["/a.slice"]),
        (("--leaves",), ["/a.slice/b", "/c.slice"]),
        (("--leaves", "--depth", "1"), ["/a.slice", "/c.slice"]),
    ]
    for options, labels in cases:
        assert labels_of(capsys, forest, *options) == labels
    assert main(["export", *TEXT, "--match", "none", str(forest), "anon"]) == 0
    out, err = capsys.readouterr()
    assert "cgroup=" not in out and err.startswith("pymemcgbpf: none of 4 cgroups is chosen: ")


# --- into a file ------------------------------------------------------------------------


def test_the_file_is_replaced_atomically(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "cgroups.prom"
    path.write_text("the old one\n")
    with path.open() as old:
        assert printed(capsys, "--output", path, forest, "anon") == ""
        assert old.read() == "the old one\n"
    assert without_own(path.read_text()) == printed(capsys, forest, "anon")
    assert os.listdir(folder) == ["cgroups.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_dash_means_standard_output(
    forest: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, "--output", "-", forest, "anon") == printed(capsys, forest, "anon")
    assert not os.path.lexists("-")


def write(path: Path, data: bytes = b"new") -> None:
    output_file.replace(str(path), data)


@pytest.mark.parametrize("target", ["file", "none", "folder", "link"])
def test_a_link_is_refused(target: str, tmp_path: Path, forest: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    before = sorted(tmp_path.rglob("*"))
    output = ("--output", str(tmp_path / "link"))
    said = failed(capsys, 1, "export", *TEXT, *output, str(forest), "anon")
    assert "link cannot be written: it is a symbolic link" in said
    assert (tmp_path / "file").read_text() == "secret"
    assert (tmp_path / "link").is_symlink() and sorted(tmp_path.rglob("*")) == before


def test_a_link_in_the_directory_part_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    write(tmp_path / "link" / "it.prom")
    assert (tmp_path / "folder" / "it.prom").read_text() == "new"


def test_a_path_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output_file.replace("it.prom", b"new")
    assert (tmp_path / "it.prom").read_text() == "new"


@pytest.mark.parametrize("kind", ["FIFO", "socket"])
def test_a_file_that_is_not_regular_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it.prom"
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(MemcgError, match="it is not a regular file"):
        write(path)
    assert os.listdir(tmp_path) == ["it.prom"] and not path.is_file()


def test_a_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("", ".", "..", "folder/", "folder/."):
        with pytest.raises(MemcgError, match="it is not a regular file"):
            output_file.replace(name, b"new")
        assert os.listdir(tmp_path) == ["folder"] and os.listdir("folder") == []


def test_other_names_of_the_old_file_keep_its_data(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("old")
    os.link(tmp_path / "other", tmp_path / "it.prom")
    write(tmp_path / "it.prom")
    assert (tmp_path / "other").read_text() == "old"
    assert (tmp_path / "it.prom").read_text() == "new"


def test_a_link_planted_during_the_write_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("folder", "elsewhere"):
        (tmp_path / name).mkdir()
    real_open = os.open

    def swap_then_open(path: str, *arguments: Any, **options: Any) -> int:
        if options.get("dir_fd") is not None:
            (tmp_path / "folder").rename(tmp_path / "moved")
            (tmp_path / "folder").symlink_to("elsewhere")
        return real_open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap_then_open)
        write(tmp_path / "folder" / "it.prom")
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "moved" / "it.prom").read_text() == "new"
    assert os.listdir(tmp_path / "moved") == ["it.prom"]


def test_a_link_planted_before_the_rename_is_replaced_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    real_replace = os.replace

    def plant_then_replace(*arguments: Any, **options: Any) -> None:
        (tmp_path / "it.prom").symlink_to("secret")
        real_replace(*arguments, **options)

    monkeypatch.setattr(os, "replace", plant_then_replace)
    write(tmp_path / "it.prom")
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "it.prom").is_symlink()


def test_the_temporary_file_is_new_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, opened = os.open, []

    def note(path: str, flags: int, mode: int = 0o777, **options: Any) -> int:
        if options.get("dir_fd") is not None:
            opened.append((path, flags, mode))
        return real_open(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", note)
    for _ in range(2):
        write(tmp_path / "it.prom")
    wanted = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    assert all(flags & wanted == wanted and mode == 0o600 for _, flags, mode in opened)
    first, second = (path for path, _, _ in opened)
    assert first != second and len(first) > 32


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


def test_the_old_file_s_owner_and_permissions_are_kept(
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


def test_setuid_setgid_and_sticky_bits_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "it.prom"
    path.touch()
    path.chmod(0o7751)
    write(path)
    assert path.stat().st_mode & 0o7777 == 0o751


def status(mode: int, owner: int, links: int = 1) -> os.stat_result:
    return os.stat_result((mode, 1, 1, links, owner, owner, 0, 0, 0, 0))


def test_which_old_file_another_user_may_have_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[tuple[int, int], int, int, bool]] = [
        ((0o1777, 0), 1000, 1, True),
        ((0o1777, 0), 0, 1, False),
        ((0o1777, 0), 77, 1, False),  # this user
        ((0o1777, 0), 77, 2, True),  # a hard link, which anybody may have made
        ((0o1775, 5), 1000, 1, True),
        ((0o1775, 5), 5, 1, False),  # the directory's owner may replace any file in it anyway
        ((0o1755, 0), 1000, 1, False),
        ((0o0777, 0), 1000, 1, False),  # where everybody may replace the new one, too
        ((0o0755, 0), 1000, 2, False),
    ]
    monkeypatch.setattr(os, "geteuid", lambda: 77)
    for directory, owner, links, planted in cases:
        found = output_file._may_be_planted(status(*directory), status(0o666, owner, links))
        assert found is planted


def test_a_planted_file_s_owner_and_permissions_are_not_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    path = tmp_path / "it.prom"
    path.touch()
    path.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        os.link(path, tmp_path / "other")
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
    assert found.st_mode & 0o7777 == 0o644


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_only_the_old_file(
    number: signal.Signals, forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "it.prom"
    path.write_text("the old one\n")
    monkeypatch.setattr(os, "replace", lambda *_, **__: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        commands.printed(
            None,  # type: ignore[arg-type]
            *("export", *TEXT, "--output", str(path), str(forest), "anon"),
        )
    assert caught.value.code == 128 + number
    assert os.listdir(folder) == ["it.prom"] and path.read_text() == "the old one\n"


def test_a_failed_write_leaves_only_the_old_file(
    forest: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.prom"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    said = failed(capsys, 1, "export", *TEXT, "--output", str(path), str(forest), "anon")
    assert "No space left" in said
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["root", "x.prom"]


def test_a_failed_read_leaves_the_old_file(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x.prom"
    path.write_text("old")
    output = ("--output", str(path))
    assert "no such cgroup" in failed(capsys, 1, "export", *output, str(tmp_path / "none"))
    assert "'annon'" in failed(capsys, 2, "export", *output, "annon")
    assert path.read_text() == "old"


def test_a_wrong_option_is_status_2(capsys: Captured) -> None:
    cases: list[tuple[str, ...]] = [("--format", "json"), ("--output",)]
    for arguments in cases:
        assert "--help" in failed(capsys, 2, "export", *arguments)


def test_an_empty_file_name_is_reported_as_such(capsys: Captured) -> None:
    said = "argument --output: the name of the file is empty (see --help)"
    assert failed(capsys, 2, "export", "--output", "") == f"pymemcgbpf: {said}\n"


# --- the program's own metrics ----------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_says_who_wrote_it_when_and_what(
    form: str, forest: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / 'a"b.prom'
    before = time.time()
    options = ("--format", form, "--output", path, "--exclude", "/a*")
    assert printed(capsys, *options, forest, "anon") == ""
    text = path.read_text()
    found = own(text)
    file = r'file="a\"b.prom"'
    assert before - 0.001 <= float(found.pop(f"pymemcgbpf_walk_timestamp_seconds{{{file}}}"))
    assert 0 < float(found.pop(f"pymemcgbpf_walk_duration_seconds{{{file}}}")) < 10
    assert found == {
        f'pymemcgbpf_build_info{{version="{pymemcgbpf.__version__}",{file}}}': "1",
        f'pymemcgbpf_backend_info{{backend="text",transport="text",{file}}}': "1",
        f"pymemcgbpf_cgroups{{{file}}}": "3",
        f"pymemcgbpf_cgroups_exported{{{file}}}": "1",
    }
    if form == "prometheus":
        assert promtool("check", "metrics", text=text) == ""
    else:
        check_openmetrics(text, tmp_path)
        assert text.count("# EOF") == 1 and text.endswith("\n# EOF\n")


# --- again and again --------------------------------------------------------------------


@pytest.fixture
def exporting(forest: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command with --every in a process of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: object) -> subprocess.Popen[str]:
        package = str(Path(pymemcgbpf.__file__).resolve().parents[1])
        words = ("--output", tmp_path / "it.prom", "--every", "0.05", *options, forest, "anon")
        ran = subprocess.Popen(
            [sys.executable, "-m", "pymemcgbpf", "export", *TEXT, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": package},
        )
        started.append(ran)
        return ran

    yield start
    for ran in started:
        ran.kill()
        ran.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def number(path: Path, name: str) -> float:
    if not path.exists():
        return 0
    return float(own(path.read_text())[f'pymemcgbpf_{name}{{file="it.prom"}}'])


@pytest.mark.parametrize("number_of_signal", [signal.SIGTERM, signal.SIGINT])
def test_the_file_is_replaced_at_the_interval_until_a_signal(
    number_of_signal: signal.Signals,
    forest: Path,
    tmp_path: Path,
    exporting: Callable[..., subprocess.Popen[str]],
) -> None:
    path = tmp_path / "it.prom"
    ran = exporting()
    wait_for(lambda: number(path, "walks_total") >= 3)
    (forest / "a.slice" / "memory.stat").write_text("anon 8192\n")
    wait_for(lambda: 'cgroup="/a.slice"} 8192\n' in path.read_text())
    assert number(path, "walk_errors_total") == 0
    ran.send_signal(number_of_signal)
    assert (*ran.communicate(timeout=30), ran.returncode) == ("", "", 0)
    assert sorted(os.listdir(tmp_path)) == ["it.prom", "root"]


def test_a_walk_that_fails_is_reported_once_and_leaves_the_file_alone(
    forest: Path, tmp_path: Path, exporting: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "it.prom"
    ran = exporting()
    wait_for(lambda: number(path, "walks_total") >= 1)
    shutil.copytree(forest, tmp_path / "again")
    shutil.rmtree(forest)
    wait_for(lambda: path.stat().st_mtime < time.time() - 0.5)
    old = path.read_text()
    assert number(path, "walk_errors_total") == 0
    (tmp_path / "again").rename(forest)
    wait_for(lambda: number(path, "walk_errors_total") >= 3)
    assert number(path, "walks_total") > number(path, "walk_errors_total")
    again = without_own(path.read_text())
    assert sorted(again.splitlines()) == sorted(without_own(old).splitlines())
    ran.terminate()
    out, err = ran.communicate(timeout=30)
    assert (out, ran.returncode, err.count("\n")) == ("", 0, 2), err
    first, second = err.splitlines()
    assert "root" in first and first.endswith("(this is tried again)")
    assert second == "pymemcgbpf: all is well again"


def test_a_file_that_cannot_be_written_for_a_while_is_written_later(
    tmp_path: Path, exporting: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    ran = exporting("--output", folder / "it.prom")
    wait_for((folder / "it.prom").exists)
    folder.rename(tmp_path / "away")
    time.sleep(0.3)
    (tmp_path / "away").rename(folder)
    old = (folder / "it.prom").read_text()
    wait_for(lambda: (folder / "it.prom").read_text() != old)
    ran.terminate()
    _, err = ran.communicate(timeout=30)
    assert "it.prom cannot be written: No such file" in err and err.count("\n") == 2


def test_the_first_walk_has_to_work(tmp_path: Path, capsys: Captured) -> None:
    output = ("--every", "1", "--output", str(tmp_path / "it.prom"))
    assert "no such cgroup" in failed(capsys, 1, "export", *output, str(tmp_path / "none"))
    assert "'annon'" in failed(capsys, 2, "export", *output, "annon")
    assert os.listdir(tmp_path) == []


def test_without_a_file_there_is_no_interval(forest: Path, capsys: Captured) -> None:
    for more in ((), ("--output", "-")):
        said = failed(capsys, 2, "export", "--every", "1", *more, str(forest))
        assert "--every needs --output FILE (see --help)" in said
    for seconds in ("0", "-1", "nan", "x"):
        said = failed(capsys, 2, "export", "--output", "x", "--every", seconds, str(forest))
        assert "is not a number of seconds" in said
