# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Named tuples whose classes are made quickly.

typing.NamedTuple compiles a constructor for each class, which takes 0.15 ms. For all classes that a
first reader needs, that is several milliseconds of its import.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

__all__ = ["Record"]

if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class _RecordType(type):
        """Makes a property of each field that a class body annotates."""

        def __new__(mcs, name, bases, namespace):
            namespace.setdefault("__slots__", ())
            defaults = {}
            cls = super().__new__(mcs, name, bases, namespace)
            cls._fields = cls.__match_args__ = fields = tuple(cls.__annotations__)
            for at, field in enumerate(fields):
                if field in namespace:
                    defaults[field] = namespace[field]
                elif defaults:
                    raise TypeError(f"{field} of {name} needs a default, too")
                setattr(cls, field, collections._tuplegetter(at, f"field {at}"))
            cls._field_defaults = defaults
            return cls

    class Record(tuple, metaclass=_RecordType):
        """The base class. A subclass is what it would be with typing.NamedTuple."""

        __annotations__ = {}

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            """The values of all fields."""
            rest = cls._fields[len(values) :]
            given = {**cls._field_defaults, **named}
            try:
                every = (*values, *(given.pop(field) for field in rest))
            except KeyError as error:
                raise TypeError(f"{cls.__name__} misses the argument {error}") from None
            unknown = named.keys() - set(rest)
            if unknown or len(every) != len(cls._fields):
                raise TypeError(f"{cls.__name__} got too many arguments: {values}, {named}")
            return every

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            pairs = map("{}={!r}".format, self._fields, self)
            return f"{type(self).__name__}({', '.join(pairs)})"
