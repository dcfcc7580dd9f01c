# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What a forked child cannot share with its parent: locks, views, and who it is.

A lock that another thread held at the moment of fork() would stay held in the
child for ever; so the child gets new ones. All are re-entrant: a signal handler
may read while the code that it interrupted does.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

generation = 0
"""How many forks lie between this process and the one that imported this module.

It tells a process from those that it was forked from, and so what is its own from what it
inherited. A process's id does not: each can be 1, in a PID namespace of its own. (What forks behind
Python's back, by clone() through ctypes, is not counted.)
"""

_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_views: weakref.WeakSet[Any] = weakref.WeakSet()
_module_locks: list[tuple[str, str]] = []


def renewed_lock(module: str, attribute: str) -> threading.RLock:
    """A lock for a module's global *attribute*, replaced there in a forked child."""
    _module_locks.append((module, attribute))
    return threading.RLock()


def renew_in_child(owner: Any) -> None:
    """Replaces ``owner._lock`` in a forked child."""
    _owners.add(owner)


def expire_in_child(view: Any) -> None:
    """Calls ``view._expire_in_child()`` in a forked child."""
    _views.add(view)


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    for module, attribute in _module_locks:
        setattr(sys.modules[module], attribute, threading.RLock())
    for owner in list(_owners):
        owner._lock = threading.RLock()
    for view in list(_views):
        view._expire_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
