# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""How a tree is drawn."""

from __future__ import annotations

import io
import sys
from typing import Optional

import pytest

from pymemcgbpf._cli import branches


def drawn(children: dict[Optional[int], list[int]]) -> list[str]:
    return [f"{branch}{member}" for member, branch in branches.drawn(children, lambda each: each)]


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        ("utf-8", ["1", "├─ 2", "│  └─ 4", "│     └─ 5", "└─ 3", "6"]),
        ("ascii", ["1", "|- 2", "|  `- 4", "|     `- 5", "`- 3", "6"]),
    ],
)
def test_each_member_is_below_its_parent_in_the_given_order(
    encoding: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert drawn({None: [1, 6], 1: [2, 3], 2: [4], 4: [5]}) == lines


def test_the_encoding_may_be_another_than_that_of_standard_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    shown = branches.drawn({None: [1], 1: [2]}, lambda each: each, "ascii")
    assert list(shown) == [(1, ""), (2, "`- ")]


def test_what_is_below_an_id_is_drawn_once() -> None:
    assert [line[-1] for line in drawn({None: [1, 1], 1: [2], 2: [1]})] == ["1", "2", "1", "1"]


def test_a_deep_tree_needs_no_recursion() -> None:
    depth = 3000
    children: dict[Optional[int], list[int]] = {at: [at + 1] for at in range(1, depth)}
    assert len(drawn({None: [1], **children})) == depth
