# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A Python without ctypes reads text."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import LibbpfNotFoundError
from pymemcgbpf._bpf.bindings import _NoCtypes

from .conftest import RunPython

# Python's ctypes is there, but not the module in C that it is made on: as where libffi was not
# found when Python was built.
NO_CTYPES = "import sys\nassert 'ctypes' not in sys.modules\nsys.modules['_ctypes'] = None\n"
COMMAND = f"{NO_CTYPES}from pymemcgbpf._cli.main import main\nsys.exit(main(sys.argv[1:]))\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(run_python: RunPython) -> Run:
    """Runs some code in a Python without ctypes."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python("-c", NO_CTYPES + code, *arguments)

    return run


@pytest.fixture
def command(run_python: RunPython) -> Run:
    """Runs the command line in a Python without ctypes."""
    return lambda *arguments: run_python("-c", COMMAND, *arguments)


def test_readers_fall_back_to_text(run: Run, v2: Path) -> None:
    code = (
        "from pymemcgbpf import StatsReader, TreeReader, read_stats, clear_cache\n"
        "with StatsReader(sys.argv[1], ['anon', 'memory.current']) as reader:\n"
        "    print(reader.backend, reader.read())\n"
        "    print(reader.fallback_reason)\n"
        "with TreeReader(sys.argv[1], ['anon']) as tree:\n"
        "    print(tree.backend, [row.values for row in tree.read()])\n"
        "    print(tree.fallback_reason)\n"
        "print(read_stats(sys.argv[1], ['file']))\n"
        "clear_cache()\n"
        "assert 'pymemcgbpf._bpf.libbpf' not in sys.modules\n"
    )
    ran = run(code, str(v2))
    assert (ran.returncode, ran.stderr) == (0, "")
    first, why, tree, tree_why, kept = ran.stdout.splitlines()
    assert first == "text {'anon': 4096, 'memory.current': 12288}"
    assert tree.startswith("text [") and "4096" in tree
    assert kept == "{'file': 8192}"
    for said in (why, tree_why):
        assert "no working ctypes" in said and said.startswith("install libffi")


def test_a_bpf_backend_without_ctypes_is_a_libbpf_not_found_error(run: Run, v2: Path) -> None:
    code = (
        "from pymemcgbpf import LibbpfNotFoundError, StatsReader, TreeReader\n"
        "for reader in (StatsReader, TreeReader):\n"
        "    for backend in ('kfunc', 'rfc', 'core'):\n"
        "        try: reader(sys.argv[1], ['anon'], backend=backend)\n"
        "        except LibbpfNotFoundError as error: print(error.call, error)\n"
    )
    ran = run(code, str(v2))
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith("import libbpf cannot be called") and "libffi" in line


def test_every_public_name_and_list_items_work_without_ctypes(run: Run, v2: Path) -> None:
    code = (
        "import pymemcgbpf\n"
        "from pymemcgbpf import *\n"
        "print([name for name in pymemcgbpf.__all__ if not hasattr(pymemcgbpf, name)])\n"
        "print(sorted(item.name for item in pymemcgbpf.list_items(sys.argv[1])))\n"
    )
    ran = run(code, str(v2))
    assert ran.stderr == ""
    assert ran.stdout == "[]\n['anon', 'file', 'memory.current', 'pgfault']\n"


def test_pinning_is_refused(run: Run, v2: Path) -> None:
    code = (
        "from pymemcgbpf import LibbpfNotFoundError, pin, pin_tree\n"
        "from pymemcgbpf._pins import bpffs as _bpffs\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "for make in (pin, pin_tree):\n"
        "    try: make(sys.argv[1], 'it', ['anon'])\n"
        "    except LibbpfNotFoundError as error: print('libffi' in str(error))\n"
    )
    ran = run(code, str(v2))
    assert (ran.stdout, ran.stderr) == ("True\nTrue\n", "")


def test_doctor_reports_the_missing_ctypes(command: Run, v2: Path) -> None:
    ran = command("doctor", str(v2))
    assert ran.returncode == 1 and ran.stderr == ""
    lines = {line[16:40].rstrip(): line for line in ran.stdout.splitlines()}
    assert lines["libbpf"].startswith("no ") and "install libffi" in lines["libbpf"]
    for text in ("one cgroup, text", "a tree, text"):
        assert lines[text].startswith("ok ")
    assert "read as text" in lines["in use"] and "no working ctypes" in lines["in use"]


def test_stat_reads_text_and_says_why(command: Run, v2: Path) -> None:
    ran = command("stat", str(v2))
    assert ran.returncode == 0 and "anon" in ran.stdout and "4.0 KiB" in ran.stdout
    assert ran.stderr.startswith("pymemcgbpf: read as text") and "libffi" in ran.stderr
    forced = command("stat", "--backend", "core", str(v2))
    assert forced.returncode != 0 and forced.stdout == ""
    assert "no working ctypes" in forced.stderr and forced.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("items",),
        ("tree", "--items", "anon"),
        ("stat", "--backend", "text"),
        ("bench", "--rounds", "1"),
    ],
    ids=" ".join,
)
def test_no_command_fails_with_a_traceback(
    arguments: tuple[str, ...], command: Run, v2: Path
) -> None:
    for options in ([*arguments, str(v2)], [arguments[0], "--help"]):
        ran = command(*options)
        assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode == 0 and ran.stdout.startswith("usage:")


def test_the_stand_in_for_the_bindings_gives_the_reason_for_any_name() -> None:
    stand_in = _NoCtypes("no _ctypes here")
    for name in ("load", "silence", "IteratorMaker", "no_such_thing"):
        with pytest.raises(LibbpfNotFoundError, match="no _ctypes here") as caught:
            getattr(stand_in, name)
        assert caught.value.call == "import"
