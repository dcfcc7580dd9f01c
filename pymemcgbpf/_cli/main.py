# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The command line: which command is meant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Optional

from . import stat, tree


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (could not read) or 2 (usage)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["tree"]:  # a directory of that name is ./tree
        return tree.main(words[1:])
    return stat.main(words)
