# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The values of items as all commands write them in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .units import is_unset


def nullable(values: Mapping[str, int]) -> dict[str, Optional[int]]:
    """An object of items and their values, in which a limit that is not set is null."""
    return {name: None if is_unset(name, value) else value for name, value in values.items()}
