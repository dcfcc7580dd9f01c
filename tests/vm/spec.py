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
SEED = "seed"  # no Debian kernel: tests/seed_kernel builds it


@dataclass(frozen=True)
class Machine:
    """One architecture: Debian's name for it, and how QEMU runs it."""

    debian: str
    name: str  # for people
    qemu: str
    qemu_package: str
    qemu_arguments: tuple[str, ...]
    console: str  # of the kernel: QEMU's first serial port
    results: str  # the port that results come through
    results_port: tuple[str, ...]  # QEMU's arguments for it; {} is the file it is written to
    parameters: str = ""  # for its kernels


MACHINES = {
    # Without cx16: QEMU 7.2's cmpxchg16b can leave garbage in the flags (it computes them from a
    # stale cc_op), and an interrupt then saves and restores it. Debian's 6.12.107 died of that in
    # one boot out of four, in the slab allocator; 30 boots of 30 were well without. A kernel whose
    # CPU has no such instruction uses another.
    "x86_64": Machine(
        *("amd64", "x86-64", "qemu-system-x86_64", "qemu-system-x86", ("-cpu", "max,cx16=off")),
        *("ttyS0", "ttyS1", ("-serial", "file:{}")),
        # Guests share few cores: a timer that is late is not broken.
        parameters="no_timer_check",
    ),
    # The "virt" board has one serial port; the other is a PCI card, whose driver Debian's cloud
    # kernels have built in. Pointer authentication as its architecture has it would be all that
    # QEMU does (it computes a cipher at each call).
    "aarch64": Machine(
        *("arm64", "arm64", "qemu-system-aarch64", "qemu-system-arm"),
        ("-machine", "virt", "-cpu", "max,pauth-impdef=on"),
        *("ttyAMA0", "ttyS0"),
        ("-chardev", "file,id=results,path={}", "-device", "pci-serial,chardev=results"),
    ),
}
DEFAULT_ARCHITECTURE = "amd64"
ARCHITECTURES = {machine.debian: machine for machine in MACHINES.values()}

# The suites that kernels are looked for in; apt reads all of them, userlands come from one.
KERNEL_SUITES = ("bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky")
USERLANDS = ("bookworm", "trixie", "forky")
DEFAULT_USERLAND = "trixie"

DEFAULT_MATRIX = ("6.1@bookworm", "6.12@trixie", "6.18@bookworm", "7.0@trixie", "newest@trixie")
# Under emulation all tests take 5 to 10 minutes. Left out of this part are the modules that ask
# least of what differs between kernels: paths, signals and forks, cgroups that come and go.
PART = "not test_tree_paths and not test_lifetime and not test_tree_storms"
# Every series since 6.1 that Debian has had, and pytest's choice of tests; what Debian has
# beyond these is added.
WHOLE_MATRIX = {
    "6.1@bookworm": "",
    "6.12@trixie": "",
    "6.16@forky": PART,
    "6.17@trixie": PART,
    "6.18@bookworm": "",
    "6.19@forky": PART,
    "7.0@trixie": "",
    "7.1@bookworm": PART,
    "7.2@forky": PART,
    "7.3@trixie": "",
    "6.1@bookworm/arm64": PART,
    "6.18@forky/arm64": PART,
    "newest@trixie/arm64": PART,
    "seed@trixie": "",
}

_SERIES = re.compile(r"[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Spec:
    """A kernel series, the Debian release whose userland runs on it, and the architecture."""

    series: str
    userland: str
    architecture: str = DEFAULT_ARCHITECTURE

    def __str__(self) -> str:
        other = self.architecture != DEFAULT_ARCHITECTURE
        return f"{self.series}@{self.userland}{f'/{self.architecture}' if other else ''}"

    @property
    def filename(self) -> str:
        """Return its name without a slash."""
        return str(self).replace("/", "-")

    @property
    def machine(self) -> Machine:
        """Return the machine that QEMU is to be."""
        return ARCHITECTURES[self.architecture]

    @property
    def is_seed(self) -> bool:
        """Tell whether it is the kernel with the functions of backend "rfc"."""
        return self.series == SEED

    @property
    def expected_backend(self) -> str:
        """Return the backend that "auto" must choose: the memcg kfuncs came with 7.0."""
        return "kfunc" if self.is_seed or int(self.series.split(".")[0]) >= 7 else "core"

    @property
    def backends(self) -> tuple[str, ...]:
        """Return the backends that the kernel has, and that must have compared items."""
        best = self.expected_backend
        rfc = ("rfc",) if self.is_seed else ()
        return (*((best,) if best != "core" else ()), *rfc, "core", "text")


def parse_spec(text: str) -> Spec:
    """Read ``SERIES[@USERLAND][/ARCHITECTURE]``, or say what is wrong with it."""
    name, slash, architecture = text.partition("/")
    if not slash:
        architecture = DEFAULT_ARCHITECTURE
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise LabError(f'no architecture: "{architecture}" in "{text}" (there are {known})')
    series, at, userland = name.partition("@")
    if series not in (NEWEST, SEED) and not _SERIES.fullmatch(series):
        raise LabError(f'no kernel series: "{text}" (like 6.12, 6.12@trixie, {NEWEST} or {SEED})')
    if not at:
        by_series = dict(entry.split("@") for entry in DEFAULT_MATRIX)
        userland = by_series.get(series, DEFAULT_USERLAND)
    if userland not in USERLANDS:
        raise LabError(f'no userland: "{userland}" in "{text}" (there are {", ".join(USERLANDS)})')
    if series == SEED and architecture != DEFAULT_ARCHITECTURE:
        raise LabError(f'the {SEED} kernel is built for {DEFAULT_ARCHITECTURE} only: "{text}"')
    return Spec(series, userland, architecture)


def this_machine() -> Machine:
    """Return the host's own architecture: its Python compiles for all guests."""
    try:
        return MACHINES[platform.machine()]
    except KeyError:
        known = ", ".join(MACHINES)
        raise LabError(f"the lab has no entry for {platform.machine()} (only {known})") from None
