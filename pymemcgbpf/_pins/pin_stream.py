# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Reads the file that pin() creates: each time it is opened, the kernel walks."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Optional

from .. import _options, _wire
from .._records import Record
from ..errors import StreamError
from . import bpffs as _bpffs
from . import diagnosis as _diagnosis

# The size in bytes of the kernel's buffer, into which one walk must fit. A read() of fewer bytes
# ends the walk early.
BUFFER = 8 * mmap.PAGESIZE
_LARGEST_HEADER = _wire.header_size(_wire.MAX_ITEMS)


class PinFile:
    """A pin of one walk.

    Attributes:
        header: the header of its streams.

    Raises:
        MemcgError: a subclass, as for :func:`read_head`.
    """

    def __init__(self, path: str, check: _bpffs.OnBpffs) -> None:
        self._path, self._check = path, check
        self._head = read_head(path, check=check)
        self.header = _wire.decode_header(self._head)
        numbers = self.header.item_numbers
        if (
            self.header.order not in _options.ORDER_NAMES
            or 0 in numbers
            or len(set(numbers)) != len(numbers)
        ):
            raise _diagnosis.bad_header(path)

    def read(self) -> memoryview:
        """The rows that one walk wrote.

        Raises:
            TreeTooLargeError: the walk did not fit into the kernel's buffer.
            StreamError: the data is damaged, or another pin is at the path now.
            MemcgError: a subclass, as :func:`_bpffs.read_pin` says.
        """
        path = self._path
        data, full = _bpffs.read_pin(path, read_walk, check=self._check)
        try:
            stream = _wire.split(data)
        except StreamError as error:
            raise _diagnosis.bad_stream(path, error) from error
        if not data.startswith(self._head):
            raise _diagnosis.replaced(path)
        if stream.end_ns is None:
            if not full:
                raise _diagnosis.cut_short(path, len(data))
            fit = capacity(len(stream.header.item_numbers))
            raise _diagnosis.too_large(f"of {path}", fit, BUFFER)
        return stream.rows


class PinOutput(Record):
    """What one walk wrote.

    Attributes:
        data: what the first read() returned; all of the output, if it fits into the buffer.
        full: whether the kernel's buffer was full before the end of the walk.
    """

    data: bytes
    full: bool


def read_walk(fd: int) -> PinOutput:
    """Reads one walk from an iterator that was just opened."""
    data = os.read(fd, BUFFER)
    end = len(data) - _wire.TRAILER.size
    if end >= 0 and _wire.TRAILER.unpack_from(data, end)[0] == _wire.END_MAGIC:
        return PinOutput(data, False)
    # The buffer was full: either the walk cannot be resumed (EOPNOTSUPP), or only its trailer did
    # not fit.
    try:
        return PinOutput(data, bool(data) and bool(os.read(fd, BUFFER)))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return PinOutput(data, True)


def read_head(
    path: str, directory: Optional[int] = None, check: Optional[_bpffs.OnBpffs] = None
) -> bytes:
    """The header of the stream at a path. The kernel walks no further than the first cgroup.

    With an open directory, only the last component of the path is used, as a name in it.

    Raises:
        StreamError: the file does not begin with a header of this package.
        PinNotFoundError, PinPermissionError.
        PinPathError: the file is not on a bpffs, if that is checked.
    """
    data = _bpffs.read_pin(path, lambda fd: os.read(fd, _LARGEST_HEADER), directory, check)
    try:
        header = _wire.decode_header(data)
    except StreamError as error:
        raise _diagnosis.bad_stream(path, error) from error
    return data[: header.size]


def capacity(items: int) -> int:
    """The number of rows with so many items that fit into the kernel's buffer.

    The kernel never fills the buffer's last byte.
    """
    spare = BUFFER - 1 - _wire.header_size(items) - _wire.TRAILER.size
    return spare // _wire.row_size(items)
