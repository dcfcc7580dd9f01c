# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""An HTTP server for small, trusted pages and many, untrusted clients.

Each connection has one request and one thread. There are so many at most, and each step of a
connection ends in time, so that neither slow clients nor many of them take anything from the
process that it cannot spare. If all threads are taken, clients that have not sent their request yet
give way to the next one, and so do those that receive nothing of their answer.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import socket
import threading
import time
from http import HTTPStatus
from typing import Any, Callable, Optional

from .._records import Record
from .._version import VERSION
from ..errors import MemcgError

PLAIN_TEXT = "text/plain; charset=utf-8"

_METHODS = ("GET", "HEAD")
_PAUSE = 0.1  # in seconds, where the system is short of descriptors or threads
_PIECE = 1 << 16  # bytes that are sent at once
_OTHER_HOST = b"403 Forbidden: the header Host names neither an address nor localhost\n"
_LEFT_OVER = 1 << 20  # bytes of a request that are read and dropped after the answer


class Limits(Record):
    """What one client can take.

    Attributes:
        connections: how many there are at once.
        head_size: the bytes of a request, to which at most a buffer of 8 KiB is added.
        head_seconds: how long a client may take to send its request.
        body_seconds: how long it may take to receive the answer; Prometheus waits as long by
            default.
        close_seconds: how long it may take to close the connection after that.
        grace_seconds: how long it may take for any of this while others wait for a thread.
    """

    connections: int = 32
    head_size: int = 16384
    head_seconds: float = 5
    body_seconds: float = 10
    close_seconds: float = 1
    grace_seconds: float = 0.2


class Answer(Record):
    """What a client gets.

    Attributes:
        body: the page.
        content_type: its media type.
        status: the status.
    """

    body: bytes
    content_type: str = PLAIN_TEXT
    status: HTTPStatus = HTTPStatus.OK


