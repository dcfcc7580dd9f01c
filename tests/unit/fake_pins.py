# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A fake of what pins are made of: the choice of a backend, programs, links and iterators."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pymemcgbpf import BackendUnavailableError, MemcgError, _wire
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.plan import ReadPlan, Term, Terms
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._options import Request
from pymemcgbpf._sources.choose import Selection

from .fake_libbpf import FakeIteratorMaker
from .tree_rows import pack

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
