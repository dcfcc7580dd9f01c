# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Why a BPF program could not be loaded: what the kernel and libbpf said, as one exception."""

from __future__ import annotations

import errno

from ..errors import (
    BpfObjectError,
    MemcgError,
    VerifierError,
    errno_text,
    is_transient,
)
from . import capabilities as _capabilities


def load_error(error: MemcgError, file: str, log: str) -> MemcgError:
    """The exception for a program that could not be loaded.

    Args:
        error: the failure of a libbpf function.
        file: the object that the program is in.
        log: the messages of libbpf and of the verifier.
    """
    number = error.errno or 0
    verdict = verdict_of(log)
    kind: type[MemcgError] = VerifierError
    if is_transient(error):
        kind, message = MemcgError, f"the BPF program cannot be loaded: {errno_text(number)}"
    elif error.call != "bpf_object__load":
        kind = BpfObjectError
        message = (
            f"the BPF object {file} is not the one of this package ({error}): "
            "install pymemcgbpf again"
        )
    elif _CANNOT_LIST_BTF in log:
        return _capabilities.refused_by_libbpf(number, call=error.call, log=log)
    elif number in (errno.EPERM, errno.ENOSYS) or (number == errno.EACCES and not verdict):
        # ENOSYS is seccomp's: a kernel with BTF has the system call.
        return _capabilities.refused(number, call=error.call, log=log)
    elif number == errno.ESRCH:  # libbpf's number for this; "No such process" would mislead
        message = "the BPF program calls a kernel function that is not there"
    else:
        message = (
            f"the kernel refused the BPF program ({errno_text(number)}): "
            f"{verdict or 'it gave no reason'}"
        )
    return kind(message, errno=error.errno, call=error.call, log=log)


_CANNOT_LIST_BTF = "failed to iterate BTF objects"  # see capabilities.needs_sys_admin()


def cannot_list_btf(log: str) -> bool:
    """Whether libbpf's loader has failed because it may not list the BTF of modules."""
    return _CANNOT_LIST_BTF in log


def refused_directly(error: MemcgError) -> MemcgError:
    """The exception for a program that was loaded without libbpf's loader, and refused."""
    number = error.errno or 0
    if number == errno.EPERM:
        return _capabilities.refused(number, call=error.call)
    message = f"the kernel refused the BPF program ({errno_text(number)})"
    return VerifierError(message, errno=error.errno, call=error.call)


def verdict_of(log: str) -> str:
    """The verifier's reason: the last line of its log before the statistics; "" if none."""
    _, begin, rest = log.partition("BEGIN PROG LOAD LOG --")
    if not begin:
        return ""
    said = rest.partition("-- END PROG LOAD LOG")[0].splitlines()
    lines = [line.strip() for line in said if line.strip() and line.strip() != "libbpf:"]
    while lines and lines[-1].startswith(("processed ", "libbpf:", "verification time ")):
        lines.pop()
    return lines[-1] if lines else ""
