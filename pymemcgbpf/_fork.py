# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Replaces in a forked child what it cannot share with its parent: locks and views.

A lock that another thread held at the moment of fork() would stay locked in the child for ever, so
the child gets new locks. All locks are re-entrant, because a signal handler may read while the code
that it interrupted is reading.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

generation = 0
"""The number of forks between the process that imported this module and this one.

It tells a process from its parent, and so what it created from what it inherited. A process id
cannot do that, because both can have the id 1, each in its own PID namespace. Forks that Python
does not see, such as clone() through ctypes, are not counted.
"""

_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_views: weakref.WeakSet[Any] = weakref.WeakSet()
_links: weakref.WeakSet[Any] = weakref.WeakSet()
_module_locks: list[tuple[str, str]] = []


def renewed_lock(module: str, attribute: str) -> threading.RLock:
    """A lock for a module's global *attribute*, replaced by a new one in a forked child."""
    _module_locks.append((module, attribute))
    return threading.RLock()


def renew_in_child(owner: Any) -> None:
    """Registers an object whose ``_lock`` is replaced by a new one in a forked child."""
    _owners.add(owner)


def expire_in_child(view: Any) -> None:
    """Registers an object whose ``_expire_in_child()`` is called in a forked child."""
    _views.add(view)


def detach_in_child(link: Any) -> None:
    """Registers an object whose ``_detach_in_child()`` is called in a forked child."""
    _links.add(link)


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    for module, attribute in _module_locks:
        setattr(sys.modules[module], attribute, threading.RLock())
    for owner in list(_owners):
        owner._lock = threading.RLock()
    for view in list(_views):
        view._expire_in_child()
    for link in list(_links):
        link._detach_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
