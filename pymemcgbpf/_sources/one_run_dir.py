# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup through BPF, by one system call that finds it by its open directory."""

from __future__ import annotations

import errno
import os
import struct
from typing import Callable, Optional

from .. import _wire
from .._bpf import program as _program
from .._bpf import run_dir as _run_dir
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import files as _files
from .._cgroup.directory import Cgroup
from ..errors import MemcgError
from . import flush as _flush
from . import program_cache as _program_cache
from .one_values import absent, another_reader_s, closed_run, dict_maker, present

_FAILED, _TAG_BITS = _run_dir.FAILED, _run_dir.TAG_BITS
_SEQUENCE = (1 << _TAG_BITS) - 1
_TRIES = 1000
# Whether a CPU sees the stores of another in their order: the tag's before those of the values.
# Other machines look at the tag once more, when all of these have arrived with certainty but for a
# store that is held up for longer than this takes.
_KEEPS_ORDER = os.uname().machine == "x86_64"


class RunDirSource:
    """One cgroup, found by its open directory. It holds no reference to the cgroup.

    The program writes into the slot of its CPU, in a map that all sources and processes with this
    program share. Another call on that CPU may overwrite the slot before it is read here; the tag
    tells, and then the program is run again.
    """

    def __init__(self, cgroup: Cgroup, plan: ReadPlan, flush: bool) -> None:
        self.names = tuple(plan.terms)
        self._make = dict_maker(self.names, unused=1)  # the tag
        self._path, self._identity = cgroup.path, cgroup.identity
        self._can_vanish = plan.has_pressure
        self._program: Optional[_program.Program] = None
        self._flush = _flush.NO_FLUSH
        self._directory = _files.CgroupFile(cgroup, ".")
        try:
            program = _program_cache.cached(_program.RUN_DIR, plan, _terms.FLUSH_NONE)
            self._program = program
            self._answers = program.shared_map(_program.ANSWERS)
            self._slot_size = _run_dir.slot_size(plan)
            self._nr_words = plan.nr_words
            self._slot = struct.Struct(f"={len(self.names) + 1}Q").unpack_from  # values and tag
            self._tag = cgroup.id << _TAG_BITS & (1 << 64) - 1
            runner = _libbpf_programs.ArgumentRunner(
                program.fd, (self._directory.fd, cgroup.id, program.key)
            )
            self._run: Callable[[], int] = runner.run
            self._returned = runner.returned
            self._flush = _flush.before_reading(cgroup, plan, flush, _terms.FLUSH_NONE)
            self._flush_reads = self._flush.reads
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, int]:
        """The current values by name."""
        if self._flush_reads:
            self._flush.by_file()
        tries = 0
        while True:
            error = self._run()
            if error:
                raise _libbpf.failure(-error, "bpf_prog_test_run_opts")
            returned = self._returned[0]
            if returned >= _FAILED:
                raise self._explain(returned - _FAILED)
            at = (returned >> _TAG_BITS) * self._slot_size
            tag = self._tag | returned & _SEQUENCE
            found = self._slot(self._answers, at)
            if found[-1] == tag and (_KEEPS_ORDER or self._slot(self._answers, at)[-1] == tag):
                values = self._make(*found)
                return present(values) if self._can_vanish else values
            tries += 1
            if tries == _TRIES:
                raise _always_overwritten()

    def read_words(self) -> tuple[int, ...]:
        """The words that the program has copied from the kernel's structures, those of one block of
        the plan after those of the other."""
        for _ in range(_TRIES):
            self.read()
            returned = self._returned[0]
            at = (returned >> _TAG_BITS) * self._slot_size
            words_at = at + 8 * (len(self.names) + 1)
            words = struct.unpack_from(f"={self._nr_words}Q", self._answers, words_at)
            if self._slot(self._answers, at)[-1] == self._tag | returned & _SEQUENCE:
                return words
        raise _always_overwritten()

    def probe_missing(self) -> set[str]:
        """Reads once, and returns the items that this kernel does not keep."""
        return absent(self.names, self.read())

    @property
    def is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        program = self._program is not None and self._program.is_lost
        return program or self._directory.is_lost or self._flush.is_lost

    def _explain(self, status: int) -> MemcgError:
        if status == _wire.OTHER:
            return another_reader_s()
        if status == _wire.NO_SLOT:
            return MemcgError("the program has no slot for the CPU that it ran on")
        if status == _wire.NOT_OPEN:
            return _diagnosis.why_not_open(self._path, self._identity)
        return _diagnosis.why_unreadable(self._path, self._identity)

    def close(self) -> None:
        """Releases the program and closes the directory. Calling it again does nothing."""
        self._run = closed_run  # another file may soon get the descriptor's number
        self._program = None
        self._directory.close()
        self._flush.close()


def _always_overwritten() -> MemcgError:
    return MemcgError(
        "other calls on this CPU were always quicker to use the program's slot",
        errno=errno.EAGAIN,
        call="bpf_prog_test_run_opts",
    )
