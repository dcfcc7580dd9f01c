# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Has seccomp refuse system calls, as container runtimes do."""

from __future__ import annotations

import ctypes
import platform
import struct

from .cgroups import SYS_BPF

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF
_ERRNO, _ALLOW = 0x0005_0000, 0x7FFF_0000


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_bpf(number: int) -> None:
    """From now on bpf() fails with this errno, in this process and those that it starts."""
    instructions = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (_LOAD_WORD, 0, 0, 0),  # the number of the system call
            (_JUMP_IF_EQUAL, 0, 1, SYS_BPF[platform.machine()]),
            (_RETURN, 0, 0, _ERRNO | number),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    filter = _Filter(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter), zero, zero) == 0
