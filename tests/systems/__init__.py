# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Tests with the programs that people run beside this package, on the live machine."""
