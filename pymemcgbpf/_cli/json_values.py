# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The values of items as all commands write them in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .._items import UNLIMITED, is_limit, item_named


def nullable(values: Mapping[str, int]) -> dict[str, Optional[int]]:
    """An object of items and their values, in which a limit that is not set is null."""
    return {
        name: None if value == UNLIMITED and _is_limit(name) else value
        for name, value in values.items()
    }


def _is_limit(name: str) -> bool:
    item = item_named(name)
    return item is not None and is_limit(item)
