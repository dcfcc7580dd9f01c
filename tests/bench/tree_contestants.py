# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The contestants that read a whole tree: the package, and what people use instead.

Each function makes the contestants of one section. *items* is None for all items. The values
that are compared are the number of cgroups, and the sum of each item over all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Optional

import pymemcgbpf
from pymemcgbpf import TreeReader, _options
from pymemcgbpf._bench import control
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_maps as _libbpf_maps
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.btf import Types
from pymemcgbpf._sources import tree_bpf as _tree_bpf
from pymemcgbpf._sources import tree_walkers as _tree_walkers
from tests.kernel.forest import Forest
from tests.kernel.oracle import V1_KEYS
from tests.kernel.surroundings import BEST_BACKEND, VERSION
from tests.kernel.ways import TREE_BPF_WAYS

from .c_programs import CProgram, Programs
from .contestants import constants_of, flushing_file
from .errors import BenchError
from .named_contestants import CGROUPS, Sample, Values, further_samples, samples
from .names import (
    C_DECODED,
    C_HASH,
    C_MAP,
    COPY,
    DICTS,
    OS_WALK,
    ROW_DICTS,
    TREE_TEXT,
    VIEW,
    Items,
    by,
)
from .runner import Contestant, timed

_SPARE_ROWS = 1000


def through_bpf(
    section: str, items: Items, forest: Forest, programs: Programs, stack: ExitStack
) -> Iterator[Contestant]:
    """The package by each backend and transport that works here, and C programs by the same.

    What users do with a walk is read by the best backend only.
    """
    cgroups = len(forest.paths)
    for backend, transport in TREE_BPF_WAYS:
        way = by(transport, "" if backend == BEST_BACKEND else backend)
        make_reader = functools.partial(
            TreeReader, forest.root, backend=backend, transport=transport
        )
        tree = stack.enter_context(make_reader(items))
        yield from _one_way(section, way, tree, cgroups, programs, stack)
        found: list[Sample] = []
        if backend == BEST_BACKEND:
            found += samples(tree)
            if items is not None:
                found += further_samples(tree, forest, make_reader)
        for name, batch, values, changes in found:
            batch = _per(batch, cgroups)
            yield Contestant(name + way, section, batch, values, C_MAP + way, changes)


def _one_way(
    section: str,
    way: str,
    tree: TreeReader,
    cgroups: int,
    programs: Programs,
    stack: ExitStack,
) -> Iterator[Contestant]:
    source = tree._source
    if not isinstance(source, _tree_bpf.MapSource):
        raise BenchError(f"{tree.path} is not read through BPF here: {tree.fallback_reason}")
    label = f"{section}{way}".replace(", ", "-").replace(" ", "-")
    constants = programs.directory / f"constants-{label}"
    by_directory = isinstance(source._walker, _tree_walkers.DirWalker)
    file = _program.WALK_DIR_FILE if by_directory else _program.OBJECT_FILE
    constants.write_bytes(constants_of(_program_of(source), file))
    count, room = str(len(tree.item_names)), str(cgroups + _SPARE_ROWS)
    flush = list(flushing_file(source._flush))

    def contestant(
        name: str, batch: Callable[[int], float], values: Callable[[], Values]
    ) -> Contestant:
        return Contestant(name, section, _per(batch, cgroups), values, C_MAP + way)

    mapped = stack.enter_context(
        CProgram(
            programs.executable("tree_map"),
            "walk" if by_directory else "run" if tree.transport == "run" else "share",
            file,
            constants,
            *(tree.path, count, room, *flush),
        )
    )
    yield contestant(C_MAP + way, mapped.batch, lambda: _named(tree.item_names, mapped.values()))

    def view() -> object:
        return tree.read(copy=False)

    def dicts() -> object:
        return [dict(row) for row in tree.read(copy=False)]

    def all_dicts() -> object:
        return tree.read(copy=False).dicts()

    def values() -> Values:
        return _sums(tree.read())

    yield contestant(VIEW + way, timed(view), values)
    yield contestant(COPY + way, timed(tree.read), values)
    yield contestant(DICTS + way, timed(all_dicts), values)
    yield contestant(ROW_DICTS + way, timed(dicts), values)
    if tree.transport == "run":
        return
    constants = programs.directory / f"constants-{label}-hash"
    hash_object = programs.bpf_object("hash_drain")
    constants.write_bytes(_hash_constants(hash_object, source))
    hashed = stack.enter_context(
        CProgram(
            programs.executable("hash_drain"),
            hash_object,
            constants,
            *(tree.path, count, *flush),
        )
    )
    yield contestant(
        C_HASH + way,
        hashed.batch,
        lambda: _named(tree.item_names, hashed.values()),
    )


