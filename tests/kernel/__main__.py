# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs the kernel tests on the live machine, where it can load BPF at all.

A machine that cannot run them (a container, no BTF) is reported and is no failure: the guests of
the lab run the same tests. Whatever else goes wrong is left for the tests to find.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pymemcgbpf import BpfPermissionError, BtfNotFoundError, MemcgError, StatsReader


def why_not() -> str:
    """Why the live kernel cannot run the tests; "" where it can."""
    try:
        from .surroundings import HIERARCHY
    except AssertionError as error:
        return str(error)
    try:
        StatsReader(HIERARCHY, ["anon"], backend="core").close()
    except (BpfPermissionError, BtfNotFoundError) as error:
        return str(error)
    except MemcgError:
        pass
    return ""


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"live-kernel tests not run: {reason}")
        sys.exit(0)
    sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
