# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the lab can boot. A new Debian release, architecture or default guest is one entry here.

No kernel version is written down, only series names: apt knows the newest of a series.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from .errors import LabError

NEWEST = "newest"


@dataclass(frozen=True)
class Machine:
    """One architecture: Debian's name for it, and how QEMU runs it."""

    debian: str
    qemu: str
    qemu_package: str
    qemu_arguments: tuple[str, ...]
    serial: str  # the guest's serial ports: this and a number

    @property
    def console(self) -> str:
        """Return the kernel's console, the first serial port."""
        return f"{self.serial}0"

    @property
    def results(self) -> str:
        """Return the port that results come through, the second."""
        return f"{self.serial}1"


MACHINES = {
    # Without cx16: QEMU 7.2's cmpxchg16b can leave garbage in the flags (it computes them from a
    # stale cc_op), and an interrupt then saves and restores it. Debian's 6.12.107 died of that in
    # one boot out of four, in the slab allocator; 30 boots of 30 were well without. A kernel whose
    # CPU has no such instruction uses another.
    "x86_64": Machine(
        "amd64", "qemu-system-x86_64", "qemu-system-x86", ("-cpu", "max,cx16=off"), "ttyS"
    ),
}

# The suites that kernels are looked for in; apt reads all of them, userlands come from one.
KERNEL_SUITES = ("bookworm", "trixie", "trixie-backports")
USERLANDS = ("bookworm", "trixie")
DEFAULT_USERLAND = "trixie"

DEFAULT_MATRIX = ("6.1@bookworm", "6.12@trixie", "6.18@bookworm", "7.0@trixie", "newest@trixie")

_SERIES = re.compile(r"[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Spec:
    """A kernel series and the Debian release whose userland runs on it."""

    series: str
    userland: str

    def __str__(self) -> str:
        return f"{self.series}@{self.userland}"

    @property
    def expected_backend(self) -> str:
        """Return the backend that "auto" must choose: the memcg kfuncs came with 7.0."""
        return "kfunc" if int(self.series.split(".")[0]) >= 7 else "core"


def parse_spec(text: str) -> Spec:
    """Read ``SERIES[@USERLAND]``, or say what is wrong with it."""
    series, at, userland = text.partition("@")
    if series != NEWEST and not _SERIES.fullmatch(series):
        raise LabError(f'no kernel series: "{text}" (like 6.12, 6.12@trixie or {NEWEST})')
    if not at:
        by_series = dict(entry.split("@") for entry in DEFAULT_MATRIX)
        userland = by_series.get(series, DEFAULT_USERLAND)
    if userland not in USERLANDS:
        raise LabError(f'no userland: "{userland}" in "{text}" (there are {", ".join(USERLANDS)})')
    return Spec(series, userland)


def this_machine() -> Machine:
    """Return the architecture that guests have: the host's own."""
    try:
        return MACHINES[platform.machine()]
    except KeyError:
        known = ", ".join(MACHINES)
        raise LabError(f"the lab has no entry for {platform.machine()} (only {known})") from None
