# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The module _libbpf, or, in a Python without ctypes, what says so as soon as it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..errors import LibbpfNotFoundError


class _NoCtypes:
    """Takes the module's place: text needs nothing of it."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise LibbpfNotFoundError(
            "libbpf cannot be called: this Python has no working ctypes "
            f"({self._reason}); install libffi and Python's module _ctypes",
            call="import",
        )


if TYPE_CHECKING:
    from . import libbpf as _libbpf

    libbpf = _libbpf
else:
    try:
        from . import libbpf
    except (ImportError, MemoryError, OSError) as error:  # no libffi, or nothing may be executed
        libbpf = _NoCtypes(str(error))
