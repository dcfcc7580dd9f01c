# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line: which command is meant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Optional

# A command's first word (a directory of that name is ./tree), its module and its function. Only
# the one that is run is imported: not all need ctypes.
_COMMANDS = {
    "cat": ("pin", "main_cat"),
    "pin": ("pin", "main"),
    "tree": ("tree", "main"),
    "unpin": ("pin", "main_unpin"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (could not read) or 2 (usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = words.pop(0) if words and words[0] in _COMMANDS else ""
    module, function = _COMMANDS.get(command, ("stat", "main"))
    run = getattr(importlib.import_module(f".{module}", __package__), function)
    status: int = run(words)
    return status
