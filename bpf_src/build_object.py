# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Compiles the BPF objects while setuptools builds the package (see pyproject.toml)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.errors import ExecError

OLDEST_CLANG = 14
NEWEST_CLANG = 30  # the highest NN for which a command clang-NN is looked for

SOURCES = Path(__file__).resolve().parent
FOLDER = Path("pymemcgbpf", "_bpf", "objects")

# Object → the C file that it is compiled from, and additional compiler options.
OBJECTS = {
    "memcg_stats.bpf.o": ("memcg_stats.bpf.c", []),
    "memcg_stats_core.bpf.o": ("memcg_stats.bpf.c", ["-DMEMCG_STATS_CORE_ALONE"]),
    "run_dir.bpf.o": ("run_dir.bpf.c", []),
    "walk_dir.bpf.o": ("walk_dir.bpf.c", []),
    "departures.bpf.o": ("departures.bpf.c", []),
    "index_tables.bpf.o": ("index_tables.bpf.c", []),
    "pinned_tree.bpf.o": ("pinned_tree.bpf.c", []),
}

FLAGS = [
    "-std=gnu11",
    "-O2",
    "-g",
    "-target",
    "bpfel",
    "-mcpu=v3",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
]

INSTALL = "(Debian and Ubuntu: apt-get install clang llvm libbpf-dev)"


class BuildPy(build_py):
    """setuptools' build_py, which also compiles the objects into the package."""

    def run(self) -> None:
        super().run()
        compile_objects(FOLDER if self.editable_mode else Path(self.build_lib, FOLDER))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        return [*outputs, *(str(Path(self.build_lib, FOLDER, name)) for name in OBJECTS)]

    def get_source_files(self) -> list[str]:
        # The source distribution contains these files.
        files: list[str] = super().get_source_files()  # type: ignore[no-untyped-call]
        here = Path(os.path.relpath(SOURCES))
        files += sorted(str(here / path.name) for path in SOURCES.glob("*.[chp]*"))
        root = SOURCES.parent
        pages = (*root.glob("*.md"), *root.glob("docs/*.md"))
        return files + sorted(os.path.relpath(page) for page in pages)


def compile_objects(folder: Path) -> None:
    """Compiles all objects into a folder."""
    for name in OBJECTS:
        compile_object(folder / name)


def compile_object(target: Path) -> None:
    """Compiles the object *target*, and strips its DWARF but not its BTF."""
    clang = find_clang()
    strip = find_strip(clang)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".tmp")
    name, definitions = OBJECTS[target.name]
    source = SOURCES / name
    command = [clang, *FLAGS, *definitions, *include_flags(), "-c", str(source), "-o", str(scratch)]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            hint = ""
            if "bpf/" in run.stderr or "asm/" in run.stderr:
                hint = f"\nlibbpf's headers and the kernel's user headers are needed {INSTALL}"
            raise ExecError(f"{' '.join(command)} failed:\n{run.stderr}{hint}")
        run = subprocess.run([strip, "-g", str(scratch)], capture_output=True, text=True)
        if run.returncode:
            raise ExecError(f"{strip} failed:\n{run.stderr}")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def find_clang() -> str:
    """The path of the compiler: of $CLANG if it is set, else of clang, or of the newest clang-NN.

    Raises:
        ExecError: none of these is new enough.
    """
    versioned = [f"clang-{number}" for number in range(NEWEST_CLANG, OLDEST_CLANG - 1, -1)]
    chosen = os.environ.get("CLANG")
    seen = []
    for name in [chosen] if chosen else ["clang", *versioned]:
        path = shutil.which(name)
        if path is None:
            if chosen:
                seen.append(f"$CLANG is {chosen}, which does not exist")
            continue
        text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"clang version (\d+)", text)
        if version and int(version[1]) >= OLDEST_CLANG:
            return path
        seen.append(f"{path} is {text.splitlines()[0] if text else 'not clang'}")
    raise ExecError(
        f"clang {OLDEST_CLANG} or later is needed to build pymemcgbpf's BPF object {INSTALL}"
        + (f"; {'; '.join(seen)}" if seen else "; none was found")
    )


def find_strip(clang: str) -> str:
    """The path of the llvm-strip that belongs to *clang*, or else of any other.

    Raises:
        ExecError: none is installed.
    """
    said = subprocess.run(
        [clang, "--print-prog-name=llvm-strip"], capture_output=True, text=True
    ).stdout.strip()
    strip = shutil.which(said) or shutil.which("llvm-strip")
    if strip is None:
        raise ExecError(f"llvm-strip is needed as well as {clang} {INSTALL}")
    return strip


def include_flags() -> list[str]:
    """The compiler option with the folder of <asm/types.h>, if there is such a folder."""
    # clang searches this folder only when it compiles for the host.
    machine = os.uname().machine
    folder = Path("/usr/include", f"{machine}-linux-gnu")
    return [f"-I{folder}"] if folder.is_dir() else []


if __name__ == "__main__":
    compile_objects(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
