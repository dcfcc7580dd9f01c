# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What stops the benchmark."""

from __future__ import annotations


class BenchError(Exception):
    """Something did not run, or did not give the right numbers."""
