# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""One cgroup through BPF, by one system call that finds it by its open directory."""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Sequence
from typing import Callable, NoReturn, Optional

from .. import _row_dicts, _wire
from .._bpf import program as _program
from .._bpf import run_dir as _run_dir
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.plan import ReadPlan
from .._cgroup import diagnosis as _diagnosis
from .._cgroup import files as _files
from .._cgroup.diagnosis import Identity
from .._cgroup.directory import Cgroup
from ..errors import MemcgError
from . import flush as _flush
from . import program_cache as _program_cache
from .one_values import absent, another_reader_s, present

_TRIES = 1000
# Whether a CPU sees the stores of another in their order: the answer's number before the values.
# Other machines look at the number once more, when all of these have arrived with certainty but for
# a store that is held up for longer than this takes.
_KEEPS_ORDER = os.uname().machine == "x86_64"

# Runs the program once. It returns None if another call has overwritten the answer.
_ONCE = """
def bind(run, fail, returned, explain, slots, cgroup_id):
    def once():
        error = run()
        if error:
            fail(error)
        answer = returned[0]
        if answer >= {failed}:
            explain(answer - {failed})
        {values}owner, found = slots[answer >> {bits}]()
        if found == answer{unless_late} and owner == cgroup_id:
            {result}
    return once
"""


class RunDirSource:
    """One cgroup, found by its open directory. It holds no reference to the cgroup.

    The program writes into the slot of its CPU, in a map that all sources and processes with this
    program share. Another call on that CPU may overwrite the slot before it is read here; the
    number of the answer tells, and then the program is run again.
    """

    def __init__(self, cgroup: Cgroup, plan: ReadPlan, flush: bool) -> None:
        self.names = tuple(plan.terms)
        self._can_vanish = plan.has_pressure
        self._program: Optional[_program.Program] = None
        self._runner: Optional[_libbpf_programs.ArgumentRunner] = None
        self._flush = _flush.NO_FLUSH
        self._directory = _files.CgroupFile(cgroup, ".")
        self.root = cgroup._replace(fd=self._directory.fd, owner=None)  # open until close()
        try:
            program = _program_cache.cached(_program.RUN_DIR, plan, _terms.FLUSH_NONE)
            self._program = program
            self._runner = runner = _libbpf_programs.ArgumentRunner(
                program.fd, (self._directory.fd, cgroup.id, program.key)
            )
            self._returned = runner.returned
            self._answers = program.shared_map(_program.ANSWERS)
            self._slot_size = _run_dir.slot_size(plan)
            self._nr_words = plan.nr_words
            # For each CPU, a function that returns the values, the id and the answer's number.
            self._slots = program.unpackers(_program.ANSWERS, f"={len(self.names) + 2}Q")
            self._once: Callable[[], Optional[dict[str, int]]] = _once_for(self.names)(
                runner.run,
                _fail,
                self._returned,
                functools.partial(_explain, cgroup.path, cgroup.identity),
                self._slots,
                cgroup.id,
            )
            self._flush = _flush.before_reading(cgroup, plan, flush, _terms.FLUSH_NONE)
            self._flush_reads = self._flush.reads
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, int]:
        """The current values by name."""
        if self._flush_reads:
            self._flush.by_file()
        values = self._once() or self._once_more()
        return present(values) if self._can_vanish else values

    def _once_more(self) -> dict[str, int]:
        """Runs the program again, because another call has overwritten its answer."""
        for _ in range(_TRIES - 1):
            values = self._once()
            if values is not None:
                return values
        raise _always_overwritten()

    def read_words(self) -> tuple[int, ...]:
        """The words that the program has copied from the kernel's structures, those of one block of
        the plan after those of the other."""
        for _ in range(_TRIES):
            self.read()
            answer = self._returned[0]
            cpu = answer >> _run_dir.SEQUENCE_BITS
            words_at = cpu * self._slot_size + 8 * (len(self.names) + 2)
            words = struct.unpack_from(f"={self._nr_words}Q", self._answers, words_at)
            if self._slots[cpu]()[-1] == answer:
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

    def close(self) -> None:
        """Releases the program and closes the directory. Calling it again does nothing."""
        # Other files may soon get the descriptors' numbers.
        self._once = _closed
        if self._runner is not None:
            self._runner.close()
        self._program = None
        self._directory.close()
        self._flush.close()


def _once_for(names: Sequence[str]) -> Callable[..., Callable[[], Optional[dict[str, int]]]]:
    """The function of :data:`_ONCE` for a dict with these names."""
    code = _ONCE.format(
        failed=_run_dir.FAILED,
        bits=_run_dir.SEQUENCE_BITS,
        values=_row_dicts.variables(names),
        unless_late=(
            "" if _KEEPS_ORDER else f" == slots[answer >> {_run_dir.SEQUENCE_BITS}]()[-1]"
        ),
        result="\n            ".join(_row_dicts.dict_statements(names, "return {}")),
    )
    bind: Callable[..., Callable[[], Optional[dict[str, int]]]]
    bind = _row_dicts.compiled(names, code)["bind"]
    return bind


def _fail(error: int) -> NoReturn:
    raise _libbpf.failure(-error, "bpf_prog_test_run_opts")


def _closed() -> NoReturn:
    _fail(-errno.EBADF)


def _explain(path: str, identity: Identity, status: int) -> NoReturn:
    if status == _wire.OTHER:
        raise another_reader_s()
    if status == _wire.NO_SLOT:
        raise MemcgError("the program has no slot for the CPU that it ran on")
    if status == _wire.NOT_OPEN:
        raise _diagnosis.why_not_open(path, identity)
    raise _diagnosis.why_unreadable(path, identity)


def _always_overwritten() -> MemcgError:
    return MemcgError(
        "other calls on this CPU were always quicker to use the program's slot",
        errno=errno.EAGAIN,
        call="bpf_prog_test_run_opts",
    )
