# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pymemcgbpf import own_cgroup

from .cgroups import EXACT_MIB, Worker, cgroup, enable_memory, fault_in
from .forest import settle
from .oracle import NO_LIMIT, by_text, everything
from .surroundings import BEST_BACKEND, HAS_ITERATOR, HAS_RFC, HIERARCHY, VERSION, symbols
from .ways import BEST_STAT_WAY, BEST_TREE_WAY, TEXT


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pymemcgbpf", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_stat_as_json_equals_memory_stat(busy: tuple[Path, Worker], backend: str) -> None:
    path, _ = busy
    names = ["pgfault", "shmem", "file_mapped"]  # not anon: khugepaged makes it grow
    run = command("--json", "--backend", backend, path, *names)
    assert (run.returncode, run.stderr) == (0, "")
    expected = by_text(path)
    assert json.loads(run.stdout) == {name: expected[name] for name in names}


def test_the_default_path_is_the_callers_own_cgroup() -> None:
    run = command()
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("anon ")
    assert len(lines) >= (45 if VERSION == 1 else len(by_text(Path(own_cgroup()))))
    assert len({len(line.rsplit(" ", 1)[0]) for line in lines if line.endswith("iB")}) == 1


def test_errors_are_one_line_and_a_status() -> None:
    for arguments, status in (
        (["/no/such/path"], 1),
        ([HIERARCHY / "memory.stat"], 1),
        ([HIERARCHY, "no_such_item"], 2),
        ([HIERARCHY, "memory.current"], 2),
        *(() if HAS_RFC else [(["--backend", "rfc", HIERARCHY], 1)]),
        (["--backend", "nonsense"], 2),
        (["--nonsense"], 2),
    ):
        run = command(*arguments)
        assert (run.returncode, run.stdout) == (status, ""), arguments
        assert len(run.stderr.splitlines()) == 1, run.stderr
        assert run.stderr.startswith("pymemcgbpf: "), run.stderr


def test_the_console_script_is_the_same_program() -> None:
    scripts = metadata.distribution("pymemcgbpf").entry_points
    (script,) = (one for one in scripts if one.group == "console_scripts")
    assert (script.name, script.value) == ("pymemcgbpf", "pymemcgbpf._cli.main:main")
    code = "import sys; from pymemcgbpf._cli.main import main; sys.exit(main())"
    ran = [
        subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True)
        for start in (("-m", "pymemcgbpf"), ("-c", code))
    ]
    assert ran[0].stdout == ran[1].stdout and ran[0].stdout.startswith("usage: pymemcgbpf ")


def printed(*arguments: object) -> str:
    run = command(*arguments)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


def test_watch_equals_memory_stat(busy: tuple[Path, Worker], backend: str) -> None:
    path, _ = busy
    names = ["pgfault", "shmem", "file_mapped"]
    options = ("--interval", "0.05", "--count", "3", "--backend", backend)
    header, *rows = csv.reader(printed("watch", *options, path, *names).splitlines())
    expected = by_text(path)
    assert header == ["time", *names]
    assert [row[1:] for row in rows] == [[str(expected[name]) for name in names]] * 3
    lines = printed("watch", "--json", *options, path, *names).splitlines()
    values = {name: expected[name] for name in names}
    assert [json.loads(line)["items"] for line in lines] == [values] * 3


