# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs a command: prints its output, reports an error in one line, returns the exit status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable, NoReturn, Optional

from ..errors import ItemUnavailableError, MemcgError, UnknownItemError
from . import output

OK, FAILED, USAGE = 0, 1, 2


class WrongUsageError(MemcgError):
    """Wrong usage that only reading shows."""


def run(make_text: Callable[[], Optional[str]]) -> int:
    """Prints a text, unless it is None; returns the exit status."""

    def texts() -> Iterator[str]:
        text = make_text()
        if text is not None:
            yield text

    return run_each(texts)


def run_each(make_texts: Callable[[], Iterable[str]]) -> int:
    """Prints each text as soon as it is made; returns the exit status."""
    try:
        for text in make_texts():
            if not output.print_text(text):
                return FAILED
    except MemcgError as error:
        if isinstance(error, WrongUsageError):
            refuse(str(error))
        output.warn(str(error))
        wrong_item = isinstance(error, (UnknownItemError, ItemUnavailableError))
        return USAGE if wrong_item else FAILED
    return OK


def refuse(message: str) -> NoReturn:
    """Ends the program because of wrong usage that the parser cannot see."""
    output.warn(f"{message} (see --help)")
    raise SystemExit(USAGE)
