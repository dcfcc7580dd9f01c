# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The modules that use ctypes or, in a Python without ctypes, a stand-in that raises when used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from ..errors import LibbpfNotFoundError, raise_if_short


class _NoCtypes:
    """Takes the place of a module. Reading text needs none of them."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise LibbpfNotFoundError(
            f"libbpf cannot be called: this Python has no working ctypes ({self._reason})",
            remedy=_remedy(self._reason),
            call="import",
        )


def _remedy(reason: str) -> str:
    found = re.search(r"libffi\.so\.(\d+)", reason)
    if found:
        return f"install libffi (Debian and Ubuntu: apt-get install libffi{found[1]})"
    return "install libffi and Python's module _ctypes"


if TYPE_CHECKING:
    from . import libbpf as _libbpf
    from . import libbpf_log as _libbpf_log
    from . import libbpf_maps as _libbpf_maps
    from . import libbpf_programs as _libbpf_programs

    libbpf, libbpf_log = _libbpf, _libbpf_log
    libbpf_maps, libbpf_programs = _libbpf_maps, _libbpf_programs
else:
    try:
        from . import libbpf, libbpf_log, libbpf_maps, libbpf_programs
    except Exception as error:
        raise_if_short(error, "the modules that use ctypes cannot be imported", "import")
        # ImportError: Python was built without libffi, or libffi is not installed. MemoryError and
        # OSError: this process may not map executable memory. ctypes itself raises an Exception if
        # its module in C is that of another Python.
        libbpf = libbpf_log = libbpf_maps = libbpf_programs = _NoCtypes(
            str(error) or type(error).__name__
        )