class MetricsServer:
    """Serves pages on a listening socket, which it owns, until it is closed.

    Args:
        listener: the socket.
        answer: a function from a path and the header Accept to a page; None for no such page. A
            MemcgError that it raises becomes the status 503 and its sentence.
        limits: what one client can take.
        any_host: whether requests may name any host. Otherwise those that name neither an address
            nor localhost are refused: a web page whose name leads to this machine could read the
            answers through a browser of this machine.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[str, Optional[str]], Optional[Answer]],
        limits: Limits = Limits(),  # noqa: B008 # it never changes
        *,
        any_host: bool = False,
    ) -> None:
        self.answer, self.limits, self.any_host = answer, limits, any_host
        self._listener, self._closing = listener, threading.Event()
        self._slots = threading.BoundedSemaphore(limits.connections)
        # Closing and shutting down a connection exclude each other, so that none is shut down whose
        # descriptor belongs to something else by then.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._waiting: set[socket.socket] = set()  # those that wait for their client
        # Those that send, each with the moment when their client has received something.
        self._sending: dict[socket.socket, float] = {}
        self._thread = threading.Thread(target=self._accept_all, name="accept", daemon=True)

    def start(self) -> None:
        """Starts to accept connections, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends all connections, and closes the socket. It waits for no client."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _shut_down(connection)

    def _accept_all(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except (OSError, MemoryError):
                # The client has gone, or the system is short of something; or this is closed.
                self._closing.wait(_PAUSE)
                continue
            while not self._slots.acquire(timeout=self.limits.grace_seconds):
                self._end_waits()
            with self._lock:
                self._open.add(connection)
                self._waiting.add(connection)
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except (RuntimeError, MemoryError):  # the system has no more threads
                self._end(connection)
                self._closing.wait(_PAUSE)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if not self._closing.is_set():
                server: Any = self  # http.server has another class in mind
                _Request(connection, None, server)
        except Exception:
            # The client has gone; or a request is odd in a way that nobody has thought of. Neither
            # may end this program, or be printed by it whenever a client likes.
            pass
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
            self._waiting.discard(connection)
            self._sending.pop(connection, None)
            connection.close()
        self._slots.release()

    def _end_waits(self) -> None:
        """Ends the connections that wait for their client. As none was accepted meanwhile, all of
        them have done so for long enough."""
        latest = time.monotonic() - self.limits.grace_seconds
        with self._lock:
            stalled = [each for each, moment in self._sending.items() if moment < latest]
            for connection in [*self._waiting, *stalled]:
                _shut_down(connection)

    def has_asked(self, connection: socket.socket) -> None:
        """A request is complete: its connection waits for this server, and not for its client."""
        with self._lock:
            self._waiting.discard(connection)

    def is_sending(self, connection: socket.socket) -> None:
        """An answer begins, or its client has received something of it."""
        with self._lock:
            self._waiting.discard(connection)
            self._sending[connection] = time.monotonic()

    def has_sent(self, connection: socket.socket) -> None:
        """An answer is complete: its connection waits for its client to close it."""
        with self._lock:
            self._sending.pop(connection, None)
            self._waiting.add(connection)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _is_of_this_machine(host: Optional[str]) -> bool:
    """Whether a header Host names an address or localhost, and no name that others can choose."""
    if host is None:  # of HTTP/1.0; browsers always send one
        return True
    name = host.strip().lower()
    family = socket.AF_INET
    if name.startswith("["):
        name, family = name[1:].partition("]")[0], socket.AF_INET6
    else:
        name = name.partition(":")[0].rstrip(".")
    if name == "localhost":
        return True
    try:
        return bool(socket.inet_pton(family, name))
    except (OSError, ValueError):
        return False


class _TooLarge(http.client.HTTPException):
    """A request is too large. http.server answers this exception."""


class _LimitedSocket(io.RawIOBase):
    """What a client sends, up to a number of bytes, and until a moment.

    Attributes:
        left: the bytes that may still come.
        end: the moment, of time.monotonic().
    """

    def __init__(self, connection: socket.socket, left: int, seconds: float) -> None:
        super().__init__()
        self._connection, self.left = connection, left
        self.end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.left <= 0:
            raise _TooLarge
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise socket.timeout
        self._connection.settimeout(seconds)
        number = self._connection.recv_into(buffer)
        self.left -= number
        return number


class _Request(http.server.BaseHTTPRequestHandler):
    """One connection: its request, and the answer."""

    server: MetricsServer  # type: ignore[assignment]
    default_request_version = "HTTP/1.0"  # 0.9 has no status
    request_version = default_request_version
    command = ""

    def setup(self) -> None:
        self.connection = self.request
        limits = self.server.limits
        self._raw = _LimitedSocket(self.connection, limits.head_size, limits.head_seconds)
        self.rfile = io.BufferedReader(self._raw)
        self.wfile = self._head = io.BytesIO()

    def handle(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                return
        except _TooLarge:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except socket.timeout:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.server.has_asked(self.connection)
            self._answer()

    def _answer(self) -> None:
        if self.command not in _METHODS:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
            return
        path = self.path.partition("?")[0]
        if path.startswith("http://"):  # the absolute form, which clients send to proxies
            path = "/" + path[len("http://") :].partition("/")[2]
        if not (self.server.any_host or _is_of_this_machine(self.headers.get("Host"))):
            self._send(Answer(_OTHER_HOST, PLAIN_TEXT, HTTPStatus.FORBIDDEN))
            return
        accept = ",".join(self.headers.get_all("Accept", ()))
        try:
            answer = self.server.answer(path, accept or None)
        except MemcgError as error:
            body = f"{error}\n".encode("utf-8", "backslashreplace")
            answer = Answer(body, PLAIN_TEXT, HTTPStatus.SERVICE_UNAVAILABLE)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send(answer)

    def send_error(
        self, code: int, message: Optional[str] = None, explain: Optional[str] = None
    ) -> None:
        """Answers a request that cannot be fulfilled; http.server calls this, too."""
        status = HTTPStatus(code)
        body = f"{status.value} {status.phrase}\n".encode()
        self._send(Answer(body, PLAIN_TEXT, status))

    def _send(self, answer: Answer) -> None:
        self.request_version = self.default_request_version
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(_METHODS))
        self.end_headers()
        head = self._head.getvalue()
        end = time.monotonic() + self.server.limits.body_seconds
        self._send_all(head, end)
        if self.command != "HEAD":
            self._send_all(answer.body, end)
        self._close_gently()

    def _send_all(self, data: bytes, end: float) -> None:
        """Sends data in pieces, so that it is known whether the client receives them.

        Args:
            data: the bytes.
            end: the moment, of time.monotonic(), until which the client must have them.
        """
        self.server.is_sending(self.connection)
        at = 0
        with memoryview(data) as view:
            while at < len(data):
                self.connection.settimeout(max(end - time.monotonic(), 0.001))
                at += self.connection.send(view[at : at + _PIECE])
                self.server.is_sending(self.connection)

    def _close_gently(self) -> None:
        """Waits until the client has closed its side. If anything of the request were still unread
        when this side is closed, the kernel would drop what the client has not received yet."""
        self.server.has_sent(self.connection)
        self.connection.shutdown(socket.SHUT_WR)
        self._raw.left = _LEFT_OVER
        self._raw.end = time.monotonic() + self.server.limits.close_seconds
        buffer = bytearray(1 << 16)
        with contextlib.suppress(_TooLarge):
            while self._raw.readinto(buffer):
                pass

    def version_string(self) -> str:
        return f"pymemcgbpf/{VERSION}"

    def log_message(self, *_: object) -> None:
        """Logs nothing: whoever can connect could fill the log."""
