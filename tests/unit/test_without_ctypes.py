# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A Python without ctypes reads text."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import LibbpfNotFoundError
from pymemcgbpf._bpf.bindings import _NoCtypes
from pymemcgbpf._cli.main import COMMANDS

from .conftest import RunPython

# A finder that fails for one module.
FAILS = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise {error}
assert "ctypes" not in sys.modules
sys.meta_path.insert(0, Finder())
"""
COMMAND = "from pymemcgbpf._cli.main import main\nsys.exit(main(sys.argv[1:]))\n"

LIBFFI = "libffi.so.8: cannot open shared object file: No such file or directory"
INSTALL_LIBFFI = "install libffi (Debian and Ubuntu: apt-get install libffi8)"
INSTALL = "install libffi and Python's module _ctypes"
# What is lacking, and why: how it fails, what the reason has of that, and what is to be done.
LACKS = {
    # The module in C is there, and not the library that it is made on: an image of copied files.
    "libffi": ("_ctypes", f"ImportError({LIBFFI!r})", LIBFFI, INSTALL_LIBFFI),
    # Python was built without libffi.
    "_ctypes": (
        "_ctypes",
        "ModuleNotFoundError(\"No module named '_ctypes'\")",
        "No module named '_ctypes'",
        INSTALL,
    ),
    "ctypes": (
        "ctypes",
        "ModuleNotFoundError(\"No module named 'ctypes'\")",
        "No module named 'ctypes'",
        INSTALL,
    ),
    # The module in C is that of another Python.
    "version": (
        "_ctypes",
        "Exception('Version number mismatch', '1.1.0', '1.2.0')",
        "Version number mismatch",
        INSTALL,
    ),
    # Executable memory may not be mapped.
    "memory": ("_ctypes", "MemoryError()", "MemoryError", INSTALL),
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=LACKS)
def lack(request: pytest.FixtureRequest) -> tuple[str, str, str, str]:
    """What is lacking."""
    return LACKS[request.param]


@pytest.fixture
def run(run_python: RunPython, lack: tuple[str, str, str, str]) -> Run:
    """Runs some code in a Python without ctypes."""
    module, error, _, _ = lack

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python("-c", FAILS.format(module=module, error=error) + code, *arguments)

    return run


@pytest.fixture
def command(run: Run) -> Run:
    """Runs the command line in a Python without ctypes."""
    return lambda *arguments: run(COMMAND, *arguments)


def test_readers_fall_back_to_text(run: Run, v2: Path, lack: tuple[str, str, str, str]) -> None:
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
    _, _, reason, remedy = lack
    for said in (why, tree_why):
        assert "no working ctypes" in said
        assert reason in said and said.startswith("libbpf cannot be called: ")
        assert said.endswith(f": {remedy}")


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


COMMAND_LINES = {
    ("stat", "{v2}", "anon"): 0,
    ("stat", "--backend", "core", "{v2}", "anon"): 1,
    ("stat", "--json", "{v2}"): 0,
    ("tree", "{v2}", "anon"): 0,
    ("tree", "--backend", "core", "{v2}", "anon"): 1,
    ("watch", "--count", "1", "{v2}", "anon"): 0,
    ("export", "{v2}"): 0,
    ("items", "{v2}"): 0,
    ("doctor", "--json", "{v2}"): 1,
    ("bench", "--seconds", "0.1", "{v2}"): 0,
    ("top", "{v2}"): 1,
    ("pin", "{v2}", "{v2}/pin", "anon"): 1,
    ("pin", "--tree", "{v2}", "{v2}/pin", "anon"): 1,
    ("cat", "{v2}/pin"): 1,
    ("unpin", "{v2}/pin"): 1,
    ("pins",): None,
}


one_lack = pytest.mark.parametrize("lack", ["libffi"], indirect=True)


@one_lack
@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: " ".join(words[:2]))
def test_no_command_prints_more_than_one_line_about_it(
    words: tuple[str, ...], command: Run, v2: Path
) -> None:
    ran = command(*(word.format(v2=v2) for word in words))
    assert ran.stderr.count("\n") <= 1 and "Traceback" not in ran.stderr, ran.stderr
    status = COMMAND_LINES[words]
    assert status in (ran.returncode, None), ran.stderr
    if status == 0:
        assert ran.stdout
    if status == 1 and words[0] != "doctor":
        assert ran.stdout == "" and ran.stderr.startswith("pymemcgbpf: ")


@one_lack
def test_every_command_has_a_help(command: Run) -> None:
    for word in COMMANDS:
        ran = command(word, "--help")
        assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout.startswith("usage:")


def test_a_shortage_at_the_import_is_one_line(run_python: RunPython, v2: Path) -> None:
    """It says nothing about ctypes, so nothing is read as text for it."""
    error = "ImportError('libffi.so.8: cannot open shared object file: Too many open files')"
    code = FAILS.format(module="_ctypes", error=error) + COMMAND
    for word in ("stat", "tree", "watch", "export", "doctor", "items", "bench"):
        ran = run_python("-c", code, word, str(v2))
        assert ran.returncode == 1 and ran.stderr.count("\n") == 1, (word, ran.stderr)
        assert "Too many open files" in ran.stderr and ran.stdout == "", word


def test_the_stand_in_for_the_bindings_gives_the_reason_for_any_name() -> None:
    stand_in = _NoCtypes("no _ctypes here")
    for name in ("load", "silence", "IteratorMaker", "no_such_thing"):
        with pytest.raises(LibbpfNotFoundError, match="no _ctypes here") as caught:
            getattr(stand_in, name)
        assert caught.value.call == "import"
