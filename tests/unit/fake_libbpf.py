# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A libbpf that does as the test says, at the seam of pymemcgbpf._bpf.libbpf.load()."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Callable

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import reload as _reload
from pymemcgbpf._descriptors import Owned, file_identity, opened_at

from .printing import say

# The global variables of the object, which test_build_object.py holds against it: the constants
# that are set before load, and what the programs leave behind.
RODATA = {
    "backend": 4,
    "flush": 4,
    "flush_each": 4,
    "memory_cgrp_id": 4,
    "calls_loop": 1,
    "page_size": 4,
    "counter_max": 4,
    "counter_parent": 4,
    "nr_blocks": 4,
    "blocks": 672,
    "nr_terms": 4,
    "terms": 9216,
    "nr_names_fit": 4,
    "text_size": 4,
    "can_rename": 1,
    "header": 1040,
    "program_key": 8,
    "children_of": 8,
    "max_level": 4,
}
BSS = {"walking": 12344, "scratch_taken": 128}
# Those of the object with the index tables. The fake has them all in one.
TABLES_RODATA = {
    "stats_index_name": 23,
    "events_index_name": 24,
    "stats_index_size": 4,
    "events_index_size": 4,
}
TABLES_BSS = {"stats_index": 1024, "events_index": 1024}
# Those of the object that reads a cgroup by its open directory.
DIR_RODATA = {
    **{name: RODATA[name] for name in ("page_size", "counter_max", "counter_parent")},
    **dict.fromkeys(("limit_value", "limit_counter"), 4),
    "asks_on_root": 1,
    "word_type": 4,
    "program_key": 8,
    "offsets": 60,
    "nr_items": 4,
}
# Those of the object that walks from an open directory.
WALK_RODATA = {
    **DIR_RODATA,
    **{name: RODATA[name] for name in ("nr_names_fit", "text_size", "can_rename")},
    "max_depth": 4,
    "walk_offsets": 56,
    "order": 4,
    "longest_ns": 8,
    "steps_at_once": 4,
    "searches": 1,
}
WALK_BSS = {"walk": 33408}
# Those of the object that publishes trees.
TREE_RODATA = {
    **{
        name: size
        for name, size in RODATA.items()
        if name not in ("nr_names_fit", "text_size", "program_key")
    },
    **dict.fromkeys(("chunk_size", "half_chunks", "rows_per_chunk"), 4),
    "with_names": 1,
    "root_id": 8,
    "interval_ns": 8,
    "program_key": 8,
    "sets_by_impl": 1,
}
TREE_BSS = {"nr_copied": 4, "walk": 8224}
_ALL_RODATA = {**RODATA, **TABLES_RODATA, **DIR_RODATA, **WALK_RODATA, **TREE_RODATA}
_ALL_BSS = {**TABLES_BSS, **BSS}


