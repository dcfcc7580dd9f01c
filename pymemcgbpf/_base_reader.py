# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What both readers share."""

from __future__ import annotations

import errno
import threading
from typing import Generic, NoReturn, Optional, TypeVar

from . import _fork, _lookup, _options
from ._cgroup import diagnosis as _diagnosis
from ._cgroup import directory as _directory
from ._closable import Closable
from ._sources import choose as _choose
from .errors import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupPermissionError,
    ItemUnavailableError,
    MemcgError,
    is_transient,
)

_Source = TypeVar("_Source", bound=_choose.Source)


class Reader(Closable, Generic[_Source]):
    """What both readers share: a cgroup, the source that it is read from, and a lock."""

    def __init__(
        self,
        cgroup_path: _lookup.Path,
        request: _options.Request,
        factory: _choose.SourceFactory[_Source],
    ) -> None:
        cgroup = _directory.open_cgroup(cgroup_path)
        try:
            choice = _choose.choose(cgroup, request, factory)
        finally:
            cgroup.close()
        super().__init__(cgroup.path)
        self._request, self._factory = request, factory
        self._cgroup_id, self._identity = cgroup.id, cgroup.identity
        self._names, self._backend, self._fallback_reason = (
            choice.names,
            choice.backend,
            choice.fallback_reason,
        )
        self._transport, self._missing = choice.transport, choice.missing
        self._source: Optional[_Source] = choice.source
        self._lock = threading.RLock()  # a signal handler may read, too
        _fork.renew_in_child(self)
        self._is_to_be_closed()

    @property
    def path(self) -> str:
        """The cgroup's directory, as it was passed to the constructor."""
        return self._path

    @property
    def cgroup_id(self) -> int:
        """The kernel's 64-bit id of the cgroup, which is the inode number of its directory."""
        return self._cgroup_id

    def _is_at(self, path: str) -> bool:
        """Whether a path leads to the same cgroup."""
        return _lookup.identity(path) == self._identity

    @property
    def item_names(self) -> tuple[str, ...]:
        """The names of the items that are read, in the order of the result."""
        return self._names

    @property
    def backend(self) -> str:
        """The backend in use, where the numbers come from: "kfunc", "rfc", "core" or "text"."""
        return self._backend

    @property
    def transport(self) -> str:
        """The transport in use, how the numbers travel: "run", "stream", "shared" or "text"."""
        return self._transport

    @property
    def fallback_reason(self) -> str:
        """Why no faster backend or transport could be used; "" if there is none.

        On cgroup v1, where text has only some of the items, it also says how many members of the
        requested groups (or of the default items) are missing, if another backend may have them.

        A reader with ``backend="auto"`` changes to text in a process that loses the privileges to
        read on through BPF. :attr:`backend`, :attr:`transport` and this property change then;
        :attr:`item_names` does not, even if text lacks some items of a group, as on cgroup v1.
        """
        return self._fallback_reason

    def _reads_text_next(self, error: MemcgError) -> bool:
        """Whether a reader with "auto" changes to text after an error.

        It does so if BPF is not available to it any more: most often the process has lost
        privileges. It does not after a transient shortage, because the change is for good.
        """
        return (
            isinstance(error, BackendUnavailableError)
            and not is_transient(error)
            and self._request.backend == self._request.transport == _options.AUTO
            and self._backend != "text"
        )

    def _read_text_instead(self, error: MemcgError) -> None:
        """Replaces the source by one that reads the same items as text.

        Members of groups that text lacks are absent from then on.

        Raises:
            BpfPermissionError: text lacks an item that was asked for by name, or may not be read
                either. It is another BackendUnavailableError if BPF is not available for another
                reason than a lack of rights.
        """
        lost = str(error)
        if isinstance(error, BpfPermissionError):
            lost = f"this process has lost the rights that its reader was made with: {error}"
        try:
            cgroup = self._open_again()
            try:
                chosen, lacking = _choose.choose_text(
                    cgroup, self._request.names, self._names, self._factory
                )
            finally:
                cgroup.close()
        except MemcgError as text_error:
            if self._source is None:  # a signal handler has closed this reader meanwhile
                raise self._closed() from text_error
            if not isinstance(text_error, (ItemUnavailableError, CgroupPermissionError)):
                raise
            remedy = ""
            if isinstance(text_error, ItemUnavailableError):
                remedy = self._without(", ".join(map(repr, text_error.item_names)))
            raise type(error)(
                f"{self._path} cannot be read any more: {lost}; as text: {text_error}",
                remedy=remedy,
                errno=error.errno,
                call=error.call,
                log=error.log,
            ) from text_error
        source, self._source = self._source, chosen
        if source is None:  # a signal handler has closed this reader meanwhile
            self.close()
            raise self._closed()
        why = f"{self._backend}: {lost}"
        if lacking:
            few = _choose.first_of(lacking)
            self._missing = (
                f"as text, {len(lacking)} of {len(self._names)} items are missing ({few})"
            )
            why += f"; {self._missing}"
        self._add_reason(why)
        self._backend = self._transport = _options.TEXT
        source.close()

    def _add_reason(self, why: str) -> None:
        """Adds to :attr:`fallback_reason`."""
        self._fallback_reason = f"{self._fallback_reason}; {why}" if self._fallback_reason else why

    def _open_again(self) -> _directory.Cgroup:
        """Opens this reader's cgroup again."""
        raise NotImplementedError

    @staticmethod
    def _without(names: str) -> str:
        """What helps a reader of items that text lacks."""
        return f"leave out {names}"

    def close(self) -> None:
        """Releases the BPF program and closes all files. Calling it again does nothing.

        It waits for a read() that is in progress in another thread. Loops over :meth:`every` end.
        """
        with self._lock:
            source, self._source = self._source, None
            self._wake_all()
            if source is not None:
                source.close()

    def _is_lost(self) -> bool:
        """Whether other code has closed one of its file descriptors."""
        source = self._source
        return source is not None and source.is_lost

    def _lost(self) -> MemcgError:
        """The error for a descriptor that was closed by other code."""
        return MemcgError(
            f"a file descriptor of this reader of {self._path} was closed by other code: "
            "make another reader",
            errno=errno.EBADF,
            call="read",
        )

    def _raise_mapped(self, source: _Source, error: OSError) -> NoReturn:
        """Raises the exception that explains a failure to read."""
        if source.is_lost:
            raise self._lost() from error
        _diagnosis.raise_mapped(self._path, self._identity, error)

    def __repr__(self) -> str:
        state = "closed"
        if self._source is not None:
            state = self._backend
            if self._transport != self._backend:
                state += f"/{self._transport}"
        return f"<{type(self).__name__} {self._path!r} {state}, {len(self._names)} items>"
