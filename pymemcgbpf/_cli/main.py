# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The entry point of the command line: finds the command and runs it.

It imports nothing that Python has not imported at its own start, because a Ctrl-C before main()
runs would print a traceback.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in typing, whose import takes milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Optional

# Name → module, function in it, and what the command does. Only the module of the command that
# runs is imported, because commands need different modules.
COMMANDS = {
    "stat": ("stat", "main", "print one cgroup's statistics (the default command)"),
    "tree": ("tree", "main", "print a tree of cgroups with some statistics"),
    "top": ("top", "main", "show a tree live in a terminal, sorted, with rates"),
    "watch": ("watch", "main", "print statistics of cgroups repeatedly, as CSV or JSON"),
    "export": ("export", "main", "print a tree's statistics as metrics for Prometheus"),
    "serve": ("serve", "main", "serve a tree's statistics to Prometheus over HTTP"),
    "pin": ("pin", "main", "create a file that shows statistics to unprivileged users"),
    "cat": ("pin", "main_cat", "print the statistics that such a file shows"),
    "unpin": ("pin", "main_unpin", "remove such a file"),
    "pins": ("pins", "main", "list such files, who refreshes them, and what that costs"),
    "items": ("items", "main", "list the items that this kernel offers"),
    "doctor": ("doctor", "main", "check what works here, and say how to fix what does not"),
    "completion": ("completion", "main", "print a script that completes commands in a shell"),
    "bench": ("bench", "main", "compare the speed of BPF and text on this machine"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        import signal

        # End by the signal itself, so that a shell's loop around the command ends as well.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 128 + signal.SIGINT  # the signal does not end a container's first process


def _run(words: list[str]) -> int:
    import importlib

    from ..errors import MemcgError

    word = words.pop(0) if words and words[0] in COMMANDS else ""  # ./NAME is a directory
    module, function, _ = COMMANDS[word or "stat"]
    try:
        run = getattr(importlib.import_module(f".{module}", __package__), function)
    except MemcgError as error:  # memory or descriptors were short
        from .output import warn

        warn(str(error))
        return 1
    status: int = run(words) if word else run(words, list_of_commands())
    return status


def list_of_commands() -> str:
    """The end of the help if no command was named."""
    lines = (f"  {word:<11}{what}\n" for word, (_, _, what) in COMMANDS.items())
    return f"\ncommands (each has its own --help):\n{''.join(lines)}"
