# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The last few programs that read one cgroup, kept after their last reader was closed.

Loading a program takes milliseconds, and the first one takes tens of them. One program serves any
number of cgroups.
"""

from __future__ import annotations

from collections import OrderedDict

from .. import _fork
from .._bpf import program as _program
from .._bpf import reload as _reload
from .._bpf import run_dir as _run_dir
from .._bpf.plan import ReadPlan

_KEPT_PROGRAMS = 8
_programs: OrderedDict[object, _program.Program] = OrderedDict()
_programs_lock = _fork.renewed_lock(__name__, "_programs_lock")


def cached(name: str, plan: ReadPlan, flush_mode: int) -> _program.Program:
    """A program for a plan: a cached one, or a new one."""
    key = (name, flush_mode, plan.key)
    with _programs_lock:
        program = _programs.get(key)
        if program is None or program.is_lost:
            program = _new(name, plan, flush_mode)
            _programs[key] = program
            while len(_programs) > _KEPT_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return program


def _new(name: str, plan: ReadPlan, flush_mode: int) -> _program.Program:
    if name == _program.RUN_DIR:
        return _run_dir.load(plan)
    return _program.Program(name, plan.constants(flush_mode))


def clear() -> None:
    """Forgets the programs. Each is unloaded when its last user is closed, and the next one is
    made from the object file."""
    with _programs_lock:
        _programs.clear()
        _reload.forget()