class FakeLibbpf:
    """Every function succeeds, but for those that the test lets fail.

    Attributes:
        fails: function's name → the errno that it fails with.
        says: what libbpf prints before bpf_object__load returns.
        calls: the functions called, in order.
        memory: what the maps of rows, names and answers hold, as large as they were made.
        autoload, autocreate: program's or map's name → whether it is wanted.
        sizes: map's name → what was set of it.
        reused: map's name → the descriptor of the existing map that it stands for.
        returns: what a program that is run returns.
        used: the programs that were asked for their descriptor.
        linked: the descriptors of those that were attached.
    """

    version = "1.5"

    def __init__(
        self,
        bss_file: IO[bytes],
        rows: IO[bytes],
        names: IO[bytes],
        answers: IO[bytes],
        tree: IO[bytes],
        timer: IO[bytes],
    ) -> None:
        self.bss_file = bss_file  # what the maps' descriptors lead to
        self.memory = {"rows": rows, "names": names, "answers": answers}
        self.memory.update(memcg_tree=tree, memcg_timer=timer)
        self.fails: dict[str, int] = {}
        self.says = ""
        self.calls: list[str] = []
        self.autoload: dict[str, bool] = {}
        self.autocreate: dict[str, bool] = {}
        self.sizes: dict[str, dict[str, int]] = {}
        self.reused: dict[str, int] = {}
        self.returns = 0
        self.used: list[str] = []
        self.linked: list[int] = []
        self.rodata = ctypes.create_string_buffer(sum(_ALL_RODATA.values()))
        self.bss = ctypes.create_string_buffer(sum(_ALL_BSS.values()))

    @property
    def no_print(self) -> int:
        return 1

    def descriptor(self, name: str, *arguments: Any) -> Owned:
        """A descriptor of its own; another program's or map's number is never one to be closed."""
        self._call(name, *arguments)
        return opened_at(os.devnull, os.O_RDONLY)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("bpf_", "btf_", "libbpf_")):
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        self.calls.append(name)
        if self.says and name == "bpf_object__load":
            say(0, self.says.encode())
        if name in self.fails:
            raise MemcgError(f"{name}: failed", errno=self.fails[name], call=name)
        if name == "bpf_object__find_program_by_name":
            return arguments[1].decode()
        if name == "bpf_object__find_map_by_name":
            sections = {b".bss": self.bss, b".rodata": self.rodata}
            return sections.get(arguments[1], arguments[1].decode())
        if name == "bpf_map__initial_value":
            arguments[1]._obj.value = len(arguments[0])
            return ctypes.addressof(arguments[0])
        if name == "bpf_map__fd":
            return self._map_fd(arguments[0])
        if name == "bpf_prog_test_run_opts":
            arguments[1]._obj.retval = self.returns
            return 0
        if name == "bpf_program__fd":
            self.used.append(arguments[0])
            return self.memory["rows"].fileno()  # any that can be duplicated
        if name == "bpf_obj_get_info_by_fd":
            return self._tell(*arguments)
        if name == "bpf_link_create":
            self.linked.append(arguments[0])
        if name == "bpf_program__set_autoload":
            self.autoload[arguments[0]] = arguments[1]
        if name == "bpf_map__set_autocreate":
            self.autocreate[arguments[0]] = arguments[1]
        if name == "bpf_map__reuse_fd":
            self.reused[arguments[0]] = arguments[1]
        if name in ("bpf_map__set_value_size", "bpf_map__set_max_entries"):
            what = name[len("bpf_map__set_") :]
            self.sizes.setdefault(arguments[0], {})[what] = arguments[1]
        return None if name == "libbpf_set_print" else 7

    def _tell(self, fd: int, info: Any, size: Any) -> int:
        """What tells an open file from others, in place of a BPF object's id."""
        assert size._obj.value == ctypes.sizeof(info._obj)
        try:
            info._obj.type, info._obj.id = file_identity(fd)
        except OSError as error:
            call = "bpf_obj_get_info_by_fd"
            raise MemcgError(f"{call}: failed", errno=error.errno, call=call) from error
        return 0

    def _map_fd(self, bpf_map: Any) -> int:
        if bpf_map is self.bss:
            os.pwrite(self.bss_file.fileno(), self.bss.raw, 0)
            return self.bss_file.fileno()
        if bpf_map in self.reused:
            return self.reused[bpf_map]
        made = {"value_size": 32, "max_entries": 1, **self.sizes.get(bpf_map, {})}
        os.ftruncate(self.memory[bpf_map].fileno(), made["value_size"] * made["max_entries"])
        return self.memory[bpf_map].fileno()

    def constant(self, name: str) -> bytes:
        """A constant's bytes, as they were set before load."""
        offset, size = _places(_ALL_RODATA)[name]
        return self.rodata.raw[offset : offset + size]

    def opened(self) -> int:
        """Objects opened and not closed."""
        opened = self.calls.count("bpf_object__open_mem") - ("bpf_object__open_mem" in self.fails)
        return opened - self.calls.count("bpf_object__close")


class FakeIteratorMaker:
    """Stands in for _libbpf_programs.IteratorMaker.

    Args:
        create: in place of the function of the C library: a new descriptor or -errno.
        link_fd: what it is given.
    """

    def __init__(self, create: Callable[[int], int], link_fd: int) -> None:
        self._create, self._link_fd = create, link_fd

    def __call__(self) -> Owned:
        made = self._create(self._link_fd)
        if made < 0:
            call = "bpf_iter_create"
            raise MemcgError(f"{call}: failed", errno=-made, call=call)
        return select.epoll.fromfd(made)

    def close(self) -> None:
        self._link_fd = -1


def _places(sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    places, offset = {}, 0
    for name, size in sizes.items():
        places[name] = (offset, size)
        offset += size
    return places


class _FakeTypes:
    def __init__(self, lib: Any, btf: Any) -> None:
        pass

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        return _places({".rodata": _ALL_RODATA, ".bss": _ALL_BSS}[section])


@contextlib.contextmanager
def installed(
    monkeypatch: pytest.MonkeyPatch, kind: type[FakeLibbpf] = FakeLibbpf
) -> Iterator[FakeLibbpf]:
    """Puts a fake in the library's place."""
    monkeypatch.setattr(_btf, "Types", _FakeTypes)
    monkeypatch.setattr(_reload, "_kept", {})
    with contextlib.ExitStack() as stack:
        lib = kind(*(stack.enter_context(tempfile.TemporaryFile()) for _ in range(6)))
        monkeypatch.setattr(_libbpf, "load", lambda: lib)
        yield lib
