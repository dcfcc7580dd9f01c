# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A tree's parts are found by their names."""

from __future__ import annotations

from pymemcgbpf._pins import parts as _parts


def test_parts_are_found_by_their_names() -> None:
    parts = [_parts.Part(at, 3) for at in range(3)]
    names = [part.name for part in parts]
    assert names == ["part-0000-of-0003", "part-0001-of-0003", "part-0002-of-0003"]
    assert _parts.parts_of([*reversed(names), "part-1-of-2", "x", f"{names[0]}x"]) == parts
    assert _parts.are_whole(parts)
    for some in ([], parts[:2], parts[1:], [*parts, _parts.Part(0, 1)], [_parts.Part(0, 0)]):
        assert not _parts.are_whole(sorted(some))