def test_watch_of_several_goes_on_without_those_that_are_removed() -> None:
    with cgroup() as root:
        enable_memory(root)
        (root / "a").mkdir()
        (root / "b").mkdir()
        words = ("watch", "--interval", "0.02", root / "a", root / "b", root, "anon")
        with subprocess.Popen(
            [sys.executable, "-m", "pymemcgbpf", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "time,path,anon\n"
            for name in ("b", "a"):
                (root / name).rmdir()
                said = process.stderr.readline()
                assert said.startswith("pymemcgbpf: ") and str(root / name) in said
            for _ in range(2):
                while process.stdout.readline().split(",")[1] != str(root):
                    pass
            process.terminate()
        assert process.returncode == -signal.SIGTERM


def test_export_has_the_numbers_of_every_cgroup(tree_backend: str) -> None:
    with cgroup() as root:
        enable_memory(root)
        below = root / 'b"\\'
        below.mkdir()
        with Worker(below, lambda: fault_in(EXACT_MIB, shared=True)):
            settle({root: EXACT_MIB, below: EXACT_MIB})
            text = printed("export", "--backend", tree_backend, root, "shmem", "memory.max")
            expected = {"": everything(root), r"/b\"\\": everything(below)}
    samples = dict(re.findall(r"^(cgroup_\w+\{.*\}) (.*)$", text, re.MULTILINE))
    wanted = {}
    for label, values in expected.items():
        cgroup_label = f'{{cgroup="/{root.name}{label}"}}'
        limit = values["memory.max"]
        wanted[f"cgroup_memory_shmem_bytes{cgroup_label}"] = str(values["shmem"])
        wanted[f"cgroup_memory_max_bytes{cgroup_label}"] = (
            "+Inf" if limit == NO_LIMIT else str(limit)
        )
    assert samples == wanted and expected[""]["shmem"] == EXACT_MIB


def test_the_items_command_lists_what_a_reader_has(busy: tuple[Path, Worker]) -> None:
    path, _ = busy
    listed = json.loads(printed("items", "--json", path))
    read = json.loads(printed("--json", path, "*"))
    assert [one["name"] for one in listed] == list(read)
    assert all(one["known"] for one in listed)
    lines = printed("items", path).splitlines()
    assert [line.split()[0] for line in lines] == ["name", *read]


def test_the_doctor_finds_it_well(busy: tuple[Path, Worker]) -> None:
    path, _ = busy
    run = command("doctor", "--json", path)
    shown = {check["check"]: check for check in json.loads(run.stdout)["checks"]}
    if TEXT in (BEST_STAT_WAY, BEST_TREE_WAY):
        what = "one cgroup" if BEST_STAT_WAY == TEXT else "a tree"
        assert shown["in use"]["found"] == f"{what} is read as text"
        assert shown["in use"]["advice"]
        assert shown["kernel"]["verdict"] == ("no" if BEST_STAT_WAY == TEXT else "ok")
        assert (run.returncode, run.stderr) == (1, "")
        return
    assert (run.returncode, run.stderr) == (0, "")
    flushes = symbols("bpf_mem_cgroup_flush_stats", "cgroup_rstat_flush")
    # An iterator can flush by itself there, a program that is run only by a long text.
    long_text = VERSION == 2 and not (path / "memory.zswap.current").exists()
    by_stream = HAS_ITERATOR and flushes == {"cgroup_rstat_flush"} and long_text
    one = "stream" if by_stream else BEST_STAT_WAY.transport
    best = [f"{BEST_BACKEND}/{each}" for each in (one, BEST_TREE_WAY.transport)]
    assert shown["in use"]["found"] == f"{best[0]} for one cgroup, {best[1]} for a tree"
    assert shown["cgroup file system"]["found"] == f"cgroup v{VERSION}"
    for check in ("kernel", "memory controller", "BTF", "libbpf", "BPF objects", "capabilities"):
        assert shown[check]["verdict"] == "ok", shown[check]
    assert (shown["memcg kfuncs"]["verdict"] == "ok") == (BEST_BACKEND == "kfunc" or HAS_RFC)
    for what, transport in zip(("one cgroup", "a tree"), ("stream", "shared")):
        assert (shown[f"{what}, core/{transport}"]["verdict"] == "ok") == HAS_ITERATOR
        assert (shown[f"{what}, rfc/{transport}"]["verdict"] == "ok") == HAS_RFC


def test_the_doctor_without_privilege() -> None:
    # The help first: it takes modules that an ordinary user may not be able to read here.
    code = (
        "import contextlib, io, os, sys; import pymemcgbpf._cli.doctor as doctor\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    doctor.main(['--help'])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(doctor.main([]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (1, "")
    shown = {line[16:40].rstrip(): line for line in run.stdout.splitlines()}
    assert "lacks CAP_BPF and CAP_PERFMON" in shown["capabilities"]
    assert shown["one cgroup, text"].startswith("ok ")
    assert shown["in use"].startswith("no ")
