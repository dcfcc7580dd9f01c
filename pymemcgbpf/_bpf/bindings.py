# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The modules that use ctypes or, in a Python without ctypes, a stand-in that raises when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..errors import LibbpfNotFoundError, raise_if_short


class _NoCtypes:
    """Takes the place of a module. Reading text needs none of them."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise LibbpfNotFoundError(
            f"libbpf cannot be called: this Python has no working ctypes ({self._reason})",
            remedy="install libffi and Python's module _ctypes",
            call="import",
        )


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
    except (ImportError, MemoryError, OSError) as error:
        raise_if_short(error, "the modules that use ctypes cannot be imported", "import")
        # Python was built without libffi, or this process may not map executable memory.
        libbpf = libbpf_log = libbpf_maps = libbpf_programs = _NoCtypes(str(error))
