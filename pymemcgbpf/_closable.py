# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The base class of all readers and of pinned trees: context managers that cannot be copied."""

from __future__ import annotations

import warnings
from types import ModuleType, TracebackType
from typing import Callable, NoReturn, Optional, TypeVar

from . import _fork
from .errors import ClosedError

_Self = TypeVar("_Self", bound="Closable")


class Closable:
    """A context manager that closes itself in the end, and cannot be copied or pickled.

    As a file, it warns (ResourceWarning) if it is forgotten without close(). What it holds open
    closes itself all the same.
    """

    # _fork.generation of the process whose code has to close this; None if nobody has to.
    _closed_by: Optional[int] = None

    def __init__(self, path: str) -> None:
        self._path = path
        # What wakes those that wait for the next sample; None once this is closed.
        self._wakers: Optional[set[Callable[[], object]]] = set()

    def close(self) -> None:
        """Each subclass has its own, which calls :meth:`_wake_all`."""
        raise NotImplementedError

    def _is_to_be_closed(self) -> None:
        """Has it warn if it is forgotten: the last step of a constructor that has succeeded.

        It never warns in a forked child, to which it does not belong.
        """
        self._closed_by = _fork.generation

    def _need_not_be_closed(self) -> None:
        """Has it not warn: it is closed, or whoever made it may forget it."""
        self._closed_by = None

    # The defaults are there even while the interpreter shuts down and clears its modules.
    def __del__(
        self, warn: Callable[..., object] = warnings.warn, fork: ModuleType = _fork
    ) -> None:
        if self._closed_by is not None and self._closed_by == fork.generation:
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def _closed(self) -> ClosedError:
        return ClosedError(f"this reader of {self._path} is closed")

    def _wake_at_close(self, waker: Callable[[], object]) -> bool:
        """Has close() call a function. Returns whether it will: False if this is closed."""
        wakers = self._wakers
        if wakers is not None:
            wakers.add(waker)
        return self._wakers is not None  # close() may have been called meanwhile

    def _do_not_wake(self, waker: Callable[[], object]) -> None:
        wakers = self._wakers
        if wakers is not None:
            wakers.discard(waker)

    def _wake_all(self) -> None:
        self._need_not_be_closed()
        wakers, self._wakers = self._wakers, None
        for waker in list(wakers or ()):
            waker()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: make another")
