# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Objects in which a function gets other instructions."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from bpf_src import build_object
from pymemcgbpf._bpf import elf as _elf
from pymemcgbpf._bpf import program as _program

CODE = bytes.fromhex("b700000007000000b7010000080000009500000000000000")


@pytest.fixture(scope="module")
def data() -> bytes:
    return _program.read_object(_program.RUN_DIR_FILE)


def listing(data: bytes, folder: Path) -> dict[str, list[str]]:
    """The instructions of each section, as llvm-objdump prints them."""
    path = folder / "object.o"
    path.write_bytes(data)
    strip = build_object.find_strip(build_object.find_clang())
    tool = strip.replace("llvm-strip", "llvm-objdump")  # a versioned name, or in a versioned folder
    command = [tool, "-d", "-r", "--no-show-raw-insn", "--no-leading-addr", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\b0x(\d)\b", r"\1", text).replace("w0 = 0", "r0 = 0")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("Disassembly of section "):
            lines = found[line.split()[-1].rstrip(":")] = []
        elif line.strip() and found:
            lines.append(line.strip())
    return found


def test_a_function_gets_other_instructions_and_nothing_else_changes(
    data: bytes, tmp_path: Path
) -> None:
    before, after = (listing(each, tmp_path) for each in (data, changed(data)))
    assert before.pop(".text") == ["<compute_items>:", "r0 = 0", "exit"]
    assert after.pop(".text") == ["<compute_items>:", "r0 = 7", "r1 = 8", "exit"]
    assert before == after and "raw_tp" in before


def changed(data: bytes) -> bytes:
    return _elf.with_function(data, "compute_items", CODE)


def test_it_can_be_changed_again(data: bytes, tmp_path: Path) -> None:
    assert listing(changed(changed(data)), tmp_path) == listing(changed(data), tmp_path)


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (lambda data: data.replace(b"\0compute_items\0", b"\0compute_itemz\0"), "there is none"),
        (lambda data: data[:100], "unpack_from"),
        (lambda data: b"", "unpack_from"),
        (lambda data: data[: len(data) // 2], "unpack_from"),
    ],
    ids=["other name", "a beginning", "empty", "half"],
)
def test_a_damaged_object_is_one_error(data: bytes, damaged: object, why: str) -> None:
    assert callable(damaged)
    with pytest.raises(ValueError, match=f"compute_items cannot be replaced: .*{why}"):
        changed(damaged(data))


def test_a_function_that_others_follow_is_refused(data: bytes) -> None:
    file = os.path.basename(_program.OBJECT_FILE)
    other = _program.read_object(_program.OBJECT_FILE)
    name = next(name for name in ("fill_row", "has_row", "write_name") if name.encode() in other)
    with pytest.raises(ValueError, match=f"{name} cannot be replaced: .*not the last one"):
        _elf.with_function(other, name, CODE)
    assert file == "memcg_stats.bpf.o"


def test_no_object_loses_its_last_function(data: bytes) -> None:
    # compute_items() has to be the last one in its section: see COMPUTE_ITEMS.
    for file in (_program.RUN_DIR_FILE,):
        assert changed(_program.read_object(file))
