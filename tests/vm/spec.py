# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The guests that the lab can boot. A new Debian release, architecture or guest is an entry here.

Kernels are named by series only. The newest version of a series is found with apt.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from .errors import LabError

NEWEST = "newest"
SEED = "seed"  # not a kernel of Debian's: tests/seed_kernel builds it


@dataclass(frozen=True)
class Machine:
    """An architecture: Debian's name for it, and how QEMU emulates it."""

    debian: str
    name: str  # in documentation
    qemu: str
    qemu_package: str
    qemu_arguments: tuple[str, ...]
    console: str  # the kernel's console, which is QEMU's first serial port
    results: str  # the serial port that carries the results
    results_port: tuple[str, ...]  # QEMU's arguments for that port; {} stands for its file
    parameters: str = ""  # kernel parameters


MACHINES = {
    # cx16 is off, because QEMU 7.2's cmpxchg16b can leave wrong flags (it computes them from a
    # stale cc_op), which an interrupt then saves and restores. Debian's 6.12.107 crashed in the
    # slab allocator in one boot of four; without cx16, 30 of 30 boots succeeded. A kernel whose CPU
    # lacks the instruction uses other ones.
    "x86_64": Machine(
        *("amd64", "x86-64", "qemu-system-x86_64", "qemu-system-x86", ("-cpu", "max,cx16=off")),
        *("ttyS0", "ttyS1", ("-serial", "file:{}")),
        # Guests share few cores, so timers can be late without being broken. Without cx16, the
        # kernel's kmalloc_nolock(), from which BPF timers get their memory since Linux 6.19 or so,
        # serves only caches that are checked: so those of accounted memory are.
        parameters="no_timer_check slab_debug=F,kmalloc-cg-*",
    ),
    # The "virt" board has one serial port. The other is a PCI card, whose driver is built into
    # Debian's cloud kernels. The architected algorithm of pointer authentication would dominate the
    # emulation, because QEMU would compute a cipher at each call.
    "aarch64": Machine(
        *("arm64", "arm64", "qemu-system-aarch64", "qemu-system-arm"),
        ("-machine", "virt", "-cpu", "max,pauth-impdef=on"),
        *("ttyAMA0", "ttyS0"),
        ("-chardev", "file,id=results,path={}", "-device", "pci-serial,chardev=results"),
    ),
}
DEFAULT_ARCHITECTURE = "amd64"
ARCHITECTURES = {machine.debian: machine for machine in MACHINES.values()}

# Kernels are looked for in all of these suites; a userland comes from one release.
KERNEL_SUITES = ("bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky")
# Series that none of these has any more, and where they come from. Nothing else is taken from such
# suites (bullseye-security has a 6.1 too), and they are fetched only for a guest of the series.
OLD_KERNEL_SUITES = {"5.10": ("bullseye", "bullseye-security")}
USERLANDS = ("bookworm", "trixie", "forky")
DEFAULT_USERLAND = "trixie"

# Commands, examples and screens: what depends least on the kernel, and takes a fifth of the time,
# because each of these tests starts Python again and again.
WITHOUT_COMMANDS = (
    "not test_command and not test_pinned_commands and not test_bench_command and not test_guide"
    " and not test_top and not test_own_cgroup"
)
# Guest → pytest's -k, empty for all tests. Those that take longest are first, so that two at a time
# end together.
DEFAULT_MATRIX = {
    "newest@trixie": WITHOUT_COMMANDS,
    "6.12@trixie": "",
    "6.1@bookworm": WITHOUT_COMMANDS,
    "5.10@bookworm": "",
}
# Under emulation all tests take 12 to 40 minutes. This part leaves out what depends least
# on the kernel: paths, signals and forks, and the creation and removal of cgroups.
PART = "not test_tree_paths and not test_lifetime and not test_tree_storms"
# Guest → pytest's -k, empty for all tests. Newer series that Debian has are added.
WHOLE_MATRIX = {
    "5.10@bookworm": "",
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
        """Return the guest's name without a slash."""
        return str(self).replace("/", "-")

    @property
    def machine(self) -> Machine:
        """Return the machine that QEMU emulates."""
        return ARCHITECTURES[self.architecture]

    @property
    def is_seed(self) -> bool:
        """Tell whether this is the kernel with the functions of the backend "rfc"."""
        return self.series == SEED

    @property
    def expected_backend(self) -> str:
        """Return the backend that "auto" must choose for one cgroup."""
        return self.backends[0]

    @property
    def backends(self) -> tuple[str, ...]:
        """Return the backends for one cgroup; tests must compare items of each."""
        if self.is_seed:
            return ("kfunc", "rfc", "core", "text")
        if self._version >= (7, 0):  # which has the memcg kfuncs
            return ("kfunc", "core", "text")
        return ("core", "text")

    @property
    def tree_backends(self) -> tuple[str, ...]:
        """Return the backends for a tree, which is text before the first cgroup iterator."""
        return ("text",) if not self.is_seed and self._version < (6, 1) else self.backends

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.series.split("."))


def parse_spec(text: str) -> Spec:
    """Parse ``SERIES[@USERLAND][/ARCHITECTURE]``.

    Raises:
        LabError: it names no such guest.
    """
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
    """Return the host's architecture, whose Python compiles bytecode for all guests."""
    try:
        return MACHINES[platform.machine()]
    except KeyError:
        known = ", ".join(MACHINES)
        raise LabError(f"the lab has no entry for {platform.machine()} (only {known})") from None
