# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the sources of one cgroup have in common."""

from __future__ import annotations

import errno

from .. import _wire
from ..errors import MemcgError


def another_reader_s() -> MemcgError:
    """The error for a read from a descriptor that belongs to another reader by now."""
    return MemcgError("the numbers belong to another reader", errno=errno.EBADF, call="read")


def closed_run() -> int:
    """Replaces the call of a program that is closed."""
    return -errno.EBADF


def present(values: dict[str, int]) -> dict[str, int]:
    """The values without those that are absent now: pressure, if it is switched off."""
    return {name: value for name, value in values.items() if value != _wire.ABSENT}


def absent(names: tuple[str, ...], values: dict[str, int]) -> set[str]:
    """Those of the names that the values lack, or whose value is absent."""
    return {name for name in names if values.get(name, _wire.ABSENT) == _wire.ABSENT}
