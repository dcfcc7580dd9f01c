# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Paths: what is at them, and their text. A shortage of memory or descriptors is an error, not an
answer."""

from __future__ import annotations

import os
import re
import sys
from typing import Optional, Union

from ._descriptors import opened_at
from .errors import CgroupNotFoundError, MemcgError, raise_if_transient

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
"""The types that callers may use for the path of a cgroup or of a pin."""


def status(
    path: str, directory: Optional[int] = None, *, follow_symlinks: bool = True
) -> Optional[os.stat_result]:
    """The result of os.stat() for a path, which may be relative to an open directory.

    None where nothing is visible at the path.

    Raises:
        MemcgError: the process is short of file descriptors or memory.
    """
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=follow_symlinks)
    except ValueError:  # the path has a NUL
        return None
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be looked at", "stat")
        return None


def exists(path: str, directory: Optional[int] = None) -> bool:
    """Whether something is visible at a path.

    Raises:
        MemcgError: as :func:`status`.
    """
    return status(path, directory) is not None


def is_hidden(path: str) -> bool:
    """Whether it cannot be said what is at a path: a directory on the way may not be searched, or
    the path is too long.

    Raises:
        MemcgError: as :func:`status`.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be looked at", "stat")
        return True
    return False


def identity(path: str) -> Optional[tuple[int, int]]:
    """The device and inode number of what is at a path now; None if nothing is visible there.

    Raises:
        MemcgError: as :func:`status`.
    """
    found = status(path)
    return None if found is None else (found.st_dev, found.st_ino)


def absolute(path: str, kind: type[MemcgError] = CgroupNotFoundError) -> str:
    """A path that does not depend on the current directory.

    Raises:
        MemcgError: one of *kind*, as the path is relative and the current directory was removed.
    """
    try:
        return os.path.abspath(path)
    except FileNotFoundError as error:
        raise _no_directory(path, kind, error) from error


def _no_directory(path: str, kind: type[MemcgError], error: OSError) -> MemcgError:
    return kind(
        f"{path!r} leads nowhere, as the current directory was removed",
        remedy="change to another one",
        errno=error.errno,
        call="getcwd",
    )


def resolved(path: str) -> str:
    """A path without symbolic links.

    With Python 3.9, a shortage while one of the links is looked at goes unnoticed.

    Raises:
        MemcgError: as :func:`status`.
        CgroupNotFoundError: the path is relative, and the current directory was removed.
    """
    try:
        if sys.version_info < (3, 10):  # its realpath() cannot report failures
            os.stat(path)  # meets the same symbolic links
            return os.path.realpath(path)
        return os.path.realpath(path, strict=True)  # novm: Python 3.10
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be looked at", "readlink")
    try:
        return os.path.realpath(path)
    except FileNotFoundError as error:
        raise _no_directory(path, CgroupNotFoundError, error) from error


def contents(path: str, directory: Optional[int] = None) -> Optional[str]:
    """The text of a small file of the kernel, without the end of its last line.

    None where the file cannot be read. The path may be relative to an open directory.

    Raises:
        MemcgError: as :func:`status`.
    """
    try:
        with opened_at(path, os.O_RDONLY, directory) as file:
            parts = list(iter(lambda: os.read(file.fileno(), 1 << 14), b""))
    except OSError as error:
        raise_if_transient(error, f"{path} cannot be read", "open")
        return None
    # The name of a cgroup may hold any bytes but "\n": it need not be UTF-8, and may end with a
    # space.
    return b"".join(parts).decode("utf-8", "surrogateescape").strip("\n")


# What os.fsdecode() makes of bytes that are not UTF-8.
_NO_UTF_8 = re.compile("[\udc80-\udcff]")


def utf_8(path: str) -> str:
    """A path as valid text: bytes that are not UTF-8 become ``//xNN``.

    This is unambiguous, because a normalized path has no two slashes in a row.
    """
    if path.isascii():
        return path
    return _NO_UTF_8.sub(lambda found: f"//x{ord(found[0]) - 0xDC00:02x}", path)
