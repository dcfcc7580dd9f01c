# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A fake of what pins are made of: the choice of a backend, programs, links and iterators."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from pymemcgbpf import BackendUnavailableError, MemcgError, _options, _wire
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.plan import ReadPlan, Term, Terms
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._cgroup.walk_paths import Origin, WalkPaths
from pymemcgbpf._descriptors import Owned, opened_at
from pymemcgbpf._options import Request
from pymemcgbpf._pins import tree_layout as _layout
from pymemcgbpf._sources.choose import Selection
from pymemcgbpf._sources.tree_bpf import TreeSourceFactory

from .fake_libbpf import FakeIteratorMaker
from .tree_rows import FakeTree, pack

TERMS: Terms = {name: (Term(1, at),) for at, name in enumerate(("anon", "pgfault"))}
RECIPE = ReadPlan("core", TERMS)


class Made:
    """A fake of a loaded program and of its link."""

    fd = 5

    def __init__(self, name: str, constants: dict[str, bytes]) -> None:
        assert name == _program.STREAM
        self.constants = constants
        self.order = 0
        self.open = 0
        self.pinned: list[str] = []

    def attach(self, cgroup_fd: int, order: int) -> Made:
        assert cgroup_fd > 0
        self.order = order
        self.open += 1
        return self

    def pin(self, path: str) -> None:
        if Pins.refuses:
            raise MemcgError("x", errno=Pins.refuses, call="bpf_obj_pin")
        Path(path).touch()
        self.pinned.append(path)

    def close(self) -> None:
        self.open -= 1

    def number(self, constant: str) -> int:
        return int.from_bytes(self.constants.get(constant, b"\0"), "little")


class Pins:
    """A fake of the kernel.

    Attributes:
        made: the programs loaded, in order.
        rows: what an iterator writes; without the trailer if *full*.
        refuses: the error number with which pinning fails, or 0.
    """

    refuses = 0

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.made: list[Made] = []
        self.rows = [_wire.RawRow(9, 1, 1, 0, (1, 2))]
        self.full = False
        self.plan = RECIPE
        self.backends: list[str] = []

    def program(self, name: str, constants: dict[str, bytes]) -> Made:
        self.made.append(Made(name, constants))
        return self.made[-1]

    def maker(self, link_fd: int) -> FakeIteratorMaker:
        def create(_: int) -> int:
            data = self.made[-1].constants["header"] + pack(*self.rows)
            if not self.full:
                data += _wire.TRAILER.pack(_wire.END_MAGIC, len(self.rows), 1)
            (self.folder / "stream").write_bytes(data)
            return os.open(self.folder / "stream", os.O_RDONLY)

        return FakeIteratorMaker(create, link_fd)

    def choose(self, cgroup: Cgroup, request: Request, maker: Any) -> Selection[Any]:
        """Does the part of _choose.choose() that matters here."""
        self.backends.append(request.backend)
        if request.backend != "core":
            raise BackendUnavailableError("no such function")
        source = maker.bpf(cgroup, self.plan, request.flush, "stream")
        try:
            absent = source.probe_missing()
        except BaseException:
            source.close()
            raise
        if absent:
            source.close()
            terms = {name: parts for name, parts in self.plan.terms.items() if name not in absent}
            self.plan = self.plan._replace(terms=terms)
            self.rows = [row._replace(values=row.values[: len(terms)]) for row in self.rows]
            return self.choose(cgroup, request, maker)
        return Selection(source, source.names, "core", "stream", "")

    def open(self) -> int:
        return sum(made.open for made in self.made)


# --- pinned trees


class TreeProgram:
    """A fake of one of the programs of pinned trees, with its maps."""

    def __init__(
        self, kernel: TreeKernel, name: str, constants: dict[str, bytes], maps: dict[str, Any]
    ) -> None:
        self.kernel, self.name, self.constants, self.maps = kernel, name, constants, maps
        self.fd = 1000 + len(kernel.programs)
        self.key = 77 if name == _program.TREE_PUBLISH else 0
        self.is_open, self.is_frozen = True, False
        self.links: list[TreeLink] = []

    def number(self, constant: str) -> int:
        """A constant as a number."""
        return int.from_bytes(self.constants.get(constant, b"\0"), sys.byteorder)

    def size(self, name: str) -> _program.MapSize:
        size: _program.MapSize = self.maps[name]
        return size._replace(fd=33)

    def fill(self, name: str, value: bytes) -> None:
        with self.kernel.step("fill"):
            assert name == _program.TREE and not self.is_frozen
            self.kernel.create_tree(self.maps[name])
            self.kernel.tree[: len(value)] = value

    def freeze(self, name: str) -> None:
        with self.kernel.step("freeze"):
            assert name == _program.TREE
            self.is_frozen = True

    def attach_to_map(self, name: str) -> TreeLink:
        with self.kernel.step("attach stream"):
            assert (self.name, name) == (_program.TREE_STREAM, _program.TREE)
        self.links.append(TreeLink(self))
        return self.links[-1]

    def attach(self, cgroup_fd: int, order: int) -> TreeLink:
        with self.kernel.step("attach start"):
            os.fstat(cgroup_fd)
            assert (self.name, order) == (_program.TREE_START, _options.SELF)
        self.links.append(TreeLink(self))
        return self.links[-1]

    def map_beginning(self, name: str, size: int) -> mmap.mmap:
        with self.kernel.step("map"):
            return self.kernel.map_tree(size)

    def pin_map(self, name: str, path: str) -> None:
        assert name in self.maps
        self.kernel.pin(path)

    def close(self) -> None:
        self.is_open = False


