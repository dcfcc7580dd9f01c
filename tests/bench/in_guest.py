# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The script that lab.py runs in a guest. The tests are in /extra there."""

import sys

sys.path.insert(0, "/extra")

from tests.bench.__main__ import main

if __name__ == "__main__":
    sys.stderr = sys.stdout  # The lab returns only what is written to stdout.
    sys.exit(main())
