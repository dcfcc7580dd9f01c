# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Addresses of kernel symbols, from /proc/kallsyms."""

from __future__ import annotations

from typing import Optional

KALLSYMS = "/proc/kallsyms"
_CHUNK = 1 << 20


def addresses(*names: str) -> tuple[Optional[int], ...]:
    """The address of each symbol; None where it is not shown.

    Data symbols are there with CONFIG_KALLSYMS_ALL only; and who may not see
    addresses (kernel.kptr_restrict) is shown zeros, which count as not shown.
    """
    found: dict[str, int] = {}
    wanted = {name: f" {name}\n".encode() for name in names}
    try:
        with open(KALLSYMS, "rb", buffering=0) as file:
            rest = b""
            while len(found) < len(names) and (chunk := file.read(_CHUNK)):
                text = rest + chunk
                for name, pattern in wanted.items():
                    at = text.find(pattern)
                    if at >= 0:
                        line = text[text.rfind(b"\n", 0, at) + 1 : at]
                        found[name] = int(line.split()[0], 16)
                rest = text[text.rfind(b"\n") + 1 :]
    except OSError:
        pass
    return tuple(found.get(name) or None for name in names)
