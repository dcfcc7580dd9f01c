# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The capabilities that loading a BPF program needs, and which of them this process lacks."""

from __future__ import annotations

import errno
from typing import Optional

from ..errors import BpfPermissionError, errno_text

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
        raise BpfPermissionError(explain_refusal(errno.EPERM), errno=errno.EPERM)


def explain_refusal(number: int) -> str:
    """Why the kernel refused BPF to this process with EPERM or EACCES, and what to do."""
    lacked = missing()
    if lacked:
        return (
            f"this process may not load BPF programs: it lacks {' and '.join(lacked)} "
            "(run it as root, or grant them)"
        )
    return (
        f"the kernel does not let this process use BPF ({errno_text(number)}) although its "
        "capabilities suffice: look for seccomp (containers), kernel lockdown, a security "
        "module or a user namespace"
    )
