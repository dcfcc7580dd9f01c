# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line: which command is meant."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Optional

# A command's word → its module and function there, and what it does. Only the one that is run is
# imported: not all need what the others need.
COMMANDS = {
    "stat": ("stat", "main", "one cgroup's statistics (without a word, too)"),
    "tree": ("tree", "main", "a tree of cgroups, read in one walk"),
    "top": ("top", "main", "a tree in a terminal, live and sorted, with rates"),
    "watch": ("watch", "main", "one cgroup's statistics again and again, as CSV or JSON"),
    "export": ("export", "main", "a tree's statistics as metrics for Prometheus"),
    "pin": ("pin", "main", "a file in a bpffs that shows the numbers to whoever may read it"),
    "unpin": ("pin", "main_unpin", "remove such a file"),
    "cat": ("pin", "main_cat", "print what such a file shows"),
    "bench": ("bench", "main", "text against numbers: the experiment of the kernel patch, here"),
    "items": ("items", "main", "the items that this kernel offers"),
    "doctor": ("doctor", "main", "what works here, what does not, and what to do about it"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (could not read) or 2 (usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    word = words.pop(0) if words and words[0] in COMMANDS else ""  # a directory is ./WORD
    module, function, _ = COMMANDS[word or "stat"]
    try:
        run = getattr(importlib.import_module(f".{module}", __package__), function)
        status: int = run(words) if word else run(words, list_of_commands())
        return status
    except KeyboardInterrupt:
        # Ended as if by the signal itself, so that a shell's loop around it ends, too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT  # a container's first process does not die of it


def list_of_commands() -> str:
    """For the help of whoever has not said which."""
    lines = (f"  {word:<8}{what}\n" for word, (_, _, what) in COMMANDS.items())
    return f"\ncommands, each with a --help of its own:\n{''.join(lines)}"
