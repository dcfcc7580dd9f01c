# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Pins: BPF iterator links in a bpffs, which other processes read."""
