# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Uses of errors and names. Type checkers must refuse each line with "# error", and accept all
others."""

from typing import Optional

from typing_extensions import assert_type

import pymemcgbpf
from pymemcgbpf import MemcgError, TreeTooLargeError, UnknownItemError, read_stats

try:
    read_stats("/sys/fs/cgroup")
except UnknownItemError as error:
    assert_type(error.suggestions, tuple[str, ...])
    problem: ValueError = error
except TreeTooLargeError as error:
    assert_type(error.rows, int)
    error.suggestions  # error
except MemcgError as error:
    number: Optional[int] = error.errno
    assert_type(error.log, str)

pymemcgbpf.read_stat("/sys/fs/cgroup")  # error
pymemcgbpf.StatReader  # error
assert_type(pymemcgbpf.__version__, str)
