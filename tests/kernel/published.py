# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Trees that are pinned for a test, and refreshed until its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from pymemcgbpf import MemcgError, PinnedReader, PinnedTree, PinNotFoundError, pin_tree, unpin
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf.snapshot import Snapshot

from .cgroups import SYS_BPF
from .pins import CAN_FLUSH
from .surroundings import VERSION, symbols

BY_KERNEL = VERSION == 2 and bool(symbols("bpf_wq_start"))
"""Whether this kernel refreshes pinned trees, if no flush is asked for or it has one for BPF."""


@contextlib.contextmanager
def published(
    root: Path, path: Path, items: Any = None, *, every: float = 0.05, **options: Any
) -> Iterator[PinnedTree]:
    """A pinned tree, which a thread refreshes if the kernel does not."""
    options.setdefault("flush", CAN_FLUSH)
    tree = pin_tree(root, path, items, every=every, **options)
    over = threading.Event()

    def refresh() -> None:
        while not over.wait(every):
            with contextlib.suppress(MemcgError):
                tree.refresh()

    thread = threading.Thread(target=refresh)
    if tree.refreshed_by == "holder":
        thread.start()
    try:
        yield tree
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        tree.close()
        with contextlib.suppress(PinNotFoundError):
            unpin(path)


def snapshot_of(reader: PinnedReader) -> Snapshot:
    """What a reader of a pinned tree reads."""
    snapshot = reader.read()
    assert isinstance(snapshot, Snapshot)
    return snapshot


def progress(path: Path) -> _layout.Progress:
    """What the head of a pinned tree says now."""
    with (path / _layout.STREAM).open("rb", buffering=0) as stream:
        head = stream.read(_layout.HEAD_SIZE)
    assert head is not None and len(head) == _layout.HEAD_SIZE
    return _layout.decode_progress(head)


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it has not become so"
        time.sleep(0.01)


# --- the kernel's maps and programs

_GET_NEXT_PROG, _GET_NEXT_MAP, _PROG_FD_BY_ID, _MAP_FD_BY_ID, _GET_INFO = 11, 12, 13, 14, 15
_MAP_NAME_AT, _PROG_NAME_AT, _RUNS_AT = 24, 64, 200  # in struct bpf_map_info and bpf_prog_info


def maps_called(name: str) -> int:
    """How many maps of this name the kernel has, whoever holds them."""
    found = (_name(info, _MAP_NAME_AT) for info in _infos(_GET_NEXT_MAP, _MAP_FD_BY_ID))
    return sum(each == name for each in found)


def programs_run() -> dict[str, int]:
    """How often the programs of each name were run, as far as runs are counted."""
    found: dict[str, int] = {}
    for info in _infos(_GET_NEXT_PROG, _PROG_FD_BY_ID):
        name = _name(info, _PROG_NAME_AT)
        found[name] = found.get(name, 0) + int(struct.unpack_from("=Q", info, _RUNS_AT)[0])
    return found


@contextlib.contextmanager
def counted_runs() -> Iterator[None]:
    """Has the kernel count how often programs are run."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text(before)


def _name(info: bytes, at: int) -> str:
    return info[at : at + 16].rstrip(b"\0").decode()


def _infos(next_id: int, fd_by_id: int) -> Iterator[bytes]:
    """What the kernel says of all its maps, or of all its programs."""
    number = 0
    while True:
        asked = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0))
        if _bpf(next_id, asked) < 0:
            return
        number = struct.unpack_from("=I", asked, 4)[0]
        fd = _bpf(fd_by_id, ctypes.create_string_buffer(struct.pack("=III", number, 0, 0)))
        if fd < 0:
            continue  # it was freed meanwhile
        try:
            info = ctypes.create_string_buffer(256)
            address = ctypes.addressof(info)
            told = ctypes.create_string_buffer(struct.pack("=IIQ", fd, len(info), address), 16)
            assert _bpf(_GET_INFO, told) == 0
            yield info.raw
        finally:
            os.close(fd)


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    call = SYS_BPF[os.uname().machine]
    return int(libc.syscall(call, command, attributes, len(attributes)))
