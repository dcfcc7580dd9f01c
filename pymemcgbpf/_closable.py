# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The base class of all readers: context managers that cannot be copied."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Optional, TypeVar

_Self = TypeVar("_Self", bound="Closable")


class Closable:
    """A context manager that closes itself in the end, and cannot be copied or pickled."""

    def close(self) -> None:
        """Each subclass has its own."""
        raise NotImplementedError

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