def through_text(
    section: str,
    items: Items,
    root: Path,
    paths: Sequence[Path],
    way: str,
    programs: Programs,
    stack: ExitStack,
) -> Iterator[Contestant]:
    """Readers of every cgroup's memory.stat. On cgroup v1 it has fewer items, and other keys."""
    names = list(items) if items is not None else _all_names(root)
    keys = [V1_KEYS[name] if VERSION == 1 else name for name in names]
    wanted = dict(zip(keys, names))

    def contestant(
        name: str, batch: Callable[[int], float], values: Callable[[], Values]
    ) -> Contestant:
        return Contestant(name, section, _per(batch, len(paths)), values, C_MAP + way)

    tree = stack.enter_context(TreeReader(root, names, backend="text"))
    yield contestant(TREE_TEXT, timed(tree.read), lambda: _sums(tree.read()))

    listed = programs.directory / f"paths-{section}".replace(", ", "-").replace(" ", "-")
    listed.write_text("".join(f"{path}\n" for path in paths))
    kept = stack.enter_context(CProgram(programs.executable("tree_text"), listed, *keys))
    yield contestant(C_DECODED, kept.batch, lambda: _named(names, kept.values()))

    walk = control.walked(str(root), keys)

    def values() -> Values:
        found = walk().values()
        sums = {name: sum(each[key] for each in found) for key, name in wanted.items()}
        return {CGROUPS: len(found), **sums}

    yield contestant(OS_WALK, timed(walk), values)


def _per(batch: Callable[[int], float], cgroups: int) -> Callable[[int], float]:
    """A batch that returns the nanoseconds for one cgroup instead of a whole walk."""
    return lambda walks: batch(walks) / cgroups


def _named(names: Sequence[str], values: Sequence[int]) -> Values:
    return dict(zip((CGROUPS, *names), values))


def _sums(snapshot: pymemcgbpf.Snapshot) -> Values:
    return {
        CGROUPS: len(snapshot),
        **{name: sum(snapshot.column(name, absent=0)) for name in snapshot.item_names},
    }


def _all_names(root: Path) -> list[str]:
    with TreeReader(root, backend="text") as tree:
        return [name for name in tree.item_names if name != "memory.current"]


def _program_of(source: _tree_bpf.MapSource) -> Optional[_program.Program]:
    walker = source._walker
    if isinstance(walker, _tree_walkers.IteratorWalker):
        return walker._link._program
    return walker._program if walker else None


def _hash_constants(path: Path, source: _tree_bpf.MapSource) -> bytes:
    """The constants of hash_drain.bpf.c for the items of a reader."""
    lib = _libbpf.load()
    data = path.read_bytes()
    opened = lib.bpf_object__open_mem(data, len(data), None)
    try:
        bpf_map = lib.bpf_object__find_map_by_name(opened, b".rodata")
        address, size = _libbpf_maps.initial_value(lib, bpf_map)
        places = Types(lib, lib.bpf_object__btf(opened)).variables(".rodata")
        constants = source._plan.constants(source._flush.mode, _options.PRE)
        for name, value in constants.items():
            _libbpf.poke(address + places[name][0], value)
        return _libbpf.peek(address, size)
    finally:
        lib.bpf_object__close(opened)
