# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs one guest in QEMU, and kills it if it does not end in time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError, need_tool
from .records import Ending
from .spec import Machine

_POLL_SECONDS = 0.1
_DISK_SIZE = 256 << 20  # sparse
# Guests share few cores. A virtual CPU can wait long for its turn, which is not a stall.
_LONG_WATCHDOGS = (
    "rcupdate.rcu_cpu_stall_timeout=120 watchdog_thresh=60 workqueue.watchdog_thresh=120"
)


@dataclass(frozen=True)
class Hardware:
    """The virtual hardware of a guest."""

    cpus: int = 2
    memory: str = "2G"
    # One CPU, and a clock that counts instructions, so that host load does not affect timings.
    icount: bool = False


@dataclass(frozen=True)
class Transcript:
    """The output of a guest's two serial ports, and how the guest ended."""

    results: str
    console: str
    ending: Ending
    seconds: float


def qemu_command(
    machine: Machine, hardware: Hardware, kernel: Path, initramfs: Path, folder: Path
) -> list[str]:
    """Return QEMU's command line. The disk and the output of the serial ports are in *folder*."""
    qemu = need_tool(machine.qemu, machine.qemu_package)
    command = [qemu, *machine.qemu_arguments, "-m", hardware.memory]
    if hardware.icount:
        command += ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"]
    else:
        # The CPUs take turns in one thread. With a thread for each, QEMU 7.2 sometimes runs code
        # that another CPU has just patched (an "Oops: int3" at a static branch).
        command += ["-accel", "tcg,thread=single", "-smp", str(hardware.cpus)]
    parameters = (
        f"console={machine.console} panic=-1 oops=panic quiet cgroup_no_v1=all log_buf_len=4M"
        f" {_LONG_WATCHDOGS} {machine.parameters}"
    )
    results = (word.replace("{}", str(folder / "results")) for word in machine.results_port)
    return [
        *command,
        *("-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-serial", f"file:{folder / 'console'}", *results),
        # Debian's cloud kernels have NVMe and ext4 built in, so no module is needed.
        *("-drive", f"file={folder / 'disk'},format=raw,if=none,id=disk,cache=unsafe"),
        *("-device", "nvme,serial=lab,drive=disk"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", parameters),
    ]


def make_disk(folder: Path) -> None:
    """Make the guest's disk, an empty ext4."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"])
    mkfs = need_tool("mkfs.ext4", "e2fsprogs", path)
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(_DISK_SIZE)
    # Lazy initialisation is off: the guest would do it in the background, during measurements.
    options = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    done = subprocess.run([mkfs, *options, str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"mkfs.ext4 failed: {done.stderr.strip()}")


def run(command: list[str], folder: Path, timeout: float, stop: threading.Event) -> Transcript:
    """Run a guest until it ends, *stop* is set, or *timeout* seconds have passed."""
    begun = time.monotonic()
    hung_after = None
    with (folder / "qemu").open("wb") as errors:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=subprocess.STDOUT
        )
    try:
        while qemu.poll() is None:
            elapsed = time.monotonic() - begun
            if elapsed > timeout:
                hung_after = elapsed
                break
            if stop.is_set():
                break
            time.sleep(_POLL_SECONDS)
    finally:
        qemu.kill()
        status = qemu.wait()
    return Transcript(
        _text(folder / "results"),
        _text(folder / "console"),
        Ending(status, hung_after, _text(folder / "qemu")),
        time.monotonic() - begun,
    )


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
