# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Asks a C compiler what a header says."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

BPF_SRC = Path(__file__).resolve().parents[2] / "bpf_src"


def c_values(includes: Iterable[str], expressions: Iterable[str]) -> dict[str, int]:
    """The value of each C expression (all of them unsigned integers) under these headers."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "these tests need gcc or clang"
    asked = list(expressions)
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <linux/types.h>"]
    lines += [f"#include {header}" for header in includes]
    lines += ["int main(void)", "{"]
    lines += [f'\tprintf("%llu\\n", (unsigned long long)({each}));' for each in asked]
    lines += ["\treturn 0;", "}", ""]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "values.c"), Path(folder, "values")
        source.write_text("\n".join(lines))
        subprocess.run(
            [compiler, f"-I{BPF_SRC}", "-Werror", "-o", str(program), str(source)], check=True
        )
        printed = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    return dict(zip(asked, map(int, printed.stdout.split())))


def c_layout(includes: Iterable[str], struct: str, fields: Iterable[str]) -> dict[str, int]:
    """A structure's size (under "") and the offset of each of its fields."""
    offsets = {field: f"offsetof({struct}, {field})" for field in fields}
    values = c_values(includes, [f"sizeof({struct})", *offsets.values()])
    layout = {"": values[f"sizeof({struct})"]}
    layout.update((field, values[expression]) for field, expression in offsets.items())
    return layout
