# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Builds the kernel, or finds it in the cache, whose key covers everything it is made from."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tests.vm import userland
from tests.vm.cache import in_cache, locked, prune, publish, scratch
from tests.vm.errors import LabError, need_tool
from tests.vm.kernels import Package

_HERE = Path(__file__).parent
FUNCTIONS = _HERE / "memcg_fetch.c"
CONFIG = _HERE / "x86_64.config"
MAKEFILE_LINE = "obj-$(CONFIG_MEMCG) += memcg_fetch.o\n"

_NAME = re.compile(r"linux-source-(\d+\.\d+)")
_TOOLS = {
    **{tool: tool for tool in ("make", "gcc", "flex", "bison", "bc")},
    "xz": "xz-utils",
    "pahole": "dwarves",
}
# Only these variables are passed on, so that a make that runs this one does not influence it.
_INHERITED = ("PATH", "HOME", "TMPDIR")
# With these variables, the same files always give the same kernel.
_REPRODUCIBLE = {
    "LC_ALL": "C",
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_USER": "lab",
    "KBUILD_BUILD_HOST": "lab",
}
_LAST_LINES = 15


def series(source: Package) -> str:
    """Return the series of a source package: 7.3 for linux-source-7.3."""
    match = _NAME.fullmatch(source.name)
    if not match:
        raise LabError(f"{source.name} is not a package of Linux's source")
    return match[1]


def newest(sources: Iterable[Package]) -> Package:
    """Choose the source of the newest series."""
    found = [source for source in sources if _NAME.fullmatch(source.name)]
    if not found:
        raise LabError("apt has no package of Linux's source (linux-source-…)")
    return max(found, key=lambda source: tuple(int(part) for part in series(source).split(".")))


def place(cache: Path, source: Package) -> Path:
    """Return the place in the cache of the kernel made from this source and this folder's files."""
    plan = hashlib.sha256(source.filename.encode())
    for part in (FUNCTIONS.read_bytes(), CONFIG.read_bytes(), MAKEFILE_LINE.encode()):
        plan.update(hashlib.sha256(part).digest())
    name = f"seed-{source.version}-{plan.hexdigest()[:12]}.vmlinuz"
    return cache / "kernels" / name


def built(cache: Path, source: Package) -> Path:
    """Return the built kernel.

    Raises:
        LabError: it is not built; the message says how to build it.
    """
    kernel = place(cache, source)
    if not in_cache(kernel):
        raise LabError(f"the seed kernel of {source.name} is not built: run make seed-kernel")
    return kernel


def check_host() -> None:
    """Check that this machine can build the kernel, before anything is downloaded."""
    if platform.machine() != "x86_64":
        raise LabError(f"the seed kernel is for x86-64, and this machine is {platform.machine()}")
    for tool, package in _TOOLS.items():
        need_tool(tool, package)
    if not Path("/usr/include/libelf.h").exists():
        raise LabError("the seed kernel needs libelf.h: install the Debian package libelf-dev")


def build(cache: Path, source: Package, deb: Path, jobs: int) -> Path:
    """Build the kernel and put it into the cache. The log is kept even if the build fails."""
    kernel = place(cache, source)
    # The build has its own lock and temporary folder, so that other runs of the lab need not wait.
    workshop = cache / "seed"
    with locked(workshop):
        if in_cache(kernel):  # Another process has built it in the meantime.
            return kernel
        prune(workshop)
        log = workshop / "log"
        log.write_text("")
        with scratch(workshop) as folder:
            tree = _unpack(deb, folder)
            _add_functions(tree)
            make = _Make(tree, log, jobs)
            make("allnoconfig", KCONFIG_ALLCONFIG=str(CONFIG))
            check_config((tree / ".config").read_text(encoding="utf-8"))
            make("bzImage")
            publish(tree / "arch/x86/boot/bzImage", kernel)
    return kernel


def _unpack(deb: Path, folder: Path) -> Path:
    userland.extract(deb, folder, ["--wildcards", "*/linux-source-*.tar.xz"])
    (archive,) = folder.rglob("*.tar.xz")
    tree = folder / "linux"
    tree.mkdir()
    command = ["tar", "-x", "--no-same-owner", "--strip-components=1", "-f", str(archive)]
    done = subprocess.run([*command, "-C", str(tree)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"cannot unpack {archive.name}: {done.stderr.strip()}")
    return tree


def _add_functions(tree: Path) -> None:
    (tree / "mm" / FUNCTIONS.name).write_bytes(FUNCTIONS.read_bytes())
    with (tree / "mm" / "Makefile").open("a", encoding="utf-8") as makefile:
        makefile.write(MAKEFILE_LINE)


def check_config(made: str) -> None:
    """Check that the kernel's configuration has every option that CONFIG asks for.

    An option is missing if it depends on another one that is off.
    """
    lines = set(made.splitlines())
    wanted = CONFIG.read_text(encoding="utf-8").splitlines()
    missing = [line for line in wanted if line.startswith("CONFIG_") and line not in lines]
    if missing:
        raise LabError(
            f"this kernel cannot have {', '.join(missing)}, which {CONFIG.name} asks for"
        )


def _run_as_group(command: list[str], environment: dict[str, str], log: BinaryIO) -> int:
    """Run a command. If this process is interrupted, kill all processes that it started."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


class _Make:
    """Runs make in the kernel's source, and appends its output to a log."""

    def __init__(self, tree: Path, log: Path, jobs: int) -> None:
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._environment = {**kept, **_REPRODUCIBLE}
        self._command = ["nice", "make", "ARCH=x86_64", f"-j{jobs}", "-C", str(tree)]
        self._log = log

    def __call__(self, target: str, **variables: str) -> None:
        settings = [f"{name}={value}" for name, value in variables.items()]
        with self._log.open("ab") as log:
            status = _run_as_group([*self._command, *settings, target], self._environment, log)
        if status:
            said = self._log.read_text(errors="replace").splitlines()
            end = "\n".join(said[-_LAST_LINES:])
            raise LabError(f"make {target} failed. The end of {self._log}:\n{end}")
