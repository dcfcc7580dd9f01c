# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Sends messages through the print function of libbpf, as libbpf does."""

from __future__ import annotations

import ctypes

from pymemcgbpf._bpf import libbpf_log as _libbpf_log

# An empty va_list; no architecture needs more bytes.
_NO_ARGUMENTS = ctypes.create_string_buffer(64)


def say(level: int, text: bytes) -> None:
    """One message at libbpf's level 0 (warning), 1 (information) or 2 (debug)."""
    address = ctypes.addressof(_NO_ARGUMENTS)
    _libbpf_log._print_callback(level, text.replace(b"%", b"%%"), address)
