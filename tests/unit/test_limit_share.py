# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""limit_share(): never a number where there is no limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import pytest

from pymemcgbpf import UNLIMITED, limit_share
from pymemcgbpf._wire import ABSENT, RawRow

from .tree_rows import snapshot_of

CURRENT, LIMIT = "memory.current", "derived.effective_limit"


@pytest.mark.parametrize(
    ("current", "limit", "share"),
    [
        (0, 4096, 0.0),
        (1024, 4096, 0.25),
        (8192, 4096, 2.0),
        (4096, UNLIMITED, None),
        (0, 0, None),
        (4096, 0, None),
        (None, None, None),
        (None, 4096, None),
        (4096, None, None),
    ],
)
def test_the_share_of_the_effective_limit(
    current: Optional[int], limit: Optional[int], share: Optional[float]
) -> None:
    as_dict: Mapping[str, Optional[int]] = {CURRENT: current, LIMIT: limit, "anon": 7}
    assert limit_share(as_dict) == share
    values = [ABSENT if value is None else value for value in (current, limit)]
    (row,) = snapshot_of([RawRow(8, 7, 4, 0, tuple(values))], names=(CURRENT, LIMIT))
    assert limit_share(row) == share


@pytest.mark.parametrize("lacking", [CURRENT, LIMIT])
def test_an_item_that_was_not_read_is_an_error(lacking: str) -> None:
    values = {CURRENT: 5, LIMIT: 7}
    del values[lacking]
    with pytest.raises(KeyError, match=lacking):
        limit_share(values)
    (row,) = snapshot_of([RawRow(8, 7, 4, 0, (5,))], names=tuple(values))
    with pytest.raises(KeyError, match=lacking):
        limit_share(row)