class TreeLink:
    """A fake of the link of one of these programs."""

    def __init__(self, program: TreeProgram) -> None:
        self.program, self.fd, self.is_open = program, program.fd + 500, True

    def pin(self, path: str) -> None:
        self.program.kernel.pin(path)

    def close(self) -> None:
        self.is_open = False


class TreeKernel(Pins):
    """A fake of what pinned trees are made of.

    Attributes:
        programs: the programs of pinned trees that were loaded, in order.
        steps: what was done, in order.
        interrupt: before and after each step, it is called with the step's name.
        modes: the mode of the directory when each of its files was created.
        tree: the memory of the map.
        started: what the program says that starts the timer, call after call; nothing if None.
            The last one is said again.
        walk: the first walk of the kernel: called when the timer was started.
        source: what a TreeReader reads from.
        run_error: what running the program of the holder returns.
        status: what that program answers instead of doing anything; None to do its work.
        runs: the states that it was told.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder, root)
        self.programs: list[TreeProgram] = []
        self.steps: list[str] = []
        self.interrupt: Callable[[str], None] = lambda step: None
        self.modes: dict[str, int] = {}
        self._file: Optional[Owned] = None
        self.tree = mmap.mmap(-1, 1)
        self.started: list[Optional[int]] = [0]
        self.walk: Callable[[], None] = self.publish_first
        self.source = FakeTree(b"", 0)
        self.requests: list[Request] = []
        self.run_error = 0
        self.status: Optional[int] = None
        self.runs: list[int] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that may fail before it is done, and be interrupted right after it."""
        self.interrupt(name)
        yield
        self.steps.append(name)
        self.interrupt(f"{name} done")

    # --- the programs

    def program(
        self, name: str, constants: dict[str, bytes], maps: Optional[dict[str, Any]] = None
    ) -> Any:
        if name == _program.STREAM:
            return super().program(name, constants)
        # If it is interrupted, nobody has the program, so it is freed.
        with self.step(f"load {name}"):
            pass
        self.programs.append(TreeProgram(self, name, constants, maps or {}))
        return self.programs[-1]

    def named(self, name: str) -> TreeProgram:
        """The last program of this name."""
        return [each for each in self.programs if each.name == name][-1]

    def open(self) -> int:
        """How many programs and links are open."""
        links = [link.is_open for program in self.programs for link in program.links]
        programs = [program.is_open for program in self.programs]
        return super().open() + sum(programs) + sum(links)

    def pin(self, path: str) -> None:
        with self.step(f"pin {os.path.basename(path)}"):
            if Pins.refuses:
                raise MemcgError("x", errno=Pins.refuses, call="bpf_obj_pin")
            place = Path(path)
            with place.open("xb") as file:
                if place.name == _layout.STREAM:
                    file.write(self.tree[: _layout.HEAD_SIZE])
            self.modes[place.name] = place.parent.stat().st_mode & 0o7777

    def maker(self, link_fd: int) -> FakeIteratorMaker:
        if link_fd < 1000:
            return super().maker(link_fd)

        def create(_: int) -> int:
            assert self.named(_program.TREE_START).is_open
            with self.step("start"):
                error = self.started.pop(0) if len(self.started) > 1 else self.started[0]
                said = b"" if error is None else struct.pack("=q", error)
                (self.folder / "said").write_bytes(said)
            if error == 0:
                self.walk()
            return os.open(self.folder / "said", os.O_RDONLY)

        return FakeIteratorMaker(create, link_fd)

    def choose(self, cgroup: Cgroup, request: Request, maker: Any) -> Selection[Any]:
        if not isinstance(maker, TreeSourceFactory):
            return super().choose(cgroup, request, maker)
        self.requests.append(request)
        root = os.path.realpath(cgroup.path)
        self.renew_source()
        if not self.source.paths.paths:
            self.set_paths(root, *(f"{root}/{at}" for at in range(1, self.source.number)))
        return Selection(self.source, request.names or tuple(TERMS), "fake", "run", "")

    def renew_source(self) -> None:
        """Replaces a source that is closed."""
        if self.source.closes:
            paths = self.source.paths
            self.source = FakeTree(self.source.memory, self.source.number)
            self.source.paths = paths

    def set_paths(self, root: str, *below: Optional[str]) -> None:
        """Gives the rows of the reader's next walks these paths."""
        paths = (root, *below)[: self.source.number]
        self.source.paths = WalkPaths(Origin(), root, None, paths, False)

    # --- the map

    def create_tree(self, size: _program.MapSize) -> None:
        """Creates the map."""
        self.close()
        self._file = opened_at(str(self.folder), os.O_TMPFILE | os.O_RDWR)
        os.ftruncate(self._file.fileno(), size.value_size * size.entries)
        self.tree = self.map_tree(size.value_size * size.entries)

    def map_tree(self, size: int) -> mmap.mmap:
        """Maps the beginning of the map."""
        assert self._file is not None
        return mmap.mmap(self._file.fileno(), size)

    def close(self) -> None:
        """Frees the map."""
        self.tree.close()
        if self._file is not None:
            self._file.close()

    @property
    def head(self) -> _layout.Head:
        """What never changes in the map."""
        return _layout.decode_head(self.tree)

    @property
    def progress(self) -> _layout.Progress:
        """What changes in the map with each walk."""
        return _layout.decode_progress(self.tree)

    def set_progress(self, **changes: int) -> None:
        """Changes what changes in the map with each walk."""
        changed = self.progress._replace(**changes)
        _layout.PROGRESS.pack_into(self.tree, _layout.PROGRESS_AT, *changed)

    def publish_first(self) -> None:
        """The kernel's first walk, with nothing in it."""
        self.set_progress(writing=1, written=1, walks=1, state=_layout.ALIVE)

    def published(self) -> PublishedWalk:
        """The walk that was published last."""
        division, number = self.head.geometry, self.progress.written
        half = _layout.decode_half(self.tree, number)
        start, size = division.half_at(number), division.chunk_size
        chunks = [
            self.tree[start + at * size :][:size]
            for at in range(
                division.half_chunks - 1, division.half_chunks - 1 - half.text_chunks, -1
            )
        ]
        names = _layout.decode_text(chunks, half.nr_rows) if chunks else []
        rows = self.tree[start : start + half.nr_rows * division.row_size]
        path = _layout.root_path(self.tree, number).partition(b"\0")[0]
        return PublishedWalk(half, rows, names, path)

    # --- the program of the holder

    def runner(self, program_fd: int, call: bytearray) -> Callable[[], int]:
        """Stands in for _libbpf_programs.runner()."""

        def run() -> int:
            program = self.named(_program.TREE_PUBLISH)
            assert program.fd == program_fd
            with self.step("run"):
                error = self.run_error if program.is_open else -errno.EBADF
                if not error:
                    self._tree_publish(program, call)
            return error

        return run

    def _tree_publish(self, program: TreeProgram, call: bytearray) -> None:
        """What tree_publish() of bpf_src/pinned_tree.bpf.c does."""
        *fields, _ = _layout.WALK.unpack_from(call)
        key, rows, text, path, started, ended, due, signature, nr_rows, chunks, state = fields
        assert key == program.key
        status = _wire.DONE if self.status is None else self.status
        _layout.WALK.pack_into(call, 0, *fields, status)
        if status != _wire.DONE:
            return
        self.runs.append(state)
        before = self.progress
        self.set_progress(
            walks=before.walks + 1, walks_ns=before.walks_ns + ended - started, due_ns=due
        )
        if state != _layout.ALIVE:
            self.set_progress(state=state, needed=nr_rows)
            return
        header = _wire.decode_header(program.constants["header"])
        row_size = _wire.row_size(len(header.item_numbers))
        chunk_size, half_chunks = program.number("chunk_size"), program.number("half_chunks")
        number = before.written + 1
        start = (1 + (number & 1) * half_chunks) * chunk_size
        assert -(-nr_rows // program.number("rows_per_chunk")) + chunks <= half_chunks
        self.tree[start : start + nr_rows * row_size] = ctypes.string_at(rows, nr_rows * row_size)
        for at in range(chunks):
            begin = start + (half_chunks - 1 - at) * chunk_size
            chunk = ctypes.string_at(text + at * chunk_size, chunk_size)
            self.tree[begin : begin + chunk_size] = chunk
        half = (number, started, ended, signature, nr_rows, chunks)
        at = _layout.HALVES_AT + (number & 1) * _layout.HALF_SIZE
        _layout.HALF.pack_into(self.tree, at, *half)
        at += _layout.HALF.size
        self.tree[at : at + _layout.PATH_SIZE] = ctypes.string_at(path, _layout.PATH_SIZE)
        self.set_progress(writing=number, written=number, state=_layout.ALIVE)


class PublishedWalk(NamedTuple):
    """A walk as readers find it: its half, its rows, the names, and the path of the root."""

    half: _layout.Half
    rows: bytes
    names: list[bytes]
    root_path: bytes
