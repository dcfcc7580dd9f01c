# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""``python3 -m pymemcgbpf``: the command line.

Python looks for modules in the current directory first then. The console script ``pymemcgbpf`` does
not, nor does ``python3 -I -m pymemcgbpf``.
"""

import sys

from ._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
