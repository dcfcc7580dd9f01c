# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whether BPF programs may load from the kernel's memory as from their own.

They may after a call of bpf_rdonly_cast(), which is in Linux since 6.2 (a35b9af4ec2c, bpf: Add a
kfunc for generic type cast). A program calls a kernel function by its number in the kernel's BTF,
which the kernel itself finds fastest.
"""

from __future__ import annotations

import errno
from typing import Optional

from .. import _fork, _signals
from .._records import Record
from ..errors import MemcgError, is_transient
from . import btf as _btf
from . import capabilities as _capabilities
from . import instructions as _code
from . import load_checks as _load_checks
from .bindings import libbpf as _libbpf
from .bindings import libbpf_log as _libbpf_log
from .function_numbers import load_code, number_of
from .load_errors import load_error

FUNCTION = "bpf_rdonly_cast"


class Cast(Record):
    """How a program may load from the kernel's memory.

    Attributes:
        function: the number of bpf_rdonly_cast().
        type: the number of the structure that addresses are cast to. It begins with words.
    """

    function: int
    type: int


_lock = _fork.renewed_lock(__name__, "_lock")
_found: Optional[Cast] = None
_searched = False


def kernel_cast() -> Optional[Cast]:
    """The running kernel's cast; None if it has none, or if this process may not load programs.

    Raises:
        MemcgError: memory or descriptors are short.
    """
    global _found, _searched
    if not _btf.kernel().words_type:
        return None
    with _lock:
        if not _searched:
            if _capabilities.missing():
                return None  # rights may change
            _load_checks.check()
            try:
                _found = _signals.held_back(_search)
            except MemcgError as error:
                if is_transient(error):
                    raise load_error(error, "", "") from error
                if error.errno not in _REFUSALS:
                    return None
                _found = None
            _searched = True
        return _found


# How the verifier refuses a program. Other errors may be passing.
_REFUSALS = (errno.EINVAL, errno.EACCES)

_RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT


def _search() -> Optional[Cast]:
    lib = _libbpf.load()
    with _libbpf_log.silence():
        number = number_of(FUNCTION)
        if not number:
            return None
        cast = Cast(number, _btf.kernel().words_type)
        # Whether the kernel lets such a program use it.
        load_code(lib, "try_cast", _RAW_TRACEPOINT, _trial(cast)).close()
    return cast


def _trial(cast: Cast) -> bytes:
    """A program that loads as the others do: numbers of all sizes, with which it then computes."""
    code = [_code.with_number(_code.MOVE, 6, 0)]
    for load in (_code.LOAD, _code.LOAD_32, _code.LOAD_BYTE):
        code += [
            _code.with_number(_code.MOVE, 1, 0),
            _code.with_number(_code.MOVE, 2, cast.type),
            _code.call_kernel(cast.function),
            _code.encode(load, 1, 0),
            _code.with_number(_code.SHIFT_LEFT, 1, 1),
            _code.with_register(_code.OR, 6, 1),
        ]
    return b"".join([*code, _code.with_register(_code.MOVE, 0, 6), _code.encode(_code.EXIT)])
