# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What an import loads, and who imports whom."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import pymemcgbpf

from .conftest import RunPython

PACKAGE = Path(pymemcgbpf.__file__).resolve().parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in SOURCES]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each imported module, with how many dots stand before it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def of_package(path: Path) -> set[str]:
    """The package's own modules that a module imports, by their names below it."""
    here = [*path.relative_to(PACKAGE).parent.parts]
    found = set()
    for level, name in imports(path):
        if level:
            found.add(".".join([*here[: len(here) - level + 1], name]))
        else:
            assert not name.startswith("pymemcgbpf"), f"{path.name}: import it relatively"
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_an_import_loads_no_library(run_python: RunPython) -> None:
    ran = run_python("-c", "import pymemcgbpf; print(open('/proc/self/maps').read())")
    assert ran.returncode == 0, ran.stderr
    assert "libc" in ran.stdout
    assert "libbpf" not in ran.stdout and "libelf" not in ran.stdout


def test_an_import_starts_no_thread_and_opens_nothing(run_python: RunPython) -> None:
    code = (
        "import os, threading; before = os.listdir('/proc/self/fd'); import pymemcgbpf; "
        "print(threading.active_count(), before == os.listdir('/proc/self/fd'))"
    )
    assert run_python("-c", code).stdout == "1 True\n"


def test_an_import_leaves_the_command_line_alone(run_python: RunPython) -> None:
    code = "import sys, pymemcgbpf; print({'argparse', 'json'} & set(sys.modules))"
    assert run_python("-c", code).stdout == "set()\n"


def test_an_import_warns_of_nothing(run_python: RunPython) -> None:
    ran = run_python("-W", "error", "-X", "dev", "-c", "import pymemcgbpf")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_public_names() -> None:
    assert len(set(pymemcgbpf.__all__)) == len(pymemcgbpf.__all__)
    for name in pymemcgbpf.__all__:
        assert getattr(pymemcgbpf, name) is not None
    readers = {"StatsReader", "TreeReader", "read_stats", "clear_cache"}
    assert readers | {"Snapshot", "Row", "ABSENT"} <= set(pymemcgbpf.__all__)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_only_one_file_knows_ctypes() -> None:
    users = {
        name_of(path)
        for path in SOURCES
        if any(name.partition(".")[0] == "ctypes" for _, name in imports(path))
    }
    assert users == {"_libbpf"}


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_only_the_standard_library(path: Path) -> None:
    for level, name in imports(path):
        top = name.partition(".")[0]
        if level or top in sys.builtin_module_names:
            continue
        found = importlib.util.find_spec(top)
        assert found is not None and found.origin is not None, name
        assert found.origin == "frozen" or Path(found.origin).is_relative_to(
            sysconfig.get_path("stdlib")
        ), name
        assert not {"site-packages", "dist-packages"} & set(Path(found.origin).parts), name


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("errors", set()),
        ("_catalogue", set()),
        ("_wire", {"errors"}),
        ("_cgroupfs", {"_catalogue", "errors"}),
        ("_fork", set()),
        ("_libbpf", {"_fork", "errors"}),
        ("_btf", {"_fork", "_libbpf", "errors"}),
        ("_layout", {"_btf"}),
        ("_cgroup_files", {"_catalogue", "_cgroupfs", "errors"}),
        ("_text_source", {"_catalogue", "_cgroup_files", "_cgroupfs", "errors"}),
        ("_text_tree", {"_catalogue", "_cgroup_files", "_cgroupfs", "_wire", "errors"}),
        ("_shown", {"_catalogue", "_cgroup_files", "_cgroupfs"}),
        ("_program", {"_btf", "_libbpf", "_wire", "errors"}),
        ("_recipe", {"_btf", "_catalogue", "_layout", "_program", "_wire", "errors"}),
        ("_flush", {"_btf", "_catalogue", "_cgroup_files", "_cgroupfs", "_program"}),
        ("_paths", {"_fork", "errors"}),
        ("snapshot", {"_cgroupfs", "_paths", "_wire", "errors"}),
    ],
)
def test_the_lower_rooms_know_nobody_above(name: str, allowed: set[str]) -> None:
    assert of_package(PACKAGE / f"{name}.py") <= allowed


def test_nobody_imports_the_command_line() -> None:
    for path in SOURCES:
        if name_of(path) != "__main__" and "_cli" not in path.parts:
            assert not any(name.startswith("_cli") for name in of_package(path)), path.name


def test_only_the_sources_and_the_choice_know_the_programs() -> None:
    users = {name_of(path) for path in SOURCES if "_program" in of_package(path)}
    sources = {"_flush", "_kernel_layout", "_recipe", "_stat_sources", "_tree_sources"}
    users -= {"reader", "_cli.doctor"}  # the orders' names alone; what there is to be wrong
    assert users == sources


def test_imports_have_no_circle() -> None:
    waiting = {name_of(path): of_package(path) for path in SOURCES}
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & (waiting.keys() - {name})}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_a_file_begins_with_its_licence(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first == "# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only"
