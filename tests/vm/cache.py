# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The cache outside the tree: one lock, and files that are there whole or not at all."""

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
    """Return the lab's own folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "pymemcgbpf" / "lab"


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Keep other lab runs from preparing in the same cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """Give a folder on the cache's own file system, so that what is made there can be renamed."""
    parent = cache / "unfinished"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, place: Path) -> None:
    """Put a finished file in its place in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with made.open("rb+") as file:
        os.fsync(file.fileno())  # else a machine that stops now could leave an empty file behind
    os.utime(made)  # what comes out of an archive has an old date, and prune() goes by it
    made.replace(place)


def in_cache(place: Path) -> bool:
    """Tell whether a cached file is there, and note that it was wanted."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(place)
        return True
    return False


def prune(cache: Path) -> None:
    """Drop what nobody asked for in a while, and the remains of runs that were cut off."""
    for folder in ("kernels", "userlands", "debs"):
        for path in (cache / folder).glob("*"):
            if time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
                path.unlink()
    # Only the holder of the lock has a folder here.
    for left in (cache / "unfinished").glob("*"):
        shutil.rmtree(left, ignore_errors=True)
