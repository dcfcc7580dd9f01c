# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Bad input and bad surroundings on a real kernel: one typed exception, one sentence."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pymemcgbpf
from pymemcgbpf import (
    BpfObjectError,
    BpfPermissionError,
    CgroupNotFoundError,
    ItemUnavailableError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    StatsReader,
    TreeReader,
    UnknownItemError,
    _options,
)
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import load_checks as _load_checks
from pymemcgbpf._bpf import program as _program

from .cgroups import SYS_BPF, cgroup, enable_memory, give_up_rights, in_child
from .surroundings import BEST_BACKEND, HAS_ITERATOR, HIERARCHY, VERSION
from .ways import Way

# All, because a backend that finds one damaged may have another.
OBJECTS = sorted(Path(_program.OBJECT_FILE).parent.glob("*.bpf.o"))


def one_sentence(error: MemcgError) -> str:
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text
    return text


def test_a_missing_path_is_a_cgroup_not_found_error(backend: _options.Backend) -> None:
    with pytest.raises(CgroupNotFoundError, match="does not exist") as caught:
        StatsReader(HIERARCHY / "no-such-cgroup", backend=backend)
    one_sentence(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_file_is_not_a_cgroup(backend: _options.Backend) -> None:
    with pytest.raises(NotACgroupError, match="is a file") as caught:
        StatsReader(HIERARCHY / "memory.stat", backend=backend)
    one_sentence(caught.value)


def test_another_directory_is_not_a_cgroup(backend: _options.Backend, tmp_path: Path) -> None:
    with pytest.raises(NotACgroupError, match=re.escape("no cgroup.procs")):
        StatsReader(tmp_path, backend=backend)


def test_a_directory_that_only_looks_like_a_cgroup_is_refused_by_bpf(
    bpf_way: Way, tmp_path: Path
) -> None:
    for name in ("cgroup.procs", "memory.stat", "cgroup.controllers"):
        (tmp_path / name).write_text("anon 1\n" if name == "memory.stat" else "")
    with pytest.raises(MemcgError) as caught:
        bpf_way.stats(tmp_path, ["anon"])
    one_sentence(caught.value)


def test_a_cgroup_without_the_memory_controller(way: Way) -> None:
    if VERSION == 1:
        other = HIERARCHY.parent / "cpu"
        place = f"the cgroups of the memory controller are in {HIERARCHY}$"
        with pytest.raises(MemoryControllerError, match=place):
            way.stats(other)
        return
    with cgroup() as parent:
        child = parent / "child"
        child.mkdir()
        with pytest.raises(MemoryControllerError) as caught:
            way.stats(child)
        said = one_sentence(caught.value)
        assert f'write "+memory" to {parent}/cgroup.subtree_control' in said
        # What it says helps.
        enable_memory(parent)
        with way.stats(child, ["anon"]) as reader:
            assert reader.read() == {"anon": 0}
        # And the other way: the controller goes while the reader is open.
        with way.stats(child, ["anon"]) as reader:
            (parent / "cgroup.subtree_control").write_text("-memory")
            # The kernel releases the controller a moment later.
            deadline = time.monotonic() + 20
            with pytest.raises(MemoryControllerError, match="not enabled for"):
                while time.monotonic() < deadline:
                    reader.read()
        grandchild = child / "grandchild"
        grandchild.mkdir()
        with pytest.raises(MemoryControllerError, match="then to the same file of each cgroup"):
            way.stats(grandchild)


def test_an_unknown_item_is_named_with_those_like_it(
    empty_cgroup: Path, backend: _options.Backend
) -> None:
    with pytest.raises(UnknownItemError, match=r"'pgfualt'.*'pgfault'") as caught:
        StatsReader(empty_cgroup, ["anon", "pgfualt"], backend=backend)
    assert caught.value.item == "pgfualt"
    assert "pgfault" in caught.value.suggestions
    one_sentence(caught.value)


def test_an_item_that_this_kernel_lacks_is_another_error(empty_cgroup: Path) -> None:
    # Printed only where the hierarchy was mounted with memory_hugetlb_accounting.
    with pytest.raises(ItemUnavailableError, match=r"does not have 'hugetlb'") as caught:
        StatsReader(empty_cgroup, ["anon", "hugetlb"])
    assert caught.value.item_names == ("hugetlb",)
    assert not isinstance(caught.value, UnknownItemError)
    one_sentence(caught.value)


# --- surroundings, each made in a process (or a mount namespace) of its own ------------


@contextlib.contextmanager
def replaced(target: Path, replacement: Path) -> Iterator[None]:
    """A file that the next process sees in the place of another."""
    subprocess.run(["mount", "--bind", str(replacement), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


PROBE = """
import json, sys
import pymemcgbpf
from pymemcgbpf import StatsReader  # now: it may lie where another user may not look
path, backend, uid, capabilities = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if capabilities >= 0:
    import ctypes, struct
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    assert ctypes.CDLL(None).capset(header, data) == 0
if uid:
    import os
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
try:
    with StatsReader(path, ["anon", "file"], backend=backend) as reader:
        found = {"values": reader.read(), "backend": reader.backend, "why": reader.fallback_reason}
except Exception as error:
    found = {
        "error": type(error).__name__,
        "is_memcg_error": isinstance(error, pymemcgbpf.MemcgError),
        "message": str(error),
    }
print(json.dumps(found))
"""


def probe(
    path: Path, backend: _options.Backend = "auto", uid: int = 0, capabilities: int = -1
) -> dict[str, object]:
    """What a fresh process sees."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(path), backend, str(uid), str(capabilities)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == "", "nothing is printed unasked"
    found = json.loads(run.stdout)
    assert isinstance(found, dict)
    return found


def assert_falls_back(path: Path, error: str, says: str, uid: int = 0) -> None:
    """The best backend raises *error*; "auto" reads text, and says why."""
    refused = probe(path, BEST_BACKEND, uid)
    assert refused.get("error") == error, refused
    assert refused["is_memcg_error"] is True
    assert re.search(says, str(refused["message"])), refused
    served = probe(path, "auto", uid)
    assert served.get("backend") == "text", served
    assert served["values"] == {"anon": 0, "file": 0}
    assert re.search(says, str(served["why"])), served


NOBODY = 65534


@pytest.mark.needs_bpf
def test_without_capabilities_bpf_is_a_permission_error(empty_cgroup: Path) -> None:
    assert_falls_back(empty_cgroup, "BpfPermissionError", "CAP_BPF and CAP_PERFMON", NOBODY)


# Without rights, and with a filter of system calls that kills at bpf(), as systemd's may.
FORBIDDEN = """
import ctypes, struct, sys
from pymemcgbpf import StatsReader, TreeReader
libc = ctypes.CDLL(None)
assert libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) == 0
load_number, if_equal, end = 0x20, 0x15, 0x06
code = [(load_number, 0, 0, 0), (if_equal, 0, 1, int(sys.argv[2])), (end, 0, 0, 0x80000000)]
code = b"".join(struct.pack("=HBBI", *each) for each in [*code, (end, 0, 0, 0x7FFF0000)])
memory = ctypes.create_string_buffer(code, len(code))
program = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(memory))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
for kind in (StatsReader, TreeReader):
    for items in (["memory.max"], ["anon"], None):
        with kind(sys.argv[1], items) as reader:
            reader.read()
            print(reader.backend)
"""


@pytest.mark.needs_bpf
def test_without_rights_bpf_is_not_even_called(empty_cgroup: Path) -> None:
    number = str(SYS_BPF[platform.machine()])
    command = [sys.executable, "-c", FORBIDDEN, str(empty_cgroup), number]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["text"] * 6


@pytest.mark.needs_bpf
def test_two_capabilities_are_enough(empty_cgroup: Path) -> None:
    """CAP_BPF and CAP_PERFMON suffice; an older libbpf wants CAP_SYS_ADMIN, and we say so."""
    found = probe(empty_cgroup, BEST_BACKEND, capabilities=1 << 39 | 1 << 38)
    if "error" in found:
        assert found["error"] == "BpfPermissionError", found
        assert "install libbpf 1.5 or later" in str(found["message"])
        assert tuple(map(int, _libbpf.load().version.split("."))) < (1, 5)
    else:
        assert found["values"] == {"anon": 0, "file": 0}
    served = probe(empty_cgroup, "auto", capabilities=1 << 39 | 1 << 38)
    assert served["values"] == {"anon": 0, "file": 0}


@pytest.mark.needs_bpf
def test_two_capabilities_are_enough_for_core_run_with_any_libbpf(empty_cgroup: Path) -> None:
    found = probe(empty_cgroup, "core", capabilities=1 << 39 | 1 << 38)
    assert found.get("values") == {"anon": 0, "file": 0}, found
    assert probe(empty_cgroup, "auto", capabilities=1 << 39 | 1 << 38)["backend"] != "text"


@pytest.mark.needs_bpf
def test_a_transport_asked_for_by_name_needs_privileges(empty_cgroup: Path) -> None:
    def ask() -> None:
        give_up_rights()
        kinds: list[Any] = [(StatsReader, ("run", "stream")), (TreeReader, ("run", "shared"))]
        for kind, transports in kinds:
            for transport in transports[: 2 if HAS_ITERATOR else 1]:
                with pytest.raises(BpfPermissionError, match="CAP_BPF and CAP_PERFMON") as caught:
                    kind(empty_cgroup, ["anon"], transport=transport)
                assert caught.value.errno == errno.EPERM

    in_child(ask)


@pytest.mark.needs_bpf
def test_a_missing_libbpf_is_named(empty_cgroup: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with replaced(library_path("libbpf.so.1"), empty):
        assert_falls_back(empty_cgroup, "LibbpfNotFoundError", "apt-get install libbpf1")


@pytest.mark.needs_bpf
def test_a_libbpf_that_lacks_a_function_is_too_old(empty_cgroup: Path) -> None:
    # Another library in its place: it loads, and has none of the functions.
    with replaced(library_path("libbpf.so.1"), library_path("libz.so.1")):
        assert_falls_back(
            empty_cgroup,
            "LibbpfTooOldError",
            r"libbpf\.so\.1 before 0\.6 has no libbpf_major_version \(libbpf 0\.6 and later\)",
        )


def library_path(name: str) -> Path:
    """Where the dynamic linker finds a library."""
    ctypes.CDLL(name)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        stem = name.partition(".so")[0] + ".so"
        found = {line.split()[-1] for line in maps if f"/{stem}" in line}
    assert found, f"{name} is not mapped"
    return Path(found.pop())


@pytest.mark.needs_bpf
def test_missing_btf_is_named(empty_cgroup: Path, tmp_path: Path) -> None:
    with replaced(Path("/sys/kernel/btf"), tmp_path):
        assert_falls_back(empty_cgroup, "BtfNotFoundError", "CONFIG_DEBUG_INFO_BTF")


@pytest.mark.needs_bpf
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x9f\xeb\x01\0" + bytes(60)])
def test_damaged_btf_is_not_called_missing(
    empty_cgroup: Path, tmp_path: Path, content: bytes
) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    with replaced(Path("/sys/kernel/btf/vmlinux"), damaged):
        assert_falls_back(empty_cgroup, "BtfNotFoundError", "vmlinux.* is damaged or in an unknown")


@pytest.mark.needs_bpf
def test_btf_cut_short_is_damaged(empty_cgroup: Path, tmp_path: Path) -> None:
    vmlinux = Path("/sys/kernel/btf/vmlinux")
    cut = tmp_path / "cut"
    cut.write_bytes(vmlinux.read_bytes()[:100_000])
    with replaced(vmlinux, cut):
        assert_falls_back(empty_cgroup, "BtfNotFoundError", "vmlinux.* is damaged or in an unknown")


@pytest.mark.needs_bpf
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x7fELF" + bytes(60)])
def test_a_damaged_object_is_a_clear_error(
    empty_cgroup: Path, tmp_path: Path, content: bytes
) -> None:
    damaged = tmp_path / "damaged.o"
    damaged.write_bytes(content)
    with contextlib.ExitStack() as stack:
        for each in OBJECTS:
            stack.enter_context(replaced(each, damaged))
        assert_falls_back(empty_cgroup, "BpfObjectError", "install pymemcgbpf again")


@pytest.mark.needs_bpf
def test_an_object_cut_short_anywhere_is_a_clear_error(
    empty_cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(_program.OBJECT_FILE).read_bytes()
    cut = tmp_path / "cut.o"
    monkeypatch.setattr(_program, "_file_of", lambda *_: str(cut))
    for eighth in range(8):
        cut.write_bytes(whole[: len(whole) * eighth // 8])
        pymemcgbpf.clear_cache()
        with pytest.raises(BpfObjectError):
            StatsReader(empty_cgroup, ["anon"], backend=BEST_BACKEND)


@pytest.mark.needs_bpf
def test_a_missing_object_is_a_clear_error(
    empty_cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pymemcgbpf.clear_cache()
    monkeypatch.setattr(_program, "_file_of", lambda *_: str(tmp_path / "not-there.o"))
    with pytest.raises(BpfObjectError, match="cannot be read"):
        StatsReader(empty_cgroup, ["anon"], backend=BEST_BACKEND)
    with StatsReader(empty_cgroup, ["anon"]) as reader:
        assert reader.backend == "text"
        assert "cannot be read" in reader.fallback_reason


@pytest.mark.needs_bpf
def test_without_the_objects_of_run_iterators_serve_and_say_so(
    empty_cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (_program.RUN_DIR, _program.WALK_DIR):
        monkeypatch.setitem(_program._ALONE, name, str(tmp_path / f"{name}.o"))
    pymemcgbpf.clear_cache()
    kinds: list[Any] = [(StatsReader, "stream"), (TreeReader, "shared")]
    backend = "core" if HAS_ITERATOR else "auto"
    for kind, transport in kinds:
        with kind(empty_cgroup, ["anon"], backend=backend, flush=False) as reader:
            assert reader.transport == (transport if HAS_ITERATOR else "text")
            assert "_dir.o cannot be read" in reader.fallback_reason
            assert ": install pymemcgbpf again" in reader.fallback_reason


def test_a_process_without_free_descriptors_gets_a_clear_error(
    empty_cgroup: Path, way: Way
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with way.stats(empty_cgroup, ["anon"]) as reader:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            # One more at a time: each step of opening fails in its turn.
            outcomes: list[str] = []
            while taken and outcomes[-1:] != ["opened"]:
                try:
                    way.stats(empty_cgroup, ["anon"]).close()
                    outcomes.append("opened")
                except MemcgError as error:
                    outcomes.append(one_sentence(error))
                    assert error.errno == errno.EMFILE or "Too many open files" in str(error)
                os.close(taken.pop())
            assert len(outcomes) > 1
            assert outcomes[-1] == "opened"
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert reader.read() == {"anon": 0}


FEW_DESCRIPTORS = """
import os, resource, sys
import pymemcgbpf
path, kind, backend, transport, spare = sys.argv[1:]
options = {"max_depth": 1} if kind == "TreeReader" else {}
kept = []
for _ in "first", "later":
    used = len(os.listdir("/proc/self/fd")) - 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(spare), hard))
    make = getattr(pymemcgbpf, kind)
    kept.append(make(path, None, backend=backend, transport=transport, **options))
