# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Tests with the libraries for tables, in a process of their own."""
