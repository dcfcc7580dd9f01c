# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Draws a tree: what is below what, and the lines that precede each name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Callable, Optional, TypeVar

_T = TypeVar("_T")


def drawn(
    children: dict[Optional[int], list[_T]],
    id_of: Callable[[_T], int],
    encoding: Optional[str] = None,
) -> Iterator[tuple[_T, str]]:
    """The members of a tree from top to bottom, each with the drawing that precedes its name.

    Args:
        children: the members below each id, in their order, and those at the top below None. It is
            emptied: a pin may claim anything, but what is below an id is drawn once.
        id_of: the id of a member.
        encoding: that of what the tree is drawn on; None for that of standard output.
    """
    fork, bar, corner = _characters(encoding or getattr(sys.stdout, "encoding", None) or "ascii")
    # The members still to come, the next one last, each with the drawing before its children.
    waiting = [(member, "", "") for member in reversed(children.pop(None, ()))]
    while waiting:
        member, branch, margin = waiting.pop()
        yield member, branch
        for at, below in enumerate(reversed(children.pop(id_of(member), ()))):
            waiting.append(
                (below, margin + (fork if at else corner), margin + (bar if at else "   "))
            )


def _characters(encoding: str) -> tuple[str, str, str]:
    """The characters that draw the tree; ASCII where the encoding cannot show better ones."""
    try:
        "├─│└".encode(encoding)
    except UnicodeEncodeError:
        return "|- ", "|  ", "`- "
    return "├─ ", "│  ", "└─ "
