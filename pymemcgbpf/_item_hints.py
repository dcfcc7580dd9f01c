# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which item is meant by a name that no item has: the end of an error's message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from ._items import CATALOGUE, CURRENT, EFFECTIVE_LIMIT, MAX, V1_FILES, close_names
from ._records import Record

_OOM_KILL = "memory.events.oom_kill"

# The names that cgroup v1 has for items. Those of memory.stat are without their "total_".
_V1_KEYS = {item.v1.removeprefix("total_"): item.name for item in CATALOGUE.values() if item.v1}
_V1_NAMES = {
    **{name: file for file, name in V1_FILES.items() if file in CATALOGUE},
    "hierarchical_memory_limit": EFFECTIVE_LIMIT,
    "memory.oom_control": _OOM_KILL,
    "memory.oom_control.oom_kill": _OOM_KILL,
}

# Words that people use for items.
_WORDS = {
    "failcnt": "memory.failcnt",
    "hierarchical_memsw_limit": "memory.memsw.limit_in_bytes",
    "limit": MAX,
    "memory.kmem.usage_in_bytes": "kernel",
    "memsw": "memory.memsw.usage_in_bytes",
    "oom_kill": _OOM_KILL,
    "oom_kills": _OOM_KILL,
    "usage": CURRENT,
    "working_set": "derived.working_set",
}


class Hint(Record):
    """What may be meant by a name.

    Attributes:
        remark: the end of a sentence that says that there is no such name.
        suggestions: the names that may be meant, the best first.
    """

    remark: str
    suggestions: tuple[str, ...]


def by_meaning(name: str) -> Optional[Hint]:
    """The hint for a name of cgroup v1 or another word for an item; None for all other names."""
    word = name.lower().removeprefix("memory.stat.")
    if word != name.lower() and word in CATALOGUE:
        return _did_you_mean((word,))
    in_v1 = _V1_KEYS.get(word.removeprefix("total_")) or _V1_NAMES.get(word)
    if in_v1 is None:
        return _did_you_mean((_WORDS[word],)) if word in _WORDS else None
    if word in _V1_KEYS:
        remark = (
            f": on cgroup v1 it counts one cgroup alone; use {in_v1!r}, which counts the cgroups "
            "below it, too"
        )
    else:
        remark = f": use {in_v1!r}, which cgroup v1 shows under that name"
    return Hint(remark, (in_v1,))


def by_spelling(name: str, known: Iterable[str]) -> Optional[Hint]:
    """The hint for a name that some of the known ones resemble; None if none does."""
    like = close_names(name, known)
    return _did_you_mean(like) if like else None


def _did_you_mean(names: tuple[str, ...]) -> Hint:
    return Hint(f"; did you mean {' or '.join(map(repr, names))}?", names)
