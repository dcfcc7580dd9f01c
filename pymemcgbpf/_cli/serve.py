# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Serves the statistics of a tree of cgroups to Prometheus over HTTP."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Optional

from .. import _openmetrics
from .._pins import find
from .._samples import Ticks
from .._version import VERSION
from ..errors import MemcgError
from . import accept, command, listen, own_metrics, parsers, signals
from .metrics_server import Answer, MetricsServer
from .walks import Failures, WalkResult, Walks

_DEFAULT_ADDRESS = listen.Address("127.0.0.1", 10753)
_DEFAULT_INTERVAL = 10.0
_PATIENCE = 0.3  # seconds in which a walk may end when the program is to end

_INDEX = f"""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>pymemcgbpf</title></head>
<body><h1>pymemcgbpf {VERSION}</h1><p>Memory statistics of cgroups.</p>
<ul><li><a href="/metrics">metrics</a></li><li><a href="/healthz">health</a></li></ul>
</body></html>
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_words(arguments)

    def texts() -> Iterator[str]:
        listener = listen.listening_socket(options.listen, allow_remote=options.allow_remote)
        with listener:
            walks = Walks(options, refuse_stale=True, count_departed=True)
            try:
                first = walks.read()
            except BaseException:
                walks.close()
                raise
            every = options.every or walks.interval or _DEFAULT_INTERVAL
            with signals.held_to_stop() as stopped, _Walker(walks, first, every) as walker:
                server = MetricsServer(listener, walker.answer, any_host=options.allow_remote)
                server.start()
                try:
                    _tell_systemd("READY=1")
                    yield f"serving http://{listen.address_of(listener)}/metrics"
                    stopped(None)
                    _tell_systemd("STOPPING=1")
                finally:
                    server.close()

    return command.run_each(texts)


class _Page:
    """What one walk has found, as texts that are made when they are first asked for.

    Args:
        walk: the walk.

    Attributes:
        walk: the same.
        made: the moment when it had ended, of time.monotonic().
    """

    def __init__(self, walk: WalkResult) -> None:
        self.walk, self.made = walk, time.monotonic()
        self._texts: dict[_openmetrics.Format, bytes] = {}
        self._lock = threading.Lock()

    def text(self, form: _openmetrics.Format) -> bytes:
        """The metrics in a format.

        Raises:
            MemcgError: the process has no file descriptor or memory left to look up the paths.
        """
        with self._lock:
            if form not in self._texts:
                walk = self.walk
                self._texts[form] = own_metrics.with_cgroups(
                    walk.own, walk.snapshot, form, departed=walk.departed
                )
            return self._texts[form]


class _Walker:
    """Walks at an interval, in a thread, and shows what the last walk has found.

    Args:
        walks: what it walks with, which it owns.
        first: the first walk.
        every: the interval in seconds.
    """

    def __init__(self, walks: Walks, first: WalkResult, every: float) -> None:
        self._walks, self._page, self._every = walks, _Page(first), every
        self._failures, self._ending = Failures(), threading.Event()
        self._thread = threading.Thread(target=self._walk_on, name="walks", daemon=True)

    def __enter__(self) -> _Walker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_PATIENCE)
        if not self._thread.is_alive():  # or else close() would wait for its walk
            self._walks.close()

    def _walk_on(self) -> None:
        ticks = Ticks(self._every)
        ticks.take()
        while not self._ending.wait(ticks.delay()):
            ticks.take()
            walk = self._walks.take()
            self._failures.note(walk.error)
            self._page = _Page(walk)

    def _current(self) -> _Page:
        """The page of the last walk; if that is too long ago, one without cgroups."""
        page = self._page
        own = page.walk.own
        due = max(self._every, (own.duration_ns or 0) / 1e9)
        longest = max(find.STALE * due, find.FRESH)
        age = time.monotonic() - page.made
        if age <= longest:
            return page
        error = MemcgError(f"the last walk ended {age:.0f} s ago, and the next one does not end")
        known = own_metrics.OwnNumbers(
            time=own.time, walks=own.walks, errors=own.errors, departed_lost=own.departed_lost
        )
        return _Page(WalkResult(None, known, error))

    def answer(self, path: str, accepted: Optional[str]) -> Optional[Answer]:
        """The page at a path; None if there is none.

        Args:
            path: the path.
            accepted: the header Accept.

        Raises:
            MemcgError: the metrics cannot be written now.
        """
        if path == "/metrics":
            form = accept.wanted_format(accepted)
            return Answer(self._current().text(form), accept.CONTENT_TYPES[form])
        if path == "/healthz":
            error = self._current().walk.error
            if error is not None:
                raise error
            return Answer(b"ok\n")
        if path == "/":
            return Answer(_INDEX.encode(), "text/html; charset=utf-8")
        return None


def _tell_systemd(state: str) -> None:
    """Tells the service manager, if there is one that wants to know, as sd_notify(3) does."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        if place.startswith("@"):
            place = "\0" + place[1:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(state.encode(), place)


def _parser() -> parsers.Parser:
    parser = parsers.reader_parser(
        " serve",
        "Serve the memory statistics of a tree of cgroups over HTTP, as metrics for Prometheus: "
        "/metrics, in the text format or in OpenMetrics, as the client asks; /healthz, which has "
        "the status 503 and the reason if the last walk has failed. The whole tree is read in one "
        "walk at each interval, however many clients ask. SIGTERM and SIGINT end the program.",
        "The metrics are those of the command export, and some of the program itself, "
        "pymemcgbpf_NAME. If a walk fails, only these are served until one works again. ",
        path=f"{parsers.TOPMOST_CGROUP}{parsers.OR_PIN}",
        items=parsers.DEFAULT_ITEMS,
    )
    parser.add_argument(
        "--listen",
        type=listen.address,
        default=_DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="where to listen; port 0 is any that is free (default: "
        f"{_DEFAULT_ADDRESS}). Other addresses than those of loopback need --allow-remote",
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="let other machines connect. Whoever can connect sees the names of all cgroups and "
        "containers, and what they use",
    )
    parser.add_argument(
        "--every",
        type=parsers.seconds,
        metavar="SECONDS",
        help=f"the seconds from one walk to the next (default: {_DEFAULT_INTERVAL:g}; for a pinned "
        "tree, the interval at which it is refreshed)",
    )
    parsers.add_selection(parser)
    return parser
