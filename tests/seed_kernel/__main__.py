# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command: ``python3 -m tests.seed_kernel``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.vm.cache import default_cache, in_cache, locked, prune
from tests.vm.debian import debian_apt
from tests.vm.errors import LabError
from tests.vm.kernels import Package
from tests.vm.spec import MACHINES

from . import build


def fetch(cache: Path) -> tuple[Package, Path | None]:
    """Return the newest source package, and its archive if the kernel is not built yet."""
    with locked(cache):
        prune(cache)
        apt = debian_apt(cache, MACHINES["x86_64"].debian)
        warning = apt.update(force=False)
        if warning:
            print(f"warning: {warning}")
        source = build.newest(apt.kernel_sources())
        if in_cache(build.place(cache, source)):
            return source, None
        build.check_host()
        try:
            (deb,) = apt.download([source])
        except LabError:
            # The archive replaces point releases, so even recent lists can be outdated.
            if not apt.lists_may_be_old or apt.update(force=True):
                raise
            source = build.newest(apt.kernel_sources())
            (deb,) = apt.download([source])
        return source, deb


def main() -> int:
    """Build the kernel unless the cache has it."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    # SIGTERM then ends the compilers as Ctrl-C does.
    signal.signal(signal.SIGTERM, interrupt)
    cache = default_cache()
    try:
        source, deb = fetch(cache)
        kernel = build.place(cache, source)
        if deb is not None:
            jobs = os.cpu_count() or 1
            print(f"building {source.name} {source.version} with {jobs} jobs", flush=True)
            begun = time.monotonic()
            build.build(cache, source, deb, jobs)
            deb.unlink(missing_ok=True)  # It has 150 MB and is not needed any more.
            print(f"built in {(time.monotonic() - begun) / 60:.1f} minutes")
    except LabError as error:
        print(f"seed kernel: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seed kernel: interrupted", file=sys.stderr)
        return 130
    print(kernel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
