# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Run in a guest by lab.py, with the tests in /extra."""

import sys

sys.path.insert(0, "/extra")

from tests.bench.__main__ import main

if __name__ == "__main__":
    sys.stderr = sys.stdout  # the lab brings nothing else home
    sys.exit(main())
