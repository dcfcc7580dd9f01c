# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Iterator links: attaching one to a cgroup, in an order that the kernel knows, and reading it."""

from __future__ import annotations

import errno
from typing import Callable, TypeVar

from .. import _options
from .._bpf import btf as _btf
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf_programs as _libbpf_programs
from .._bpf.features import CHILDREN
from .._cgroup import diagnosis as _diagnosis
from .._cgroup.directory import Cgroup
from ..errors import BpfPermissionError, MemcgError

_Read = TypeVar("_Read")


def attach(program: _program.Program, cgroup: Cgroup, order: int) -> _program.Link:
    """Attaches a program to a cgroup iterator that walks from a cgroup.

    Raises:
        CgroupRemovedError: the cgroup was removed.
        BpfPermissionError: the process may not attach it.
        MemcgError: the kernel refuses it for another reason.
    """
    return explained(cgroup, lambda: program.attach(cgroup.fd, order))


def explained(cgroup: Cgroup, attach: Callable[[], _Read]) -> _Read:
    """Calls a function that attaches something to a cgroup iterator, and explains its failure, as
    :func:`attach` does."""
    try:
        return attach()
    except MemcgError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EBADF):
            raise _diagnosis.why_unreadable(cgroup.path, cgroup.identity) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise BpfPermissionError(
                f"the kernel does not let this process attach a BPF iterator: {error}",
                errno=error.errno,
                call=error.call,
                log=error.log,
            ) from error
        raise


def walk_order(order: int, cgroup: Cgroup) -> tuple[int, dict[str, bytes]]:
    """The order that the kernel walks in, and further constants for the program.

    A kernel that cannot walk the children only walks the whole tree, and the program skips the
    other cgroups.
    """
    if order != _options.CHILDREN or CHILDREN.is_in(_btf.kernel()):
        return order, {}
    return _options.PRE, {"children_of": _terms.u64(cgroup.id)}


def read_iterator(
    new_iterator: _libbpf_programs.IteratorMaker, read: Callable[[int], _Read]
) -> _Read:
    """Calls *read* with the descriptor of a new iterator, and closes the iterator afterwards.

    :meth:`StreamSource.read` does the same without this function: it takes two microseconds, of
    which a further call would be a twentieth.
    """
    iterator = new_iterator()
    try:
        return read(iterator.fileno())
    finally:
        iterator.close()
