# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The HTTP server, and clients that mean it no good."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Callable, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymemcgbpf import MemcgError
from pymemcgbpf._cli import listen
from pymemcgbpf._cli.metrics_server import Answer, Limits, MetricsServer

from ...open_files import open_files

QUICK = Limits(
    connections=8, head_size=4096, head_seconds=0.5, body_seconds=1, close_seconds=0.3,
    grace_seconds=0.05,
)  # fmt: skip
PAGE = b"page\n" * 20
LARGE = b"x" * (32 << 20)  # more than the buffers of sockets hold


class Served:
    """A server of a few pages, and what clients see of it."""

    def __init__(self, limits: Limits) -> None:
        self.accepts: list[Optional[str]] = []
        listener = listen.listening_socket(listen.Address("127.0.0.1", 0), allow_remote=False)
        self.port = listen.address_of(listener).port
        self.server = MetricsServer(listener, self.answer, limits)
        self.server.start()

    def answer(self, path: str, accept: Optional[str]) -> Optional[Answer]:
        self.accepts.append(accept)
        if path == "/failing":
            raise MemcgError("no\udcffthing")
        if path == "/slow":
            time.sleep(6 * QUICK.grace_seconds)
            return Answer(b"200 OK\n")
        if path == "/broken":
            raise ZeroDivisionError
        pages = {"/page": Answer(PAGE, "text/x-page"), "/large": Answer(LARGE)}
        return pages.get(path)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, data: bytes, *, end: bool = False) -> bytes:
        """What comes back until the server closes the connection."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # it may have closed it already
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            return rest_of(connection)

    def check(self) -> None:
        """The server answers a valid request."""
        answer = self.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n") and answer.endswith(b"\r\n\r\n" + PAGE)


def rest_of(connection: socket.socket) -> bytes:
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            found += part
    return bytes(found)


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.0 "), answer[:100]
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"Allow" not in head and b"text/plain" in head:
        assert body in (b"", b"%b\n" % head.partition(b"\r\n")[0].partition(b" ")[2])
    return int(answer[9:12])


@contextlib.contextmanager
def serving(limits: Limits = QUICK) -> Iterator[Served]:
    threads = threading.active_count()
    served = Served(limits)
    try:
        yield served
    finally:
        served.server.close()
        wait_for(lambda: threading.active_count() <= threads)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


@pytest.fixture
def served(capfd: pytest.CaptureFixture[str]) -> Iterator[Served]:
    """A server with little patience, which writes nothing."""
    with serving() as made:
        yield made
    assert capfd.readouterr() == ("", "")


# --- ordinary requests


def test_a_page_and_its_headers(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for method in ("GET", "HEAD", "GET"):  # each in a connection of its own
        connection.request(method, "/page?query=1")
        answer = connection.getresponse()
        assert (answer.status, answer.reason) == (200, "OK")
        assert answer.headers["Content-Type"] == "text/x-page"
        assert answer.headers["Content-Length"] == str(len(PAGE))
        assert answer.headers["Server"].startswith("pymemcgbpf/")
        assert answer.headers["Connection"] == "close"
        assert answer.read() == (b"" if method == "HEAD" else PAGE)
    connection.close()


def test_all_headers_accept_are_one(served: Served) -> None:
    served.send(b"GET /page HTTP/1.1\r\naccept: a\r\nAccept: b;q=0.1,\r\n  c\r\n\r\n")
    served.send(b"GET /page HTTP/1.1\r\n\r\n")
    first, second = served.accepts
    assert first is not None and first.split(",")[0] == "a" and "b;q=0.1" in first
    assert second is None


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /page HTTP/1.1", 200),
        ("GET /page HTTP/1.0", 200),
        ("GET /page", 200),
        ("GET http://host:1/page HTTP/1.1", 200),
        ("GET http://host HTTP/1.1", 404),
        ("HEAD /none HTTP/1.1", 404),
        ("GET /none HTTP/1.1", 404),
        ("GET /page/ HTTP/1.1", 404),
        ("GET /../../etc/passwd HTTP/1.1", 404),
        ("GET * HTTP/1.1", 404),
        ("GET page HTTP/1.1", 404),
        ("POST /page HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 405),
        ("CONNECT host:80 HTTP/1.1", 405),
        ("TRACE /page HTTP/1.1", 405),
        ("__init__ /page HTTP/1.1", 405),
        ("get /page HTTP/1.1", 405),
        ("GET /page HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET /page HTTP/x", 400),
        ("GET /page FTP/1.0", 400),
        ("GET /pa ge HTTP/1.1", 400),
        ("GET", 400),
        ("\x16\x03\x01\x02", 400),  # the beginning of TLS
    ],
)
def test_the_status_of_a_request(request_line: str, status: int, served: Served) -> None:
    answer = served.send(f"{request_line}\r\nHost: localhost\r\n\r\n".encode("latin-1"), end=True)
    assert status_of(answer) == status
    if status == 405:
        assert b"\r\nAllow: GET, HEAD\r\n" in answer
    if request_line.startswith("HEAD"):
        assert answer.endswith(b"\r\n\r\n")
    served.check()


def test_what_fails_has_the_status_503_and_the_reason(served: Served) -> None:
    answer = served.send(b"GET /failing HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 503 ") and answer.endswith(b"no\\udcffthing\n")


def test_an_unexpected_exception_ends_one_connection(served: Served) -> None:
    assert served.send(b"GET /broken HTTP/1.1\r\n\r\n") == b""
    served.check()


def test_a_client_that_sends_more_gets_its_answer(served: Served) -> None:
    body = b"x" * 300_000
    head = b"POST /page HTTP/1.1\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
    assert status_of(served.send(head + body)) == 405
    pipelined = b"GET /page HTTP/1.1\r\n\r\n" * 200
    assert served.send(pipelined).count(b"HTTP/1.0 200 OK") == 1


def test_a_large_page(served: Served) -> None:
    assert served.send(b"GET /large HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n" + LARGE)


# --- hostile clients


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /page HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /page HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /page HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"GET /page HTTP/1.1\r\n" + b" folded\r\n" * 2_000 + b"\r\n",
        b"a" * 1_000_000,
    ],
)
def test_a_large_request_is_refused(data: bytes, served: Served) -> None:
    answer = served.send(data)
    assert answer == b"" or status_of(answer) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    served.check()


def test_a_slow_request_ends_in_time_however_often_it_sends(served: Served) -> None:
    began = time.monotonic()
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"G")
                time.sleep(0.01)
                if time.monotonic() - began > 5:
                    break
        answer = rest_of(connection)
    assert time.monotonic() - began < 5
    assert answer == b"" or status_of(answer) == HTTPStatus.REQUEST_TIMEOUT
    served.check()


def test_a_request_that_never_ends_is_told_so(served: Served) -> None:
    assert status_of(served.send(b"GET /page HTTP/1.1\r\nX: y")) == HTTPStatus.REQUEST_TIMEOUT


def test_a_client_that_reads_nothing_is_left_in_time(served: Served) -> None:
    before = open_files()
    with served.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        time.sleep(2)
        wait_for(lambda: len(open_files()) <= len(before) + 1)  # this side of it
        assert len(rest_of(connection)) < len(LARGE)
    served.check()


def test_clients_whose_page_takes_long_to_make_get_it(served: Served) -> None:
    answers: list[bytes] = []

    def ask() -> None:
        answers.append(served.send(b"GET /slow HTTP/1.0\r\n\r\n"))

    threads = [threading.Thread(target=ask) for _ in range(QUICK.connections + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status_of(answer) for answer in answers] == [200] * len(threads)


def test_clients_that_receive_nothing_keep_nobody_out() -> None:
    limits = QUICK._replace(body_seconds=60)
    with serving(limits) as served, contextlib.ExitStack() as stack:
        for _ in range(2 * limits.connections):
            connection = stack.enter_context(served.connect())
            connection.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        began = time.monotonic()
        served.check()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.:80", "127.0.0.1:1", "[::1]:1", "10.0.0.1"]
)
def test_requests_to_this_machine_are_answered(host: str, served: Served) -> None:
    assert status_of(served.send(f"GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "", "1.2.3", "[::1"])
def test_a_name_that_others_can_choose_is_refused(host: str, served: Served) -> None:
    request = f"GET /page HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    answer = served.send(request)
    expected = 200 if host == "[::1" else 403  # an address, without its bracket
    assert answer.startswith(b"HTTP/1.0 %d " % expected)
    if expected == 403:
        assert b"the header Host names neither an address nor localhost" in answer
    served.server.any_host = True
    assert status_of(served.send(request)) == 200


def test_clients_that_come_and_go_leave_nothing(served: Served) -> None:
    served.check()
    before, threads = len(open_files()), threading.active_count()
    for data in (b"", b"G", b"GET /page HTTP/1.1\r\n", b"GET /large HTTP/1.1\r\n\r\n") * 20:
        with served.connect() as connection:
            connection.sendall(data)
            if len(data) % 2:  # reset instead of close
                linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    served.check()
    wait_for(lambda: len(open_files()) <= before and threading.active_count() <= threads)


def test_two_hundred_clients_that_say_nothing_keep_nobody_out(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(served.connect()) for _ in range(200)]
        began = time.monotonic()
        served.check()
        assert time.monotonic() - began < 10
        assert threading.active_count() <= QUICK.connections + 3
        assert len(silent) == 200
    served.check()


def test_two_hundred_requests_at_once_are_all_answered(served: Served) -> None:
    answers: list[bytes] = []

    def ask() -> None:
        answers.append(served.send(b"GET /page HTTP/1.1\r\n\r\n"))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 200 and all(answer.endswith(PAGE) for answer in answers)


def test_closing_waits_for_no_client(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        with serving(Limits()) as served:
            for data in (b"", b"GET /pa", b"GET /large HTTP/1.1\r\n\r\n") * 3:
                connection = stack.enter_context(served.connect())
                connection.sendall(data)
            wait_for(lambda: len(served.accepts) == 3)
            began = time.monotonic()
        assert time.monotonic() - began < 1
        with pytest.raises(OSError):
            served.connect()
    assert capfd.readouterr() == ("", "")


def test_no_thread_and_no_descriptor_are_passing_shortages(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        assert served.send(b"GET /page HTTP/1.1\r\n\r\n") == b""
    served.check()


# --- anything


@pytest.fixture(scope="module")
def module_served() -> Iterator[Served]:
    """One server for all that Hypothesis thinks of."""
    with serving(QUICK._replace(head_seconds=0.2, close_seconds=0.1)) as made:
        yield made


METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "get", "", "\x00", "A" * 70, "GET\t", "Ä"])
TARGETS = st.one_of(
    st.sampled_from(["/page", "/", "*", "http://[", "//page", "/%00", "/\udcff", "?", "/large"]),
    st.text(max_size=30),
)
VERSIONS = st.sampled_from(
    [
        *("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/", "HTTP/9" + "9" * 5000, "HTTP/1.-1"),
        *("", "X", "HTTP/1.١"),
    ]
)
ODD_HEADERS = [
    *("Connection: keep-alive", "Expect: 100-continue", "Transfer-Encoding: chunked"),
    *("Content-Length: -1", "Accept: \x00", " folded", ":", "no colon", "A" * 500),
]
HEADERS = st.lists(st.one_of(st.sampled_from(ODD_HEADERS), st.text(max_size=30)), max_size=5)
ENDS = st.sampled_from(["\r\n", "\n", "\r", "\r\n\r\n", "\x00", ""])


@settings(max_examples=150)
@given(st.data())
def test_no_request_harms_the_server(module_served: Served, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        end = data.draw(ENDS)
        line = " ".join([data.draw(METHODS), data.draw(TARGETS), data.draw(VERSIONS)])
        text = end.join([line, *data.draw(HEADERS), "", ""])
        sent = text.encode("utf-8", "surrogatepass")
    else:
        sent = data.draw(st.binary(max_size=200))
    answer = module_served.send(sent, end=data.draw(st.sampled_from([True, True, True, False])))
    assert answer == b"" or answer.startswith(b"HTTP/1.0 ")
    assert b"Traceback" not in answer
    module_served.check()


def test_random_bytes_of_all_lengths_harm_nothing(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(16)
    for size in (1, 10, 100, 1000, 10_000, 100_000):
        for _ in range(5):
            served.send(chance.randbytes(size), end=True)
    served.check()
