# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Tests on a real kernel: the live one, or one booted by tests/vm. They need root."""
