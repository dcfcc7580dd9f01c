# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The capabilities that loading a BPF program needs, and which of them this process lacks."""

from __future__ import annotations

import errno
from typing import Optional

from ..errors import BpfPermissionError, errno_text
from .bindings import libbpf as _libbpf

MAY_NOT_LOAD = "this process may not load BPF programs"

_NEEDED = {"CAP_BPF": 39, "CAP_PERFMON": 38}
CAP_SYS_ADMIN = 21


def effective() -> Optional[int]:
    """The effective capabilities of this thread, one bit each; None if they cannot be read."""
    try:
        with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as status:
            return next(int(line.split()[1], 16) for line in status if line[:7] == "CapEff:")
    except (OSError, StopIteration):
        return None


def missing() -> list[str]:
    """The names of the needed capabilities that this thread lacks.

    The list is empty if the capabilities cannot be read: the kernel will answer.
    """
    held = effective()
    if held is None or held >> CAP_SYS_ADMIN & 1:
        return []
    return [name for name, bit in _NEEDED.items() if not held >> bit & 1]


def check() -> None:
    """Checks the capabilities before the kernel does, which saves all the work until then.

    Raises:
        BpfPermissionError: some are missing; the message names them.
    """
    if missing():
        raise refused(errno.EPERM)


def refused(number: int, *, call: str = "", log: str = "") -> BpfPermissionError:
    """The error for a process to which the kernel refuses BPF, with EPERM or EACCES."""
    lacked = missing()
    problem = MAY_NOT_LOAD
    if lacked:
        remedy = f"run as root, or grant {' and '.join(lacked)}"
        if needs_sys_admin():
            remedy += " (with this libbpf, before 1.5, all but core/run may need CAP_SYS_ADMIN)"
    else:
        problem = (
            f"the kernel does not let this process use BPF ({errno_text(number)}) although its "
            "capabilities suffice"
        )
        remedy = (
            "look for seccomp (containers), kernel lockdown, a security module, a user namespace "
            "or, before Linux 5.11, a low ulimit -l"
        )
    return BpfPermissionError(problem, remedy=remedy, errno=number, call=call, log=log)


def refused_by_libbpf(number: int, *, call: str, log: str) -> BpfPermissionError:
    """The error for a process that has all but the capability that an old libbpf needs."""
    return BpfPermissionError(
        f"{MAY_NOT_LOAD} with this version of libbpf, which needs CAP_SYS_ADMIN on this kernel for "
        "all but core/run",
        remedy="run as root, grant CAP_SYS_ADMIN, or install libbpf 1.5 or later",
        errno=number,
        call=call,
        log=log,
    )


def needs_sys_admin() -> bool:
    """Whether this libbpf may need CAP_SYS_ADMIN, to load a program by its own loader.

    Before 1.5 it looks for what the kernel lacks in the BTF of the modules, too, and fails if it
    may not list them. The programs of core/run are loaded without its loader.
    """
    major, _, minor = _libbpf.load().version.partition(".")
    return (int(major), int(minor)) < (1, 5)
