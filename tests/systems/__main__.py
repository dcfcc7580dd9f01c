# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs these tests on the live machine, where it can load BPF, as tests.kernel does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..kernel.__main__ import why_not

if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"tests with other systems not run: {reason}")
        sys.exit(0)
    sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
