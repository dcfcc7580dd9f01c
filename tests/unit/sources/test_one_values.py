# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The dict of a row, made from its values."""

from __future__ import annotations

import pytest

from pymemcgbpf._sources.one_values import dict_maker


@pytest.mark.parametrize("count", [0, 1, 6, 300])
def test_a_dict_has_the_names_in_their_order(count: int) -> None:
    names = [f"memory.numa_stat.anon.N{at}" for at in range(count)]
    values = [1 << at % 64 for at in range(count)]
    make = dict_maker(names)
    assert list(make(*values).items()) == list(zip(names, values))
    assert make(*values) is not make(*values)
    with pytest.raises(TypeError):
        make(*values, 0)


def test_a_name_may_hold_anything() -> None:
    names = ['"', "'", "\\", "{}", "\n", "é", "__import__('os')"]
    assert list(dict_maker(names)(*range(len(names)))) == names