"""


@pytest.mark.needs_bpf
@pytest.mark.parametrize("kind", ["StatsReader", "TreeReader"])
def test_as_many_descriptors_as_are_said_suffice_for_a_reader(kind: str) -> None:
    def create(transport: str, spare: int) -> subprocess.CompletedProcess[str]:
        arguments = (str(HIERARCHY), kind, "core", transport, str(spare))
        code = (sys.executable, "-c", FEW_DESCRIPTORS, *arguments)
        return subprocess.run(code, capture_output=True, text=True, timeout=120)

    by_iterator = "stream" if kind == "StatsReader" else "shared"
    # libbpf may open the BTF of each module.
    modules = len(os.listdir("/sys/kernel/btf")) - 1
    for transport in ("run", by_iterator)[: 2 if HAS_ITERATOR else 1]:
        ran = create(transport, _load_checks.FOR_A_READER + modules)
        assert ran.returncode == 0, ran.stderr
        ran = create(transport, 28)
        assert ran.returncode == 1 and "takes up to 40 descriptors" in ran.stderr


def test_a_tree_that_cannot_grow_for_want_of_descriptors_grows_later(
    empty_cgroup: Path, tree_bpf_transport_way: Way
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    enable_memory(empty_cgroup)
    with tree_bpf_transport_way.tree(empty_cgroup, ["anon"]) as tree:
        for number in range(300):
            (empty_cgroup / str(number)).mkdir()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            # One for the iterator, not enough for another program.
            os.close(taken.pop())
            for _ in range(3):
                with pytest.raises(MemcgError, match="Too many open files") as caught:
                    tree.read()
                assert caught.value.errno == errno.EMFILE
                one_sentence(caught.value)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(tree.read()) == 301


def test_readers_work_with_the_standard_files_closed(empty_cgroup: Path, way: Way) -> None:
    """open() then gives 0, which the kernel's iterator takes for no file at all."""

    def work() -> None:
        for fd in (0, 1, 2):
            os.close(fd)
        with way.stats(empty_cgroup, ["anon"]) as reader:
            assert reader.read() == {"anon": 0}

    assert in_child(work) == 0


@pytest.mark.needs_bpf
def test_a_shortage_of_descriptors_is_not_remembered(empty_cgroup: Path) -> None:
    """libbpf keeps what it once found out of the kernel, were it only for want of files."""
    script = f"""
import os, resource, pymemcgbpf
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in range(5, 24):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        pymemcgbpf.StatsReader({str(empty_cgroup)!r}, ["anon"]).close()
    except pymemcgbpf.MemcgError as error:
        assert "oo many open files" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
pymemcgbpf.clear_cache()
with pymemcgbpf.StatsReader({str(empty_cgroup)!r}, ["anon"]) as reader:
    print(reader.backend)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == (f"{BEST_BACKEND}\n", "")
