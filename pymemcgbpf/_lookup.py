# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What is at a path. A look that fails for want of memory is an error, and no answer."""

from __future__ import annotations

import os
import sys
from typing import Optional

from .errors import is_transient, shortage


def status(
    path: str, directory: Optional[int] = None, *, follow_symlinks: bool = True
) -> Optional[os.stat_result]:
    """What os.stat() tells of a path, in an open directory if one is given; None where there is
    nothing to be seen.

    Raises:
        MemcgError: there was no memory, or no descriptor, to find it out.
    """
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=follow_symlinks)
    except ValueError:  # a NUL in it
        return None
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{path} cannot be looked at", error, "stat") from error
        return None


def exists(path: str, directory: Optional[int] = None) -> bool:
    """Whether there is something at a path.

    Raises:
        MemcgError: as :func:`status`.
    """
    return status(path, directory) is not None


def identity(path: str) -> Optional[tuple[int, int]]:
    """The device and inode number that a path leads to now; None where it leads nowhere.

    Raises:
        MemcgError: as :func:`status`.
    """
    found = status(path)
    return None if found is None else (found.st_dev, found.st_ino)


def resolved(path: str) -> str:
    """A path without symbolic links.

    Raises:
        MemcgError: as :func:`status`.
    """
    if sys.version_info < (3, 10):  # which cannot tell a failure from a path that is no link
        return os.path.realpath(path)
    try:
        return os.path.realpath(path, strict=True)  # novm: Python 3.10
    except OSError as error:
        if is_transient(error):
            raise shortage(f"{path} cannot be looked at", error, "readlink") from error
        return os.path.realpath(path)
