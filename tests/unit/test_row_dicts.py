# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The dicts of rows, made from their values."""

from __future__ import annotations

import pytest

from pymemcgbpf import _row_dicts

ODD_NAMES = ('"', "'", "\\", "{}", "\n", "é", "__import__('os')", "values", "_0", "found", "row")


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"memory.numa_stat.anon.N{at}" for at in range(count))


@pytest.mark.parametrize("count", [1, 6, 15, 16, 300])
def test_a_dict_has_the_names_in_their_order(count: int) -> None:
    names, values = names_of(count), [1 << at % 64 for at in range(count)]
    make = _row_dicts.maker(names)
    assert list(make(values).items()) == list(zip(names, values))
    assert make(values) is not make(values)
    for wrong in ([*values, 0], values[1:]):
        with pytest.raises(ValueError, match="values to unpack"):
            make(wrong)


@pytest.mark.parametrize("count", [1, 6, 15, 16, 300])
def test_many_rows_become_as_many_dicts(count: int) -> None:
    names = names_of(count)
    rows = [tuple(range(at, at + count)) for at in range(5)]
    found = _row_dicts.list_maker(names)(iter(rows))
    assert [list(each.items()) for each in found] == [list(zip(names, row)) for row in rows]
    found[0].clear()
    assert _row_dicts.list_maker(names)(rows)[0] == dict(zip(names, rows[0]))
    assert _row_dicts.list_maker(names)([]) == []


@pytest.mark.parametrize("more", [0, 5], ids=["a display", "a copy"])
def test_a_name_may_hold_anything(more: int) -> None:
    names = (*ODD_NAMES, *names_of(more))
    values = tuple(range(len(names)))
    assert _row_dicts.maker(names)(values) == dict(zip(names, values))
    assert _row_dicts.list_maker(names)([values]) == [dict(zip(names, values))]


def test_compiled_code_has_no_builtins() -> None:
    with pytest.raises(NameError):
        _row_dicts.compiled(("anon",), "len('a')")
