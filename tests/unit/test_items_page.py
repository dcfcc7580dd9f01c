# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""docs/items.md is what the catalogue makes of it."""

from __future__ import annotations

import re

import pytest

from pymemcgbpf._items import CATALOGUE

from ..docs.items import BEGIN, END, docs, page


def test_the_page_is_up_to_date() -> None:
    text = (docs() / "items.md").read_text(encoding="utf-8")
    assert page(text) == text, "run python3 -m tests.docs.items"


def test_every_item_has_a_row() -> None:
    text = (docs() / "items.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)` \|", text, re.MULTILINE)
    assert rows == [(str(item.number), item.name) for item in CATALOGUE.values()]


def test_what_is_written_by_hand_stays() -> None:
    made = page(f"before\n{BEGIN}an old table\n{END}after\n")
    assert made.startswith(f"before\n{BEGIN}") and made.endswith(f"{END}after\n")
    assert "an old table" not in made and "| 1 | `anon` | bytes | gauge |" in made


def test_a_page_without_just_one_generated_part_is_refused() -> None:
    cases: list[str] = ["", BEGIN, END, END + BEGIN, BEGIN + END + BEGIN + END]
    for text in cases:
        with pytest.raises(ValueError, match="one generated part"):
            page(text)
