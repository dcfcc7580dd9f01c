# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line: which command is meant."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Optional

from . import stat

# A command's word → the module that has its main(), and what it does.
_COMMANDS = {
    "stat": ("stat", "one cgroup's statistics (without a word, too)"),
    "tree": ("tree", "a tree of cgroups, read in one walk"),
    "top": ("top", "a tree in a terminal, live and sorted, with rates"),
    "watch": ("watch", "one cgroup's statistics again and again, as CSV or JSON"),
    "export": ("export", "a tree's statistics as metrics for Prometheus"),
    "items": ("items", "the items that this kernel offers"),
    "doctor": ("doctor", "what works here, what does not, and what to do about it"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (could not read) or 2 (usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words and words[0] in _COMMANDS:  # a directory of that name is ./tree
            module, _ = _COMMANDS[words[0]]
            status: int = importlib.import_module(f".{module}", __package__).main(words[1:])
            return status
        return stat.main(words, _list_of_commands())
    except KeyboardInterrupt:
        # Ended as if by the signal itself, so that a shell's loop around it ends, too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT  # a container's first process does not die of it


def _list_of_commands() -> str:
    lines = (f"  {word:<8}{what}\n" for word, (_, what) in _COMMANDS.items())
    return f"\ncommands, each with a --help of its own:\n{''.join(lines)}"
