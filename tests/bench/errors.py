# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The benchmark's exception."""

from __future__ import annotations


class BenchError(Exception):
    """A contestant could not be run, or read wrong numbers."""
