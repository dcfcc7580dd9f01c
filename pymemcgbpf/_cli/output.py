# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Writes to standard output and standard error, and copes where that fails."""

from __future__ import annotations

import contextlib
import os
import sys

from .units import printable

PROGRAM = "pymemcgbpf"


def warn(message: str) -> None:
    """Prints one line on stderr, without control characters.

    Prints nothing where stderr is closed (print() would use stdout instead) or cannot be written.
    """
    if sys.stderr is not None:
        line = printable(f"{PROGRAM}: {message}".replace("\n", " "))
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def print_text(text: str) -> bool:
    """Prints a command's output and a newline; returns whether it was written."""
    if (
        sys.stdout is not None and sys.stdout.isatty()
    ):  # names of cgroups must not contain commands for the terminal
        text = "\n".join(map(printable, text.split("\n")))
    return write(f"{text}\n")


def write(text: str) -> bool:
    """Writes to standard output at once; returns whether that has worked.

    Where it fails, standard output is replaced by /dev/null: what is still buffered cannot be
    written either, and Python would complain about that at its exit.
    """
    if sys.stdout is None:
        warn("cannot write: standard output is closed")
        return False
    encoding = sys.stdout.encoding or "ascii"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the program that reads the output has ended
            warn(f"cannot write: {error.strerror}")
        return False
    return True
