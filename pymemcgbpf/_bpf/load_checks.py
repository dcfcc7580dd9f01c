# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is checked before anything is loaded: rights, and free descriptors."""

from __future__ import annotations

import os

from .._descriptors import opened_at
from ..errors import MemcgError, errno_text, is_transient
from . import capabilities as _capabilities


def check() -> None:
    """Checks that this process may load programs and has descriptors for that.

    libbpf probes the features of the kernel once per process. It would take a probe that failed
    for want of either for a missing feature, for as long as it is loaded.

    Raises:
        BpfPermissionError: capabilities are missing; the message names them.
        MemcgError: descriptors are short.
    """
    _capabilities.check()
    _check_spare_descriptors()


_FOR_A_LOAD = 28  # what loading a program takes for a moment (24 with libbpf 1.1)
# With those that the reader holds by then: its directory and files, and the program that this one
# replaces. 32 to 37 were measured.
FOR_A_READER = 40


def _check_spare_descriptors() -> None:
    """Checks that enough file descriptors are free."""
    try:
        taken = [opened_at(os.devnull, os.O_RDONLY) for _ in range(_FOR_A_LOAD)]
    except OSError as error:
        if not is_transient(error):
            return  # there is no /dev/null, so nothing can be said
        raise MemcgError(
            f"a BPF program cannot be loaded ({errno_text(error.errno or 0)})",
            remedy="raise ulimit -n, for creating a reader takes up to "
            f"{FOR_A_READER} descriptors for a moment",
            errno=error.errno,
            call="open",
        ) from error
    for each in taken:
        each.close()
