# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What an import loads, and which module may import which."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

import pymemcgbpf
from pymemcgbpf import _wire
from pymemcgbpf._bpf import program as _program

from .conftest import RunPython

PACKAGE = Path(pymemcgbpf.__file__).resolve().parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
}


class _RunTime(ast.NodeTransformer):
    """Removes what only type checkers see."""

    def visit_If(self, node: ast.If) -> Optional[ast.AST]:
        told = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if told else self.generic_visit(node)


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[int, str]]:
    """Each imported module, or name in one, with how many dots stand before it."""
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(_RunTime().visit(tree) if at_run_time else tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = f"{node.module}." if node.module else ""
            yield from ((node.level, above + alias.name) for alias in node.names)


def of_package(path: Path, *, at_run_time: bool = False) -> set[str]:
    """The package's own modules that a module imports, by their names below it."""
    here = [*path.relative_to(PACKAGE).parent.parts]
    found = set()
    for level, name in imports(path, at_run_time=at_run_time):
        if level:
            parts = [*here[: len(here) - level + 1], *name.split(".")]
            if ".".join(parts) not in MODULES:  # a name in a module
                parts.pop()
            found.add(".".join(parts))
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


# --- the source tree --------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree that is not built."""
    made = tmp_path / "tree"
    shutil.copytree(PACKAGE, made / "pymemcgbpf", ignore=shutil.ignore_patterns("objects"))
    (made / "bpf_src").mkdir()
    (made / "bpf_src" / "memcg_stats.bpf.c").touch()
    return made


IMPORTS = "import pymemcgbpf\nimport pymemcgbpf\nfrom pymemcgbpf import StatsReader, errors\n"
WARNS = "this is the source tree of pymemcgbpf ({}), which has no BPF object until it is built"


def test_an_import_from_the_unbuilt_source_tree_warns_once(
    tree: Path, run_python: RunPython
) -> None:
    ran = run_python("-c", IMPORTS, PYTHONPATH=str(tree))
    assert ran.returncode == 0 and ran.stderr.count("RuntimeWarning") == 1
    assert f"<string>:1: RuntimeWarning: {WARNS.format(tree)}" in ran.stderr
    ran = run_python("-W", "error", "-c", IMPORTS, PYTHONPATH=str(tree))
    assert ran.returncode == 1 and f"RuntimeWarning: {WARNS.format(tree)}" in ran.stderr


def test_bench_refuses_the_unbuilt_source_tree(tree: Path, run_python: RunPython) -> None:
    words = ("-W", "ignore", "-m", "pymemcgbpf", "bench")
    ran = run_python(*words, PYTHONPATH=str(tree))
    assert (ran.returncode, ran.stdout) == (1, "")
    said = f"pymemcgbpf: nothing was timed: {WARNS.format(tree)}"
    assert ran.stderr.startswith(said) and ran.stderr.count("\n") == 1


def test_all_that_says_how_is_read_names_the_unbuilt_source_tree(
    tree: Path, v2: Path, run_python: RunPython
) -> None:
    (tree / "setup.cfg").touch()
    said = "this source tree is not built: the BPF object"
    done = "build the source tree (pip install -e .), or use an installed pymemcgbpf"
    ignore = ("-W", "ignore")
    code = f"import pymemcgbpf as m; print(m.StatsReader({str(v2)!r}).fallback_reason)"
    for words in (("-c", code), ("-m", "pymemcgbpf", str(v2)), ("-m", "pymemcgbpf", "doctor")):
        ran = run_python(*ignore, *words, PYTHONPATH=str(tree))
        text = ran.stdout + ran.stderr
        if "this process may not load" not in text and "libbpf.so.1" not in text:
            assert said in text and done in text, words
    assert f"cannot be read in {tree}" in text and done in text  # doctor says it in any case


@pytest.mark.parametrize("what", ["built", "a copy", "a zip"])
def test_an_import_from_elsewhere_warns_of_nothing(
    what: str, tree: Path, run_python: RunPython
) -> None:
    found = tree
    if what == "built":  # as pip install -e does
        objects = tree / "pymemcgbpf" / "_bpf" / "objects"
        objects.mkdir()
        (objects / "memcg_stats.bpf.o").touch()
    elif what == "a copy":  # for PinnedReader alone
        shutil.rmtree(tree / "bpf_src")
    else:
        found = Path(shutil.make_archive(str(tree.parent / "it"), "zip", tree))
        shutil.rmtree(tree)
    code = f"{IMPORTS}print(pymemcgbpf.__file__)"
    ran = run_python("-W", "error", "-c", code, PYTHONPATH=str(found))
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout.startswith(str(found))


def test_a_package_without_a_file_is_imported(run_python: RunPython) -> None:
    code = "import pymemcgbpf; del pymemcgbpf.__file__; print(repr(pymemcgbpf._unbuilt()))"
    assert run_python("-c", code).stdout == "''\n"


def test_the_unbuilt_check_looks_for_the_object_that_readers_load() -> None:
    assert str(PACKAGE / pymemcgbpf._BPF_OBJECT) == _program.OBJECT_FILE


# --- names ------------------------------------------------------------------------------


def test_no_two_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name_of(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_the_public_names() -> None:
    assert len(set(pymemcgbpf.__all__)) == len(pymemcgbpf.__all__)
    for name in pymemcgbpf.__all__:
        assert getattr(pymemcgbpf, name) is not None
    readers = {"StatsReader", "TreeReader", "PinnedReader", "read_stats", "clear_cache"}
    assert readers | {"Snapshot", "Row", "pin", "unpin"} <= set(pymemcgbpf.__all__)


def test_type_checkers_and_lazy_imports_find_a_name_in_the_same_module() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (told,) = [
        node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    ]
    homes = {
        alias.name: node.module
        for node in told.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*homes, "__version__"} == set(pymemcgbpf.__all__)
    assert {
        name: home for name, home in homes.items() if home != "errors"
    } == pymemcgbpf._LAZY_EXPORTS
    assert set(homes.values()) >= {"errors", "_pins.read"}
    errors = importlib.import_module("pymemcgbpf.errors")
    assert {name for name, home in homes.items() if home == "errors"} == set(errors.__all__)


def test_no_module_has_the_name_of_a_public_object() -> None:
    # When it is imported, it would take the name's place.
    assert not {name_of(path).partition(".")[0] for path in SOURCES} & set(pymemcgbpf.__all__)


def test_a_public_name_is_one_object_however_it_is_imported(run_python: RunPython) -> None:
    code = (
        "import pymemcgbpf, inspect\n"
        "public = {*pymemcgbpf.__all__, 'changes', 'departed', 'errors', 'reader', 'snapshot'}\n"
        "assert set(dir(pymemcgbpf)) == public, dir(pymemcgbpf)\n"
        "assert not hasattr(pymemcgbpf, 'nonsense')\n"
        "from pymemcgbpf import *\n"
        "assert StatsReader is pymemcgbpf.StatsReader is pymemcgbpf.reader.StatsReader\n"
        "assert MemcgError is pymemcgbpf.errors.MemcgError\n"
        "assert callable(list_items) and list_items is pymemcgbpf.list_items\n"
        "assert __version__ == pymemcgbpf.__version__\n"
        "import pymemcgbpf._pins.create, pymemcgbpf._pins.remove, pymemcgbpf._pins.read\n"
        "assert all(map(inspect.isfunction, (pymemcgbpf.pin, pymemcgbpf.unpin)))\n"
        "assert pymemcgbpf._pins.read.PinnedReader is PinnedReader\n"
        "try: pymemcgbpf.StatReader\n"
        "except AttributeError as error: print(error)\n"
    )
    ran = run_python("-c", code)
    assert ran.stdout == "module 'pymemcgbpf' has no attribute 'StatReader'\n", ran.stderr


def test_a_reader_of_one_cgroup_imports_nothing_of_trees(run_python: RunPython) -> None:
    code = (
        "import sys; from pymemcgbpf import StatsReader\n"
        "print([n for n in sys.modules if 'tree' in n or 'snapshot' in n], 'json' in sys.modules)"
    )
    assert run_python("-c", code).stdout == "[] False\n"


def test_an_import_loads_only_the_version_module_of_the_package(run_python: RunPython) -> None:
    code = "import sys, pymemcgbpf; print([n for n in sys.modules if n.startswith('pymemcgbpf.')])"
    assert run_python("-c", code).stdout == "['pymemcgbpf._version']\n"


# Of the standard library, what takes milliseconds and a reader can do without.
HEAVY = {
    *("argparse", "asyncio", "dataclasses", "difflib", "inspect"),
    *("json", "logging", "pathlib", "urllib"),
}


def test_an_import_loads_neither_ctypes_nor_slow_modules(run_python: RunPython) -> None:
    code = f"import sys, pymemcgbpf; print({{'ctypes', '_ctypes', *{HEAVY}}} & set(sys.modules))"
    assert run_python("-S", "-c", code).stdout == "set()\n"


def test_a_reader_loads_no_slow_modules(run_python: RunPython) -> None:
    code = (
        "import sys; from pymemcgbpf import StatsReader, TreeReader; "
        "from pymemcgbpf._bpf import libbpf; libbpf.load(); "
        f"print({HEAVY} & set(sys.modules), 'ctypes' in sys.modules)"
    )
    ran = run_python("-S", "-c", code)
    assert ran.stdout == "set() True\n", ran.stderr


def test_reading_a_pin_loads_no_ctypes(run_python: RunPython, tmp_path: Path) -> None:
    header = _wire.encode_header([1], 1)
    row = _wire.ROW.pack(5, 1, 1, 0) + bytes(8)
    (tmp_path / "pin").write_bytes(header + row + _wire.TRAILER.pack(_wire.END_MAGIC, 1, 9))
    code = (
        "import sys; from pymemcgbpf import PinnedReader\n"
        "from pymemcgbpf._pins import bpffs as _bpffs\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "print(PinnedReader('pin').read(), {'ctypes', '_ctypes'} & set(sys.modules))\n"
    )
    assert run_python("-S", "-c", code).stdout == "{'anon': 0} set()\n"


def test_pins_are_read_without_ctypes(run_python: RunPython, tmp_path: Path) -> None:
    header = _wire.encode_header([1], 1)
    row = _wire.ROW.pack(5, 1, 1, 0) + (4096).to_bytes(8, sys.byteorder)
    (tmp_path / "pin").write_bytes(header + row + _wire.TRAILER.pack(_wire.END_MAGIC, 1, 9))
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "from pymemcgbpf import PinnedReader, StreamError, Snapshot, UNLIMITED, unpin\n"
        "from pymemcgbpf._pins import bpffs as _bpffs\n"
        "_bpffs.is_on_bpffs = lambda status, path: True\n"
        "print(PinnedReader('pin').read())\n"
    )
    ran = run_python("-c", code)
    assert (ran.stdout, ran.stderr) == ("{'anon': 4096}\n", "")


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


# The modules that need ctypes.
CTYPES = {
    "_mapped_memory",
    "_bpf.libbpf",
    "_bpf.libbpf_log",
    "_bpf.libbpf_maps",
    "_bpf.libbpf_programs",
    "_pins.map_calls",
    "_pins.map_ids",
}


def test_few_modules_import_ctypes() -> None:
    users = {
        name_of(path)
        for path in SOURCES
        if any(name.partition(".")[0] == "ctypes" for _, name in imports(path))
    }
    assert users == CTYPES


def test_only_the_standard_library_is_imported() -> None:
    for level, name in {each for path in SOURCES for each in imports(path)}:
        top = name.partition(".")[0]
        if level or top in sys.builtin_module_names:
            continue
        found = importlib.util.find_spec(top)
        assert found is not None and found.origin is not None, name
        assert found.origin == "frozen" or Path(found.origin).is_relative_to(
            sysconfig.get_path("stdlib")
        ), name
        assert not {"site-packages", "dist-packages"} & set(Path(found.origin).parts), name


# A folder or a module, and what it may import from the package.
BASE = {
    *("errors", "_items", "_wire", "_fork", "_version"),
    *(
        "_closable",
        "_descriptors",
        "_item_hints",
        "_lookup",
        "_mapped_memory",
        "_options",
        "_records",
        "_row_dicts",
        "_samples",
        "_signals",
    ),
}
SNAPSHOT = {"snapshot", "changes", "departed", "_cgroup"}
PINS_WITHOUT_BPF = (
    *("bpffs", "diagnosis", "find", "pin_stream", "read", "remove", "transaction"),
    *("map_calls", "map_ids", "tree_layout", "tree_map", "tree_paths", "tree_stream", "tree_walk"),
)
RULES = {
    **dict.fromkeys(BASE, BASE),
    "errors": {*BASE, "departed"},  # the type of an attribute
    "_cgroup": {*BASE, "_cgroup"},
    "_bpf": {*BASE, "_bpf"},
    "_sources": {*BASE, "_cgroup", "_bpf", "_sources"},
    "snapshot": {*BASE, *SNAPSHOT},
    "_openmetrics": {*BASE, *SNAPSHOT},
    "_selection": {*BASE, *SNAPSHOT},
    "changes": {*BASE, "snapshot", "departed"},
    # A process that reads pins has no libbpf, and perhaps no ctypes.
    **{f"_pins.{name}": {*BASE, *SNAPSHOT, "_pins"} for name in PINS_WITHOUT_BPF},
}


def test_a_module_imports_only_what_the_rules_allow() -> None:
    for room, known in RULES.items():
        inside = [path for path in SOURCES if f"{name_of(path)}.".startswith(f"{room}.")]
        assert inside, f"no module is {room}, or in it"
        for path in inside:
            for name in of_package(path):
                folder = name.partition(".")[0]
                assert name in known or folder in known, f"{name_of(path)} imports {name}"


def test_reading_pins_does_not_import_what_creates_them() -> None:
    creating = {
        f"_pins.{name}" for name in ("create", "create_tree", "pin_source", "tree_programs")
    }
    for name in PINS_WITHOUT_BPF:
        assert not creating & of_package(PACKAGE / "_pins" / f"{name}.py")
    everything = {name_of(path) for path in (PACKAGE / "_pins").glob("[!_]*.py")}
    assert everything == creating | {f"_pins.{name}" for name in PINS_WITHOUT_BPF}


def test_only_the_entry_point_imports_the_command_line() -> None:
    for path in SOURCES:
        if name_of(path) != "__main__" and "_cli" not in path.parts:
            assert not any(name.startswith("_cli") for name in of_package(path)), path.name


def test_only_the_bindings_import_what_needs_ctypes() -> None:
    # All other modules must work in a Python without ctypes.
    importers = {name_of(path) for path in SOURCES if CTYPES & of_package(path)}
    assert importers - CTYPES == {"_bpf.bindings", "_cli.pins", "_pins.remove", "_pins.tree_map"}


def test_imports_have_no_cycle() -> None:
    waiting = {name_of(path): of_package(path, at_run_time=True) for path in SOURCES}
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & (waiting.keys() - {name})}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


def test_every_file_begins_with_its_licence() -> None:
    licence = "# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only\n"
    without = [path for path in SOURCES if not path.read_text(encoding="utf-8").startswith(licence)]
    assert without == []


def test_help_shows_the_readers_before_the_errors(run_python: RunPython) -> None:
    code = "import pydoc, pymemcgbpf; print(pydoc.plain(pydoc.render_doc(pymemcgbpf)))"
    text = run_python("-c", code).stdout
    at = [text.index(name) for name in ("read_stats", "StatsReader", "TreeReader")]
    first_error = min(text.index(name) for name in pymemcgbpf.errors.__all__)
    assert at == sorted(at) and at[-1] < first_error
