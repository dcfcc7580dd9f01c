# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Fake sources for readers, in place of those that read the kernel."""

from __future__ import annotations

import errno
import threading
from typing import Any, Optional

from pymemcgbpf import CgroupPermissionError, CgroupRemovedError, MemcgError
from pymemcgbpf._cgroup.directory import Cgroup
from pymemcgbpf._options import Request
from pymemcgbpf._sources.choose import Selection

# Which error a caller gets for an error number of the cgroup's files.
READ_ERRORS: list[tuple[int, type[MemcgError]]] = [
    (errno.ENODEV, CgroupRemovedError),
    (errno.ENOENT, CgroupRemovedError),
    (errno.EACCES, CgroupPermissionError),
    (errno.EPERM, CgroupPermissionError),
    (errno.EMFILE, MemcgError),
    (errno.EIO, MemcgError),
]


# Errors that pass, and say nothing about the kernel or the path.
TRANSIENT = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR]


class FakeSource:
    """Counts its calls, and fails or waits as the test asks."""

    def __init__(self) -> None:
        self.is_lost = False
        self.reads = self.closes = 0
        self.at_once = self.most_at_once = 0
        self.read_after_close = False
        self.error: Optional[BaseException] = None
        self.hold: Optional[threading.Event] = None
        self.entered = threading.Event()

    def read(self) -> dict[str, int]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.read_after_close |= self.closes > 0
        try:
            self.reads += 1
            self.entered.set()
            if self.hold is not None:
                self.hold.wait(30)
            if self.error is not None:
                raise self.error
            return {"anon": 1}
        finally:
            self.at_once -= 1

    def close(self) -> None:
        self.closes += 1


class Sources:
    """Stands in for pymemcgbpf._sources.choose.choose().

    Attributes:
        made: the sources made so far, in order.
        asked: the path and the request for each source.
        factories: the factory given for each source.
        error: raised instead of making a source.
    """

    def __init__(self) -> None:
        self.made: list[FakeSource] = []
        self.asked: list[tuple[str, Request]] = []
        self.factories: list[Any] = []
        self.error: Optional[BaseException] = None
        self._lock = threading.Lock()

    def choose(self, cgroup: Cgroup, request: Request, factory: Any) -> Selection[Any]:
        if self.error is not None:
            raise self.error
        source: Any = FakeSource()
        with self._lock:
            self.asked.append((cgroup.path, request))
            self.factories.append(factory)
            self.made.append(source)
        return Selection(source, request.names or ("anon",), "fake", "thin air", "because")

    def open(self) -> int:
        """Sources made and not closed."""
        return sum(1 for source in self.made if not source.closes)
