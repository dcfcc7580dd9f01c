# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A Record is what typing.NamedTuple makes of the same class body."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest

from pymemcgbpf._records import Record


class Ours(Record):
    """A record."""

    first: int
    second: str = "b"
    third: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.first


class Theirs(NamedTuple):
    first: int
    second: str = "b"
    third: tuple[int, ...] = ()


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_a_record_is_a_tuple_with_names(kind: Any) -> None:
    record = kind(1, third=(2,))
    assert record == (1, "b", (2,)) and hash(record) == hash((1, "b", (2,)))
    assert (record.first, record.second, record.third) == tuple(record)
    assert record._fields == kind.__match_args__ == ("first", "second", "third")
    assert record._asdict() == {"first": 1, "second": "b", "third": (2,)}
    assert record._replace(second="c") == (1, "c", (2,)) == kind._make((1, "c", (2,)))
    assert type(record._replace(second="c")) is type(kind._make((1, "c", (2,)))) is kind
    assert kind._field_defaults == {"second": "b", "third": ()}
    assert repr(record) == f"{kind.__name__}(first=1, second='b', third=(2,))"


@BOTH
def test_it_holds_nothing_but_its_fields(kind: Any) -> None:
    record = kind(1)
    for name in ("first", "other"):
        with pytest.raises(AttributeError):
            setattr(record, name, 3)
    assert not hasattr(record, "__dict__")


@BOTH
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        ((1, 2, 3, 4), {}),
        ((1,), {"first": 2}),
        ((1,), {"fourth": 2}),
        ((), {"second": 1}),
    ],
)
def test_wrong_arguments(kind: Any, values: Any, named: Any) -> None:
    with pytest.raises(TypeError):
        kind(*values, **named)
    if values:
        return
    with pytest.raises((TypeError, ValueError)):
        kind(1)._replace(fourth=2)


@BOTH
def test_copies(kind: Any) -> None:
    record = kind(1, third=(2,))
    for made in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert made == record and type(made) is kind


def test_a_class_has_its_own_members_and_docstring() -> None:
    assert Ours(2).double == 4 and Ours.__doc__ == "A record."


def test_a_field_without_a_default_comes_first() -> None:
    with pytest.raises(TypeError, match="second of Wrong needs a default"):

        class Wrong(Record):
            first: int = 1
            second: int  # type: ignore[misc]
