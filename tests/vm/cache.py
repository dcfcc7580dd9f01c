# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cache outside the repository: its lock, and files that are complete or absent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KEEP_DAYS = 30


def default_cache() -> Path:
    """Return the lab's folder in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "pymemcgbpf" / "lab"


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the lock that lets only one run change the cache at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """Give a temporary folder on the cache's file system, from which files can be renamed."""
    parent = cache / "unfinished"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, place: Path) -> None:
    """Move a finished file to its place in the cache, in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with made.open("rb+") as file:
        os.fsync(file.fileno())  # Otherwise a crash of the machine could leave an empty file.
    os.utime(made)  # A file from an archive has an old date, and prune() would remove it.
    made.replace(place)


def in_cache(place: Path) -> bool:
    """Tell whether a cached file exists, and set its date so that prune() keeps it."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(place)
        return True
    return False


def prune(cache: Path) -> None:
    """Remove files that were not used for KEEP_DAYS, and what interrupted runs left behind."""
    for folder in ("kernels", "userlands", "debs"):
        for path in (cache / folder).glob("*"):
            if time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
                path.unlink()
    # Only the holder of the lock, which is this process, may have a folder here.
    for left in (cache / "unfinished").glob("*"):
        shutil.rmtree(left, ignore_errors=True)
