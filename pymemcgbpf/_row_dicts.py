# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Functions that make the dicts of rows, compiled for the names of their items.

They are compiled as collections.namedtuple compiles a constructor: ``dict(zip(names, values))``
takes up to three times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Callable

# Python makes a longer display out of several dicts. It takes less time to put many values into a
# copy of a dict that has all names.
_LONGEST_DISPLAY = 15


def variables(names: Sequence[str]) -> str:
    """The variables for the values of these items, as the left side of an assignment."""
    return "".join(f"_{at}, " for at in range(len(names)))


def dict_statements(names: Sequence[str], to: str) -> list[str]:
    """Python statements that make a dict of the :func:`variables`. The last one is *to* and the
    dict, such as "return {}" with the dict in the place of the braces."""
    pairs = [(repr(name), f"_{at}") for at, name in enumerate(names)]
    if len(pairs) <= _LONGEST_DISPLAY:
        display = ", ".join(f"{name}: {value}" for name, value in pairs)
        return [to.replace("{}", f"{{{display}}}")]
    stores = (f"values[{name}] = {value}" for name, value in pairs)
    return ["values = copy_of_names()", *stores, to.replace("{}", "values")]


def compiled(names: Sequence[str], code: str) -> dict[str, Any]:
    """What code defines that has the statements for these names in it."""
    empty = dict.fromkeys(names)
    defined: dict[str, Any] = {"__builtins__": {}, "copy_of_names": empty.copy}
    exec(code, defined)
    return defined


def maker(names: Sequence[str]) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """A function that makes a dict of a row's values."""
    body = "\n    ".join(dict_statements(names, "return {}"))
    code = f"def make(row):\n    {variables(names)} = row\n    {body}\n"
    make: Callable[[Sequence[Any]], dict[str, Any]] = compiled(names, code)["make"]
    return make


@functools.lru_cache(maxsize=16)
def list_maker(
    names: tuple[str, ...],
) -> Callable[[Iterable[Sequence[Any]]], list[dict[str, Any]]]:
    """A function that makes a list of dicts of the values of many rows."""
    body = "\n        ".join(dict_statements(names, "found.append({})"))
    code = (
        f"def make(rows):\n    found = []\n    for {variables(names)} in rows:\n        {body}\n"
        "    return found\n"
    )
    make: Callable[[Iterable[Sequence[Any]]], list[dict[str, Any]]]
    make = compiled(names, code)["make"]
    return make
