# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins: links in a bpffs that other processes read."""
