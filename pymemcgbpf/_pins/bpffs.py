# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks paths in a bpffs. Works without libbpf."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Callable, Optional, TypeVar

from .. import _options
from .._descriptors import Owned, opened_at
from .._lookup import Path, status
from .._lookup import absolute as absolute_path
from ..errors import MemcgError, PinPathError, StreamError, is_transient
from . import diagnosis as _diagnosis
from . import tree_layout as _layout


def absolute(path: Path) -> str:
    """A path that does not depend on the working directory.

    Raises:
        PinPathError: the path is empty, or has a NUL; or it is relative, and the current directory
            was removed.
    """
    text = _options.path("pin_path", path)
    if not text or "\0" in text:
        raise _diagnosis.not_a_path(text)
    return absolute_path(text, PinPathError)


def is_bpffs(path: str) -> bool:
    """Whether the file or directory at a path is on a bpffs.

    Raises:
        OSError: nothing is visible at the path.
        MemcgError: the mount table cannot be read.
    """
    return is_on_bpffs(os.stat(path), path)


def leads_to_bpffs(path: Optional[str]) -> bool:
    """Whether a path names a pin, because it, or the directory above that can be seen, is on a
    bpffs.

    Raises:
        MemcgError: nobody knows, as there is no /proc, and it is no cgroup either.
        CgroupNotFoundError: the path is relative, and the current directory was removed.
    """
    if path is None or "\0" in path:
        return False
    at = whole = absolute_path(path)
    while True:
        try:
            return is_bpffs(at)
        except MemcgError as error:
            # There is no /proc, without which no pin can be read.
            if is_transient(error) or (at == whole and not _is_cgroup(at)):
                raise
            return False
        except OSError:
            if at == os.path.dirname(at):
                return False
            at = os.path.dirname(at)


def _is_cgroup(path: str) -> bool:
    return os.path.exists(os.path.join(path, "cgroup.procs"))


def is_on_bpffs(status: os.stat_result, path: str) -> bool:
    """Whether a file is on a bpffs, by its status; the path is for the message.

    Raises:
        MemcgError: the mount table cannot be read.
    """
    wanted = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        with open("/proc/self/mountinfo", "rb") as lines:  # a path may have any bytes
            for line in lines:
                before, _, after = line.partition(b" - ")
                if before.split(b" ")[2] == wanted.encode():
                    return after.startswith(b"bpf ")
    except OSError as error:
        raise _diagnosis.mount_table_error(path, error) from error
    return False


@contextlib.contextmanager
def opened_directory(path: str, at: Optional[int] = None) -> Iterator[int]:
    """Opens a directory, and closes it in the end.

    Without *at*, it is the directory at a path, opened with O_PATH, for calls that take names in
    it. With *at*, it is the directory of that name in the open directory, and can be listed; a
    symbolic link is refused.
    """
    flags = os.O_PATH if at is None else os.O_RDONLY | os.O_NOFOLLOW
    directory = opened_at(path, flags | os.O_DIRECTORY, at)
    try:
        yield directory.fileno()
    finally:
        directory.close()


def opened_pin(path: str, directory: Optional[int] = None, *, follow: bool = True) -> Owned:
    """Opens a pin by its path, or by the last component of its path in an open directory.

    O_NONBLOCK keeps open() from waiting, should the file be a FIFO.

    Raises:
        OSError: it cannot be opened; with a directory, and without *follow*, also because it is a
            symbolic link.
        ValueError: the path has a NUL.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK
    if directory is not None:
        return opened_at(os.path.basename(path), flags | os.O_NOFOLLOW, directory)
    return opened_at(path, flags if follow else flags | os.O_NOFOLLOW)


class OnBpffs:
    """Raises unless an open file is on a bpffs.

    Files elsewhere are not read, because their owner decides what reading them does and how much
    it returns. The mount table can be long, so it is read once for each file system.
    """

    def __init__(self) -> None:
        self._device: Optional[int] = None

    def __call__(self, fd: int, path: str) -> None:
        status = os.fstat(fd)
        if status.st_dev == self._device:
            return
        if not is_on_bpffs(status, path):
            raise _diagnosis.no_pin(path)
        self._device = status.st_dev


_T = TypeVar("_T")


def read_pin(
    path: str,
    read: Callable[[int], _T],
    directory: Optional[int] = None,
    check: Optional[OnBpffs] = None,
    *,
    follow: bool = True,
) -> _T:
    """Opens a pin, returns what a function reads from its descriptor, and closes it.

    Args:
        path: the path; with *directory*, its last component is a name in that open directory.
        read: the function.
        directory, follow: as for :func:`opened_pin`.
        check: what checks that the file is on a bpffs.

    Raises:
        MemcgError: a subclass, as :func:`_diagnosis.read_error` says.
    """
    try:
        pin = opened_pin(path, directory, follow=follow)
        try:
            fd = pin.fileno()
            if check is not None:
                check(fd, path)
            return read(fd)
        finally:
            pin.close()
    except MemcgError:
        raise
    except (OSError, ValueError) as error:
        raise _diagnosis.read_error(path, error) from error


def check_free(path: str) -> None:
    """Raises unless a pin or a directory could be created at an absolute path.

    Raises:
        PinExistsError, PinPathError, PinPermissionError.
    """
    if _is_taken(path):
        raise _diagnosis.exists(path)
    above = existing_ancestor(path)
    try:
        if not is_bpffs(above):
            raise _diagnosis.not_on_bpffs(path)
    except MemcgError:
        raise
    except OSError as error:
        raise _diagnosis.place_error(path, above, error) from error
    if is_pinned_tree(above):
        raise _diagnosis.inside_pinned_tree(path, above)
    for name in os.path.relpath(path, above).split(os.sep):
        if "." in name:
            raise _diagnosis.name_with_dot(path, name)


def _is_taken(path: str) -> bool:
    return status(path, follow_symlinks=False) is not None


def is_pinned_tree(directory: str) -> bool:
    """Whether a directory has the stream of a pinned tree."""
    try:
        with opened_pin(os.path.join(directory, _layout.STREAM), follow=False) as stream:
            _layout.decode_head(os.read(stream.fileno(), _layout.HEAD_SIZE))
    except StreamError:
        return False
    except OSError as error:
        if is_transient(error) and error.errno != errno.EAGAIN:  # which is what a FIFO says
            raise _diagnosis.listing_error(directory, error) from error
        return False
    return True


def existing_ancestor(path: str) -> str:
    """The nearest ancestor of a path that exists; a dangling symbolic link counts."""
    at = os.path.dirname(path)
    while not _is_taken(at):
        at = os.path.dirname(at)
    return at
